"""sendFile(): the bytes, the flow control, and files that change meanwhile."""

from __future__ import annotations

import errno
import gc
import io
import os
import socket

import pytest
from support import Recorder, drain, iterations, pump, receive, served

from minireactor.error import ConnectionAborted, ConnectionLost, FileEnded
from minireactor.testing import StrictPullProducer
from minireactor.transports import sendfile

K = 1024


@pytest.fixture(params=["os.sendfile", "read"])
def way(request, monkeypatch):
    """Both ways to send a file: os.sendfile(), and reading."""
    if request.param == "read":
        monkeypatch.setattr(sendfile, "_HAS_SENDFILE", False)
    elif not sendfile._HAS_SENDFILE:
        pytest.skip("this system has no os.sendfile")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * K * K))
    with open(path, "rb+") as opened:
        yield opened


def content(file):
    return os.pread(file.fileno(), 10 * K * K, 0)


def outcome(deferred):
    """Return a list to which the result of the Deferred is added."""
    got = []
    deferred.addBoth(got.append)
    return got


def test_a_file_arrives_whole_and_its_deferred_has_the_count(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    sent = outcome(protocol.transport.sendFile(file))
    protocol.transport.loseConnection()
    assert drain(reactor, client) == content(file)
    iterations(reactor)
    assert sent == [3 * K * K]


def test_offset_and_count_choose_a_part_and_the_position_is_not_asked(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    file.seek(77)
    protocol.transport.sendFile(file, 10, 100_000)
    protocol.transport.loseConnection()
    assert drain(reactor, client) == content(file)[10:100_010]


def test_what_is_written_before_and_after_keeps_its_place(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.write(b"head")
    transport.sendFile(file, 0, 1000)
    transport.write(b"between")
    transport.sendFile(file)
    transport.write(b"L" * 100_000)
    transport.write(b"tail")
    transport.loseConnection()
    whole = content(file)
    expected = b"head" + whole[:1000] + b"between" + whole + b"L" * 100_000 + b"tail"
    assert drain(reactor, client) == expected


def test_an_empty_part_is_sent_at_once_and_never_from_inside_the_call(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    sent = outcome(protocol.transport.sendFile(file, 5, 0))
    assert sent == []
    iterations(reactor, 2)
    assert sent == [0]
    assert protocol.transport.pending == 0


def test_P2_P3_a_push_producer_is_paused_while_a_file_is_pending(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    calls = []
    protocol.transport.registerProducer(Quiet(calls), True)
    sent = outcome(protocol.transport.sendFile(file))
    assert calls == ["pause"]
    assert receive(reactor, client, 3 * K * K) == content(file)
    pump(reactor, lambda: sent)
    assert calls == ["pause", "resume"]
    assert sent == [3 * K * K]


class Quiet:
    """A producer that only records its calls."""

    def __init__(self, calls):
        self._calls = calls

    def pauseProducing(self):
        self._calls.append("pause")

    def resumeProducing(self):
        self._calls.append("resume")

    def stopProducing(self):
        self._calls.append("stop")


def test_U1_a_pull_producer_is_not_asked_while_a_file_is_pending(wire, monkeypatch, file):
    monkeypatch.setattr(sendfile, "_send", lambda sock, fd, offset, count: count)
    transport, _ = wire.connect(Recorder(), room=K)
    producer = StrictPullProducer(transport, [b"first", None, b"second"])
    producer.start()
    transport.sendFile(file)
    calls_while_pending = []
    while transport.pending:
        calls_while_pending.append(len(producer.calls))
        wire.run(1)
    assert set(calls_while_pending) == {1}
    wire.run(1)
    assert len(producer.calls) == 2
    producer.check()


def test_R4_an_iteration_sends_no_more_than_its_share(wire, monkeypatch, file):
    asked = []
    monkeypatch.setattr(
        sendfile, "_send", lambda sock, fd, offset, count: asked.append((offset, count)) or count
    )
    transport, _ = wire.connect(Recorder(), room=1)
    sent = outcome(transport.sendFile(file))
    wire.run(5)
    assert asked == [(0, K * K), (K * K, K * K), (2 * K * K, K * K)]
    assert sent == [3 * K * K]
    assert transport.bytes_out == 3 * K * K


def test_a_file_that_shrinks_aborts_so_that_a_part_is_not_taken_for_the_whole(
    reactor, closing, way, file
):
    protocol, client = served(reactor)
    closing(client)
    sent = outcome(protocol.transport.sendFile(file))
    file.truncate(1000)
    protocol.transport.loseConnection()
    with pytest.raises(ConnectionResetError):
        drain(reactor, client)
    assert protocol.reason.check(FileEnded) and protocol.reason.check(ConnectionAborted)
    assert "has become shorter" in str(sent[0].value)


def test_a_file_that_is_closed_too_soon_aborts_and_says_so(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    sent = outcome(protocol.transport.sendFile(file))
    file.close()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(FileEnded)
    assert "closed file" in str(sent[0].value)


@pytest.mark.parametrize("fault", ["a disk that fails", "a file for writing only"])
def test_a_file_that_cannot_be_read_aborts_so_that_a_part_is_not_taken_for_the_whole(
    reactor, closing, file, monkeypatch, fault
):
    protocol, client = served(reactor)
    closing(client)
    if fault == "a disk that fails":

        def broken(sock, fd, offset, count):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(sendfile, "_send", broken)
        monkeypatch.setattr(sendfile, "_read", lambda fd, offset, count: broken(None, fd, 0, 0))
    else:
        file = closing(os.fdopen(os.open(file.name, os.O_WRONLY), "wb"))
    sent = outcome(protocol.transport.sendFile(file))
    protocol.transport.loseConnection()
    with pytest.raises(ConnectionResetError):
        drain(reactor, client)
    assert protocol.reason.check(FileEnded)
    assert "cannot read" in str(sent[0].value)


def test_where_os_sendfile_does_not_do_the_file_is_read(reactor, closing, file, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refused, raising=False)
    monkeypatch.setattr(sendfile, "_HAS_SENDFILE", True)
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.sendFile(file)
    protocol.transport.loseConnection()
    assert drain(reactor, client) == content(file)


@pytest.mark.parametrize("end", ["abortConnection", "peer"])
def test_the_deferred_fails_if_the_connection_ends_before(reactor, closing, way, file, end):
    protocol, client = served(reactor)
    closing(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = outcome(protocol.transport.sendFile(file))
    if end == "peer":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    else:
        protocol.transport.abortConnection()
    pump(reactor, lambda: sent)
    assert sent[0].check(ConnectionLost) and not sent[0].check(FileEnded)
    assert protocol.transport.pending == 0


def test_a_failure_of_an_unused_deferred_is_not_logged(wire, file, caplog):
    transport, _ = wire.connect(Recorder())
    transport.sendFile(file)
    transport.abortConnection()
    wire.run()
    gc.collect()
    assert transport.disconnected
    assert not caplog.records


def test_after_the_end_nothing_is_sent_and_the_deferred_fails(wire, file):
    transport, sock = wire.connect(Recorder(), room=K)
    transport.abortConnection()
    sent = outcome(transport.sendFile(file))
    wire.run()
    assert sent[0].check(ConnectionLost)
    assert not sock.taken


@pytest.mark.parametrize(
    ("offset", "count"), [(-1, None), (0, -1), (3 * K * K + 1, None), (1, 3 * K * K)]
)
def test_a_part_that_the_file_does_not_have_is_refused(wire, file, offset, count):
    transport, _ = wire.connect(Recorder())
    with pytest.raises(ValueError, match=f"offset={offset} and count={count} do not fit"):
        transport.sendFile(file, offset, count)
    assert transport.pending == 0


def test_what_is_no_regular_file_and_no_whole_numbers_are_refused(wire, file):
    transport, _ = wire.connect(Recorder())
    with open(os.devnull, "rb") as device, pytest.raises(ValueError, match="not a regular file"):
        transport.sendFile(device)
    with pytest.raises(TypeError, match="float"):
        transport.sendFile(file, 1.5)
    with pytest.raises(TypeError, match="float"):
        transport.sendFile(file, 0, 2.0)
    assert transport.pending == 0


@pytest.mark.parametrize(
    "path", ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/mem"]
)
def test_a_file_without_a_true_size_is_refused_and_the_fix_named(wire, path):
    if not os.access(path, os.R_OK):
        pytest.skip(f"this system has no {path}")
    transport, _ = wire.connect(Recorder())
    fix = "open it for reading" if path.endswith("mem") else "does not give the .*FileSender sends"
    with open(path, "rb") as made_up, pytest.raises(ValueError, match=fix):
        transport.sendFile(made_up)
    assert transport.pending == 0


def test_a_file_that_is_not_open_for_reading_is_refused(wire, tmp_path):
    transport, _ = wire.connect(Recorder())
    with open(tmp_path / "file", "wb") as unreadable:
        unreadable.truncate(100)
        with pytest.raises(ValueError, match="cannot read .*open it for reading"):
            transport.sendFile(unreadable)


def test_a_file_whose_repr_raises_is_sent_and_its_loss_reported(wire, tmp_path):
    class Rude(io.FileIO):
        def __repr__(self):
            raise SyntaxError

    path = tmp_path / "file"
    path.write_bytes(b"content")
    transport, _ = wire.connect(Recorder())
    with Rude(path) as file:
        sent = outcome(transport.sendFile(file))
        transport.abortConnection()
        wire.run()
    assert sent[0].check(ConnectionLost)


def test_a_file_of_holes_and_an_empty_one_have_a_true_size(tmp_path):
    with open(tmp_path / "file", "wb+") as file:
        assert sendfile.has_true_size(file.fileno())
        file.truncate(10 * K * K)
        assert sendfile.has_true_size(file.fileno())


def test_a_file_that_grows_while_it_is_sent_ends_where_it_ended(reactor, closing, way, file):
    protocol, client = served(reactor)
    closing(client)
    before = content(file)
    protocol.transport.sendFile(file)
    protocol.transport.loseConnection()
    os.pwrite(file.fileno(), b"more", len(before))
    assert drain(reactor, client) == before


def test_what_has_no_descriptor_is_refused_and_the_fix_named(wire):
    transport, _ = wire.connect(Recorder())
    with pytest.raises(TypeError, match="FileSender takes any"):
        transport.sendFile(io.BytesIO(b"x"))


def test_a_stalled_reader_of_a_file_keeps_the_rest_pending_and_the_loop_asleep(
    wire, monkeypatch, file
):
    def full(sock, fd, offset, count):
        raise BlockingIOError

    monkeypatch.setattr(sendfile, "_send", full)
    transport, _ = wire.connect(Recorder())
    transport.sendFile(file)
    wire.run(10)
    assert transport.pending == 3 * K * K
    assert wire.reactor.getWriters() == [transport]
    assert not wire.reactor.flushes
