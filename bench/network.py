"""The network between servers and clients: loopback, or a veth pair that exists for one run.

The kernel keeps a network namespace as long as a process runs in it or has it open. The namespaces
of a run have no names: they go with the run's last process, even if the run is killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

MTU = 1500  # bytes; Ethernet's. On loopback it is 65,536.
NEW_NETWORK = 0x40000000  # Linux's CLONE_NEWNET
THIS_NAMESPACE = "/proc/thread-self/ns/net"
# 198.18.0.0/15 is reserved for benchmarks of networks (RFC 2544): no real host has these addresses.
SERVER, CLIENT, SOURCES = "198.18.0.1", "198.18.0.2", "198.18.1"
SERVER_COMMANDS = f"""
link add eth0 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {{clients}}
address add {SERVER}/30 dev eth0
link set lo up
link set eth0 up
route add {SOURCES}.0/24 via {CLIENT}
"""
# The local route lets clients bind to any address of SOURCES without adding 200 addresses.
CLIENT_COMMANDS = f"""
address add {CLIENT}/30 dev eth0
link set lo up
link set eth0 up
route add local {SOURCES}.0/24 dev lo
"""


class Unavailable(Exception):
    """A network that this system or this user cannot make, and why: one line."""


class Network(NamedTuple):
    """Where servers and clients run. A namespace is an open descriptor; None is our own."""

    name: str
    host: str  # the address on which servers listen
    sources: str  # the first three parts of the clients' addresses
    server: int | None = None
    clients: int | None = None
    mtu: int | None = None  # bytes, if we set it


LOOPBACK = Network("loopback", "127.0.0.1", "127.0.0")


@contextmanager
def veth() -> Iterator[Network]:
    """Make two namespaces that a veth pair joins, and release them at the end.

    Raises Unavailable if this system or this user cannot make them."""
    with namespaces(2, "--veth") as (server, clients):
        path = f"/proc/{os.getpid()}/fd/{clients}"
        run_ip(server, SERVER_COMMANDS.format(clients=path), "--veth")
        run_ip(clients, CLIENT_COMMANDS, "--veth")
        yield Network("veth", SERVER, SOURCES, server, clients, MTU)


@contextmanager
def namespaces(count: int, what: str) -> Iterator[list[int]]:
    """Make network namespaces without names, and release them at the end.

    what: what needs them, for the message. Raises Unavailable if this system or this user cannot
    make them."""
    if sys.platform != "linux":
        raise Unavailable(f"{what} needs Linux; leave it out to measure on loopback")
    if shutil.which("ip") is None:
        raise Unavailable(f"{what} needs the program ip; install iproute2")
    made: list[int] = []
    try:
        try:
            for _ in range(count):
                made.append(_new_namespace())
        except OSError as error:
            raise Unavailable(
                f"{what} needs root to make network namespaces ({error.strerror})"
            ) from None
        yield made
    finally:
        for namespace in made:
            os.close(namespace)


@contextmanager
def inside(namespace: int | None) -> Iterator[None]:
    """Move this thread into the namespace: its new sockets and processes belong there."""
    if namespace is None:
        yield
        return
    home = os.open(THIS_NAMESPACE, os.O_RDONLY)
    try:
        _call("setns", namespace, NEW_NETWORK)
        try:
            yield
        finally:
            _call("setns", home, NEW_NETWORK)
    finally:
        os.close(home)


def _new_namespace() -> int:
    home = os.open(THIS_NAMESPACE, os.O_RDONLY)
    try:
        _call("unshare", NEW_NETWORK)
        namespace = os.open(THIS_NAMESPACE, os.O_RDONLY)
        _call("setns", home, NEW_NETWORK)
        return namespace
    finally:
        os.close(home)


def _call(name: str, *arguments: int) -> None:
    """Call setns() or unshare() of the C library. `os` has them only from Python 3.12 on."""
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run_ip(namespace: int, commands: str, what: str) -> None:
    """Run commands of the program ip in a namespace. Raises Unavailable, for `what`."""
    with inside(namespace):
        done = subprocess.run(
            ["ip", "-batch", "-"],
            input=commands.strip() + "\n",
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C must not end it halfway
            check=False,
        )
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise Unavailable(f"{what}: ip cannot make the veth pair: {reason}")
