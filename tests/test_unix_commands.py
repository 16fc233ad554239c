"""The commands on UNIX sockets: `unix:PATH` in the place of HOST:PORT."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from serve_support import ROOT, Command, read_all
from support import PATIENCE

from minireactor.cli.commands import main

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets here")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # temporary folders may have longer names than a socket allows
    return tmp_path


@pytest.fixture
def command(folder, closing):
    """command(*arguments) starts a Command, and returns it with its first line."""

    def command(*arguments):
        process = closing(Command(*arguments, cwd=folder))
        return process, process.line()

    return command


@pytest.fixture
def echo(command):
    return command("serve", "echo", "--port", "unix:echo.sock")


def client(path, closing):
    sock = closing(socket.socket(socket.AF_UNIX))
    sock.settimeout(PATIENCE)
    sock.connect(path)
    return sock


def answer(sock, data):
    """Send data and the end of the stream; return all that comes back."""
    sender = threading.Thread(target=send, args=(sock, data))
    sender.start()
    received = read_all(sock)
    sender.join()
    return received


def send(sock, data):
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_serve_listens_on_a_path_and_removes_its_file(echo, closing):
    process, line = echo
    assert line.startswith("minireactor: echo listening on unix:echo.sock, up to ")
    sock = client("echo.sock", closing)
    sock.sendall(b"hello")
    assert sock.recv(100) == b"hello"
    sock.close()
    process.interrupt()
    assert process.end()[0] == 0
    assert not os.path.exists("echo.sock")


@pytest.mark.slow
def test_a_second_server_reports_the_path_as_in_use_in_one_line(echo, capsys):
    assert main(["serve", "echo", "--port", "unix:echo.sock"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("minireactor serve: Cannot listen on unix:echo.sock: ")
    assert "give another --port, or stop what listens there" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "copy",
    [pytest.param((), id="splice"), pytest.param(("--copy",), id="copy", marks=pytest.mark.slow)],
)
def test_proxy_joins_a_path_to_a_path(echo, command, closing, copy):
    _, line = command("proxy", "unix:front.sock", "unix:echo.sock", *copy)
    assert line.startswith(
        "minireactor: proxy listening on unix:front.sock, to unix:echo.sock, up to "
    )
    data = os.urandom(3_000_000)
    assert answer(client("front.sock", closing), data) == data


@pytest.mark.slow
def test_proxy_joins_a_port_to_a_path_and_a_path_to_a_port(echo, command, closing):
    middle, _ = command("proxy", "127.0.0.1:0", "unix:echo.sock")
    number = _.rpartition(", to")[0].rpartition(":")[2]
    front, _ = command("proxy", "unix:front.sock", f"127.0.0.1:{number}")
    data = os.urandom(100_000)
    assert answer(client("front.sock", closing), data) == data
    line = front.line()
    assert line.startswith(f"unix: -> 127.0.0.1:{number}: 100000 bytes up, 100000 down, ")
    assert middle.line().endswith(" s, closed in good order")


@pytest.mark.slow
def test_proxy_tries_the_next_target_after_a_path_that_is_not_there(echo, command, closing):
    command("proxy", "unix:front.sock", "unix:missing.sock", "unix:echo.sock")
    assert answer(client("front.sock", closing), b"hello") == b"hello"


def test_proxy_refuses_its_own_path_as_a_target(folder, capsys):
    os.symlink("front.sock", "alias.sock")
    for target in ("unix:front.sock", f"unix:{folder}/front.sock", "unix:alias.sock"):
        assert main(["proxy", "unix:front.sock", target]) == 2
        assert "is where the proxy itself listens" in capsys.readouterr().err


@pytest.mark.slow
def test_metrics_are_served_on_a_path(command, closing):
    process, _ = command("serve", "echo", "--port", "0", "--metrics", "unix:metrics.sock")
    assert process.line() == "minireactor: metrics on unix:metrics.sock"
    sock = client("metrics.sock", closing)
    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"minireactor_connections" in read_all(sock)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["alone", "with a worker"])
def test_a_start_that_fails_at_a_later_place_removes_the_file(folder, closing, more):
    taken = closing(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    arguments = ("--listen", "unix:a.sock", "--listen", str(taken), *more)
    status, _, errors = closing(Command("serve", "echo", *arguments, cwd=folder)).end()
    assert status == 2
    assert errors.count("\n") == 1, errors
    assert not os.path.exists("a.sock")


def test_a_real_client_talks_to_serve(echo):
    done = subprocess.run(
        ["socat", "-t5", "-", "UNIX-CONNECT:echo.sock"],
        input=b"d" * 300_000,
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
    )
    assert done.stdout == b"d" * 300_000


@pytest.mark.slow
def test_connect_reaches_a_path(echo, folder):
    done = subprocess.run(
        [sys.executable, "-m", "minireactor", "connect", "unix:echo.sock", "-v"],
        input=b"d" * 300_000,
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert (done.returncode, done.stdout) == (0, b"d" * 300_000)
    assert b"connected to unix:echo.sock" in done.stderr


@pytest.mark.slow
def test_connect_to_a_path_that_is_not_there_is_one_line(folder):
    done = subprocess.run(
        [sys.executable, "-m", "minireactor", "connect", "unix:missing.sock"],
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"minireactor connect: cannot connect to unix:missing.sock: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("serve --port unix:", "'unix:' is not valid: give a path too"),
        ("serve --port unix:@", "'unix:@' is not valid"),
        ("serve --host unix:/x", "'unix:/x' is not valid"),
        ("serve --dashboard unix:/x", "'unix:/x' is not valid"),
        ("proxy unix: 80", "'unix:' is not valid"),
        ("proxy 80 unix:", "'unix:' is not valid"),
        ("proxy 0 unix:/x --engine tiny", "UNIX sockets need --engine core"),
        ("serve --port unix:/x --engine tiny", "UNIX sockets need --engine core"),
        (f"serve --port unix:{'x' * 200}", "the path has 200 bytes"),
        ("serve --port unix:/no/such/folder/x", "No such file or directory"),
    ],
)
def test_a_wrong_address_is_one_line_with_status_2(arguments, named, capsys):
    assert main(arguments.split()) == 2
    errors = capsys.readouterr().err
    assert named in errors and errors.count("\n") == 1
