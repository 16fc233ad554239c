"""Connections: flow control, endings, reading, bytes and errors, named by their rules.

Tests of what the kernel decides use real sockets. Tests of what minireactor decides use scripted
sockets, whose `room` is how many bytes the kernel still takes.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import weakref

import pytest
from scripted import PEER
from support import (
    HalfCloseable,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    assert_linear,
    connect,
    drain,
    iterations,
    pump,
    receive,
    reset,
    served,
)

from minireactor.basic import LineReceiver
from minireactor.core import flow
from minireactor.core.buffer import LARGE
from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost
from minireactor.transports.connection import (
    LARGEST_READ,
    LARGEST_SEND,
    SMALLEST_READ,
    SMALLEST_SHARE,
)

K = 1024


class Push:
    """A push producer that records its calls; `on_*` hooks run inside the calls."""

    def __init__(self, on_pause=None, on_resume=None, on_stop=None):
        self.calls = []
        self._hooks = {"pause": on_pause, "resume": on_resume, "stop": on_stop}

    def _call(self, name):
        self.calls.append(name)
        if self._hooks[name] is not None:
            self._hooks[name]()

    def pauseProducing(self):
        self._call("pause")

    def resumeProducing(self):
        self._call("resume")

    def stopProducing(self):
        self._call("stop")


@pytest.fixture
def open_wire(wire):
    """Return (protocol, transport, socket) without room in the kernel, marks 100 and 20."""
    protocol = Recorder()
    transport, sock = wire.connect(protocol)
    transport.setWriteBufferLimits(100, 20)
    wire.run()
    return protocol, transport, sock


# --- M: water marks


def test_M1_defaults_are_64_and_16_KiB(open_wire, wire):
    transport, _ = wire.connect(Recorder())
    transport.write(b"x" * 64 * K)
    producer = Push()
    transport.registerProducer(producer, True)
    assert (transport.bufferSize, producer.calls) == (64 * K, [])
    transport.write(b"x")
    assert producer.calls == ["pause"]


@pytest.mark.parametrize(
    ("high", "low"), [(10, 10), (10, 11), (0, None), (10, -1), (-5, None), ("64K", None), (9.5, 1)]
)
def test_M1_impossible_marks_are_refused_by_name_and_change_nothing(open_wire, high, low):
    _, transport, _ = open_wire
    with pytest.raises(ValueError, match="high=.*low=") as caught:
        transport.setWriteBufferLimits(high, low)
    assert repr(high) in str(caught.value)
    assert transport.bufferSize == 100


def test_M1_only_high_sets_low_to_a_quarter(open_wire, wire):
    _, transport, sock = open_wire
    transport.setWriteBufferLimits(high=1000)
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 1001)
    sock.room = 750
    wire.run()
    assert (transport.pending, producer.calls) == (251, ["pause"])
    sock.room = 1
    wire.run()
    assert (transport.pending, producer.calls) == (250, ["pause", "resume"])


def test_M1_only_low_keeps_high(open_wire):
    _, transport, _ = open_wire
    transport.setWriteBufferLimits(low=0)
    assert transport.bufferSize == 100
    with pytest.raises(ValueError, match="high=100 and low=100"):
        transport.setWriteBufferLimits(low=100)


def test_M1_bufferSize_is_the_high_mark_and_can_be_set(open_wire):
    _, transport, _ = open_wire
    transport.bufferSize = 400
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 400)
    assert producer.calls == []
    transport.write(b"x")
    assert producer.calls == ["pause"]


def test_M2_exactly_high_is_not_above_and_exactly_low_is_at(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 100)
    assert producer.calls == []
    transport.write(b"x")
    assert producer.calls == ["pause"]
    sock.room = 80
    wire.run()
    assert (transport.pending, producer.calls) == (21, ["pause"])
    sock.room = 1
    wire.run()
    assert producer.calls == ["pause", "resume"]


def test_M2_low_of_zero_resumes_at_zero_as_twisted_does(open_wire, wire):
    _, transport, sock = open_wire
    transport.setWriteBufferLimits(low=0)
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    sock.room = 100
    wire.run()
    assert producer.calls == ["pause"]
    sock.room = 1
    wire.run()
    assert producer.calls == ["pause", "resume"]


def test_M3_a_high_mark_lowered_under_pending_pauses_now(open_wire):
    _, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 60)
    transport.setWriteBufferLimits(50)
    assert producer.calls == ["pause"]


def test_M3_a_low_mark_raised_over_pending_resumes_in_the_next_iteration(open_wire, wire):
    _, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 150)
    wire.run()
    transport.setWriteBufferLimits(1000, 200)
    assert producer.calls == ["pause"]
    wire.run()
    assert producer.calls == ["pause", "resume"]


def test_M3_marks_count_pending_bytes_in_large_chunks_and_small_ones_alike(open_wire):
    _, transport, _ = open_wire
    transport.setWriteBufferLimits(LARGE + 10)
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"a" * LARGE)
    transport.write(b"b" * 10)
    assert producer.calls == []
    transport.write(b"c")
    assert producer.calls == ["pause"]


# --- P: push producers


def test_P1_registration_calls_nothing(open_wire):
    _, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    assert (producer.calls, transport.producer) == ([], producer)
    assert transport.streamingProducer is True


def test_P1_a_producer_that_registers_above_high_is_paused_by_its_first_write(open_wire):
    _, transport, _ = open_wire
    transport.write(b"x" * 101)
    producer = Push()
    transport.registerProducer(producer, True)
    assert producer.calls == []
    transport.write(b"y")
    assert producer.calls == ["pause"]


def test_P2_pause_is_called_once_for_each_crossing(open_wire):
    _, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    for _ in range(10):
        transport.write(b"x" * 60)
    assert producer.calls == ["pause"]


def test_P2_pause_comes_from_inside_the_write_that_crossed(open_wire):
    _, transport, _ = open_wire
    seen = []
    producer = Push(on_pause=lambda: seen.append(transport.pending))
    transport.registerProducer(producer, True)
    transport.write(b"x" * 100)
    transport.write(b"y" * 7)
    assert seen == [107]


def test_P2_writeSequence_over_high_pauses_once(open_wire):
    _, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.writeSequence([b"x" * 60] * 5)
    assert producer.calls == ["pause"]


def test_P3_resume_never_comes_from_inside_write(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    sock.room = 1000
    transport.write(b"x")
    assert producer.calls == ["pause"]
    wire.run()
    assert producer.calls == ["pause", "resume"]


def test_P3_resume_is_called_once_although_pending_goes_on_falling(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    for _ in range(101):
        sock.room = 1
        wire.run(2)
    assert (transport.pending, producer.calls) == (0, ["pause", "resume"])


def test_P4_a_producer_that_overfills_inside_resume_is_paused_and_later_resumed(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push(on_resume=lambda: transport.write(b"y" * 200))
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    sock.room = 101
    wire.run()
    assert producer.calls == ["pause", "resume", "pause"]
    sock.room = 200
    wire.run()
    assert producer.calls == ["pause", "resume", "pause", "resume", "pause"]


def test_P4_a_producer_writes_to_another_connection_in_the_flush(wire):
    other, other_sock = wire.connect(Recorder(), room=1000)
    transport, sock = wire.connect(Recorder())
    transport.setWriteBufferLimits(10)
    producer = Push(on_resume=lambda: other.write(b"hello"))
    transport.registerProducer(producer, True)
    transport.write(b"x" * 11)
    sock.room = 11
    wire.run()
    assert bytes(other_sock.taken) == b"hello"


@pytest.mark.parametrize("ending", ["loseConnection", "abortConnection"])
def test_a_producer_ends_another_connection_in_the_flush(wire, ending):
    third, first = Recorder(), Recorder()
    first_transport, _ = wire.connect(first, room=1000)
    transport, sock = wire.connect(Recorder())
    third_transport, third_sock = wire.connect(third, room=1000)
    transport.setWriteBufferLimits(10)

    def end_both():
        getattr(first_transport, ending)()
        getattr(third_transport, ending)()

    transport.registerProducer(Push(on_resume=end_both), True)
    transport.write(b"x" * 11)
    sock.room = 11
    first_transport.write(b"a")
    third_transport.write(b"b")
    wire.run()
    assert (first.calls, third.calls) == (["made", "lost"], ["made", "lost"])
    assert transport.connected


# --- U: pull producers


def test_U1_registration_asks_once_and_every_flush_asks_again(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push(on_resume=lambda: transport.write(b"z" * 50))
    transport.registerProducer(producer, False)
    assert producer.calls == ["resume"]
    sock.room = 50
    wire.run()
    assert producer.calls == ["resume"] * 2
    assert transport.streamingProducer is False


def test_U1_a_pull_producer_is_not_asked_above_low(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push(on_resume=lambda: transport.write(b"z" * 50))
    transport.registerProducer(producer, False)
    sock.room = 29
    wire.run()
    assert (transport.pending, producer.calls) == (21, ["resume"])
    sock.room = 1
    wire.run()
    assert producer.calls == ["resume"] * 2


def test_U1_a_pull_producer_is_never_paused(open_wire):
    _, transport, _ = open_wire
    producer = Push(on_resume=lambda: transport.write(b"z" * 500))
    transport.registerProducer(producer, False)
    transport.write(b"z" * 500)
    assert producer.calls == ["resume"]


def test_U2_a_producer_with_nothing_to_write_is_not_polled(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push()
    sock.room = 1000
    transport.registerProducer(producer, False)
    wire.run(50)
    assert producer.calls == ["resume"]
    transport.write(b"late answer")
    wire.run(50)
    assert producer.calls == ["resume", "resume"]


def test_U2_an_idle_connection_that_is_closing_does_not_ask(open_wire, wire):
    _, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, False)
    transport.loseConnection()
    wire.run()
    assert producer.calls == ["resume"]


# --- E: registration and endings


def test_E1_a_second_producer_is_refused_and_the_first_goes_on(open_wire, wire):
    _, transport, sock = open_wire
    first, second = Push(), Push()
    transport.registerProducer(first, True)
    with pytest.raises(RuntimeError) as caught:
        transport.registerProducer(second, False)
    assert repr(first) in str(caught.value) and repr(second) in str(caught.value)
    assert "unregisterProducer()" in str(caught.value)
    transport.write(b"x" * 101)
    sock.room = 101
    wire.run()
    assert (first.calls, second.calls) == (["pause", "resume"], [])


@pytest.mark.parametrize("streaming", [True, False])
def test_E2_registering_on_a_lost_connection_stops_at_once(open_wire, wire, streaming):
    protocol, transport, _ = open_wire
    transport.abortConnection()
    wire.run()
    producer = Push()
    transport.registerProducer(producer, streaming)
    assert (producer.calls, transport.producer) == (["stop"], None)
    assert protocol.calls == ["made", "lost"]


def test_E3_a_lost_connection_stops_its_producer_once_before_the_protocol(open_wire, wire):
    protocol, transport, sock = open_wire
    producer = Push(on_stop=lambda: protocol.calls.append("stop"))
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    sock.error = errno.ECONNRESET
    wire.run(10)
    assert producer.calls == ["pause", "stop"]
    assert protocol.calls == ["made", "stop", "lost"]


def test_E4_unregistering_without_a_producer_or_twice_is_nothing(open_wire, wire):
    _, transport, _ = open_wire
    transport.unregisterProducer()
    transport.registerProducer(Push(), True)
    transport.unregisterProducer()
    transport.unregisterProducer()
    wire.run()
    assert (transport.producer, transport.connected) == (None, True)


def test_E4_after_stop_the_producer_is_unregistered_already(open_wire, wire):
    _, transport, sock = open_wire
    seen = []

    def look():
        seen.append(transport.producer)
        transport.unregisterProducer()

    transport.registerProducer(Push(on_stop=look), True)
    transport.abortConnection()
    wire.run()
    assert seen == [None]


def test_E5_closing_waits_for_the_producer_and_for_pending(open_wire, wire):
    protocol, transport, sock = open_wire
    producer = Push(on_resume=lambda: transport.write(b"y" * 30))
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    transport.loseConnection()
    sock.room = 101
    wire.run()
    assert (producer.calls, protocol.calls) == (["pause", "resume"], ["made"])
    transport.unregisterProducer()
    wire.run()
    assert protocol.calls == ["made"]
    sock.room = 30
    wire.run()
    assert protocol.calls == ["made", "lost"]
    assert protocol.reason.check(ConnectionDone)
    assert len(sock.taken) == 131


def test_E5_a_late_unregister_still_closes(open_wire, wire):
    protocol, transport, sock = open_wire
    transport.registerProducer(Push(), True)
    transport.loseConnection()
    wire.run(20)
    assert (protocol.calls, sock.closed) == (["made"], False)
    transport.unregisterProducer()
    wire.run()
    assert (protocol.calls, sock.closed) == (["made", "lost"], True)


def test_E5_stopConsuming_unregisters_and_closes(open_wire, wire):
    protocol, transport, _ = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    transport.stopConsuming()
    wire.run()
    assert (producer.calls, protocol.calls) == ([], ["made", "lost"])


def test_E6_abort_drops_what_is_pending_and_resets(open_wire, wire):
    protocol, transport, sock = open_wire
    transport.write(b"x" * 101)
    transport.abortConnection()
    sock.room = 1000
    assert (protocol.calls, transport.pending) == (["made"], 0)
    wire.run()
    assert (protocol.calls, bytes(sock.taken)) == (["made", "lost"], b"")
    assert protocol.reason.check(ConnectionAborted)
    assert sock.was_reset and sock.closed


def test_E6_no_resume_follows_an_abort_inside_pause(open_wire, wire):
    protocol, transport, sock = open_wire
    producer = Push(on_pause=transport.abortConnection)
    transport.registerProducer(producer, True)
    transport.write(b"x" * 101)
    assert protocol.calls == ["made"]
    sock.room = 1000
    wire.run()
    assert producer.calls == ["pause", "stop"]
    assert protocol.calls == ["made", "lost"]


@pytest.mark.parametrize("before", ["loseConnection", "abortConnection", "loseWriteConnection"])
def test_E6_aborting_twice_or_after_another_end_is_harmless(open_wire, wire, before):
    protocol, transport, _ = open_wire
    transport.write(b"x")
    getattr(transport, before)()
    transport.abortConnection()
    transport.loseConnection()
    wire.run()
    transport.abortConnection()
    wire.run()
    assert protocol.calls == ["made", "lost"]
    assert protocol.reason.check(ConnectionAborted)


@pytest.mark.parametrize("where", ["after the abort", "inside stopProducing"])
def test_E6_nothing_is_taken_after_an_abort_of_a_half_closing_connection(wire, where):
    transport, sock = wire.connect(Recorder(), room=K)

    def goes_on():
        transport.unregisterProducer()
        transport.write(b"too late")

    transport.registerProducer(Push(on_stop=goes_on), True)
    transport.loseWriteConnection()
    transport.abortConnection()
    if where == "after the abort":
        goes_on()
    wire.run()
    transport.write(b"later still")
    wire.run()
    assert transport.pending == 0
    assert not sock.taken and not wire.reactor.flushes


@pytest.mark.parametrize("first", ["their half", "our half"])
def test_E8_an_abort_inside_a_half_close_notification_ends_in_a_later_iteration(wire, first):
    class Aborts(HalfCloseable):
        def readConnectionLost(self):
            super().readConnectionLost()
            if first == "our half":
                self.transport.abortConnection()

        def writeConnectionLost(self):
            super().writeConnectionLost()
            if first == "their half":
                self.transport.abortConnection()

    protocol = Aborts()
    transport, sock = wire.connect(protocol)
    if first == "our half":
        transport.loseWriteConnection()
        wire.run(2)
        sock.inbox.append(b"")
    else:
        sock.inbox.append(b"")
        wire.run(2)
        transport.loseWriteConnection()
    wire.run(1)
    assert "lost" not in protocol.calls
    wire.run(1)
    assert protocol.reason.check(ConnectionAborted)


def test_E6_a_real_peer_of_an_abort_gets_a_reset(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.abortConnection()
    pump(reactor, lambda: protocol.reason is not None)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_E7_a_half_close_flushes_shuts_the_write_side_and_reads_on(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.write(b"x" * 300_000)
    protocol.transport.loseWriteConnection()
    assert len(drain(reactor, client)) == 300_000
    client.sendall(b"and an answer")
    pump(reactor, lambda: protocol.received == b"and an answer")
    assert protocol.calls == ["made", "data"]


def test_E7_a_half_close_waits_for_the_producer(open_wire, wire):
    _, transport, sock = open_wire
    sock.room = 1000
    transport.registerProducer(Push(), True)
    transport.loseWriteConnection()
    wire.run()
    assert not sock.shut
    transport.write(b"last")
    transport.unregisterProducer()
    wire.run()
    assert (sock.shut, bytes(sock.taken)) == (True, b"last")


def test_E7_a_half_closeable_protocol_is_notified_of_each_half(reactor, closing):
    protocol, client = served(reactor, HalfCloseable())
    closing(client)
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: "read lost" in protocol.calls)
    iterations(reactor)
    assert protocol.calls == ["made", "read lost"]
    protocol.transport.write(b"still writing")
    protocol.transport.loseConnection()
    assert drain(reactor, client) == b"still writing"
    assert protocol.calls == ["made", "read lost", "lost"]
    assert protocol.reason.check(ConnectionDone)


def test_E7_any_other_protocol_is_closed_as_a_whole(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.calls == ["made", "lost"]
    assert protocol.reason.check(ConnectionDone)
    assert drain(reactor, client) == b""


def test_E7_writes_after_the_write_side_closed_are_dropped(reactor, closing):
    protocol, client = served(reactor, HalfCloseable())
    closing(client)
    protocol.transport.loseWriteConnection()
    pump(reactor, lambda: "write lost" in protocol.calls)
    protocol.transport.write(b"too late")
    assert protocol.transport.pending == 0
    producer = Push()
    protocol.transport.registerProducer(producer, True)
    assert producer.calls == ["stop"]
    assert drain(reactor, client) == b""


def test_E7_writes_between_the_half_close_and_the_close_are_dropped_too(wire):
    protocol = HalfCloseable()
    transport, sock = wire.connect(protocol, room=1000)
    transport.loseWriteConnection()
    wire.run()
    transport.loseConnection()
    transport.write(b"too late")
    assert transport.pending == 0
    wire.run()
    assert protocol.calls == ["made", "write lost", "lost"]
    assert protocol.reason.check(ConnectionDone)


def test_E7_an_exception_in_a_half_close_notification_is_logged_once_and_closes(
    reactor, closing, caplog
):
    class Bad(HalfCloseable):
        def readConnectionLost(self):
            raise ValueError("no half-close for me")

    protocol, client = served(reactor, Bad())
    closing(client)
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(ValueError)
    assert len([r for r in caplog.records if r.exc_info]) == 1


@pytest.mark.parametrize("theirs_first", [True, False])
def test_E8_both_halves_close_in_either_order_and_the_end_comes_once(
    reactor, closing, theirs_first
):
    protocol, client = served(reactor, HalfCloseable())
    closing(client)
    ends = [
        (lambda: client.shutdown(socket.SHUT_WR), "read lost"),
        (protocol.transport.loseWriteConnection, "write lost"),
    ]
    if not theirs_first:
        ends.reverse()
    for end, call in ends:
        end()
        pump(reactor, lambda call=call: call in protocol.calls, call)
    iterations(reactor)
    assert protocol.calls == ["made", ends[0][1], ends[1][1], "lost"]
    assert protocol.reason.check(ConnectionDone)


def test_E8_a_half_close_and_then_a_close_frees_the_descriptor(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.loseWriteConnection()
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.calls == ["made", "lost"]
    assert protocol.transport.fileno() == -1


def test_E8_the_end_of_an_abort_is_never_reentrant(reactor, closing):
    class AbortsAtOnce(Recorder):
        def connectionMade(self):
            super().connectionMade()
            self.transport.abortConnection()
            self.calls.append("after abort")

    protocol, client = served(reactor, AbortsAtOnce())
    closing(client)
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.calls == ["made", "after abort", "lost"]


def test_E8_closing_in_connectionMade_still_sends_what_was_written(reactor, closing):
    class Brief(Recorder):
        def connectionMade(self):
            super().connectionMade()
            self.transport.write(b"bye")
            self.transport.loseConnection()

    protocol, client = served(reactor, Brief())
    closing(client)
    assert drain(reactor, client) == b"bye"
    assert protocol.calls == ["made", "lost"]


def test_E8_a_reset_during_the_wait_for_a_producer_ends_the_connection(reactor, closing):
    protocol, client = served(reactor)
    producer = Push()
    protocol.transport.registerProducer(producer, True)
    protocol.transport.loseConnection()
    iterations(reactor)
    reset(client)
    pump(reactor, lambda: protocol.reason is not None, "the reset")
    assert (producer.calls, protocol.calls) == (["stop"], ["made", "lost"])


def test_an_ended_connection_keeps_no_reference_to_its_protocol(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocols = [protocol]
    del protocol
    transport = protocols[0].transport
    gone = weakref.ref(protocols[0])
    transport.abortConnection()
    pump(reactor, lambda: transport.disconnected)
    protocols.pop().factory.built.clear()
    gc.collect()
    assert gone() is None
    assert transport.protocol is None
    assert reactor.getReaders() == reactor.getWriters() == reactor.getDelayedCalls() == []


def test_everything_is_silent_after_the_end(open_wire, wire):
    protocol, transport, sock = open_wire
    transport.loseConnection()
    wire.run()
    transport.write(b"x")
    transport.writeSequence([b"x"])
    transport.setWriteBufferLimits(10)
    for name in [
        "loseConnection",
        "abortConnection",
        "loseWriteConnection",
        "pauseProducing",
        "resumeProducing",
        "stopProducing",
        "unregisterProducer",
        "stopConsuming",
        "startReading",
        "stopReading",
    ]:
        getattr(transport, name)()
    wire.run()
    assert protocol.calls == ["made", "lost"]
    assert (transport.pending, transport.reading, bytes(sock.taken)) == (0, False, b"")
    assert (transport.connected, transport.disconnected) == (False, True)


# --- C: closing loses nothing (the waiting itself: test_linger.py)


def test_C1_unread_input_costs_the_peer_no_byte(reactor, closing):
    class Sender(Recorder):
        def connectionMade(self):
            self.transport.pauseProducing()
            self.transport.write(b"d" * 4_000_000)
            self.transport.loseConnection()

    protocol, client = served(reactor, Sender())
    closing(client)
    client.sendall(b"u" * 50_000)
    assert drain(reactor, client) == b"d" * 4_000_000


def test_C2_the_handle_is_closed_by_the_time_of_connectionLost(reactor, closing):
    class Looks(Recorder):
        def connectionMade(self):
            self.handle = self.transport.getHandle()
            self.transport.loseConnection()

        def connectionLost(self, reason):
            super().connectionLost(reason)
            self.seen = (self.handle.fileno(), self.transport.getHost().port)

    protocol, client = served(reactor, Looks())
    closing(client)
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.seen == (-1, client.getpeername()[1])


# --- R: reading


def test_R1_pause_stops_delivery_until_resume(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.pauseProducing()
    client.sendall(b"wait")
    iterations(reactor)
    assert protocol.received == b""
    protocol.transport.resumeProducing()
    pump(reactor, lambda: protocol.received == b"wait")


@pytest.mark.parametrize("where", ["connectionMade", "dataReceived"])
def test_R1_a_pause_inside_a_callback_holds(reactor, closing, where):
    class Pauses(Recorder):
        def connectionMade(self):
            super().connectionMade()
            if where == "connectionMade":
                self.transport.pauseProducing()

        def dataReceived(self, data):
            super().dataReceived(data)
            self.transport.pauseProducing()

    protocol, client = served(reactor, Pauses())
    closing(client)
    client.sendall(b"a" * 100_000)
    iterations(reactor, 20)
    first = len(protocol.received)
    assert first <= (0 if where == "connectionMade" else SMALLEST_READ)
    assert protocol.calls.count("data") == (0 if where == "connectionMade" else 1)


class Lines(LineReceiver):
    """A line receiver that pauses its transport at each line."""

    delimiter = b"\n"

    def __init__(self):
        self.lines = []
        self.reason = None

    def lineReceived(self, line):
        self.lines.append(line)
        self.transport.pauseProducing()

    def connectionLost(self, reason):
        self.reason = reason


def test_R1_a_pause_holds_back_the_lines_of_the_same_packet(reactor, closing):
    protocol, client = served(reactor, Lines())
    closing(client)
    client.sendall(b"one\ntwo\n")
    pump(reactor, lambda: protocol.lines)
    iterations(reactor)
    assert protocol.lines == [b"one"]
    protocol.transport.resumeProducing()
    iterations(reactor)
    assert protocol.lines == [b"one", b"two"]


def test_R1_buffered_lines_come_before_the_end_of_the_stream(reactor, closing):
    protocol, client = served(reactor, Lines())
    client.sendall(b"one\ntwo\nthree\n")
    client.close()
    pump(reactor, lambda: protocol.lines)
    for count in (2, 3):
        iterations(reactor)
        assert protocol.reason is None
        protocol.transport.resumeProducing()
        pump(reactor, lambda count=count: len(protocol.lines) == count)
    protocol.transport.resumeProducing()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.lines == [b"one", b"two", b"three"]


def test_R1_buffered_input_can_be_completed_after_the_end_of_the_stream(wire):
    class LastLines(Lines):
        def lineReceived(self, line):
            self.lines.append(line)
            if line == b"third":
                self.transport.pauseProducing()

        def readConnectionLost(self):
            self.dataReceived(b"\nthird\nfourth\n")

        def writeConnectionLost(self):
            pass

    protocol = LastLines()
    transport, sock = wire.connect(protocol)
    sock.inbox += [b"first\nsec", b"ond", b""]
    wire.run()
    assert protocol.lines == [b"first", b"second", b"third"]
    transport.resumeProducing()
    wire.run()
    assert protocol.lines[3:] == [b"fourth"]
    assert not wire.reactor.getReaders()


def test_R1_nothing_is_read_while_buffered_lines_wait_for_their_turn(wire):
    class Slow(Lines):
        def lineReceived(self, line):
            super().lineReceived(line)
            wire.reactor.callLater(0, self.transport.resumeProducing)

    protocol = Slow()
    transport, sock = wire.connect(protocol)
    sock.inbox = [b"line\n" * 100_000]
    for count in range(1, 1000):
        wire.run(2)
        assert len(protocol.lines) >= count / 2
        buffered = transport.bytes_in - len(protocol.lines) * len("line\n")
        assert buffered <= LARGEST_READ  # that of one read


def test_R1_an_exception_in_a_buffered_line_ends_its_own_connection(reactor, closing):
    class Bad(Lines):
        def lineReceived(self, line):
            super().lineReceived(line)
            if line == b"two":
                raise ValueError("two")

    protocol, client = served(reactor, Bad())
    closing(client)
    client.sendall(b"one\ntwo\n")
    pump(reactor, lambda: protocol.lines)
    protocol.transport.resumeProducing()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(ValueError)


def test_R1_pause_and_resume_are_idempotent_and_nothing_while_closing(open_wire, wire):
    _, transport, sock = open_wire
    for _ in range(2):
        transport.pauseProducing()
        wire.run()
        assert not transport.reading
    for _ in range(2):
        transport.resumeProducing()
        wire.run()
        assert transport.reading
    transport.write(b"x")
    transport.loseConnection()
    transport.resumeProducing()
    assert not transport.reading


def test_R1_resume_after_the_peers_end_reads_no_more(reactor, closing):
    protocol, client = served(reactor, HalfCloseable())
    closing(client)
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: "read lost" in protocol.calls)
    protocol.transport.pauseProducing()
    protocol.transport.resumeProducing()
    iterations(reactor)
    assert protocol.calls == ["made", "read lost"]


def test_R2_a_paused_drained_connection_notices_a_reset(reactor):
    protocol, client = served(reactor)
    protocol.transport.pauseProducing()
    iterations(reactor)
    reset(client)
    pump(reactor, lambda: protocol.reason is not None, "the reset")
    assert protocol.calls == ["made", "lost"]
    assert protocol.reason.check(ConnectionLost)


def test_R2_a_paused_connection_whose_peer_closed_in_order_reports_it_once_on_resume(reactor):
    protocol, client = served(reactor)
    protocol.transport.pauseProducing()
    client.sendall(b"last words")
    client.close()
    iterations(reactor, 20)
    assert protocol.calls == ["made"]
    protocol.transport.resumeProducing()
    pump(reactor, lambda: protocol.reason is not None)
    iterations(reactor)
    assert protocol.calls == ["made", "data", "lost"]
    assert protocol.received == b"last words"


def test_R2_a_paused_connection_that_writes_to_a_closed_peer_learns_of_it(reactor):
    protocol, client = served(reactor)
    protocol.transport.pauseProducing()
    client.close()
    protocol.transport.write(b"are you there?")
    pump(reactor, lambda: protocol.reason is not None, "the loss")
    assert protocol.calls == ["made", "lost"]


def test_R2_no_spin_while_paused_with_input_and_the_peers_end_waiting(reactor, closing):
    protocol, client = served(reactor, HalfCloseable())
    protocol.transport.loseWriteConnection()
    pump(reactor, lambda: "write lost" in protocol.calls)
    protocol.transport.pauseProducing()
    client.sendall(b"unread")
    client.close()
    events = []
    poll = reactor._poller.poll

    def counted(timeout, most):
        ready = poll(timeout, most)
        events.extend(ready)
        return ready

    reactor._poller.poll = counted
    iterations(reactor, 100)
    # One poll finds an unwanted event, one reports the hang-up.
    assert len(events) <= 3
    protocol.transport.resumeProducing()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.received == b"unread"
    assert protocol.calls == ["made", "write lost", "data", "read lost", "lost"]


def test_R3_nothing_is_delivered_after_loseConnection(wire):
    class Stops(Recorder):
        def dataReceived(self, data):
            super().dataReceived(data)
            self.transport.loseConnection()

    protocol = Stops()
    transport, sock = wire.connect(protocol)
    transport.write(b"pending")
    sock.inbox = [b"first", b"second"]
    wire.run()
    assert (protocol.received, protocol.calls) == (b"first", ["made", "data"])


def test_R3_a_line_receiver_delivers_no_further_line_after_loseConnection(reactor, closing):
    class Stops(Lines):
        def lineReceived(self, line):
            self.lines.append(line)
            self.transport.loseConnection()

    protocol, client = served(reactor, Stops())
    closing(client)
    client.sendall(b"one\ntwo\n")
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.lines == [b"one"]


def test_R4_one_connection_gets_a_bounded_share_of_an_iteration(wire):
    protocol = Recorder()
    transport, sock = wire.connect(protocol, room=1 << 30)
    sock.inbox = [b"i" * (1 << 20) for _ in range(20)]
    transport.write(b"o" * (20 << 20))
    for _ in range(12):
        before_in, before_out = transport.bytes_in, transport.bytes_out
        wire.run(1)
        assert 0 < transport.bytes_in - before_in <= LARGEST_READ
        # One send in the flush, and one for being writable.
        assert 0 < transport.bytes_out - before_out <= 2 * LARGEST_SEND


def test_R4_the_read_size_grows_with_full_reads_and_shrinks_with_small_ones(wire):
    protocol = Recorder()
    transport, sock = wire.connect(protocol)
    sock.inbox = [b"i" * (4 << 20)]
    sizes = []
    for _ in range(6):
        before = transport.bytes_in
        wire.run(1)
        sizes.append(transport.bytes_in - before)
    assert sizes[0] == SMALLEST_READ and sizes[-1] == LARGEST_READ
    assert sizes == sorted(sizes)
    sock.inbox = []
    for _ in range(20):
        sock.inbox = [b"i"]
        wire.run(1)
    sock.inbox = [b"i" * (1 << 20)]
    before = transport.bytes_in
    wire.run(1)
    assert transport.bytes_in - before == SMALLEST_READ


def test_E7_what_an_answer_adds_after_the_write_side_has_ended_is_dropped(wire):
    class Answering(HalfCloseable):
        def dataReceived(self, data):
            super().dataReceived(data)
            self.transport.write(b"too late")

    protocol = Answering()
    transport, sock = wire.connect(protocol, room=100)
    transport.loseWriteConnection()
    wire.run()
    assert protocol.calls == ["made", "write lost"]
    sock.inbox = [b"question"]
    wire.run()
    assert protocol.calls == ["made", "write lost", "data"]
    assert transport.connected and transport.pending == 0


def test_one_read_larger_than_the_high_mark_does_not_deadlock(reactor, closing):
    class Echo(Recorder):
        def connectionMade(self):
            self.transport.setWriteBufferLimits(1000, 100)
            self.transport.registerProducer(self.transport, True)

        def dataReceived(self, data):
            self.transport.write(data)

    protocol, client = served(reactor, Echo())
    closing(client)
    payload = os.urandom(200_000)
    client.sendall(payload)
    assert receive(reactor, client, len(payload)) == payload


# --- B: bytes and errors


@pytest.mark.parametrize("size", [10, 3 * LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_B1_any_buffer_is_taken_as_it_was_at_the_call(open_wire, wire, kind, size):
    _, transport, sock = open_wire
    source = bytearray(b"a" * size)
    transport.write(b"first ")
    transport.write(bytes(source) if kind is bytes else kind(source))
    source[:] = b"b" * size
    sock.room = 1 << 20
    wire.run()
    assert bytes(sock.taken) == b"first " + b"a" * size


def test_B1_a_view_of_wider_items_counts_in_bytes(open_wire, wire):
    _, transport, sock = open_wire
    view = memoryview(bytes(range(64))).cast("I")
    transport.write(view)
    transport.write(view[::2])
    assert transport.pending == 64 + 32
    sock.room = 1000
    wire.run()
    assert bytes(sock.taken) == bytes(range(64)) + view[::2].tobytes()


@pytest.mark.parametrize("first", [b"", b"something before"])
@pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2], object()])
def test_B1_anything_else_is_a_TypeError_and_nothing_is_queued(open_wire, wire, first, wrong):
    _, transport, sock = open_wire
    transport.write(first)
    with pytest.raises(TypeError):
        transport.write(wrong)
    with pytest.raises(TypeError):
        transport.writeSequence([b"not this", wrong])
    assert transport.pending == len(first)


@pytest.mark.parametrize("first", [b"", b"something before"])
def test_B1_the_TypeError_for_str_says_so(open_wire, first):
    _, transport, _ = open_wire
    transport.write(first)
    with pytest.raises(TypeError, match="not str"):
        transport.write("text")


def test_B2_write_never_sends_at_once(open_wire, wire):
    _, transport, sock = open_wire
    sock.room = 1000
    transport.write(b"x" * 200)
    transport.write(b"y" * 20_000)
    assert sock.sends == 0
    wire.run(1)
    assert sock.sends == 1


def test_B2_a_thousand_small_writes_are_one_send(open_wire, wire):
    _, transport, sock = open_wire
    sock.room = 1 << 20
    for _ in range(1000):
        transport.write(b"small")
    wire.run()
    assert (sock.sends, len(sock.taken)) == (1, 5000)


def test_B2_write_does_not_raise_for_a_peer_that_has_gone(reactor):
    protocol, client = served(reactor)
    reset(client)
    for _ in range(3):
        protocol.transport.write(b"x" * 100_000)
        reactor.iterate()
    pump(reactor, lambda: protocol.reason is not None)
    protocol.transport.write(b"and after it")
    assert protocol.calls == ["made", "lost"]
    assert protocol.reason.check(ConnectionLost)


# Any class but KeyboardInterrupt and SystemExit: other libraries and programs derive their own
# from BaseException.
ERRORS = [
    ZeroDivisionError,
    GeneratorExit,
    asyncio.CancelledError,
    type("Own", (BaseException,), {}),
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["connectionMade", "dataReceived"])
def test_B3_an_exception_in_a_protocol_ends_that_connection_only(
    reactor, closing, caplog, where, error
):
    class Bad(Recorder):
        pass

    def fail(self, *args):
        self.calls.append(where)
        raise error("my mistake")

    setattr(Bad, where, fail)
    good = Recorder()
    bad = Bad()
    port = reactor.listenTCP(0, OneFactory(good, bad), interface="127.0.0.1")
    good_client, bad_client = closing(connect(port)), closing(connect(port))
    bad_client.sendall(b"x")
    pump(reactor, lambda: bad.reason is not None)
    assert bad.calls == (["made"] if where == "dataReceived" else []) + [where, "lost"]
    assert bad.reason.check(error)
    records = [r for r in caplog.records if r.exc_info]
    assert [(r.name, r.exc_info[0]) for r in records] == [("minireactor", error)]
    good_client.sendall(b"still here")
    pump(reactor, lambda: good.received == b"still here")


@pytest.mark.parametrize("error", ERRORS)
def test_B3_an_exception_in_connectionLost_is_logged_and_that_is_all(
    reactor, closing, caplog, error
):
    class Bad(Recorder):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            raise error

    protocol, client = served(reactor, Bad())
    closing(client)
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    iterations(reactor)
    assert protocol.calls == ["made", "lost"]
    assert len([r for r in caplog.records if r.exc_info]) == 1


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["pause", "resume", "stop"])
def test_B3_a_producer_that_raises_ends_its_own_connection_only(wire, caplog, call, error):
    def fail():
        raise error(call)

    protocol, other = Recorder(), Recorder()
    transport, sock = wire.connect(protocol)
    other_transport, other_sock = wire.connect(other, room=1000)
    producer = Push(**{f"on_{call}": fail})
    transport.registerProducer(producer, True)
    transport.setWriteBufferLimits(10)
    transport.write(b"x" * 11)
    sock.room = 11
    wire.run()
    if call == "stop":
        transport.abortConnection()
        wire.run()
    assert protocol.calls == ["made", "lost"]
    assert producer.calls.count("stop") == 1
    other_transport.write(b"fine")
    wire.run()
    assert bytes(other_sock.taken) == b"fine"
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [error]
    if call != "stop":
        assert protocol.reason.check(error)


def test_B3_a_producer_that_raises_inside_anothers_write_spares_the_writer(wire, caplog):
    victim, writer = Recorder(), Recorder()
    transport, _ = wire.connect(victim)
    wire.connect(writer)
    transport.setWriteBufferLimits(10)
    transport.registerProducer(Push(on_pause=lambda: 1 / 0), True)
    writer.dataReceived = lambda data: transport.write(data)
    writer.transport.socket.inbox = [b"x" * 11]
    wire.run()
    assert (victim.calls, writer.calls) == (["made", "lost"], ["made"])


@pytest.mark.parametrize("through", [KeyboardInterrupt, SystemExit])
def test_B3_KeyboardInterrupt_and_SystemExit_go_through(wire, through):
    class Stops(Recorder):
        def dataReceived(self, data):
            raise through

    _, sock = wire.connect(Stops())
    sock.inbox = [b"x"]
    with pytest.raises(through):
        wire.run()


# --- more cases from the field


@pytest.mark.parametrize(
    "chunks", [[b"z" * 20_000_000], [b"%06d" % n for n in range(100_000)], [b"q" * 9000] * 1500]
)
def test_a_long_sequence_arrives_whole(reactor, closing, chunks):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.writeSequence(chunks)
    protocol.transport.loseConnection()
    assert drain(reactor, client) == b"".join(chunks)


def test_over_a_thousand_large_chunks_arrive_whole(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    chunks = [bytes([n % 251]) * LARGE for n in range(1500)]
    for chunk in chunks:
        protocol.transport.write(chunk)
        protocol.transport.write(b"|")
    protocol.transport.loseConnection()
    assert drain(reactor, client) == b"".join(chunk + b"|" for chunk in chunks)


def test_a_send_that_would_block_after_a_chunk_loses_nothing_and_repeats_nothing(open_wire, wire):
    _, transport, sock = open_wire
    payload = os.urandom(3 * LARGE + 777)
    transport.write(payload[:LARGE])
    transport.write(payload[LARGE : LARGE + 77])
    transport.write(payload[LARGE + 77 :])
    while transport.pending:
        sock.room = 1000
        wire.run(2)
        assert sock.taken == payload[: len(sock.taken)]
    assert bytes(sock.taken) == payload


@pytest.mark.parametrize("sequence", [False, True], ids=["write", "writeSequence"])
def test_many_small_chunks_are_linear(wire, sequence):
    def write(count):
        transport, sock = wire.connect(Recorder())
        transport.setWriteBufferLimits(100, 20)  # above it, each write costs a little more
        chunks = [b"0123456789"] * count
        if sequence:
            transport.writeSequence(chunks)
        else:
            for chunk in chunks:
                transport.write(chunk)
        while transport.pending:
            sock.room = 64 * 1024
            wire.run(2)
        assert len(sock.taken) == 10 * count
        transport.abortConnection()

    assert_linear(write, 5000)


def test_a_hundred_thousand_small_chunks_go_out_in_few_sends(open_wire, wire):
    _, transport, sock = open_wire
    producer = Push()
    transport.registerProducer(producer, True)
    for _ in range(100_000):
        transport.write(b"0123456789")
    assert (transport.pending, producer.calls) == (1_000_000, ["pause"])
    sock.room = 1 << 30
    wire.run()
    assert (len(sock.taken), sock.sends) == (1_000_000, 1)


@pytest.mark.slow
def test_a_hundred_megabytes_in_one_write_arrive(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.write(bytes(100_000_000))
    protocol.transport.loseConnection()
    assert len(drain(reactor, client)) == 100_000_000


def test_write_interest_is_off_when_there_is_nothing_to_write(open_wire, wire):
    _, transport, sock = open_wire
    transport.write(b"x" * 50)
    wire.run()
    assert transport.writing and transport in wire.reactor.getWriters()
    sock.room = 1000
    wire.run()
    assert not transport.writing and wire.reactor.getWriters() == []
    polled = wire.poller.masks[transport.fd]
    assert polled & flow.HIGH == 0
    assert wire.poller.poll(0, 1) == []


# --- inspection


def test_addresses_are_numbers_and_outlive_the_connection(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    expected = (client.getpeername(), client.getsockname())
    for _ in range(2):
        host, peer = transport.getHost(), transport.getPeer()
        assert ((host.host, host.port), (peer.host, peer.port)) == expected
        transport.abortConnection()
        pump(reactor, lambda: protocol.reason is not None)


def test_peer_address_is_what_the_factory_was_given(wire):
    transport, _ = wire.connect(Recorder())
    assert transport.getPeer() is PEER


@pytest.mark.parametrize("name", ["TcpNoDelay", "TcpKeepAlive"])
def test_socket_options_can_be_read_and_set(reactor, closing, name):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    getattr(transport, "set" + name)(True)
    assert getattr(transport, "get" + name)()
    getattr(transport, "set" + name)(0)
    assert not getattr(transport, "get" + name)()


def test_nothing_waits_for_more_to_be_written(reactor, closing):
    accepted, client = served(reactor)
    closing(client)
    with socket.create_server(("127.0.0.1", 0)) as far:
        factory = RecordingClientFactory(Recorder())
        reactor.connectTCP("127.0.0.1", far.getsockname()[1], factory)
        pump(reactor, lambda: factory.connection and factory.connection.transport)
        assert accepted.transport.getTcpNoDelay()
        assert factory.connection.transport.getTcpNoDelay()
        assert not accepted.transport.getTcpKeepAlive()


def test_what_is_written_after_input_that_was_not_answered_is_sent(open_wire, wire):
    protocol, transport, sock = open_wire
    sock.room = 10
    sock.inbox.append(b"question")
    wire.run()
    assert bytes(protocol.received) == b"question"
    transport.write(b"late")
    wire.run()
    assert bytes(sock.taken) == b"late"


def test_a_read_hook_outlasts_the_delivery_of_buffered_lines(wire):
    class Pauses(LineReceiver):
        delimiter = b"\n"

        def lineReceived(self, line):
            lines.append(line)
            self.transport.pauseProducing()

    def hook():
        hooked.append(list(lines))
        return True

    lines, hooked = [], []
    transport, sock = wire.connect(Pauses())
    sock.inbox.append(b"1\n2\n")
    wire.run()
    assert lines == [b"1"]
    transport.set_read_hook(hook)
    transport.resumeProducing()
    wire.run()
    assert (lines, hooked) == ([b"1", b"2"], [])
    sock.inbox.append(b"3\n")
    transport.resumeProducing()
    wire.run()
    assert lines == [b"1", b"2", b"3"]
    assert hooked and hooked[0] == [b"1", b"2"]
    transport.set_read_hook(None)


def test_states_that_twisted_programs_read(open_wire, wire):
    _, transport, _ = open_wire
    states = [(transport.connected, transport.disconnecting, transport.disconnected)]
    transport.write(b"x")
    transport.loseConnection()
    states.append((transport.connected, transport.disconnecting, transport.disconnected))
    transport.abortConnection()
    wire.run()
    states.append((transport.connected, transport.disconnecting, transport.disconnected))
    assert states == [(True, False, False), (True, True, False), (False, True, True)]


def test_disconnecting_says_that_this_side_asked_for_the_end(wire):
    for end, asked in (
        (lambda transport, sock: sock.inbox.append(b""), False),
        (lambda transport, sock: setattr(sock, "error", errno.ECONNRESET), False),
        (lambda transport, sock: transport.loseConnection(), True),
        (lambda transport, sock: transport.abortConnection(), True),
    ):
        transport, sock = wire.connect(Recorder())
        end(transport, sock)
        wire.run()
        assert transport.disconnected
        assert transport.disconnecting == asked


def test_a_program_can_keep_things_on_a_transport_and_replace_its_methods(wire):
    transport, sock = wire.connect(Recorder(), room=K)
    written = []
    original = transport.write
    transport.name = "mine"
    transport.write = lambda data: (written.append(data), original(data))
    transport.write(b"x")
    wire.run()
    assert (transport.name, written, sock.taken) == ("mine", [b"x"], b"x")


def test_counters_count_what_went_through(open_wire, wire):
    _, transport, sock = open_wire
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 150)
    sock.inbox = [b"y" * 33]
    sock.room = 150
    wire.run()
    assert (transport.bytes_in, transport.bytes_out) == (33, 150)
    assert (transport.pauses, transport.highest_pending) == (1, 150)


def test_the_monitor_is_notified_before_each_call(wire):
    seen = []
    wire.reactor.add_observer(lambda event, connection, reason: seen.append((event, reason)))
    protocol = Recorder()
    transport, sock = wire.connect(protocol)
    transport.setWriteBufferLimits(10)
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 11)
    sock.room = 11
    wire.run()
    transport.abortConnection()
    wire.run()
    assert seen == [
        ("connectionMade", None),
        ("pauseProducing", None),
        ("resumeProducing", None),
        ("stopProducing", None),
        ("connectionLost", protocol.reason),
    ]


def test_an_unlogged_level_stays_quiet(open_wire, wire, caplog):
    caplog.set_level(logging.DEBUG)
    _, transport, _ = open_wire
    transport.loseConnection()
    wire.run()
    assert caplog.records == []


def test_E7_a_producer_that_ends_inside_resume_leaves_a_closed_write_side_closed(wire):
    transport, sock = wire.connect(Recorder())
    transport.setWriteBufferLimits(10)
    transport.registerProducer(Push(on_resume=transport.unregisterProducer), True)
    transport.write(b"x" * 11)
    transport.loseWriteConnection()
    sock.room = 1000
    wire.run()
    assert sock.shut
    transport.write(b"too late")
    assert transport.pending == 0


@pytest.mark.parametrize("ending", ["loseConnection", "abortConnection"])
def test_E8_a_handle_that_the_application_closed_does_not_spoil_the_end(reactor, closing, ending):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.getHandle().close()
    getattr(protocol.transport, ending)()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.calls == ["made", "lost"]


def test_B3_a_producer_without_the_method_is_logged_like_one_that_raises(wire, caplog):
    protocol = Recorder()
    transport, _ = wire.connect(protocol)
    transport.registerProducer(object(), True)
    transport.abortConnection()
    wire.run()
    assert protocol.calls == ["made", "lost"]
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [AttributeError]


# --- Turns


def test_T5_a_flush_resumes_nobody_and_the_turn_after_it_does(wire):
    transport, sock = wire.connect(Recorder(), room=0)
    transport.setWriteBufferLimits(10)
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 11)
    sock.room = 11
    wire.reactor._flush()
    assert (transport.pending, producer.calls) == (0, ["pause"])
    wire.run(1)
    assert producer.calls == ["pause", "resume"]


def test_T5_a_producer_above_low_again_is_passed_over_until_that_is_sent(wire):
    transport, sock = wire.connect(Recorder(), room=0)
    transport.setWriteBufferLimits(10)
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 11)
    sock.room = 11
    wire.reactor._flush()
    transport.write(b"y" * 5)
    wire.reactor._take_turns()
    assert producer.calls == ["pause"]
    sock.room = 5
    wire.run()
    assert producer.calls == ["pause", "resume"]


def test_U2_a_pull_producer_is_not_asked_for_the_flush_before_it_was_registered(wire):
    transport, _ = wire.connect(Recorder(), room=100)
    transport.registerProducer(Push(), False)
    transport.write(b"x")
    wire.reactor._flush()
    transport.unregisterProducer()
    second = Push()
    transport.registerProducer(second, False)
    wire.reactor._take_turns()
    assert second.calls == ["resume"]
    transport.write(b"x")
    wire.run()
    assert second.calls == ["resume", "resume"]


def test_U1_a_pull_producer_is_asked_once_for_any_number_of_flushes_before_its_turn(wire):
    transport, sock = wire.connect(Recorder(), room=100)
    producer = Push()
    transport.registerProducer(producer, False)
    for _ in range(3):
        transport.write(b"x")
        wire.reactor._flush()
    wire.run()
    assert producer.calls == ["resume", "resume"]


def test_E6_no_resume_follows_an_abort_that_comes_before_the_turn(wire):
    transport, sock = wire.connect(Recorder(), room=0)
    transport.setWriteBufferLimits(10)
    producer = Push()
    transport.registerProducer(producer, True)
    transport.write(b"x" * 11)
    sock.room = 11
    wire.reactor._flush()
    transport.abortConnection()
    wire.reactor._take_turns()
    wire.run()
    assert producer.calls == ["pause", "stop"]


def test_T5_while_a_timer_is_due_a_connection_reads_less(wire):
    transport, sock = wire.connect(Recorder(), room=1 << 20)
    sock.inbox = [bytes(1 << 22)]
    wire.run(6)  # until reads are as large as they get
    before = transport.bytes_in
    wire.reactor.callLater(0, lambda: None)
    wire.run(1)
    assert transport.bytes_in - before == SMALLEST_READ
    wire.run(1)
    assert transport.bytes_in - before == SMALLEST_READ + LARGEST_READ


def test_T5_flushes_of_many_connections_share_an_iteration(wire):
    pairs = [wire.connect(Recorder(), room=1 << 20) for _ in range(400)]
    for transport, _ in pairs:
        transport.write(bytes(1 << 20))
    wire.run(1)
    # Once in the flush and once more as the socket is writable.
    assert {len(sock.taken) for _, sock in pairs} == {2 * SMALLEST_SHARE}


def test_a_connection_has_its_marks_and_the_state_of_its_flow_control(wire):
    transport, _ = wire.connect(Recorder(), room=0)
    transport.setWriteBufferLimits(10, 3)
    assert (transport.marks, transport.flow_state) == ((10, 3), flow.NONE)
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 11)
    assert transport.flow_state == flow.PAUSED
