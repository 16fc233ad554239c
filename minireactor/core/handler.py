"""The base class of everything that the loop calls: one descriptor and its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.core.poller import READ, WRITE
from minireactor.failure import Failure

if TYPE_CHECKING:
    from typing import Protocol

    class Target(Protocol):
        """What the application knows: a connection, a port, or an object given to addReader().

        An object for addReader() alone needs no doWrite(), and one for addWriter() no doRead()."""

        def fileno(self) -> int:
            """Return the descriptor, -1 once it is closed."""

        def doRead(self) -> Exception | Failure | None:
            """Read. Return None, or the reason why the object is to be disconnected."""

        def doWrite(self) -> Exception | Failure | None:
            """Write. Return None, or the reason why the object is to be disconnected."""

        def connectionLost(self, reason: Failure) -> None:
            """Handle the end: the loop has stopped watching the object."""


class Handler:
    """One descriptor, the events that it is interested in, and the methods that these events call.

    The flags `reading` and `writing` are the interest. `registered` holds the events that the
    poller watches for. Clearing a flag does not unregister the event. The loop updates the poller
    only when an unwanted event arrives, so a short pause costs no system call.
    """

    __slots__ = ("__weakref__", "fd", "reading", "registered", "writing")

    # Whether the handler is served before others while the loop is behind: for short work.
    comes_first = False
    # Internal: left out of getReaders() and removeAll(), gets no connectionLost at shutdown.
    internal = False

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.reading = False
        self.writing = False
        self.registered: int | None = None  # events; None: the poller does not know `fd`

    def interest(self) -> int:
        """Return the events that the handler is interested in."""
        return (READ if self.reading else 0) | (WRITE if self.writing else 0)

    def doRead(self) -> None:
        """Read. There is input, an end of input, or an error that reading reports."""

    def doWrite(self) -> None:
        """Write. The descriptor is writable, or the flush has reached this handler."""

    def hungUp(self) -> None:
        """Handle an error, or the end of both directions. Called if there is no interest()."""

    def failed(self, failure: Failure) -> None:
        """Handle an exception, already logged, that one of the calls above has raised."""
        self.connectionLost(failure)

    def connectionLost(self, reason: Failure) -> None:
        """End the handler, with an error or in an orderly way: `reason` says which."""

    def has_unacked_data(self) -> bool:
        """Return whether a loop that stops should wait a little for this internal handler."""
        return False

    def close(self) -> None:
        """Free the resources of this handler. The closing loop calls this after detach()."""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def target(self) -> Target:
        """Return the handler's target, the object that the application knows."""
        return self
