"""callFromThread(): `minireactor.core.loop` and `minireactor.core.waker`.

Guards that callFromThread() is cheap, and that the loop takes all calls at once. Only the first
call before an iteration pays for the system call that wakes the loop.
"""

from __future__ import annotations

import os
import queue
import threading

import pytest

MANY = 1000


@pytest.mark.benchmark(group="callFromThread")
def test_ask(measure, reactor):
    """callFromThread() alone, on the loop's own thread: one call wakes it, the others need not."""
    ran = []

    def setup():
        reactor.iterate()
        ran.clear()

    def work():
        for _ in range(MANY):
            reactor.callFromThread(ran.append, None)

    measure(work, MANY, "call", setup)
    reactor.iterate()

    assert len(ran) == MANY


@pytest.mark.benchmark(group="callFromThread")
def test_ask_and_run(measure, reactor):
    """callFromThread(), the wake-up, and the iteration that makes the calls."""
    ran = []

    def work():
        for _ in range(MANY):
            reactor.callFromThread(ran.append, None)
        reactor.iterate()

    measure(work, MANY, "call", ran.clear)

    assert len(ran) == MANY


@pytest.mark.benchmark(group="callFromThread")
def test_ask_once_an_iteration(measure, reactor):
    """One call in each iteration: each pays for the wake-up, whose byte is sent and read."""
    ran = []

    def work():
        for _ in range(10):
            reactor.callFromThread(ran.append, None)
            reactor.iterate()

    measure(work, 10, "call and iteration", ran.clear)

    assert len(ran) == 10


@pytest.fixture
def one_core():
    """Keep both threads on one core.

    On some machines it takes ten times as long to wake a core that sleeps, and that happens in
    some runs only."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def other_thread(one_core):
    """`other_thread(f)`: have another thread call `f`."""
    asked = queue.SimpleQueue()

    def serve():
        for f in iter(asked.get, None):
            f()

    thread = threading.Thread(target=serve)
    thread.start()
    yield asked.put
    asked.put(None)
    thread.join()


@pytest.mark.benchmark(group="callFromThread: another thread")
def test_wake(measure, reactor, other_thread):
    """A round trip: the loop sleeps until another thread, when asked, calls callFromThread().

    Most of the time is the kernel's thread switch: compare it with care."""
    ran = []

    def ask():
        reactor.callFromThread(ran.append, None)

    def work():
        other_thread(ask)
        reactor.iterate(10)
        while not ran:
            reactor.iterate()

    reactor.iterate()  # the waker exists from here on
    measure(work, 1, "round trip", ran.clear)

    assert len(ran) == 1
