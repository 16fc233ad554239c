"""The event loop: it waits for events and calls handlers, timers and calls from other threads.

The loop knows nothing of TCP, and no byte of an application passes through it. Start with
`Loop.tick`: all the rest prepares what `tick` runs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Union

from minireactor import log
from minireactor.core.backlog import Backlog
from minireactor.core.handler import Handler
from minireactor.core.poller import HANGUP, READ, WRITE, default_poller
from minireactor.core.system import SYSTEM, System
from minireactor.core.timers import DelayedCall, TimerQueue
from minireactor.core.waker import AfterFork, Waker, open_loops
from minireactor.error import ConnectionLost, ReactorNotRestartable
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from minireactor.core.poller import Poller

MAX_POLL_SECONDS = 24 * 3600.0  # epoll takes at most 2**31 milliseconds
# How long one iteration runs the calls that take turns. Most of them are producers with endless
# work.
TURN_SECONDS = 0.002
# How long one iteration runs the handlers that are ready, all together. Each gets an equal share of
# this time, `Loop.share`.
DISPATCH_SECONDS = 0.005

# An observer of all connections: see Loop.
Observer = Callable[[str, Any, Union[Failure, None]], None]


class Loop:
    """A single-threaded event loop. Tests inject readiness, time and sockets.

    poller, seconds, system: see `poller.Poller`, time.monotonic() and `system.System`.

    An observer watches all connections. The loop calls it as `observer(event, connection, reason)`.

    event: a name from `core.events`. The observer is called just before the method of that name.
    reason: a Failure if `event` is LOST, else None.

    If an observer raises an exception, the exception is logged and the observer is removed.
    Everything else goes on.

    attempts: handlers that try to connect; some of them have no descriptor yet.
    resolver: finds the addresses of host names. A loop that needs no names has no resolver.
    """

    resolver: Any = None
    _poller: Poller  # open() makes one unless it was injected

    def __init__(
        self,
        poller: Poller | None = None,
        seconds: Callable[[], float] = time.monotonic,
        system: System = SYSTEM,
    ) -> None:
        self.seconds = seconds
        self.system = system
        self._injected = poller
        if poller is not None:
            self._poller = poller
        self._waker: Waker | None = None
        self._pid = 0
        self._handlers: dict[int, Handler] = {}
        self._attached_this_tick: set[int] = set()  # descriptors
        self._timers = TimerQueue(seconds)
        self._soon: deque[tuple[Callable[..., Any], Any, Any]] = deque()  # see call_soon()
        self.flushes: deque[Handler] = deque()  # the next flush calls their doWrite()
        self._turns: deque[Callable[[], Any]] = deque()  # see call_in_turn()
        # Seconds that one handler may take in this iteration. The loop cannot interrupt a handler,
        # but a handler that moves many bytes reads this and moves fewer at a time.
        self.share = DISPATCH_SECONDS
        self._backlog: Backlog | None = None  # None unless the loop is behind: see Backlog
        self.observers: tuple[Observer, ...] = ()
        self.attempts: dict[Handler, None] = {}  # in order of their beginning
        self._closed = False

    def tick(self, timeout: float = MAX_POLL_SECONDS) -> None:
        """Run one loop iteration: earlier calls, flush, producers' turns, poll, input, timers.

        Input comes before timers. The clock is read after the poll, and only the timers that are
        due at that time run, after the input. So a timeout cannot end a connection whose bytes
        have arrived already. A timer that becomes due later waits for the next iteration's poll.
        """
        if self._soon:
            self._run_soon()
        if self.flushes:
            self.share = DISPATCH_SECONDS / len(self.flushes)
            self._flush()
        if self._turns:
            self._take_turns()
        # The poll may return as many events as there are handlers, so it leaves no handler out.
        ready = self._poller.poll(self._poll_timeout(timeout), len(self._handlers))
        now = self.seconds()
        timers = self._timers
        if ready:
            left = DISPATCH_SECONDS
            until = now + left
            if timers.heap and timers.heap[0][0] < until:
                # Limits how long one iteration can delay the first timer. If that timer is due
                # already, the input still comes first, but with a share of 0: in small portions.
                left = max(0.0, timers.heap[0][0] - now)
                until = now + (left or DISPATCH_SECONDS)
            self.share = left / len(ready)
            self._dispatch_all(ready, now, until)
        if (timers.heap or timers.due) and (self._backlog is None or self._backlog.is_late(now)):
            timers.run_due(now, self._call)

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):
            self._call(*self._soon.popleft())

    def _flush(self) -> None:
        flushes = self.flushes
        for _ in range(len(flushes)):
            handler = flushes.popleft()
            try:
                handler.doWrite()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                self._fail(handler)

    def _take_turns(self) -> None:
        turns = self._turns
        until = self.seconds() + TURN_SECONDS
        for _ in range(len(turns)):
            self._call(turns.popleft(), (), {})
            if self.seconds() >= until:
                return

    def _poll_timeout(self, timeout: float) -> float:
        if self._soon or self.flushes or self._turns:
            return 0.0
        timers = self._timers
        due = timers.timeout(self.seconds()) if timers.heap or timers.due else None
        return min(timeout, MAX_POLL_SECONDS if due is None else due)

    def _dispatch_all(self, ready: list[tuple[int, int]], now: float, until: float) -> None:
        handlers = self._handlers
        attached = self._attached_this_tick
        if self._backlog is not None:
            self._backlog.forget(attached)
            ready = self._backlog.in_order(ready, handlers)
        attached.clear()
        seconds = self.seconds
        remaining = iter(ready)
        for fd, events in remaining:
            handler = handlers.get(fd)
            # This descriptor may have been closed and reused earlier in this iteration. The event
            # then belongs to the old socket: drop it.
            if handler is None or (attached and fd in attached):
                continue
            try:
                # An earlier event of this iteration may have paused or closed this handler.
                if events == READ and handler.reading:
                    handler.doRead()
                else:
                    self._dispatch(handler, events)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                self._fail(handler)
            # Serve at least one handler after the ports: a flood of new connections must not stop
            # those that are open.
            if seconds() >= until and not handler.comes_first:
                break
        rest = list(remaining)
        if rest:
            self._backlog = self._backlog or Backlog(now)
            self._backlog.add(ready, rest)
        else:
            self._backlog = None

    def _dispatch(self, handler: Handler, events: int) -> None:
        waited_to_write = handler.writing and events & ~READ
        if handler.reading and events & ~WRITE:
            handler.doRead()
        if waited_to_write and handler.writing:
            handler.doWrite()
        if handler.registered is None:
            return
        if events & HANGUP and not handler.interest():
            handler.hungUp()
        elif events & handler.registered & ~handler.interest():
            self.update_interest(handler)

    # The one guard around the application's code. Only KeyboardInterrupt and SystemExit pass it.

    def guard(self, handler: Handler, call: Callable[..., Any], *args: Any) -> None:
        """Call `call(*args)` on behalf of `handler`. If the call raises, the handler ends."""
        try:
            call(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            self._fail(handler)

    def _fail(self, handler: Handler) -> None:
        failure = Failure()
        log.err(failure, f"in a callback of {safe_repr(handler.target())}")
        try:
            handler.failed(failure)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            log.err(error, f"while ending {safe_repr(handler.target())}")

    def _call(self, f: Callable[..., Any], args: Any, kw: Any) -> None:
        try:
            f(*args, **kw)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            log.err(error, f"in a call of {safe_repr(f)}")

    # Handlers. Change the kernel's table first: if that raises, our own tables are still right.
    # attach() and detach() call no function that has nothing to do: connections are short-lived.

    def attach(self, handler: Handler) -> None:
        """Add a handler to the table. The handler gets no events until `update_interest()`."""
        if self._waker is None:
            self.open()
        self._handlers[handler.fd] = handler
        self._attached_this_tick.add(handler.fd)

    def update_interest(self, handler: Handler) -> None:
        """Register with the poller the events that the handler is interested in.

        Raises OSError if the system cannot watch the descriptor."""
        interest = handler.interest()
        if interest != handler.registered:
            self._poller.watch(handler.fd, interest, handler.registered)
            handler.registered = interest

    def unregister(self, handler: Handler) -> None:
        """Unregister a handler from the poller: until `update_interest()`, nothing is reported."""
        if handler.registered is not None:
            self._poller.forget(handler.fd, handler.registered)
            handler.registered = None

    def detach(self, handler: Handler) -> None:
        """Unregister a handler from the poller and remove it from the table."""
        handler.reading = handler.writing = False
        if handler.registered is not None:
            self.unregister(handler)
        if self._handlers.get(handler.fd) is handler:
            del self._handlers[handler.fd]

    def hand_over(self, handler: Handler, successor: Handler) -> None:
        """Detach a handler, but leave its registration to the next handler of its descriptor.

        The first update_interest() of the successor then changes that registration."""
        successor.registered, handler.registered = handler.registered, None
        handler.reading = handler.writing = False
        del self._handlers[handler.fd]

    def knows(self, handler: Handler) -> bool:
        """Return whether the handler is in the table."""
        return self._handlers.get(handler.fd) is handler

    def handler_of(self, fd: int) -> Handler | None:
        """Return the handler of a descriptor, None if it has none."""
        return self._handlers.get(fd)

    def handlers(self) -> list[Handler]:
        """Return all handlers, in the order in which they were attached."""
        return list(self._handlers.values())

    def application_handlers(self) -> list[Handler]:
        """Return the application's handlers, without internal ones (waker, lingering sockets)."""
        return [handler for handler in self._handlers.values() if not handler.internal]

    # Calls that come later.

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> DelayedCall:
        """Call `f(*a, **k)` in `delay` seconds, and return a DelayedCall, which can be cancelled.

        The delay is measured on the monotonic clock, so a change of the wall clock has no effect.
        The call comes in a later loop iteration, even without delay. Calls for the same time come
        in the order of the requests. Raises TypeError if `delay` is not a number or `f` is not
        callable, and ValueError if `delay` is negative or NaN."""
        return self._timers.add(delay, f, a, k)

    def call_later_internal(self, delay: float, f: Callable[..., Any]) -> DelayedCall:
        """Call `f()` in `delay` seconds, internally: `getDelayedCalls()` leaves this call out."""
        call = self._timers.add(delay, f, (), {})
        call.internal = True
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        """Return the application's calls that are still to come, in no particular order."""
        return self._timers.calls()

    def call_soon(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in the next loop iteration. Use it only on the loop's own thread."""
        self._soon.append((f, a, k))

    def call_in_turn(self, f: Callable[[], Any], first: bool = False) -> None:
        """Call `f()` when its turn comes. Use it only on the loop's own thread.

        The calls take turns, for TURN_SECONDS of each loop iteration, after its flush. The other
        calls wait for later iterations, so they delay nothing else, however many they are.

        first: take the turn before all others, for a short call, such as a first answer."""
        if first:
            self._turns.appendleft(f)
        else:
            self._turns.append(f)

    def callFromThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` on the loop's thread, in its next iteration.

        Any thread and any signal handler may use this. Calls run in the order of the requests, and
        never in the iteration of the request. Raises TypeError if `f` is not callable."""
        if not callable(f):
            raise TypeError(f"callFromThread() takes a callable, not {f!r}")
        self._soon.append((f, a, k))
        waker = self._waker
        if waker is not None:
            waker.wake_threadsafe()

    # Observers.

    def add_observer(self, observer: Observer) -> None:
        """Add an observer, which is called after all that were added before."""
        self.observers += (observer,)

    def remove_observer(self, observer: Observer) -> None:
        """Remove an observer. Does nothing if it has not been added."""
        self.observers = tuple(other for other in self.observers if other != observer)

    def notify(self, event: str, connection: Any, reason: Failure | None = None) -> None:
        """Notify the observers of an event of a connection."""
        for observer in self.observers:
            try:
                observer(event, connection, reason)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                log.err(error, f"{safe_repr(observer)}, an observer, has failed and is removed")
                self.remove_observer(observer)

    # Opening and closing.

    def close(self) -> None:
        """Close all descriptors for ever; connections that are still open are lost. Idempotent."""
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
        """Open poller and waker if they are not open yet, and return the waker.

        The constructor opens nothing, so a reactor that is only imported owns no descriptor. Raises
        ReactorNotRestartable if the loop has been closed."""
        if self._waker is None:
            if self._closed:
                raise ReactorNotRestartable("make a new Reactor()")
            poller = self._injected or default_poller()
            waker = None
            try:
                waker = Waker(self.system)
                poller.watch(waker.fd, READ, None)
            except BaseException:
                if waker is not None:
                    waker.close()
                if self._injected is None:
                    poller.close()
                raise
            waker.registered = READ
            self._poller, self._waker, self._pid = poller, waker, os.getpid()
            self._handlers[waker.fd] = waker
            open_loops.add(self)
        return self._waker

    def after_fork_in_child(self) -> None:
        """Forget poller and waker in the child of a fork: both belong to the parent."""
        self._poller = self._injected = AfterFork(self._pid)
        self._waker = None

    def disconnect_all(self) -> None:
        """End all attempts to connect and all of the application's handlers."""
        for attempt in list(self.attempts):
            self.guard(attempt, attempt.connectionLost, Failure(ConnectionLost()))
        for handler in self.application_handlers():
            self.guard(handler, handler.connectionLost, Failure(ConnectionLost()))
