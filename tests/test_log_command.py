"""The options --log and --log-format of the commands, in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import time
from types import SimpleNamespace

import pytest
from serve_support import read_all
from support import PATIENCE

from minireactor.cli.commands import main
from minireactor.cli.log_printer import LogPrinter, close_log, dropped_note, open_log
from minireactor.cli.printer import Printer
from minireactor.operation.logs import JsonFormat
from minireactor.view.output import lines_dropped

needs_SIGUSR1 = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="has no SIGUSR1")
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ \S|  \S")  # or of a traceback


@pytest.fixture
def logging_to(command, tmp_path):
    """logging_to(*arguments) starts a Command with --log log, and waits until it listens."""

    def logging_to(*arguments):
        process = command(*arguments, "--log", "log")
        text = text_with(tmp_path / "log", "listening on")
        process.port = int(re.search(r"listening on 127\.0\.0\.1:(\d+)", text)[1])
        return process

    return logging_to


@pytest.fixture
def own_root(monkeypatch):
    """own_root(*handlers) is the root logger, with these handlers alone. pytest has its own."""

    def own_root(*handlers):
        monkeypatch.setattr(logging.root, "handlers", list(handlers))
        return logging.root

    return own_root


def text_with(path, *words):
    """Wait until a file is there and contains the words. Return its text."""
    deadline = time.monotonic() + PATIENCE
    while True:
        text = path.read_text() if path.exists() else ""
        if path.exists() and all(word in text for word in words):
            return text
        assert time.monotonic() < deadline, text[-2000:]
        time.sleep(0.005)  # between two looks


def connected_to(path):
    """Return a socket connected to a UNIX socket, as soon as somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(path))
            return client
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            assert time.monotonic() < deadline
            time.sleep(0.005)  # between two looks


def echoed(process, data):
    """Exchange `data` with an echo server behind `process`, and close in good order."""
    with process.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == data


# Where lines go.


@pytest.mark.slow
def test_all_lines_go_to_the_file_with_time_and_level(logging_to, tmp_path):
    process = logging_to("serve", "echo", "--port", "0", "-v", "--max-connections", "1")
    with process.connect() as inside:
        inside.sendall(b"x")
        assert inside.recv(1) == b"x"
        with process.connect() as rejected:
            assert read_all(rejected) == b""
    text_with(tmp_path / "log", "connection lost")
    process.terminate()
    assert process.end() == (0, "", "")
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(map(LINE.match, lines))
    found = [line.split(" ", 1)[1] for line in lines]
    assert found[0].startswith("INFO echo listening on 127.0.0.1:")
    assert found[1].startswith("INFO connection made from 127.0.0.1:")
    assert found[2].startswith("WARNING at the limit of 1 connections")
    assert found[3].startswith("INFO connection lost from 127.0.0.1:")
    assert found[4].startswith("INFO connections 1, bytes in 1, bytes out 1")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/dev/stderr"])
def test_all_lines_go_to_one_standard_stream(command, place):
    process = command(
        "serve",
        "echo",
        "--port",
        "0",
        "--log",
        place,
        "--log-format",
        "json",
        "--max-connections=1",
    )
    line = (process.error_line if place == "/dev/stderr" else process.line)()
    process.port = int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])
    with process.connect() as inside:
        inside.sendall(b"x")
        assert inside.recv(1) == b"x"
        with process.connect() as rejected:
            assert read_all(rejected) == b""
    process.terminate()
    status, out, err = process.end()
    text, nothing = (err, out) if place == "/dev/stderr" else (out, err)
    assert (status, nothing) == (0, "")
    assert [json.loads(line)["level"] for line in text.splitlines()] == ["WARNING", "INFO"]


@pytest.mark.slow
def test_with_a_format_alone_lines_go_where_they_went(command):
    process = command("serve", "echo", "--port", "0", "--log-format", "text", "--max-connections=1")
    assert " INFO echo listening on 127.0.0.1:" in process.listening()
    with process.connect() as inside:
        inside.sendall(b"x")
        assert inside.recv(1) == b"x"
        with process.connect() as rejected:
            assert read_all(rejected) == b""
    process.terminate()
    status, out, err = process.end()
    assert status == 0
    assert all(map(LINE.match, (out + err).splitlines()))
    assert re.search(r" INFO connections 1, .*\n$", out)
    assert re.search(r"^\S+ WARNING at the limit of 1 connections .*\n$", err)


def test_without_both_options_nothing_but_the_records_of_logging_changes(own_root, capsys):
    root = own_root()
    options = SimpleNamespace(log=None, log_format=None, quiet=False)
    output = open_log(options, None)
    assert type(output) is Printer
    assert dropped_note(options) is dropped_note(SimpleNamespace()) is lines_dropped
    output.announce("listening")
    output.report("a report")
    root.warning("a warning")
    close_log(options)
    out, err = capsys.readouterr()
    assert out == "minireactor: listening\n"
    report, warning = err.splitlines()
    assert report == "minireactor: a report"
    assert re.fullmatch(r"\S{10}T\S{12}Z WARNING a warning", warning)
    assert root.handlers == []


