"""minireactor.streams: each stage alone with fake time, chains over sockets, and a random walk.

A failure of the walk prints its seed; to repeat it:

    MINIREACTOR_SEED=12345 python -m pytest -m '' tests/test_streams.py -k walk
"""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import io
import os
import random
import socket
import zlib
from fractions import Fraction

import pytest
from scripted import Wire
from support import Recorder, iterations, next_timer, pump, served

from minireactor import streams
from minireactor.basic import FileSender
from minireactor.streams import (
    Buffer,
    PushFromPull,
    RateLimiter,
    Stage,
    Tee,
    Transform,
    pipe,
)
from minireactor.streams import stage as base
from minireactor.streams.buffer import LARGEST_CHUNK
from minireactor.streams.stage import LARGEST_TURN
from minireactor.testing import Clock, StrictPullProducer, StrictPushProducer, StringTransport


class OwnError(BaseException):
    """An exception class of a program that is not an Exception."""


OTHER_ERRORS = [asyncio.CancelledError, GeneratorExit, OwnError]
PRODUCERS = [StrictPushProducer, StrictPullProducer]


def in_parts(data):
    """Yield the chunk unchanged, in parts of 7 bytes."""
    for start in range(0, len(data), 7):
        yield bytearray(data[start : start + 7])


STAGES = {
    "Stage": Stage,
    "Buffer": lambda clock: Buffer(60, 20, clock),
    "RateLimiter": lambda clock: RateLimiter(1000, 16, clock),
    "Transform": lambda clock: Transform(in_parts, reactor=clock),
    "Tee": Tee,
}
FULL_AT_ONCE = sorted(set(STAGES) - {"Buffer"})
SIZES = [1, 40, 3, 17, 100, 8, 2, 61]
CHUNKS = [bytes([65 + n]) * size for n, size in enumerate(SIZES)]
ALL = b"".join(CHUNKS)

each_stage = pytest.mark.parametrize("kind", list(STAGES))
each_producer = pytest.mark.parametrize("producing", PRODUCERS)


class Sink:
    """A consumer that a test pauses, resumes and loses.

    It raises nothing. What a stage must not do to a consumer is recorded in `breaches`.
    `pause_at`: the numbers of the writes from inside which the sink pauses, or "all".
    """

    def __init__(self, clock=None, pause_at=()):
        self.clock = clock
        self.pause_at = pause_at
        self.chunks = []
        self.times = []
        self.calls = []
        self.producer = None
        self.paused = self.writing = False
        self.breaches = []

    def __repr__(self):
        return "<the sink>"

    @property
    def data(self):
        return b"".join(self.chunks)

    def _expect(self, what, holds):
        if not holds:
            self.breaches.append(what)

    def registerProducer(self, producer, streaming):
        self._expect("registered as a push producer", streaming is True)
        self._expect("registered once", self.producer is None)
        self.producer = producer

    def unregisterProducer(self):
        self._expect("unregistered once", self.producer is not None)
        self._expect("not unregistered from inside a write", not self.writing)
        self.calls.append("unregister")
        self.producer = None

    def write(self, data):
        self._expect("bytes", type(data) is bytes and data)
        self._expect("no write while paused", not self.paused)
        self._expect("no write after the end", self.producer is not None)
        self.chunks.append(data)
        if self.clock is not None:
            self.times.append(self.clock.seconds())
        if self.pause_at == "all" or len(self.chunks) in self.pause_at:
            self.writing = True
            self.pause()
            self.writing = False

    def pause(self):
        self.paused = True
        self.producer.pauseProducing()

    def resume(self):
        self.paused = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def lose(self):
        producer, self.producer = self.producer, None
        producer.stopProducing()

    def loseConnection(self):
        self.calls.append("lose")

    def abortConnection(self):
        self.calls.append("abort")
        if self.producer is not None:
            self.lose()

    def check(self):
        assert self.breaches == []


class PlainSink(Sink):
    """A consumer that is no transport."""

    loseConnection = abortConnection = None

    def __getattribute__(self, name):
        if name in ("loseConnection", "abortConnection"):
            raise AttributeError(name)
        return super().__getattribute__(name)


def next_call(clock):
    """Move the clock to the next delayed call."""
    clock.advance(max(0.0, clock.calls[0].getTime() - clock.seconds()))


def run_until_idle(clock, *sinks, most=10_000):
    """Resume paused sinks and move the clock until nothing is left to do."""
    for _ in range(most):
        paused = [sink for sink in sinks if sink.paused]
        if paused:
            paused[0].resume()
        elif clock.calls:
            next_call(clock)
        else:
            return
    raise AssertionError("it goes on and on")


def chain(kind, clock, producing=StrictPushProducer, chunks=CHUNKS, on=None, **sink_options):
    """Return (producer, stage, sink), not started."""
    sink = Sink(clock, **sink_options)
    stage = STAGES[kind](clock)
    stage.feed(sink, lambda: sink.calls.append("finished"))
    return producing(stage, chunks, on), stage, sink


def logged(caplog):
    return [record.exc_info[0] for record in caplog.records if record.exc_info]


# --- Every stage: what it is given arrives


def writes_of(kind, producing):
    clock = Clock()
    producer, _, sink = chain(kind, clock, producing)
    producer.start()
    run_until_idle(clock, sink)
    return len(sink.chunks)


@each_producer
@each_stage
def test_everything_arrives_in_order_with_a_pause_at_any_point_or_at_all(kind, producing):
    points = range(writes_of(kind, producing) + 1)  # 0: no pause
    for pause_at in [*({point} for point in points), "all"]:
        clock = Clock()
        producer, stage, sink = chain(kind, clock, producing, pause_at=pause_at)
        producer.start()
        run_until_idle(clock, sink)
        producer.check()
        sink.check()
        assert sink.data == ALL, pause_at
        assert sink.calls == ["unregister", "finished"]
        assert (stage.buffered, stage.over, clock.calls) == (0, True, [])
        assert "stopProducing" not in producer.calls


@each_producer
@each_stage
def test_everything_arrives_with_pauses_from_outside_of_a_write(kind, producing, clock):
    producer, stage, sink = chain(kind, clock, producing, pause_at={2})
    producer.start()
    for _ in range(10_000):
        if sink.paused:
            sink.resume()
        elif sink.producer is not None:
            sink.pause()
        if clock.calls:
            next_call(clock)
        elif sink.producer is None:
            break
    producer.check()
    sink.check()
    assert sink.data == ALL
    assert sink.calls == ["unregister", "finished"]


@each_producer
@each_stage
def test_nothing_is_buffered_beyond_the_mark_and_a_chunk(kind, producing, clock):
    producer, stage, sink = chain(kind, clock, producing, pause_at="all")
    most = 0

    def watch():
        nonlocal most
        most = max(most, stage.buffered)

    producer._on["resumeProducing"] = watch
    producer.start()
    while sink.paused or clock.calls:
        watch()
        if sink.paused:
            sink.resume()
        else:
            next_call(clock)
    assert most <= (60 if kind == "Buffer" else 0) + max(SIZES)


# --- Every stage: the contract with what is above


@each_stage
def test_P1_registration_calls_nothing_on_a_push_producer(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=())
    stage.registerProducer(producer, True)
    assert producer.calls == []


@pytest.mark.parametrize("kind", FULL_AT_ONCE)
def test_P1_a_producer_that_registers_when_the_stage_is_full_is_paused_by_its_first_write(
    kind, clock
):
    producer, stage, sink = chain(kind, clock)
    sink.pause()
    stage.registerProducer(producer, True)
    assert producer.calls == []
    producer.write(b"a")
    assert producer.calls == ["pauseProducing"]


@each_stage
def test_P2_a_pause_comes_once_from_inside_the_write_that_filled_the_stage(kind, clock):
    inside = []
    producer, stage, sink = chain(kind, clock, chunks=[b"a" * 61, b"b"], pause_at={1})
    producer._on["pauseProducing"] = lambda: inside.append(producer.writing)
    stage.registerProducer(producer, True)
    for _ in range(4):
        producer.write(b"c" * 70)
    assert producer.calls == ["pauseProducing"]
    assert inside == [True]


@each_stage
def test_P3_a_consumer_that_resumes_within_its_write_resumes_the_producer_later(kind, clock):
    class Hasty(Sink):
        def pause(self):
            super().pause()
            self.resume()

    sink = Hasty(clock, pause_at="all")
    stage = STAGES[kind](clock)
    stage.feed(sink)
    producer = StrictPushProducer(stage, CHUNKS)
    producer.start()
    run_until_idle(clock, sink)
    producer.check()
    assert sink.data == ALL


