"""Deferred: a result that is not there yet, and what to do with it once it is.

The small part of Twisted's class that a TCP program meets: FileSender.beginFileTransfer and
Port.stopListening return one, and a "before" trigger of the reactor may.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from minireactor import log
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    _Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
    _Pair = tuple[_Call, _Call | None]

_T = TypeVar("_T")


class AlreadyCalledError(Exception):
    """A Deferred was given a second result."""


class Deferred(Generic[_T]):
    """A chain of callbacks around one result.

    Calls, in this order::

        addCallbacks* (callback | errback) addCallbacks*

    where addCallback, addErrback and addBoth are short for addCallbacks. The last group runs on
    the spot. Each callback is called once, as `f(result, *args, **kwargs)`, and what it returns
    is the result for the next one:

    - a value goes on to the next callback;
    - a Failure, or an exception that it raises, goes on to the next errback;
    - a Deferred halts the chain until that one is through, then its result goes on in here,
      and None is left in there.

    Exceptions of any class are caught, but for KeyboardInterrupt and SystemExit. A Failure that no
    errback has taken by the time the Deferred is garbage is logged once.

    `called`: whether there is a result yet. `result`: the latest one (no such attribute before),
    or the Deferred that the chain waits for.
    """

    called = False
    result: Any

    def __init__(self) -> None:
        # What is still to be called, or, as a Deferred, to be given the result.
        self._steps: deque[_Pair | Deferred[Any]] = deque()
        self._in_callback = False

    def __repr__(self) -> str:
        state = f"result {safe_repr(self.result)}" if self.called else "no result yet"
        return f"<{self.__class__.__name__} at {id(self):#x}: {state}>"

    def __del__(self) -> None:
        if self.called and isinstance(self.result, Failure):
            log.err(self.result, "Unhandled error in Deferred")

    def callback(self, result: _T | Failure) -> None:
        """Give the result; the callbacks run at once. AlreadyCalledError the second time."""
        if self.called:
            raise AlreadyCalledError(
                f"{safe_repr(self)} is given {safe_repr(result)} as well; call it only once"
            )
        if isinstance(result, Deferred):
            raise TypeError(
                f"callback({safe_repr(result)}): return a Deferred from a callback instead"
            )
        self.called = True
        self.result = result
        self._run()

    def errback(self, fail: Failure | BaseException | None = None) -> None:
        """Give a failure: a Failure, an exception, or None for the one being handled."""
        self.callback(_as_failure(fail))

    def addCallbacks(
        self,
        callback: Callable[..., Any],
        errback: Callable[..., Any] | None = None,
        callbackArgs: tuple[Any, ...] = (),
        callbackKeywords: Mapping[str, Any] = {},
        errbackArgs: tuple[Any, ...] = (),
        errbackKeywords: Mapping[str, Any] = {},
    ) -> Deferred[Any]:
        """Add one step: `callback` for a value, `errback` for a Failure. Returns self.

        Without `errback` a Failure passes this step by.
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
        """Call `callback(value, *args, **kwargs)` unless the result is a Failure."""
        return self.addCallbacks(callback, None, args, kwargs)

    def addErrback(self, errback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call `errback(failure, *args, **kwargs)` if the result is a Failure."""
        return self.addCallbacks(_pass_on, errback, (), {}, args, kwargs)

    def addBoth(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call `callback(result, *args, **kwargs)` whatever the result is."""
        return self.addCallbacks(callback, callback, args, kwargs, args, kwargs)

    def _run(self) -> None:
        # A stack instead of recursion: a chain of Deferreds may be longer than the interpreter's.
        ready: list[Deferred[Any]] = [self]
        while ready:
            waiter = ready[-1]._advance()
            if waiter is None:
                ready.pop()
            else:
                ready.append(waiter)

    def _advance(self) -> Deferred[Any] | None:
        """Work off steps until none can be, or until a Deferred that waited here can go on."""
        # A callback that adds a callback to its own Deferred comes by here: the outer call goes on.
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
            raise
        except BaseException:
            result = Failure()
        finally:
            self._in_callback = False
        self.result = result
        if isinstance(result, Deferred):
            result._hand_over_to(self)

    def _hand_over_to(self, waiter: Deferred[Any]) -> None:
        settled = self.called and not self._in_callback and not isinstance(self.result, Deferred)
        if settled and not self._steps:
            waiter.result, self.result = self.result, None
        else:
            self._steps.append(waiter)


def succeed(result: _T) -> Deferred[_T]:
    """A Deferred that has `result` already."""
    deferred: Deferred[_T] = Deferred()
    deferred.callback(result)
    return deferred


def fail(result: Failure | BaseException | None = None) -> Deferred[Any]:
    """A Deferred that has failed already, with what `Deferred.errback` takes."""
    deferred: Deferred[Any] = Deferred()
    deferred.errback(result)
    return deferred


def _as_failure(fail: Failure | BaseException | None) -> Failure:
    return fail if isinstance(fail, Failure) else Failure(fail)


def _pass_on(result: _T) -> _T:
    return result
