"""SIGUSR2: a successor takes the listening sockets over, and no client notices."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import select
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from serve_support import Command
from support import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2"),
]

REPLACED = re.compile(r"minireactor: process (\d+) serves from now on; this one ends with")


class Service:
    """A command whose process may be replaced: `pid` is the number of the newest one."""

    def __init__(self, *arguments, cwd):
        self.first = Command(*arguments, cwd=cwd)
        self.pids = [self.first.pid]
        self.lines = []

    @property
    def pid(self):
        return self.pids[-1]

    def line_with(self, text):
        """Return the next line with `text`. `lines` gets the lines before it."""
        while True:
            line = self.first.line()
            self.lines.append(line)
            if text in line:
                return line

    def port(self, what="listening on"):
        return int(re.search(r":(\d+)(?:,|/|$| and)", self.line_with(what))[1])

    def signal(self, number):
        os.kill(self.pid, number)

    def restart(self):
        self.signal(signal.SIGUSR2)
        self.pids.append(int(REPLACED.match(self.line_with(" serves from now on"))[1]))

    def has_printed_again(self, line):
        """Return whether the successor has printed the same line as the process before it."""
        return line in self.lines[self.lines.index(line) + 1 :] or line == self.line_with(
            line.partition(" on ")[0]
        )

    def error_line(self):
        return self.first.error_line()

    def wait_until_ended(self, pid):
        if pid == self.first.pid:
            self.first.wait()
            return
        deadline = time.monotonic() + PATIENCE
        while is_alive(pid):
            assert time.monotonic() < deadline, f"process {pid} still runs"
            time.sleep(0.01)

    def close(self):
        for pid in self.pids[1:]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.first.close()


def is_alive(pid):
    """Return whether a process runs. A process that has ended may wait to be reaped for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def service(tmp_path, closing):
    """service(*arguments) starts `serve` in an empty folder; returns a Service."""
    return lambda *arguments: closing(Service("serve", *arguments, cwd=tmp_path))


@pytest.fixture
def echo(service):
    """A service that echoes, and its port."""
    found = service("echo", "--port", "0", "--grace", "30")
    return found, found.port()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def talk(sock, data):
    """Send `data`, and return what comes back for it."""
    sock.sendall(data)
    received = b""
    while len(received) < len(data):
        more = sock.recv(65536)
        if not more:
            break
        received += more
    return received


class Load:
    """Clients in threads, which check each byte. `faults` should stay empty."""

    def __init__(self, open_socket, restarts):
        self._open = open_socket
        self._restarts = restarts  # a list, which grows with each restart
        self._ended = False
        self.faults = []
        self.conversations = 0
        self.spanning = 0  # conversations that a restart did not end
        self._threads = [
            threading.Thread(target=self._run, args=(number, number % 3 == 0))
            for number in range(6)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number, is_long):
        chance = random.Random(number)
        while not self._ended:
            began = len(self._restarts)
            try:
                with self._open() as sock:
                    while True:
                        data = chance.randbytes(chance.randrange(1, 50_000))
                        assert talk(sock, data) == data
                        spans = len(self._restarts) >= began + 2
                        if not is_long or spans or self._ended:
                            break
                    sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(1) == b""
            except (OSError, AssertionError) as error:
                self.faults.append(repr(error)[:200])
            self.conversations += 1
            self.spanning += is_long and spans

    def end(self):
        self._ended = True
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("tcp", 1), ("unix", 1), ("proxy", 1), ("tcp", 2), ("proxy", 2)],
)
def test_ten_restarts_under_load_refuse_and_break_no_connection(
    kind, workers, service, tmp_path, closing
):
    path = str(tmp_path / "x.sock")
    options = ("--listen", f"unix:{path}", "--grace", "30", "--high", "4K")
    options += ("--workers", str(workers))
    if kind == "proxy":
        target = service("echo", "--port", "0").port()
        busy = closing(Service("proxy", "0", str(target), *options, cwd=tmp_path))
    else:
        busy = service("echo", "--listen", "0", *options)
    port = busy.port()

    def open_socket():
        if kind != "unix":
            return connect(port)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(path)
        return sock

    load = Load(open_socket, busy.pids)
    try:
        for _ in range(10):
            before = load.conversations
            busy.restart()
            deadline = time.monotonic() + PATIENCE
            while load.conversations < before + 10 and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        load.end()
    assert load.faults == []
    assert len(busy.pids) == 11
    assert load.conversations > 100
    assert load.spanning >= 4
    for pid in busy.pids[:-1]:
        busy.wait_until_ended(pid)
    assert is_alive(busy.pid)
    assert os.path.exists(path)
    busy.signal(signal.SIGTERM)
    busy.wait_until_ended(busy.pid)
    assert not os.path.exists(path)


