"""minireactor.testing: the strict producers, the transports and the clock."""

from __future__ import annotations

import pytest

from minireactor.address import IPv4Address
from minireactor.basic import LineReceiver
from minireactor.core.flow import PAUSE, RESUME, STOP
from minireactor.error import AlreadyCalled, ConnectionAborted, ConnectionDone
from minireactor.protocol import Protocol
from minireactor.testing import (
    Clock,
    StrictPullProducer,
    StrictPushProducer,
    StringTransport,
    StringTransportWithDisconnection,
    connected,
)


class Greeter(Protocol):
    """Greets, echoes, and records the reason of its end."""

    def __init__(self):
        self.reasons = []

    def connectionMade(self):
        self.transport.write(b"hello")

    def dataReceived(self, data):
        self.transport.write(data)

    def connectionLost(self, reason):
        self.reasons.append(reason.value)


class Lines(LineReceiver):
    delimiter = b"\n"

    def __init__(self):
        self.lines = []

    def lineReceived(self, line):
        self.lines.append(line)
        if line == b"pause":
            self.transport.pauseProducing()


# --- Clock


def test_a_clock_starts_at_zero_and_stands_still():
    clock = Clock()
    assert (clock.seconds(), clock.rightNow) == (0.0, 0.0)


def test_advance_moves_the_time():
    clock = Clock()
    clock.advance(1.5)
    clock.advance(1)
    assert (clock.seconds(), clock.rightNow) == (2.5, 2.5)


def test_a_call_comes_when_its_time_has_come_and_once():
    clock, seen = Clock(), []
    clock.callLater(2, seen.append, "now")
    clock.advance(1.9)
    assert seen == []
    clock.advance(0.1)
    clock.advance(10)
    assert seen == ["now"]


def test_arguments_and_keywords_are_handed_on():
    clock, seen = Clock(), []
    clock.callLater(0, lambda *args, **kw: seen.append((args, kw)), 1, 2, three=3)
    clock.advance(0)
    assert seen == [((1, 2), {"three": 3})]


def test_calls_due_in_one_step_come_in_the_order_of_their_times():
    clock, seen = Clock(), []
    for delay in (3, 1, 2, 1):
        clock.callLater(delay, seen.append, delay)
    clock.advance(3)
    assert seen == [1, 1, 2, 3]


def test_a_call_sees_the_time_at_the_end_of_the_step():
    clock, seen = Clock(), []
    clock.callLater(1, lambda: seen.append(clock.seconds()))
    clock.advance(5)
    assert seen == [5.0]


def test_a_call_asked_for_by_a_call_comes_in_the_same_step_if_it_is_due():
    clock, seen = Clock(), []
    clock.callLater(1, clock.callLater, 0, seen.append, "chained")
    clock.callLater(1, clock.callLater, 1, seen.append, "later")
    clock.advance(1)
    assert seen == ["chained"]


def test_pump_advances_step_by_step():
    clock, seen = Clock(), []

    def tick():
        seen.append(clock.seconds())
        clock.callLater(1, tick)

    clock.callLater(1, tick)
    clock.pump([1, 1, 0.5, 0.5])
    assert seen == [1.0, 2.0, 3.0]


def test_what_a_call_raises_comes_out_of_advance_and_the_others_wait():
    clock, seen = Clock(), []
    clock.callLater(1, seen.append, "first")
    clock.callLater(1, lambda: 1 / 0)
    clock.callLater(1, seen.append, "last")
    with pytest.raises(ZeroDivisionError):
        clock.advance(1)
    assert seen == ["first"]
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0)
    assert seen == ["first", "last"]


def test_getDelayedCalls_is_in_the_order_of_their_coming():
    clock = Clock()
    late, first, second = (clock.callLater(delay, print) for delay in (9, 1, 1))
    assert clock.getDelayedCalls() == clock.calls == [first, second, late]
    first.cancel()
    late.reset(0.5)
    assert clock.calls == [late, second]


def test_a_call_can_be_moved_and_cancelled_as_on_a_reactor():
    clock, seen = Clock(), []
    call = clock.callLater(1, seen.append, "moved")
    call.delay(1)
    clock.advance(1)
    assert (seen, call.active(), call.getTime()) == ([], True, 2.0)
    clock.advance(1)
    assert (seen, call.active()) == (["moved"], False)
    with pytest.raises(AlreadyCalled):
        call.cancel()


def test_a_negative_delay_is_an_error():
    with pytest.raises(ValueError, match="-1"):
        Clock().callLater(-1, print)


# --- StringTransport


