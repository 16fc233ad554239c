"""`minireactor connect` as a real process, with plain sockets as peers and pseudo-terminals."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
from serve_support import ROOT, Command, read_all, read_line
from support import IS_PYPY, PATIENCE, reset

from minireactor.cli.commands import main

posix = pytest.mark.skipif(os.name != "posix", reason="descriptors as POSIX has them")
ALL_BYTES = bytes(range(256)) * 4096  # 1 MiB: more than all the marks together


class Peer:
    """A plain listening socket. accept() returns its one connection."""

    def __init__(self, closing):
        self._closing = closing
        self.server = closing(socket.create_server(("127.0.0.1", 0)))
        self.server.settimeout(PATIENCE)
        self.port = self.server.getsockname()[1]

    def accept(self):
        connection = self._closing(self.server.accept()[0])
        connection.settimeout(PATIENCE)
        return connection


@pytest.fixture
def peer(closing):
    return Peer(closing)


@pytest.fixture
def run(tmp_path):
    """run(port, *options, stdin=..., shell=...) starts a process that runs `connect`.

    `shell` is a redirection, such as "<&-"."""
    with contextlib.ExitStack() as stack:

        def run(port, *options, shell=None, stdin=subprocess.DEVNULL, **more):
            command = [sys.executable, "-m", "minireactor", "connect", str(port), *options]
            if shell is not None:
                command = ["sh", "-c", f"exec {shlex.join(command)} {shell}"]
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
            environment = {**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "80"}
            process = subprocess.Popen(
                command, stdin=stdin, cwd=tmp_path, env=environment, bufsize=0, **streams
            )
            stack.callback(end, process)
            return process

        yield run


def end(process):
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def result(process):
    """Wait for a process; return (exit status, standard output, standard error)."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, (err or b"").decode()


def readable(fd, seconds=PATIENCE):
    return bool(select.select([fd], [], [], seconds)[0])


def read_until(fd, text):
    """Read from the master of a terminal until `text` has come, and return all of it."""
    got = b""
    while text not in got:
        assert readable(fd), f"only {got!r}"
        got += os.read(fd, 65536)
    return got


# What is wrong on the command line, and the help.


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("connect", "arguments are required: [HOST:]PORT"),
        ("connect 0", "argument [HOST:]PORT: '0' is not valid: give PORT, HOST:PORT"),
        ("connect :80", "':80' is not valid"),
        ("connect 65536", "'65536' is not valid"),
        ("connect ::1:80", "'::1:80' is not valid"),
        ("connect http://localhost", "'http://localhost' is not valid"),
        ("connect 80 81", "unrecognized arguments: 81"),
        ("connect 80 --rate 0", "argument --rate: '0' is not valid"),
        ("connect 80 --rate slow", "argument --rate: 'slow' is not valid"),
        ("connect 80 --timeout soon", "argument --timeout: 'soon' is not valid"),
        ("connect 80 --rate 1K --stall", "argument --stall: not allowed with argument --rate"),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line_with_status_2(arguments, named, capsys):
    assert main(arguments.split()) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("minireactor connect: ")
    assert errors.count("\n") == 1
    assert named in errors


def test_the_help_fits_80_columns_and_has_an_example_and_the_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["connect", "--help"]) == 0
    text = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, text.splitlines())) <= 80
    assert "minireactor connect 1234 --rate 10K" in text
    entries = re.split("\n  (?=-)", text)[1:]
    assert len(entries) == 9
    for entry in entries:
        words = " ".join(entry.split())
        assert "(default: " in words or words.endswith("and exit"), words


# No connection.


def assert_fails(process, *named):
    status, output, errors = result(process)
    assert (status, output) == (1, b"")
    assert errors.startswith("minireactor connect: ")
    assert errors.count("\n") == 1
    for text in named:
        assert text in errors


@pytest.mark.slow
def test_a_refused_connection_is_reported_in_one_line_with_status_1(run, peer):
    peer.server.close()
    assert_fails(run(peer.port), f"cannot connect to 127.0.0.1:{peer.port}: ", "refused")


@pytest.mark.slow
def test_an_unknown_name_is_reported_in_one_line_with_status_1(run):
    assert_fails(run("no..such:80"), "cannot connect to no..such:80: ", "looked up")


