"""HAProxy in front of three hosts, as `minireactor/operation/haproxy.cfg` sets it up."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import textwrap
from pathlib import Path

import pytest
from namespaces import FRONT, HOSTS, SOURCES, Conversations, Load, Program, machines, wait_until
from serve_support import Command
from support import PATIENCE

import minireactor
from bench import network

CONFIGURATION = Path(minireactor.__file__).parent / "operation" / "haproxy.cfg"
PORT = 7000  # of HAProxy and of the hosts, in the configuration
SOCKET = "/run/haproxy/admin.sock"  # for commands, in the configuration
NAMES = ("one", "two", "three")  # of the hosts, in the configuration
CLIENTS = range(1, 9)  # the last parts of their addresses
LATER_CLIENTS = range(101, 109)
# Seconds that a host serves after SIGTERM, and that transfers may take after that. HAProxy notices
# within 1.2 s, and no conversation takes half a second.
DRAIN_DELAY, GRACE = "3", "20"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.newest,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is missing"),
]


class Front:
    """A running HAProxy with that configuration; its socket for commands is at `path`."""

    def __init__(self, namespace, folder):
        self.path = str(folder / "admin.sock")
        text = CONFIGURATION.read_text(encoding="utf-8")
        assert text.count(SOCKET) == 1
        path, log = folder / "haproxy.cfg", folder / "haproxy.log"
        # Silent connections to a dead host end after 5 s, and not after 90 s.
        text = text.replace(SOCKET, self.path).replace("idle 60s", "idle 2s")
        path.write_text(text.replace("intvl 10s", "intvl 1s"), encoding="utf-8")
        self._program = Program(namespace, log, "haproxy", "-db", "-f", str(path))
        wait_until(lambda: os.path.exists(self.path), log.read_text)

    def ask(self, command):
        """Return the answer to a command on the socket of HAProxy."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.path)
            sock.sendall(command.encode() + b"\n")
            with sock.makefile(encoding="utf-8") as file:
                return file.read()

    def servers(self):
        """Return what HAProxy knows of each host: a dict of its CSV's columns, by name."""
        lines = self.ask("show stat").removeprefix("# ").splitlines()
        rows = csv.DictReader(line for line in lines if line)
        return {row["svname"]: row for row in rows if row["svname"] in NAMES}

    def states(self):
        """Return what HAProxy thinks of each host: "UP", "DOWN" or "MAINT".

        "UP 1/2" and the like mean that it is not sure yet."""
        servers = self.servers()
        return [servers[name]["status"] for name in NAMES]

    def wait_for(self, *states):
        wait_until(lambda: self.states() == list(states), lambda: f"{self.states()}, not {states}")

    def close(self):
        self._program.close()


class Hosts:
    """The three hosts. Each runs `minireactor serve echo` in its namespace."""

    OPTIONS = (
        *("--accept-proxy", "--trust", f"{FRONT}/32"),
        *("--drain-delay", DRAIN_DELAY, "--grace", GRACE),
    )

    def __init__(self, machines, folder):
        self.machines = machines
        self._folder = folder
        self.commands = {}  # by host
        self._all = []

    def start(self, host, *command):
        """Start a host, and wait until it listens."""
        command = command or ("serve", "echo", "--host", host, "--port", str(PORT))
        started = self.run(host, *command, *self.OPTIONS, "--metrics", f"{host}:9100")
        assert f" on {host}:{PORT}" in started.line()
        self.commands[host] = started

    def run(self, host, *command):
        """Run a command of minireactor on a host."""
        with network.inside(self.machines.hosts[host]):
            self._all.append(Command(*command, cwd=self._folder))
        return self._all[-1]

    def send(self, host, number):
        os.kill(self.commands[host].pid, number)

    def close(self):
        for command in self._all:
            command.close()


@pytest.fixture
def rig(tmp_path):
    """Three hosts and HAProxy in front of them: (hosts, front)."""
    with machines() as made:
        hosts = Hosts(made, tmp_path)
        try:
            for host in HOSTS:
                hosts.start(host)
            front = Front(made.front, tmp_path)
            try:
                front.wait_for("UP", "UP", "UP")
                yield hosts, front
            finally:
                front.close()
        finally:
            hosts.close()


@pytest.fixture
def held(rig, closing):
    """Nine connections through HAProxy, of which each host has three."""
    hosts, front = rig
    held = closing(Conversations(hosts.machines.front, (FRONT, PORT), 9, source=200))
    assert [front.servers()[name]["scur"] for name in NAMES] == ["3", "3", "3"]
    return held


@pytest.fixture
def start_load(rig, closing):
    """A function that starts clients, and stops them after the test."""
    hosts, _ = rig
    address = FRONT, PORT
    return lambda clients=CLIENTS: closing(Load(hosts.machines.front, address, clients))