def test_an_open_connection_goes_on_after_a_restart_and_new_ones_reach_the_successor(echo):
    service, port = echo
    with connect(port) as before:
        assert talk(before, b"one") == b"one"
        service.restart()
        assert talk(before, b"two") == b"two"
        with connect(port) as after:
            assert talk(after, b"three") == b"three"
            os.kill(service.first.pid, signal.SIGKILL)
            assert talk(after, b"four") == b"four"


def test_connections_that_do_not_end_are_ended_in_order_after_the_grace(service):
    short = service("echo", "--port", "0", "--grace", "0.05")
    with connect(short.port()) as sock:
        assert talk(sock, b"x") == b"x"
        short.restart()
        assert sock.recv(1) == b""
    short.wait_until_ended(short.first.pid)
    assert "transfers aborted" not in short.line_with("connections 1")


def test_a_signal_ends_a_replaced_process_like_any_other(echo):
    service, port = echo
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"
        service.restart()
        service.first.terminate()
        assert sock.recv(1) == b""
    service.wait_until_ended(service.first.pid)


APP = """
import os, time
from minireactor.serve.apps import Echo as App
if os.path.exists("broken"):
    raise ValueError("no database")
if os.path.exists("slow"):
    with open("starting", "w") as file:
        print(os.getpid(), file=file)
while os.path.exists("slow"):
    time.sleep(0.01)
"""


@pytest.fixture
def app(service, tmp_path):
    """A service of an app that starts badly while a file "broken" or "slow" exists.

    While "slow" exists, the app writes its process number into the file "starting"."""
    (tmp_path / "app.py").write_text(APP)
    found = service("app:App", "--port", "0")
    return found, found.port()


