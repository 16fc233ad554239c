"""100,000 delayed calls: `minireactor.core.timers`, used through the reactor.

Guards that adding stays O(log n), and cancelling and resetting O(1). Cancelled and reset calls must
not slow down the others. The benchmark sets the clock, so that no call is due early. CPython's
garbage collector is off: in some rounds, but not in others, it would take a third of the time.
"""

from __future__ import annotations

import gc
import random
import sys

import pytest

from minireactor import Reactor

MANY = 100_000
RANDOM = random.Random(1)
DELAYS = [RANDOM.uniform(1, 60) for _ in range(MANY)]

TIMERS = pytest.mark.benchmark(group="timers")


class Timers:
    """A reactor whose clock is set by hand, and calls that count how often they are made."""

    def __init__(self):
        self.now = 0.0
        self.fired = 0
        self.calls = []
        self.reactor = Reactor(seconds=lambda: self.now)

    def fire(self):
        self.fired += 1

    def fill(self, count=MANY):
        """Empty the queue, then add `count` calls at random times."""
        self.empty()
        self.calls = [self.reactor.callLater(delay, self.fire) for delay in DELAYS[:count]]

    def empty(self):
        """Cancel all calls, and let the queue drop them."""
        for call in self.reactor.getDelayedCalls():
            call.cancel()
        self.pass_time(3600)
        self.fired = 0

    def pass_time(self, seconds):
        self.now += seconds
        self.reactor.iterate()


@pytest.fixture
def timers():
    own = Timers()
    if sys.implementation.name == "cpython":  # other interpreters free nothing without it
        gc.disable()
    yield own
    gc.enable()
    own.reactor.close()


@TIMERS
def test_add(measure, timers):
    """callLater() at random times, from an empty queue to 100,000 calls in it."""
    call_later, fire = timers.reactor.callLater, timers.fire

    def work():
        for delay in DELAYS:
            call_later(delay, fire)

    measure(work, MANY, "call", timers.empty)

    assert len(timers.reactor.getDelayedCalls()) == MANY


@TIMERS
def test_add_in_order(measure, timers):
    """callLater() with the same delay each time, like timeouts: the cheapest way into a heap."""
    call_later, fire = timers.reactor.callLater, timers.fire

    def work():
        for _ in range(MANY):
            call_later(30, fire)

    measure(work, MANY, "call", timers.empty)

    assert len(timers.reactor.getDelayedCalls()) == MANY


@TIMERS
def test_cancel(measure, timers):
    """cancel() of each of 100,000 calls, with the cost of clearing them from the queue."""

    def work():
        for call in timers.calls:
            call.cancel()

    measure(work, MANY, "call", timers.fill)

    assert timers.reactor.getDelayedCalls() == []


@TIMERS
@pytest.mark.parametrize("count", [1000, MANY], ids="{} calls".format)
def test_reset(measure, timers, count):
    """200,000 times reset(), in turn, with the cost of clearing the old entries from the queue.

    The idle timeouts of busy connections do this."""
    turns = 2 * MANY // count

    def work():
        for _ in range(turns):
            for call in timers.calls:
                call.reset(30)

    measure(work, 2 * MANY, "reset", lambda: timers.fill(count))

    assert len(timers.reactor.getDelayedCalls()) == count
    assert {call.getTime() for call in timers.calls} == {timers.now + 30}


@TIMERS
def test_fire(measure, timers):
    """100,000 calls that are due in the same loop iteration."""
    measure(lambda: timers.pass_time(100), MANY, "call", timers.fill)

    assert timers.fired == MANY


@TIMERS
def test_fire_one_by_one(measure, timers):
    """A call in each of 1,000 iterations, beside 100,000 that are not due.

    The cost is adding the call, finding it at the head of the queue, making it, and the iteration.
    A clock that ticks beside many timeouts does this."""
    call_later, fire = timers.reactor.callLater, timers.fire

    def work():
        for _ in range(1000):
            call_later(0, fire)
            timers.reactor.iterate()

    def setup():
        timers.fired = 0

    timers.fill()
    measure(work, 1000, "call and iteration", setup)

    assert timers.fired == 1000
    assert len(timers.reactor.getDelayedCalls()) == MANY