@pytest.fixture
def silent(closing):
    """The port number of a server that answers no connection attempt."""
    if sys.platform != "linux":
        pytest.skip("how others treat a full backlog differs")
    server = closing(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    for _ in range(3):
        client = closing(socket.socket())
        client.setblocking(False)
        client.connect_ex(server.getsockname())
    return server.getsockname()[1]


@pytest.mark.slow
def test_a_timeout_is_reported_in_one_line_with_status_1(run, silent):
    assert_fails(run(silent, "--timeout", "0.1"), f"{silent}: ", "0.1 seconds")


@pytest.mark.slow
@posix
def test_without_a_connection_no_input_is_taken(run, peer):
    peer.server.close()
    to_read, to_feed = os.pipe()
    try:
        os.write(to_feed, b"kept")
        assert run(peer.port, stdin=to_read).wait(timeout=PATIENCE) == 1
        assert os.read(to_read, 10) == b"kept"
    finally:
        os.close(to_read)
        os.close(to_feed)


# Both directions.


@pytest.mark.slow
def test_an_ipv6_address_is_given_in_brackets(run, closing):
    try:
        server = closing(socket.create_server(("::1", 0), family=socket.AF_INET6))
    except OSError:
        pytest.skip("no IPv6 here")
    server.settimeout(PATIENCE)
    process = run(f"[::1]:{server.getsockname()[1]}")
    closing(server.accept()[0]).close()
    assert result(process) == (0, b"", "")


@pytest.mark.slow
def test_binary_data_passes_untouched_in_both_directions(run, peer, tmp_path):
    (tmp_path / "in").write_bytes(ALL_BYTES)
    process = run(peer.port, shell="< in > out")
    connection = peer.accept()
    assert read_all(connection) == ALL_BYTES
    connection.sendall(ALL_BYTES[::-1])
    connection.close()
    assert result(process) == (0, b"", "")
    assert (tmp_path / "out").read_bytes() == ALL_BYTES[::-1]


@pytest.mark.slow
def test_the_end_of_input_closes_one_half_and_reading_goes_on(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE)
    connection = peer.accept()
    process.stdin.write(b"question")
    process.stdin.close()
    process.stdin = None
    assert read_all(connection) == b"question"
    connection.sendall(b"answer")
    assert process.stdout.read(6) == b"answer"
    connection.close()
    assert result(process) == (0, b"", "")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["< /dev/null", "< empty", "<&-", "< /dev/null >&-"])
@posix
def test_an_empty_input_is_an_end_at_once(shell, run, peer, tmp_path):
    (tmp_path / "empty").touch()
    process = run(peer.port, shell=shell)
    connection = peer.accept()
    assert read_all(connection) == b""
    connection.close()
    assert result(process) == (0, b"", "")


@pytest.mark.slow
def test_a_pipe_is_sent_on_after_the_peer_has_ended(run, peer):
    process = run(peer.port, "-v", stdin=subprocess.PIPE)
    connection = peer.accept()
    connection.shutdown(socket.SHUT_WR)
    while b"the peer has ended" not in process.stderr.readline():
        assert process.poll() is None
    process.stdin.write(b"late")
    process.stdin.close()
    process.stdin = None
    assert read_all(connection) == b"late"
    assert result(process)[0] == 0


@pytest.mark.slow
def test_verbose_prints_what_happens_on_standard_error_alone(run, peer):
    process = run(peer.port, "-v")
    connection = peer.accept()
    connection.sendall(b"data")
    assert read_all(connection) == b""
    connection.close()
    status, output, errors = result(process)
    assert (status, output) == (0, b"data")
    assert errors.splitlines() == [
        f"minireactor: connected to 127.0.0.1:{peer.port}",
        "minireactor: standard input has ended",
        "minireactor: the peer has ended",
        "minireactor: sent 0 bytes, received 4",
    ]


# Endings that are out of order.


@pytest.mark.slow
def test_a_reset_is_reported_after_what_was_received(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE)
    connection = peer.accept()
    connection.sendall(b"data")
    assert process.stdout.read(4) == b"data"
    reset(connection)
    assert_fails(process, f"127.0.0.1:{peer.port}: ", "reset")


@pytest.mark.slow
@posix
def test_an_input_that_cannot_be_read_resets_the_connection(run, peer, tmp_path):
    process = run(peer.port, shell="0> unreadable")
    connection = peer.accept()
    with pytest.raises(ConnectionResetError):  # half of the input is not to be taken for all
        connection.recv(1)
    assert_fails(process, "cannot read standard input: Bad file descriptor")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_reported_in_one_line_with_status_1(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE, shell="> /dev/full")
    peer.accept().sendall(b"data")
    assert_fails(process, "cannot write standard output: No space left on device")


@pytest.mark.slow
def test_a_closed_output_ends_quietly(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE)
    connection = peer.accept()
    process.stdout.close()
    process.stdout = None
    connection.sendall(b"data")
    assert result(process) == (0, None, "")


@pytest.mark.slow
@posix
def test_ctrl_c_ends_with_status_130(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE)
    connection = peer.accept()
    connection.sendall(b"data")
    assert process.stdout.read(4) == b"data"
    process.send_signal(signal.SIGINT)
    assert result(process) == (130, b"", "")
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