def test_write_and_writeSequence_add_to_value_until_clear():
    transport = StringTransport()
    transport.write(b"a")
    transport.writeSequence([b"b", bytearray(b"c")])
    assert transport.value() == b"abc"
    transport.clear()
    transport.write(memoryview(b"d"))
    assert transport.value() == b"d"


def test_B1_str_is_a_TypeError_that_says_so():
    transport = StringTransport()
    with pytest.raises(TypeError, match=r"not str: encode 'text'"):
        transport.write("text")
    with pytest.raises(TypeError, match="not str"):
        transport.writeSequence([b"fine", "text"])
    assert transport.value() == b""


def test_B1_a_mutable_buffer_may_change_after_the_call():
    transport, data = StringTransport(), bytearray(b"before")
    transport.write(data)
    data[:] = b"after!"
    assert transport.value() == b"before"


def test_loseConnection_only_marks_and_still_takes_writes():
    transport = StringTransport()
    transport.loseConnection()
    transport.write(b"last words")
    assert (transport.disconnecting, transport.connected) == (True, True)
    assert (transport.disconnected, transport.aborting) == (False, False)
    assert transport.value() == b"last words"


def test_abortConnection_marks_and_drops_writes():
    transport = StringTransport()
    transport.abortConnection()
    transport.write(b"too late")
    assert (transport.disconnecting, transport.connected) == (True, False)
    assert (transport.disconnected, transport.aborting) == (True, True)
    assert transport.value() == b""


def test_loseWriteConnection_drops_writes_but_reads_on():
    transport = StringTransport()
    transport.loseWriteConnection()
    transport.write(b"too late")
    assert (transport.write_ended, transport.reading, transport.value()) == (True, True, b"")


def test_registerProducer_notes_the_producer_and_calls_nothing():
    for streaming, producer in (
        (True, StrictPushProducer(None)),
        (False, StrictPullProducer(None)),
    ):
        transport = StringTransport()
        assert (transport.producer, transport.streaming) == (None, None)
        transport.registerProducer(producer, streaming)
        assert (transport.producer, transport.streaming) == (producer, streaming)
        assert transport.streamingProducer is streaming
        assert producer.calls == []


def test_E1_a_second_producer_is_an_error_that_names_both():
    transport = StringTransport()
    transport.registerProducer("first", True)
    with pytest.raises(RuntimeError, match="'second'.*'first'"):
        transport.registerProducer("second", False)
    assert (transport.producer, transport.streaming) == ("first", True)


def test_E2_registering_after_the_end_stops_the_producer():
    transport = StringTransport()
    transport.abortConnection()
    producer = StrictPushProducer(transport, [b"x"])
    producer.start()
    assert (producer.calls, transport.producer) == ([STOP], None)


def test_E4_unregisterProducer_with_none_registered_is_a_no_op():
    transport = StringTransport()
    transport.unregisterProducer()
    transport.registerProducer(object(), True)
    transport.unregisterProducer()
    transport.unregisterProducer()
    assert (transport.producer, transport.streaming) == (None, None)


def test_stopConsuming_unregisters_and_closes():
    transport = StringTransport()
    transport.registerProducer(object(), True)
    transport.stopConsuming()
    assert (transport.producer, transport.disconnecting) == (None, True)


def test_R1_producerState_follows_pause_and_resume_and_both_are_idempotent():
    transport = StringTransport()
    states = [(transport.producerState, transport.reading)]
    for call in (
        transport.pauseProducing,
        transport.pauseProducing,
        transport.resumeProducing,
        transport.resumeProducing,
        transport.stopReading,
        transport.startReading,
    ):
        call()
        states.append((transport.producerState, transport.reading))
    paused, producing = ("paused", False), ("producing", True)
    assert states == [producing, paused, paused, producing, producing, paused, producing]


def test_stopProducing_closes_and_stays_stopped():
    transport = StringTransport()
    transport.stopProducing()
    transport.resumeProducing()
    transport.pauseProducing()
    assert (transport.producerState, transport.disconnecting) == ("stopped", True)
    assert transport.reading is False


def test_R1_resume_after_loseConnection_does_nothing():
    transport = StringTransport()
    transport.pauseProducing()
    transport.loseConnection()
    transport.resumeProducing()
    assert (transport.producerState, transport.reading) == ("paused", False)


def test_R3_reading_is_false_once_the_connection_is_closing():
    for end in ("loseConnection", "abortConnection", "stopConsuming"):
        transport = StringTransport()
        getattr(transport, end)()
        assert (end, transport.reading) == (end, False)


def test_buffered_lines_wait_for_the_test_to_go_on():
    protocol = Lines()
    transport = connected(protocol)
    protocol.dataReceived(b"pause\nsecond\n")
    assert protocol.lines == [b"pause"]
    transport.resumeProducing()
    assert protocol.lines == [b"pause"]
    protocol.dataReceived(b"")
    assert protocol.lines == [b"pause", b"second"]


