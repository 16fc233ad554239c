"""Visit many connections in slices. Between two slices the loop does its other work.

    Walk(reactor, list(connections), visit).start()

A visit takes some microseconds. Visits to 10,000 connections without a break would take so long
that every client notices the delay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Generic, TypeVar

from minireactor import log
from minireactor.core.timers import cancel_if_active
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from minireactor.core.handler import Handler
    from minireactor.core.loop import Loop
    from minireactor.core.timers import DelayedCall

_Each = TypeVar("_Each", bound="Handler")

SLICE_SECONDS = 0.002  # a client does not notice a delay of 2 ms
# Connections that one slice may end. The loop closes them in the iterations that follow. Closing
# one takes 50 to 100 us, or twice as long for a client of a proxy, whose target ends as well.
SLICE_ENDINGS = 10
CHUNK = 50  # visits between two readings of the clock; one reading costs as much as a short visit


class Walk(Generic[_Each]):
    """Calls `visit(connection)` for each of `connections`, from `start()` on.

    visit: returns whether the visit has ended the connection. If `visit` raises an exception, the
        exception is logged, and the connection ends with this exception as the reason.
    finished: called after the last visit.
    """

    def __init__(
        self,
        reactor: Loop,
        connections: Iterable[_Each],
        visit: Callable[[_Each], bool],
        finished: Callable[[], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._left: Iterator[_Each] = iter(connections)
        self._visit = visit
        self._finished = finished
        self._timer: DelayedCall | None = None

    def start(self) -> None:
        """Visit the first connections now, and the others in the iterations that follow."""
        self._go_on()

    def cancel(self) -> None:
        """Visit no more connections. Idempotent."""
        self._left = iter(())
        self._finished = None
        cancel_if_active(self._timer)

    def _go_on(self) -> None:
        seconds = self._reactor.seconds
        until = seconds() + SLICE_SECONDS
        visit = self._visit
        endings = 0
        for visited, connection in enumerate(self._left, 1):
            try:
                endings += visit(connection)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                _end_failed(connection)
                endings += 1
            if endings >= SLICE_ENDINGS or (visited % CHUNK == 0 and seconds() >= until):
                self._timer = self._reactor.call_later_internal(0, self._go_on)
                return
        finished, self._finished = self._finished, None
        if finished is not None:
            finished()


def _end_failed(connection: Handler) -> None:
    """End a connection whose visit has raised. The exception is the reason."""
    failure = Failure()
    log.err(failure, f"in a walk over all connections, at {safe_repr(connection)}")
    connection.failed(failure)
