"""Streams for coroutines: reading, draining, cancelling, and the marks on both sides."""

from __future__ import annotations

import logging
import random
import socket
import time

import pytest
from support import (
    PATIENCE,
    assert_linear,
    connect,
    drain,
    iterations,
    next_timer,
    open_descriptors,
    pump,
    receive,
    reset,
)

from minireactor import coroutines, error
from minireactor.coroutines import StreamFactory, StreamProtocol, StreamReader
from minireactor.defer import CancelledError, ensureDeferred
from minireactor.endpoints import TCP4ClientEndpoint
from minireactor.failure import Failure
from minireactor.task import deferLater
from minireactor.testing import StringTransport

READ = 256 * 1024  # the largest read of a connection


@pytest.fixture
def stream():
    """A StreamProtocol on a transport in memory, with the marks 100 and 20."""
    protocol = StreamProtocol(high=100, low=20)
    protocol.makeConnection(StringTransport())
    return protocol


def result_of(deferred):
    seen = []
    deferred.addBoth(seen.append)
    (result,) = seen
    return result.value if isinstance(result, Failure) else result


def run(coroutine):
    """Run a coroutine that need not wait; return its result or its exception."""
    return result_of(ensureDeferred(coroutine))


def serve(reactor, handler, **options):
    """Return a plain client of a port that serves with the coroutine `handler`."""
    port = reactor.listenTCP(0, StreamFactory(handler, **options), interface="127.0.0.1")
    return connect(port)


# Reading.


def test_read_returns_what_is_there_up_to_n(stream):
    stream.dataReceived(b"abcdef")
    assert [run(stream.reader.read(n)) for n in (2, 3, 100)] == [b"ab", b"cde", b"f"]


def test_read_waits_for_bytes(stream):
    reading = ensureDeferred(stream.reader.read(10))
    assert not reading.called
    stream.dataReceived(b"abc")
    assert result_of(reading) == b"abc"


def test_read_returns_one_piece_without_a_copy(stream):
    data = b"abc" * 10
    stream.dataReceived(data)
    assert run(stream.reader.read(1000)) is data


def test_read_at_the_end_is_empty_again_and_again(stream):
    stream.dataReceived(b"abc")
    stream.readConnectionLost()
    assert [run(stream.reader.read(9)) for _ in range(3)] == [b"abc", b"", b""]


@pytest.mark.parametrize("n", [0, -1])
def test_read_of_no_bytes_is_an_error(stream, n):
    assert isinstance(run(stream.reader.read(n)), ValueError)


def test_readline_returns_lines_however_the_stream_is_cut(stream):
    reading = ensureDeferred(stream.reader.readline())
    for piece in (b"o", b"ne\ntw", b"o\n\nrest"):
        stream.dataReceived(piece)
    assert result_of(reading) == b"one\n"
    stream.readConnectionLost()
    assert [run(stream.reader.readline()) for _ in range(4)] == [b"two\n", b"\n", b"rest", b""]


def test_read_and_readline_take_turns(stream):
    stream.dataReceived(b"one\ntwo")
    stream.dataReceived(b"\nthree\n")
    reader = stream.reader
    assert run(reader.readline()) == b"one\n"
    assert run(reader.read(2)) == b"tw"
    assert run(reader.readline()) == b"o\n"
    stream.dataReceived(b"four")
    assert run(reader.read(100)) == b"three\nfour"


def test_async_for_yields_lines_until_the_end(stream):
    async def lines():
        return [line async for line in stream.reader]

    reading = ensureDeferred(lines())
    stream.dataReceived(b"one\ntwo\nrest")
    stream.readConnectionLost()
    assert result_of(reading) == [b"one\n", b"two\n", b"rest"]


def test_a_line_above_the_high_mark_is_an_error_and_stays_readable(stream):
    stream.dataReceived(b"x" * 101)
    failed = run(stream.reader.readline())
    assert isinstance(failed, ValueError) and "100 bytes" in str(failed)
    assert run(stream.reader.read(200)) == b"x" * 101


