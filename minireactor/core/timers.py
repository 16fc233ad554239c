"""Delayed calls: a heap ordered by time and, for equal times, by the order of the requests.

This module reads no clock: `seconds` is injected.

- Adding a call pushes an entry onto the heap: O(log n).
- Postponing a call only notes its new time: O(1). The entry stays in the heap. When this entry
  becomes due, the call gets a new one, however often it was postponed before.
- Cancelling a call marks its entry as dead: O(1) amortised. Bringing a call forward does the same,
  and pushes a new entry.
- A heap in which the dead entries outnumber the living is rebuilt, so dead ones do not pile up.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Callable

from minireactor.error import AlreadyCalled, AlreadyCancelled
from minireactor.failure import safe_repr

_WORTH_REBUILDING = 64  # dead entries; with fewer, a rebuild costs more than it saves

# Delays of these types, up to this size, are used as they are. All others are checked and
# converted, such as bool, Fraction and infinity.
_PLAIN = (float, int)
_PLAIN_DELAY = 1e9  # seconds


def _seconds(number: float) -> float:
    """Return any real number as a float, infinite if the number is too large for a float.

    Raises ValueError for NaN, and TypeError for anything that is not a number."""
    try:
        if not math.isnan(number):
            return float(number)
    except TypeError:
        raise TypeError(f"a delay is a number of seconds, not {number!r}") from None
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    raise ValueError(f"a delay is a number of seconds, not {number!r}")


def checked_delay(delay: float) -> float:
    """Return `delay` as a float, in seconds.

    Raises ValueError if `delay` is negative or NaN, and TypeError if it is not a number."""
    seconds = _seconds(delay)
    if seconds < 0:
        raise ValueError(f"a delay is 0 seconds or more, not {delay!r}")
    return seconds


class DelayedCall:
    """A call that is to be made at a certain time. `callLater` returns it.

    time, serial: when the call is due, and its place among calls for the same time.
    entry_time, entry_serial: time and serial in the call's living entry of the heap. They differ
        from `time` and `serial` if the call was postponed. `entry_serial` is 0 if the call has no
        living entry.
    internal: whether the call is internal, so that `getDelayedCalls()` leaves it out.
    """

    __slots__ = (
        "args",
        "called",
        "cancelled",
        "entry_serial",
        "entry_time",
        "func",
        "internal",
        "kw",
        "queue",
        "serial",
        "time",
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
        self.internal = False
        self.time = when
        self.serial = self.entry_serial = 0

    def active(self) -> bool:
        """Return whether the call is still to come."""
        return not (self.called or self.cancelled)

    def getTime(self) -> float:
        """Return when the call is due, on the clock of the reactor's `seconds()`."""
        return self.time

    def cancel(self) -> None:
        """Cancel the call.

        Raises AlreadyCancelled or AlreadyCalled if the call is no longer to come."""
        if self.called or self.cancelled:  # a usual cancel makes no call
            self._check_active()
        self.cancelled = 1
        self.serial = self.entry_serial = 0
        # The dead entry stays in the heap for a while. Let it not keep these objects alive.
        self.func = self.args = self.kw = None
        self.queue.count_dead()

    def reset(self, secondsFromNow: float) -> None:
        """Change the time of the call to `secondsFromNow` seconds from now.

        Raises AlreadyCancelled or AlreadyCalled if the call is no longer to come. Raises TypeError
        or ValueError for a delay that `callLater` does not accept."""
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
        """Postpone the call by `secondsLater` seconds. A negative number brings the call forward.

        Raises AlreadyCancelled or AlreadyCalled if the call is no longer to come. Raises TypeError
        if `secondsLater` is not a number, and ValueError if the new time would be NaN."""
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


def cancel_if_active(call: DelayedCall | None) -> None:
    """Cancel a call that is still to come. Do nothing for None, and for any other call."""
    if call is not None and call.active():
        call.cancel()


class TimerQueue:
    """A queue of delayed calls, ordered by time.

    seconds: the clock, a function that returns the current time.
    """

    __slots__ = ("_dead", "due", "heap", "seconds", "serial")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        # An entry is alive while its serial number is the `entry_serial` of its call. If that is no
        # longer the call's `serial`, the call has been postponed since.
        self.heap: list[tuple[float, int, DelayedCall]] = []
        # Entries that run_due() has taken out of the heap: their calls are made now.
        self.due: deque[tuple[float, int, DelayedCall]] = deque()
        self.serial = 0  # the serial number that was given last
        self._dead = 0  # dead entries, in `heap` and in `due`

    def add(self, delay: float, func: Callable[..., Any], args: Any, kw: Any) -> DelayedCall:
        """Return a new call of `func(*args, **kw)`, due in `delay` seconds.

        Raises TypeError or ValueError for a delay that is not a number of seconds, and TypeError
        if `func` is not callable."""
        if not callable(func):
            raise TypeError(f"callLater() takes a callable, not {safe_repr(func)}")
        if delay.__class__ not in _PLAIN or not 0 <= delay <= _PLAIN_DELAY:
            delay = checked_delay(delay)
        call = DelayedCall(self, self.seconds() + delay, func, args, kw)
        self.serial = call.serial = self.serial + 1
        heappush(self.heap, _entry_of(call))
        return call

    def reschedule(self, call: DelayedCall, when: float) -> None:
        """Change the time of `call` to `when`. Among calls for that time, it becomes the last."""
        call.time = when
        self.serial = call.serial = self.serial + 1
        if when > call.entry_time:
            return
        heappush(self.heap, _entry_of(call))
        self.count_dead()

    def count_dead(self) -> None:
        """Count one more dead entry. Rebuild the heap if the dead outnumber the living."""
        self._dead += 1
        if self._dead > _WORTH_REBUILDING and self._dead * 2 > len(self.heap):
            self.heap = [entry for entry in self.heap if entry[1] == entry[2].entry_serial]
            heapify(self.heap)
            self._dead = sum(entry[1] != entry[2].entry_serial for entry in self.due)

    def timeout(self, now: float) -> float | None:
        """Return the seconds until the next call is due: 0 if it is due, None if there is none."""
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
        """Make all calls that are due at `now`. Each is made as `call(func, args, kw)`.

        A call that is added during this run waits for the next one, even without delay. So no chain
        of calls can keep the loop from its other work."""
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
            elif serial == timer.entry_serial:  # another call of this run has postponed it
                heappush(self.heap, _entry_of(timer))
            else:
                self._dead -= 1

    def calls(self) -> list[DelayedCall]:
        """Return the calls that are to come, without internal ones, in no particular order."""
        entries = [*self.due, *self.heap]
        return [c for _, serial, c in entries if serial == c.entry_serial and not c.internal]


def _entry_of(call: DelayedCall) -> tuple[float, int, DelayedCall]:
    """Return a new entry for the heap. From now on it is the living entry of `call`."""
    call.entry_time, call.entry_serial = call.time, call.serial
    return call.time, call.serial, call
