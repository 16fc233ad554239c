"""Joined connections: what passes through, what pauses it, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import re
import socket
import sys
import weakref
from pathlib import Path

import pytest
from proxy_support import (
    MAX_AT_A_TIME,
    MODES,
    Line,
    RecordingProxyFactory,
    accepted_client,
    end_of,
    exchange,
    full,
    is_quiet,
    listening,
    other,
    send_until_it_sticks,
    unused_number,
)
from scripted import Wire
from support import (
    HalfCloseable,
    Recorder,
    Watched,
    connect,
    drain,
    iterations,
    next_timer,
    pump,
    receive,
    reset,
)

from minireactor import Reactor
from minireactor.core import flow
from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost
from minireactor.proxy import Proxy, ProxyFactory, join
from minireactor.proxy.legs import Leg
from minireactor.transports import connector
from minireactor.transports.connection import LARGEST_READ
from minireactor.transports.kernel import send_queue

MEGABYTE = 1024 * 1024
PLENTY = bytes(range(256)) * 4096 * 32  # 32 MiB: more than all kernel buffers on the way take
SIDES = ["client", "target"]

FOLDER = Path(__file__).parent.parent / "minireactor" / "proxy"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def line(reactor, closing, mode):
    """line(**options) returns a Line: client, proxy and target, connected."""
    return lambda **options: Line(reactor, closing, mode, **options)


@pytest.fixture
def joined(wire):
    """Two joined connections on scripted sockets, `a` and `b`."""

    class Joined:
        def __init__(self):
            self.a, self.a_socket = wire.connect(HalfCloseable(), room=10**9)
            self.b, self.b_socket = wire.connect(HalfCloseable(), room=10**9)
            self.lost = []
            join(self.a, self.b, on_lost=lambda t, reason: self.lost.append((t, reason.type)))

    return Joined()


# Joining, on a scripted kernel.


def test_each_connection_writes_what_the_other_reads(wire, joined):
    joined.a_socket.inbox.append(b"there")
    joined.b_socket.inbox.append(b"and back")
    wire.run()
    assert joined.b_socket.taken == b"there"
    assert joined.a_socket.taken == b"and back"
    assert (joined.a.bytes_in, joined.b.bytes_out) == (5, 5)
    assert (joined.b.bytes_in, joined.a.bytes_out) == (8, 8)


def test_each_is_the_others_push_producer(joined):
    assert joined.a.producer is joined.b and joined.a.streamingProducer
    assert joined.b.producer is joined.a and joined.b.streamingProducer


def test_M2_above_high_the_source_is_not_read_and_at_low_it_is_again(wire, joined):
    joined.b.setWriteBufferLimits(1000, 200)
    joined.b_socket.room = 0
    joined.a_socket.inbox += [b"x" * 1000, b"y", b"later"]

    wire.run(10)
    assert joined.b.pending == 1001  # 1000 is not above
    assert joined.a_socket.inbox == [b"later"]
    assert joined.b.pauses == 1

    joined.b_socket.room = 800
    wire.run()
    assert joined.a_socket.inbox == [b"later"]  # 201 is not at low
    joined.b_socket.room = 1
    wire.run()
    assert joined.a_socket.inbox == []


def test_back_pressure_in_one_direction_leaves_the_other_alone(wire, joined):
    joined.b.setWriteBufferLimits(1000)
    joined.b_socket.room = 0
    joined.a_socket.inbox += [b"x" * 2000, b"waits"]
    wire.run()

    joined.b_socket.inbox.append(b"does not wait")
    wire.run()

    assert joined.a_socket.inbox == [b"waits"]
    assert joined.a_socket.taken == b"does not wait"


def test_E7_a_half_close_travels_behind_what_is_pending(wire, joined):
    joined.b_socket.room = 3
    joined.a_socket.inbox += [b"12345", b""]
    wire.run(10)
    assert joined.b_socket.taken == b"123" and not joined.b_socket.shut

    joined.b_socket.room = 10
    wire.run()
    assert joined.b_socket.taken == b"12345" and joined.b_socket.shut

    joined.b_socket.inbox.append(b"reply")
    wire.run()
    assert joined.a_socket.taken == b"reply"
    assert not joined.a_socket.shut and joined.lost == []


def test_E8_both_halves_closed_end_both_in_order_and_once(wire, joined):
    joined.a_socket.inbox.append(b"")
    wire.run()
    joined.b_socket.inbox.append(b"")
    wire.run()
    assert sorted(t is joined.a for t, _ in joined.lost) == [False, True]
    assert {kind for _, kind in joined.lost} == {ConnectionDone}
    assert joined.a_socket.closed and joined.b_socket.closed
    assert not joined.a_socket.was_reset and not joined.b_socket.was_reset
    assert wire.reactor.getReaders() == wire.reactor.getWriters() == []


def test_a_connection_that_is_closed_closes_the_other_once_its_bytes_are_flushed(wire, joined):
    joined.b_socket.room = 0
    joined.a_socket.inbox.append(b"last words")
    wire.run()

    joined.a.unregisterProducer()
    joined.a.loseConnection()
    wire.run()
    assert joined.lost == [(joined.a, ConnectionDone)]
    assert not joined.b_socket.closed

    joined.b_socket.room = 100
    wire.run()
    assert joined.b_socket.taken == b"last words"
    assert joined.lost[1:] == [(joined.b, ConnectionDone)]
    assert joined.b_socket.closed and not joined.b_socket.was_reset


def test_a_reset_is_passed_on_and_what_is_pending_dropped(wire, joined):
    joined.b_socket.room = 0
    joined.a_socket.inbox.append(b"half of a messa")
    wire.run()

    joined.a_socket.error = errno.ECONNRESET
    wire.run()

    assert joined.lost == [(joined.a, ConnectionLost), (joined.b, ConnectionAborted)]
    assert joined.b_socket.was_reset and joined.b_socket.taken == b""


def test_E6_an_abort_is_passed_on(wire, joined):
    joined.a.abortConnection()
    wire.run()
    assert joined.lost == [(joined.a, ConnectionAborted), (joined.b, ConnectionAborted)]
    assert joined.a_socket.was_reset and joined.b_socket.was_reset


def test_a_reset_behind_the_whole_stream_costs_none_of_its_bytes(wire, joined):
    joined.b_socket.room = 0
    joined.a_socket.inbox += [b"all of it", b""]
    wire.run()

    joined.a_socket.error = errno.ECONNRESET
    wire.run()
    assert joined.lost == [(joined.a, ConnectionLost)]

    joined.b_socket.room = 100
    wire.run()
    assert joined.b_socket.taken == b"all of it"
    assert joined.b_socket.closed and not joined.b_socket.was_reset


def test_a_reset_behind_the_whole_stream_is_passed_on_once_that_has_gone(wire, joined):
    joined.a_socket.inbox += [b"all of it", b""]
    wire.run()
    joined.a_socket.error = errno.ECONNRESET
    wire.run()
    assert joined.b_socket.taken == b"all of it"
    assert joined.b_socket.was_reset


def test_R2_a_reset_is_noticed_while_the_other_side_is_full(wire, joined):
    joined.b.setWriteBufferLimits(10)
    joined.b_socket.room = 0
    joined.a_socket.inbox += [b"x" * 100, b"not read"]
    wire.run()
    assert not joined.a.reading

    joined.a_socket.inbox.clear()
    joined.a_socket.error = errno.ECONNRESET
    wire.run()

    assert joined.b_socket.was_reset


def test_bytes_that_are_written_before_joining_come_first_and_count(wire):
    a, a_socket = wire.connect(Recorder(), room=0)
    b, b_socket = wire.connect(Recorder(), room=0)
    b.setWriteBufferLimits(10)
    b.write(b"read before")
    a_socket.inbox += [b" and after", b" and later"]

    join(a, b)
    wire.run()
    assert not a.reading and a_socket.inbox == [b" and later"]

    b_socket.room = 100
    wire.run()
    assert b_socket.taken == b"read before and after and later"


def test_a_connection_that_was_paused_flows_after_the_join(wire):
    a, a_socket = wire.connect(Recorder(), room=0)
    b, b_socket = wire.connect(Recorder(), room=100)
    a.pauseProducing()
    a_socket.inbox.append(b"waited")
    wire.run()
    join(a, b)
    wire.run()
    assert b_socket.taken == b"waited"


@pytest.mark.parametrize("which", [0, 1])
def test_E2_joining_a_connection_whose_peer_has_closed_closes_the_other(wire, which):
    pairs = [wire.connect(Recorder(), room=100) for _ in range(2)]
    pairs[which][1].inbox.append(b"")
    wire.run()

    join(*(transport for transport, _ in pairs))
    wire.run()

    assert [transport.disconnected for transport, _ in pairs] == [True, True]


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("passed", [0, 3], ids=["closing", "closed"])
@pytest.mark.parametrize("which", [0, 1])
def test_E2_joining_one_that_has_ended_closes_the_other(wire, end, passed, which):
    pair = [wire.connect(Recorder(), room=100)[0] for _ in range(2)]
    getattr(pair[which], end)()
    wire.run(passed)

    join(*pair)
    wire.run()

    assert [transport.disconnected for transport in pair] == [True, True]


def test_E1_a_connection_that_has_a_producer_cannot_be_joined(wire, joined):
    recorder = Recorder()
    c, _ = wire.connect(recorder)
    for pair in ((c, joined.a), (joined.a, c)):
        with pytest.raises(RuntimeError, match="still registered"):
            join(*pair)
    assert c.protocol is recorder and c.producer is None
    assert joined.a.producer is joined.b


@pytest.mark.parametrize("ended_first", [True, False])
def test_an_end_that_came_before_the_join_is_passed_on(wire, ended_first):
    a, a_socket = wire.connect(HalfCloseable(), room=100)
    b, b_socket = wire.connect(HalfCloseable(), room=100)
    a_socket.inbox.append(b"")
    wire.run()
    join(*((a, b) if ended_first else (b, a)))
    wire.run()
    assert b_socket.shut and not b_socket.closed
    b_socket.inbox += [b"answer", b""]
    wire.run()
    assert a_socket.taken == b"answer"
    assert a.disconnected and b.disconnected


def test_a_connection_that_has_ended_keeps_no_leg(line, reactor):
    through = line()
    transports = through.proxy.transports
    exchange(reactor, through.client, through.target, PLENTY[:MEGABYTE])
    through.client.close()
    through.target.close()
    pump(reactor, lambda: all(t.disconnected for t in transports), "both ends")
    assert [(t.protocol, t._read_hook) for t in transports] == [(None, None)] * 2


def test_B3_an_on_lost_that_raises_is_logged_and_both_end(wire, caplog):
    a, a_socket = wire.connect(Recorder(), room=0)
    b, b_socket = wire.connect(Recorder(), room=0)

    def fail(transport, reason):
        raise ValueError("as asked")

    join(a, b, on_lost=fail)
    a_socket.error = errno.ECONNRESET
    wire.run()
    assert a.disconnected and b.disconnected
    assert "ValueError: as asked" in caplog.text


def test_legs_are_gone_when_both_connections_are(wire, joined):
    legs = [weakref.ref(joined.a.protocol), weakref.ref(joined.b.protocol)]
    assert all(isinstance(leg(), Leg) for leg in legs)
    joined.a.abortConnection()
    wire.run()
    gc.collect()
    assert [leg() for leg in legs] == [None, None]


# A limited rate, on time of the test's own.

RATE = 10_000  # bytes a second


@pytest.fixture
def limited(monkeypatch, time):
    """Two joined connections on a scripted kernel and the test's clock; `a` sends plenty."""
    wire = Wire(monkeypatch, time)

    class Limited:
        def __init__(self):
            self.a, self.a_socket = wire.connect(HalfCloseable(), room=10**9)
            self.b, self.b_socket = wire.connect(HalfCloseable(), room=10**9)
            self.lost = []
            join(self.a, self.b, RATE, lambda t, reason: self.lost.append(reason.type))

        def let_pass(self, seconds):
            """Move the time by `seconds`, in steps of 0.01 s."""
            for _ in range(round(seconds * 100)):
                time.advance(0.01)
                wire.run(2)

    own = Limited()
    own.wire = wire
    yield own
    wire.reactor.close()


