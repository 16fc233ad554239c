"""`transport.write()` by itself, and the flush: `minireactor.transports.connection`.

`write()` only appends. So these benchmarks call it, and the set-up of the next round sends. They
guard the short way through `write()`, which all small writes take but the first before a flush.
The longer ways must cost little more.
"""

from __future__ import annotations

import socket
from itertools import repeat

import pytest

SMALL = b"1234567890\r\n"
LARGE = b"x" * (16 * 1024)
MANY = 1000
CONNECTIONS = 100


@pytest.fixture
def link(connect):
    return connect()


@pytest.mark.benchmark(group="write()")
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_write_small(measure, link, kind):
    """Writes that follow another write in the same iteration.

    Bytes take the short way. Other buffers may change later, and are copied once more."""
    write = link.transport.write
    data = kind(SMALL)

    def setup():
        link.drain()
        write(b"x")

    def work():
        for _ in repeat(None, MANY):
            write(data)

    measure(work, MANY, "write", setup)

    assert link.drain() == 1 + MANY * len(SMALL)


@pytest.mark.benchmark(group="write()")
def test_first_write_before_a_flush(measure, connect):
    """The first write, on each of 100 connections: it also schedules the flush."""
    links = [connect() for _ in range(CONNECTIONS)]
    writes = [link.transport.write for link in links]

    def setup():
        for link in links:
            link.drain()

    def work():
        for write in writes:
            write(SMALL)

    measure(work, CONNECTIONS, "write", setup)

    assert [link.drain() for link in links] == [len(SMALL)] * CONNECTIONS


@pytest.mark.benchmark(group="write()")
def test_write_large(measure, link):
    """Chunks of 16 KiB below the high mark: they are queued without a copy."""
    count = 64
    link.transport.setWriteBufferLimits(2 * count * len(LARGE))
    write = link.transport.write

    def work():
        for _ in repeat(None, count):
            write(LARGE)

    measure(work, count, "write of 16 KiB", link.drain)

    assert link.drain() == count * len(LARGE)


class Heedless:
    """A push producer that ignores its pauses."""

    def pauseProducing(self):
        pass

    def resumeProducing(self):
        pass

    def stopProducing(self):
        pass


@pytest.mark.benchmark(group="write()")
@pytest.mark.parametrize("producer", [None, Heedless()], ids=["no producer", "paused producer"])
def test_write_above_the_mark(measure, link, producer):
    """Small writes while pending is above the high mark. Each write compares it with the mark.

    One program has no producer. The other has a producer that goes on although it is paused."""
    transport = link.transport
    over = b"x" * (transport.bufferSize + 1)
    if producer is not None:
        transport.registerProducer(producer, True)

    def setup():
        link.drain()
        transport.write(over)

    def work():
        write = transport.write
        for _ in repeat(None, MANY):
            write(SMALL)

    measure(work, MANY, "write", setup)

    assert (transport.pauses > 0) == (producer is not None)
    assert link.drain() == len(over) + MANY * len(SMALL)


@pytest.mark.benchmark(group="write()")
def test_writeSequence(measure, link):
    """A list of a thousand small chunks in one call."""
    chunks = [SMALL] * MANY

    def work():
        link.transport.writeSequence(chunks)

    measure(work, MANY, "chunk", link.drain)

    assert link.drain() == MANY * len(SMALL)


def flush_of(size):
    return pytest.mark.benchmark(group=f"flush, {size} bytes")


MESSAGES = pytest.mark.parametrize(
    "data", [pytest.param(b"x" * size, id=str(size), marks=flush_of(size)) for size in (64, 16384)]
)


@MESSAGES
def test_flush(measure, connect, reactor, data):
    """A tick that sends one message on each of 100 connections.

    The cost is one system call each, and the way to it from the queue of flushes. The small message
    is merged, the large one is not."""
    links = [connect() for _ in range(CONNECTIONS)]

    def setup():
        for link in links:
            link.drain()
            link.transport.write(data)

    measure(reactor.iterate, CONNECTIONS, "message", setup)

    assert not any(link.transport.pending for link in links)
    assert [link.drain() for link in links] == [len(data)] * CONNECTIONS


@MESSAGES
def test_flush_floor(measure, connect, data):
    """The system calls of `test_flush` alone: no core can be cheaper."""
    links = [connect() for _ in range(CONNECTIONS)]
    sends = [link.transport.getHandle().send for link in links]

    def setup():
        for link in links:
            link.drain()

    def work():
        for send in sends:
            send(data)

    measure(work, CONNECTIONS, "message", setup)

    assert [link.drain() for link in links] == [len(data)] * CONNECTIONS


@pytest.fixture
def full_links(connect, reactor):
    """Connections, and a set-up after which the kernel has no room for their pending bytes."""
    links = [connect() for _ in range(CONNECTIONS)]
    for link in links:
        link.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def setup():
        for link in links:
            link.drain()
        reactor.iterate()  # unregisters write interest that is no longer needed
        for link in links:
            link.fill()
            link.transport.write(SMALL)

    return links, setup


@pytest.mark.benchmark(group="flush, no room")
def test_flush_without_room(measure, full_links, reactor):
    """A tick that finds no room in the kernel for any of 100 connections.

    Each pays for a refused send and for registering write interest. A reader that stops costs this
    once."""
    links, setup = full_links

    measure(reactor.iterate, CONNECTIONS, "send refused", setup)

    assert all(link.transport.pending == len(SMALL) for link in links)


@pytest.mark.benchmark(group="flush, no room")
def test_room_comes(measure, full_links, reactor):
    """Two ticks in which those 100 connections find room, send, and unregister write interest.

    These ticks are the way back from the benchmark before."""
    links, full = full_links

    def setup():
        full()
        reactor.iterate()
        for link in links:
            link.take()

    def work():
        reactor.iterate()
        reactor.iterate()

    measure(work, CONNECTIONS, "send after a wait", setup)

    assert not any(link.transport.pending or link.transport.writing for link in links)
