"""Deferred: a result that comes later, and the callbacks that handle this result."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from minireactor import log
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    _Callback = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
    _Pair = tuple[_Callback, _Callback | None]

_T = TypeVar("_T")


class AlreadyCalledError(Exception):
    """A Deferred that has a result was given another one."""


class CancelledError(Exception):
    """A Deferred was cancelled: the default failure of `Deferred.cancel`."""


class TimeoutError(Exception):
    """A Deferred had no result in time: the default failure of `Deferred.addTimeout`."""


class Deferred(Generic[_T]):
    """A chain of callbacks around one result.

    Calls, in this order::

        addCallbacks* (callback | errback) addCallbacks*

    where addCallback, addErrback and addBoth are short for addCallbacks. Callbacks of the last
    group run at once. Each callback is called once, as `f(result, *args, **kwargs)`. The value that
    a callback returns is the result for the next one:

    - A value goes on to the next callback.
    - A Failure, or an exception that the callback raises, goes on to the next errback.
    - A Deferred stops the chain until that Deferred has a final result. The chain goes on with this
      result, and the returned Deferred is left with None.

    All exceptions of a callback are caught, except KeyboardInterrupt and SystemExit. If no errback
    has handled a Failure by the time the Deferred is freed, the Failure is logged once.

    A coroutine gets the result with `await deferred`, see `ensureDeferred`. The Deferred is left
    with None, as after any callback that returns None.

    canceller: called as `canceller(deferred)` by `cancel()`, to end what would give the result.

    called: whether there is a result yet.
    result: the latest result, or the Deferred that the chain waits for. Before there is a result,
        the attribute does not exist.
    debug: class attribute. If true, the log of an unhandled failure names the calls that have made
        the Deferred.
    """

    debug: ClassVar[bool] = False
    called = False
    result: Any
    _ignores_result = False  # after cancel() without a canceller: one result may still come
    _made = ""  # where, in debug mode

    def __init__(self, canceller: Callable[[Deferred[_T]], object] | None = None) -> None:
        # Pairs of callbacks to call, and Deferreds that wait for the result.
        self._steps: deque[_Pair | Deferred[Any]] = deque()
        self._in_callback = False
        self._canceller = canceller
        if Deferred.debug:
            self._made = _calls()

    def __repr__(self) -> str:
        state = f"result {safe_repr(self.result)}" if self.called else "no result yet"
        return f"<{self.__class__.__name__} at {id(self):#x}: {state}>"

    def __del__(self) -> None:
        if self.called and isinstance(self.result, Failure):
            made = f", which was made by {self._made}" if self._made else ""
            log.err(self.result, f"Unhandled error in Deferred{made}")

    def __await__(self) -> Generator[Deferred[_T], Any, _T]:
        result: _T = yield self
        return result

    def callback(self, result: _T | Failure) -> None:
        """Set the result and run the callbacks at once.

        Raises AlreadyCalledError if there is a result already. Raises TypeError if `result` is a
        Deferred."""
        if self.called:
            if self._ignores_result:
                self._ignores_result = False
                return
            raise AlreadyCalledError(
                f"{safe_repr(self)} cannot take {safe_repr(result)}; give only one result"
            )
        if isinstance(result, Deferred):
            raise TypeError(
                f"callback({safe_repr(result)}): return a Deferred from a callback instead"
            )
        self.called = True
        self.result = result
        self._canceller = None  # a canceller that refers to this Deferred would form a cycle
        self._run()

    def errback(self, fail: Failure | BaseException | None = None) -> None:
        """Set a failure as the result, and run the callbacks at once.

        fail: a Failure, an exception, or None for the exception that is being handled."""
        self.callback(_as_failure(fail))

    def cancel(self) -> None:
        """End the wait for the result: call the canceller, then fail with CancelledError.

        The canceller may give another result itself. Without a canceller, one later callback() or
        errback() is ignored. If the chain waits for another Deferred, that one is cancelled. Does
        nothing if there is a result."""
        if not self.called:
            if self._canceller is None:
                self._ignores_result = True
            else:
                self._canceller(self)
            if not self.called:
                self.errback(CancelledError())
        elif isinstance(self.result, Deferred):
            self.result.cancel()

    def addTimeout(
        self,
        timeout: float,
        clock: Any,
        onTimeoutCancel: Callable[[Any, float], Any] | None = None,
    ) -> Deferred[Any]:
        """Cancel this Deferred unless it has a result within `timeout` seconds; return self.

        clock: the reactor, or another object with callLater().
        onTimeoutCancel: called as `onTimeoutCancel(result, timeout)` after the cancelling; returns
            the result. By default a CancelledError becomes a TimeoutError."""
        timed_out = False

        def time_out() -> None:
            nonlocal timed_out
            timed_out = True
            self.cancel()

        def convert(result: Any) -> Any:
            if call.active():
                call.cancel()
            return (onTimeoutCancel or _timed_out)(result, timeout) if timed_out else result

        call = clock.callLater(timeout, time_out)
        return self.addBoth(convert)

    def addCallbacks(
        self,
        callback: Callable[..., Any],
        errback: Callable[..., Any] | None = None,
        callbackArgs: tuple[Any, ...] = (),
        callbackKeywords: Mapping[str, Any] = {},
        errbackArgs: tuple[Any, ...] = (),
        errbackKeywords: Mapping[str, Any] = {},
    ) -> Deferred[Any]:
        """Add one step, `callback` for a value and `errback` for a Failure, and return self.

        Without `errback`, a Failure goes on to the next step. Raises TypeError if `callback` or
        `errback` is not callable.
        """
        if not callable(callback) or not (errback is None or callable(errback)):
            raise TypeError(
                f"({safe_repr(callback)}, {safe_repr(errback)}) are not callable; pass functions"
            )
        for_value = (callback, callbackArgs, callbackKeywords)
        for_failure = None if errback is None else (errback, errbackArgs, errbackKeywords)
        self._steps.append((for_value, for_failure))
        self._run()
        return self

    def addCallback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call `callback(value, *args, **kwargs)` unless the result is a Failure; return self."""
        return self.addCallbacks(callback, None, args, kwargs)

    def addErrback(self, errback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call `errback(failure, *args, **kwargs)` if the result is a Failure; return self."""
        return self.addCallbacks(_pass_on, errback, (), {}, args, kwargs)

    def addBoth(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call `callback(result, *args, **kwargs)` with any result; return self."""
        return self.addCallbacks(callback, callback, args, kwargs, args, kwargs)

    def chainDeferred(self, d: Deferred[Any]) -> Deferred[Any]:
        """Give the result to `d`, which takes no other result; return self."""
        return self.addCallbacks(d.callback, d.errback)

    def _run(self) -> None:
        # A stack instead of recursion: a chain of Deferreds may be longer than the recursion limit.
        ready: list[Deferred[Any]] = [self]
        while ready:
            waiter = ready[-1]._advance()
            if waiter is None:
                ready.pop()
            else:
                ready.append(waiter)

    def _advance(self) -> Deferred[Any] | None:
        """Run steps. Return a Deferred that has just been given its result, or None at the end."""
        # If a callback adds another callback to its own Deferred, the outer call runs the new one.
        if not self.called or self._in_callback:
            return None
        while self._steps and not isinstance(self.result, Deferred):
            step = self._steps.popleft()
            if isinstance(step, Deferred):
                step.result, self.result = self.result, None
                return step
            call = step[isinstance(self.result, Failure)]
            if call is not None:
                self._call(*call)
        return None

    def _call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._in_callback = True
        try:
            result = function(self.result, *args, **kwargs)
            if result is self:
                raise RuntimeError(
                    f"{safe_repr(function)} returned the Deferred that it is a callback of"
                )
        except (KeyboardInterrupt, SystemExit):
            self.result = None  # the exception ends the program, so no failure is logged here
            raise
        except BaseException:
            result = Failure()
        finally:
            self._in_callback = False
        self.result = result
        if isinstance(result, Deferred):
            result._hand_over_to(self)

    def _hand_over_to(self, waiter: Deferred[Any]) -> None:
        is_final = self.called and not self._in_callback and not isinstance(self.result, Deferred)
        if is_final and not self._steps:
            waiter.result, self.result = self.result, None
        else:
            self._steps.append(waiter)


def succeed(result: _T) -> Deferred[_T]:
    """Return a Deferred whose result is `result`."""
    deferred: Deferred[_T] = Deferred()
    deferred.callback(result)
    return deferred


def fail(result: Failure | BaseException | None = None) -> Deferred[Any]:
    """Return a Deferred that has failed. `result` is the same as for `Deferred.errback`."""
    deferred: Deferred[Any] = Deferred()
    deferred.errback(result)
    return deferred


def execute(callable: Callable[..., _T], *args: Any, **kwargs: Any) -> Deferred[_T]:
    """Call `callable` and return a Deferred with its result, or with its exception."""
    try:
        result = callable(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return fail()
    return succeed(result)


def _as_failure(fail: Failure | BaseException | None) -> Failure:
    return fail if isinstance(fail, Failure) else Failure(fail)


def _pass_on(result: _T) -> _T:
    return result


def _timed_out(result: Any, timeout: float) -> Any:
    if isinstance(result, Failure):
        result.trap(CancelledError)
        raise TimeoutError(f"no result within {timeout} seconds")
    return result


def _calls() -> str:
    """Return the latest three calls outside this package, as `file:line in name`."""
    package = __name__.rpartition(".")[0]
    found: list[str] = []
    at: Any = sys._getframe(1)
    while at is not None and len(found) < 3:
        if not at.f_globals.get("__name__", "").startswith(package):
            found.append(f"{at.f_code.co_filename}:{at.f_lineno} in {at.f_code.co_name}")
        at = at.f_back
    return ", called by ".join(found)
