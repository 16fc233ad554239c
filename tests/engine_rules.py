"""The rules of minireactor/core/README.md that every reactor keeps, `tiny` too, over real sockets.

A test module imports these tests, and has a fixture `reactor` with the reactors that it is about.
They use public names only: those of Twisted, `iterate()` and `pending`.
"""

from __future__ import annotations

import builtins
import os
import random
import socket

import pytest
from support import (
    HalfCloseable,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    connect,
    drain,
    iterations,
    pump,
    receive,
    reset,
    served,
)

from minireactor.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)

MUCH = 8 * 1024 * 1024  # bytes: more than the kernel's buffers of a connection on loopback


class Producer:
    """Notes the calls, and how much was pending at each; does `then` in each."""

    def __init__(self, transport, **then):
        self.transport = transport
        self.then = then
        self.calls = []
        self.pending = []

    def pauseProducing(self):
        self._note("pause")

    def resumeProducing(self):
        self._note("resume")

    def stopProducing(self):
        self._note("stop")

    def _note(self, name):
        self.calls.append(name)
        self.pending.append(self.transport.pending)
        self.then.get(name, lambda: None)()


@pytest.fixture
def opened(reactor, closing):
    """Call it with a protocol or nothing: (transport, protocol, the peer's plain socket)."""

    def open_one(protocol=None):
        protocol, client = served(reactor, protocol)
        return protocol.transport, protocol, closing(client)

    return open_one


def stall(reactor, transport):
    """Write until the kernel takes no more."""
    transport.write(b"." * MUCH)
    pump(reactor, lambda: transport.pending < MUCH, "a first flush")
    iterations(reactor)
    assert transport.pending > 0


# Watermarks.


def test_M1_the_default_high_mark_is_64_KiB(reactor, opened):
    transport, _, _ = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    transport.write(b"." * 65536)
    assert producer.calls == []
    transport.write(b".")
    assert producer.calls == ["pause"]


@pytest.mark.parametrize(("high", "low"), [(0, 0), (10, 10), (10, 11), (-1, -2), (10, -1)])
def test_M1_impossible_marks_are_refused_by_name(opened, high, low):
    transport, _, _ = opened()
    with pytest.raises(ValueError, match=f"high={high}.*low={low}"):
        transport.setWriteBufferLimits(high, low)


@pytest.mark.parametrize(("low", "expected"), [(None, 250), (0, 0), (900, 900)])
def test_M2_a_producer_is_resumed_at_low_or_under(reactor, opened, low, expected):
    transport, _, client = opened()
    transport.setWriteBufferLimits(1000, low)
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    stall(reactor, transport)
    left = transport.pending
    receive(reactor, client, MUCH - left)
    assert producer.calls == ["pause"] or producer.pending[1] <= expected
    receive(reactor, client, left)
    pump(reactor, lambda: len(producer.calls) == 2, "a resume")
    assert producer.pending[1] <= expected


def test_M2_a_producer_is_resumed_before_everything_is_sent(reactor, opened):
    transport, _, client = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    stall(reactor, transport)
    low = transport.pending - 1
    transport.setWriteBufferLimits(MUCH, low)
    client.setblocking(False)

    def read_on():
        try:
            client.recv(65536)
        except BlockingIOError:
            pass
        return len(producer.calls) == 2

    pump(reactor, read_on, "a resume")
    assert 0 < producer.pending[1] <= low


def test_M3_a_high_mark_lowered_under_pending_pauses_now(opened):
    transport, _, _ = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    transport.write(b"." * 1000)
    transport.setWriteBufferLimits(999)
    assert producer.calls == ["pause"]


# Push producers.


def test_P1_registration_calls_nothing_on_a_push_producer(reactor, opened):
    transport, _, _ = opened()
    transport.write(b"." * 70000)
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    assert producer.calls == []
    transport.write(b".")
    assert producer.calls == ["pause"]


def test_P2_pause_comes_once_for_each_crossing_from_inside_write(reactor, opened):
    transport, _, client = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    transport.write(b"." * 40000)
    transport.write(b"." * 40000)
    transport.write(b"." * 40000)
    assert producer.calls == ["pause"]
    receive(reactor, client, 120000)
    transport.write(b"." * 70000)
    pump(reactor, lambda: len(producer.calls) >= 3, "the second pause")
    assert producer.calls[:3] == ["pause", "resume", "pause"]


def test_P2_a_write_from_inside_pause_does_not_pause_again(opened):
    transport, _, _ = opened()
    producer = Producer(transport, pause=lambda: transport.write(b"the rest of a record"))
    transport.registerProducer(producer, True)
    transport.write(b"." * 70000)
    assert producer.calls == ["pause"]


