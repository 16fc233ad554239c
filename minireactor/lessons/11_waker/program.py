"""A loop that sleeps until its next timer, and a thread that wants something done sooner."""

import heapq
import selectors
import socket
import threading
import time
from collections import deque
from itertools import count


class Loop:
    """Timers in a heap, calls from other threads in a queue, a selector to sleep on."""

    def __init__(self):
        self.timers, self.order = [], count()
        self.calls = deque()
        self.inside, self.outside = socket.socketpair()  # a byte into one end wakes the loop
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.inside, selectors.EVENT_READ)
        self.about_to_sleep = threading.Event()
        self.sleeps = 0

    def call_later(self, delay, call):
        """The order decides between equal times."""
        heapq.heappush(self.timers, (time.monotonic() + delay, next(self.order), call))

    def call_from_thread(self, call, wake=True):
        self.calls.append(call)
        if wake:
            self.outside.send(b"\0")

    def turn(self):
        for _ in range(len(self.calls)):
            self.calls.popleft()()
        while self.timers and self.timers[0][0] <= time.monotonic():
            heapq.heappop(self.timers)[2]()
        if self.timers:
            self.sleep(max(0, self.timers[0][0] - time.monotonic()))

    def sleep(self, longest):
        self.sleeps += 1
        self.about_to_sleep.set()
        if self.selector.select(longest):
            self.inside.recv(4096)

    def close(self):
        for resource in self.selector, self.inside, self.outside:
            resource.close()


def ask(loop, at, wake):
    """The thread: wants its call made as soon as the loop sleeps."""
    loop.about_to_sleep.wait()
    at["asked"] = time.monotonic()
    loop.call_from_thread(lambda: at.update(call=time.monotonic()), wake)


def experiment(wake):
    """Whether the thread's call was made before a timer of 300 ms was due."""
    loop, at = Loop(), {}
    loop.call_later(0.3, lambda: at.update(timer=time.monotonic()))
    due = loop.timers[0][0]
    thread = threading.Thread(target=ask, args=[loop, at, wake])
    thread.start()
    while len(at) < 3:
        loop.turn()
    thread.join()
    loop.close()
    print(f"{'with' if wake else 'without'} a waker: slept {loop.sleeps} x, ", end="")
    print(f"the thread's call was made after {(at['call'] - at['asked']) * 1000:.2f} ms")
    return at["call"] < due


assert not experiment(wake=False)
assert experiment(wake=True)
