"""The notifications to systemd: sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import pytest
from serve_support import ROOT, Command, read_line
from support import PATIENCE

from minireactor.operation.systemd import RETRY_SECONDS, STATUS_SECONDS, Notifier

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets here")

ACTIVATE = shutil.which("systemd-socket-activate")


class Supervisor:
    """A stand-in for systemd: the socket that services notify."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path.replace("@", "\0") if path.startswith("@") else path)
        self.socket.settimeout(PATIENCE)

    def next(self):
        """Return the next notification, a list of lines."""
        return self.socket.recv(65536).decode().split("\n")

    def all(self):
        """Return the notifications that have arrived."""
        self.socket.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.next())
        self.socket.settimeout(PATIENCE)
        return found

    def next_with(self, start):
        """Return the next notification with a line that begins with `start`, and drop others."""
        while True:
            lines = self.next()
            if any(line.startswith(start) for line in lines):
                return lines

    def close(self):
        self.socket.close()


@pytest.fixture
def supervisor(closing, tmp_path):
    return closing(Supervisor(str(tmp_path / "notify")))


@pytest.fixture
def notifier(closing):
    """notifier(supervisor, **variables) returns a Notifier."""
    return lambda supervisor, **variables: closing(
        Notifier({"NOTIFY_SOCKET": supervisor.path, **variables})
    )


def advance(wire, clock, seconds):
    clock.advance(seconds)
    wire.run()


def test_the_variables_are_removed_because_child_processes_are_no_service(supervisor, closing):
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    environ = {**dict.fromkeys(names, "1"), "OTHER": "1"}
    closing(Notifier(environ))
    assert environ == {"OTHER": "1"}