@each_stage
def test_P3_nobody_is_resumed_from_inside_a_write_into_the_consumer(kind, clock):
    inside = []
    producer, stage, sink = chain(kind, clock, pause_at="all")
    producer._on["resumeProducing"] = lambda: inside.append(sink.writing)
    producer.start()
    run_until_idle(clock, sink)
    assert set(inside) == {False}
    assert sink.data == ALL


@pytest.mark.parametrize("kind", FULL_AT_ONCE)
def test_P4_a_producer_that_fills_the_stage_when_it_is_resumed_is_paused_again(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=[b"a"] * 3, pause_at="all")
    producer.start()
    for _ in range(2):
        sink.resume()
    assert producer.calls == ["pauseProducing", "resumeProducing"] * 2 + ["pauseProducing"]
    producer.check()


@each_stage
def test_U1_a_pull_producer_is_asked_once_at_registration_and_later_again(kind, wire):
    producer, stage, sink = chain(kind, wire.reactor, StrictPullProducer, [b"a", b"b", b"c"])
    producer.start()
    assert producer.calls == ["resumeProducing"]
    wire.run(1)
    assert producer.calls == ["resumeProducing"] * 2
    producer.check()


@each_stage
def test_U1_a_pull_producer_is_not_asked_while_there_is_no_room(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer, [b"a" * 70] * 9, pause_at={1})
    producer.start()
    for _ in range(20):
        if not clock.calls:
            break
        next_call(clock)
    asked = len(producer.calls)
    assert (asked, clock.calls) == (2 if kind == "Buffer" else 1, [])
    sink.resume()
    run_until_idle(clock, sink)
    assert len(producer.calls) == 10
    assert sink.data == b"a" * 630


@each_stage
def test_U2_a_pull_producer_with_nothing_to_write_is_not_polled(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer, [b"a", None, b"b"])
    producer.start()
    run_until_idle(clock, sink)
    sink.pause()
    sink.resume()
    assert producer.calls == ["resumeProducing"] * 2
    assert clock.calls == []
    producer.write(b"later")
    run_until_idle(clock, sink)
    assert sink.data == b"alaterb"
    assert sink.calls == ["unregister", "finished"]
    producer.check()


@each_stage
def test_U2_to_write_nothing_is_no_answer(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer, [b"", b"a"])
    producer.start()
    assert (producer.calls, clock.calls, sink.chunks) == (["resumeProducing"], [], [])


@each_stage
def test_U2_what_others_wrote_before_is_no_answer_either(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer, [None, b"a"])
    stage.write(b"by hand")
    producer.start()
    sink.pause()
    sink.resume()
    assert (producer.calls, clock.calls) == (["resumeProducing"], [])


@each_stage
def test_E1_a_second_producer_is_refused_by_name_and_the_first_goes_on(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer)
    producer.start()
    with pytest.raises(RuntimeError) as caught:
        stage.registerProducer("the second", True)
    assert "the second" in str(caught.value)
    assert repr(producer) in str(caught.value)
    run_until_idle(clock, sink)
    assert sink.data == ALL


@each_stage
@pytest.mark.parametrize("streaming", [True, False])
def test_E2_a_producer_that_registers_after_the_end_is_stopped_at_once(kind, streaming, clock):
    producer, stage, sink = chain(kind, clock)
    producer.start()
    run_until_idle(clock, sink)
    late = StrictPushProducer(stage)
    stage.registerProducer(late, streaming)
    assert late.calls == ["stopProducing"]


@each_producer
@each_stage
def test_E3_a_loss_at_any_point_stops_the_producer_once_and_then_all_is_quiet(kind, producing):
    for point in range(1, writes_of(kind, producing)):
        clock = Clock()
        producer, stage, sink = chain(kind, clock, producing, pause_at={point})
        producer.start()
        while not sink.paused:
            next_call(clock)
        sink.lose()
        before = len(sink.chunks)
        assert clock.calls == []
        producer.write(b"into the void")
        assert (len(sink.chunks), stage.buffered) == (before, 0)
        assert stage.over
        if producer.state != "unregistered":
            assert producer.calls.count("stopProducing") == 1
            assert producer.calls[-1] == "stopProducing"
        assert sink.calls == []
        producer.check()


@each_stage
def test_E3_a_loss_while_the_stream_is_flowing_stops_the_producer(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer)
    producer.start()
    sink.lose()
    assert producer.calls == ["resumeProducing", "stopProducing"]
    assert clock.calls == []
    late = StrictPushProducer(stage)
    late.start()
    assert late.calls == ["stopProducing"]


@each_stage
def test_E4_to_unregister_without_a_producer_is_nothing(kind, clock):
    producer, stage, sink = chain(kind, clock)
    stage.unregisterProducer()
    stage.write(b"by hand")
    run_until_idle(clock)
    assert (sink.data, sink.calls) == (b"by hand", [])


@each_stage
def test_E5_the_end_waits_for_a_paused_consumer_if_anything_is_buffered(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=[b"a"])
    sink.pause()
    producer.start()
    if producer.state == "paused":
        producer.unregister()
    assert (stage.buffered, stage.over, sink.calls) == (1, False, [])
    sink.resume()
    assert (sink.data, sink.calls) == (b"a", ["unregister", "finished"])


@each_stage
def test_E5_the_end_needs_no_resume_if_nothing_is_buffered(kind, clock):
    producer, stage, sink = chain(kind, clock)
    sink.pause()
    stage.registerProducer(producer, True)
    producer.unregister()
    assert sink.calls == ["unregister", "finished"]


@each_stage
def test_E5_an_end_from_inside_a_pause_comes_after_the_chunk(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=[b"a" * 70] * 5, pause_at={1})
    producer._on["pauseProducing"] = producer.unregister
    producer.start()
    run_until_idle(clock, sink)
    assert sink.data == b"a" * producer.written
    assert sink.calls == ["unregister", "finished"]
    sink.check()


@each_stage
def test_E5_the_end_comes_once_whatever_the_consumer_says_after_it(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=())
    producer.start()
    stage.pauseProducing()
    stage.resumeProducing()
    stage.stopProducing()
    assert sink.calls == ["unregister", "finished"]


@each_stage
def test_E5_closing_waits_for_the_producer_and_for_what_is_buffered(kind, clock):
    producer, stage, sink = chain(kind, clock, StrictPullProducer)
    producer.start()
    stage.loseConnection()
    stage.loseConnection()
    assert sink.calls == []
    run_until_idle(clock)
    assert sink.data == ALL
    assert sink.calls[0] == "unregister"
    assert sorted(sink.calls[1:]) == ["finished", "lose"]
    producer.check()


@each_stage
def test_E5_a_writer_that_is_not_registered_ends_the_stream_by_closing(kind, clock):
    producer, stage, sink = chain(kind, clock)
    stage.writeSequence([b"by", bytearray(b" hand")])
    stage.loseConnection()
    stage.write(b"too late")
    run_until_idle(clock)
    assert sink.data == b"by hand"
    assert sink.calls[0] == "unregister"
    assert sorted(sink.calls[1:]) == ["finished", "lose"]


@each_stage
def test_E5_a_close_after_the_end_reaches_the_consumer(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=())
    producer.start()
    assert sink.calls == ["unregister", "finished"]
    stage.loseConnection()
    stage.loseConnection()
    assert sink.calls == ["unregister", "finished", "lose"]


@each_producer
@each_stage
def test_E6_an_abort_stops_the_producer_drops_what_is_buffered_and_aborts_below(
    kind, producing, clock
):
    producer, stage, sink = chain(kind, clock, producing, pause_at={2})
    producer.start()
    while not sink.paused:
        next_call(clock)
    stage.abortConnection()
    stage.abortConnection()
    assert producer.calls.count("stopProducing") == 1
    assert sink.calls == ["abort"]
    assert (stage.buffered, stage.over, clock.calls) == (0, True, [])
    producer.check()


@each_stage
def test_E6_an_abort_inside_pause_is_followed_by_nothing(kind, clock):
    producer, stage, sink = chain(kind, clock, chunks=[b"a" * 70] * 5, pause_at={1})
    producer._on["pauseProducing"] = lambda: stage.abortConnection()
    producer.start()
    assert producer.calls == ["pauseProducing", "stopProducing"]
    assert sink.calls == ["abort"]
    sink.resume()
    assert len(sink.chunks) == 1
    producer.check()


