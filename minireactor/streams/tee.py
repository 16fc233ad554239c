"""A stage that feeds several consumers, each through a Branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, cast

from minireactor.core import flow
from minireactor.streams.stage import Stage

if TYPE_CHECKING:
    from minireactor.interfaces import Buffer, IConsumer, IReactorTime

# What a Tee does with a consumer that is paused when the next chunk comes: see Tee.
WAIT, DROP, DISCONNECT = "wait", "drop", "disconnect"


class Tee(Stage):
    """Pass all bytes on to several consumers, which may be added and removed at any time.

    `add(consumer, slow)` says what happens if that consumer is paused when the next chunk comes:

        "wait"        no consumer gets the chunk before this one resumes: the slowest sets the pace
        "drop"        this consumer misses the chunk, which is counted; the others go on
        "disconnect"  this consumer is aborted and removed; the others go on

    The producer is paused while any "wait" consumer is paused. The end of the stream is passed on
    to all consumers. The loss of one consumer does not affect the others.

    lasting: if true, a Tee that has lost its last consumer waits for another one. If false, it
        stops the producer then.
    """

    def __init__(self, reactor: IReactorTime | None = None, lasting: bool = False) -> None:
        super().__init__(reactor)
        self._lasting = lasting

    def feed(self, consumer: IConsumer, on_finish: Callable[[], object] | None = None) -> None:
        """Call `add(consumer, "wait", on_finish)`."""
        self.add(consumer, WAIT, on_finish)

    def add(
        self, consumer: IConsumer, slow: str = WAIT, on_finish: Callable[[], object] | None = None
    ) -> Branch:
        """Pass the stream on to `consumer` too, from the next chunk on; return its Branch.

        Raises ValueError if `slow` is unknown, and RuntimeError if the stream is over or the
        consumer has a producer."""
        self._check_not_over(consumer)
        if slow not in (WAIT, DROP, DISCONNECT):
            raise ValueError(
                f"slow={slow!r} is not valid: give {WAIT!r}, {DROP!r} or {DISCONNECT!r}"
            )
        branch = Branch(self, slow, self._reactor)
        branch.feed(consumer, on_finish)
        self._consumers.append(branch)
        branch.registerProducer(BranchProducer(self, branch), True)
        self.update_pause()
        return branch

    def update_pause(self) -> None:
        """Pause or resume after a branch was added, removed, paused or resumed."""
        branches = cast("list[Branch]", self._consumers)
        if not branches or any(branch.keeps_others_waiting() for branch in branches):
            self.pauseProducing()
        elif self._paused:
            self.resumeProducing()

    def remove(self, branch: Branch) -> None:
        """Remove a branch, and resume the others if only this branch was paused."""
        if branch in self._consumers:
            self._consumers.remove(branch)
            self.update_pause()

    def branch_lost(self, branch: Branch) -> None:
        """Remove a branch whose consumer is lost, or stop if it was the last one."""
        if self._consumers == [branch] and not self._lasting:
            self.stopProducing()
        else:
            self.remove(branch)


class Branch(Stage):
    """Pass the stream of a Tee on to one of its consumers; made by `Tee.add`.

    dropped, dropped_bytes: the number of chunks, and of bytes, that this consumer has missed.
    """

    dropped = 0
    dropped_bytes = 0

    def __init__(self, tee: Tee, slow: str, reactor: IReactorTime | None) -> None:
        super().__init__(reactor)
        self._tee = tee
        self._slow = slow

    def leave(self) -> None:
        """Remove this consumer from the Tee, and end its stream.

        The other consumers go on. If there is no other, the Tee waits for one."""
        self._tee.remove(self)
        self.unregisterProducer()

    def write(self, data: Buffer) -> None:
        if self.over or not self._paused or self._slow == WAIT:
            super().write(data)
        elif self._slow == DROP:
            self.dropped += 1
            self.dropped_bytes += len(data)
        else:
            self.abortConnection()

    def keeps_others_waiting(self) -> bool:
        """Return whether the other branches must wait until this one resumes."""
        return self._slow == WAIT and self._flow.state is flow.PAUSED


class BranchProducer:
    """The producer of one branch: passes its calls on to the Tee, with the branch."""

    def __init__(self, tee: Tee, branch: Branch) -> None:
        self._tee = tee
        self._branch = branch

    def pauseProducing(self) -> None:
        self._tee.update_pause()

    def resumeProducing(self) -> None:
        self._tee.update_pause()

    def stopProducing(self) -> None:
        self._tee.branch_lost(self._branch)