def test_without_systemd_nothing_happens(wire, clock):
    for environ in ({}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": ""}):
        silent = Notifier(environ)
        silent.start(wire.reactor, str)
        silent.ready()
        silent.reloading()
        silent.stopping()
        assert silent.variables() == {}
        silent.replaced(1)
    assert wire.reactor._timers.timeout(0) is None


def test_each_stage_of_the_life_is_one_notification(supervisor, notifier, wire, clock):
    service = notifier(supervisor)
    service.start(wire.reactor, lambda: "3 connections")
    service.ready()
    before = time.monotonic_ns() // 1000
    service.reloading()
    service.stopping()
    service.replaced(77)
    ready, (reloading, since), stopping, replaced = supervisor.all()
    assert ready == ["READY=1", "STATUS=3 connections"]
    assert reloading == "RELOADING=1"
    assert before <= int(since.partition("MONOTONIC_USEC=")[2]) <= time.monotonic_ns() // 1000
    assert stopping == ["STOPPING=1", "STATUS=draining"]
    assert replaced == ["MAINPID=77", "READY=1"]
    service.ready()
    assert supervisor.all() == []  # the process is not the service any more


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_the_socket_may_have_an_abstract_name(notifier, closing):
    abstract = closing(Supervisor(f"@minireactor-{uuid.uuid4()}"))
    notifier(abstract).ready()
    assert abstract.all() == [["READY=1", "STATUS="]]


def test_the_status_is_sent_now_and_then_if_it_has_changed(supervisor, notifier, wire, clock):
    status = ["a"]
    service = notifier(supervisor)
    service.start(wire.reactor, lambda: status[0])
    service.ready()
    assert len(supervisor.all()) == 1
    advance(wire, clock, STATUS_SECONDS)
    assert supervisor.all() == []
    status[0] = "b"
    advance(wire, clock, STATUS_SECONDS - 0.1)
    assert supervisor.all() == []
    advance(wire, clock, 0.1)
    assert supervisor.all() == [["STATUS=b"]]


@pytest.mark.parametrize("pid", ["", str(os.getpid())])
def test_the_watchdog_is_fed_at_half_of_its_time(pid, supervisor, notifier, wire, clock):
    service = notifier(supervisor, WATCHDOG_USEC="3000000", WATCHDOG_PID=pid)
    service.start(wire.reactor, str)
    advance(wire, clock, 1.4)
    assert supervisor.all() == []
    for _ in range(3):
        advance(wire, clock, 1.5)
        assert supervisor.all() == [["WATCHDOG=1"]]


def test_the_watchdog_is_fed_when_a_successor_takes_over(supervisor, notifier):
    notifier(supervisor, WATCHDOG_USEC="3000000").replaced(77)
    assert supervisor.all() == [["MAINPID=77", "READY=1", "WATCHDOG=1"]]


@pytest.mark.parametrize(
    "variables",
    [{"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}]
    + [{"WATCHDOG_USEC": text} for text in ("", "0", "-1", "x", "1.5", "\u0663")],
    ids=str,
)
def test_a_watchdog_of_another_process_or_without_a_time_is_not_fed(
    variables, supervisor, notifier, wire, clock
):
    service = notifier(supervisor, **variables)
    service.start(wire.reactor, str)
    advance(wire, clock, 1.5)
    assert supervisor.all() == []
    assert service.variables() == {"NOTIFY_SOCKET": supervisor.path}


def test_a_successor_gets_the_socket_and_the_watchdog_without_a_process_number(
    supervisor, notifier
):
    service = notifier(supervisor, WATCHDOG_USEC="10", WATCHDOG_PID=str(os.getpid()))
    assert service.variables() == {"NOTIFY_SOCKET": supervisor.path, "WATCHDOG_USEC": "10"}


def test_a_notification_that_finds_no_room_is_sent_later(supervisor, notifier, wire, clock):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"OTHER=1", supervisor.path)
    service = notifier(supervisor)
    service.start(wire.reactor, str)
    service.ready()
    service.reloading()
    assert {"OTHER=1"} == {line for lines in supervisor.all() for line in lines}
    advance(wire, clock, RETRY_SECONDS)
    assert [lines[0] for lines in supervisor.all()] == ["READY=1", "RELOADING=1"]


def test_a_socket_that_nobody_listens_on_does_not_disturb(supervisor, notifier, wire):
    service = notifier(supervisor)
    service.start(wire.reactor, str)
    supervisor.close()
    service.ready()
    os.unlink(supervisor.path)
    service.stopping()


# The command.


@pytest.fixture
def command(tmp_path, closing, monkeypatch):
    """command(*arguments, **variables) starts a Command with these variables."""

    def command(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return closing(Command(*arguments, cwd=tmp_path))

    return command


@pytest.mark.slow
def test_a_server_notifies_of_its_whole_life(supervisor, command, certificates):
    process = command(
        *("serve", "echo", "--port", "0"),
        *("--tls-cert", certificates.cert, "--tls-key", certificates.key),
        NOTIFY_SOCKET=supervisor.path,
        WATCHDOG_USEC="100000",
    )
    process.listening()
    assert supervisor.next() == ["READY=1", "STATUS=0 connections, 0 so far"]
    assert supervisor.next() == ["WATCHDOG=1"]
    os.kill(process.pid, signal.SIGHUP)
    assert supervisor.next_with("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
    supervisor.next_with("READY=1")
    os.kill(process.pid, signal.SIGUSR2)
    supervisor.next_with("RELOADING=1")
    successor = supervisor.next_with("MAINPID=")
    pid = int(successor[0].partition("=")[2])
    try:
        assert successor == [f"MAINPID={pid}", "READY=1", "WATCHDOG=1"]
        assert process.wait() == 0
        supervisor.all()
        assert supervisor.next() == ["WATCHDOG=1"]  # of the successor
    finally:
        os.kill(pid, signal.SIGTERM)
    assert supervisor.next_with("STOPPING=1") == ["STOPPING=1", "STATUS=draining"]


@pytest.mark.slow
def test_a_restart_that_fails_ends_the_notification_of_reloading(supervisor, command, tmp_path):
    (tmp_path / "app.py").write_text("from minireactor.serve.apps import Echo as App")
    process = command("serve", "app:App", "--port", "0", NOTIFY_SOCKET=supervisor.path)
    process.listening()
    (tmp_path / "app.py").write_text("App = 1")
    supervisor.next()
    os.kill(process.pid, signal.SIGUSR2)
    assert supervisor.next()[0] == "RELOADING=1"
    assert supervisor.next()[0] == "READY=1"
    process.error_line()
    assert "no restart" in process.error_line()


@pytest.mark.slow
@pytest.mark.skipif(ACTIVATE is None, reason="no program systemd-socket-activate")
def test_named_sockets_of_systemd_serve_and_survive_a_restart(tmp_path, closing, free_ports):
    web, admin, page = free_ports(3)
    arguments = [f"--listen=127.0.0.1:{number}" for number in (web, admin, page)]
    names = "--fdname=web:admin:page"
    serve = ["-m", "minireactor", "serve", "echo", "--listen", "systemd", "--grace", "30"]
    views = ["--metrics", "systemd:admin", "--dashboard", "systemd:page"]
    with subprocess.Popen(
        [ACTIVATE, *arguments, names, "-E", f"PYTHONPATH={ROOT}", sys.executable, *serve, *views],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as process:
        pids = [process.pid]
        try:
            for number in (web, admin, page):
                assert f"Listening on 127.0.0.1:{number} " in process.stderr.readline()
            # The first client starts the service.
            with socket.create_connection(("127.0.0.1", web), timeout=PATIENCE) as first:
                first.sendall(b"one\n")
                assert read_line(first) == b"one\n"
                os.kill(process.pid, signal.SIGUSR2)
                for line in process.stdout:
                    found = re.search(r"process (\d+) serves from now on", line)
                    if found:
                        break
                pids.append(int(found[1]))
                first.sendall(b"two\n")
                assert read_line(first) == b"two\n"
                with socket.create_connection(("127.0.0.1", web), timeout=PATIENCE) as second:
                    second.sendall(b"three\n")
                    assert read_line(second) == b"three\n"
                    address = f"http://127.0.0.1:{admin}/metrics"
                    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                        assert b"connections_total 1\n" in answer.read()
                    with urllib.request.urlopen(f"http://127.0.0.1:{page}/") as answer:
                        assert answer.status == 200
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGTERM)
            process.stdout.read()


@pytest.fixture
def free_ports():
    """free_ports(count) returns numbers that are free on loopback."""

    def free_ports(count):
        with contextlib.ExitStack() as stack:
            socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
            return [stack.enter_context(sock).getsockname()[1] for sock in socks]

    return free_ports