def test_E6_a_consumer_that_is_no_transport_is_unregistered_from(clock):
    sink = PlainSink(clock)
    stage = pipe(PushFromPull(clock), sink)
    stage.loseConnection()
    assert sink.calls == ["unregister"]
    sink = PlainSink(clock)
    stage = pipe(PushFromPull(clock), sink)
    stage.abortConnection()
    assert sink.calls == ["unregister"]


@each_stage
def test_B1_any_buffer_is_taken_as_it_was_and_str_is_refused(kind, clock):
    producer, stage, sink = chain(kind, clock)
    sink.pause()
    data = bytearray(b"abc")
    stage.write(data)
    data[:] = b"xyz"
    stage.write(memoryview(b"def"))
    with pytest.raises(TypeError, match="encode 'text' first"):
        stage.write("text")
    sink.resume()
    run_until_idle(clock)
    assert sink.data == b"abcdef"
    sink.check()


@pytest.mark.parametrize("call", ["pauseProducing", "resumeProducing", "stopProducing"])
@each_stage
def test_B3_a_producer_that_raises_breaks_its_stream_off(kind, call, clock, caplog):
    def fail():
        raise ZeroDivisionError

    producer, stage, sink = chain(
        kind, clock, chunks=[b"a" * 70] * 5, on={call: fail}, pause_at={1}
    )
    producer.start()
    if call == "stopProducing":
        sink.lose()
    elif call == "resumeProducing":
        sink.resume()
        run_until_idle(clock)
    assert logged(caplog) == [ZeroDivisionError]
    assert producer.calls.count("stopProducing") == 1
    assert sink.calls == ([] if call == "stopProducing" else ["abort"])
    assert (stage.buffered, stage.over, clock.calls) == (0, True, [])
    producer.check()


@each_stage
def test_B3_a_consumer_that_raises_breaks_its_stream_off(kind, clock, caplog):
    class Raising(Sink):
        def write(self, data):
            super().write(data)
            raise ZeroDivisionError

    sink = Raising(clock)
    stage = STAGES[kind](clock)
    stage.feed(sink)
    producer = StrictPushProducer(stage, CHUNKS)
    producer.start()
    assert logged(caplog) == [ZeroDivisionError]
    assert producer.calls.count("stopProducing") == 1
    assert sink.calls == ["abort"]
    assert (stage.buffered, stage.over, clock.calls) == (0, True, [])


def test_B3_a_consumer_that_raises_when_it_is_aborted_is_logged_and_that_is_all(clock, caplog):
    sink = Sink()
    sink.abortConnection = lambda: 1 / 0
    stage = pipe(PushFromPull(clock), sink)
    stage.abortConnection()
    assert logged(caplog) == [ZeroDivisionError]


def test_B3_an_end_that_the_consumer_does_not_take_is_not_finished(clock, caplog):
    sink, finished = Sink(), []
    sink.unregisterProducer = lambda: 1 / 0
    stage = PushFromPull(clock)
    stage.feed(sink, lambda: finished.append(1))
    stage.loseConnection()
    assert logged(caplog) == [ZeroDivisionError]
    assert (sink.calls, finished) == (["abort"], [])


def test_B3_what_on_finish_raises_is_logged(clock, caplog):
    stage = PushFromPull(clock)
    stage.feed(Sink(), lambda: 1 / 0)
    stage.loseConnection()
    assert logged(caplog) == [ZeroDivisionError]


@pytest.mark.parametrize("error", OTHER_ERRORS)
@pytest.mark.parametrize("where", ["producer", "consumer", "function", "on_finish"])
def test_B3_other_base_exceptions_break_the_stream_off_and_go_no_further(
    where, error, clock, caplog
):
    def fail(*ignored):
        raise error

    sink, finish = Sink(), None
    stage = Transform(fail if where == "function" else bytes, reactor=clock)
    if where == "consumer":
        sink.write = fail
    elif where == "on_finish":
        finish = fail
    pipe(stage, sink, on_finish=finish)
    producer = StrictPushProducer(
        stage, CHUNKS, on={"pauseProducing": fail} if where == "producer" else {}
    )
    if where == "producer":
        sink.pause()
    producer.start()
    run_until_idle(clock)
    assert logged(caplog) == [error]
    assert "abort" in sink.calls
    assert stage.over


def test_B3_a_stage_whose_repr_raises_breaks_off_all_the_same(clock, caplog):
    class Rude(PushFromPull):
        def __repr__(self):
            raise SyntaxError

    sink = Sink()
    sink.write = lambda data: 1 / 0
    stage = pipe(Rude(clock), sink)
    stage.write(b"a")
    assert logged(caplog) == [ZeroDivisionError]
    assert sink.calls == ["abort"]


def test_cancelling_all_of_getDelayedCalls_stops_no_stream(wire, clock):
    # given a stream that waits for its time
    sink = Sink()
    stage = pipe(RateLimiter(1000, 100, wire.reactor), sink)
    stage.write(b"x" * 150)
    assert len(sink.data) < 150

    # when all delayed calls are cancelled, as test runners do
    for call in wire.reactor.getDelayedCalls():
        call.cancel()

    # then it still gets through
    for _ in range(10):
        clock.advance(0.1)
        wire.run(1)
    assert sink.data == b"x" * 150


def test_B3_ctrl_c_goes_through_and_the_stage_still_works(clock):
    sink = Sink()
    stage = pipe(PushFromPull(clock), sink)
    take, sink.write = sink.write, lambda data: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        stage.write(b"a")
    sink.write = take
    stage.write(b"b")
    assert sink.data == b"b"


# --- Every stage: wiring


@each_producer
@each_stage
def test_without_a_consumer_it_keeps_what_comes_and_passes_it_on_later(kind, producing, clock):
    stage = STAGES[kind](clock)
    producer = producing(stage, CHUNKS)
    producer.start()
    run_until_idle(clock)
    assert 0 < producer.written + (stage.buffered == 0) <= 60 + max(SIZES)
    sink = Sink(clock)
    stage.feed(sink)
    run_until_idle(clock, sink)
    assert sink.data == ALL
    producer.check()
    sink.check()


@each_stage
def test_a_stream_that_has_ended_waits_for_its_consumer(kind, clock):
    stage = STAGES[kind](clock)
    stage.write(b"all")
    stage.loseConnection()
    assert not stage.over
    sink = Sink(clock)
    stage.feed(sink)
    assert sink.data == b"all"
    assert sink.calls == ["unregister", "lose"]


def test_E1_a_stage_feeds_one_consumer(clock):
    first = Sink()
    stage = pipe(PushFromPull(clock), first)
    with pytest.raises(RuntimeError, match="put a Tee there"):
        stage.feed(Sink())
    stage.write(b"a")
    assert first.data == b"a"


@each_stage
def test_E1_a_consumer_that_is_taken_is_refused_and_another_will_do(kind, clock):
    transport = StringTransport()
    transport.registerProducer("the first", True)
    stage = STAGES[kind](clock)
    with pytest.raises(RuntimeError, match="the first"):
        stage.feed(transport)
    stage.write(b"a")
    assert transport.producer == "the first"
    sink = Sink()
    stage.feed(sink)
    run_until_idle(clock)
    assert sink.data == b"a"


@each_stage
def test_E2_feeding_a_consumer_that_is_lost_stops_the_producer(kind, clock):
    transport = StringTransport()
    transport.abortConnection()
    stage = STAGES[kind](clock)
    producer = StrictPullProducer(stage, [b"a", b"b"])
    producer.start()
    stage.feed(transport)
    assert producer.calls[-1] == "stopProducing"
    assert (stage.over, clock.calls) == (True, [])
    with pytest.raises(RuntimeError, match="make another"):
        stage.feed(Sink())
    producer.check()


def test_pipe_joins_its_stages_and_gives_the_first(clock):
    transport, finished = StringTransport(), []
    first, second = Buffer(reactor=clock), Transform(bytes.upper, reactor=clock)
    assert pipe(first, second, transport, on_finish=lambda: finished.append(1)) is first
    first.registerProducer(StringTransport(), True)
    first.write(b"abc")
    assert (transport.value(), finished) == (b"ABC", [])
    assert (transport.producer, transport.streaming) == (second, True)
    first.unregisterProducer()
    assert (transport.producer, finished) == (None, [1])


def test_a_transport_is_closed_at_the_end_of_its_chain(clock):
    transport = StringTransport()
    way = pipe(Buffer(reactor=clock), transport, on_finish=transport.loseConnection)
    producer = StrictPushProducer(way, [b"a"])
    producer.start()
    assert (transport.value(), transport.disconnecting) == (b"a", True)


def test_pipe_wants_a_stage():
    with pytest.raises(ValueError, match="one stage or more"):
        pipe(StringTransport())


