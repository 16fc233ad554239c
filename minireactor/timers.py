"""Delayed calls: a heap ordered by time and, for equal times, by order of request.

Pure: it reads no clock. Adding costs O(log n); cancelling and rescheduling only mark the old
entry as dead, and a heap in which the dead outnumber the living is rebuilt, so that both are
O(1) amortised and cancelled calls do not pile up.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any, Callable

from minireactor.error import AlreadyCalled, AlreadyCancelled

_WORTH_REBUILDING = 64  # dead entries; below it, a rebuild costs more than the entries do


def _seconds(number: float) -> float:
    """Any real number as a float, infinite if it is too large: TypeError, ValueError for NaN."""
    try:
        if not math.isnan(number):
            return float(number)
    except TypeError:
        raise TypeError(f"a delay is a number of seconds, not {number!r}") from None
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    raise ValueError(f"a delay is a number of seconds, not {number!r}")


def checked_delay(delay: float) -> float:
    """`delay` as float seconds: a ValueError if negative or NaN, a TypeError if no number."""
    seconds = _seconds(delay)
    if seconds < 0:
        raise ValueError(f"a delay is 0 seconds or more, not {delay!r}")
    return seconds


class DelayedCall:
    """One call to come; made by `callLater`."""

    __slots__ = ("args", "called", "cancelled", "func", "hidden", "kw", "queue", "serial", "time")

    def __init__(
        self, queue: TimerQueue, when: float, func: Callable[..., Any], args: Any, kw: Any
    ) -> None:
        self.queue = queue
        self.func: Any = func
        self.args = args
        self.kw = kw
        self.called = self.cancelled = 0
        self.hidden = False
        self.time = when
        self.serial = -1

    def active(self) -> bool:
        """Whether the call is still to come."""
        return not (self.called or self.cancelled)

    def getTime(self) -> float:
        """When the call is due, in the reactor's `seconds()`."""
        return self.time

    def cancel(self) -> None:
        """Take the call back. AlreadyCancelled, AlreadyCalled."""
        self._check_active()
        self.cancelled = 1
        self.serial = -1
        # What a cancelled call holds would live on until its time comes round.
        self.func = self.args = self.kw = None
        self.queue.bury()

    def reset(self, secondsFromNow: float) -> None:
        """Have it come that many seconds from now instead. AlreadyCancelled, AlreadyCalled."""
        self._check_active()
        self.queue.reschedule(self, self.queue.seconds() + checked_delay(secondsFromNow))

    def delay(self, secondsLater: float) -> None:
        """Have it come later by that many seconds; earlier, if negative.

        AlreadyCancelled, AlreadyCalled."""
        self._check_active()
        when = self.time + _seconds(secondsLater)
        if math.isnan(when):
            raise ValueError(f"{secondsLater!r} seconds from {self.time} is no time; use reset()")
        self.queue.reschedule(self, when)

    def _check_active(self) -> None:
        if self.cancelled:
            raise AlreadyCancelled("look at active() first")
        if self.called:
            raise AlreadyCalled("look at active() first")

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else "called" if self.called else "pending"
        return f"<DelayedCall {self.func!r} at {self.time:.3f} ({state})>"


class TimerQueue:
    """Delayed calls by time. `seconds` tells the time that `reset()` counts from."""

    __slots__ = ("_dead", "_serial", "due", "heap", "seconds")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        # An entry is alive while its call still carries its serial number.
        self.heap: list[tuple[float, int, DelayedCall]] = []
        self.due: deque[tuple[float, int, DelayedCall]] = deque()
        self._serial = 0
        self._dead = 0

    def add(self, delay: float, func: Callable[..., Any], args: Any, kw: Any) -> DelayedCall:
        """A new call of `func(*args, **kw)`, `delay` seconds from now."""
        if not callable(func):
            raise TypeError(f"callLater() takes a callable, not {func!r}")
        call = DelayedCall(self, self.seconds() + checked_delay(delay), func, args, kw)
        self._push(call)
        return call

    def reschedule(self, call: DelayedCall, when: float) -> None:
        call.time = when
        self._push(call)
        self.bury()

    def _push(self, call: DelayedCall) -> None:
        self._serial += 1
        call.serial = self._serial
        heappush(self.heap, (call.time, call.serial, call))

    def bury(self) -> None:
        """One more entry is dead; rebuild when the dead outnumber the living."""
        self._dead += 1
        if self._dead > _WORTH_REBUILDING and self._dead * 2 > len(self.heap):
            self.heap = [entry for entry in self.heap if entry[1] == entry[2].serial]
            heapify(self.heap)
            self._dead = 0

    def timeout(self, now: float) -> float | None:
        """Seconds until the next call is due, 0 if it is, None if there is none."""
        if self.due:
            return 0.0
        heap = self.heap
        while heap and heap[0][1] != heap[0][2].serial:
            heappop(heap)
            self._dead -= 1
        return max(0.0, heap[0][0] - now) if heap else None

    def run_due(self, now: float, call: Callable[..., None]) -> None:
        """Hand each call that is due, `func(*args, **kw)`, to `call(func, args, kw)`.

        Only those that are due at the start: what they ask for in turn waits for the next time,
        however little delay it asked for, so that no chain of calls can keep the loop to itself.
        """
        heap, due = self.heap, self.due
        while heap and heap[0][0] <= now:
            due.append(heappop(heap))
        while due:
            _, serial, timer = due.popleft()
            if serial == timer.serial:
                timer.called = 1
                call(timer.func, timer.args, timer.kw)
            else:
                self._dead = max(0, self._dead - 1)

    def calls(self) -> list[DelayedCall]:
        """The calls to come, in no order; not those that are the loop's own housekeeping."""
        entries = [*self.due, *self.heap]
        return [c for _, serial, c in entries if serial == c.serial and not c.hidden]
