"""Coroutines that wait for Deferreds: `async def` functions, and generators that yield.

A Task drives one coroutine. Each `await deferred` hands the Deferred to the task. The task adds a
callback to it, and continues the coroutine with the result. There is no scheduler: the coroutine
continues inside the call of `deferred.callback(result)`.
"""

from __future__ import annotations

import threading
from functools import wraps
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from minireactor.defer.deferred import CancelledError, Deferred, fail, succeed
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    _Driven = Coroutine[Any, Any, Any] | Generator[Any, Any, Any]

_T = TypeVar("_T")


class NotACoroutineError(TypeError):
    """`ensureDeferred` was called with an object that is not a coroutine."""


class _Return(BaseException):
    """Carries the value of `returnValue` out of its generator."""


class _Local(threading.local):
    task: Task | None = None  # the task whose coroutine runs in this thread


_local = _Local()


def running_task() -> Task | None:
    """Return the task whose coroutine is being run, or None outside of coroutines."""
    return _local.task


class Wait:
    """An event that a coroutine may await, for one task at a time. It can be used again.

    A wait here costs a third of one for a new Deferred.

    task: the task that waits, or None.
    """

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: Task | None = None

    def __await__(self) -> Generator[Wait, Any, None]:
        if self.task is not None:
            raise RuntimeError("another coroutine waits for this event already")
        yield self

    def wake(self, result: Failure | None = None) -> None:
        """Continue the task that waits, if there is one."""
        task, self.task = self.task, None
        if task is not None:
            task.resume(result)

    def cancel(self) -> None:
        """End the wait: the coroutine gets a CancelledError."""
        self.wake(Failure(CancelledError()))


class Task(Deferred[Any]):
    """Runs a coroutine to its end. The result of this Deferred is that of the coroutine.

    `cancel()` cancels the Deferred that the coroutine waits for. So the coroutine gets the failure
    of that Deferred, mostly a CancelledError, and can clean up. If the coroutine handles the
    failure, it goes on, and the task has no failure.

    paused_by: the writers that have paused this coroutine, as a producer of bytes: see
        `minireactor.coroutines`.
    """

    def __init__(self, coroutine: _Driven) -> None:
        super().__init__()
        self._coroutine = coroutine
        self._awaited: Deferred[Any] | Wait | None = None
        self._cancel_due = False  # cancel() came while the coroutine was running
        self._came: list[Any] = []  # the result of an awaited Deferred, if there was one already
        self._is_adding = False
        self.paused_by: set[Any] = set()
        self.resume(None)

    def cancel(self) -> None:
        if self.called:
            super().cancel()
        elif self._awaited is None:
            self._cancel_due = True
        else:
            self._awaited.cancel()

    def resume(self, result: Any) -> None:
        """Give the coroutine the result that it waits for; run it until it waits again or ends."""
        outer, _local.task = _local.task, self
        self._awaited = None
        try:
            # A loop instead of recursion: each awaited Deferred may have its result already.
            while True:
                if result is not None and isinstance(result, Failure):
                    awaited = self._coroutine.throw(result.value.with_traceback(result.tb))
                else:
                    awaited = self._coroutine.send(result)
                if awaited.__class__ is Wait:
                    awaited.task = self
                elif isinstance(awaited, Deferred):
                    self._is_adding = True
                    awaited.addBoth(self._take)
                    self._is_adding = False
                    if self._came:
                        result = self._came.pop()
                        continue
                else:
                    result = awaited  # a generator may yield a plain value
                    continue
                self._awaited = awaited
                break
        except StopIteration as end:
            _local.task = outer
            self.callback(end.value)
        except _Return as end:
            _local.task = outer
            self.callback(end.args[0])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            _local.task = outer
            self.errback()
        finally:
            _local.task = outer
        if self._cancel_due and self._awaited is not None:
            self._cancel_due = False
            self._awaited.cancel()

    def _take(self, result: Any) -> None:
        if self._is_adding:
            self._came.append(result)
        else:
            self.resume(result)


def ensureDeferred(coro: Any) -> Deferred[Any]:
    """Run a coroutine, and return a Deferred of its result. A Deferred is returned as it is.

    The coroutine runs at once, to its first `await` of a Deferred without a result. Raises
    NotACoroutineError if `coro` is neither a Deferred, a coroutine nor a generator."""
    if isinstance(coro, Deferred):
        return coro
    if isinstance(coro, (CoroutineType, GeneratorType)):
        return Task(coro)
    raise NotACoroutineError(f"{safe_repr(coro)} is not a coroutine; call the function: f()")


def inlineCallbacks(f: Callable[..., Generator[Any, Any, _T]]) -> Callable[..., Deferred[_T]]:
    """Make a generator function into one that returns a Deferred of the generator's result.

    `result = yield deferred` waits in the generator. Any other value comes back at once."""

    @wraps(f)
    def start(*args: Any, **kwargs: Any) -> Deferred[_T]:
        generator = f(*args, **kwargs)
        if not isinstance(generator, GeneratorType):
            raise TypeError(
                f"inlineCallbacks: {safe_repr(f)} returned {safe_repr(generator)}; "
                "a function with a yield is needed"
            )
        return Task(generator)

    return start


def returnValue(val: object) -> NoReturn:
    """End a generator of `inlineCallbacks` with the result `val`, like `return val`."""
    raise _Return(val)


def maybeDeferred(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
    """Call `f` and return a Deferred of its result, of any kind.

    `f` may return a Deferred, a coroutine, a Failure or a value, or raise an exception."""
    try:
        result = f(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return fail()
    if isinstance(result, (Deferred, CoroutineType)):
        return ensureDeferred(result)
    return fail(result) if isinstance(result, Failure) else succeed(result)
