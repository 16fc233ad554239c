"""The table of flow control, and the rules that follow from it."""

from __future__ import annotations

import itertools
import random

import pytest

from minireactor.core import flow
from minireactor.core.flow import (
    ABOVE,
    BELOW,
    CLOSED,
    ENDED,
    FLOWING,
    NONE,
    PAUSE,
    PAUSED,
    PULL,
    PULL_REGISTERED,
    PUSH_REGISTERED,
    RESUME,
    STOP,
    TRANSITIONS,
    UNREGISTERED,
    FlowControl,
    checked_marks,
)
from minireactor.testing import StrictPullProducer, StrictPushProducer

STATES = (NONE, FLOWING, PAUSED, PULL, CLOSED)
EVENTS = (PUSH_REGISTERED, PULL_REGISTERED, UNREGISTERED, ABOVE, BELOW, ENDED)

# (state, event): (next state, call), or None where it must not happen. Written out by hand: a
# change of the table is a change of the contract.
EXPECTED = {
    (NONE, PUSH_REGISTERED): (FLOWING, None),  # P1
    (NONE, PULL_REGISTERED): (PULL, RESUME),  # U1
    (NONE, UNREGISTERED): (NONE, None),  # E4
    (NONE, ABOVE): (NONE, None),
    (NONE, BELOW): (NONE, None),
    (NONE, ENDED): (CLOSED, None),
    (FLOWING, PUSH_REGISTERED): None,  # E1
    (FLOWING, PULL_REGISTERED): None,  # E1
    (FLOWING, UNREGISTERED): (NONE, None),
    (FLOWING, ABOVE): (PAUSED, PAUSE),  # P2
    (FLOWING, BELOW): (FLOWING, None),  # P3
    (FLOWING, ENDED): (CLOSED, STOP),  # E3
    (PAUSED, PUSH_REGISTERED): None,  # E1
    (PAUSED, PULL_REGISTERED): None,  # E1
    (PAUSED, UNREGISTERED): (NONE, None),
    (PAUSED, ABOVE): (PAUSED, None),  # P2
    (PAUSED, BELOW): (FLOWING, RESUME),  # P3
    (PAUSED, ENDED): (CLOSED, STOP),  # E3
    (PULL, PUSH_REGISTERED): None,  # E1
    (PULL, PULL_REGISTERED): None,  # E1
    (PULL, UNREGISTERED): (NONE, None),
    (PULL, ABOVE): (PULL, None),
    (PULL, BELOW): (PULL, RESUME),  # U1
    (PULL, ENDED): (CLOSED, STOP),  # E3
    (CLOSED, PUSH_REGISTERED): (CLOSED, STOP),  # E2
    (CLOSED, PULL_REGISTERED): (CLOSED, STOP),  # E2
    (CLOSED, UNREGISTERED): (CLOSED, None),  # E4
    (CLOSED, ABOVE): None,
    (CLOSED, BELOW): None,
    (CLOSED, ENDED): (CLOSED, None),  # E3
}


class Producer:
    """Records the names of its calls."""

    def __init__(self):
        self.calls = []

    def pauseProducing(self):
        self.calls.append(PAUSE)

    def resumeProducing(self):
        self.calls.append(RESUME)

    def stopProducing(self):
        self.calls.append(STOP)


def control_in(state):
    """Return (control, producer), brought into a state by the events that lead there."""
    control, producer = FlowControl(), Producer()
    for call in {
        NONE: [],
        FLOWING: [lambda: control.register(producer, True)],
        PAUSED: [lambda: control.register(producer, True), lambda: control.fire(ABOVE)],
        PULL: [lambda: control.register(producer, False)],
        CLOSED: [lambda: control.fire(ENDED)],
    }[state]:
        call()
    assert control.state == state
    return control, producer


def happen(control, event, producer):
    """Fire an event as a consumer does, and return the name of the call that it caused."""
    if event in (PUSH_REGISTERED, PULL_REGISTERED):
        return control.register(producer, event == PUSH_REGISTERED)
    return control.fire(event)


# --- The table


def test_the_expectation_has_every_state_with_every_event():
    assert set(EXPECTED) == set(itertools.product(STATES, EVENTS))


def test_the_table_has_the_rows_that_are_expected_and_no_others():
    assert {row: then for row, then in EXPECTED.items() if then is not None} == TRANSITIONS


