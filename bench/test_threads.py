"""callFromThread(): `minireactor.core.loop` and `minireactor.core.waker`.

Guards that asking is cheap, that only the first who asks for a pass pays for the system call
which wakes the loop, and that the calls are handed over in one go.
"""

from __future__ import annotations

import os
import queue
import threading

import pytest

MANY = 1000


@pytest.mark.benchmark(group="callFromThread")
def test_ask(measure, reactor):
    """Asking alone, on the loop's own thread: one call that wakes it, then those that need not."""
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
    """The whole way: asking, waking and the pass that makes the calls."""
    ran = []

    def work():
        for _ in range(MANY):
            reactor.callFromThread(ran.append, None)
        reactor.iterate()

    measure(work, MANY, "call", ran.clear)

    assert len(ran) == MANY


@pytest.mark.benchmark(group="callFromThread")
def test_ask_one_a_pass(measure, reactor):
    """One call in each pass: each pays for being the first. The byte is sent and read."""
    ran = []

    def work():
        for _ in range(10):
            reactor.callFromThread(ran.append, None)
            reactor.iterate()

    measure(work, 10, "call and pass", ran.clear)

    assert len(ran) == 10


@pytest.fixture
def one_core():
    """Keep both threads on one core: to wake another that sleeps takes ten times as long on some
    machines, and happens or not from run to run."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def other_thread(one_core):
    """`other_thread(f)`: have another thread call it."""
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
    """There and back: another thread is told to ask, and the loop sleeps until it has. Most of
    it is the system's, which switches threads: compare it with care."""
    ran = []

    def ask():
        reactor.callFromThread(ran.append, None)

    def work():
        other_thread(ask)
        reactor.iterate(10)
        while not ran:
            reactor.iterate()

    reactor.iterate()  # from here on there is something to wake
    measure(work, 1, "round trip", ran.clear)

    assert len(ran) == 1
