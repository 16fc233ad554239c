"""Ticks of the loop, with few and with many connections: `minireactor.core.loop` and its poller.

A tick is one iteration of the loop. Guards that its cost depends on the ready connections, not on
the registered ones: within a group, all figures should be alike. They differ a little by the CPU
caches, because the ready connections are spread among the others.
"""

from __future__ import annotations

import contextlib
import socket

import pytest

from minireactor.core.poller import READ, default_poller
from minireactor.error import ConnectionDone
from minireactor.protocol import Protocol

MESSAGE = b"x" * 64
SPARE = 100  # descriptors for everything else


def sizes(kind):
    """Parametrize by registered and ready connections. Compare only the same number ready."""
    return pytest.mark.parametrize(
        ("registered", "ready"),
        [
            pytest.param(
                registered,
                ready,
                id=f"{ready} of {registered}",
                marks=pytest.mark.benchmark(group=f"tick: {kind}, {ready} ready"),
            )
            for ready, registered in [(1, 1), (1, 100), (1, 10_000), (100, 100), (100, 10_000)]
        ],
    )


class Reader(Protocol):
    """Counts the bytes."""

    received = 0

    def dataReceived(self, data):
        self.received += len(data)


class Echo(Reader):
    """Sends back what it receives."""

    def dataReceived(self, data):
        self.received += len(data)
        self.transport.write(data)


@pytest.fixture
def crowd(connect, connect_idle, descriptors):
    """`crowd(registered, ready, protocol)`: make connections; return the Links of those ready."""

    def gather(registered, ready, protocol):
        descriptors(registered + ready + SPARE)
        every = registered // ready if ready else registered + 1
        links = []
        for number in range(1, registered + 1):
            if number % every == 0:
                links.append(connect(protocol()))
            else:
                connect_idle()
        return links

    return gather


@pytest.fixture
def catch_up(reactor):
    """`catch_up(ready)`: let the loop handle the events that a tick has left over.

    A tick that the system interrupts for some milliseconds leaves events to the next one."""

    def iterate(ready):
        for _ in range(ready):
            reactor.iterate()

    return iterate


@pytest.mark.benchmark(group="tick: nothing is ready")
@pytest.mark.parametrize("registered", [0, 100, 10_000])
def test_tick_idle(measure, crowd, reactor, registered):
    """A tick that finds nothing to do: one system call, and the Python code around it."""
    crowd(registered, 0, Reader)
    iterate = reactor.iterate

    def work():
        for _ in range(10):
            iterate()

    measure(work, 10, "tick")

    assert len(reactor.getReaders()) == registered


@sizes("read")
def test_tick_read(measure, crowd, catch_up, reactor, registered, ready):
    """A tick in which some connections receive a message of 64 bytes."""
    links = crowd(registered, ready, Reader)

    def setup():
        catch_up(ready)
        for link in links:
            link.transport.protocol.received = 0
            link.peer.send(MESSAGE)

    measure(reactor.iterate, ready, "message", setup)
    catch_up(ready)

    assert len(reactor.getReaders()) == registered
    assert [link.transport.protocol.received for link in links] == [len(MESSAGE)] * ready


@sizes("echo")
def test_tick_echo(measure, crowd, catch_up, reactor, registered, ready):
    """Two ticks in which some connections receive a message of 64 bytes and send it back."""
    links = crowd(registered, ready, Echo)
    iterate = reactor.iterate

    def setup():
        catch_up(ready)
        for link in links:
            link.drain()
            link.transport.protocol.received = 0
            link.peer.send(MESSAGE)

    def work():
        iterate()
        iterate()

    measure(work, ready, "message", setup)
    catch_up(ready)

    assert len(reactor.getReaders()) == registered
    assert [link.transport.protocol.received for link in links] == [len(MESSAGE)] * ready
    assert [link.drain() for link in links] == [len(MESSAGE)] * ready


@pytest.mark.benchmark(group="tick: echo, 100 ready")
def test_tick_echo_floor(measure, crowd):
    """The system calls of 100 echoes alone, without epoll: no core can be cheaper."""
    links = crowd(100, 100, Reader)
    sockets = [link.transport.getHandle() for link in links]

    def setup():
        for link in links:
            link.drain()
            link.peer.send(MESSAGE)

    def work():
        for sock in sockets:
            sock.send(sock.recv(4096))

    measure(work, 100, "message", setup)

    assert [link.drain() for link in links] == [len(MESSAGE)] * 100


class Ready:
    """An object for addReader whose descriptor stays readable."""

    def __init__(self, sock):
        self.calls = 0
        self.fileno = sock.fileno

    def doRead(self):
        self.calls += 1

    def connectionLost(self, reason):
        pass


@pytest.fixture
def readable_sockets():
    """`readable_sockets(count)`: return sockets that each have a byte to read."""
    with contextlib.ExitStack() as stack:

        def make(count):
            made = []
            for _ in range(count):
                ours, peer = map(stack.enter_context, socket.socketpair())
                peer.send(b"x")
                made.append(ours)
            return made

        yield make


@pytest.mark.benchmark(group="tick: addReader")
@pytest.mark.parametrize("ready", [1, 100])
def test_tick_user_descriptors(measure, readable_sockets, reactor, ready):
    """A tick that calls objects given to addReader, which read nothing.

    The cost is the way from the poller's result to the call, with the checks for objects that are
    not our own."""
    readers = [Ready(sock) for sock in readable_sockets(ready)]
    for reader in readers:
        reactor.addReader(reader)

    measure(reactor.iterate, ready, "call")
    reactor.removeAll()

    assert all(reader.calls for reader in readers)


class Ending(Protocol):
    """Adds the reason of its end to a list that all share."""

    def __init__(self, ended):
        self._ended = ended

    def connectionLost(self, reason):
        self._ended.append(reason.value)


@pytest.mark.benchmark(group="connection")
def test_connection_made_and_lost(measure, attach, reactor):
    """100 connections made and lost at once, because their peers have closed.

    The figure is the cost of a connection without accept() and without bytes."""
    sockets = []
    ended = []

    def setup():
        ended.clear()
        for _ in range(100):
            ours, peer = socket.socketpair()
            peer.close()
            sockets.append(ours)

    def work():
        while sockets:
            attach(sockets.pop(), Ending(ended))
        reactor.iterate()

    measure(work, 100, "connection", setup)

    assert [type(error) for error in ended] == [ConnectionDone] * 100
    assert reactor.getReaders() == []


@pytest.mark.benchmark(group="connection")
def test_connection_floor(measure):
    """The system calls of those 100 connections alone: register, wait, read EOF, close."""
    poller = default_poller()
    sockets = {}
    reads = []

    def setup():
        reads.clear()
        for _ in range(100):
            ours, peer = socket.socketpair()
            peer.close()
            sockets[ours.fileno()] = ours

    def work():
        for fd, sock in sockets.items():
            sock.setblocking(False)
            poller.watch(fd, READ, None)
        for fd, _ in poller.poll(0):
            sock = sockets.pop(fd)
            reads.append(sock.recv(4096))
            poller.forget(fd, READ)
            sock.close()

    measure(work, 100, "connection", setup)
    poller.close()

    assert reads == [b""] * 100
    assert not sockets
