"""Delayed calls: their order, moving and cancelling."""

from __future__ import annotations

import ast
import gc
import inspect
import logging
import math
import random
import time
import weakref
from decimal import Decimal
from fractions import Fraction

import pytest
from support import assert_linear

from minireactor.core import timers
from minireactor.core.loop import Loop
from minireactor.core.timers import TimerQueue
from minireactor.error import AlreadyCalled, AlreadyCancelled


class Time:
    """A queue of delayed calls whose time the test moves. `made` has what the calls recorded."""

    def __init__(self, now=0.0):
        self.now = now
        self.queue = TimerQueue(lambda: self.now)
        self.made = []

    def add(self, delay, note):
        return self.queue.add(delay, self.made.append, (note,), {})

    def run(self, now=None):
        """Run one iteration at `now`, and return the calls that it made."""
        if now is not None:
            self.now = now
        before = len(self.made)
        self.queue.run_due(self.now, lambda f, args, kw: f(*args, **kw))
        return self.made[before:]

    def timeout(self):
        return self.queue.timeout(self.now)


@pytest.fixture
def at():
    return Time()


class Poller:
    """A poller without events. `timeouts` has the timeout of each poll."""

    def __init__(self):
        self.timeouts = []

    def poll(self, timeout, most):
        self.timeouts.append(timeout)
        return []


# --- Order


def test_calls_come_by_time(at):
    for delay in (3, 1, 2):
        at.add(delay, delay)
    assert at.run(3) == [1, 2, 3]


def test_equal_times_come_in_the_order_they_were_asked_for(at):
    for number in range(100):
        at.add(1, number)
    assert at.run(1) == list(range(100))


def test_equal_times_asked_for_at_different_times_keep_that_order(at):
    at.add(2, "first")
    at.now = 1
    at.add(1, "second")
    assert at.run(2) == ["first", "second"]


def test_a_call_that_is_moved_to_an_equal_time_comes_after_those_there(at):
    moved = at.add(1, "moved")
    at.add(2, "there")
    moved.reset(2)
    assert at.run(2) == ["there", "moved"]


def test_a_call_is_not_due_before_its_time(at):
    at.add(1, "x")
    assert (at.run(0.999), at.run(1), at.run(2)) == ([], ["x"], [])


def test_the_function_gets_its_arguments(at):
    seen = []
    at.queue.add(0, lambda *args, **kw: seen.append((args, kw)), (1, 2), {"three": 3})
    at.run()
    assert seen == [((1, 2), {"three": 3})]


def test_the_function_has_to_be_callable(at):
    with pytest.raises(TypeError, match="callable, not 'oops'"):
        at.queue.add(0, "oops", (), {})
    assert at.queue.calls() == []


def dead_entries(queue):
    """Count the cancelled entries. A queue that counts wrong is rebuilt too early, or never."""
    return sum(entry[1] != entry[2].entry_serial for entry in [*queue.due, *queue.heap])


def test_random_adds_moves_and_cancels_agree_with_a_sorted_list():
    chance = random.Random(33)
    at, model = Time(), {}  # call -> (time, how recent its place is)
    for step in range(5000):
        what = chance.random()
        if what < 0.5 or not model:
            call = at.add(chance.randrange(20), step)
            model[call] = (call.getTime(), step, step)
        elif what < 0.7:
            call = chance.choice(list(model))
            call.cancel()
            del model[call]
        elif what < 0.9:
            call = chance.choice(list(model))
            if chance.random() < 0.5:
                call.reset(chance.randrange(20))
            else:
                call.delay(chance.randrange(-5, 5))
            model[call] = (call.getTime(), step, model[call][2])
        else:
            at.now += chance.randrange(5)
            due = sorted((place, call) for call, place in model.items() if place[0] <= at.now)
            assert at.run() == [place[2] for place, _ in due]
            for _, call in due:
                del model[call]
        assert set(at.queue.calls()) == set(model)
        assert at.queue._dead == dead_entries(at.queue)
        if chance.random() < 0.1:
            earliest = min((call.getTime() for call in model), default=None)
            assert at.timeout() == (earliest if earliest is None else max(0, earliest - at.now))


