"""StandardIO: pipes, files and terminals. `test_transports` has the rules of a connection."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import threading

import pytest
from serve_support import ROOT
from support import (
    PATIENCE,
    HalfCloseable,
    Recorder,
    is_open,
    iterations,
    killed,
    open_descriptors,
    pump,
    python,
)

from minireactor import stdio
from minireactor.error import ConnectionDone, ConnectionLost
from minireactor.stdio import BUFFER, CHUNK, StandardIO

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="descriptors as POSIX has them"),
    pytest.mark.usefixtures("no_stdio_thread_is_left"),
]


@pytest.fixture
def pipes():
    """(descriptor to read, descriptor to write for the transport, reading end, writing end)"""
    (stdin, writing), (reading, stdout) = os.pipe(), os.pipe()
    ends = {"reading": reading, "writing": writing}
    yield stdin, stdout, ends
    for fd in ends.values():
        if is_open(fd):
            os.close(fd)


def lost(reactor, protocol):
    """Wait for the end of the transport, and return the reason's value."""
    pump(reactor, lambda: protocol.reason is not None, "the end")
    return protocol.reason.value


def test_a_file_is_read_to_its_end_and_a_file_is_written(reactor, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(data)
    stdin = os.open(tmp_path / "in", os.O_RDONLY)
    stdout = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)

    class Copy(HalfCloseable):
        def dataReceived(self, data):
            self.transport.write(data)

        def readConnectionLost(self):
            self.transport.loseConnection()

    protocol = Copy()
    StandardIO(protocol, stdin, stdout, reactor)
    assert isinstance(lost(reactor, protocol), ConnectionDone)
    assert (tmp_path / "out").read_bytes() == data
    assert not is_open(stdin) and not is_open(stdout)


def test_a_protocol_that_is_not_half_closeable_ends_with_its_input_after_its_output(reactor, pipes):
    stdin, stdout, ends = pipes

    class Shout(Recorder):
        def dataReceived(self, data):
            self.transport.write(data * 1_000_000)

    protocol = Shout()
    StandardIO(protocol, stdin, stdout, reactor)
    os.write(ends["writing"], b"x")
    os.close(ends["writing"])
    count = 0
    while count < 1_000_000:
        pump(reactor, lambda: readable(ends["reading"]))
        count += len(os.read(ends["reading"], 1 << 20))
    assert isinstance(lost(reactor, protocol), ConnectionDone)


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_the_end_waits_until_the_output_is_taken(reactor, pipes):
    stdin, stdout, ends = pipes
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.write(b"." * 100_000)
    transport.loseConnection()
    iterations(reactor, 50)
    assert protocol.reason is None and transport.pending == 0
    received = 0
    while received < 100_000:
        received += len(os.read(ends["reading"], 1 << 20))
    assert isinstance(lost(reactor, protocol), ConnectionDone)
    assert os.read(ends["reading"], 1) == b""


def test_a_half_close_ends_the_output_and_reads_on(reactor, pipes):
    stdin, stdout, ends = pipes
    protocol = HalfCloseable()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.write(b"last")
    transport.loseWriteConnection()
    pump(reactor, lambda: protocol.calls == ["made", "write lost"])
    assert os.read(ends["reading"], 10) == b"last"
    assert os.read(ends["reading"], 10) == b""
    os.write(ends["writing"], b"more")
    pump(reactor, lambda: protocol.received == b"more")
    transport.loseConnection()
    assert isinstance(lost(reactor, protocol), ConnectionDone)


def test_a_paused_protocol_lets_the_input_be_read_a_little_ahead_only(reactor, tmp_path, pipes):
    _, stdout, _ = pipes
    path = tmp_path / "in"
    path.write_bytes(b"i" * 10 * (CHUNK + BUFFER))
    stdin = os.open(path, os.O_RDONLY)
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.pauseProducing()
    before = -1
    while before != os.lseek(stdin, 0, os.SEEK_CUR) or before == 0:
        before = os.lseek(stdin, 0, os.SEEK_CUR)
        threading.Event().wait(0.02)
    assert 0 < before <= 2 * (CHUNK + BUFFER)
    transport.resumeProducing()
    pump(reactor, lambda: len(protocol.received) == 10 * (CHUNK + BUFFER))
    transport.loseConnection()
    lost(reactor, protocol)


