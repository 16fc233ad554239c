"""What a monitor knows of each connection, and the totals of all connections.

A monitor does not count bytes itself. It copies the counters of a connection into a
WatchedConnection, and adds their growth to the Totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.address import format_address
from minireactor.core import flow
from minireactor.debugging.explain import why
from minireactor.transports.connection import Connection
from minireactor.transports.kernel import receive_queue, send_queue, unsent_limit

if TYPE_CHECKING:
    from minireactor.internet import Reactor


NEWEST = 0.3  # the weight of the latest scan in the averages


class WatchedConnection:
    """A connection, and what its monitor knows of it.

    waiting, rate: averages over the last scans, in bytes; negative before the first scan.
    is_active: bytes wait or move, or the producer is paused, or this was so a few scans ago.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "connection",
        "id",
        "is_active",
        "label",
        "moved",
        "paused",
        "paused_since",
        "pauses",
        "peer",
        "pending",
        "rate",
        "waiting",
    )

    def __init__(self, number: int, connection: Connection) -> None:
        self.id = number
        self.connection = connection
        self.peer = format_address(connection.getPeer())
        self.label = ""
        self.paused = 0.0  # seconds, of the pauses that have ended
        self.paused_since: float | None = None  # None while the producer is not paused
        # Copies of the connection's counters, as of the last Totals.update().
        self.bytes_in = self.bytes_out = self.pauses = self.pending = 0
        self.is_active = True
        self.moved = connection.bytes_in + connection.bytes_out  # as of the last scan
        self.waiting = self.rate = -1.0

    def update_averages(self) -> None:
        """Add the present figures to the averages. Called by each scan, after Totals.update()."""
        waiting = self.pending + (send_queue(self.connection.socket) or 0)
        moved = self.bytes_in + self.bytes_out
        weight = 1.0 if self.waiting < 0 else NEWEST
        self.waiting += weight * (waiting - self.waiting)
        self.rate += weight * (moved - self.moved - self.rate)
        self.moved = moved
        self.is_active = (
            waiting > 0 or self.paused_since is not None or self.waiting >= 1 or self.rate >= 1
        )

    def row(self, now: float) -> dict[str, Any]:
        """Return the row of a sample for this connection, with its figures at the time `now`."""
        connection = self.connection
        high, low = connection.marks
        unfinished = 0.0 if self.paused_since is None else now - self.paused_since
        return {
            "id": self.id,
            "peer": self.peer,
            "label": self.label,
            "state": connection.state,
            "producer": connection.flow_state,
            "pending": connection.pending,
            "high": high,
            "low": low,
            "in": connection.bytes_in,
            "out": connection.bytes_out,
            "pauses": connection.pauses,
            "paused": round(self.paused + unfinished, 6),
            "sendq": send_queue(connection.socket),
            "recvq": receive_queue(connection.socket),
            "unsent": unsent_limit(connection.socket),
            "why": why(connection, now) if isinstance(connection, Connection) else None,
        }


class Totals:
    """Sums over all connections of a monitor.

    connections: how many there have been. highest_pending: of one connection, in bytes.
    open: sums over the open connections, as of their last update().
    """

    def __init__(self, reactor: Reactor) -> None:
        self.connections = 0
        self.highest_pending = 0
        self.open = {"in": 0, "out": 0, "pauses": 0, "pending": 0}
        self._ended = {"in": 0, "out": 0, "pauses": 0}
        self._reactor = reactor
        self._paused = 0.0  # seconds, of the pauses that have ended
        self._paused_now = 0
        self._paused_since = 0.0  # the sum of the times at which the present pauses began

    def update(self, watched: WatchedConnection) -> None:
        """Copy the counters of a connection, and add their growth to the sums."""
        connection = watched.connection
        pending = connection.pending
        self.highest_pending = max(self.highest_pending, pending, connection.highest_pending)
        sums = self.open
        sums["in"] += connection.bytes_in - watched.bytes_in
        sums["out"] += connection.bytes_out - watched.bytes_out
        sums["pauses"] += connection.pauses - watched.pauses
        sums["pending"] += pending - watched.pending
        watched.bytes_in = connection.bytes_in
        watched.bytes_out = connection.bytes_out
        watched.pauses = connection.pauses
        watched.pending = pending
        if watched.paused_since is not None and connection.flow_state != flow.PAUSED:
            self.end_pause(watched)  # unregistering a paused producer causes no event

    def begin_pause(self, watched: WatchedConnection, since: float) -> None:
        """Note that the producer is paused since that time. Idempotent."""
        if watched.paused_since is None:
            watched.paused_since = since
            watched.is_active = True
            self._paused_now += 1
            self._paused_since += since

    def end_pause(self, watched: WatchedConnection) -> None:
        """Note that the producer is not paused any more. Idempotent."""
        if watched.paused_since is None:
            return
        seconds = self._reactor.seconds() - watched.paused_since
        watched.paused += seconds
        self._paused += seconds
        self._paused_now -= 1
        self._paused_since -= watched.paused_since
        watched.paused_since = None

    def remove(self, watched: WatchedConnection) -> None:
        """Move the counters of a connection that has ended from `open` to the ended ones."""
        self.end_pause(watched)
        self.update(watched)  # pending is 0 by now
        last = {"in": watched.bytes_in, "out": watched.bytes_out, "pauses": watched.pauses}
        for name, value in last.items():
            self.open[name] -= value
            self._ended[name] += value

    def values(self, open_count: int) -> dict[str, Any]:
        """Return the totals of a sample."""
        unfinished = self._paused_now * self._reactor.seconds() - self._paused_since
        return {
            "connections": self.connections,
            "open": open_count,
            **{name: ended + self.open[name] for name, ended in self._ended.items()},
            "highest_pending": self.highest_pending,
            "paused": round(self._paused + unfinished, 6),
            "paused_now": self._paused_now,
        }

    def rest(self, count: int, rows: list[dict[str, Any]]) -> dict[str, int] | None:
        """Return the sums over the `count` open connections without a row; None if all have one."""
        if not count:
            return None
        sums = {
            name: self.open[name] - sum(row[name] for row in rows)
            for name in ("pending", "in", "out", "pauses")
        }
        return {"count": count, **sums}
