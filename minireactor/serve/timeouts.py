"""The timeouts of a server: when each connection was last active, and a sweep over all of them.

A timer for each connection would have to be restarted at each read and write. That costs too much.
Instead, a sweep looks at all connections, four times within the shorter timeout. The sweep compares
the counters of each connection with those of the sweep before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from minireactor.core.slices import Walk
from minireactor.core.timers import cancel_if_active
from minireactor.transports.kernel import receive_queue, send_queue

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from minireactor.core.timers import DelayedCall
    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection

MIN_SWEEP_SECONDS = 0.01  # between two sweeps, so that a short timeout does not use up the CPU


class _Activity:
    """The counters of one connection at the last sweep, and since when they have not changed."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "connection",
        "in_kernel",
        "quiet_since",
        "stuck_since",
        "waiting",
        "write_ended",
    )

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection = connection
        self.bytes_in = 0
        self.bytes_out = 0
        self.write_ended = False
        self.in_kernel = 0  # bytes that the peer has not acknowledged; the FIN counts as one
        self.waiting = False  # whether bytes are pending or in the kernel
        self.quiet_since = now  # since then, no byte has passed either way
        self.stuck_since = now  # since then, the peer has taken none of the bytes that wait for it

    def update(self, now: float) -> None:
        """Store the current counters, and note which of them have changed."""
        connection = self.connection
        # The kernel reports a socket as writable only when a third of its buffer is free. A slow
        # peer may need longer than a timeout for that third. Looking at the kernel's queue shows
        # that such a peer does take bytes.
        in_kernel = send_queue(connection.socket) or 0
        waiting = connection.pending + in_kernel > 0
        bytes_out = connection.bytes_out
        has_taken = bytes_out - in_kernel != self.bytes_out - self.in_kernel
        if has_taken or not (waiting and self.waiting):
            self.stuck_since = now
        if has_taken or connection.bytes_in != self.bytes_in:
            self.quiet_since = now
        self.bytes_in = connection.bytes_in
        self.bytes_out = bytes_out
        self.write_ended = connection.write_ended
        self.in_kernel = in_kernel
        self.waiting = waiting


class Timeouts:
    """Finds the connections of a server that are idle or stalled.

    idle_timeout, stall_timeout: seconds, as for Server; None or 0 for no such timeout.
    on_idle: called as `on_idle(connection, busy)`, with a client's connection. `busy` is true if
        bytes wait for a peer, or if one of the connections is being closed already.
    on_stalled: called as `on_stalled(connection, part)`. `part` is the connection that is stalled:
        the client's own, or one that ends together with it.
    activity: for each client's connection, one entry for each connection that counts for it.
    """

    def __init__(
        self,
        reactor: Reactor,
        idle_timeout: float | None,
        stall_timeout: float | None,
        on_idle: Callable[[Connection, bool], object],
        on_stalled: Callable[[Connection, Connection], object],
    ) -> None:
        self.activity: dict[Connection, list[_Activity]] = {}
        self._reactor = reactor
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._on_idle = on_idle
        self._on_stalled = on_stalled
        self._sweep_timer: DelayedCall | None = None
        self._sweep: Walk[Connection] | None = None

    def watch(self, connection: Connection, part: Connection) -> None:
        """Let bytes on `part` count for the timeouts of the client's connection.

        `part` is that connection itself, or one that ends together with it."""
        if self._idle_timeout or self._stall_timeout:
            now = self._reactor.seconds()
            self.activity.setdefault(connection, []).append(_Activity(part, now))
            if self._sweep_timer is None:
                self._sweep_later(now)

    def forget(self, connection: Connection) -> None:
        """Stop watching a client's connection, which has ended."""
        self.activity.pop(connection, None)

    def stop(self) -> None:
        """Cancel the sweep; the next call of watch() starts it again."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        cancel_if_active(self._sweep_timer)
        self._sweep_timer = None

    def _sweep_later(self, began: float) -> None:
        """Schedule the next sweep, a quarter of the shorter timeout after the time `began`."""
        shortest = min(filter(None, (self._idle_timeout, self._stall_timeout)))
        delay = began + shortest / 4 - self._reactor.seconds()
        delay = max(delay, MIN_SWEEP_SECONDS)
        self._sweep_timer = self._reactor.call_later_internal(delay, self._begin_sweep)

    def _begin_sweep(self) -> None:
        began = self._reactor.seconds()
        self._sweep = Walk(
            self._reactor, still_in(self.activity), self._check, lambda: self._sweep_later(began)
        )
        self._sweep.start()

    def _check(self, connection: Connection) -> bool:
        """Call on_idle or on_stalled if a timeout has passed. Return whether one has."""
        now = self._reactor.seconds()
        quiet_since = float("-inf")
        activities = self.activity[connection]
        for activity in activities:
            part = activity.connection
            # Update only if something may have changed. Asking the kernel for the queue of each
            # idle connection would take longer than the rest of the sweep.
            if (
                part.bytes_in != activity.bytes_in
                or part.bytes_out != activity.bytes_out
                or part.write_ended != activity.write_ended
                or part.writing
                or activity.waiting
            ):
                activity.update(now)
                if (
                    self._stall_timeout
                    and activity.waiting
                    and now - activity.stuck_since >= self._stall_timeout
                ):
                    self._on_stalled(connection, part)
                    return True
            if activity.quiet_since > quiet_since:
                quiet_since = activity.quiet_since
        if not self._idle_timeout or now - quiet_since < self._idle_timeout:
            return False
        busy = False
        for activity in activities:
            part = activity.connection
            # These bytes have arrived since the last poll of the loop.
            if part.reading and receive_queue(part.socket):
                activity.quiet_since = now
                return False
            busy |= activity.waiting or (part.disconnecting and part.connected)
        self._on_idle(connection, busy)
        return True


def still_in(
    connections: Collection[Connection], ordered: list[Connection] | None = None
) -> Iterator[Connection]:
    """Yield the current members of `connections`, without those that leave before their turn.

    ordered: the same members as a list, which this function empties, from its end."""
    waiting = list(connections) if ordered is None else ordered
    while waiting:
        # pop() frees each connection in its turn. Freeing thousands at once, at the end, would take
        # long.
        connection = waiting.pop()
        if connection in connections:
            yield connection
