"""What the loop dispatches to."""

from __future__ import annotations

from typing import Any

from minireactor.core.poller import READ, WRITE
from minireactor.failure import Failure


class Handler:
    """One descriptor, what it wants to be told, and the calls that this leads to.

    Two flags, `reading` and `writing`, say what it wants; `armed` is what the poller has been
    told. The flags may run ahead: a handler that stops reading only clears its flag, and the
    loop tells the poller when an event comes that nobody wants. To pause and resume for a moment
    is thus free.
    """

    __slots__ = ("__weakref__", "armed", "fd", "reading", "writing")

    comes_first = False  # served before others while the loop is behind: for what is short
    hidden = False  # the reactor's own housekeeping: not shown, not removed, not told of the end

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.reading = False
        self.writing = False
        self.armed: int | None = None  # the events that the poller watches for; None: it does not

    def wanted(self) -> int:
        return (READ if self.reading else 0) | (WRITE if self.writing else 0)

    def doRead(self) -> None:
        """There is something to read, or an end or an error to find by reading."""

    def doWrite(self) -> None:
        """There is room to write; or the write pass has come, for a handler in `loop.flushes`."""

    def hungUp(self) -> None:
        """An error, or both directions have ended, while it wants neither to read nor to write."""

    def failed(self, failure: Failure) -> None:
        """One of the calls above has raised `failure`, which is logged already."""
        self.connectionLost(failure)

    def connectionLost(self, reason: Failure) -> None:
        """The end, for whatever reason."""

    def unsettled(self) -> bool:
        """Of a hidden handler: whether a loop that stops should give it another moment."""
        return False

    def close(self) -> None:
        """Of a hidden handler: the loop is closing. It has been detached."""

    def owner(self) -> Any:
        """The object that the application knows."""
        return self
