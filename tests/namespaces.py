"""Several machines in one: a network namespace for each host, and one in front of all of them.

    198.18.1.1 to .254    192.0.2.1         192.0.2.11   the first host
    the clients     ----   front   --------  192.0.2.12   the second
                                             192.0.2.13   the third

The clients are in the namespace of the front. The kernel keeps a namespace as long as a process
runs in it or has it open, so that nothing stays when the tests are killed.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import PATIENCE

from bench import network

FRONT = "192.0.2.1"
HOSTS = ("192.0.2.11", "192.0.2.12", "192.0.2.13")
SOURCES = "198.18.1"  # the first three parts of the clients' addresses
# How the machine in front should be set up, but that a dead host is given up after some seconds.
SETTINGS = {"tcp_retries2": "3", "tcp_tw_reuse": "1"}
LISTEN, TIME_WAIT = "0A", "06"  # states in /proc/net/tcp


class Machines:
    """The namespaces: `front`, and one for each address in `hosts`."""

    def __init__(self, front, hosts):
        self.front = front
        self.hosts = hosts

    def unplug(self, host):
        """Take the link of a host down: its packets, and those for it, get lost."""
        network.run_ip(self.hosts[host], "link set eth0 down", "this test")

    def connections(self, host, port):
        """Return how many connections to its port a host has, also those not accepted yet."""
        with network.inside(self.hosts[host]):
            lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        return sum(
            local.endswith(f":{port:04X}") and state not in (LISTEN, TIME_WAIT)
            for local, _, state in (line.split()[1:4] for line in lines)
        )

    def processes(self, namespace):
        """Return the processes that run in a namespace."""
        wanted = os.fstat(namespace).st_ino
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat(f"/proc/{pid}/ns/net").st_ino == wanted:
                    found.append(int(pid))
            except OSError:  # it has ended meanwhile
                pass
        return found

    def kill(self):
        """End all processes in all namespaces."""
        for namespace in (self.front, *self.hosts.values()):
            for pid in self.processes(namespace):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


@contextmanager
def machines():
    """Make the namespaces and their links. Skip the test where that is not possible."""
    try:
        with network.namespaces(1 + len(HOSTS), "this test") as (front, *namespaces):
            made = Machines(front, dict(zip(HOSTS, namespaces)))
            _connect(made)
            with network.inside(front):
                for name, value in SETTINGS.items():
                    Path("/proc/sys/net/ipv4", name).write_text(value)
            try:
                yield made
            finally:
                made.kill()
    except network.Unavailable as error:
        pytest.skip(str(error))


def _connect(made):
    front = ["link set lo up", f"route add local {SOURCES}.0/24 dev lo"]
    for number, (address, namespace) in enumerate(made.hosts.items()):
        path = f"/proc/{os.getpid()}/fd/{namespace}"
        front += [
            f"link add host{number} type veth peer name eth0 netns {path}",
            f"address add {FRONT}/32 peer {address} dev host{number}",
            f"link set host{number} up",
        ]
    network.run_ip(made.front, "\n".join(front), "this test")
    for address, namespace in made.hosts.items():
        commands = [
            "link set lo up",
            f"address add {address}/32 peer {FRONT} dev eth0",
            "link set eth0 up",
            f"route add {SOURCES}.0/24 via {FRONT}",
        ]
        network.run_ip(namespace, "\n".join(commands), "this test")


class Program:
    """Another program than minireactor, in a process of its own. Its messages go to a file."""

    def __init__(self, namespace, log, *command):
        with network.inside(namespace), open(log, "wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

    def close(self):
        self.process.kill()
        self.process.wait()


class Load:
    """Clients that connect again and again to a server of the app `echo`, and check every byte.

    served: how many conversations were complete.
    refused: why conversations ended before their first byte came back.
    broken: why other conversations ended too early, or differed.
    """

    def __init__(self, namespace, address, sources, sizes=(1, 50_000)):
        self.served = 0
        self.refused = []
        self.broken = []
        self._address = address
        self._sizes = sizes
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        # A thread begins in the namespace of the thread that has started it.
        self._threads = [
            threading.Thread(target=self._run, args=(f"{SOURCES}.{each}",), daemon=True)
            for each in sources
        ]
        with network.inside(namespace):
            for thread in self._threads:
                thread.start()

    def wait_for(self, more):
        """Wait until this many more conversations were complete."""
        enough = self.served + more
        wait_until(lambda: self.served >= enough, lambda: f"served {self.served} of {enough}")

    def stop(self):
        """Let each client finish its conversation, and return (served, refused, broken)."""
        self.close()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()
        return self.served, self.refused, self.broken

    def close(self):
        """Let the clients stop, and do not wait for it."""
        self._stopping.set()

    def _run(self, source):
        chance = random.Random(source)
        while not self._stopping.is_set():
            received = 0
            try:
                with socket.socket() as sock:
                    sock.settimeout(2 * PATIENCE)
                    sock.bind((source, 0))
                    sock.connect(self._address)
                    for _ in range(chance.randint(1, 4)):
                        received += _exchange(sock, chance.randbytes(chance.randint(*self._sizes)))
                    sock.shutdown(socket.SHUT_WR)
                    if sock.recv(1):
                        raise AssertionError("a byte too many")
            except (OSError, AssertionError) as error:
                with self._lock:
                    (self.broken if received else self.refused).append(repr(error))
            else:
                with self._lock:
                    self.served += 1


class Conversations:
    """Connections to a server of the app `echo` that stay open, from one address."""

    def __init__(self, namespace, address, count, source):
        self._socks = []
        with network.inside(namespace):
            for _ in range(count):
                sock = socket.socket()
                self._socks.append(sock)
                sock.settimeout(PATIENCE)
                sock.bind((f"{SOURCES}.{source}", 0))
                sock.connect(address)
                _exchange(sock, b"hello")

    def ask(self):
        """Send one line on each connection."""
        self._waiting = dict(enumerate(self._socks))
        self._answered = self._ended = 0
        for number, sock in self._waiting.items():
            sock.sendall(b"%d\n" % number)

    def wait_for(self, answered, ended=0):
        """Wait until so many lines have come back, and so many connections have ended instead."""
        wanted = answered, ended
        wait_until(lambda: self.counts() == wanted, lambda: f"{self.counts()}, not {wanted}")

    def counts(self):
        """Return how many lines have come back, and how many connections have ended instead."""
        for number, sock in list(self._waiting.items()):
            if not select.select([sock], [], [], 0)[0]:
                continue
            del self._waiting[number]
            try:
                line = sock.recv(100)
            except ConnectionResetError:
                line = b""
            assert line in (b"", b"%d\n" % number)
            self._answered += bool(line)
            self._ended += not line
        return self._answered, self._ended

    def close(self):
        for sock in self._socks:
            sock.close()


def _exchange(sock, data):
    """Send bytes, and return how many came back: all of them, or AssertionError."""
    sock.sendall(data)
    received = bytearray()
    while len(received) < len(data):
        more = sock.recv(65536)
        if not more:
            raise AssertionError(f"the end after {len(received)} bytes of {len(data)}")
        received += more
    if received != data:
        raise AssertionError("other bytes came back")
    return len(received)


def wait_until(is_so, what):
    """Wait until `is_so()`. Fails after PATIENCE seconds with the text that `what()` returns."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def wait_for_port(namespace, address):
    """Wait until a connection from the namespace to the address is accepted."""

    def accepts():
        with network.inside(namespace), socket.socket() as sock:
            sock.settimeout(PATIENCE)
            return sock.connect_ex(address) == 0

    wait_until(accepts, lambda: f"nobody listens on {address}")