def test_calls_that_are_put_off_to_an_equal_time_come_in_the_order_of_their_resets(at):
    first, second, third = (at.add(delay, note) for delay, note in ((3, "a"), (2, "b"), (1, "c")))
    for call in (second, third, first):
        call.reset(5)
    at.add(5, "d")
    second.reset(5)
    assert at.run(5) == ["c", "a", "d", "b"]


def test_a_call_that_is_put_off_keeps_its_entry_until_that_comes_up(at, monkeypatch):
    # given a call with an idle timeout, beside others
    call = at.add(10, "idle")
    at.add(21, "other")
    pushed = []
    monkeypatch.setattr(timers, "heappush", lambda heap, entry: pushed.append(entry))

    # when it is reset a thousand times
    for _ in range(1000):
        at.now += 0.001
        call.reset(10)
        call.delay(1)

    # then nothing is pushed, and the wait is for its new time
    assert pushed == []
    assert len(at.queue.heap) == 2
    assert at.timeout() == 11
    assert (at.run(11.5), at.run(12), at.run(21)) == ([], ["idle"], ["other"])


def test_a_call_that_was_put_off_can_be_brought_forward_and_cancelled(at):
    call, cancelled = at.add(2, "x"), at.add(2, "cancelled")
    for each in (call, cancelled):
        each.reset(10)
        each.reset(5)
        assert each.getTime() == 5
        each.reset(1)
    cancelled.cancel()
    assert (at.timeout(), at.run(1), at.run(20)) == (1.0, ["x"], [])
    assert at.timeout() is None


def test_a_function_whose_repr_raises_does_not_keep_its_call_from_having_one(at):
    class Rude:
        def __call__(self):
            pass

        def __repr__(self):
            raise SyntaxError

    call = at.queue.add(1, Rude(), (), {})
    assert "Rude" in repr(call)
    assert repr(call).endswith("at 1.000 (pending)>")


# --- Delays: impossible ones, and any size


@pytest.mark.parametrize(
    "delay", [-1, -0.001, -math.inf, Fraction(-1, 3), Decimal("-1"), -(10**400)]
)
def test_a_negative_delay_is_a_ValueError(at, delay):
    with pytest.raises(ValueError, match="0 seconds or more, not .*-"):
        at.add(delay, "x")
    assert at.queue.calls() == []


@pytest.mark.parametrize("delay", [math.nan, Decimal("NaN")])
def test_a_NaN_delay_is_a_ValueError(at, delay):
    with pytest.raises(ValueError, match="(?i)number of seconds, not .*nan"):
        at.add(delay, "x")
    assert at.queue.calls() == []


@pytest.mark.parametrize("delay", ["5", b"5", None, [1], (), {}, 1j, print])
def test_a_delay_that_is_no_number_is_a_TypeError(at, delay):
    with pytest.raises(TypeError, match="number of seconds, not "):
        at.add(delay, "x")
    assert at.queue.calls() == []


@pytest.mark.parametrize(
    ("delay", "due"),
    [
        (0, 100.0),
        (-0.0, 100.0),
        (2, 102.0),
        (True, 101.0),
        (False, 100.0),
        (Fraction(1, 2), 100.5),
        (Decimal("0.25"), 100.25),
        (1e300, 1e300),
        (10**30, 1e30),
        (10**400, math.inf),
        (math.inf, math.inf),
    ],
)
def test_any_real_number_from_zero_on_is_a_delay(delay, due):
    call = Time(100.0).add(delay, "x")
    assert call.getTime() == due
    assert type(call.getTime()) is float


@pytest.mark.parametrize("delay", [math.inf, 10**400, 1e300])
def test_a_call_that_never_comes_delays_no_other(at, delay):
    never = at.add(delay, "never")
    at.add(1, "soon")
    assert (at.timeout(), at.run(1e9)) == (1.0, ["soon"])
    never.cancel()
    assert at.timeout() is None


@pytest.mark.parametrize(
    ("delay", "error"),
    [(math.nan, ValueError), (-1, ValueError), ("5", TypeError), (None, TypeError)],
)
def test_reset_refuses_them_too_and_moves_nothing(at, delay, error):
    call = at.add(1, "x")
    with pytest.raises(error, match="seconds"):
        call.reset(delay)
    assert (call.getTime(), at.run(1)) == (1.0, ["x"])


