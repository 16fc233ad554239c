"""LoopingCall, deferLater and react."""

from __future__ import annotations

import pytest
from support import python

from minireactor.defer import CancelledError, Deferred, ensureDeferred
from minireactor.task import Clock, LoopingCall, deferLater


@pytest.fixture
def looping(clock):
    """A LoopingCall that notes the times of its calls in `times`."""
    times = []
    loop = LoopingCall(lambda: times.append(round(clock.seconds(), 6)))
    loop.clock = clock
    loop.times = times
    return loop


def test_the_clock_is_that_of_testing(clock):
    assert type(clock) is Clock


def test_a_loop_calls_at_once_and_after_each_interval(looping, clock):
    looping.start(1)
    clock.pump([0.5, 0.5, 1, 1])
    assert looping.times == [0, 1, 2, 3]


def test_a_loop_may_wait_for_the_first_interval(looping, clock):
    looping.start(1, now=False)
    clock.pump([1, 1])
    assert looping.times == [1, 2]


def test_a_late_loop_skips_what_it_missed_and_does_not_drift(looping, clock):
    looping.start(1)
    clock.pump([3.4, 0.6, 1.3, 0.7])
    assert looping.times == [0, 3.4, 4, 5.3, 6]


def test_rounding_makes_no_call_twice(clock):
    """0.7 // 0.1 is 6: by a division alone, the call at 0.7 would come again at once."""
    times = []
    loop = LoopingCall(lambda: times.append(clock.seconds()))
    loop.clock = clock
    loop.start(0.1)
    for _ in range(1000):
        (call,) = clock.getDelayedCalls()
        clock.rightNow = call.getTime()
        clock.advance(0)
    assert times == pytest.approx([number / 10 for number in range(1001)])


def test_withCount_counts_what_was_skipped(clock):
    counts = []
    loop = LoopingCall.withCount(counts.append)
    loop.clock = clock
    loop.start(1)
    clock.pump([1, 3.5, 0.5])
    assert counts == [1, 1, 3, 1]


def test_a_loop_waits_for_a_deferred(clock):
    waiting = []

    def call():
        waiting.append(Deferred())
        return waiting[-1]

    loop = LoopingCall(call)
    loop.clock = clock
    loop.start(1)
    clock.advance(2.5)
    assert len(waiting) == 1
    waiting[0].callback(None)
    clock.advance(0.5)
    assert len(waiting) == 2


def test_stop_fires_the_deferred_and_leaves_no_delayed_call(looping, clock):
    ended = looping.start(1)
    looping.stop()
    assert ended.result is looping
    assert not looping.running
    assert clock.getDelayedCalls() == []
    with pytest.raises(RuntimeError, match="not running"):
        looping.stop()


def test_a_loop_can_start_again_after_stop(looping, clock):
    looping.start(1)
    with pytest.raises(RuntimeError, match="runs already"):
        looping.start(1)
    looping.stop()
    looping.start(2)
    clock.advance(2)
    assert looping.times == [0, 0, 2]


def test_a_call_that_fails_ends_the_loop_with_its_failure(clock):
    loop = LoopingCall(int, "x")
    loop.clock = clock
    seen = []
    loop.start(1).addErrback(seen.append)
    assert seen[0].check(ValueError)
    assert not loop.running
    assert clock.getDelayedCalls() == []


def test_reset_starts_the_interval_anew(looping, clock):
    looping.start(1)
    clock.advance(0.6)
    looping.reset()
    clock.pump([0.6, 0.4, 1])
    assert looping.times == [0, 1.6, 2.6]


def test_a_negative_interval_is_an_error(looping):
    with pytest.raises(ValueError, match="-1"):
        looping.start(-1)
    assert not looping.running


def test_an_interval_of_0_calls_in_each_iteration(looping, clock):
    looping.start(0)
    clock.rightNow = 1.0
    (call,) = clock.getDelayedCalls()
    assert call.getTime() == 0


def test_deferLater_has_the_result_of_its_call(clock):
    seen = []
    deferLater(clock, 2, lambda a, b: a + b, 1, b=2).addCallback(seen.append)
    clock.advance(1.9)
    assert seen == []
    clock.advance(0.1)
    assert seen == [3]


def test_deferLater_without_a_call_only_waits(clock):
    async def wait():
        await deferLater(clock, 1)
        return clock.seconds()

    task = ensureDeferred(wait())
    clock.advance(1)
    assert task.result == 1


def test_cancelling_deferLater_leaves_no_delayed_call(clock):
    seen = []
    waiting = deferLater(clock, 1, seen.append, "called").addErrback(
        lambda failure: failure.trap(CancelledError)
    )
    waiting.cancel()
    assert clock.getDelayedCalls() == []
    assert seen == []
    assert waiting.result is CancelledError


def react(body):
    """Return (status, stdout, stderr) of a program whose async main function has this body."""
    code = f"""
import sys
from minireactor.task import deferLater, react

async def main(reactor, *arguments):
    {body}

react(main, sys.argv[1:])
"""
    with python(code, "one", "two") as child:
        out, err = child.communicate(timeout=30)
    return child.returncode, out, err


def test_react_runs_a_coroutine_with_the_arguments():
    assert react("await deferLater(reactor, 0); print(arguments)") == (0, "('one', 'two')\n", "")


def test_react_ends_with_status_1_and_the_traceback_after_a_failure():
    status, out, err = react("raise ValueError('boom')")
    assert status == 1
    assert "ValueError: boom" in err and "in main" in err
    assert "never" not in err


def test_react_ends_when_the_reactor_is_stopped():
    body = "reactor.callLater(0, reactor.stop); await deferLater(reactor, 1000)"
    assert react(body) == (0, "", "")


def test_react_obeys_SystemExit():
    assert react("await deferLater(reactor, 0); raise SystemExit(3)")[0] == 3
