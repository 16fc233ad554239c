"""The order of connections in a sample, and the scan that finds the first ones.

A *scan* examines all connections, in slices of limited time. It updates their counters and their
averages, and ranks the active ones. Idle connections are equal, so a scan does not rank them.
"""

from __future__ import annotations

from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection
    from minireactor.view.watched import Totals, WatchedConnection

BATCH = 50  # connections between two readings of the clock
MAX_RANKED = 1000  # connections that a scan collects before it keeps only the first of them

# The orders. Connections that are equal by their order stand in the order of their ids.
ORDERS = ("busiest", "rate", "pauses", "newest", "oldest")
BUSIEST, RATE, PAUSES, NEWEST_FIRST, OLDEST_FIRST = ORDERS


def _by_rate(watched: WatchedConnection) -> int:
    return -(int(watched.rate).bit_length() >> 1)  # powers of four


def _by_waiting(watched: WatchedConnection) -> tuple[int, int]:
    return -(int(watched.waiting).bit_length() >> 1), _by_rate(watched)


# What an order compares.
KEYS: dict[str, Callable[[WatchedConnection], Any]] = {
    BUSIEST: _by_waiting,
    RATE: _by_rate,
    PAUSES: lambda watched: -watched.connection.pauses,
    NEWEST_FIRST: lambda watched: -watched.id,
    OLDEST_FIRST: lambda watched: watched.id,
}


class Ranking:
    """Scans the connections of a monitor: scan()*

    first: the connections that the last complete scan has put first, in their order.
    """

    def __init__(self, reactor: Reactor, totals: Totals) -> None:
        self.first: list[WatchedConnection] = []
        self._reactor = reactor
        self._totals = totals
        self._order = BUSIEST
        self._left: list[WatchedConnection] | None = None  # of this scan; the next one stands last
        self._ranked: list[tuple[Any, int, WatchedConnection]] = []

    def clear(self) -> None:
        """Forget all connections."""
        self.first.clear()
        self._ranked.clear()
        self._left = None

    def scan(
        self,
        connections: dict[Connection, WatchedConnection],
        order: str,
        limit: int,
        until: float,
    ) -> bool:
        """Continue the scan, or begin a new one; return whether it is complete.

        order: one of ORDERS. limit: the length of `first`. until: the time at which this call
        stops; at least BATCH connections are examined."""
        if self._left is None or order != self._order:
            self._left = list(connections.values())
            self._left.reverse()
            self._ranked.clear()
            self._order = order
        left = self._left
        ranked = self._ranked
        update = self._totals.update
        key = KEYS[order]
        by_pauses = order == PAUSES
        while left:
            for _ in range(min(BATCH, len(left))):
                watched = left.pop()
                connection = watched.connection
                # `_flush_due` is set while bytes are pending. A connection that ended during the
                # scan has its final figures already: updating them changes no sum.
                if (
                    watched.is_active
                    or connection.bytes_in != watched.bytes_in
                    or connection.bytes_out != watched.bytes_out
                    or connection._flush_due
                ):
                    update(watched)
                    watched.update_averages()
                elif not (by_pauses and watched.pauses):  # idle ones may have the most pauses
                    continue
                ranked.append((key(watched), watched.id, watched))
            if len(ranked) > MAX_RANKED:
                ranked[:] = nsmallest(limit, ranked)
            if left and self._reactor.seconds() >= until:
                return False
        self._left = None
        self._rank(connections, limit)
        return True

    def _rank(self, connections: dict[Connection, WatchedConnection], limit: int) -> None:
        """Set `first`: from the ranked connections, and from as many idle ones as may be needed."""
        key = KEYS[self._order]
        ranked = self._ranked
        known = {number for _, number, _ in ranked}
        everyone = connections.values()
        candidates = islice(
            reversed(everyone) if self._order == NEWEST_FIRST else everyone, limit + len(known)
        )
        ranked += [(key(each), each.id, each) for each in candidates if each.id not in known]
        self.first = [watched for *_, watched in nsmallest(limit, ranked)]
        ranked.clear()