@pytest.mark.parametrize(
    ("delay", "error"), [(math.nan, ValueError), ("5", TypeError), (None, TypeError)]
)
def test_delay_refuses_what_is_no_number_and_moves_nothing(at, delay, error):
    call = at.add(1, "x")
    with pytest.raises(error, match="number of seconds, not"):
        call.delay(delay)
    assert (call.getTime(), at.run(1)) == (1.0, ["x"])


def test_delay_takes_any_real_number(at):
    call = at.add(1, "x")
    times = []
    for seconds in (Fraction(1, 2), Decimal("0.5"), True, -2, 10**400):
        call.delay(seconds)
        times.append(call.getTime())
    assert times == [1.5, 2.0, 3.0, 1.0, math.inf]


def test_reset_takes_any_real_number_from_zero_on(at):
    call = at.add(1, "x")
    times = []
    for seconds in (Fraction(1, 2), Decimal("0.5"), True, 0, 10**400, math.inf):
        call.reset(seconds)
        times.append(call.getTime())
    assert times == [0.5, 0.5, 1.0, 0.0, math.inf, math.inf]


def test_a_move_to_no_time_at_all_is_refused(at):
    call = at.add(math.inf, "x")
    with pytest.raises(ValueError, match=r"use reset\(\)"):
        call.delay(-math.inf)
    assert call.getTime() == math.inf
    call.reset(1)
    assert at.run(1) == ["x"]


# --- DelayedCall


def test_a_call_is_active_until_it_is_made(at):
    call = at.add(1, "x")
    assert (call.active(), call.called, call.cancelled) == (True, 0, 0)
    at.run(1)
    assert (call.active(), call.called, call.cancelled) == (False, 1, 0)


def test_a_call_is_not_active_while_it_is_made(at):
    seen = []
    call = at.queue.add(0, lambda: seen.append(call.active()), (), {})
    at.run()
    assert seen == [False]


def test_a_cancelled_call_never_comes(at):
    call = at.add(1, "x")
    call.cancel()
    assert (call.active(), call.called, call.cancelled) == (False, 0, 1)
    assert at.run(2) == []


def test_reset_counts_from_now(at):
    call = at.add(1, "x")
    at.now = 0.5
    call.reset(1)
    assert (call.getTime(), at.run(1), at.run(1.5)) == (1.5, [], ["x"])


def test_reset_can_bring_a_call_forward(at):
    call = at.add(10, "x")
    call.reset(1)
    assert (at.timeout(), at.run(1), at.run(10)) == (1.0, ["x"], [])


def test_delay_counts_from_the_time_of_the_call(at):
    call = at.add(1, "x")
    at.now = 0.5
    call.delay(1)
    assert (call.getTime(), at.run(1.5), at.run(2)) == (2.0, [], ["x"])


def test_a_negative_delay_brings_a_call_forward_also_into_the_past(at):
    call = at.add(5, "x")
    call.delay(-100)
    assert (call.getTime(), at.timeout(), at.run()) == (-95.0, 0.0, ["x"])


@pytest.mark.parametrize("do", ["cancel", "reset", "delay"])
def test_a_call_that_was_made_is_AlreadyCalled(at, do):
    call = at.add(0, "x")
    at.run()
    with pytest.raises(AlreadyCalled):
        getattr(call, do)(*([] if do == "cancel" else [1]))


@pytest.mark.parametrize("do", ["cancel", "reset", "delay"])
def test_a_call_that_was_cancelled_is_AlreadyCancelled(at, do):
    call = at.add(0, "x")
    call.cancel()
    with pytest.raises(AlreadyCancelled):
        getattr(call, do)(*([] if do == "cancel" else [1]))


def test_a_cancelled_call_frees_its_arguments(at):
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    call = at.queue.add(1, print, (held,), {"also": held})
    call.cancel()
    del held
    for _ in range(3):
        gc.collect()
    assert gone() is None


def test_the_repr_names_the_state(at):
    pending, called, cancelled = (at.add(delay, "x") for delay in (1, 0, 1))
    cancelled.cancel()
    at.run()
    assert repr(pending).endswith("at 1.000 (pending)>")
    assert repr(called).endswith("at 0.000 (called)>")
    assert repr(cancelled).endswith("at 1.000 (cancelled)>")


