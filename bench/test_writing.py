"""`transport.write()` by itself, and the flush: `minireactor.transports.tcp`.

`write()` only appends, so these benchmarks call it and leave the sending to the set-up of the
next round. What they guard is the short way through it for all but the first small write of a
pass, and that the longer ways stay near to it.
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
    """The writes that follow another in the same pass. Bytes take the short way; the other
    buffers, which may change afterwards, are copied once more."""
    write = link.transport.write
    data = kind(SMALL)

    def setup():
        link.settle()
        write(b"x")

    def work():
        for _ in repeat(None, MANY):
            write(data)

    measure(work, MANY, "write", setup)

    assert link.settle() == 1 + MANY * len(SMALL)


@pytest.mark.benchmark(group="write()")
def test_write_first_of_a_pass(measure, connect):
    """The first write of a pass, on each of 100 connections: it also asks for the pass."""
    links = [connect() for _ in range(CONNECTIONS)]
    writes = [link.transport.write for link in links]

    def setup():
        for link in links:
            link.settle()

    def work():
        for write in writes:
            write(SMALL)

    measure(work, CONNECTIONS, "write", setup)

    assert [link.settle() for link in links] == [len(SMALL)] * CONNECTIONS


@pytest.mark.benchmark(group="write()")
def test_write_large(measure, link):
    """Chunks of 16 KiB, which are queued as they are, below the high mark."""
    count = 64
    link.transport.setWriteBufferLimits(2 * count * len(LARGE))
    write = link.transport.write

    def work():
        for _ in repeat(None, count):
            write(LARGE)

    measure(work, count, "write of 16 KiB", link.settle)

    assert link.settle() == count * len(LARGE)


class Deaf:
    """A push producer that takes no notice."""

    def pauseProducing(self):
        pass

    def resumeProducing(self):
        pass

    def stopProducing(self):
        pass


@pytest.mark.benchmark(group="write()")
@pytest.mark.parametrize("producer", [None, Deaf()], ids=["no producer", "paused producer"])
def test_write_above_the_mark(measure, link, producer):
    """Small writes while pending is above the high mark, which each of them finds out anew: of a
    program without a producer, and of one whose producer goes on although it was paused."""
    transport = link.transport
    over = b"x" * (transport.bufferSize + 1)
    if producer is not None:
        transport.registerProducer(producer, True)

    def setup():
        link.settle()
        transport.write(over)

    def work():
        write = transport.write
        for _ in repeat(None, MANY):
            write(SMALL)

    measure(work, MANY, "write", setup)

    assert (transport.pauses > 0) == (producer is not None)
    assert link.settle() == len(over) + MANY * len(SMALL)


@pytest.mark.benchmark(group="write()")
def test_writeSequence(measure, link):
    """A list of a thousand small chunks in one call."""
    chunks = [SMALL] * MANY

    def work():
        link.transport.writeSequence(chunks)

    measure(work, MANY, "chunk", link.settle)

    assert link.settle() == MANY * len(SMALL)


def pass_of(size):
    return pytest.mark.benchmark(group=f"flush, {size} bytes")


PASSES = pytest.mark.parametrize(
    "data", [pytest.param(b"x" * size, id=str(size), marks=pass_of(size)) for size in (64, 16384)]
)


@PASSES
def test_write_pass(measure, connect, reactor, data):
    """A tick that sends one message on each of 100 connections: one system call each, and the
    way from the queue of flushes to it and back. The small message is merged, the large is not."""
    links = [connect() for _ in range(CONNECTIONS)]

    def setup():
        for link in links:
            link.settle()
            link.transport.write(data)

    measure(reactor.iterate, CONNECTIONS, "message", setup)

    assert not any(link.transport.pending for link in links)
    assert [link.settle() for link in links] == [len(data)] * CONNECTIONS


@PASSES
def test_write_pass_floor(measure, connect, data):
    """The system calls of `test_write_pass` alone: what no core can go below."""
    links = [connect() for _ in range(CONNECTIONS)]
    sends = [link.transport.getHandle().send for link in links]

    def setup():
        for link in links:
            link.settle()

    def work():
        for send in sends:
            send(data)

    measure(work, CONNECTIONS, "message", setup)

    assert [link.settle() for link in links] == [len(data)] * CONNECTIONS


@pytest.fixture
def full_links(connect, reactor):
    """Connections, and a set-up after which the kernel has no room for what they have written."""
    links = [connect() for _ in range(CONNECTIONS)]
    for link in links:
        link.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def setup():
        for link in links:
            link.settle()
        reactor.iterate()  # which finds that none of them waits for room any more
        for link in links:
            link.fill()
            link.transport.write(SMALL)

    return links, setup


@pytest.mark.benchmark(group="flush, no room")
def test_write_pass_without_room(measure, full_links, reactor):
    """A tick that finds no room in the kernel for any of 100 connections: a send that is refused
    and a change of what the poller watches, each. What a reader that stops costs, once."""
    links, setup = full_links

    measure(reactor.iterate, CONNECTIONS, "send refused", setup)

    assert all(link.transport.pending == len(SMALL) for link in links)


@pytest.mark.benchmark(group="flush, no room")
def test_room_comes(measure, full_links, reactor):
    """Two ticks in which those 100 connections are told of room and send, and then need no more
    to be told: the way back from the benchmark before."""
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
