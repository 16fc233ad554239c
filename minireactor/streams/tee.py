"""A stage that feeds several consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from minireactor.core import flow
from minireactor.streams.stage import Piece

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

# What a Tee does with a consumer that is paused when the next chunk comes.
WAIT, DROP, DISCONNECT = "wait", "drop", "disconnect"


class Tee(Piece):
    """Passes everything on to several consumers, which may come and go.

    `add(consumer, slow)` says what is done about one that is paused when the next chunk comes:

        "wait"        nobody gets the next chunk before it has resumed: the slowest decides
        "drop"        it goes without that chunk, which is counted; the others do not notice
        "disconnect"  it is aborted, and gone

    A pause goes up when one that is waited for pauses, a resume when none of them is paused any
    more. The end goes down to all. A loss stays here until the last consumer is lost: then it goes
    up, unless the Tee is `lasting`: that one waits for the next consumer, as it did for the first.
    """

    def __init__(self, reactor: IReactorTime | None = None, lasting: bool = False) -> None:
        super().__init__(reactor)
        self._lasting = lasting

    def feed(self, consumer: Any, on_finish: Callable[[], object] | None = None) -> None:
        """`add(consumer, "wait", on_finish)`."""
        self.add(consumer, WAIT, on_finish)

    def add(
        self, consumer: Any, slow: str = WAIT, on_finish: Callable[[], object] | None = None
    ) -> Branch:
        """Pass on to `consumer` as well, from the next chunk on. ValueError, RuntimeError."""
        self._check_not_over(consumer)
        if slow not in (WAIT, DROP, DISCONNECT):
            raise ValueError(f"slow={slow!r} will not do: {WAIT!r}, {DROP!r} or {DISCONNECT!r}")
        branch = Branch(self, slow, self._reactor)
        branch.feed(consumer, on_finish)
        self._consumers.append(branch)
        branch.registerProducer(_Joint(self, branch), True)
        self._weigh()
        return branch

    def _weigh(self) -> None:
        """A branch has come, gone, paused or resumed."""
        branches = self._consumers
        if not branches or any(branch.keeps_others_waiting() for branch in branches):
            self.pauseProducing()
        elif self._paused:
            self.resumeProducing()

    def _let_go(self, branch: Branch) -> None:
        if branch in self._consumers:
            self._consumers.remove(branch)
            self._weigh()

    def _lost(self, branch: Branch) -> None:
        if self._consumers == [branch] and not self._lasting:
            self.stopProducing()
        else:
            self._let_go(branch)


class Branch(Piece):
    """The way from a Tee to one of its consumers; made by `Tee.add`.

    `dropped`, `dropped_bytes`: how many chunks, and bytes, it had to go without.
    """

    dropped = 0
    dropped_bytes = 0

    def __init__(self, tee: Tee, slow: str, reactor: IReactorTime | None) -> None:
        super().__init__(reactor)
        self._tee = tee
        self._slow = slow

    def leave(self) -> None:
        """Let this consumer go: for it, this is the end of the stream. The others go on; if there
        is none, the Tee waits for one."""
        self._tee._let_go(self)
        self.unregisterProducer()

    def write(self, data: Any) -> None:
        if self.over or not self._paused or self._slow == WAIT:
            super().write(data)
        elif self._slow == DROP:
            self.dropped += 1
            self.dropped_bytes += len(data)
        else:
            self.abortConnection()

    def keeps_others_waiting(self) -> bool:
        return self._slow == WAIT and self._flow.state is flow.PAUSED


class _Joint:
    """What a branch knows as its producer, so that the Tee knows which of them calls."""

    def __init__(self, tee: Tee, branch: Branch) -> None:
        self._tee = tee
        self._branch = branch

    def pauseProducing(self) -> None:
        self._tee._weigh()

    def resumeProducing(self) -> None:
        self._tee._weigh()

    def stopProducing(self) -> None:
        self._tee._lost(self._branch)
