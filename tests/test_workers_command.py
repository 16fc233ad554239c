"""The option --workers, with real processes: what dies, what is frozen, what signals do."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request

import pytest
from serve_support import ROOT, Command, read_all
from support import PATIENCE

from minireactor.operation.monitors import STUCK_SECONDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system"),
]

CRASHING = """
import os
from minireactor import reactor
from minireactor.protocol import Factory

class Crashing(Factory):
    def doStart(self):
        reactor.callLater(0.01, os._exit, 7)
"""


@pytest.fixture
def start(tmp_path):
    """start(*arguments) starts a command with two workers, and kills it and them after the test."""
    started = []

    def start(*arguments, **options):
        command = Command(*arguments, "--workers", "2", cwd=tmp_path, **options)
        started.append(command)
        return command

    yield start
    for command in started:
        workers = workers_of(command)
        command.close()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def echo(start):
    """echo(*arguments) starts `serve echo` with two workers, and waits until it listens."""

    def echo(*arguments, **options):
        command = start("serve", "echo", "--port", "0", *arguments, **options)
        assert "2 workers" in command.listening()
        return command

    return echo


@pytest.fixture
def clients(closing):
    """clients(command, count) connects clients, each of which has been served."""

    def clients(command, count=20):
        found = [closing(command.connect()) for _ in range(count)]
        assert all(map(is_echoed, found))
        return found

    return clients


def workers_of(command):
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    pairs = (line.split() for line in done.stdout.splitlines())
    return [int(pid) for pid, parent in pairs if int(parent) == command.pid]


def is_echoed(sock, data=b"x"):
    """Return whether a client is served, or False once its connection has ended."""
    try:
        sock.sendall(data)
        return sock.recv(len(data), socket.MSG_WAITALL) == data
    except OSError:
        return False


def scrape(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        pairs = (line.split() for line in answer.read().decode().splitlines() if line[0] != "#")
        return {name.replace("minireactor_", ""): float(value) for name, value in pairs}


def url_in(line):
    return re.search(r"http://\S+", line)[0]


def wait_until(check):
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_metrics_and_the_totals_count_the_clients_of_all_workers(echo, clients):
    command = echo("--metrics", "0")
    url = url_in(command.line())
    served = clients(command)
    found = scrape(url)
    assert (found["workers"], found["connections_open"]) == (2, 20)
    assert found["received_bytes_total"] == found["sent_bytes_total"] == 20
    for sock in served:
        sock.close()
    command.terminate()
    status, output, errors = command.end()
    assert (status, errors) == (0, "")
    assert output.startswith("minireactor: connections 20, bytes in 20, bytes out 20,")


def test_a_killed_worker_loses_its_own_clients_and_nobody_is_refused(echo, clients):
    command = echo("--metrics", "0")
    url = url_in(command.line())
    served = clients(command, 40)
    refused = []
    stopped = threading.Event()

    def connect_all_the_time():
        while not stopped.is_set():
            try:
                with command.connect() as sock:
                    assert is_echoed(sock)
            except (OSError, AssertionError) as error:
                refused.append(error)

    load = threading.Thread(target=connect_all_the_time)
    load.start()
    try:
        # A worker that is killed takes with it what it has counted since the last scrape.
        wait_until(lambda: scrape(url)["connections_total"] >= 40)
        os.kill(workers_of(command)[0], signal.SIGKILL)
        line = command.error_line()
        wait_until(lambda: scrape(url)["workers"] == 2)
        clients(command, 40)
    finally:
        stopped.set()
        load.join()
    assert re.search(
        r"worker 1 \(process \d+\) was ended by SIGKILL; the next one starts now", line
    )
    left = sum(map(is_echoed, served))
    assert 0 < left < 40
    assert len(refused) <= 1  # the one that the killed worker was serving
    assert scrape(url)["connections_total"] >= 80  # the dead worker's clients still count


def test_a_frozen_worker_delays_neither_a_scrape_nor_the_end_for_long(echo, clients):
    command = echo("--metrics", "0", "--grace", "0")
    url = url_in(command.line())
    served = clients(command)
    scrape(url)
    os.kill(workers_of(command)[0], signal.SIGSTOP)
    assert scrape(url)["connections_open"] == 20
    assert scrape(url)["loop_lag_seconds"] >= STUCK_SECONDS
    for sock in served:
        sock.settimeout(0.1)
    assert 0 < sum(map(is_echoed, served)) < 20
    command.terminate()
    status, _, errors = command.end()
    assert status == 1
    assert "worker 1 is killed: it does not end" in errors


def test_workers_whose_parent_is_killed_drain_and_end(echo, clients):
    command = echo("--grace", "0.1")
    workers = workers_of(command)
    served = clients(command)
    os.kill(command.pid, signal.SIGKILL)
    for sock in served:
        assert read_all(sock) == b""
    command.wait_until_it_refuses()
    for pid in workers:
        wait_until(lambda pid=pid: not is_running(pid))


def is_running(pid):
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def test_a_worker_that_dies_at_once_is_started_ever_later(start, tmp_path):
    (tmp_path / "app.py").write_text(CRASHING)
    command = start("serve", "app:Crashing", "--port", "0")
    lines = [command.error_line() for _ in range(4)]
    assert all("has ended with status 7" in line for line in lines)
    ends = sorted(line.partition("starts ")[2] for line in lines)
    assert ends == ["in 1 s", "in 1 s", "now", "now"]
    command.terminate()
    assert command.end()[0] == 0


def test_clients_of_a_worker_that_is_delayed_are_served_by_another_one(echo, clients):
    command = echo()
    stays, *_ = workers_of(command)
    for delay in ("now", "in 1 s", "in 2 s"):
        wait_until(lambda: len(workers_of(command)) == 2)
        (victim,) = set(workers_of(command)) - {stays}
        os.kill(victim, signal.SIGKILL)
        assert command.error_line().endswith(f"the next one starts {delay}")
    clients(command, 40)
    assert workers_of(command) == [stays]
    wait_until(lambda: len(workers_of(command)) == 2)
    clients(command, 40)
    command.terminate()
    assert command.end()[0] == 0


def test_an_app_that_cannot_be_loaded_is_one_error(start):
    status, output, errors = start("serve", "missing:app", "--port", "0").end()
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert "no module 'missing'" in errors


def test_a_port_that_is_taken_is_one_error(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        status, output, errors = start("serve", "echo", "--port", str(number)).end()
    assert (status, output) == (2, "")
    assert f"127.0.0.1:{number}" in errors
    assert "give another --port" in errors


def test_fewer_connections_than_workers_are_an_error(start):
    status, _, errors = start("serve", "echo", "--max-connections", "1").end()
    assert status == 2
    assert "--max-connections 1 is less than --workers 2" in errors


def test_the_limit_of_connections_holds_for_all_workers_together(echo, closing):
    command = echo("--max-connections", "4")
    found = [closing(command.connect()) for _ in range(40)]
    assert sum(map(is_echoed, found)) == 4
    command.terminate()
    assert command.end()[0] == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_reaches_the_whole_group_and_a_second_one_aborts(start, tmp_path, signals):
    (tmp_path / "file").write_bytes(bytes(32 << 20))
    command = start("serve", "file", "file", "--port", "0", "--grace", "60", own_group=True)
    command.listening()
    with command.connect() as client:
        received = len(client.recv(1))
        os.killpg(command.pid, signal.SIGINT)
        command.wait_until_it_refuses()
        if signals == 2:
            os.killpg(command.pid, signal.SIGINT)
            status, output, errors = command.end()
            assert (status, errors) == (1, "")
            assert "transfers aborted" in output
            return
        received += len(read_all(client))
    assert received == 32 << 20
    assert command.end()[0] == 0


def test_sighup_ends_workers_that_have_no_files_to_read_again(echo):
    command = echo()
    os.kill(command.pid, signal.SIGHUP)
    status, output, _ = command.end()
    assert status == 0
    assert output.startswith("minireactor: connections 0")


def test_sighup_makes_all_workers_read_their_certificate_again(echo, certificates):
    command = echo("--tls-cert", certificates.cert, "--tls-key", certificates.key)
    os.kill(command.pid, signal.SIGHUP)
    assert command.line() == command.line()
    command.terminate()
    assert command.end()[0] == 0


def test_sigusr1_makes_all_workers_report(echo, clients):
    command = echo()
    clients(command)
    os.kill(command.pid, signal.SIGUSR1)
    lines = [command.error_line() for _ in range(4)]
    counts = [re.search(r"not moved for 1 s: \d+ of (\d+)", line) for line in lines]
    assert sum(int(found[1]) for found in counts if found) == 20


def test_a_proxy_has_workers_and_their_lines_are_whole(start, echo, clients):
    target = echo()
    command = start("proxy", "0", str(target.port))
    command.listening()
    for sock in clients(command):
        sock.close()
    lines = [command.line() for _ in range(20)]
    pattern = rf"\S+ -> 127\.0\.0\.1:{target.port}: 1 bytes up, 1 down, .* closed in good order"
    assert all(re.fullmatch(pattern, line) for line in lines)
    command.terminate()
    assert command.end()[1].startswith("minireactor: connections 20,")


def test_lines_of_workers_do_not_disturb_the_screen_of_watch(start, echo, tmp_path, closing):
    target = echo()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PYTHONPATH=ROOT, TERM="xterm")
        command = ["-m", "minireactor", "proxy", "0", str(target.port), "--watch", "--workers", "2"]
        os.execv(sys.executable, [sys.executable, *command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    shown = b""
    try:
        while not (found := re.search(rb"listening on 127\.0\.0\.1:(\d+)", shown)):
            shown += os.read(terminal, 65536)
        with socket.create_connection(("127.0.0.1", int(found[1]))) as sock:
            assert is_echoed(sock)
        while b"closed in good order" not in shown:
            shown += os.read(terminal, 65536)
        os.write(terminal, b"q")
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := os.read(terminal, 65536):
                shown += data
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(terminal)
    # The screen places its lines. Only a line that is printed as it is ends with a newline.
    assert b"closed in good order\r\n" not in shown
    assert b"connections 1," in shown


def test_marks_set_on_the_page_reach_all_workers(echo, clients):
    command = echo("--dashboard", "0")
    url = url_in(command.line())
    page, token = url.split("#")
    clients(command, 8)
    request = urllib.request.Request(
        f"{page}marks",
        json.dumps({"id": None, "high": 5000, "low": 1000}).encode(),
        {"Content-Type": "application/json", "X-Token": token},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 204
    clients(command, 4)
    seen = set()
    with urllib.request.urlopen(f"{page}events?token={token}", timeout=PATIENCE) as answer:
        for line in answer:
            message = json.loads(line[6:]) if line.startswith(b"data: ") else {"type": ""}
            if message["type"] == "sample" and len(message["connections"]) == 12:
                seen = {(row["high"], row["low"]) for row in message["connections"]}
                break
    assert seen == {(5000, 1000)}