def test_reading_lines_is_linear():
    def work(count):
        protocol = StreamProtocol()
        protocol.makeConnection(StringTransport())

        async def lines():
            return len([line async for line in protocol.reader])

        reading = ensureDeferred(lines())
        for start in range(0, count, 100):
            protocol.dataReceived(b"12345678\n" * 100 + b"1234" * (start % 3))
        protocol.readConnectionLost()
        assert result_of(reading) >= count

    assert_linear(work, 10_000)


def test_two_coroutines_cannot_read_at_once(stream):
    first = ensureDeferred(stream.reader.read(1))
    assert isinstance(run(stream.reader.read(1)), RuntimeError)
    stream.dataReceived(b"a")
    assert result_of(first) == b"a"


def test_a_lost_connection_raises_after_the_buffered_bytes(stream):
    stream.dataReceived(b"abc")
    lost = error.ConnectionLost("gone")
    stream.connectionLost(Failure(lost))
    assert run(stream.reader.read(9)) == b"abc"
    assert run(stream.reader.read(9)) is lost
    assert run(stream.reader.readline()) is lost


# The marks of the reader.


def test_the_reader_pauses_above_high_and_resumes_at_low(stream):
    transport = stream.transport
    stream.dataReceived(b"x" * 100)
    assert transport.producerState == "producing"
    stream.dataReceived(b"x")
    assert transport.producerState == "paused"
    run(stream.reader.read(80))
    assert transport.producerState == "paused"
    run(stream.reader.read(1))
    assert transport.producerState == "producing"


def test_read_ahead_is_bounded_by_the_marks(reactor, closing):
    seen = []

    async def idle(reader, writer):
        seen.append(reader)
        await deferLater(reactor, 1000)

    client = closing(serve(reactor, idle))
    client.setblocking(False)
    sent = 0
    stuck = 0
    while stuck < 20:
        try:
            sent += client.send(bytes(1 << 16))
            stuck = 0
        except BlockingIOError:
            stuck += 1
        reactor.iterate(0)
    assert len(seen[0]._buffer) <= coroutines.flow.HIGH + READ


def test_bad_marks_are_an_error():
    with pytest.raises(ValueError, match="high=5 and low=5"):
        StreamFactory(None, high=5, low=5)


# Cancelling.


def test_cancelling_a_waiting_read_loses_no_byte(stream):
    stream.dataReceived(b"half a li")
    reading = ensureDeferred(stream.reader.readline())
    reading.cancel()
    assert isinstance(result_of(reading), CancelledError)
    stream.dataReceived(b"ne\n")
    assert run(stream.reader.readline()) == b"half a line\n"


def test_a_read_with_a_time_limit_loses_no_byte(stream, clock):
    async def patient():
        try:
            return await ensureDeferred(stream.reader.readline()).addTimeout(1, clock)
        except Exception as late:
            return type(late).__name__

    first = ensureDeferred(patient())
    stream.dataReceived(b"ab")
    clock.advance(1)
    assert result_of(first) == "TimeoutError"
    second = ensureDeferred(patient())
    stream.dataReceived(b"c\nd")
    assert result_of(second) == b"abc\n"
    assert clock.getDelayedCalls() == []
    assert run(stream.reader.read(9)) == b"d"


def test_a_read_cancelled_over_and_over_gets_every_byte_in_order(reactor, closing):
    """Each read is cancelled and started again between the arrivals."""
    seen = []

    async def serve_once(reader, writer):
        seen.append(reader)
        await writer.wait_closed()

    client = closing(serve(reactor, serve_once))
    pump(reactor, lambda: seen, "the reader")
    received = bytearray()
    sent = bytes(range(256)) * 8
    for at in range(0, len(sent), 64):
        waiting = ensureDeferred(seen[0].read(37))
        client.sendall(sent[at : at + 64])
        if at % 128:
            reactor.iterate(0.01)
        waiting.addCallbacks(received.extend, lambda failure: None)
        waiting.cancel()

    def rest():
        ensureDeferred(seen[0].read(37)).addCallbacks(received.extend, lambda _: None).cancel()
        return len(received) == len(sent)

    pump(reactor, rest, "the rest")
    assert bytes(received) == sent