def test_the_line_in_place_of_dropped_lines_has_the_format_of_the_others():
    note = dropped_note(SimpleNamespace(log=None, log_format="json"))
    assert json.loads(note(3))["message"] == "3 lines dropped"
    note = dropped_note(SimpleNamespace(log="-", log_format=None))
    assert LINE.match(note(3).decode())


def test_an_app_that_has_set_up_logging_keeps_it_unless_there_is_a_file(own_root, tmp_path):
    theirs = logging.NullHandler()
    root = own_root(theirs)
    open_log(SimpleNamespace(log=None, log_format="json", quiet=False), None)
    assert root.handlers == [theirs]
    options = SimpleNamespace(log=str(tmp_path / "log"), log_format="json", quiet=False)
    open_log(options, None)
    assert len(root.handlers) == 2
    root.warning("for both")
    close_log(options)
    assert root.handlers == [theirs]
    assert json.loads((tmp_path / "log").read_text())["message"] == "for both"


@pytest.mark.parametrize("path, why", [("no/such", "No such file or directory"), (".", "Is a dir")])
def test_a_file_that_cannot_be_opened_at_the_start_is_one_line_with_status_2(
    path, why, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "echo", "--port", "0", "--log", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"minireactor serve: cannot open the log {path}: {why}")
    assert err.endswith("; give another --log FILE\n")
    assert err.count("\n") == 1


def test_quiet_leaves_warnings_and_the_report_in_the_file(own_root, tmp_path):
    root = own_root()
    options = SimpleNamespace(log=str(tmp_path / "log"), log_format=None, quiet=True)
    output = open_log(options, None)
    output.announce("listening")
    root.warning("a warning")
    output.report("a report")
    output.warn("the old file stays in use")
    close_log(options)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "WARNING a warning",
        "INFO a report",
        "WARNING the old file stays in use",
    ]


# Fields.


@pytest.fixture
def printed():
    """(output, lines): a LogPrinter, and the objects that it has written."""
    lines = []
    write = lambda line: lines.append(json.loads(line))  # noqa: E731
    return LogPrinter(False, JsonFormat(lambda: 0.0), write, write), lines


def side(host, out=0):
    peer = SimpleNamespace(host=host, port=80)
    return SimpleNamespace(getPeer=lambda: peer, bytes_out=out)


class FakeProxy:
    client, target = side("10.0.0.9", 7), side("10.0.0.7", 3)
    place = ("10.0.0.7", 80)
    seconds = 0.12345
    why = "target: \x1b[2J\udc80"

    def __str__(self):
        return "as text"


class Reason:
    def getErrorMessage(self):
        return "the reason\n"


TIMED = {"time": "1970-01-01T00:00:00.000Z", "level": "INFO", "pid": os.getpid()}


def test_the_end_of_a_proxied_connection_has_its_fields(printed):
    output, lines = printed
    for event in ("connectionMade", "connectionLost"):
        output.proxy_end(event, FakeProxy(), None)
    assert lines == [
        {
            **TIMED,
            "message": "as text",
            "event": "lost",
            "client": "10.0.0.9:80",
            "target": "10.0.0.7:80",
            "bytes_up": 3,
            "bytes_down": 7,
            "seconds": 0.123,
            "why": "target: \\x1b[2J\\udc80",
        }
    ]


def test_a_proxied_connection_without_a_target_has_sent_nothing_up(printed):
    output, lines = printed
    proxy = FakeProxy()
    proxy.target = None
    output.proxy_event("connectionLost", proxy, None)
    assert lines[0]["bytes_up"] == 0


@pytest.mark.parametrize(
    "event, detail, fields",
    [
        ("connectionMade", None, {"event": "made"}),
        ("connected", None, {"event": "connected"}),
        ("failed", Reason(), {"event": "failed", "reason": "the reason\\n"}),
        ("pauseProducing", FakeProxy.client, {"event": "paused", "slow": "client"}),
        ("resumeProducing", FakeProxy.target, {"event": "resumed", "slow": "target"}),
    ],
)
def test_the_events_of_a_proxy_have_their_fields(printed, event, detail, fields):
    output, lines = printed
    output.proxy_event(event, FakeProxy(), detail)
    (line,) = lines
    assert "10.0.0.9:80" in line.pop("message")
    assert line == {**TIMED, **fields, "client": "10.0.0.9:80", "target": "10.0.0.7:80"}


@pytest.mark.parametrize(
    "event, fields",
    [
        ("connectionMade", {"event": "made"}),
        ("pauseProducing", {"event": "paused"}),
        ("resumeProducing", {"event": "resumed"}),
        ("connectionLost", {"event": "lost", "reason": "the reason\\n"}),
    ],
)
def test_the_events_of_a_server_have_their_fields(printed, event, fields):
    output, lines = printed
    output.event(event, FakeProxy.client, Reason())
    (line,) = lines
    assert "10.0.0.9:80" in line.pop("message")
    assert line == {**TIMED, **fields, "peer": "10.0.0.9:80"}


