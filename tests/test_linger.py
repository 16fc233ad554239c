"""The lingering close: no byte is lost, and no program waits."""

from __future__ import annotations

import socket
import struct

import pytest
from scripted import ScriptedPoller
from support import (
    OneFactory,
    Recorder,
    Watched,
    connect,
    drain,
    is_open,
    iterations,
    open_descriptors,
    pollers,
    pump,
    receive,
    reset,
    served,
)

from minireactor import Reactor
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.testing import Network, StrictPushProducer
from minireactor.transports import closing as linger
from minireactor.transports import kernel as queues
from minireactor.transports.closing import Lingering

SIZE = 4_000_000
UNREAD = b"u" * 50_000


class Sender(Recorder):
    """Sends SIZE bytes and closes, and never reads a byte."""

    def connectionMade(self):
        super().connectionMade()
        self.transport.pauseProducing()
        self.transport.write(b"d" * SIZE)
        self.transport.loseConnection()


def lingering(reactor):
    return [h for h in reactor._handlers.values() if isinstance(h, Lingering)]


def closed_with_the_client_open(reactor, closing):
    """Return (protocol, client), closed on our side. The client has neither read nor closed."""
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    return protocol, client


def test_C1_four_megabytes_arrive_fifty_times_out_of_fifty(reactor, closing):
    port = reactor.listenTCP(0, OneFactory(*[Sender() for _ in range(50)]), interface="127.0.0.1")
    for _ in range(50):
        client = closing(connect(port))
        client.sendall(UNREAD)
        assert len(drain(reactor, client)) == SIZE


@pytest.mark.parametrize("make", [make for _, make in pollers()], ids=[n for n, _ in pollers()])
def test_C1_four_megabytes_arrive_with_every_poller(make, closing):
    reactor = closing(Reactor(make()))
    _, client = served(reactor, Sender())
    closing(client)
    client.sendall(UNREAD)
    assert drain(reactor, client) == b"d" * SIZE


def test_C1_a_slow_reader_gets_everything_too(reactor, closing):
    _, client = served(reactor, Sender())
    closing(client)
    client.sendall(UNREAD)
    received = 0
    while received < SIZE:
        received += len(receive(reactor, client, 8_000))
        reactor.iterate()
    assert drain(reactor, client) == b""


def test_C1_input_that_goes_on_after_the_close_does_not_reset_the_peer(reactor, closing):
    _, client = closed_with_the_client_open(reactor, closing)
    for _ in range(20):
        client.sendall(UNREAD)
        iterations(reactor)
    assert drain(reactor, client) == b""


def test_C2_the_protocol_is_notified_although_the_peer_has_not_ended(reactor, closing):
    protocol, _ = closed_with_the_client_open(reactor, closing)
    assert protocol.calls == ["made", "lost"]
    assert len(lingering(reactor)) == 1


def test_C2_lingering_sockets_are_internal(reactor, closing):
    closed_with_the_client_open(reactor, closing)
    assert lingering(reactor)
    assert reactor.getReaders() == reactor.getWriters() == reactor.removeAll() == []
    assert reactor.getDelayedCalls() == []


def test_C2_lingering_ends_with_the_peers_end(reactor, closing):
    _, client = closed_with_the_client_open(reactor, closing)
    client.close()
    pump(reactor, lambda: not lingering(reactor), "the end of the lingering")
    assert not reactor._timers.calls() and reactor._timers.timeout(0) is None


def test_C2_a_connection_whose_peer_has_ended_does_not_linger(reactor):
    protocol, client = served(reactor)
    client.close()
    pump(reactor, lambda: protocol.reason is not None)
    assert lingering(reactor) == []


def test_C2_lingering_is_bounded_in_time(closing):
    now = [0.0]
    reactor = closing(Reactor(seconds=lambda: now[0]))
    closed_with_the_client_open(reactor, closing)
    now[0] += linger.LINGER_SECONDS - 1
    iterations(reactor)
    assert lingering(reactor)
    now[0] += 1
    iterations(reactor)
    assert lingering(reactor) == []


