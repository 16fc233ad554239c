"""`minireactor proxy` in front of three hosts that run HAProxy."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from namespaces import FRONT, HOSTS, Conversations, Load, Program, machines, wait_for_port
from serve_support import Command

from bench import network

CLIENTS = range(1, 9)  # the last parts of their addresses
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

    def close(self):
        for each in (*self._commands, *self.programs.values()):
            each.close()


@pytest.fixture
def rig(tmp_path):
    with machines() as made:
        rig = Rig(made, tmp_path)
        try:
            rig.start("--balance", "least", "--send-proxy-v2")
            yield rig
        finally:
            rig.close()


def test_a_frozen_haproxy_delays_its_own_clients_only(rig):
    held = Conversations(rig.machines.front, (FRONT, 1234), 9, source=200)
    load = Load(rig.machines.front, (FRONT, 1234), CLIENTS)
    load.wait_for(50)

    os.kill(rig.programs[HOSTS[0]].process.pid, signal.SIGSTOP)
    held.ask()
    held.wait_for(answered=6)
    load.wait_for(50)
    os.kill(rig.programs[HOSTS[0]].process.pid, signal.SIGCONT)

    held.wait_for(answered=9)
    load.wait_for(50)
    assert load.stop()[1:] == ([], [])
    held.close()
