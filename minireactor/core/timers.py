"""Delayed calls: a heap ordered by time and, for equal times, by order of request.

Pure: this module reads no clock. Adding a call costs O(log n). A call that is put off keeps its
entry in the heap, and only notes its new time: it gets a new entry when the old one comes up, once
for any number of resets. Cancelling a call, or bringing it forward, marks the old entry as dead. A
heap in which the dead outnumber the living is rebuilt, so cancelled calls do not pile up. All three
are O(1) amortised.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Callable

from minireactor.error import AlreadyCalled, AlreadyCancelled
from minireactor.failure import safe_repr

_WORTH_REBUILDING = 64  # dead entries; below it, a rebuild costs more than the entries do


# Delays that need no closer look. Others are checked, and converted: bool, Fraction, infinity.
_PLAIN = (float, int)
_PLAIN_DELAY = 1e9  # seconds


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

    __slots__ = (
        *("args", "called", "cancelled", "func", "hidden", "kw", "queue"),
        *("time", "serial"),  # when the call is due, and its order among equal times
        *("entry_time", "entry_serial"),  # of its living entry; the serial is 0 without one
    )

    entry_time: float

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
        self.serial = self.entry_serial = 0

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
        self.serial = self.entry_serial = 0
        # What a cancelled call holds would live on until its time comes round.
        self.func = self.args = self.kw = None
        self.queue.bury()

    def reset(self, secondsFromNow: float) -> None:
        """Have it come that many seconds from now instead. AlreadyCancelled, AlreadyCalled."""
        if self.called or self.cancelled:
            self._check_active()
        queue = self.queue
        if secondsFromNow.__class__ in _PLAIN and 0 <= secondsFromNow <= _PLAIN_DELAY:
            when = queue.seconds() + secondsFromNow
        else:
            when = queue.seconds() + checked_delay(secondsFromNow)
        if when > self.entry_time:
            queue.serial = self.serial = queue.serial + 1
            self.time = when
        else:
            queue.reschedule(self, when)

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
        return f"<DelayedCall {safe_repr(self.func)} at {self.time:.3f} ({state})>"


class TimerQueue:
    """Delayed calls by time. `seconds` tells the time that `reset()` counts from."""

    __slots__ = ("_dead", "due", "heap", "seconds", "serial")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        # An entry is alive while its serial number is its call's `entry_serial`. The call has been
        # put off since then if that is not its `serial`.
        self.heap: list[tuple[float, int, DelayedCall]] = []
        # The entries of calls that are being made now, taken out of the heap.
        self.due: deque[tuple[float, int, DelayedCall]] = deque()
        self.serial = 0  # the last one given
        self._dead = 0  # entries, in both

    def add(self, delay: float, func: Callable[..., Any], args: Any, kw: Any) -> DelayedCall:
        """A new call of `func(*args, **kw)`, `delay` seconds from now."""
        if not callable(func):
            raise TypeError(f"callLater() takes a callable, not {safe_repr(func)}")
        call = DelayedCall(self, self.seconds() + checked_delay(delay), func, args, kw)
        self.serial = call.serial = self.serial + 1
        heappush(self.heap, _entry_of(call))
        return call

    def reschedule(self, call: DelayedCall, when: float) -> None:
        """Have `call` come at `when`, behind all that have been asked for until now."""
        call.time = when
        self.serial = call.serial = self.serial + 1
        if when > call.entry_time:
            return
        heappush(self.heap, _entry_of(call))
        self.bury()

    def bury(self) -> None:
        """Count one more dead entry; rebuild the heap when the dead outnumber the living."""
        self._dead += 1
        if self._dead > _WORTH_REBUILDING and self._dead * 2 > len(self.heap):
            self.heap = [entry for entry in self.heap if entry[1] == entry[2].entry_serial]
            heapify(self.heap)
            self._dead = sum(entry[1] != entry[2].entry_serial for entry in self.due)

    def timeout(self, now: float) -> float | None:
        """Seconds until the next call is due, 0 if it is, None if there is none."""
        if self.due:
            return 0.0
        heap = self.heap
        while heap:
            when, serial, call = heap[0]
            if serial == call.serial:
                return max(0.0, when - now)
            if serial == call.entry_serial:
                heapreplace(heap, _entry_of(call))
            else:
                heappop(heap)
                self._dead -= 1
        return None

    def run_due(self, now: float, call: Callable[..., None]) -> None:
        """Hand each call that is due, `func(*args, **kw)`, to `call(func, args, kw)`.

        Only those that are due at the start: what they ask for in turn waits for the next time,
        however little delay it asked for, so that no chain of calls can keep the loop to itself.
        """
        heap, due = self.heap, self.due
        while heap and heap[0][0] <= now:
            entry = heap[0]
            timer = entry[2]
            if entry[1] == timer.serial:
                due.append(heappop(heap))
            elif entry[1] == timer.entry_serial:
                heapreplace(heap, _entry_of(timer))
            else:
                heappop(heap)
                self._dead -= 1
        while due:
            _, serial, timer = due.popleft()
            if serial == timer.serial:
                timer.called = 1
                call(timer.func, timer.args, timer.kw)
            elif serial == timer.entry_serial:  # put off by another call of this pass
                heappush(self.heap, _entry_of(timer))
            else:
                self._dead -= 1

    def calls(self) -> list[DelayedCall]:
        """The calls to come, in no order; not those that are the loop's own housekeeping."""
        entries = [*self.due, *self.heap]
        return [c for _, serial, c in entries if serial == c.entry_serial and not c.hidden]


def _entry_of(call: DelayedCall) -> tuple[float, int, DelayedCall]:
    """Return a new entry for the heap, which is from now on the living one of `call`."""
    call.entry_time, call.entry_serial = call.time, call.serial
    return call.time, call.serial, call