def test_C2_lingering_is_bounded_in_bytes(closing, monkeypatch):
    monkeypatch.setattr(linger, "LINGER_BYTES", 100_000)
    reactor = closing(Reactor(seconds=lambda: 0.0))  # its time does not run out
    _, client = closed_with_the_client_open(reactor, closing)
    client.setblocking(False)

    def sent_too_much():
        try:
            client.send(UNREAD)
        except BlockingIOError:
            pass
        except ConnectionError:
            return True
        return not lingering(reactor)

    pump(reactor, sent_too_much, "the end of the lingering")
    assert lingering(reactor) == []


def test_C2_stopping_waits_for_bytes_on_their_way(reactor, closing):
    sender = Sender()
    port = reactor.listenTCP(0, OneFactory(sender), interface="127.0.0.1")
    client = closing(connect(port))
    client.sendall(UNREAD)
    client.setblocking(False)
    received = bytearray()

    def read_more():
        try:
            received.extend(client.recv(1 << 19))
        except BlockingIOError:
            pass

    def read_on():
        read_more()
        if sender.reason is None:
            reactor.callLater(0, read_on)
        else:
            reactor.stop()

    clock = reactor.seconds

    def seconds():
        # While the stopped reactor waits, it looks at the clock again and again.
        if sender.reason is not None:
            read_more()
        return clock()

    reactor.seconds = seconds
    reactor.callWhenRunning(read_on)
    reactor.run()
    client.setblocking(True)
    while len(received) < SIZE:
        data = client.recv(1 << 20)
        assert data, f"lost all after {len(received)} bytes"
        received += data
    assert client.recv(1) == b""


@pytest.mark.skipif(not hasattr(queues.termios, "TIOCOUTQ"), reason="the system cannot tell")
def test_C2_stopping_does_not_wait_when_nothing_is_unsent(reactor, closing):
    closed_with_the_client_open(reactor, closing)
    assert lingering(reactor)
    polls = []
    poll = reactor._poller.poll
    reactor._poller.poll = lambda timeout, most: polls.append(timeout) or poll(timeout, most)
    reactor.callWhenRunning(reactor.stop)
    reactor.run()
    assert all(timeout == 0 for timeout in polls)