@pytest.mark.parametrize("seconds", [1, 2, 10])
def test_the_rate_holds_for_every_second(limited, seconds):
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    limited.let_pass(5)
    before = len(limited.b_socket.taken)
    limited.let_pass(seconds)
    passed = len(limited.b_socket.taken) - before
    assert abs(passed - seconds * RATE) <= RATE * 0.11


def test_a_quiet_time_allows_only_a_small_burst(limited):
    limited.let_pass(60)
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    limited.let_pass(1)
    assert len(limited.b_socket.taken) <= RATE * 1.11


def test_each_direction_has_the_rate_to_itself(limited):
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    limited.b_socket.inbox.append(bytes(MEGABYTE))
    limited.let_pass(3)
    for sock in (limited.a_socket, limited.b_socket):
        assert abs(len(sock.taken) - 3 * RATE) <= RATE * 0.11


def test_a_byte_now_and_then_is_not_delayed(limited):
    limited.let_pass(1)
    for count in range(1, 50):
        limited.a_socket.inbox.append(b"x")
        limited.wire.run(3)
        assert len(limited.b_socket.taken) == count
        limited.let_pass(0.01)


def test_at_most_one_read_waits_for_the_rate(limited):
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    for _ in range(100):
        limited.let_pass(0.1)
        assert limited.a.bytes_in - len(limited.b_socket.taken) <= LARGEST_READ