@pytest.mark.slow
def test_each_line_of_a_json_log_is_valid_whatever_a_peer_sends(logging_to, tmp_path):
    (tmp_path / "app.py").write_text(
        "from minireactor.protocol import Protocol\n"
        "class Quoting(Protocol):\n"
        "    def dataReceived(self, data):\n"
        "        raise ValueError(data.decode('latin-1') + '\\ud800' + 'x' * 1000000)\n"
    )
    process = logging_to("serve", "app:Quoting", "--port", "0", "-v", "--log-format", "json")
    for data in (bytes(range(256)), b"\x1b[2J\r\n{}\n", b'"\\"'):
        with process.connect() as peer:
            peer.sendall(data)
            assert read_all(peer) == b""
    process.terminate()
    assert process.end()[0] == 0
    text = (tmp_path / "log").read_text()
    assert len(text) < 300_000
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert all(line["message"].isprintable() for line in lines)
    failed = [line for line in lines if line["level"] == "ERROR"]
    assert len(failed) == 3
    assert all("ValueError: " in line["exception"] for line in failed)
    assert [line["event"] for line in lines if "event" in line] == ["made", "lost"] * 3


# Files that are renamed, and files that take nothing.


@pytest.mark.slow
@needs_SIGUSR1
def test_a_rotation_under_load_loses_no_line(command, logging_to, tmp_path):
    server = command("serve", "echo", "--port", "0")
    server.listening()
    proxy = logging_to("proxy", "0", str(server.port), "--log-format", "json")
    count = 0
    for number in range(6):
        for _ in range(50):
            echoed(proxy, b"x" * count)
            count += 1
        if number < 5:
            text_with(tmp_path / "log")  # the file is there
            (tmp_path / "log").rename(tmp_path / f"log.{number}")
            os.kill(proxy.pid, signal.SIGUSR1)
    proxy.terminate()
    assert proxy.end() == (0, "", "")
    files = [*(tmp_path / f"log.{number}" for number in range(5)), tmp_path / "log"]
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ended = [line for line in lines if line.get("event") == "lost"]
    assert sorted(line["bytes_up"] for line in ended) == list(range(count))
    assert all(line["bytes_down"] == line["bytes_up"] for line in ended)
    assert "listening on" in files[0].read_text()
    assert "bytes out" in files[-1].read_text()


@pytest.mark.slow
@needs_SIGUSR1
def test_the_report_of_stuck_connections_goes_to_the_new_file(logging_to, tmp_path):
    process = logging_to("serve", "echo", "--port", "0")
    (tmp_path / "log").rename(tmp_path / "old")
    os.kill(process.pid, signal.SIGUSR1)
    text = text_with(tmp_path / "log", "have not moved")
    assert LINE.match(text)
    assert " INFO connections that have not moved for 1 s: 0 of 0\n" in text


@pytest.mark.slow
@needs_SIGUSR1
def test_a_file_that_cannot_be_opened_again_is_a_warning_on_standard_error(logging_to, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "log").symlink_to(folder / "log")
    process = logging_to("serve", "echo", "--port", "0", "-v")
    folder.rename(tmp_path / "gone")
    os.kill(process.pid, signal.SIGUSR1)
    line = process.error_line()
    assert LINE.match(line)
    assert f" WARNING the log {tmp_path}/log cannot be opened again: No such file" in line
    echoed(process, b"still here")
    text_with(tmp_path / "gone" / "log", "connection lost")
    process.terminate()
    assert process.end() == (0, "", "")


@pytest.mark.slow
def test_T2_a_fifo_that_nobody_reads_delays_nobody(command, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    process = command("serve", "echo", "--port", "unix:socket", "--log", "fifo", "-v")
    assert process.error_line().endswith(f" WARNING nobody reads the log {tmp_path}/fifo yet")
    for _ in range(20):
        with connected_to(tmp_path / "socket") as client:
            client.sendall(b"served")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"served"
    process.terminate()
    status, out, err = process.end()
    assert (status, out) == (0, "")
    assert re.search(r" WARNING the log \S+/fifo lacks its last lines: 42\n$", err)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_is_said_and_serving_goes_on(command):
    process = command(
        "serve",
        "echo",
        "--listen",
        "0",
        "--log",
        "/dev/full",
        "--log-format",
        "json",
        "--metrics=0",
    )
    found = json.loads(process.error_line())
    assert found["message"].startswith("the log /dev/full cannot be written: No space left")
    process.terminate()
    status, out, err = process.end()
    assert (status, out) == (0, "")
    assert json.loads(err)["message"] == "the log /dev/full lacks its last lines: 3"