@pytest.mark.slow
def test_C2_stopping_waits_a_second_at_most(closing):
    polling = Watched()
    reactor = closing(Reactor(polling))
    protocol, client = served(reactor)
    closing(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    protocol.transport.write(bytes(100_000))
    pump(reactor, lambda: protocol.transport.pending == 0)
    protocol.transport.loseConnection()
    reactor.addSystemEventTrigger("after", "shutdown", polling.timeouts.clear)
    reactor.callWhenRunning(reactor.stop)
    reactor.run()
    assert 0 < sum(polling.timeouts) <= 1.05
    assert protocol.calls == ["made", "lost"]


def test_C2_a_lingering_descriptor_is_closed_with_the_peers_end(reactor, closing):
    protocol, client = served(reactor)
    number = protocol.transport.fileno()
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    assert is_open(number)
    client.close()
    pump(reactor, lambda: not is_open(number), "the end of the lingering")
    assert number not in open_descriptors()


def test_C2_a_reset_ends_it_without_noise(reactor, caplog):
    protocol, client = served(reactor)
    number = protocol.transport.fileno()
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    client.sendall(UNREAD)
    reset(client)
    pump(reactor, lambda: not is_open(number), "the end of the lingering")
    assert caplog.records == []


def test_C2_an_aborted_connection_does_not_linger(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    number = protocol.transport.fileno()
    protocol.transport.abortConnection()
    pump(reactor, lambda: protocol.reason is not None)
    assert not is_open(number)


def test_C2_a_connection_whose_peer_has_reset_does_not_linger(reactor):
    protocol, client = served(reactor)
    number = protocol.transport.fileno()
    protocol.transport.pauseProducing()
    reset(client)
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    assert lingering(reactor) == []
    assert not is_open(number)


def test_C2_a_paused_connection_lingers_no_longer_than_its_peer(reactor):
    protocol, client = served(reactor)
    protocol.transport.pauseProducing()
    client.sendall(UNREAD)
    client.close()
    iterations(reactor)
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    pump(reactor, lambda: not lingering(reactor), "the end of the lingering")
    assert protocol.received == b""


def test_C2_a_socket_that_cannot_be_watched_is_closed(closing, caplog):
    class Full(ScriptedPoller):
        def watch(self, fd, events, before):
            if self.masks:
                raise OSError("no room left")
            super().watch(fd, events, before)

    reactor = closing(Reactor(Full()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = closing(socket.create_connection(server.getsockname()))
        ours, _ = server.accept()
    number = ours.fileno()
    Lingering.take_over(reactor, ours)
    assert not is_open(number)
    assert client.recv(1) == b""
    assert len(caplog.records) == 1
    assert lingering(reactor) == []


def test_C2_closing_a_reactor_does_not_wait(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    number = protocol.transport.fileno()
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    reactor.close()
    assert not is_open(number)


@pytest.mark.parametrize("unable", ["error", "no such call"])
def test_C2_where_the_system_reports_nothing_data_counts_as_unsent(
    reactor, closing, monkeypatch, unable
):
    def refuse(*a):
        raise OSError("not of sockets")

    closed_with_the_client_open(reactor, closing)
    (own,) = lingering(reactor)
    if unable == "error":
        monkeypatch.setattr(queues, "fcntl", type("fcntl", (), {"ioctl": refuse}))
    else:
        monkeypatch.setattr(queues, "termios", None)
    assert own.has_unacked_data()


@pytest.mark.skipif(not hasattr(queues.termios, "TIOCOUTQ"), reason="the system cannot tell")
@pytest.mark.parametrize(
    ("count", "has_unacked"), [(0, False), (1, False), (2, True), (70_000, True)]
)
def test_C2_our_end_of_the_stream_by_itself_is_no_byte_to_wait_for(
    reactor, closing, monkeypatch, count, has_unacked
):
    def answer(fd, request, buffer):
        return struct.pack("i", count)

    closed_with_the_client_open(reactor, closing)
    (own,) = lingering(reactor)
    monkeypatch.setattr(queues, "fcntl", type("fcntl", (), {"ioctl": answer}))
    assert own.has_unacked_data() is has_unacked


def test_a_socket_with_unacknowledged_data_is_not_reclaimed(reactor, closing):
    port = reactor.listenTCP(0, OneFactory(Sender()), interface="127.0.0.1")
    port.setUnsentLimit(0)  # or all that is left might fit into the client's buffer
    client = closing(connect(port))
    pump(reactor, lambda: port.factory.built)
    received = b""
    while not lingering(reactor):
        iterations(reactor)
        received += client.recv(100_000)
    assert not Lingering.reclaim(reactor, 100)
    assert len(received) + len(drain(reactor, client)) == SIZE


def test_sockets_of_another_reactor_are_not_reclaimed(reactor, closing):
    closed_with_the_client_open(reactor, closing)
    assert not Lingering.reclaim(closing(Reactor()), 100)
    assert len(lingering(reactor)) == 1
    assert Lingering.reclaim(reactor, 100)
    assert not lingering(reactor)


def test_C1_a_peer_that_writes_before_it_reads_gets_all_that_was_written_before_the_close():
    class Answering(Protocol):
        def connectionMade(self):
            self.transport.write(bytes(2_000_000))
            self.transport.loseConnection()

        def dataReceived(self, data):
            raise AssertionError("R3: nothing is delivered after loseConnection()")

    class WritingFirst(Protocol):
        got = 0

        def connectionMade(self):
            self.transport.pauseProducing()
            # Each direction is larger than all buffers: both sides wait unless one is read.
            producer = StrictPushProducer(self.transport, [bytes(50_000)] * 40)
            unregister = producer.unregister
            producer.unregister = lambda: (unregister(), self.transport.resumeProducing())
            producer.start()

        def dataReceived(self, data):
            self.got += len(data)

    network = Network(seed=1)
    factory = ClientFactory.forProtocol(WritingFirst)
    protocols = []
    factory.buildProtocol = lambda addr: protocols.append(WritingFirst()) or protocols[-1]
    network.host("a").listenTCP(80, Factory.forProtocol(Answering))
    network.host("b").connectTCP("a", 80, factory)
    network.run(20)
    network.finish()
    network.close()
    assert protocols[0].got == 2_000_000