def test_a_limited_end_comes_behind_all_bytes(limited):
    data = bytes(range(250)) * 60  # 1.5 seconds' worth
    limited.a_socket.inbox += [data, b""]
    limited.let_pass(1)
    assert not limited.b_socket.shut
    limited.let_pass(1)
    assert limited.b_socket.taken == data and limited.b_socket.shut


def test_a_limited_sink_that_stops_reading_stops_the_source(limited):
    limited.b.setWriteBufferLimits(1000, 100)
    limited.b_socket.room = 0
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    limited.let_pass(10)
    assert 1000 < limited.b.pending <= 1000 + RATE * 0.11
    assert next_timer(limited.wire.reactor) is None
    waiting = len(limited.a_socket.inbox[0])

    limited.let_pass(10)
    assert len(limited.a_socket.inbox[0]) == waiting

    limited.b_socket.room = 10**9
    limited.let_pass(30)
    assert len(limited.a_socket.inbox[0]) < waiting
    assert 29 * RATE < len(limited.b_socket.taken) <= 30.4 * RATE


def test_a_full_sink_stops_a_limited_source_of_small_reads(limited):
    limited.b.setWriteBufferLimits(100, 10)
    limited.b_socket.room = 0
    limited.a_socket.inbox += [b"x" * 30] * 50
    limited.let_pass(1)
    assert 100 < limited.b.pending <= 130
    assert not limited.a.reading