def test_P3_resume_never_comes_from_inside_write(reactor, opened):
    transport, _, _ = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    transport.write(b"." * 70000)
    transport.setWriteBufferLimits(200000, 100000)  # pending is under low now
    transport.write(b".")
    assert producer.calls == ["pause"]
    pump(reactor, lambda: producer.calls == ["pause", "resume"], "a resume")


def test_P4_a_producer_that_overfills_inside_resume_is_paused_again(reactor, opened):
    transport, _, client = opened()
    transport.setWriteBufferLimits(1000)
    left = [5]

    def refill():
        if left[0]:
            left[0] -= 1
            transport.write(b"." * 2000)

    producer = Producer(transport, resume=refill)
    transport.registerProducer(producer, True)
    transport.write(b"." * 2000)
    receive(reactor, client, 12000)
    pump(reactor, lambda: producer.calls == ["pause", "resume"] * 6, "the last resume")


# Pull producers.


def test_U1_a_pull_producer_is_asked_at_once_and_after_each_flush(reactor, opened):
    transport, _, client = opened()
    left = [4]

    def give():
        if left[0]:
            left[0] -= 1
            transport.write(b"piece")

    producer = Producer(transport, resume=give)
    transport.registerProducer(producer, False)
    assert producer.calls == ["resume"]
    assert receive(reactor, client, 20) == b"piece" * 4
    pump(reactor, lambda: producer.calls == ["resume"] * 5, "the question after the last flush")


def test_U1_a_pull_producer_is_not_asked_above_low(reactor, opened):
    transport, _, _ = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, False)
    stall(reactor, transport)
    assert producer.calls == ["resume"]


def test_U2_a_pull_producer_with_nothing_to_say_is_not_polled(reactor, opened):
    transport, _, client = opened()
    producer = Producer(transport)
    transport.registerProducer(producer, False)
    iterations(reactor)
    assert producer.calls == ["resume"]
    transport.write(b"more")
    receive(reactor, client, 4)
    pump(reactor, lambda: producer.calls == ["resume", "resume"], "the question after the flush")


# Registration and endings.


def test_E1_a_second_producer_is_refused_and_the_first_goes_on(reactor, opened):
    transport, _, _ = opened()
    first, second = Producer(transport), Producer(transport)
    transport.registerProducer(first, True)
    with pytest.raises(RuntimeError) as refused:
        transport.registerProducer(second, True)
    assert repr(first) in str(refused.value)
    assert repr(second) in str(refused.value)
    transport.write(b"." * 70000)
    assert (first.calls, second.calls) == (["pause"], [])


@pytest.mark.parametrize("streaming", [True, False])
def test_E2_registering_on_a_lost_connection_stops_at_once(reactor, opened, streaming):
    transport, protocol, client = opened()
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    producer = Producer(transport)
    transport.registerProducer(producer, streaming)
    assert producer.calls == ["stop"]


def test_E3_a_producer_is_stopped_once_before_the_protocol_hears(reactor, opened):
    transport, protocol, client = opened()
    producer = Producer(transport, stop=lambda: protocol.calls.append("stop"))
    transport.registerProducer(producer, True)
    stall(reactor, transport)
    reset(client)
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    iterations(reactor)
    assert producer.calls == ["pause", "stop"]
    assert protocol.calls == ["made", "stop", "lost"]
    assert protocol.reason.check(ConnectionLost)


def test_E4_unregistering_without_a_producer_is_nothing(reactor, opened):
    transport, protocol, client = opened()
    transport.unregisterProducer()
    transport.registerProducer(Producer(transport, stop=transport.unregisterProducer), True)
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    transport.unregisterProducer()
    iterations(reactor)
    assert protocol.calls == ["made", "lost"]


def test_E5_closing_waits_for_the_producer_and_for_pending(reactor, opened):
    transport, protocol, client = opened()
    transport.registerProducer(Producer(transport), True)
    transport.loseConnection()
    iterations(reactor)
    assert "lost" not in protocol.calls
    transport.write(b"." * MUCH)
    transport.unregisterProducer()
    assert drain(reactor, client) == b"." * MUCH
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.reason.check(ConnectionDone)


def test_E5_a_late_unregister_still_closes(reactor, opened):
    transport, protocol, client = opened()
    transport.registerProducer(Producer(transport), True)
    transport.loseConnection()
    iterations(reactor)
    transport.unregisterProducer()
    assert drain(reactor, client) == b""
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")


def test_E6_abort_drops_what_is_pending_and_resets_the_peer(reactor, opened):
    transport, protocol, client = opened()
    stall(reactor, transport)
    transport.abortConnection()
    assert "lost" not in protocol.calls
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.reason.check(ConnectionAborted)
    client.settimeout(5)
    with pytest.raises(ConnectionResetError):
        while client.recv(1 << 20):
            pass


