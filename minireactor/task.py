"""Work over time: repeated calls, later calls, a coroutine as a program, a clock for tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core.timers import DelayedCall, TimerQueue, checked_delay
from minireactor.defer import Deferred, maybeDeferred
from minireactor.error import ReactorNotRunning
from minireactor.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn

__all__ = ["Clock", "LoopingCall", "deferLater", "react"]


class LoopingCall:
    """Calls `f(*a, **kw)` again and again, at whole multiples of the interval after the start.

    Times do not drift: a late call does not delay the calls after it. A time that passes while a
    call is late or still running is skipped. If `f` returns a Deferred or a coroutine, the next
    call waits for its result.

    clock: the reactor, or any object with callLater() and seconds(); set it before start().
    running: whether start() was called, and stop() was not.
    interval: in seconds, as given to start(). 0 calls in each loop iteration.
    """

    clock: Any = None
    running = False
    interval: float | None = None

    def __init__(self, f: Callable[..., Any], *a: Any, **kw: Any) -> None:
        self.f = f
        self.a = a
        self.kw = kw
        self.starttime: float | None = None
        self.call: DelayedCall | None = None
        self._deferred: Deferred[LoopingCall] | None = None
        self._due = 0  # the multiple of the interval at which the latest or next call is due
        self._counted = 0  # the multiple up to which withCount() has counted

    @classmethod
    def withCount(cls, countCallable: Callable[[int], Any]) -> LoopingCall:
        """Return a LoopingCall of `countCallable(count)`.

        `count` is the number of intervals since the last call: more than 1 if some were skipped.
        The first call at the start gets 1."""

        def call() -> Any:
            count, looping._counted = looping._due - looping._counted, looping._due
            return countCallable(count if looping.interval else 1)

        looping = cls(call)  # call() uses this variable
        return looping

    @property
    def deferred(self) -> Deferred[LoopingCall] | None:
        """The Deferred that start() returned, or None if the loop does not run."""
        return self._deferred

    def start(self, interval: float, now: bool = True) -> Deferred[LoopingCall]:
        """Start the calls: at once if `now`, else after the first interval.

        Returns a Deferred. After stop(), its result is this object. If a call fails, the loop ends
        and the Deferred has that failure. Raises ValueError if `interval` is negative or NaN, and
        RuntimeError if the loop runs already."""
        if self.running or self._deferred is not None:
            raise RuntimeError(f"{self!r} runs already; call stop() first")
        self.interval = checked_delay(interval)
        if self.clock is None:
            from minireactor import reactor

            self.clock = reactor
        self.running = True
        deferred = self._deferred = Deferred[LoopingCall]()
        self.starttime = self.clock.seconds()
        self._due = 0
        self._counted = -1 if now else 0
        if now:
            self()
        else:
            self._schedule()
        return deferred

    def stop(self) -> None:
        """End the loop; the Deferred of start() waits for a call that still runs.

        Raises RuntimeError if the loop does not run."""
        if not self.running:
            raise RuntimeError(f"{self!r} is not running; call start() first")
        self.running = False
        if self.call is not None:
            self.call.cancel()
            self.call = None
            self._end(self)

    def reset(self) -> None:
        """Restart the intervals: the next call comes one interval from now.

        Raises RuntimeError if the loop does not run."""
        if not self.running:
            raise RuntimeError(f"{self!r} is not running; call start() first")
        if self.call is not None:
            self.call.cancel()
            self.call = None
            self.starttime = self.clock.seconds()
            self._due = self._counted = 0
            self._schedule()

    def __call__(self) -> None:
        self.call = None
        self._due = max(self._due, self._intervals())
        called = maybeDeferred(self.f, *self.a, **self.kw)
        called.addCallbacks(self._called, self._failed)

    def _called(self, result: Any) -> None:
        if self.running:
            self._schedule()
        else:
            self._end(self)

    def _failed(self, failure: Failure) -> None:
        self.running = False
        self._end(failure)

    def _schedule(self) -> None:
        assert self.interval is not None and self.starttime is not None
        now = self.clock.seconds()
        delay = 0.0
        if self.interval:
            # Never the same multiple again: by rounding, a call may seem to come before its time.
            self._due = max(self._due, self._intervals()) + 1
            delay = max(0.0, self.starttime + self._due * self.interval - now)
        self.call = self.clock.callLater(delay, self)

    def _intervals(self) -> int:
        """Return how many whole intervals have passed since the start."""
        assert self.starttime is not None
        passed: float = self.clock.seconds() - self.starttime
        return int(passed / self.interval) if self.interval else 0

    def _end(self, result: LoopingCall | Failure) -> None:
        deferred, self._deferred = self._deferred, None
        assert deferred is not None
        deferred.callback(result)

    def __repr__(self) -> str:
        name = getattr(self.f, "__qualname__", repr(self.f))
        return f"LoopingCall<{self.interval!r}>({name}, *{self.a!r}, **{self.kw!r})"


def deferLater(
    clock: Any, delay: float, callable: Callable[..., Any] | None = None, *args: Any, **kw: Any
) -> Deferred[Any]:
    """Return a Deferred of `callable(*args, **kw)`, which is called after `delay` seconds.

    Without `callable`, the result is None: `await deferLater(reactor, 1)` waits a second.
    Cancelling the Deferred cancels the call."""
    call: DelayedCall

    def cancel(_: Deferred[Any]) -> None:
        if call.active():
            call.cancel()

    def start(_: None) -> Any:
        return None if callable is None else callable(*args, **kw)

    deferred: Deferred[Any] = Deferred(cancel)
    deferred.addCallback(start)
    call = clock.callLater(delay, deferred.callback, None)
    return deferred


def react(main: Callable[..., Any], argv: Sequence[Any] = (), _reactor: Any = None) -> NoReturn:
    """Run `main(reactor, *argv)`, an `async def` function, as the whole program.

    `main` may also return a Deferred. The reactor runs until `main` has a result, or until the
    reactor is stopped. Then the process exits with status 0, or with status 1 after a failure. The
    failure is logged. If `main` raises SystemExit, its status counts."""
    if _reactor is None:
        from minireactor import reactor as _reactor
    reactor = _reactor
    code: Any = 0

    def note(result: Any) -> None:
        nonlocal code
        if isinstance(result, Failure):
            if isinstance(result.value, SystemExit):
                code = result.value.code
            else:
                code = 1
                log.err(result, "The main function failed")
        reactor.callWhenRunning(stop)

    def stop() -> None:
        try:
            reactor.stop()
        except ReactorNotRunning:
            pass  # the reactor is stopping already

    maybeDeferred(main, reactor, *argv).addBoth(note)
    reactor.run()
    sys.exit(code)


class Clock:
    """The reactor's time for a test: it changes only in `advance()`.

    rightNow: the time in seconds, 0.0 at first.
    """

    rightNow = 0.0

    def __init__(self) -> None:
        self._timers = TimerQueue(self.seconds)

    def seconds(self) -> float:
        """Return the time in seconds."""
        return self.rightNow

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> DelayedCall:
        """Call `f(*a, **k)` when `delay` more seconds have been advanced; return the delayed call.

        Raises TypeError if `delay` is no number or `f` is not callable. Raises ValueError if
        `delay` is negative or NaN."""
        return self._timers.add(delay, f, a, k)

    def getDelayedCalls(self) -> list[DelayedCall]:
        """Return the pending calls, in the order in which they become due."""
        return sorted(self._timers.calls(), key=lambda call: (call.time, call.serial))

    @property
    def calls(self) -> list[DelayedCall]:
        """The pending calls, as getDelayedCalls() returns them."""
        return self.getDelayedCalls()

    def advance(self, amount: float) -> None:
        """Let `amount` seconds pass, then make all calls that are due, in order.

        The time changes in one step, so each call sees the time after the step. A call may schedule
        further calls. Those that are due by then are made as well. If a call raises, `advance`
        raises the same exception. The calls after it wait for the next `advance()`."""
        self.rightNow += amount
        while self._timers.timeout(self.rightNow) == 0:
            self._timers.run_due(self.rightNow, _call)

    def pump(self, timings: Iterable[float]) -> None:
        """Call `advance()` with each of `timings`, in order."""
        for amount in timings:
            self.advance(amount)


def _call(f: Callable[..., Any], args: Any, kw: Any) -> None:
    f(*args, **kw)