def test_the_example_of_the_module_is_three_lines_and_works(clock, monkeypatch):
    example = base.__doc__.split("\n\n")[1]
    assert len(example.splitlines()) == 3
    monkeypatch.setattr("minireactor.reactor", clock)
    transport, file = StringTransport(), io.BytesIO(os.urandom(100_000))
    scope = {**vars(streams), "zlib": zlib, "FileSender": FileSender}
    scope.update(transport=transport, file=file)
    exec("\n".join(line.strip() for line in example.splitlines()), scope)
    for _ in range(1000):
        if not clock.calls:
            break
        next_call(clock)
    assert zlib.decompress(transport.value()) == file.getvalue()
    assert transport.producer is None


def test_a_repr_says_what_is_buffered(clock):
    stage = Buffer(reactor=clock)
    stage.write(b"abc")
    assert repr(stage) == "<Buffer, 3 bytes buffered>"
    stage.abortConnection()
    assert repr(stage) == "<Buffer, 0 bytes buffered, over>"


# --- PushFromPull


def test_a_long_stream_takes_an_iteration_a_chunk_and_never_recurses(wire):
    sink = Sink()
    producer = StrictPullProducer(pipe(PushFromPull(wire.reactor), sink), [b"a"] * 5000)
    producer.start()
    for count in range(1, 5001):
        assert len(sink.chunks) == count
        wire.run(1)
    assert sink.calls == ["unregister"]
    assert next_timer(wire.reactor) is None
    producer.check()


def test_a_push_producer_passes_through(clock):
    producer, stage, sink = chain("Stage", clock, pause_at={2})
    producer.start()
    assert sink.chunks == CHUNKS[:2]
    assert (producer.calls, clock.calls) == (["pauseProducing"], [])
    sink.resume()
    assert sink.chunks == CHUNKS


def test_a_file_goes_through_with_its_deferred(clock):
    sink, file = Sink(pause_at="all"), io.BytesIO(bytes(range(256)) * 300)
    results = []
    stage = pipe(PushFromPull(clock), sink)
    FileSender().beginFileTransfer(file, stage).addCallback(results.append)
    run_until_idle(clock, sink)
    assert sink.data == file.getvalue()
    assert results == [b"\xff"]


def test_two_stages_in_a_row_ask_no_more_than_one(clock):
    sink = Sink()
    producer = StrictPullProducer(
        pipe(PushFromPull(clock), PushFromPull(clock), sink), [b"a", None]
    )
    producer.start()
    run_until_idle(clock)
    assert producer.calls == ["resumeProducing"] * 2


# --- Buffer


@pytest.mark.parametrize("marks", [(0, 0), (10, 10), (10, -1), ("many", 1)])
def test_M1_impossible_marks_are_refused_by_name(marks):
    with pytest.raises(ValueError, match=f"high={marks[0]!r} and low={marks[1]!r}"):
        Buffer(*marks)


def test_M2_exactly_high_is_not_above(clock):
    stage = Buffer(10, 4, clock)
    producer = StrictPushProducer(stage)
    stage.registerProducer(producer, True)
    producer.write(b"a" * 10)
    assert producer.calls == []
    producer.write(b"a")
    assert producer.calls == ["pauseProducing"]


def test_M2_exactly_low_is_at(clock):
    stage = Buffer(3 * LARGEST_CHUNK, LARGEST_CHUNK, clock)
    producer = StrictPushProducer(stage, [b"a" * LARGEST_CHUNK] * 9)
    sink = Sink(pause_at="all")
    producer.start()
    assert stage.buffered == 4 * LARGEST_CHUNK
    stage.feed(sink)
    sink.resume()
    assert (producer.calls, stage.buffered) == (["pauseProducing"], 2 * LARGEST_CHUNK)
    sink.resume()
    assert producer.calls == ["pauseProducing", "resumeProducing", "pauseProducing"]
    assert stage.buffered == 4 * LARGEST_CHUNK


def test_the_producer_runs_ahead_by_the_high_mark_and_no_further(clock):
    producer, stage, sink = chain("Buffer", clock, chunks=[b"a" * 9] * 30)
    sink.pause()
    producer.start()
    assert (producer.written, stage.buffered) == (63, 63)
    sink.resume()
    assert sink.data == b"a" * 270
    producer.check()


def test_a_buffer_overfills_its_consumer_by_one_portion_at_most(clock):
    sink = Sink(pause_at="all")
    stage = Buffer(10 * LARGEST_CHUNK, reactor=clock)
    stage.write(b"a" * (3 * LARGEST_CHUNK))
    stage.write(b"b" * 7)
    stage.feed(sink)
    run_until_idle(clock, sink)
    assert [len(chunk) for chunk in sink.chunks] == [LARGEST_CHUNK] * 3 + [7]


# --- RateLimiter


def worst_window(times, chunks, seconds=1):
    """Return the most bytes in any closed window of `seconds`."""
    worst = total = start = 0
    for end, chunk in enumerate(chunks):
        total += len(chunk)
        while Fraction(times[end]) - Fraction(times[start]) > seconds:
            total -= len(chunks[start])
            start += 1
        worst = max(worst, total)
    return worst