def test_a_slow_sink_below_the_rate_does_not_make_it_buffer_more(limited):
    limited.b.setWriteBufferLimits(1000, 100)
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    for _ in range(200):
        limited.b_socket.room = 400
        limited.let_pass(0.05)
        buffered = limited.a.bytes_in - len(limited.b_socket.taken) - limited.b.pending
        assert buffered <= LARGEST_READ


@pytest.mark.parametrize("which", ["a", "b"])
def test_no_timer_outlives_a_limited_connection(limited, which):
    limited.a_socket.inbox.append(bytes(MEGABYTE))
    limited.let_pass(1)
    assert next_timer(limited.wire.reactor) is not None
    getattr(limited, which).abortConnection()
    limited.wire.run()
    assert next_timer(limited.wire.reactor) is None
    assert limited.lost == [ConnectionAborted] * 2


def test_a_rate_below_a_byte_a_slice_passes_something_all_the_same(monkeypatch, time):
    wire = Wire(monkeypatch, time)
    a, a_socket = wire.connect(Recorder())
    b, b_socket = wire.connect(Recorder(), room=100)
    join(a, b, rate=2)
    a_socket.inbox.append(b"0123456789")
    for _ in range(300):
        time.advance(0.01)
        wire.run(2)
    assert 5 <= len(b_socket.taken) <= 7
    wire.reactor.close()


# Through a ProxyFactory, on real sockets.


@pytest.mark.parametrize("source", SIDES)
def test_bytes_arrive_in_order_and_are_counted(line, reactor, source):
    through = line()
    data = os.urandom(3 * MEGABYTE)
    assert exchange(reactor, *through.ends(source), data) == data
    assert through.transport(source).bytes_in == len(data)
    assert through.transport(other(source)).bytes_out == len(data)


@pytest.mark.slow
def test_small_writes_are_not_delayed_by_the_kernel(line, reactor):
    through = line()
    for transport in (through.proxy.client, through.proxy.target):
        assert transport.getTcpNoDelay()
    for number in range(20):
        byte = bytes([number])
        through.client.sendall(byte)
        assert receive(reactor, through.target, 1) == byte
        through.target.sendall(byte)
        assert receive(reactor, through.client, 1) == byte


@pytest.mark.parametrize("size", [1, 1000, 300_000])
@pytest.mark.parametrize("source", SIDES)
def test_urgent_bytes_arrive_in_their_place(line, reactor, source, size):
    near, far = line().ends(source)
    near.setblocking(False)
    expected, received = b"", bytearray()

    def all_is_there():
        received.extend(read_now(far))
        return len(received) >= len(expected)

    for _ in range(30):
        data = os.urandom(size)
        sent = 0
        expected += data + b"!"
        while sent < size:
            with contextlib.suppress(BlockingIOError):
                sent += near.send(data[sent:])
            reactor.iterate(0)
            all_is_there()
        near.send(b"!", socket.MSG_OOB)
    pump(reactor, all_is_there, f"{len(expected)} bytes, and there are {len(received)}")
    assert received == expected


def read_now(sock):
    """Return what can be read now."""
    sock.setblocking(False)
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_an_urgent_byte_that_came_before_the_target_arrives(reactor, closing, mode):
    listener = closing(listening())
    factory = RecordingProxyFactory("127.0.0.1", listener.getsockname()[1], **MODES[mode][0])
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    client.send(b"first")
    client.send(b"!", socket.MSG_OOB)
    client.send(b"rest")
    pump(reactor, lambda: "connected" in factory.calls, "the target")
    assert receive(reactor, closing(listener.accept()[0]), 10) == b"first!rest"


def test_two_urgent_bytes_that_came_before_the_target_arrive(reactor, closing, mode):
    listener = closing(listening())
    factory = RecordingProxyFactory("127.0.0.1", listener.getsockname()[1], **MODES[mode][0])
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    client.send(b"1", socket.MSG_OOB)
    client.send(b"rest")
    client.send(b"2", socket.MSG_OOB)
    pump(reactor, lambda: "connected" in factory.calls, "the target")
    assert receive(reactor, closing(listener.accept()[0]), 6) == b"1rest2"