@pytest.mark.slow
@posix
def test_sigterm_ends_with_status_143(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE)
    peer.accept().sendall(b"data")
    assert process.stdout.read(4) == b"data"
    process.terminate()
    assert result(process) == (143, b"", "")


@posix
@pytest.mark.slow
def test_ctrl_c_while_it_connects_ends_with_status_130(run, silent):
    process = run(silent, "--timeout", "0")
    time.sleep(1.0)  # until its signal handler is there, of which nothing can be seen
    process.send_signal(signal.SIGINT)
    assert result(process) == (130, b"", "")


# Descriptors: never left non-blocking, and used also if they are.


@pytest.mark.slow
@posix
@pytest.mark.parametrize("blocking", [True, False])
def test_the_mode_of_its_descriptors_stays_as_it_is(blocking, run, peer):
    with contextlib.ExitStack() as stack:
        ends = [*os.pipe(), *os.pipe()]
        for fd in ends:
            stack.callback(os.close, fd)
        to_read, to_feed, to_take, to_write = ends
        os.set_blocking(to_read, blocking)
        os.set_blocking(to_write, blocking)
        process = run(peer.port, stdin=to_read, stdout=to_write)
        connection = peer.accept()
        os.write(to_feed, b"question")
        assert connection.recv(8) == b"question"
        connection.sendall(ALL_BYTES)  # more than a pipe takes
        received = b""
        while len(received) < len(ALL_BYTES):
            assert readable(to_take)
            received += os.read(to_take, 1 << 20)
        assert received == ALL_BYTES
        assert os.get_blocking(to_read) is os.get_blocking(to_write) is blocking
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 130
        assert os.get_blocking(to_read) is os.get_blocking(to_write) is blocking


# Terminals.


@pytest.fixture
def tty():
    """Return (master, slave) of a pseudo-terminal."""
    pytest.importorskip("termios")
    master, slave = os.openpty()
    yield master, slave
    os.close(slave)
    os.close(master)


def on_terminal(run, tty, port, *options):
    """Run `connect` as a shell does: the terminal is its controlling terminal."""
    name = os.ttyname(tty[1])
    redirected = f"< {name} > {name} 2> {name}"
    # dash opens the terminal after setsid(), so it becomes the controlling one.
    return run(port, *options, shell=redirected, start_new_session=True, stdout=None, stderr=None)


@pytest.mark.slow
def test_at_a_terminal_ctrl_d_ends_the_input(run, peer, tty):
    master, slave = tty
    process = on_terminal(run, tty, peer.port)
    connection = peer.accept()
    os.write(master, b"hello\n")
    assert read_line(connection) == b"hello\n"
    os.write(master, b"\x04")
    assert connection.recv(1) == b""
    connection.sendall(b"answer\n")
    read_until(master, b"answer\r\n")
    connection.close()
    assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.slow
def test_at_a_terminal_the_end_of_the_peer_is_the_end(run, peer, tty):
    master, slave = tty
    process = on_terminal(run, tty, peer.port)
    connection = peer.accept()
    connection.sendall(b"bye\n")
    connection.close()
    assert process.wait(timeout=PATIENCE) == 0
    assert read_until(master, b"bye\r\n") == b"bye\r\n"


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_leaves_it_as_it_was(run, peer, tty):
    import termios

    master, slave = tty
    before = termios.tcgetattr(slave)
    process = on_terminal(run, tty, peer.port)
    connection = peer.accept()
    connection.sendall(b"ready\n")
    read_until(master, b"ready\r\n")
    os.write(master, b"\x03")
    assert process.wait(timeout=PATIENCE) == 130
    assert termios.tcgetattr(slave) == before
    assert os.get_blocking(slave)
    assert readable(master) and os.read(master, 100) == b"^C"


@pytest.mark.slow
def test_a_terminal_that_is_stopped_pauses_the_peer_and_loses_nothing(run, peer, tty):
    master, slave = tty
    os.write(master, b"\x13")  # Ctrl-S
    process = on_terminal(run, tty, peer.port)
    connection = peer.accept()
    text = b"x" * 79 + b"\n"
    connection.sendall(text * 1000)
    connection.close()
    assert not readable(master, 0.1)
    os.write(master, b"\x11")  # Ctrl-Q
    received = b""
    while received.count(b"x") < 79_000:
        assert readable(master)
        received += os.read(master, 65536)
    assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.slow