def test_calls_lists_those_to_come_only(at):
    coming, called, cancelled = (at.add(delay, "x") for delay in (1, 0, 1))
    cancelled.cancel()
    at.run()
    coming.reset(5)
    assert called.called
    assert at.queue.calls() == [coming]


def test_internal_calls_come_but_are_not_listed(at):
    internal = at.add(1, "internal")
    internal.internal = True
    shown = at.add(2, "shown")
    assert at.queue.calls() == [shown]
    assert (at.timeout(), at.run(2)) == (1.0, ["internal", "shown"])


# --- How long to wait


def test_without_calls_there_is_nothing_to_wait_for(at):
    assert at.timeout() is None
    at.add(1, "x").cancel()
    assert at.timeout() is None


def test_the_wait_is_for_the_earliest_living_call(at):
    first = at.add(1, "x")
    at.add(5, "y")
    assert at.timeout() == 1.0
    first.cancel()
    at.now = 2
    assert at.timeout() == 3.0


def test_a_late_call_is_not_waited_for(at):
    at.add(1, "x")
    at.now = 10
    assert at.timeout() == 0.0


# --- Cancelled calls do not pile up


def test_100_000_cancelled_calls_leave_a_small_heap(at):
    for _ in range(100_000):
        at.add(3600, "x").cancel()
    assert len(at.queue.heap) < 200
    assert at.queue.calls() == []


def test_100_000_moves_leave_a_small_heap(at):
    call = at.add(3600, "x")
    for _ in range(50_000):
        call.reset(3600)
        call.delay(1)
    assert len(at.queue.heap) < 200
    assert at.queue.calls() == [call]


def test_cancelled_entries_never_outnumber_active_ones(at):
    living = [at.add(3600, "x") for _ in range(1000)]
    for _ in range(100_000):
        at.add(1800, "y").cancel()
    assert len(at.queue.heap) < 2 * len(living) + 200
    assert set(at.queue.calls()) == set(living)


def test_adding_moving_cancelling_and_running_are_linear():
    def live(count):
        own = Time()
        calls = [own.add(1 + number * 7919 % count, "x") for number in range(count)]
        for call in calls[::2]:
            call.reset(count)
        for call in calls[1::4]:
            call.cancel()
        assert len(own.run(2 * count)) == count - (count + 2) // 4
        assert own.queue.calls() == []

    assert_linear(live, 1000)


def test_cancelling_is_constant_work_amortised(at, monkeypatch):
    visited = []
    monkeypatch.setattr(timers, "heapify", lambda heap: visited.append(len(heap)))
    calls = [at.add(3600, "x") for _ in range(20_000)]
    for call in calls:
        call.cancel()
    # Each rebuild visits what is left, which is at most what has been cancelled since the last.
    assert sum(visited) <= len(calls)


def test_calls_moved_and_cancelled_while_they_are_due_are_accounted_for(at):
    # given a call that moves and cancels others that are due in the same iteration, so many that
    # the heap is rebuilt meanwhile
    def disturb():
        for call in due[::3]:
            call.cancel()
        for call in due[1::3]:
            call.reset(5)
        for call in due[2::3]:
            call.delay(-1)
        counts.append(at.queue._dead - dead_entries(at.queue))
        assert set(at.queue.calls()) == {call for call in due if call.active()}

    counts = []
    at.queue.add(0, disturb, (), {})
    due = [at.add(0, number) for number in range(300)]

    assert at.run() == []
    counts.append(at.queue._dead - dead_entries(at.queue))

    assert counts == [0, 0]
    assert at.run(0) == list(range(2, 300, 3))
    assert at.run(5) == list(range(1, 300, 3))


@pytest.mark.parametrize("passed", [False, True])
def test_the_dead_that_have_been_met_are_not_counted_any_more(at, monkeypatch, passed):
    rebuilt = []
    monkeypatch.setattr(timers, "heapify", rebuilt.append)
    for _ in range(1000):
        at.add(3600, "living")
    for _ in range(3000):
        at.add(0.001, "x").cancel()
        # The loop comes upon it as it looks how long it may sleep, or at what is due.
        if passed:
            at.now += 0.01
            assert at.run() == []
        else:
            at.timeout()
    assert rebuilt == []
    assert len(at.queue.heap) == 1000