def test_two_urgent_bytes_that_a_target_sends_at_once_arrive(reactor, closing, mode, monkeypatch):
    listener = closing(listening())
    connect_socket = Proxy._connect_socket

    def connect_and_send(self, sock, address):
        code = connect_socket(self, sock, address)
        target = closing(listener.accept()[0])
        target.send(b"1", socket.MSG_OOB)
        target.send(b"rest")
        target.send(b"2", socket.MSG_OOB)
        return code

    monkeypatch.setattr(Proxy, "_connect_socket", connect_and_send)
    factory = RecordingProxyFactory("127.0.0.1", listener.getsockname()[1], **MODES[mode][0])
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    assert receive(reactor, closing(connect(port)), 6) == b"1rest2"


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not keep the first packet")
def test_one_client_of_a_ring_of_two_factories_becomes_few_connections(reactor, closing, caplog):
    numbers = [unused_number(), unused_number()]
    factories = [RecordingProxyFactory("127.0.0.1", number) for number in reversed(numbers)]
    for number, factory in zip(numbers, factories):
        reactor.listenTCP(number, factory, interface="127.0.0.1")
    client = closing(socket.create_connection(("127.0.0.1", numbers[0])))
    assert drain(reactor, client) == b""
    client.close()
    pump(reactor, lambda: not any(factory.alive for factory in factories), "the end of all")
    assert sum(factory.calls.count("ended") for factory in factories) == 6
    assert "come through too many proxies" in caplog.text


def test_a_reset_that_a_bulk_send_meets_is_not_taken_for_an_end(line, reactor):
    through = line()
    through.target.sendall(b"half of it")
    reset(through.target)
    through.proxy.client.protocol.dataReceived(bytes(64 * 1024))
    assert "reset by peer" in through.until_ended()


def test_the_reply_of_a_half_closed_client_arrives(line, reactor):
    """Twisted's portforward drops it."""
    through = line()
    through.client.sendall(b"the question")
    through.client.shutdown(socket.SHUT_WR)
    assert drain(reactor, through.target) == b"the question"

    reply = os.urandom(2 * MEGABYTE)
    assert exchange(reactor, through.target, through.client, reply) == reply
    through.target.close()

    assert drain(reactor, through.client) == b""
    assert through.until_ended() == "closed in good order"


def test_a_target_that_has_ended_still_receives_from_the_client(line, reactor):
    through = line()
    through.target.sendall(b"banner")
    through.target.shutdown(socket.SHUT_WR)
    assert drain(reactor, through.client) == b"banner"

    data = os.urandom(2 * MEGABYTE)
    assert exchange(reactor, through.client, through.target, data) == data
    through.client.shutdown(socket.SHUT_WR)

    assert drain(reactor, through.target) == b""
    assert through.until_ended() == "closed in good order"


@pytest.mark.parametrize("source", SIDES)
def test_one_leg_ends_and_the_other_closes_with_its_bytes_flushed(line, reactor, source):
    """node #19288."""
    through = line()
    near, far = through.ends(source)
    data = os.urandom(8 * MEGABYTE)
    sent = send_until_it_sticks(reactor, near, data)
    assert through.transport(other(source)).pending > 0
    near.close()

    assert drain(reactor, far) == data[:sent]

    far.close()
    assert through.until_ended() == "closed in good order"
    assert reactor.getReaders() == reactor.getWriters() == []


@pytest.mark.parametrize("source", SIDES)
def test_a_reset_of_one_end_reaches_the_other(line, reactor, source):
    through = line()
    near, far = through.ends(source)
    near.sendall(b"not all")
    assert receive(reactor, far, 7) == b"not all"

    reset(near)

    assert end_of(reactor, far) == (b"", "reset")
    assert re.match(f"{source}: .*reset by peer", through.until_ended())


@pytest.mark.parametrize("source", SIDES)
def test_a_reset_reaches_an_end_that_does_not_read(line, reactor, source):
    through = line()
    near, far = through.ends(source)
    sent = send_until_it_sticks(reactor, near, PLENTY)

    reset(near)

    through.until_ended()
    received, how = end_of(reactor, far)
    assert how == "reset"
    assert PLENTY.startswith(received) and len(received) < sent


@pytest.mark.parametrize("source", SIDES)
def test_a_reset_behind_the_whole_stream_costs_nothing_of_what_the_kernel_holds(
    line, reactor, source
):
    through = line(buffers=20_000)
    near, far = through.ends(source)
    data = os.urandom(100_000)
    rest = memoryview(data)
    near.setblocking(False)
    sink = through.transport(other(source))

    def all_is_in_the_kernel():
        nonlocal rest
        try:
            rest = rest[near.send(rest) :] if rest else rest
        except BlockingIOError:
            pass
        return sink.bytes_out == len(data)

    pump(reactor, all_is_in_the_kernel, "all of it to be passed on")
    near.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: sink.write_ended, "the end to be passed on")
    assert (send_queue(sink) or 0) > 20_000

    reset(near)
    pump(reactor, lambda: through.transport(source).disconnected, "the reset")
    iterations(reactor)

    assert end_of(reactor, far) == (data, "end")