def test_addresses_are_those_given_or_some():
    host, peer = IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "192.0.2.2", 2)
    given, default = StringTransport(host, peerAddress=peer), StringTransport()
    assert (given.getHost(), given.getPeer()) == (host, peer)
    assert default.getHost() == IPv4Address("TCP", "10.0.0.1", 12345)
    assert default.getPeer() == IPv4Address("TCP", "192.168.1.1", 54321)


def test_socket_options_are_remembered():
    transport = StringTransport()
    assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (False, False)
    transport.setTcpNoDelay(1)
    transport.setTcpKeepAlive(True)
    assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (True, True)


def test_there_is_no_socket():
    transport = StringTransport()
    assert (transport.getHandle(), transport.fileno()) == (None, -1)


def test_M1_marks_are_checked_as_on_a_connection():
    transport = StringTransport()
    assert transport.bufferSize == 64 * 1024
    transport.bufferSize = 8
    transport.setWriteBufferLimits(low=1)
    transport.setWriteBufferLimits(high=100)
    assert transport.bufferSize == 100
    with pytest.raises(ValueError, match=r"high=5 and low=5"):
        transport.setWriteBufferLimits(5, 5)
    transport.setWriteBufferLimits()
    assert transport.bufferSize == 64 * 1024


# --- StringTransportWithDisconnection and connected()


def test_connected_makes_the_connection_and_returns_the_transport():
    protocol = Greeter()
    transport = connected(protocol)
    assert (protocol.transport, protocol.connected) == (transport, 1)
    assert (transport.protocol, transport.value()) == (protocol, b"hello")
    assert transport.logPrefix() == "Greeter"


def test_connected_takes_a_transport_of_ones_own():
    protocol, own = Greeter(), StringTransportWithDisconnection()
    assert connected(protocol, own) is own is protocol.transport


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("loseConnection", ConnectionDone),
        ("stopProducing", ConnectionDone),
        ("abortConnection", ConnectionAborted),
    ],
)
def test_E8_the_protocol_is_notified_once_and_why(end, reason):
    protocol = Greeter()
    transport = connected(protocol, StringTransportWithDisconnection())
    getattr(transport, end)()
    transport.loseConnection()
    transport.abortConnection()
    assert [type(value) for value in protocol.reasons] == [reason]
    assert (transport.connected, transport.disconnected, transport.reading) == (False, True, False)


def test_E3_a_registered_producer_is_stopped_before_the_protocol_is_notified():
    order = []

    class Last(Protocol):
        def connectionLost(self, reason):
            order.append("connectionLost")

    transport = connected(Last(), StringTransportWithDisconnection())
    producer = StrictPushProducer(transport, on={STOP: lambda: order.append(STOP)})
    transport.registerProducer(producer, True)
    transport.loseConnection()
    assert order == [STOP, "connectionLost"]
    assert transport.producer is None


def test_writes_after_the_disconnection_are_dropped():
    transport = connected(Greeter(), StringTransportWithDisconnection())
    transport.loseConnection()
    transport.write(b"too late")
    assert transport.value() == b"hello"


# --- Strict producers


def paused_after(count):
    """Return a transport that pauses its push producer in each `count`th write."""

    class Pausing(StringTransport):
        writes = 0

        def write(self, data):
            super().write(data)
            self.writes += 1
            if self.writes % count == 0 and self.producer is not None:
                self.producer.pauseProducing()

    return Pausing()


def breaks(rule, producer, call):
    """Return whether `call` breaches `rule`: it raises, and check() reports it later."""
    with pytest.raises(AssertionError, match=f"^{rule}: "):
        call()
    assert producer.breaches[-1].startswith(f"{rule}: ")
    with pytest.raises(AssertionError, match=f"{rule}: .*{producer.calls[-1]}"):
        producer.check()
    return True


def test_a_push_producer_writes_its_script_and_unregisters():
    transport = StringTransport()
    producer = StrictPushProducer(transport, [b"one", b"two"])
    producer.start()
    producer.check()
    assert (transport.value(), transport.producer) == (b"onetwo", None)
    assert (producer.calls, producer.written, producer.state) == ([], 6, "unregistered")


def test_a_push_producer_stops_at_a_pause_and_goes_on_at_a_resume():
    transport = paused_after(2)
    producer = StrictPushProducer(transport, [b"1", b"2", b"3", b"4"])
    producer.start()
    assert (transport.value(), producer.state) == (b"12", "paused")
    producer.resumeProducing()
    assert (transport.value(), producer.state) == (b"1234", "paused")
    producer.resumeProducing()
    producer.check()
    assert producer.state == "unregistered"
    assert producer.calls == [PAUSE, RESUME, PAUSE, RESUME]


