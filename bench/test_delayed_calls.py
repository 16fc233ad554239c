"""Delayed calls, 100,000 of them: `minireactor.core.timers`, by way of the reactor.

Guards that adding stays O(log n) and cancelling and resetting O(1), and that calls which were
cancelled or reset do not slow down those that are left. The clock is a number that the benchmark
sets, so that nothing is due before its time. CPython's garbage collector is off: to go through
100,000 calls takes it a third of a round, in some rounds and not in others.
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
    """A reactor with a clock of its own, and calls that count."""

    def __init__(self):
        self.now = 0.0
        self.fired = 0
        self.calls = []
        self.reactor = Reactor(seconds=lambda: self.now)

    def fire(self):
        self.fired += 1

    def fill(self, count=MANY):
        """Start afresh, with `count` calls at random times."""
        self.empty()
        self.calls = [self.reactor.callLater(delay, self.fire) for delay in DELAYS[:count]]

    def empty(self):
        """Let nothing be left in the queue."""
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
    if sys.implementation.name == "cpython":  # others free nothing without it
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
    """callLater() with one delay over and over, as timeouts are: the cheapest way into a heap."""
    call_later, fire = timers.reactor.callLater, timers.fire

    def work():
        for _ in range(MANY):
            call_later(30, fire)

    measure(work, MANY, "call", timers.empty)

    assert len(timers.reactor.getDelayedCalls()) == MANY


@TIMERS
def test_cancel(measure, timers):
    """cancel() of each of 100,000, with what it takes to clear the queue of them."""

    def work():
        for call in timers.calls:
            call.cancel()

    measure(work, MANY, "call", timers.fill)

    assert timers.reactor.getDelayedCalls() == []


@TIMERS
@pytest.mark.parametrize("count", [1000, MANY], ids="{} calls".format)
def test_reset(measure, timers, count):
    """200,000 times reset(), each call in its turn, with what it takes to clear the queue of
    their old places: the idle timeouts of connections that are not idle."""
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
    """100,000 calls that are due in one and the same pass."""
    measure(lambda: timers.pass_time(100), MANY, "call", timers.fill)

    assert timers.fired == MANY


@TIMERS
def test_fire_one_by_one(measure, timers):
    """A call in each of 1,000 passes, beside 100,000 that are not due: adding it, finding it the
    first, making it, and the pass. A ticking clock among many timeouts."""
    call_later, fire = timers.reactor.callLater, timers.fire

    def work():
        for _ in range(1000):
            call_later(0, fire)
            timers.reactor.iterate()

    def setup():
        timers.fired = 0

    timers.fill()
    measure(work, 1000, "call and pass", setup)

    assert timers.fired == 1000
    assert len(timers.reactor.getDelayedCalls()) == MANY
