"""The loop: handlers of descriptors, timers, calls from other threads. No TCP and no bytes.

Start with `Loop.tick`: everything else exists to feed it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from reprlib import repr  # one that does not raise when an object's own does
from typing import Any, Callable

from minireactor import log
from minireactor.error import ConnectionLost, ReactorNotRestartable
from minireactor.failure import Failure
from minireactor.fork import AfterFork, open_loops
from minireactor.handler import Handler
from minireactor.poller import HANGUP, READ, WRITE, default_poller
from minireactor.timers import DelayedCall, TimerQueue
from minireactor.waker import Waker

LONGEST_WAIT = 24 * 3600.0  # seconds; epoll takes at most 2**31 milliseconds
MOST_EVENTS = 1023  # of one pass
# Seconds of dispatching after which the next pass takes half as many events. In the work `timer` a
# timer had to wait for ten connections with a large read each, and now for one or two.
LONG_PASS = 0.0001


class Loop:
    """A single-threaded event loop. Tests inject `poller` and `seconds`: readiness and time."""

    def __init__(self, poller: Any = None, seconds: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._poller = poller
        self._waker: Waker | None = None
        self._pid = 0
        self._handlers: dict[int, Handler] = {}
        self._newcomers: set[int] = set()  # numbers that have been attached in this pass
        self._timers = TimerQueue(seconds)
        self._soon: deque[tuple[Callable[..., Any], Any, Any]] = deque()
        self.flushes: deque[Handler] = deque()  # whose doWrite() the next write pass calls
        self._most_events = MOST_EVENTS
        self._closed = False

    def tick(self, longest: float = LONGEST_WAIT) -> None:
        """One pass: run what is due, send what was written, wait, dispatch."""
        if self._soon:
            self._run_soon()
        timers = self._timers
        if timers.heap or timers.due:
            timers.run_due(self.seconds(), self._call)
        if self.flushes:
            self._flush()
        self._wait_and_dispatch(self._patience(longest))

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):
            self._call(*self._soon.popleft())

    def _flush(self) -> None:
        flushes = self.flushes
        for _ in range(len(flushes)):
            handler = flushes.popleft()
            try:
                handler.doWrite()
            except Exception:
                self._fail(handler)

    def _patience(self, longest: float) -> float:
        if self._soon or self.flushes:
            return 0.0
        timers = self._timers
        due = timers.timeout(self.seconds()) if timers.heap or timers.due else None
        return min(longest, LONGEST_WAIT if due is None else due)

    def _wait_and_dispatch(self, timeout: float) -> None:
        handlers = self._handlers
        newcomers = self._newcomers
        newcomers.clear()
        ready = self._poller.poll(timeout, self._most_events)
        began = self.seconds()
        for fd, events in ready:
            handler = handlers.get(fd)
            # A number that is closed and taken again within this pass belongs to somebody else by
            # the time its event comes up.
            if handler is None or (newcomers and fd in newcomers):
                continue
            try:
                # A handler that an earlier event has paused or closed wants nothing any more.
                if events == READ and handler.reading:
                    handler.doRead()
                else:
                    self._dispatch(handler, events)
            except Exception:
                self._fail(handler)
        took = self.seconds() - began
        if took > LONG_PASS:
            self._most_events = len(ready) // 2 or 1
        elif len(ready) == self._most_events < MOST_EVENTS and took * 2 <= LONG_PASS:
            self._most_events *= 2

    def _dispatch(self, handler: Handler, events: int) -> None:
        waited_to_write = handler.writing and events & ~READ
        if handler.reading and events & ~WRITE:
            handler.doRead()
        if waited_to_write and handler.writing:
            handler.doWrite()
        if handler.armed is None:
            return
        if events & HANGUP and not handler.wanted():
            handler.hungUp()
        elif events & handler.armed & ~handler.wanted():
            self.arm(handler)

    # The one guard around other people's code. Ctrl-C goes through, here as everywhere.

    def guard(self, handler: Handler, call: Callable[..., Any], *args: Any) -> None:
        """Call it on behalf of `handler`, which ends if it raises."""
        try:
            call(*args)
        except Exception:
            self._fail(handler)

    def _fail(self, handler: Handler) -> None:
        failure = Failure()
        log.err(failure, f"in a callback of {repr(handler.owner())}")
        try:
            handler.failed(failure)
        except Exception as error:
            log.err(error, f"while ending {repr(handler.owner())}")

    def _call(self, f: Callable[..., Any], args: Any, kw: Any) -> None:
        try:
            f(*args, **kw)
        except Exception as error:
            log.err(error, f"in a call of {repr(f)}")

    # Handlers. The kernel is told first, our own tables second.

    def attach(self, handler: Handler) -> None:
        """Know a handler. `arm` is what makes it heard."""
        self.open()
        self._handlers[handler.fd] = handler
        self._newcomers.add(handler.fd)

    def arm(self, handler: Handler) -> None:
        """Bring the poller up to date with what the handler wants."""
        wanted = handler.wanted()
        if wanted != handler.armed:
            self._poller.watch(handler.fd, wanted, handler.armed)
            handler.armed = wanted

    def disarm(self, handler: Handler) -> None:
        """Hear nothing of it, not even that it is gone, until it is armed again."""
        if handler.armed is not None:
            self._poller.forget(handler.fd, handler.armed)
            handler.armed = None

    def detach(self, handler: Handler) -> None:
        """Forget a handler."""
        handler.reading = handler.writing = False
        self.disarm(handler)
        if self.knows(handler):
            del self._handlers[handler.fd]

    def knows(self, handler: Handler) -> bool:
        return self._handlers.get(handler.fd) is handler

    def handler_of(self, fd: int) -> Handler | None:
        return self._handlers.get(fd)

    def handlers(self) -> list[Handler]:
        """All of them, in the order in which they were attached."""
        return list(self._handlers.values())

    def shown(self) -> list[Handler]:
        """All but the reactor's own housekeeping."""
        return [handler for handler in self._handlers.values() if not handler.hidden]

    # Calls that come later.

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> DelayedCall:
        """Call `f(*a, **k)` in `delay` seconds, 0 or more: TypeError, ValueError.

        On the monotonic clock, so that a change of the wall clock changes nothing. Equal times
        run in the order in which they were asked for, and always on a later pass."""
        return self._timers.add(delay, f, a, k)

    def call_later_hidden(self, delay: float, f: Callable[..., Any]) -> DelayedCall:
        """The same for housekeeping, which `getDelayedCalls()` does not show."""
        call = self._timers.add(delay, f, (), {})
        call.hidden = True
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        return self._timers.calls()

    def call_soon(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call it on the next pass. From the loop's own thread only."""
        self._soon.append((f, a, k))

    def callFromThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` on the loop's thread, soon. Safe from any thread and signal handler.

        Calls run in order, and never within the pass in which they were asked for."""
        if not callable(f):
            raise TypeError(f"callFromThread() takes a callable, not {f!r}")
        self._soon.append((f, a, k))
        waker = self._waker
        if waker is not None:
            waker.wake_threadsafe()

    # Opening and closing.

    def close(self) -> None:
        """Give back all descriptors, for good. What is still open is lost. Idempotent."""
        self._closed = True
        if self._waker is None:
            return
        self.disconnect_all()
        for handler in self.handlers():
            self.detach(handler)
            handler.close()
        self._waker = None
        self._poller.close()
        open_loops.discard(self)

    def open(self) -> Waker:
        # Late, so that a reactor that is only imported owns nothing.
        if self._waker is None:
            if self._closed:
                raise ReactorNotRestartable("make a new Reactor()")
            self._poller = self._poller or default_poller()
            self._pid = os.getpid()
            self._waker = Waker()
            self._handlers[self._waker.fd] = self._waker
            self.arm(self._waker)
            open_loops.add(self)
        return self._waker

    def disown(self) -> None:
        """In the child of a fork: poller and waker are the parent's."""
        self._poller = AfterFork(self._pid)
        self._waker = None

    def disconnect_all(self) -> None:
        for handler in self.shown():
            self.guard(handler, handler.connectionLost, Failure(ConnectionLost()))