def test_a_rolling_restart_refuses_no_client_and_breaks_none(rig, start_load):
    hosts, front = rig
    load = start_load()
    load.wait_for(50)
    for place, host in enumerate(HOSTS):
        hosts.send(host, signal.SIGTERM)
        front.wait_for(*("DOWN" if place == each else "UP" for each in range(3)))
        assert front.servers()[NAMES[place]]["check_code"] == "503"
        assert hosts.commands[host].end()[0] == 0
        hosts.start(host)
        front.wait_for("UP", "UP", "UP")
        load.wait_for(50)
    assert load.stop()[1:] == ([], [])


def test_a_host_that_is_replaced_is_up_all_the_time(rig, held, start_load):
    hosts, front = rig
    load = start_load()
    load.wait_for(50)
    for host in HOSTS:
        hosts.send(host, signal.SIGUSR2)
        hosts.commands[host].line_with("serves from now on")
        load.wait_for(50)

    assert load.stop()[1:] == ([], [])
    held.ask()
    held.wait_for(answered=9)
    assert front.states() == ["UP", "UP", "UP"]
    assert [front.servers()[name]["chkfail"] for name in NAMES] == ["0", "0", "0"]


def test_a_dead_host_breaks_what_it_had_and_nothing_else(rig, held, start_load):
    hosts, front = rig
    load = start_load()
    load.wait_for(50)

    hosts.machines.unplug(HOSTS[0])
    had = hosts.machines.connections(HOSTS[0], PORT)
    hosts.send(HOSTS[0], signal.SIGKILL)
    held.ask()
    front.wait_for("DOWN", "UP", "UP")
    load.wait_for(50)
    later = start_load(LATER_CLIENTS)
    later.wait_for(50)

    assert later.stop()[1:] == ([], [])
    _, refused, broken = load.stop()
    held.wait_for(answered=6, ended=3)
    assert "timed out" not in " ".join(refused + broken)
    assert len(refused + broken) <= had - 3


def test_a_frozen_host_delays_its_own_clients_only(rig, held, start_load):
    hosts, front = rig
    load = start_load()
    load.wait_for(50)

    hosts.send(HOSTS[0], signal.SIGSTOP)
    held.ask()
    held.wait_for(answered=6)
    front.wait_for("DOWN", "UP", "UP")
    later = start_load(LATER_CLIENTS)
    later.wait_for(50)
    assert later.stop()[1:] == ([], [])
    assert held.counts() == (6, 0)

    hosts.send(HOSTS[0], signal.SIGCONT)
    front.wait_for("UP", "UP", "UP")
    held.wait_for(answered=9)
    load.wait_for(50)
    assert load.stop()[1:] == ([], [])


def test_a_host_in_maintenance_gets_no_new_client_and_keeps_the_others(rig, held, start_load):
    hosts, front = rig
    front.ask("set server hosts/two state maint")
    assert front.states() == ["UP", "MAINT", "UP"]
    before = [int(front.servers()[name]["stot"]) for name in NAMES]

    load = start_load()
    load.wait_for(50)
    assert load.stop()[1:] == ([], [])
    held.ask()
    held.wait_for(answered=9)

    more = [int(front.servers()[name]["stot"]) for name in NAMES]
    assert [a < b for a, b in zip(before, more)] == [True, False, True]
    front.ask("set server hosts/two state ready")
    front.wait_for("UP", "UP", "UP")


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("socat")), reason="needs curl, socat"
)
def test_the_session_of_the_readme_is_true(rig, held):
    hosts, front = rig
    text = (CONFIGURATION.parent / "README.md").read_text(encoding="utf-8")
    command, show, expected = re.search(
        r"^    \$ (echo .*)\n    \$ (curl .*)\n((?:    .+\n)+)", text, re.MULTILINE
    ).groups()

    with network.inside(hosts.machines.front):
        subprocess.run(["sh", "-c", command.replace(SOCKET, front.path)], check=True)
        output = subprocess.check_output(["sh", "-c", show], text=True)

    assert output == textwrap.dedent(expected)


def test_the_address_of_a_client_arrives_also_behind_a_proxy_of_ours(rig):
    hosts, front = rig
    for name in NAMES[1:]:
        front.ask(f"set server hosts/{name} state maint")
    hosts.commands[HOSTS[0]].close()
    behind = hosts.run(HOSTS[0], "serve", "echo", "--trust", "127.0.0.1", "--accept-proxy", "-v")
    assert "listening on 127.0.0.1:1234" in behind.line()
    hosts.start(HOSTS[0], "proxy", f"{HOSTS[0]}:{PORT}", "1234", "--send-proxy-v2")
    front.wait_for("UP", "MAINT", "MAINT")

    for source in (7, 77, 177):
        Conversations(hosts.machines.front, (FRONT, PORT), 1, source).close()
        proxied = hosts.commands[HOSTS[0]].line_with(" up, ")
        made = behind.line_with("connection made from ")
        client = made.rpartition(" ")[2]
        assert client.startswith(f"{SOURCES}.{source}:")
        assert proxied.startswith(f"{client} -> 127.0.0.1:1234: 5 bytes up, 5 down, ")