def test_a_closed_transport_takes_no_input(reactor, pipes):
    stdin, stdout, ends = pipes
    copy = os.dup(stdin)
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.loseConnection()
    lost(reactor, protocol)
    os.write(ends["writing"], b"for another program")
    assert os.read(copy, 100) == b"for another program"
    os.close(copy)


def test_a_transport_that_still_writes_takes_no_input_after_its_end(reactor, pipes):
    stdin, stdout, ends = pipes
    copy = os.dup(stdin)
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.write(b"." * 90_000)  # more than a pipe takes
    transport.loseConnection()
    pump(reactor, lambda: transport.state == "closed")
    assert protocol.reason is None
    os.write(ends["writing"], b"for another program")
    pump(reactor, lambda: not is_open(stdin))
    assert readable(copy)
    assert os.read(copy, 100) == b"for another program"
    os.close(copy)
    os.close(ends["reading"])
    lost(reactor, protocol)


def test_a_transport_that_waits_to_close_drops_no_input(reactor, tmp_path, pipes):
    _, stdout, ends = pipes
    (tmp_path / "in").write_bytes(bytes(10_000_000))
    stdin = os.open(tmp_path / "in", os.O_RDONLY)
    copy = os.dup(stdin)
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.pauseProducing()
    transport.write(bytes(2_000_000))  # more than all buffers take
    transport.loseConnection()
    for _ in range(100):
        reactor.iterate(0.001)  # the thread that reads may run meanwhile
    assert transport.state == "closing"
    assert os.lseek(copy, 0, os.SEEK_CUR) < 1_000_000
    os.close(copy)
    os.close(ends["reading"])
    lost(reactor, protocol)


def test_an_error_of_the_input_comes_after_its_bytes_and_names_it(reactor, tmp_path, pipes):
    _, stdout, _ = pipes
    stdin = os.open(tmp_path, os.O_RDONLY)
    protocol = Recorder()
    StandardIO(protocol, stdin, stdout, reactor)
    error = lost(reactor, protocol)
    assert type(error) is ConnectionLost
    assert error.args[0].errno == errno.EISDIR
    assert error.args[0].filename == stdio.INPUT


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("closes", [False, True])
def test_an_error_of_the_output_ends_the_transport_and_names_it(reactor, pipes, closes):
    stdin, _, _ = pipes
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, os.open("/dev/full", os.O_WRONLY), reactor)
    transport.write(b"x")
    if closes:
        transport.loseConnection()
    error = lost(reactor, protocol)
    assert type(error) is ConnectionLost
    assert error.args[0].errno == errno.ENOSPC
    assert error.args[0].filename == stdio.OUTPUT


def test_a_reader_that_has_gone_stops_the_producer(reactor, pipes):
    stdin, stdout, ends = pipes
    os.close(ends["reading"])
    calls = []

    class Producer:
        def pauseProducing(self):
            calls.append("pause")

        resumeProducing = pauseProducing

        def stopProducing(self):
            calls.append("stop")

    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.registerProducer(Producer(), True)
    transport.write(b"data")
    assert isinstance(lost(reactor, protocol).args[0], BrokenPipeError)
    assert calls == ["stop"]


def test_a_socket_may_be_both(reactor, closing):
    ours, theirs = socket.socketpair()
    closing(theirs)
    protocol = HalfCloseable()
    transport = StandardIO(protocol, ours.detach(), os.dup(theirs.fileno()), reactor)
    theirs.sendall(b"in")
    pump(reactor, lambda: protocol.received == b"in")
    transport.abortConnection()
    lost(reactor, protocol)


@pytest.mark.parametrize("blocking", [True, False])
def test_the_flags_of_a_descriptor_stay_and_either_kind_is_served(reactor, pipes, blocking):
    stdin, stdout, ends = pipes
    copies = [os.dup(stdin), os.dup(stdout)]
    for fd in copies:
        os.set_blocking(fd, blocking)
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    os.write(ends["writing"], b"in")
    transport.write(b"." * 500_000)
    received = 0
    while received < 500_000:
        pump(reactor, lambda: readable(ends["reading"]))
        received += len(os.read(ends["reading"], 1 << 20))
    pump(reactor, lambda: protocol.received == b"in")
    assert [os.get_blocking(fd) for fd in copies] == [blocking, blocking]
    transport.loseConnection()
    lost(reactor, protocol)
    for fd in copies:
        os.close(fd)