@pytest.mark.slow
@pytest.mark.parametrize("source", SIDES)
def test_a_stalled_sink_stops_the_source_which_goes_on_when_it_does(line, reactor, mode, source):
    buffers = 64 * 1024
    through = line(buffers=buffers, high=64 * 1024, low=16 * 1024)
    near, far = through.ends(source)
    sink = through.transport(other(source))

    sent = send_until_it_sticks(reactor, near, PLENTY)
    assert 64 * 1024 < sink.pending <= 64 * 1024 + MAX_AT_A_TIME[mode]
    assert not through.transport(source).reading
    read = through.transport(source).bytes_in
    for _ in range(5):
        sent += send_until_it_sticks(reactor, near, PLENTY[sent:])
    assert sent < len(PLENTY)
    assert through.transport(source).bytes_in == read

    received = exchange(reactor, near, far, PLENTY, sent)
    assert received == PLENTY
    assert sink.highest_pending <= 64 * 1024 + MAX_AT_A_TIME[mode]


def test_a_stalled_direction_does_not_stop_the_other(line, reactor):
    through = line()
    send_until_it_sticks(reactor, through.target, PLENTY)
    data = os.urandom(MEGABYTE)
    assert exchange(reactor, through.client, through.target, data) == data


@pytest.mark.parametrize("source", SIDES)
def test_a_stalled_proxy_sleeps(closing, mode, source):
    poller = Watched()
    reactor = closing(Reactor(poller))
    through = Line(reactor, closing, mode)
    near, _ = through.ends(source)
    send_until_it_sticks(reactor, near, PLENTY)
    send_until_it_sticks(reactor, near, PLENTY)
    before = len(poller.returned)
    iterations(reactor, 20)
    assert len(poller.returned) == before


def test_a_join_that_fails_ends_both(reactor, closing, caplog):
    factory = RecordingProxyFactory("127.0.0.1", closing(listening()).getsockname()[1])
    factory.rate = "fast"
    client = accepted_client(reactor, closing, factory)
    assert end_of(reactor, client) == (b"", "end")
    pump(reactor, lambda: "ended" in factory.calls, "the end")
    assert "rate='fast' is not valid" in caplog.text
    assert reactor.getReaders() == reactor.getWriters() == []


def test_marks_are_set_for_the_targets_connection(line):
    through = line(high=5000, low=100)
    assert through.proxy.target.bufferSize == 5000


@pytest.mark.parametrize("marks", [(100, 100), (0, 0), (1024, -1)])
def test_M1_impossible_marks_are_refused_by_name(marks):
    with pytest.raises(ValueError, match=f"high={marks[0]} and low={marks[1]}"):
        ProxyFactory("127.0.0.1", 80, high=marks[0], low=marks[1])


@pytest.mark.parametrize("rate", [0, -1, "fast", float("nan")])
def test_an_impossible_rate_is_refused_by_name(rate):
    with pytest.raises(ValueError, match=f"rate={rate!r} is not valid"):
        ProxyFactory("127.0.0.1", 80, rate=rate)


# Before there is a target.


@pytest.fixture
def timed(clock):
    """A reactor whose time only the test moves."""
    own = Reactor(seconds=clock.seconds)
    yield own
    own.close()


full_backlog = pytest.mark.skipif(
    sys.platform != "linux", reason="how others treat a full backlog differs"
)


@full_backlog
def test_nothing_is_read_before_the_target_is_there_and_then_all_arrives(
    timed, clock, closing, mode
):
    reactor = timed
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    factory = RecordingProxyFactory("127.0.0.1", listener.getsockname()[1], **MODES[mode][0])
    factory.targets = lambda: [
        ("127.0.0.1", full(closing)),
        ("127.0.0.1", listener.getsockname()[1]),
    ]
    client = accepted_client(reactor, closing, factory, b"early")
    sent = send_until_it_sticks(reactor, client, PLENTY)
    assert factory.proxy.client.bytes_in == 0
    client.shutdown(socket.SHUT_WR)
    listener.listen()
    clock.advance(factory.timeout)

    pump(reactor, lambda: "connected" in factory.calls, "the second target")
    target = closing(listener.accept()[0])

    assert drain(reactor, target) == b"early" + PLENTY[:sent]
    target.sendall(b"answer")
    target.close()
    assert drain(reactor, client) == b"answer"
    assert factory.calls == ["accepted", "TimeoutError", "connected", "ended"]


def test_what_the_client_sends_first_and_its_end_are_passed_on(reactor, closing, mode):
    listener = closing(listening())
    factory = RecordingProxyFactory("127.0.0.1", listener.getsockname()[1], **MODES[mode][0])
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    client.sendall(b"all I have to say")
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: "connected" in factory.calls, "the target")
    target = closing(listener.accept()[0])
    assert drain(reactor, target) == b"all I have to say"
    target.sendall(b"input")
    assert receive(reactor, client, 5) == b"input"