@pytest.mark.parametrize("seed", range(20))
def test_in_no_second_pass_more_bytes_than_rate_and_burst(seed):
    rng = random.Random(seed)
    clock = Clock()
    rate, burst = rng.choice([1, 7, 100, 1000, 12_345]), rng.choice([1, 2, 10, 500, 5000])
    sink = Sink(clock, pause_at={rng.randrange(1, 60) for _ in range(rng.choice([0, 3]))})
    limiter = RateLimiter(rate, burst, clock)
    limiter.feed(sink)
    chunks = [b"a" * rng.randrange(1, 3 * burst + 2) for _ in range(40)]
    producer = StrictPushProducer(limiter, chunks)
    # Dyadic times are exact in floating point.
    steps = rng.choice([[1 / 64], [1 / 64, 1 / 2, 3.0], [2.5], [1 / 4096, 1 / 8]])
    producer.start()
    while sink.producer is not None and clock.seconds() < 1000:
        clock.advance(rng.choice(steps))
        if sink.paused:
            sink.resume()
    assert len(sink.data) >= min(burst // 2, producer.written)
    assert worst_window(sink.times, sink.chunks) <= rate + burst
    producer.check()
    sink.check()


@pytest.mark.parametrize(
    ("rate", "burst"), [(1000, 1), (1000, 100), (3, 2), (10**6, None), (7.5, 9)]
)
def test_over_a_long_transfer_the_average_is_the_rate(rate, burst, clock):
    sink = Sink(clock)
    limiter = RateLimiter(rate, burst, clock)
    limiter.feed(sink)
    size = 5000
    if burst is None:
        burst, size = 10**5, 10**7
    producer = StrictPullProducer(limiter, [b"a" * (size // 50)] * 50)
    producer.start()
    run_until_idle(clock)
    assert len(sink.data) == size
    assert clock.seconds() == pytest.approx((size - burst) / rate, rel=1e-3)
    assert worst_window(sink.times, sink.chunks) <= rate + burst
    producer.check()


def test_a_burst_passes_at_once_after_a_rest(clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(100, 30, clock), sink)
    limiter.write(b"a" * 30)
    assert (sink.data, clock.calls) == (b"a" * 30, [])
    clock.advance(1000)
    limiter.write(b"b" * 40)
    assert sink.data == b"a" * 30 + b"b" * 30
    assert limiter.buffered == 10


def test_it_pauses_with_the_first_byte_it_buffers_and_resumes_with_the_last(clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(100, 30, clock), sink)
    producer = StrictPushProducer(limiter)
    limiter.registerProducer(producer, True)
    producer.write(b"a" * 30)
    assert producer.calls == []
    producer.write(b"b")
    assert (producer.calls, limiter.buffered) == (["pauseProducing"], 1)
    next_call(clock)
    assert limiter.buffered == 0
    assert producer.calls[:2] == ["pauseProducing", "resumeProducing"]


@pytest.mark.parametrize("late", [0.001, 0.02, 0.049])
def test_the_rate_is_kept_though_the_loop_is_late_by_less_than_half_a_burst(late, clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(1000, 100, clock), sink)
    limiter.write(b"a" * 10_100)
    while limiter.buffered:
        clock.advance(clock.calls[0].getTime() - clock.seconds() + late)
    assert clock.seconds() == pytest.approx(10, abs=0.1)


def test_never_is_more_saved_than_the_burst_not_even_by_a_byte(clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(8, 5, clock), sink)
    limiter.write(b"a" * 5)
    clock.advance(0.75)
    limiter.write(b"a" * 50)
    assert len(sink.data) == 10


def test_a_wake_up_that_is_no_longer_needed_is_taken_back(clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(100, 30, clock), sink)
    limiter.write(b"a" * 40)
    clock.rightNow += 1  # and the loop is late
    limiter.write(b"a" * 5)
    assert (len(sink.data), clock.calls) == (45, [])


def test_time_that_is_lost_is_not_made_up_beyond_the_burst(clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(100, 30, clock), sink)
    limiter.write(b"a" * 1000)
    clock.advance(5)
    assert len(sink.data) == 60


def test_no_timer_is_left_while_it_is_idle_paused_or_over(clock):
    sink = Sink(clock)
    limiter = pipe(RateLimiter(100, 30, clock), sink)
    limiter.write(b"a" * 100)
    assert len(clock.calls) == 1
    sink.pause()
    assert clock.calls == []
    sink.resume()
    assert len(clock.calls) == 1
    run_until_idle(clock)
    assert (len(sink.data), clock.calls) == (100, [])
    limiter.write(b"a" * 100)
    assert len(clock.calls) == 1
    sink.lose()
    assert clock.calls == []


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "fast"])
def test_an_impossible_rate_is_refused_by_name(rate):
    with pytest.raises(ValueError, match=f"rate={rate!r}"):
        RateLimiter(rate)


@pytest.mark.parametrize("burst", [0, -1, 1.5, "large"])
def test_an_impossible_burst_is_refused_by_name(burst):
    with pytest.raises(ValueError, match=f"burst={burst!r}"):
        RateLimiter(100, burst)


def test_the_rest_of_a_large_chunk_is_not_copied_for_every_portion(clock):
    sink, chunk = Sink(), bytes(100_000)
    limiter = pipe(RateLimiter(1000, 10, clock), sink)
    limiter.write(chunk)
    for _ in range(5):
        next_call(clock)
        assert limiter._chunks[0].obj is chunk


# --- Transform


def compressed(clock):
    packer = zlib.compressobj()
    return Transform(packer.compress, packer.flush, clock)


def decompressed(clock, most=1000):
    """Return a Transform that gives at most `most` bytes at a time, and reports a missing end."""
    unpacker = zlib.decompressobj()

    def unpacked(data):
        chunk = None
        while data or chunk:
            chunk = unpacker.decompress(data, most)
            data = unpacker.unconsumed_tail
            yield chunk

    def check():
        if not unpacker.eof:
            raise EOFError("the compressed data breaks off")

    return Transform(unpacked, check, clock)


@each_producer
@pytest.mark.parametrize("pause_at", [(), "all"])
def test_what_is_compressed_can_be_decompressed(producing, pause_at, clock):
    sink = Sink(pause_at=pause_at)
    data = random.Random(1).choices([b"spam " * 9, b"egg " * 50, os.urandom(700)], k=200)
    producer = producing(pipe(compressed(clock), sink), data)
    producer.start()
    run_until_idle(clock, sink)
    assert zlib.decompress(sink.data) == b"".join(data)
    producer.check()
    sink.check()


@each_producer
@pytest.mark.parametrize("pause_at", [(), "all"])
def test_compressed_and_decompressed_again_is_the_same(producing, pause_at, clock):
    sink = Sink(pause_at=pause_at)
    data = [bytes([n % 256]) * (n * 37 % 5000 + 1) for n in range(200)]
    way = pipe(compressed(clock), Buffer(100, 10, clock), decompressed(clock), sink)
    producer = producing(way, data)
    producer.start()
    run_until_idle(clock, sink)
    assert sink.data == b"".join(data)
    assert sink.calls == ["unregister"]
    producer.check()
    sink.check()


def test_U2_a_pull_producer_is_asked_again_when_its_chunk_was_swallowed(clock):
    def every_third(data, seen=[]):  # noqa: B006
        seen.append(data)
        return b"".join(seen) if not len(seen) % 3 else (b"" if len(seen) % 2 else None)

    sink = Sink()
    chunks = [b"a", b"b", b"c", b"d"]
    producer = StrictPullProducer(pipe(Transform(every_third, reactor=clock), sink), chunks)
    producer.start()
    run_until_idle(clock)
    assert sink.data == b"abc"
    assert producer.calls == ["resumeProducing"] * 5
    producer.check()


def test_the_flush_comes_once_at_the_end_and_waits_for_the_consumer(clock):
    flushes = []

    def flush():
        flushes.append(1)
        return [b"the", memoryview(b" end")]

    sink = Sink(pause_at="all")
    producer = StrictPushProducer(pipe(Transform(bytes.upper, flush, clock), sink), [b"a"])
    producer.start()
    assert (flushes, sink.data, sink.calls) == ([], b"A", [])
    sink.resume()
    assert (flushes, sink.data, sink.calls) == ([1], b"Athe", [])
    sink.resume()
    assert (flushes, sink.data, sink.calls) == ([1], b"Athe end", [])
    sink.resume()
    assert (flushes, sink.calls) == ([1], ["unregister"])


def test_an_end_while_the_consumer_is_paused_leaves_the_flush_for_later(clock):
    sink = Sink()
    way = pipe(Transform(bytes.upper, lambda: b"the end", clock), sink)
    sink.pause()
    way.loseConnection()
    assert sink.calls == []
    sink.resume()
    assert (sink.data, sink.calls) == (b"the end", ["unregister", "lose"])


def test_a_generator_is_drained_only_while_the_consumer_takes_it(clock):
    drawn = []

    def ten_times(data):
        for number in range(10):
            drawn.append(number)
            yield data

    sink = Sink(pause_at={3, 7})
    producer = StrictPushProducer(pipe(Transform(ten_times, reactor=clock), sink), [b"a", b"b"])
    producer.start()
    assert (len(drawn), producer.calls) == (3, ["pauseProducing"])
    sink.resume()
    assert (len(drawn), producer.calls) == (7, ["pauseProducing"])
    sink.resume()
    assert sink.data == b"a" * 10 + b"b" * 10
    producer.check()


def test_a_decompression_bomb_waits_for_its_reader_in_bounded_memory(wire):
    bomb = zlib.compress(bytes(20_000_000))
    assert len(bomb) < 20_000
    transport, sock = wire.connect(Recorder())
    way = pipe(decompressed(wire.reactor, 16_384), transport, on_finish=transport.loseConnection)
    producer = StrictPushProducer(way, [bomb[:9000], bomb[9000:]])
    producer.start()
    most = 0
    for _ in range(100):
        wire.run(1)
        most = max(most, transport.pending)
    assert producer.state == "paused"
    assert (most, way.buffered) == (5 * 16_384, 9000)
    while not sock.closed:
        sock.room = 100_000
        wire.run(1)
        most = max(most, transport.pending)
    assert most <= 6 * 16_384
    assert sock.taken == bytes(20_000_000)
    producer.check()


def test_a_consumer_that_never_pauses_does_not_keep_the_loop_from_the_others(wire):
    size = LARGEST_TURN // 10

    def much(data):
        for _ in range(100):
            yield bytes(size)

    sink = Sink()
    producer = StrictPushProducer(pipe(Transform(much, reactor=wire.reactor), sink), [b"a"])
    producer.start()
    assert len(sink.data) < LARGEST_TURN + size
    assert producer.state == "paused"
    turns = 0
    while sink.producer is not None:
        before = len(sink.data)
        wire.run(1)
        turns += 1
        assert len(sink.data) - before < LARGEST_TURN + size
    assert turns >= 9
    assert len(sink.data) == 100 * size
    assert next_timer(wire.reactor) is None
    producer.check()


def test_B3_a_transform_that_fails_breaks_the_stream_off_both_ways(clock, caplog):
    sink, finished = Sink(), []
    way = Transform(zlib.decompressobj().decompress, reactor=clock)
    way.feed(sink, lambda: finished.append(1))
    producer = StrictPushProducer(way, [b"no zlib", b"data"])
    producer.start()
    assert logged(caplog) == [zlib.error]
    assert producer.calls == ["stopProducing"]
    assert (sink.calls, finished, way.buffered) == (["abort"], [], 0)
    producer.check()


@pytest.mark.parametrize("wrong", ["text", [b"a", "text"], [None], 3])
def test_B3_a_transform_that_gives_no_bytes_breaks_the_stream_off(wrong, clock, caplog):
    sink = Sink()
    way = pipe(Transform(lambda data: wrong, reactor=clock), sink)
    way.write(b"data")
    assert logged(caplog) == [TypeError]
    assert (sink.calls, way.over) == (["abort"], True)


def test_B3_a_stream_that_breaks_off_is_not_taken_for_a_whole_one(clock, caplog):
    sink = Sink()
    way = pipe(decompressed(clock), sink)
    producer = StrictPushProducer(way, [zlib.compress(b"a" * 100)[:-3]])
    producer.start()
    assert logged(caplog) == [EOFError]
    assert (sink.data, sink.calls) == (b"a" * 100, ["abort"])
    assert producer.calls == []


def test_a_transform_that_ends_its_own_stream_is_asked_for_no_more(clock):
    def endless(data):
        while True:
            yield data
            if len(sink.chunks) == 5:
                way.abortConnection()

    sink = Sink()
    way = pipe(Transform(endless, reactor=clock), sink)
    way.write(b"a")
    assert (len(sink.chunks), sink.calls) == (5, ["abort"])


def test_a_transform_that_ends_its_stream_before_it_gives_anything_is_asked_for_no_more(clock):
    drawn = []

    def endless():
        while len(drawn) < 100:
            drawn.append(1)
            yield b"a"

    def breaking_off(data):
        way.abortConnection()
        return endless()

    sink = Sink()
    way = pipe(Transform(breaking_off, reactor=clock), sink)
    way.write(b"a")
    assert (len(drawn), sink.chunks, sink.calls) == (1, [], ["abort"])


def test_a_generator_is_given_up_at_a_loss(clock):
    given_up = []

    def patient(data):
        try:
            yield data
            yield data
        finally:
            given_up.append(1)

    sink = Sink(pause_at="all")
    way = pipe(Transform(patient, reactor=clock), sink)
    way.write(b"a")
    assert given_up == []
    sink.lose()
    gc.collect()
    assert given_up == [1]


def test_a_turn_that_has_passed_on_everything_needs_no_other(clock):
    way = pipe(PushFromPull(clock), Sink())
    way.write(bytes(LARGEST_TURN))
    assert clock.calls == []


def test_neither_function_is_called_after_a_loss(clock):
    calls = []
    way = Transform(calls.append, lambda: calls.append("flush"), clock)
    producer = StrictPushProducer(way)
    way.registerProducer(producer, True)
    way.write(b"kept")
    sink = Sink()
    sink.registerProducer = lambda producer, streaming: producer.stopProducing()
    way.feed(sink)
    way.write(b"more")
    way.unregisterProducer()
    assert calls == []


# --- Tee


def tee_of(clock, *slows, **options):
    """Return (tee, sinks, branches)."""
    tee = Tee(clock, **options)
    sinks = [Sink() for _ in slows]
    return tee, sinks, [tee.add(sink, slow) for sink, slow in zip(sinks, slows)]


@each_producer
def test_every_branch_gets_everything_and_the_slowest_sets_the_pace(producing, clock):
    tee, (one, two, three), _ = tee_of(clock, "wait", "wait", "wait")
    two.pause_at, three.pause_at = {1, 3}, "all"
    producer = producing(tee, CHUNKS)
    producer.start()
    while three.producer is not None or two.producer is not None:
        assert len(two.chunks) == len(one.chunks)
        run_until_idle(clock)
        (two if two.paused else three).resume()
    for sink in (one, two, three):
        sink.check()
        assert (sink.data, sink.calls) == (ALL, ["unregister"])
    producer.check()


def test_a_slow_one_is_waited_for_before_the_next_chunk_only(clock):
    tee, (slow, quick), _ = tee_of(clock, "wait", "wait")
    slow.pause_at = {1}
    producer = StrictPushProducer(tee, [b"a", b"b"])
    producer.start()
    assert (slow.data, quick.data) == (b"a", b"a")
    assert producer.calls == ["pauseProducing"]
    quick.pause()
    slow.resume()
    assert producer.calls == ["pauseProducing"]
    quick.resume()
    assert (slow.data, quick.data) == (b"ab", b"ab")
    producer.check()


def test_chunks_are_dropped_for_a_slow_one_and_counted(clock):
    tee, (slow, quick), (branch, _) = tee_of(clock, "drop", "wait")
    slow.pause_at = {2}
    producer = StrictPushProducer(tee)
    tee.registerProducer(producer, True)
    for chunk in (b"a", b"bb", b"ccc", b"dddd"):
        producer.write(chunk)
    slow.resume()
    producer.write(b"eeeee")
    assert producer.calls == []
    assert (slow.chunks, quick.data) == ([b"a", b"bb", b"eeeee"], b"abbcccddddeeeee")
    assert (branch.dropped, branch.dropped_bytes) == (2, 7)
    producer.unregister()
    slow.check()
    assert slow.calls == quick.calls == ["unregister"]


def test_a_slow_one_is_disconnected_with_the_next_chunk(clock):
    tee, (slow, quick), _ = tee_of(clock, "disconnect", "wait")
    slow.pause_at = {1, 2}
    producer = StrictPushProducer(tee)
    tee.registerProducer(producer, True)
    producer.write(b"a")
    slow.resume()
    producer.write(b"b")
    assert slow.calls == []
    producer.write(b"c")
    assert (slow.chunks, slow.calls) == ([b"a", b"b"], ["abort"])
    producer.write(b"d")
    assert quick.data == b"abcd"
    assert producer.calls == []


def test_a_pull_producer_is_not_asked_because_a_dropping_branch_pauses(clock):
    tee, (slow, _), _ = tee_of(clock, "drop", "wait")
    producer = StrictPullProducer(tee, [b"a", b"b"])
    producer.start()
    slow.pause()
    assert producer.calls == ["resumeProducing"]
    run_until_idle(clock)
    assert producer.calls == ["resumeProducing"] * 3


def test_a_branch_that_leaves_while_a_chunk_is_on_its_way_is_not_disconnected_any_more(clock):
    tee, slow = Tee(clock), Sink()

    class Parting(Sink):
        def write(self, data):
            super().write(data)
            branch.leave()

    tee.add(Parting())
    branch = tee.add(slow, "disconnect")
    slow.pause()
    tee.write(b"a")
    assert (slow.calls, slow.data) == (["unregister"], b"")


def test_a_branch_that_comes_later_gets_what_comes_later(clock):
    tee, (first,), _ = tee_of(clock, "wait")
    tee.write(b"a")
    late = Sink()
    tee.add(late)
    tee.write(b"b")
    assert (first.data, late.data) == (b"ab", b"b")


def test_a_branch_that_comes_while_a_chunk_is_on_its_way_gets_the_next(clock):
    tee, late = Tee(clock), Sink()

    class Inviting(Sink):
        def write(self, data):
            super().write(data)
            if late.producer is None:
                tee.add(late)

    tee.add(Inviting())
    tee.write(b"a")
    tee.write(b"b")
    assert late.data == b"b"


def test_a_branch_that_comes_paused_makes_the_others_wait(clock):
    tee, (first,), _ = tee_of(clock, "wait")
    producer = StrictPushProducer(tee)
    tee.registerProducer(producer, True)

    class Full(Sink):
        def registerProducer(self, producer, streaming):
            super().registerProducer(producer, streaming)
            self.pause()

    full = Full()
    tee.add(full)
    producer.write(b"a")
    assert producer.calls == ["pauseProducing"]
    full.resume()
    assert producer.calls == ["pauseProducing", "resumeProducing"]


def test_a_branch_may_leave_and_the_others_no_longer_wait_for_it(clock):
    finished = []
    tee, (stays,), _ = tee_of(clock, "wait")
    slow = Sink(pause_at={1})
    branch = tee.add(slow, on_finish=lambda: finished.append(1))
    producer = StrictPushProducer(tee, CHUNKS)
    producer.start()
    assert stays.chunks == CHUNKS[:1]
    branch.leave()
    branch.leave()
    assert (slow.calls, finished) == (["unregister"], [1])
    assert (slow.chunks, stays.data) == (CHUNKS[:1], ALL)
    producer.check()


def test_when_all_have_left_it_waits_for_the_next(clock):
    tee, (only,), (branch,) = tee_of(clock, "wait")
    producer = StrictPushProducer(tee, [b"a"])
    tee.registerProducer(producer, True)
    branch.leave()
    assert producer.calls == ["pauseProducing"]
    late = Sink()
    tee.add(late)
    assert producer.calls == ["pauseProducing", "resumeProducing"]
    assert (only.data, late.data) == (b"", b"a")


@pytest.mark.parametrize("slow", ["wait", "drop", "disconnect"])
def test_E3_a_loss_stays_at_the_tee_until_the_last_consumer_is_lost(slow, clock):
    tee, (one, two), _ = tee_of(clock, slow, slow)
    producer = StrictPushProducer(tee)
    tee.registerProducer(producer, True)
    one.lose()
    producer.write(b"a")
    assert (one.data, two.data, producer.calls) == (b"", b"a", [])
    two.lose()
    assert (producer.calls, tee.over) == (["stopProducing"], True)
    producer.check()


def test_a_loss_of_the_one_that_was_waited_for_resumes(clock):
    tee, (slow, quick), _ = tee_of(clock, "wait", "wait")
    slow.pause_at = {1}
    producer = StrictPushProducer(tee, CHUNKS)
    producer.start()
    slow.lose()
    assert quick.data == ALL
    producer.check()


def test_a_lasting_tee_outlives_its_consumers(clock):
    tee, (only,), _ = tee_of(clock, "wait", lasting=True)
    producer = StrictPushProducer(tee, [b"a"])
    tee.registerProducer(producer, True)
    only.lose()
    assert (producer.calls, tee.over) == (["pauseProducing"], False)
    late = Sink()
    tee.add(late)
    assert late.data == b"a"
    assert producer.calls == ["pauseProducing", "resumeProducing"]


def test_B3_a_consumer_that_raises_is_aborted_and_the_others_go_on(clock, caplog):
    tee, (bad, good), _ = tee_of(clock, "wait", "wait")
    bad.write = lambda data: 1 / 0
    producer = StrictPushProducer(tee, CHUNKS)
    producer.start()
    assert logged(caplog) == [ZeroDivisionError]
    assert (bad.calls, good.data, good.calls) == (["abort"], ALL, ["unregister"])
    producer.check()


def test_E6_an_abort_reaches_all_and_stops_the_producer_once(clock):
    tee, sinks, _ = tee_of(clock, "wait", "drop", "disconnect")
    producer = StrictPushProducer(tee)
    tee.registerProducer(producer, True)
    tee.abortConnection()
    assert [sink.calls for sink in sinks] == [["abort"]] * 3
    assert producer.calls == ["stopProducing"]


def test_an_unknown_way_to_treat_the_slow_is_refused_by_name(clock):
    with pytest.raises(ValueError, match="slow='hurry'"):
        Tee(clock).add(Sink(), "hurry")


def test_a_tee_that_is_over_takes_no_more_consumers(clock):
    tee, (only,), _ = tee_of(clock, "wait")
    tee.loseConnection()
    with pytest.raises(RuntimeError, match="make another"):
        tee.add(Sink())


def test_a_tee_that_has_ended_ends_for_a_consumer_that_comes_paused(clock):
    class Full(Sink):
        def registerProducer(self, producer, streaming):
            super().registerProducer(producer, streaming)
            self.pause()

    tee, full = Tee(clock), Full()
    tee.loseConnection()
    tee.add(full)
    assert full.calls == ["unregister", "lose"]


# --- Chains over real sockets

PASSES_AT_REST = 20  # without a byte that moves: by then nothing will


def held_by(stages):
    return sum(stage.buffered for stage in stages)


def read_all(reactor, client, most=1 << 20):
    """Read up to the end, and return a hash of all of it."""
    received = hashlib.sha256()
    ended = []
    client.setblocking(False)

    def some():
        try:
            data = client.recv(most)
        except BlockingIOError:
            return bool(ended)
        received.update(data)
        if not data:
            ended.append(1)
        return bool(ended)

    pump(reactor, some, "the end of the stream")
    return received.hexdigest()


@pytest.mark.slow
@each_producer
def test_with_the_last_reader_stalled_the_first_producer_stops_and_nothing_is_lost(
    reactor, closing, producing
):
    """All stages between a producer and a socket, whose peer first reads nothing, then all."""
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
    marks = (32 * 1024, 8 * 1024)
    transport.setWriteBufferLimits(*marks)
    tee, watching = Tee(reactor), Sink()
    stages = [
        PushFromPull(reactor),
        Buffer(*marks, reactor),
        compressed(reactor),
        Buffer(*marks, reactor),
        RateLimiter(10**9, 10**6, reactor),
        tee,
        decompressed(reactor, 4096),
        Buffer(*marks, reactor),
    ]
    way = pipe(*stages, transport, on_finish=transport.loseConnection)
    tee.add(watching, "drop")
    rng = random.Random(4)
    blocks = [rng.getrandbits(8 * 5000).to_bytes(5000, "big") for _ in range(2000)]
    producer = producing(way, blocks)
    producer.start()
    most = before = still = 0

    def at_rest():
        nonlocal most, before, still
        most = max(most, held_by(stages) + transport.pending)
        still = still + 1 if producer.written == before else 0
        before = producer.written
        return still == PASSES_AT_REST

    pump(reactor, at_rest, "the producer to stop")
    assert 0 < producer.written < 2000 * 5000
    assert way.buffered <= 5000
    assert most <= 4 * marks[0] + (len(stages) + 1) * LARGEST_CHUNK
    assert read_all(reactor, client) == hashlib.sha256(b"".join(blocks)).hexdigest()
    pump(reactor, lambda: protocol.calls[-1:] == ["lost"], "the close")
    assert held_by(stages) == 0
    client.close()
    pump(reactor, lambda: next_timer(reactor) is None, "the timers to end")
    assert watching.calls == ["unregister"]
    producer.check()


def test_a_reader_that_goes_away_stops_the_first_producer(reactor, closing):
    protocol, client = served(reactor)
    stages = [Buffer(reactor=reactor), RateLimiter(10**6, reactor=reactor), Tee(reactor)]
    way = pipe(*stages, protocol.transport)
    endless = iter(lambda: b"a" * 1000, None)
    producer = StrictPushProducer(way, endless)
    producer.start()
    iterations(reactor)
    client.close()
    pump(reactor, lambda: producer.state == "stopped", "the stop")
    assert producer.calls[-1] == "stopProducing"
    assert [stage.buffered for stage in stages] == [0, 0, 0]
    assert next_timer(reactor) is None
    producer.check()


class Upstream(Recorder):
    """Writes what it reads to a consumer. Its transport is the push producer."""

    way = None

    def dataReceived(self, data):
        self.way.write(data)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.way.unregisterProducer()


@pytest.mark.slow
def test_a_connection_is_read_no_faster_than_another_takes_it(reactor, closing):
    upstream, source = served(reactor, Upstream())
    downstream, target = served(reactor)
    closing(source)
    closing(target)
    for sock in (source, downstream.transport.getHandle()):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)
    stages = [compressed(reactor), Buffer(10_000, reactor=reactor), decompressed(reactor)]
    upstream.way = pipe(
        *stages, downstream.transport, on_finish=downstream.transport.loseConnection
    )
    upstream.way.registerProducer(upstream.transport, True)
    sent, rng, still = hashlib.sha256(), random.Random(5), 0
    source.setblocking(False)

    def at_rest():
        nonlocal still
        block = rng.getrandbits(8 * 100_000).to_bytes(100_000, "big")
        try:
            sent.update(block[: source.send(block)])
            still = 0
        except BlockingIOError:
            still += 1
        return still >= PASSES_AT_REST and not upstream.transport.reading

    pump(reactor, at_rest, "the connection not to be read any more")
    source.close()
    assert read_all(reactor, target) == sent.hexdigest()
    pump(reactor, lambda: downstream.calls[-1:] == ["lost"], "the close")


# --- A random walk over random chains

EPISODES = 800


class Spy:
    """Stands between two stages, or a producer and a stage, and passes all calls on.

    Records all breaches of the contract, of either side."""

    def __init__(self, below):
        self.below = below
        self.above = None
        self.streaming = None
        self.paused = False
        self.writing = 0
        self.written = 0
        self.ended = None  # "unregistered", "stopped"
        self.stops = 0
        self.calls = []
        self.breaches = []

    def _check(self, call, allowed):
        self.calls.append(call)
        if not allowed:
            self.breaches.append((call, self.calls[-6:]))

    def registerProducer(self, above, streaming):
        self._check("register", self.above is None)
        self.above, self.streaming = above, streaming
        self.below.registerProducer(self, streaming)

    def unregisterProducer(self):
        self._check("unregister", self.ended is None and self.above is not None)
        self.ended = "unregistered"
        self.below.unregisterProducer()

    def write(self, data):
        # Who is asked may write when it likes; a stage never writes while it is paused.
        self._check("write", not self.paused and self.ended is None)
        self.written += len(data)
        self.writing += 1
        try:
            self.below.write(data)
        finally:
            self.writing -= 1

    def loseConnection(self):
        self.below.loseConnection()

    def abortConnection(self):
        self.below.abortConnection()

    def pauseProducing(self):
        self._check("pause", self.streaming and not self.paused and self.ended is None)
        self.paused = True
        self.above.pauseProducing()

    def resumeProducing(self):
        turn = self.paused or not self.streaming
        self._check("resume", turn and not self.writing and self.ended is None)
        self.paused = False
        self.above.resumeProducing()

    def stopProducing(self):
        self._check("stop", self.ended is None)
        self.ended = "stopped"
        self.stops += 1
        self.above.stopProducing()


class Episode:
    """One random chain from a strict producer to a connection on a scripted socket."""

    def __init__(self, rng, wire):
        self.rng, self.wire = rng, wire
        self.steps = []
        self.protocol = Recorder()
        self.transport, self.sock = wire.connect(self.protocol, rng.choice([0, 0, 300, 10**6]))
        high = rng.choice([1, 100, 2000])
        self.transport.setWriteBufferLimits(high, rng.choice([0, high // 2]))
        self.finished = []
        self.side = []  # (branch, sink) of the Tees
        self.largest = 1
        self.stages = []
        for _ in range(rng.randrange(1, 5)):
            self._grow()
        self.largest = max(self.largest, 400)
        self.spies = []
        self.unfed = None
        below = self.transport
        for stage in reversed(self.stages):
            spy = Spy(below)
            if self.spies:
                stage.feed(spy)
            elif rng.random() < 0.2 and not isinstance(stage, Tee):
                self.unfed = (stage, spy)
            else:
                stage.feed(spy, self._finish)
            self.spies.insert(0, spy)
            below = stage
        streaming = rng.random() < 0.5
        kind = StrictPushProducer if streaming else StrictPullProducer
        self.chunks = [
            bytes([rng.randrange(256)]) * rng.choice([1, 5, 60, 400])
            for _ in range(rng.randrange(60))
        ]
        script = list(self.chunks)
        if not streaming:
            for _ in range(rng.randrange(3)):
                script.insert(rng.randrange(len(script) + 1), None)
        top = Spy(below)
        self.spies.insert(0, top)
        self.producer = kind(top, script)
        self.steps.append((kind.__name__, len(script), self.stages))
        self.lossy = False
        self.producer.start()

    def _finish(self):
        self.finished.append(1)
        self.transport.loseConnection()

    def _grow(self):
        rng, reactor = self.rng, self.wire.reactor
        kind = rng.choice(["push", "buffer", "rate", "parts", "swallow", "zlib", "tee"])
        if kind == "push":
            self.stages.append(PushFromPull(reactor))
        elif kind == "buffer":
            high = rng.choice([1, 50, 1000])
            self.stages.append(Buffer(high, rng.choice([0, high // 3]), reactor))
        elif kind == "rate":
            self.stages.append(RateLimiter(rng.choice([50, 1e4]), rng.choice([20, 900]), reactor))
        elif kind == "parts":
            self.stages.append(Transform(in_parts, reactor=reactor))
        elif kind == "swallow":
            kept = bytearray()

            def most_of(data):
                kept.extend(data)
                if len(kept) < 300:
                    return None
                out = bytes(kept)
                kept.clear()
                return out

            self.stages.append(Transform(most_of, lambda: kept, reactor))
        elif kind == "zlib":
            self.stages += [compressed(reactor), decompressed(reactor, rng.choice([10, 1000]))]
        else:
            tee = Tee(reactor, lasting=rng.random() < 0.5)
            self.stages.append(tee)
            for _ in range(rng.randrange(3)):
                sink = Sink()
                slow = rng.choice(["wait", "drop", "disconnect"])
                self.side.append((tee.add(sink, slow), sink))

    def act(self):
        rng, sock, transport = self.rng, self.sock, self.transport
        action = rng.choices(
            [
                "room",
                "time",
                "side",
                "write",
                "limits",
                "feed",
                "nothing",
                "reset",
                "abort",
                "break",
            ],
            [30, 30, 15, 5, 5, 5, 10, 0.3, 0.3, 0.3],
        )[0]
        self.steps.append(action)
        if action == "room":
            sock.room += rng.choice([1, 30, 400, 5000])
        elif action == "time":
            self.clock.rightNow += rng.choice([0.001, 0.05, 1.0])
        elif action == "side" and self.side:
            branch, sink = rng.choice(self.side)
            if sink.producer is None:
                return
            doing = rng.random()
            if doing < 0.06:
                sink.lose()
            elif doing < 0.12:
                branch.leave()
            elif sink.paused:
                sink.resume()
            else:
                sink.pause()
        elif action == "write":
            self.poke()
        elif action == "limits":
            high = rng.choice([1, 100, 2000])
            transport.setWriteBufferLimits(high, rng.choice([0, high // 2]))
        elif action == "feed":
            self.feed()
        elif action == "reset":
            sock.error = errno.ECONNRESET
            self.lossy = True
        elif action == "abort":
            transport.abortConnection()
            self.lossy = True
        elif action == "break":
            rng.choice(self.stages).abortConnection()
            self.lossy = True

    def feed(self):
        if self.unfed is not None:
            (stage, spy), self.unfed = self.unfed, None
            if not stage.over:
                stage.feed(spy, self._finish)

    def poke(self):
        """Let a pull producer write, if it was asked and has not written yet."""
        producer = self.producer
        if self.spies[0].calls[-1] == "resume" and not producer.streaming:
            self.chunks.insert(self.passed(), b"poke")
            producer.write(b"poke")

    def passed(self):
        """Return how many chunks the producer has written."""
        total = count = 0
        while total < self.producer.written:
            total += len(self.chunks[count])
            count += 1
        return count

    def check(self):
        self.producer.check()
        for spy in self.spies:
            assert spy.breaches == []
            assert spy.stops <= 1
        for _, sink in self.side:
            sink.check()
        for stage in self.stages:
            mark = stage._flow.high if isinstance(stage, Buffer) else 0
            assert stage.buffered <= mark + max(self.largest, LARGEST_CHUNK), stage

    def run_to_the_end(self):
        """Let everything go on to the end, and check the result."""
        reactor = self.wire.reactor
        self.feed()
        for _ in range(20_000):
            self.sock.room = 10**6
            for _, sink in self.side:
                if sink.paused and sink.producer is not None:
                    sink.resume()
            self.poke()
            self.wire.run(2)
            self.check()
            wait = next_timer(reactor)
            if wait is not None:
                self.clock.rightNow += wait
            elif self.protocol.reason is not None or self.broken():
                break
        else:
            raise AssertionError("the stream does not come to its end")
        # A loss goes no further than to a Tee that lasts, or that has another consumer.
        if any(isinstance(stage, Tee) and not stage.over for stage in self.stages):
            assert self.lossy
            self.stages[0].abortConnection()
        self.wire.run(3)
        self.check()
        assert next_timer(reactor) is None
        assert all(stage.over for stage in self.stages)
        assert held_by(self.stages) == 0
        data = b"".join(self.chunks)
        assert data.startswith(bytes(self.sock.taken))
        ended = "unregister" in self.spies[0].calls
        assert self.producer.calls.count("stopProducing") == (0 if ended else 1)
        if not self.lossy:
            assert bytes(self.sock.taken) == data
            assert (self.finished, ended) == ([1], True)
            for spy in self.spies:
                assert spy.ended == "unregistered"
        return self.lossy

    def broken(self):
        """Return whether the loss of the consumer has reached all stages."""
        return self.lossy and self.stages[-1].over


@pytest.mark.slow
def test_a_random_walk_over_random_chains_loses_nothing_and_breaks_no_rule(monkeypatch):
    seed = int(os.environ.get("MINIREACTOR_SEED") or random.SystemRandom().randrange(10**9))
    rng = random.Random(seed)
    clock = Clock()
    wire = Wire(monkeypatch, clock.seconds)
    Episode.clock = clock
    ends = {True: 0, False: 0}
    for number in range(EPISODES):
        episode = None
        try:
            episode = Episode(rng, wire)
            for _ in range(rng.randrange(60)):
                episode.act()
                episode.check()
                wire.run(rng.randrange(3))
                episode.check()
            ends[episode.run_to_the_end()] += 1
        except AssertionError as error:
            steps = episode.steps if episode is not None else "the beginning"
            raise AssertionError(
                f"MINIREACTOR_SEED={seed}, episode {number}, after {steps}: {error}"
            ) from error
    wire.reactor.close()
    assert min(ends.values()) > EPISODES / 20