def test_without_a_thread_it_raises_and_leaves_nothing(reactor, pipes, monkeypatch):
    stdin, stdout, _ = pipes
    real = stdio.start_daemon
    started = []

    def second_fails(name, f):
        started.append(name)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        real(name, f)

    monkeypatch.setattr(stdio, "start_daemon", second_fails)
    reactor.open()
    with pytest.raises(RuntimeError):
        StandardIO(Recorder(), stdin, stdout, reactor)
    assert reactor.getReaders() == []
    os.close(stdout)


# As a program has it.

ECHO = """
    import sys
    from minireactor import reactor
    from minireactor.protocol import Protocol
    from minireactor.stdio import StandardIO

    class Echo(Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

        def connectionLost(self, reason):
            print("end", file=sys.stderr)
            reactor.stop()

    StandardIO(Echo())
    reactor.run()
"""


def test_a_program_echoes_all_of_a_pipe():
    data = "d" * 2_000_000
    with killed(python(ECHO)) as child:
        out, err = child.communicate(data, timeout=PATIENCE)
    assert (out, err, child.returncode) == (data, "end\n", 0)


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE], ids=["ended", "open"])
def test_stopping_the_reactor_still_writes_what_was_written(stdin):
    code = """
        from minireactor import reactor
        from minireactor.protocol import Protocol
        from minireactor.stdio import StandardIO

        class Last(Protocol):
            def connectionMade(self):
                self.transport.write(b"x" * 60000)
                reactor.callWhenRunning(reactor.stop)

        StandardIO(Last())
        reactor.run()
    """
    with killed(python(code, stdin=stdin)) as child:
        out, err = child.stdout.read(), child.stderr.read()
    assert (len(out), err, child.returncode) == (60000, "", 0)


def test_E6_an_abort_drops_what_the_descriptor_has_not_taken(reactor, pipes):
    stdin, stdout, ends = pipes
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.write(b"." * 1_000_000)
    pump(reactor, lambda: readable(ends["reading"]))
    iterations(reactor)
    transport.abortConnection()
    lost(reactor, protocol)
    received = 0
    while data := os.read(ends["reading"], 1 << 20):
        received += len(data)
    assert received <= 65536 + CHUNK  # the pipe, and what one write was about to put there


def test_a_closed_output_becomes_the_null_device_and_its_number_is_not_reused():
    code = """
        import os, sys
        from minireactor import reactor
        from minireactor.protocol import Protocol
        from minireactor.stdio import StandardIO

        class Closes(Protocol):
            def connectionMade(self):
                self.transport.loseConnection()

            def connectionLost(self, reason):
                print("nobody reads this", flush=True)
                same = os.stat(1).st_rdev == os.stat(os.devnull).st_rdev
                print(same, file=sys.stderr)
                reactor.stop()

        StandardIO(Closes())
        reactor.run()
    """
    with killed(python(code)) as child:
        out, err = child.communicate("", timeout=PATIENCE)
    assert (out, err) == ("", "True\n")


def test_a_terminal_stays_open_and_blocking(closing):
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": ROOT}
    code = ECHO.replace("\n    ", "\n")
    command = [sys.executable, "-c", code]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    with killed(subprocess.Popen(command, env=environment, **streams)) as child:
        os.write(master, b"line\n")
        wait_for(master, b"line\r\nline\r\n")
        os.write(master, b"\x04")
        wait_for(master, b"end\r\n")
        assert child.wait(PATIENCE) == 0
    assert os.get_blocking(slave)
    os.close(master)
    os.close(slave)


def wait_for(fd, text):
    got = b""
    while text not in got:
        assert select.select([fd], [], [], PATIENCE)[0], f"only {got!r}"
        got += os.read(fd, 65536)


def test_everything_is_closed_at_the_end(reactor, pipes):
    stdin, stdout, _ = pipes
    reactor.open()
    before = open_descriptors() - {stdin, stdout}
    protocol = Recorder()
    transport = StandardIO(protocol, stdin, stdout, reactor)
    transport.loseConnection()
    lost(reactor, protocol)
    pump(reactor, lambda: open_descriptors() == before, "the end of the threads")