@full_backlog
def test_R2_a_client_that_is_reset_meanwhile_is_forgotten_at_once(timed, closing):
    factory = RecordingProxyFactory("127.0.0.1", full(closing))
    client = accepted_client(timed, closing, factory, b"unread")
    assert timed.getWriters() != []

    reset(client)

    pump(timed, lambda: "ended" in factory.calls, "the end")
    assert factory.calls == ["accepted", "ended"]
    assert re.match("client: .*reset by peer", factory.proxy.why)
    assert timed.getDelayedCalls() == timed.getReaders() == timed.getWriters() == []


@full_backlog
def test_a_client_that_only_ends_its_stream_meanwhile_is_not_forgotten(timed, closing, clock):
    factory = RecordingProxyFactory("127.0.0.1", full(closing), timeout=5)
    client = accepted_client(timed, closing, factory)
    client.shutdown(socket.SHUT_WR)
    iterations(timed, 20)
    assert factory.calls == ["accepted"]

    clock.advance(6)
    assert drain(timed, client) == b""
    assert factory.calls == ["accepted", "TimeoutError", "ended"]


def test_a_target_that_refuses_closes_the_client_at_once(reactor, closing):
    number = unused_number()
    factory = RecordingProxyFactory("127.0.0.1", number)
    client = accepted_client(reactor, closing, factory, b"unread")

    assert drain(reactor, client) == b""

    assert factory.calls == ["accepted", "ConnectionRefusedError", "ended"]
    assert factory.proxy.target is None
    assert re.search(
        rf"^127.0.0.1:\d+ -> 127.0.0.1:{number}: 0 bytes up, 0 down, \d+\.\d\d s, "
        "no target: The peer refused the connection: .*$",
        str(factory.proxy),
    )
    assert reactor.getDelayedCalls() == reactor.getReaders() == reactor.getWriters() == []


@full_backlog
def test_a_target_that_does_not_answer_closes_the_client_after_the_timeout(timed, closing, clock):
    factory = RecordingProxyFactory("127.0.0.1", full(closing), timeout=7)
    client = accepted_client(timed, closing, factory)
    clock.advance(6.9)
    iterations(timed)
    assert is_quiet(client)

    clock.advance(0.2)

    assert drain(timed, client) == b""
    assert "no target: " in str(factory.proxy)
    assert "no connection within 7.0 seconds" in str(factory.proxy)
    assert timed.getDelayedCalls() == []


def test_an_unknown_name_closes_the_client(reactor, closing):
    factory = RecordingProxyFactory("no-such-host.invalid", 80)
    assert drain(reactor, accepted_client(reactor, closing, factory)) == b""
    assert "cannot resolve 'no-such-host.invalid'" in factory.proxy.why


def test_a_name_is_resolved_anew_for_a_later_client_only(closing, clock, monkeypatch):
    reactor = closing(Reactor(seconds=clock.seconds))
    listener = closing(listening())
    asked = []

    def lookup(host, port, *arguments, **options):
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())]

    factory = RecordingProxyFactory("example.internal", 80)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    monkeypatch.setattr(connector.socket, "getaddrinfo", lookup)
    for number in (1, 2, 3):
        with socket.socket() as client:
            client.connect(("127.0.0.1", port.getHost().port))
            pump(reactor, lambda n=number: factory.calls.count("connected") == n, "the target")
        clock.advance(4)  # an answer is kept for 5 s
    assert asked == ["example.internal"] * 2


def test_without_a_descriptor_for_the_target_the_client_is_closed(reactor, closing, monkeypatch):
    factory = RecordingProxyFactory("127.0.0.1", 80)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    pump(reactor, lambda: "accepted" in factory.calls, "the client")

    def no_more(*arguments, fileno=None):
        if fileno is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return usual(*arguments, fileno=fileno)

    usual = socket.socket

    with monkeypatch.context() as patch:
        patch.setattr(connector.socket, "socket", no_more)
        pump(reactor, lambda: "ended" in factory.calls, "the end")
    assert drain(reactor, client) == b""
    assert os.strerror(errno.EMFILE) in factory.proxy.why


def test_the_next_target_is_tried_when_one_fails(reactor, closing):
    listener = closing(listening())
    good, bad = listener.getsockname()[1], unused_number()
    factory = RecordingProxyFactory("127.0.0.1", bad)
    factory.targets = lambda: [("127.0.0.1", bad), ("127.0.0.1", bad), ("127.0.0.1", good)]
    client = accepted_client(reactor, closing, factory, b"hello")
    pump(reactor, lambda: "connected" in factory.calls, "the third")
    target = closing(listener.accept()[0])
    assert receive(reactor, target, 5) == b"hello"
    assert factory.calls == ["accepted", *["ConnectionRefusedError"] * 2, "connected"]
    assert factory.proxy.place == ("127.0.0.1", good)
    assert is_quiet(client)