def test_what_waits_for_the_terminal_is_written_before_the_end(run, peer, tty):
    master, slave = tty
    os.write(master, b"\x13")
    process = run(peer.port, "-v", stdout=slave)
    connection = peer.accept()
    connection.sendall(b"x" * 10_000)
    connection.close()
    while b"received 10,000" not in process.stderr.readline():  # the connection is over
        assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.2)
    os.write(master, b"\x11")
    received = b""
    while len(received) < 10_000:
        assert readable(master)
        received += os.read(master, 65536)
    assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.slow
def test_ctrl_c_ends_it_while_its_terminal_is_stopped(run, peer, tty):
    master, slave = tty
    os.write(master, b"\x13")
    process = run(peer.port, stdout=slave, stderr=slave, stdin=subprocess.PIPE)
    connection = peer.accept()
    process.stdin.write(b"?")
    assert connection.recv(1) == b"?"
    connection.sendall(b"x" * 100_000)  # more than the terminal takes
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130


# Slow clients.


@pytest.mark.slow
def test_rate_reads_slowly_and_loses_nothing(run, peer):
    size = 3000
    process = run(peer.port, "--rate", "10K")
    connection = peer.accept()
    began = time.monotonic()
    connection.sendall(b"x" * size)
    connection.close()
    assert result(process) == (0, b"x" * size, "")
    assert time.monotonic() - began >= (size - 1024) / 10_240  # a tenth of a second's at once


@pytest.mark.slow
@posix
def test_stall_reads_nothing_but_sends_until_ctrl_c(run, peer):
    process = run(peer.port, "--stall", stdin=subprocess.PIPE)
    connection = peer.accept()
    connection.sendall(b"data")
    process.stdin.write(b"question")
    process.stdin.close()
    process.stdin = None
    assert read_all(connection) == b"question"
    assert not readable(process.stdout, 0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert result(process) == (130, b"", "")


@pytest.mark.slow
def test_stall_notices_a_reset(run, peer):
    process = run(peer.port, "--stall", stdin=subprocess.PIPE)
    reset(peer.accept())
    assert_fails(process, "reset")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc")
def test_a_peer_that_reads_nothing_stops_the_reading_of_an_endless_input(run, peer):
    process = run(peer.port, shell="< /dev/zero")
    connection = peer.accept()

    def taken():
        with open(f"/proc/{process.pid}/io") as file:
            return int(re.search("rchar: ([0-9]+)", file.read())[1])

    before = -1
    while before != (before := taken()):
        assert before < 32 * 1024 * 1024  # the kernel holds some megabytes
        time.sleep(0.5)
    with open(f"/proc/{process.pid}/status") as file:
        assert int(re.search("VmHWM:\\s+([0-9]+) kB", file.read())[1]) < (
            400_000 if IS_PYPY else 100_000
        )
    connection.close()


@pytest.mark.slow
def test_an_output_that_nobody_reads_stops_the_peer(run, peer):
    process = run(peer.port, stdin=subprocess.PIPE)
    connection = peer.accept()
    connection.setblocking(False)
    sent = 0
    while select.select([], [connection], [], 0.5)[1]:
        sent += connection.send(bytes(1 << 20))
        assert sent < 64 * 1024 * 1024  # the kernel holds some megabytes
    connection.shutdown(socket.SHUT_WR)
    process.stdin.close()
    process.stdin = None
    assert result(process) == (0, bytes(sent), "")


# With our own servers.


@pytest.fixture
def command(tmp_path):
    with contextlib.ExitStack() as stack:

        def command(*arguments):
            process = Command(*arguments, cwd=tmp_path)
            stack.callback(process.close)
            process.listening()
            return process

        yield command


@pytest.mark.slow
def test_random_integers_are_asked_for_and_printed(run, command):
    server = command("serve", "random", "--port", "0")
    process = run(server.port, stdin=subprocess.PIPE)
    status, output, errors = result_of(process, b"5\n")
    assert (status, errors) == (0, "")
    assert len(output.splitlines()) == 6


@pytest.mark.slow
def test_an_echo_through_a_proxy_comes_back_as_it_was(run, command, tmp_path):
    server = command("serve", "echo", "--port", "0")
    proxy = command("proxy", "0", str(server.port))
    data = os.urandom(8 * 1024 * 1024)
    (tmp_path / "in").write_bytes(data)
    assert result(run(proxy.port, shell="< in")) == (0, data, "")


@pytest.mark.slow
def test_chargen_ends_with_the_reader_of_the_output(run, command):
    server = command("serve", "chargen", "--port", "0")
    process = run(server.port, stdin=subprocess.PIPE, shell="| head -1")
    status, output, errors = result(process)
    assert (status, output.count(b"\n"), errors) == (0, 1, "")


def result_of(process, data):
    out, err = process.communicate(data, timeout=PATIENCE)
    return process.returncode, out, err.decode()