@pytest.mark.slow
def test_calls_cancelled_while_they_were_due_are_accounted_for(at):
    def cancel_all():
        for call in due:
            call.cancel()

    for _ in range(50):
        at.queue.add(0, cancel_all, (), {})
        due = [at.add(0, "cancelled") for _ in range(500)]
        assert at.run() == []
    for _ in range(10_000):
        at.add(3600, "x").cancel()
    assert len(at.queue.heap) < 1000


# --- One iteration


def test_what_a_call_asks_for_waits_for_the_next_iteration(at):
    def chain():
        at.made.append("chain")
        at.queue.add(0, chain, (), {})

    at.queue.add(0, chain, (), {})
    assert (at.run(), at.timeout()) == (["chain"], 0.0)
    assert at.run() == ["chain"]


def test_a_call_that_moves_another_into_the_past_waits_for_the_next_iteration(at):
    other = at.add(10, "other")
    at.queue.add(0, other.delay, (-100,), {})
    assert (at.run(), at.timeout(), at.run()) == ([], 0.0, ["other"])


def test_input_is_looked_for_between_calls_that_reschedule_themselves():
    poller = Poller()
    loop = Loop(poller, seconds=lambda: 0.0)
    made = []

    def again():
        made.append(len(poller.timeouts))
        loop.callLater(0, again)

    loop.callLater(0, again)
    for _ in range(3):
        loop.tick()
    assert made == [1, 2, 3]
    assert poller.timeouts == [0.0, 0.0, 0.0]


def test_a_call_can_cancel_another_that_is_due_in_the_same_iteration(at):
    at.queue.add(0, lambda: victim.cancel(), (), {})
    victim = at.add(0, "victim")
    at.add(0, "bystander")
    assert at.run() == ["bystander"]


def test_a_call_can_put_off_another_that_is_due_in_the_same_iteration(at):
    at.queue.add(0, lambda: other.reset(5), (), {})
    other = at.add(0, "other")
    assert (at.run(), at.timeout(), at.run(5)) == ([], 5.0, ["other"])


def test_a_call_sees_the_others_that_are_still_due(at):
    seen = []
    at.queue.add(0, lambda: seen.extend(at.queue.calls()), (), {})
    due, later = at.add(0, "due"), at.add(9, "later")
    at.run()
    assert set(seen) == {due, later}


def test_an_iteration_inside_a_call_makes_the_rest_of_the_calls_once(at):
    at.queue.add(0, lambda: at.run(), (), {})
    at.add(0, "x")
    assert (at.run(), at.run()) == (["x"], [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_call_that_raises_in_the_middle_loses_none_of_the_others(at, error):
    def fail():
        raise error

    at.add(0, "before")
    at.queue.add(0, fail, (), {})
    after = at.add(0, "after")
    at.add(1, "later")
    with pytest.raises(error):
        at.run()
    assert (at.made, after.active(), at.timeout()) == (["before"], True, 0.0)
    assert at.run(1) == ["after", "later"]


def test_calls_left_over_can_still_be_cancelled(at):
    def interrupt():
        raise KeyboardInterrupt

    at.queue.add(0, interrupt, (), {})
    left = at.add(0, "left")
    with pytest.raises(KeyboardInterrupt):
        at.run()
    left.cancel()
    assert (at.run(), at.timeout(), at.queue.calls()) == ([], None, [])


def test_B3_an_exception_is_logged_and_the_loop_goes_on(caplog):
    loop = Loop(Poller(), seconds=lambda: 0.0)
    made = []
    loop.callLater(0, lambda: 1 / 0)
    loop.callLater(0, made.append, "next")
    loop.tick()
    assert made == ["next"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info[0] is ZeroDivisionError


# --- The clock


def test_time_is_monotonic():
    assert Loop().seconds is time.monotonic


def test_a_wall_clock_that_is_stepped_moves_no_call(monkeypatch):
    now = [1000.0]
    loop = Loop(Poller(), seconds=lambda: now[0])
    made = []
    loop.callLater(10, made.append, "x")
    for wall in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        loop.tick()
    assert made == []
    now[0] += 10
    loop.tick()
    assert made == ["x"]


def test_the_queue_reads_no_clock_of_its_own():
    tree = ast.parse(inspect.getsource(timers))
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported.isdisjoint({"time", "datetime", "perf_counter", "monotonic"})
