"""`minireactor proxy` in front of three hosts that run HAProxy."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from namespaces import (
    FRONT,
    HOSTS,
    Conversations,
    Load,
    Program,
    machines,
    wait_for_port,
    wait_until,
)
from serve_support import Command

from bench import network

CLIENTS = range(1, 9)  # the last parts of their addresses
LATER_CLIENTS = range(101, 109)
CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen echo
    bind {host}:1234 accept-proxy
    server echo 127.0.0.1:1235
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.newest,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is missing"),
]


class Rig:
    """The proxy, and on each host HAProxy in front of `minireactor serve echo`."""

    def __init__(self, machines, folder):
        self.machines = machines
        self.programs = {}
        self._folder = folder
        self._commands = []

    def start(self, *options):
        for host in HOSTS:
            self._start(self.machines.hosts[host], "serve", "echo", "--port", "1235")
            path = self._folder / f"{host}.cfg"
            path.write_text(CONFIGURATION.format(host=host), encoding="utf-8")
            command = self._folder / f"{host}.log", "haproxy", "-db", "-f", str(path)
            self.programs[host] = Program(self.machines.hosts[host], *command)
            wait_for_port(self.machines.front, (host, 1234))
        targets = [f"{host}:1234" for host in HOSTS]
        self._start(self.machines.front, "proxy", ":1234", *targets, *options)

    def _start(self, namespace, *command):
        with network.inside(namespace):
            self._commands.append(Command(*command, cwd=self._folder))
        assert "listening on" in self._commands[-1].line()

    def connections(self, host):
        """Return how many clients HAProxy has on a host, with those that probe it."""
        return self.machines.connections(host, 1234)

    def close(self):
        for each in (*self._commands, *self.programs.values()):
            each.close()


@pytest.fixture
def rig(tmp_path):
    with machines() as made:
        rig = Rig(made, tmp_path)
        try:
            # Silent connections to a dead host end after about 4 s, and not after two minutes.
            rig.start("--balance=least", "--send-proxy-v2", "--check=1", "--keepalive=2")
            yield rig
        finally:
            rig.close()


@pytest.fixture
def held(rig, closing):
    """Nine connections through the proxy, of which each host has three."""
    held = closing(Conversations(rig.machines.front, (FRONT, 1234), 9, source=200))
    wait_until(lambda: set(map(rig.connections, HOSTS)) == {3}, lambda: "a probe does not end")
    return held


@pytest.fixture
def start_load(rig, closing):
    """A function that starts clients, and stops them after the test."""
    return lambda clients=CLIENTS: closing(Load(rig.machines.front, (FRONT, 1234), clients))


def test_a_frozen_haproxy_delays_its_own_clients_only(rig, held, start_load):
    load = start_load()
    load.wait_for(50)

    os.kill(rig.programs[HOSTS[0]].process.pid, signal.SIGSTOP)
    held.ask()
    held.wait_for(answered=6)
    load.wait_for(50)
    os.kill(rig.programs[HOSTS[0]].process.pid, signal.SIGCONT)

    held.wait_for(answered=9)
    load.wait_for(50)
    assert load.stop()[1:] == ([], [])


def test_a_dead_haproxy_breaks_what_it_had_and_nothing_else(rig, held, start_load):
    load = start_load()
    load.wait_for(50)

    rig.machines.unplug(HOSTS[0])
    had = rig.connections(HOSTS[0])
    held.ask()
    held.wait_for(answered=6, ended=3)
    later = start_load(LATER_CLIENTS)
    later.wait_for(50)

    assert later.stop()[1:] == ([], [])
    _, refused, broken = load.stop()
    assert "timed out" not in " ".join(refused + broken)
    assert len(refused + broken) <= had - 3