def test_without_any_target_the_client_is_closed(reactor, closing):
    factory = RecordingProxyFactory("127.0.0.1", 80)
    factory.targets = list
    assert drain(reactor, accepted_client(reactor, closing, factory)) == b""
    assert factory.proxy.why == "no target: there is none"


@pytest.mark.parametrize("hook", ["targets", "accepted", "connected", "failed"])
def test_B3_a_factory_that_raises_ends_that_client_only(reactor, closing, caplog, hook):
    listener = closing(listening())
    number = unused_number() if hook == "failed" else listener.getsockname()[1]

    class Broken(RecordingProxyFactory):
        pass

    def fail(self, *arguments):
        raise ValueError("as asked")

    setattr(Broken, hook, fail)
    factory = Broken("127.0.0.1", number)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    _, how = end_of(reactor, client)
    pump(reactor, lambda: reactor.getReaders() == [port], "the end of both")
    assert "ValueError: as asked" in caplog.text
    assert port.connected


# What is logged and reported.


def test_the_line_at_the_end_has_all_counts(line, reactor):
    through = line()
    through.client.sendall(b"12345")
    receive(reactor, through.target, 5)
    through.target.sendall(b"123")
    receive(reactor, through.client, 3)
    through.client.close()
    through.target.close()
    through.until_ended()
    peer = through.proxy.client.getPeer()
    assert re.match(
        rf"^127.0.0.1:{peer.port} -> 127.0.0.1:{through.factory.port}: "
        r"5 bytes up, 3 down, \d+\.\d\d s, closed in good order$",
        str(through.proxy),
    )


def test_seconds_are_those_from_the_first_to_the_last(timed, closing, clock):
    through = Line(timed, closing)
    clock.advance(1.27)
    through.client.close()
    through.target.close()
    through.until_ended()
    assert ", 1.27 s, " in str(through.proxy)


def test_an_ipv6_target_is_shown_in_brackets(reactor, closing):
    factory = RecordingProxyFactory("::1", unused_number())
    drain(reactor, accepted_client(reactor, closing, factory))
    assert f" -> [::1]:{factory.port}: " in str(factory.proxy)


def test_a_failure_and_the_end_are_logged(reactor, closing, caplog):
    caplog.set_level(logging.INFO, "minireactor")
    number = unused_number()
    port = reactor.listenTCP(0, ProxyFactory("127.0.0.1", number), interface="127.0.0.1")
    drain(reactor, closing(connect(port)))
    failure, end = caplog.records
    assert (failure.levelname, end.levelname) == ("WARNING", "INFO")
    assert failure.getMessage().startswith(f"no connection to 127.0.0.1:{number}: The peer refused")
    assert f" -> 127.0.0.1:{number}: 0 bytes up, 0 down, " in end.getMessage()


def test_nothing_is_left_when_all_have_gone(line, reactor):
    through = line()
    proxy = weakref.ref(through.proxy)
    assert isinstance(proxy(), Proxy)
    through.client.close()
    through.target.close()
    through.until_ended()
    assert reactor.getReaders() == reactor.getWriters() == reactor.getDelayedCalls() == []
    through.proxy = through.factory.proxy = None
    gc.collect()
    assert proxy() is None


def test_the_marks_of_a_joined_pair_are_the_usual_ones(joined):
    assert joined.a.bufferSize == joined.b.bufferSize == flow.HIGH


# The README of the folder.


def test_each_file_that_the_readme_links_to_is_there():
    links = set(re.findall(r"\]\(([\w./]+)\)", README))
    elsewhere = {link for link in links if "/" in link}
    assert {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"} == links - elsewhere
    assert all((FOLDER / link).is_file() for link in elsewhere)


def test_the_three_lines_in_the_readme_are_a_proxy(reactor, closing, monkeypatch):
    listener = closing(listening())
    source = re.search("```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in source.splitlines() if line]) == 3
    ports = []
    listen = reactor.listenTCP
    number = str(listener.getsockname()[1])
    for old, new in (
        ("from minireactor import reactor, proxy", "from minireactor import proxy"),
        ("8080", "0"),
        ('"example.internal", 80', f'"127.0.0.1", {number}'),
    ):
        assert old in source
        source = source.replace(old, new)
    monkeypatch.setattr(reactor, "listenTCP", lambda *a, **k: ports.append(listen(*a, **k)))
    monkeypatch.setattr(reactor, "run", lambda: None)

    exec(compile(source, "README.md", "exec"), {"reactor": reactor})

    client = closing(connect(ports[0]))
    client.sendall(b"through")
    listener.setblocking(False)
    targets = []

    def accepted():
        try:
            targets.append(closing(listener.accept()[0]))
        except BlockingIOError:
            pass
        return targets

    pump(reactor, accepted, "the target")
    assert receive(reactor, targets[0], 7) == b"through"
