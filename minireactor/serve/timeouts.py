"""The timeouts of a server: what each connection has done last, and a sweep over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from minireactor.core.slices import Walk
from minireactor.transports.kernel import receive_queue, send_queue

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from minireactor.internet import Reactor
    from minireactor.transports.tcp import Connection

SHORTEST_SWEEP = 0.01  # seconds; however short a timeout is, sweeping is not to fill the CPU


class _Activity:
    """What the last look at one connection has found, and since when that has been so."""

    __slots__ = (
        *("bytes_in", "bytes_out", "in_kernel", "quiet_since", "stuck_since"),
        *("connection", "waiting", "write_ended"),
    )

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection = connection
        self.bytes_in = 0
        self.bytes_out = 0
        self.write_ended = False
        self.in_kernel = 0  # bytes that the peer has not acknowledged; an end counts as one
        self.waiting = False  # some are pending, or in the kernel
        self.quiet_since = now  # no byte either way
        self.stuck_since = now  # no byte taken by the peer, though some wait for it

    def update(self, now: float) -> None:
        """Look at the connection again."""
        connection = self.connection
        # The kernel says that there is room again only when a third of its buffer is free. A slow
        # peer may need longer for that than a timeout, and must not look as if it took nothing.
        in_kernel = send_queue(connection) or 0
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
    """The timeouts of a server's connections: one walk for all, and only while there are any."""

    def __init__(
        self,
        reactor: Reactor,
        idle_timeout: float | None,
        stall_timeout: float | None,
        on_idle: Callable[[Connection, bool], object],
        on_stalled: Callable[[Connection, Connection], object],
    ) -> None:
        # By a client's connection: its own, and of those that share its fate.
        self.activity: dict[Connection, list[_Activity]] = {}
        self._reactor = reactor
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._on_idle = on_idle
        self._on_stalled = on_stalled
        self._sweep_timer: Any = None
        self._sweep: Walk[Connection] | None = None

    def watch(self, connection: Connection, part: Connection) -> None:
        """Let the timeouts of a client's connection count for another one, or for itself."""
        if self._idle_timeout or self._stall_timeout:
            now = self._reactor.seconds()
            self.activity.setdefault(connection, []).append(_Activity(part, now))
            if self._sweep_timer is None:
                self._sweep_later(now)

    def forget(self, connection: Connection) -> None:
        """Watch a client's connection no more."""
        self.activity.pop(connection, None)

    def stop(self) -> None:
        """Sweep no more, until there is something to watch again."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._sweep_timer is not None and self._sweep_timer.active():
            self._sweep_timer.cancel()
        self._sweep_timer = None

    def _sweep_later(self, began: float) -> None:
        """Begin the next walk a quarter of a timeout after the one that began then."""
        shortest = min(filter(None, (self._idle_timeout, self._stall_timeout)))
        delay = began + shortest / 4 - self._reactor.seconds()
        delay = max(delay, SHORTEST_SWEEP)
        self._sweep_timer = self._reactor.call_later_hidden(delay, self._begin_sweep)

    def _begin_sweep(self) -> None:
        began = self._reactor.seconds()
        self._sweep = Walk(
            self._reactor, still_in(self.activity), self._look_at, lambda: self._sweep_later(began)
        )
        self._sweep.start()

    def _look_at(self, connection: Connection) -> bool:
        """End it if a timeout has passed; return whether that was so."""
        now = self._reactor.seconds()
        quiet_since = float("-inf")
        activities = self.activity[connection]
        for activity in activities:
            part = activity.connection
            # Whether another look could find anything new. This touches as little as it can: to
            # ask the kernel for the queue of each idle connection takes longer than all the rest.
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
            # These bytes have come since the loop looked for input last.
            if part.reading and receive_queue(part):
                activity.quiet_since = now
                return False
            busy |= activity.waiting or (part.disconnecting and part.connected)
        self._on_idle(connection, busy)
        return True


def still_in(connections: Collection[Connection]) -> Iterator[Connection]:
    """The connections of now, without those that are gone when their turn comes."""
    waiting = list(connections)
    while waiting:
        # Taken out, as to let go of thousands that have ended would take long at the end.
        connection = waiting.pop()
        if connection in connections:
            yield connection