def test_E6_no_resume_follows_an_abort_inside_pause(reactor, opened):
    transport, protocol, _ = opened()
    producer = Producer(transport, pause=transport.abortConnection)
    transport.registerProducer(producer, True)
    transport.write(b"." * 70000)
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert producer.calls == ["pause", "stop"]


def test_E6_an_abort_inside_a_half_close_notification_keeps_its_reason(reactor, opened):
    class Aborts(HalfCloseable):
        def readConnectionLost(self):
            super().readConnectionLost()
            self.transport.abortConnection()

    _, protocol, client = opened(Aborts())
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.reason.check(ConnectionAborted)
    assert protocol.calls == ["made", "read lost", "lost"]


def test_E7_a_half_close_flushes_and_reads_on(reactor, opened):
    transport, protocol, client = opened(HalfCloseable())
    transport.write(b"last")
    transport.loseWriteConnection()
    assert drain(reactor, client) == b"last"
    client.setblocking(True)
    client.sendall(b"still read")
    pump(reactor, lambda: protocol.received == b"still read", "what the peer still sends")
    assert protocol.calls[:2] == ["made", "write lost"]
    transport.write(b"dropped")
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.calls[-2:] == ["read lost", "lost"]
    assert protocol.reason.check(ConnectionDone)


def test_E7_any_other_protocol_is_closed_as_a_whole(reactor, opened):
    _, protocol, client = opened()
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.reason.check(ConnectionDone)


def test_E7_a_half_close_waits_for_the_producer(reactor, opened):
    transport, protocol, client = opened(HalfCloseable())
    transport.registerProducer(Producer(transport), True)
    transport.loseWriteConnection()
    iterations(reactor)
    assert protocol.calls == ["made"]
    transport.write(b"produced")
    transport.unregisterProducer()
    assert drain(reactor, client) == b"produced"


@pytest.mark.parametrize("read_ended", [False, True])
def test_E7_no_half_close_is_notified_after_loseConnection(reactor, opened, read_ended):
    transport, protocol, client = opened(HalfCloseable())
    if read_ended:
        client.shutdown(socket.SHUT_WR)
        pump(reactor, lambda: "read lost" in protocol.calls, "the peer's end")
    expected = [*protocol.calls, "lost"]
    transport.write(b"last")
    transport.loseConnection()
    assert drain(reactor, client) == b"last"
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.calls == expected


@pytest.mark.parametrize("first", ["we", "the peer"])
def test_E8_the_end_comes_once_whoever_closes_first(reactor, opened, first):
    transport, protocol, client = opened()
    if first == "we":
        transport.loseConnection()
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    transport.loseConnection()
    transport.abortConnection()
    transport.write(b"too late")
    iterations(reactor)
    assert protocol.calls == ["made", "lost"]


def test_E8_closing_in_connectionMade_still_sends_what_was_written(reactor, opened):
    class Greets(Recorder):
        def connectionMade(self):
            super().connectionMade()
            self.transport.write(b"full, come back later")
            self.transport.loseConnection()

    _, protocol, client = opened(Greets())
    assert drain(reactor, client) == b"full, come back later"
    client.close()
    pump(reactor, lambda: protocol.calls == ["made", "lost"], "the end")


# Closing loses nothing.


def test_C1_unread_input_costs_the_peer_no_byte(reactor, opened):
    class Deaf(Recorder):
        def connectionMade(self):
            self.transport.pauseProducing()

    transport, _, client = opened(Deaf())
    client.sendall(b"nobody reads this" * 1000)
    data = os.urandom(MUCH)
    transport.write(data)
    transport.loseConnection()
    assert drain(reactor, client) == data


def test_C1_a_peer_that_has_ended_its_own_stream_gets_all_bytes(reactor, opened):
    transport, _, client = opened()
    transport.write(b"." * MUCH)
    transport.loseConnection()
    client.shutdown(socket.SHUT_WR)
    assert drain(reactor, client) == b"." * MUCH


def test_C1_a_pause_does_not_keep_a_closing_connection_open(reactor, opened):
    transport, protocol, client = opened()
    transport.loseConnection()
    transport.pauseProducing()
    assert drain(reactor, client) == b""
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")


# Reading.


def test_R1_pause_stops_delivery_until_resume(reactor, opened):
    transport, protocol, client = opened()
    transport.pauseProducing()
    transport.pauseProducing()
    client.sendall(b"waits")
    iterations(reactor)
    assert protocol.received == b""
    transport.resumeProducing()
    transport.resumeProducing()
    pump(reactor, lambda: protocol.received == b"waits", "what waited")