def starting(folder):
    """Return the process number of the successor that starts slowly."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            text = (folder / "starting").read_text()
            if text.endswith("\n"):
                return int(text)
        time.sleep(0.01)
    raise AssertionError("no successor is starting")


def test_a_successor_that_cannot_start_leaves_the_old_process_in_service(app, tmp_path):
    service, port = app
    (tmp_path / "broken").touch()
    service.signal(signal.SIGUSR2)
    reason = "minireactor serve: importing 'app' raised ValueError: no database"
    assert service.error_line() == reason
    assert service.error_line() == f"minireactor: no restart, this process goes on: {reason}"
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"
    (tmp_path / "broken").unlink()
    service.restart()


def test_a_restart_without_a_free_descriptor_fails_with_the_fix(service):
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system cannot limit another process")
    found = service("echo", "--port", "0")
    port = found.port()
    used = len(os.listdir(f"/proc/{found.pid}/fd"))
    limits = resource.prlimit(found.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(found.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    found.signal(signal.SIGUSR2)
    reason = "Too many open files; raise the limit (ulimit -n)"
    assert found.first.error_line() == f"minireactor: no restart, this process goes on: {reason}"
    resource.prlimit(found.pid, resource.RLIMIT_NOFILE, limits)
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"


def test_a_second_restart_is_refused_while_one_is_under_way(app, tmp_path):
    service, _ = app
    (tmp_path / "slow").touch()
    service.signal(signal.SIGUSR2)
    starting(tmp_path)
    service.signal(signal.SIGUSR2)
    assert service.error_line() == "minireactor: no restart: a successor is starting already"
    (tmp_path / "slow").unlink()
    service.pids.append(int(REPLACED.match(service.line_with(" serves from now on"))[1]))


def test_signals_that_come_while_a_process_starts_are_handled_once_it_serves(service, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "slow").touch()
    found = service("app:App", "--port", "0")
    starting(tmp_path)
    found.signal(signal.SIGUSR1)  # the default of both would end the process
    found.signal(signal.SIGUSR2)
    (tmp_path / "slow").unlink()
    port = found.port()
    found.pids.append(int(REPLACED.match(found.line_with(" serves from now on"))[1]))
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"


def test_the_end_also_ends_a_successor_that_is_starting(app, tmp_path):
    service, port = app
    (tmp_path / "slow").touch()
    service.signal(signal.SIGUSR2)
    successor = starting(tmp_path)
    service.signal(signal.SIGTERM)
    assert service.first.end()[0] == 0
    assert not is_alive(successor)


def test_a_process_that_is_about_to_end_starts_no_successor(echo):
    service, port = echo
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"
        service.restart()
        os.kill(service.first.pid, signal.SIGUSR2)
        assert service.error_line() == "minireactor: no restart: this process is about to end"


def test_the_ports_of_the_views_go_along_and_the_page_keeps_its_address(service):
    watched = service("echo", "--port", "0", "--metrics", "0", "--dashboard", "0", "--grace", "30")
    port = watched.port()
    page = watched.line_with("dashboard on")
    number = watched.port("metrics on")
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"
        watched.restart()
        assert watched.has_printed_again(page)
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/metrics", timeout=10) as answer:
            assert b"minireactor_connections_open 0\n" in answer.read()  # the successor answers
        with urllib.request.urlopen(page.split()[-1], timeout=10) as answer:
            assert answer.status == 200


def test_the_recording_of_the_old_process_gets_another_name(service, tmp_path):
    recorded = service("echo", "--port", "0", "--record", "r.jsonl", "--grace", "30")
    port = recorded.port()
    with connect(port) as sock:
        assert talk(sock, b"x") == b"x"
        recorded.restart()
        assert talk(sock, b"y" * 1000) == b"y" * 1000
        recorded.signal(signal.SIGTERM)
        recorded.wait_until_ended(recorded.pid)
    recorded.wait_until_ended(recorded.first.pid)
    old, new = ((tmp_path / name).read_text() for name in ("r.jsonl.old", "r.jsonl"))
    assert '"in":1001' in old.replace(" ", "")
    assert "127.0.0.1" not in new.splitlines()[-1]
    assert all(text.startswith('{"type":"recording"') for text in (old, new))


def test_two_places_with_any_free_number_keep_their_numbers(service):
    double = service("echo", "--listen", "0", "--listen", "0")
    line = double.line_with("listening on")
    double.restart()
    assert double.has_printed_again(line)


@pytest.mark.parametrize("way", ["engine", "watch"])
def test_a_restart_that_cannot_work_is_refused_with_the_reason(way, tmp_path, closing):
    arguments = ["serve", "echo", "--port", "0"]
    if way == "engine":
        process = closing(Command(*arguments, "--engine", "tiny", cwd=tmp_path))
        process.listening()
        os.kill(process.pid, signal.SIGUSR2)
        reason = "--engine tiny cannot hand its sockets over; leave it out"
        assert process.error_line() == f"minireactor: no restart: {reason}"
        return
    near, far = pty.openpty()
    try:
        process = closing(Command(*arguments, "--watch", cwd=tmp_path, stdout=far))
        os.close(far)
        shown = b""
        while b"listening" not in shown:
            assert select.select([near], [], [], PATIENCE)[0], shown
            shown += os.read(near, 65536)
        os.kill(process.pid, signal.SIGUSR2)
        reason = "two processes cannot share a terminal for --watch; leave it out"
        assert process.error_line() == f"minireactor: no restart: {reason}"
    finally:
        os.close(near)


def test_the_successor_speaks_TLS_with_the_files_of_that_time(service, certificates, tmp_path):
    own = tmp_path / "own.pem"

    def use(*files):
        own.write_text("".join(Path(file).read_text() for file in files))

    use(certificates.cert, certificates.key)
    secure = service("echo", "--port", "0", "--tls-cert", str(own), "--grace", "30")
    port = secure.port()
    context = certificates.client()
    context.load_verify_locations(certificates.other_cert)

    def secure_connect():
        return context.wrap_socket(connect(port), server_hostname="localhost")

    with secure_connect() as before:
        assert talk(before, b"one") == b"one"
        own.write_text("broken")
        secure.signal(signal.SIGUSR2)
        assert "has no certificate" in secure.error_line()
        assert "no restart, this process goes on" in secure.error_line()
        use(certificates.other_cert, certificates.other_key)
        secure.restart()
        assert talk(before, b"two") == b"two"
        with secure_connect() as after:
            assert talk(after, b"three") == b"three"
            assert before.getpeercert(True) != after.getpeercert(True)