@pytest.mark.parametrize("seed", range(50))
def test_a_walk_of_reads_and_cancels_returns_every_byte_in_order(stream, seed):
    """The pieces, the reads and the cancels are drawn by chance; nothing may be lost or doubled."""
    chance = random.Random(seed)
    transport, reader = stream.transport, stream.reader
    sent = chance.choices(b"abc\n", k=2000)
    received, reading, at = bytearray(), None, 0

    def take(data):
        received.extend(data)

    while len(received) < len(sent):
        if at < len(sent) and transport.producerState == "producing" and chance.random() < 0.5:
            piece = bytes(sent[at : at + chance.randint(1, 60)])
            at += len(piece)
            stream.dataReceived(piece)
            if at == len(sent):
                stream.readConnectionLost()
        if reading is not None and not reading.called and chance.random() < 0.3:
            reading.cancel()
        if reading is None or reading.called:
            line = chance.random() < 0.5
            reading = ensureDeferred(reader.readline() if line else reader.read(50))
            reading.addCallbacks(take, lambda failure: failure.trap(CancelledError))
    assert received == bytes(sent)
    assert transport.producerState == "producing"


def test_cancelling_a_task_closes_its_connection_and_leaves_nothing(reactor, closing, caplog):
    reactor.open()
    tasks = []

    async def wait(reader, writer):
        tasks.append(reader)
        await reader.read(1)

    factory = StreamFactory(wait)
    built = []
    factory.buildProtocol = lambda addr: built.append(StreamProtocol(wait)) or built[-1]
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    before = open_descriptors()
    client = connect(port)
    pump(reactor, lambda: tasks, "the coroutine")
    built[0].task.cancel()
    pump(reactor, lambda: not built[0].connected or built[0].transport.disconnected, "the end")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()
    iterations(reactor)
    assert open_descriptors() == before
    assert next_timer(reactor) is None
    assert [e for e in caplog.records if e.levelno == logging.ERROR] == []


def test_cancelling_drain_leaves_nothing(stream):
    stream.writer.pauseProducing()
    draining = ensureDeferred(stream.writer.drain())
    draining.cancel()
    assert isinstance(result_of(draining), CancelledError)
    assert stream.writer._flowing._all == []
    stream.writer.resumeProducing()


# Writing.


def test_drain_returns_at_once_while_the_writer_flows(stream):
    assert run(stream.writer.drain()) is None


def test_drain_waits_from_pause_to_resume(stream):
    stream.writer.pauseProducing()
    draining = [ensureDeferred(stream.writer.drain()) for _ in range(2)]
    assert not draining[0].called
    stream.writer.resumeProducing()
    assert [result_of(each) for each in draining] == [None, None]


def test_drain_raises_the_end_of_the_connection(stream):
    stream.writer.pauseProducing()
    draining = ensureDeferred(stream.writer.drain())
    lost = error.ConnectionLost("gone")
    stream.connectionLost(Failure(lost))
    assert result_of(draining) is lost


def test_wait_closed_returns_at_the_end_of_any_kind(stream):
    closed = ensureDeferred(stream.writer.wait_closed())
    stream.connectionLost(Failure(error.ConnectionLost("gone")))
    assert result_of(closed) is None
    assert run(stream.writer.wait_closed()) is None


def test_a_coroutine_that_does_not_wait_for_its_writes_is_stopped_by_the_marks(reactor, closing):
    """The client sends without end and reads nothing: pending stays near the high mark."""
    writers = []

    async def careless(reader, writer):
        writers.append(writer)
        while data := await reader.read(READ):
            writer.write(data)

    client = closing(serve(reactor, careless))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    highest = stuck = 0
    deadline = time.monotonic() + PATIENCE
    while stuck < 50:
        assert time.monotonic() < deadline, "the server never stops reading"
        try:
            client.send(bytes(1 << 16))
            stuck = 0
        except BlockingIOError:
            stuck += 1
        reactor.iterate(0)
        if writers:
            highest = max(highest, writers[0].transport.pending)
    assert coroutines.flow.HIGH < highest <= coroutines.flow.HIGH + 2 * READ