def test_R3_nothing_is_delivered_after_loseConnection(reactor, opened):
    transport, protocol, client = opened()
    transport.registerProducer(Producer(transport), True)  # keeps it from closing
    transport.loseConnection()
    transport.resumeProducing()
    client.sendall(b"unwanted")
    iterations(reactor)
    assert protocol.calls == ["made"]


# Bytes and errors.


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_B1_any_buffer_is_sent_as_it_was_at_the_call(reactor, opened, kind):
    transport, _, client = opened()
    original = bytearray(b"as it was")
    transport.write(kind(original))
    original[:] = b"something"
    assert receive(reactor, client, 9) == b"as it was"


def test_B1_str_is_a_TypeError_and_nothing_is_queued(opened):
    transport, _, _ = opened()
    with pytest.raises(TypeError, match="str"):
        transport.write("text")
    assert transport.pending == 0


def test_B2_write_never_sends_on_the_spot(reactor, opened):
    transport, _, client = opened()
    transport.write(b"later")
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(5)
    assert receive(reactor, client, 5) == b"later"


def test_B2_write_does_not_raise_for_a_peer_that_has_gone(reactor, opened):
    transport, protocol, client = opened()
    reset(client)
    for _ in range(3):
        transport.write(b"anybody there?")
    pump(reactor, lambda: "lost" in protocol.calls, "the news")
    assert protocol.reason.check(ConnectionLost)
    transport.write(b"nobody")


# Time.


def test_T1_input_comes_before_a_timer_that_fell_due_while_the_loop_was_busy(reactor, opened):
    transport, protocol, client = opened()
    reactor.callLater(0, protocol.calls.append, "timer")
    client.sendall(b"in time")
    end = reactor.seconds() + 0.01
    while reactor.seconds() < end:
        pass
    reactor.iterate(0)
    reactor.iterate(0)
    assert protocol.calls == ["made", "data", "timer"]


def test_delayed_calls_come_in_order_and_not_when_cancelled(reactor):
    calls = []
    reactor.callLater(0.002, calls.append, "second")
    reactor.callLater(0, calls.append, "first")
    reactor.callLater(0.001, calls.append, "never").cancel()
    asked = reactor.callLater(0.003, lambda: calls.append("last"))
    assert asked.active()
    pump(reactor, lambda: "last" in calls, "the last call")
    assert calls == ["first", "second", "last"]
    assert not asked.active()


# Connecting.


def test_a_client_and_a_server_of_the_same_reactor_talk(reactor):
    server = Recorder()
    port = reactor.listenTCP(0, OneFactory(server), interface="127.0.0.1")
    factory = RecordingClientFactory()
    reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
    pump(reactor, lambda: factory.connection and server.transport, "the connection")
    factory.connection.transport.write(b"hello")
    pump(reactor, lambda: server.received == b"hello", "the greeting")
    assert server.transport.getPeer() == factory.connection.transport.getHost()
    server.transport.loseConnection()
    pump(reactor, lambda: "lost" in factory.connection.calls, "the end")


def test_a_refused_connection_is_reported_to_the_factory(reactor, closing):
    unused = closing(socket.create_server(("127.0.0.1", 0)))
    port = unused.getsockname()[1]
    unused.close()
    factory = RecordingClientFactory()
    reactor.connectTCP("127.0.0.1", port, factory)
    pump(reactor, lambda: "failed" in factory.calls, "the failure")
    assert factory.reason.check(ConnectionRefusedError)
    assert factory.connection is None


def test_a_closed_port_accepts_nobody(reactor, closing):
    port = reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")
    number = port.getHost().port
    closing(connect(port))
    port.stopListening()
    iterations(reactor)
    with pytest.raises(builtins.ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number))


# All of it together.


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_loses_nothing_and_alternates(reactor, opened, seed):
    chance = random.Random(seed)
    transport, protocol, client = opened()
    transport.setWriteBufferLimits(20000)
    producer = Producer(transport)
    transport.registerProducer(producer, True)
    client.setblocking(False)
    sent, received = bytearray(), bytearray()
    for _ in range(400):
        action = chance.random()
        if action < 0.4 and producer.calls[-1:] != ["pause"]:
            piece = bytes([chance.randrange(256)]) * chance.randrange(1, 50000)
            transport.write(piece)
            sent += piece
        elif action < 0.6:
            try:
                received += client.recv(chance.randrange(1, 60000))
            except BlockingIOError:
                pass
        else:
            reactor.iterate(0)
    transport.unregisterProducer()
    transport.loseConnection()
    received += drain(reactor, client)
    assert received == sent
    pairs = len(producer.calls) // 2 + 1
    assert producer.calls == (["pause", "resume"] * pairs)[: len(producer.calls)]
    assert len(producer.calls) > 4
