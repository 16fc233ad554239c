"""Many Deferreds as one: DeferredList and gatherResults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor import log
from minireactor.defer.deferred import Deferred
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from collections.abc import Iterable


class FirstError(Exception):
    """One Deferred of a list has failed. `subFailure` is the failure, `index` its list index."""

    def __init__(self, failure: Failure, index: int) -> None:
        super().__init__(failure, index)
        self.subFailure = failure
        self.index = index

    def __str__(self) -> str:
        return f"Deferred number {self.index} of the list failed: {self.subFailure}"


class DeferredList(Deferred[Any]):
    """Waits for all Deferreds of a list. Its result is a list of `(success, result)`, in order.

    fireOnOneCallback: end with `(result, index)` as soon as one Deferred has a value.
    fireOnOneErrback: fail with FirstError as soon as one Deferred has failed.
    consumeErrors: replace each failure by None in its own Deferred. Otherwise the failures stay
        there, and are logged unless another errback handles them.

    Raises TypeError if an item is not a Deferred.
    """

    def __init__(
        self,
        deferredList: Iterable[Deferred[Any]],
        fireOnOneCallback: bool = False,
        fireOnOneErrback: bool = False,
        consumeErrors: bool = False,
    ) -> None:
        super().__init__()
        self._deferreds = list(deferredList)
        for each in self._deferreds:
            if not isinstance(each, Deferred):
                raise TypeError(
                    f"{safe_repr(each)} is not a Deferred; pass a coroutine to ensureDeferred()"
                )
        self.fireOnOneCallback = fireOnOneCallback
        self.fireOnOneErrback = fireOnOneErrback
        self.consumeErrors = consumeErrors
        self.resultList: list[Any] = [None] * len(self._deferreds)
        self.finishedCount = 0
        if not self._deferreds and not fireOnOneCallback:
            self.callback(self.resultList)
        for index, each in enumerate(self._deferreds):
            each.addCallbacks(self._came, self._came, (index, True), {}, (index, False))

    def _came(self, result: Any, index: int, success: bool) -> Any:
        self.resultList[index] = (success, result)
        self.finishedCount += 1
        if not self.called:
            if success and self.fireOnOneCallback:
                self.callback((result, index))
            elif not success and self.fireOnOneErrback:
                self.errback(FirstError(result, index))
            elif self.finishedCount == len(self.resultList):
                self.callback(self.resultList)
        return None if self.consumeErrors and not success else result

    def cancel(self) -> None:
        """Cancel each Deferred of the list; each then counts as failed."""
        if self.called:
            super().cancel()
            return
        for each in self._deferreds:
            try:
                each.cancel()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                log.err(None, "in a canceller of a DeferredList")


def gatherResults(
    deferredList: Iterable[Deferred[Any]], consumeErrors: bool = False
) -> Deferred[list[Any]]:
    """Return a Deferred of the list of all results, in order. The first failure ends the wait.

    This failure is a FirstError. `consumeErrors` is as in DeferredList."""
    gathered = DeferredList(deferredList, fireOnOneErrback=True, consumeErrors=consumeErrors)
    return gathered.addCallback(lambda results: [result for _, result in results])