def test_P2_a_second_pause_is_a_breach():
    producer = StrictPushProducer(StringTransport())
    producer.pauseProducing()
    assert breaks("P2", producer, producer.pauseProducing)


def test_P3_a_resume_without_a_pause_is_a_breach():
    producer = StrictPushProducer(StringTransport(), [b"x"])
    assert breaks("P3", producer, producer.resumeProducing)


def test_P3_a_resume_from_inside_write_is_a_breach():
    class Eager(StringTransport):
        def write(self, data):
            self.producer.pauseProducing()
            self.producer.resumeProducing()

    producer = StrictPushProducer(Eager(), [b"x"])
    assert breaks("P3", producer, producer.start)
    assert producer.writing is False


@pytest.mark.parametrize("kind", [StrictPushProducer, StrictPullProducer])
@pytest.mark.parametrize("call", [PAUSE, RESUME, STOP])
def test_E3_any_call_after_stopProducing_is_a_breach(kind, call):
    producer = kind(StringTransport(), [b"x"])
    producer.stopProducing()
    assert breaks("E3", producer, getattr(producer, call))


@pytest.mark.parametrize("kind", [StrictPushProducer, StrictPullProducer])
@pytest.mark.parametrize("call", [PAUSE, RESUME, STOP])
def test_E4_any_call_after_unregistering_is_a_breach(kind, call):
    producer = kind(StringTransport(), [b"x"])
    producer.unregister()
    assert breaks("E4", producer, getattr(producer, call))


def test_E4_unregistering_after_stopProducing_is_no_breach():
    producer = StrictPushProducer(StringTransport())
    producer.stopProducing()
    producer.unregister()
    producer.check()
    assert producer.state == "stopped"


def test_a_breach_that_somebody_swallowed_is_found_by_check():
    producer = StrictPushProducer(StringTransport())
    try:
        producer.resumeProducing()
    except AssertionError:
        pass
    producer.pauseProducing()
    with pytest.raises(AssertionError, match="P3.*calls: resumeProducing, pauseProducing"):
        producer.check()


def test_a_pull_producer_writes_one_chunk_each_time_and_then_unregisters():
    transport = StringTransport()
    producer = StrictPullProducer(transport, [b"one", None, b"two"])
    producer.start()
    values = []
    while transport.producer is not None:
        producer.resumeProducing()
        values.append(transport.value())
    producer.check()
    assert values == [b"one", b"one", b"onetwo", b"onetwo"]


def test_U1_a_pull_producer_that_is_paused_reports_a_breach():
    producer = StrictPullProducer(StringTransport(), [b"x"])
    assert breaks("U1", producer, producer.pauseProducing)


def test_U1_a_pull_producer_that_is_asked_from_inside_write_reports_a_breach():
    class Eager(StringTransport):
        def write(self, data):
            self.producer.resumeProducing()

    producer = StrictPullProducer(Eager(), [b"x", b"y"])
    producer.start()
    assert breaks("U1", producer, producer.resumeProducing)


def test_hooks_run_inside_the_calls_once_the_state_has_changed():
    seen = []
    producer = StrictPushProducer(
        StringTransport(),
        on={call: lambda: seen.append(producer.state) for call in (PAUSE, RESUME, STOP)},
    )
    producer.pauseProducing()
    producer.resumeProducing()
    producer = StrictPushProducer(StringTransport(), on={STOP: lambda: seen.append(producer.state)})
    producer.stopProducing()
    assert seen == ["paused", "flowing", "stopped"]


def test_a_pull_producer_stopped_by_its_hook_writes_nothing_more():
    transport = StringTransport()
    producer = StrictPullProducer(transport, [b"x"], on={RESUME: lambda: producer.stopProducing()})
    producer.resumeProducing()
    producer.check()
    assert (transport.value(), producer.state) == (b"", "stopped")


def test_a_producer_can_start_again_after_unregistering():
    transport = StringTransport()
    producer = StrictPullProducer(transport, [b"x"])
    producer.start()
    producer.unregister()
    producer.start()
    producer.resumeProducing()
    producer.check()
    assert (transport.value(), transport.producer) == (b"x", producer)


def test_a_file_that_is_sent_is_written(tmp_path):
    transport = StringTransport()
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    sent = []
    with open(path, "rb") as file:
        transport.sendFile(file, 2, 5).addCallback(sent.append)
    assert transport.value() == b"23456"
    assert sent == [5]