@pytest.mark.parametrize(("state", "event"), list(EXPECTED))
def test_every_state_with_every_event(state, event):
    control, producer = control_in(state)
    if EXPECTED[state, event] is None:
        with pytest.raises((KeyError, RuntimeError)):
            happen(control, event, Producer())
        assert control.state == state
        return
    then, name = EXPECTED[state, event]
    call = happen(control, event, producer)
    assert control.state == then
    assert control.producer is (producer if then in (FLOWING, PAUSED, PULL) else None)
    assert control.streaming is (then in (FLOWING, PAUSED))
    assert call == (None if name is None else (producer, name))
    assert producer.calls == []
    if call is not None:
        flow.call(*call)
        assert producer.calls == [name]


@pytest.mark.parametrize("state", STATES)
def test_an_event_without_a_row_is_an_error_that_names_both(state):
    control, _ = control_in(state)
    with pytest.raises(KeyError, match=f"{state}.*sunrise"):
        control.fire("sunrise")
    assert control.state == state


def test_a_new_control_has_the_default_marks_and_no_producer():
    control = FlowControl()
    assert (control.high, control.low) == (64 * 1024, 16 * 1024)
    assert (control.state, control.producer, control.streaming) == (NONE, None, False)


# --- M1: marks


@pytest.mark.parametrize(
    ("given", "marks"),
    [
        ((100, 20), (100, 20)),
        ((100, 0), (100, 0)),
        ((100, 99), (100, 99)),
        ((1, 0), (1, 0)),
        ((100,), (100, 25)),
        ((1,), (1, 0)),
        ((10**30,), (10**30, 10**30 // 4)),
    ],
)
def test_M1_marks_and_a_low_of_a_quarter_when_only_high_is_given(given, marks):
    assert checked_marks(*given) == marks


@pytest.mark.parametrize(
    ("high", "low"),
    [
        (100, 100),
        (100, 101),
        (0, 0),
        (100, -1),
        (-1, -2),
        (64.0, 16),
        (64, 16.0),
        ("64", 16),
        (64, "16"),
        (None, 16),
        (float("nan"), 0),
    ],
)
def test_M1_anything_else_is_a_ValueError_that_names_both(high, low):
    with pytest.raises(ValueError) as caught:
        checked_marks(high, low)
    assert f"high={high!r} and low={low!r}" in str(caught.value)


@pytest.mark.parametrize("high", [0, -1, "64", None, 64.0])
def test_M1_a_bad_high_alone_is_a_ValueError_too(high):
    with pytest.raises(ValueError, match=f"high={high!r}"):
        checked_marks(high)


# --- Registration and endings


@pytest.mark.parametrize("state", [FLOWING, PAUSED, PULL])
@pytest.mark.parametrize("streaming", [True, False])
def test_E1_a_second_producer_is_an_error_that_names_both(state, streaming):
    control, first = control_in(state)
    second = Producer()
    with pytest.raises(RuntimeError) as caught:
        control.register(second, streaming)
    assert repr(first) in str(caught.value)
    assert repr(second) in str(caught.value)
    assert "unregisterProducer()" in str(caught.value)
    assert (control.state, control.producer) == (state, first)
    assert second.calls == []


def test_E2_a_producer_that_comes_too_late_is_stopped_and_not_kept():
    control, _ = control_in(CLOSED)
    for streaming in (True, False):
        late = Producer()
        assert control.register(late, streaming) == (late, STOP)
        assert (late.calls, control.producer, control.streaming) == ([], None, False)


def test_E3_one_stop_and_nothing_after_it():
    control, producer = control_in(PAUSED)
    assert control.fire(ENDED) == (producer, STOP)
    assert control.fire(ENDED) is None


def test_E4_after_a_stop_the_consumer_has_let_go():
    control, _ = control_in(FLOWING)
    control.fire(ENDED)
    assert (control.producer, control.fire(UNREGISTERED)) == (None, None)


def test_P4_the_state_has_changed_before_the_call_is_made():
    control = FlowControl()
    states = []

    class Watching(Producer):
        def pauseProducing(self):
            states.append(control.state)

        def resumeProducing(self):
            states.append(control.state)

    control.register(Watching(), True)
    flow.call(*control.fire(ABOVE))
    flow.call(*control.fire(BELOW))
    assert states == [PAUSED, FLOWING]


def test_any_true_value_makes_a_push_producer():
    for streaming in (1, 0):
        control = FlowControl()
        control.register(Producer(), streaming)
        assert control.streaming is bool(streaming)


@pytest.mark.parametrize(
    ("state", "event"),
    [(FLOWING, ABOVE), (PAUSED, BELOW), (PULL, BELOW), (FLOWING, ENDED)],
)
def test_a_producer_that_lacks_the_method_fails_in_the_call_and_not_before(state, event):
    control, _ = control_in(state)
    control.producer = object()
    call = control.fire(event)
    assert control.state == TRANSITIONS[state, event][0]
    with pytest.raises(AttributeError, match=call[1]):
        flow.call(*call)


# --- The rules, with a consumer around the table


class Consumer:
    """Pending bytes and marks, without a kernel: `flush(count)` sends so many."""

    def __init__(self, high=100, low=20):
        self.flow = FlowControl(high, low)
        self.pending = 0

    def _make(self, call):
        if call is not None:
            flow.call(*call)

    def registerProducer(self, producer, streaming):
        self._make(self.flow.register(producer, streaming))
        if self.pending > self.flow.high:
            self._make(self.flow.fire(ABOVE))

    def unregisterProducer(self):
        self._make(self.flow.fire(UNREGISTERED))

    def write(self, data):
        if self.flow.state == CLOSED:
            return
        self.pending += len(data)
        if self.pending > self.flow.high:
            self._make(self.flow.fire(ABOVE))

    def flush(self, count):
        if self.flow.state == CLOSED or not self.pending:
            return
        self.pending = max(0, self.pending - count)
        if self.pending <= self.flow.low:
            self._make(self.flow.fire(BELOW))

    def end(self):
        self.pending = 0
        self._make(self.flow.fire(ENDED))


def test_M2_crossing_is_over_high_and_at_or_under_low():
    consumer = Consumer(high=100, low=20)
    producer = StrictPushProducer(consumer)
    consumer.registerProducer(producer, True)
    producer.write(b"x" * 100)
    assert producer.calls == []
    producer.write(b"x")
    assert producer.calls == [PAUSE]
    consumer.flush(80)
    assert producer.calls == [PAUSE]
    consumer.flush(1)
    assert producer.calls == [PAUSE, RESUME]
    producer.check()


def test_P1_a_producer_registered_above_high_is_paused_at_once():
    consumer = Consumer()
    consumer.write(b"x" * 101)
    producer = StrictPushProducer(consumer, [b"never"])
    producer.start()
    producer.check()
    assert (producer.calls, producer.written) == ([PAUSE], 0)


def test_P2_one_pause_for_each_crossing_however_much_is_written():
    consumer = Consumer()
    producer = StrictPushProducer(consumer)
    consumer.registerProducer(producer, True)
    for _ in range(10):
        producer.write(b"x" * 60)
    producer.check()
    assert producer.calls == [PAUSE]


def test_P4_a_producer_that_overfills_inside_resume_is_paused_again():
    consumer = Consumer()
    producer = StrictPushProducer(consumer, [b"x" * 150] * 3)
    producer.start()
    for _ in range(5):
        consumer.flush(1000)
    producer.check()
    assert producer.calls == [PAUSE, RESUME] * 3
    assert producer.written == 450


def test_U1_a_pull_producer_is_asked_once_at_first_and_after_each_flush():
    consumer = Consumer()
    producer = StrictPullProducer(consumer, [b"x" * 50] * 3)
    producer.start()
    asked = [producer.calls.count(RESUME)]
    for count in (10, 20, 100):
        consumer.flush(count)
        asked.append(producer.calls.count(RESUME))
    producer.check()
    assert asked == [1, 1, 2, 3]


def test_U2_a_pull_producer_that_writes_nothing_is_not_polled():
    consumer = Consumer()
    producer = StrictPullProducer(consumer, [None, b"x"])
    producer.start()
    for _ in range(5):
        consumer.flush(100)
    assert producer.calls == [RESUME]
    consumer.write(b"somebody else's")
    consumer.flush(100)
    producer.check()
    assert producer.calls == [RESUME, RESUME]


@pytest.mark.parametrize("seed", range(10))
def test_no_sequence_of_events_breaks_the_contract(seed):
    chance = random.Random(seed)
    for _ in range(50):
        consumer = Consumer(*checked_marks(chance.randint(1, 200)))
        kind = chance.choice((StrictPushProducer, StrictPullProducer))
        chunks = [b"x" * chance.randint(1, 150) for _ in range(chance.randint(0, 30))]
        producer = kind(consumer, chunks)
        producer.start()
        for _ in range(chance.randint(1, 60)):
            if chance.random() < 0.2:
                consumer.write(b"y" * chance.randint(1, 150))
            else:
                consumer.flush(chance.randint(1, 300))
        if chance.random() < 0.5:
            consumer.end()
            ended = producer.state
            assert ended in ("stopped", "unregistered")
        producer.check()
        assert flow.STOP not in producer.calls[:-1]


def test_the_states_that_wait_are_those_that_a_falling_buffer_calls():
    called = {
        state
        for (state, event), (_, call) in flow.TRANSITIONS.items()
        if event == flow.BELOW and call
    }
    assert called == set(flow.WAITING)