def test_a_coroutine_that_copies_to_a_stalled_peer_stops_reading_its_source(stream):
    """The writer belongs to another connection than the reader."""
    stalled = StreamProtocol()
    stalled.makeConnection(StringTransport())
    copied = []

    async def copy():
        while data := await stream.reader.read(1000):
            copied.append(data)
            stalled.writer.write(data)

    ensureDeferred(copy())
    stream.dataReceived(b"1")
    stalled.writer.pauseProducing()
    stream.dataReceived(b"2")  # the write that finds the writer paused
    stream.dataReceived(b"3")
    assert copied == [b"1", b"2"]
    stream.dataReceived(b"4" * 200)
    assert stream.transport.producerState == "paused"
    stalled.writer.resumeProducing()
    assert copied == [b"1", b"2", b"3" + b"4" * 200]
    assert stream.transport.producerState == "producing"


def test_the_end_of_a_stalled_peer_lets_the_coroutine_go_on(stream):
    stalled = StreamProtocol()
    stalled.makeConnection(StringTransport())

    async def write_and_read():
        stalled.writer.write(b"x")
        return await stream.reader.read(10)

    stalled.writer.pauseProducing()
    reading = ensureDeferred(write_and_read())
    stream.dataReceived(b"abc")
    assert not reading.called
    stalled.connectionLost(Failure(error.ConnectionDone()))
    assert result_of(reading) == b"abc"


# Over sockets.


async def echo(reader, writer):
    async for line in reader:
        writer.write(line)
        await writer.drain()


def test_echo_over_a_socket_and_the_end_of_the_handler_closes(reactor, closing):
    client = closing(serve(reactor, echo))
    client.sendall(b"one\ntwo")
    assert receive(reactor, client, 4) == b"one\n"
    client.shutdown(socket.SHUT_WR)
    assert drain(reactor, client) == b"two"


def test_all_bytes_of_a_large_answer_arrive(reactor, closing):
    async def large(reader, writer):
        for number in range(256):
            writer.write(bytes([number]) * 16384)
            await writer.drain()

    client = closing(serve(reactor, large))
    assert drain(reactor, client) == b"".join(bytes([n]) * 16384 for n in range(256))


def test_write_eof_ends_one_direction(reactor, closing):
    async def answer(reader, writer):
        writer.write(b"?")
        writer.write_eof()
        seen.append(await reader.readline())

    seen = []
    client = closing(serve(reactor, answer))
    assert drain(reactor, client) == b"?"
    client.sendall(b"late\n")
    pump(reactor, lambda: seen, "the line")
    assert seen == [b"late\n"]


def test_an_exception_of_a_handler_is_logged_once_and_resets_the_connection(
    reactor, closing, caplog
):
    async def bad(reader, writer):
        await reader.read(1)
        raise KeyError("bad")

    client = closing(serve(reactor, bad))
    client.sendall(b"x")
    pump(reactor, lambda: caplog.records, "the log")
    iterations(reactor)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    (entry,) = (e for e in caplog.records if e.levelno == logging.ERROR)
    assert entry.exc_info[0] is KeyError


def test_a_peer_that_resets_is_no_error_of_the_program(reactor, caplog):
    ended = []

    async def wait(reader, writer):
        try:
            await reader.read(1)
        finally:
            ended.append(writer)

    client = serve(reactor, wait)
    iterations(reactor)
    reset(client)
    pump(reactor, lambda: ended, "the end")
    iterations(reactor)
    assert [e for e in caplog.records if e.levelno == logging.ERROR] == []


def test_connect_gives_a_reader_and_a_writer(reactor):
    port = reactor.listenTCP(0, StreamFactory(echo), interface="127.0.0.1")

    async def talk():
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        reader, writer = await coroutines.connect(endpoint)
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line

    talking = ensureDeferred(talk())
    pump(reactor, lambda: talking.called, "the answer")
    assert result_of(talking) == b"hello\n"
    port.stopListening()
    iterations(reactor)
    assert reactor.getReaders() == [] and next_timer(reactor) is None


def test_a_reader_needs_only_a_producer():
    """The reader knows its transport as a producer alone: pauseProducing and resumeProducing."""
    transport = StringTransport()
    reader = StreamReader(transport, 10, 5)
    reader.feed(b"x" * 11)
    assert transport.producerState == "paused"
