"""The monitor: what the connections of a reactor are doing, as samples and events of plain values.

    monitor = Monitor(reactor)
    monitor.subscribe(print)                       # events, as they happen
    reactor.callLater(1, lambda: print(monitor.sample()))

Both are dicts that `json` can write; sizes are bytes, times are seconds. A *sample*:

    {"type": "sample", "time": since the monitor began, on the reactor's clock,
     "lag": how late a timer of the monitor came, the most since the last sample,
     "memory": what the process has resident, or null,
     "totals": {"connections": ever, "open": now, "in", "out", "pauses", "highest_pending",
                "paused": how long, all together, "paused_now": number of producers},
     "connections": [{"id": 1, 2, 3... as they came, "peer": "127.0.0.1:40312",
                      "label": the class of its protocol, or what the monitor was told to say,
                      "state": "open" | "closing" | "ending" | "closed",
                      "producer": "none" | "flowing" | "paused" | "pull" | "closed",
                      "pending", "high", "low", "in", "out",
                      "pauses": number, "paused": how long, so far,
                      "sendq", "recvq": what the kernel holds for either way, or null,
                      "unsent": how much of that may wait to be sent, 0 for no limit}, ...],
     "rest": {"count", "pending", "in", "out", "pauses"} of those left out, or null}

The *busiest* come first: those for which most bytes wait, pending or in the kernel's send queue,
then those that have moved most bytes, then the oldest. Both figures are averaged over the last
samples and compared by powers of four, or no row would keep its place for long. Other orders can
be asked for: see ORDERS. A connection that has ended since the last sample is in this one for the
last time, as "closed" and behind the others.

An *event*:

    {"type": "event", "time", "event": "connect" | "pause" | "resume" | "lost", "id", "peer",
     "reason": of "lost" only}

Samples are taken by looking, when somebody asks, at counters that are there anyway: between two of
them, a monitor costs a call for each event. For samples of another rhythm, make another monitor.

One sample looks at connections for LOOK_SECONDS at most, enough for thousands of idle ones.
The next sample goes on with the others. Until then these count in the totals with what they had
when they were last seen; the figures of the rows are always those of now.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.address import format_address
from minireactor.core import flow
from minireactor.transports import tcp
from minireactor.transports.kernel import receive_queue, send_queue, unsent_limit

if TYPE_CHECKING:
    from minireactor.failure import Failure
    from minireactor.internet import Reactor

    Subscriber = Callable[[dict[str, Any]], object]

LIMIT = 50  # connections that a sample has in full
BEAT = 0.05  # seconds between the calls whose lateness is the lag
LOOK_SECONDS = 0.001  # of one sample: ten samples a second are to take 1 % of a processor
CHUNK = 50  # connections between two looks at the clock
MAX_RANKED = 1000  # connections that a round remembers, before it keeps only the first ones of them
NEWEST = 0.3  # the share of the latest sample in what "busiest" averages

# What comes first. Rates are averaged as above; equal ones stand in the order in which they came.
ORDERS = ("busiest", "rate", "pauses", "newest", "oldest")
BUSIEST, RATE, PAUSES, NEWEST_FIRST, OLDEST_FIRST = ORDERS

_EVENTS = {"connectionMade": "connect", flow.PAUSE: "pause", flow.RESUME: "resume"}


class _Seen:
    """What a monitor knows of one connection beyond what that knows itself.

    The monitor reads the public counters of a connection, and nothing else."""

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

    def __init__(self, number: int, connection: tcp.Connection) -> None:
        self.id = number
        self.connection = connection
        self.peer = format_address(connection.getPeer())
        self.label = ""
        self.paused = 0.0  # seconds, until the pause that began at...
        self.paused_since: float | None = None
        # As they were when somebody looked last.
        self.bytes_in = self.bytes_out = self.pauses = self.pending = 0
        self.is_active = True  # something waits, moves or is paused, or did so a while ago
        self.moved = connection.bytes_in + connection.bytes_out  # at the last round
        self.waiting = self.rate = -1.0  # averages, in bytes; none yet


def _by_rate(seen: _Seen) -> int:
    return -(int(seen.rate).bit_length() >> 1)  # powers of four


def _by_what_waits(seen: _Seen) -> tuple[int, int]:
    return -(int(seen.waiting).bit_length() >> 1), _by_rate(seen)


_KEYS: dict[str, Callable[[_Seen], Any]] = {
    BUSIEST: _by_what_waits,
    RATE: _by_rate,
    PAUSES: lambda seen: -seen.connection.pauses,
    NEWEST_FIRST: lambda seen: -seen.id,
    OLDEST_FIRST: lambda seen: seen.id,
}


class Monitor:
    """Watches all connections of `reactor`, those that are there already included.

    limit: how many connections a sample has in full, 0 or more; may be set later.
    order: which these are, one of ORDERS; may be set later.
    label: called with a connection, says in a word or two what it is for, or gives "" where that
        cannot be told any more, as of one that has ended. It must not raise.

    A connection whose protocol has a true attribute `unwatched` is left out: so are those through
    which somebody watches.
    """

    def __init__(
        self,
        reactor: Reactor,
        limit: int = LIMIT,
        label: Callable[[tcp.Connection], str] | None = None,
        order: str = BUSIEST,
    ) -> None:
        self.reactor = reactor
        self.limit = limit
        self.order = order
        self._label = label or label_of
        self._began = reactor.seconds()
        self._seen: dict[tcp.Connection, _Seen] = {}
        self._unmet: dict[tcp.Connection, int] = {}  # those there before us: their ids
        self._lost: deque[dict[str, Any]] = deque(maxlen=LIMIT)  # since the last sample
        self._count = 0
        self._ended = {"in": 0, "out": 0, "pauses": 0}
        self._open = {"in": 0, "out": 0, "pauses": 0, "pending": 0}  # as they were last seen
        self._highest_pending = 0
        self._paused = 0.0  # seconds, of the pauses that have ended
        self._paused_now = 0
        self._paused_since = 0.0  # the sum of when these pauses began
        self._round: list[_Seen] | None = None  # those that are still to be looked at
        self._ranked: list[tuple[Any, int, _Seen]] = []  # of this round
        self._first: list[_Seen] = []  # those that the last round put first
        self._subscribers: list[Subscriber] = []
        self._lag = 0.0
        self._beat_due: float | None = None
        reactor.add_observer(self._hear)
        # To meet thousands takes long: each beat, and each sample, meets some of them.
        for handler in reactor.application_handlers():
            if isinstance(handler, tcp.Connection) and not _is_unwatched(handler):
                self._count += 1
                self._unmet[handler] = self._count
        # At once, and not counted: a reactor that does not run yet is not late.
        self._beating = reactor.call_later_internal(0, self._beat)

    def close(self) -> None:
        """Watch no more. Idempotent."""
        self.reactor.remove_observer(self._hear)
        self._subscribers.clear()
        for watched in (self._seen, self._unmet, self._first):
            watched.clear()
        self._round = None
        if self._beating.active():
            self._beating.cancel()

    def count(self) -> int:
        """The number of connections that it watches."""
        return len(self._seen) + len(self._unmet)

    def connections(self) -> list[tcp.Connection]:
        """Those that it watches."""
        return [*self._seen, *self._unmet]

    def connection(self, number: int) -> tcp.Connection | None:
        """The one with that id; None if there is none, or it has ended."""
        self._meet_all(float("inf"))
        return next((seen.connection for seen in self._seen.values() if seen.id == number), None)

    # Events.

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call it with each event from now on; returns what ends that.

        It is called in the middle of things, so it had better only note what it is told. If it
        raises, that is logged, and it is called no more."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def _hear(self, event: str, connection: tcp.Connection, reason: Failure | None) -> None:
        if event == "connectionMade":
            if _is_unwatched(connection):
                return
            self._count += 1
            seen = self._meet(connection, self._count)
        elif connection in self._seen:
            seen = self._seen[connection]
        elif connection in self._unmet:
            seen = self._meet_late(connection, event)
        else:
            return
        if event == flow.PAUSE:
            self._begin_pause(seen, self.reactor.seconds())
        elif event == flow.RESUME:
            # A pull producer is called so as well, without having been paused.
            if seen.paused_since is None or connection.flow_state != flow.FLOWING:
                return
            self._end_pause(seen)
        elif reason is not None:
            self._part(seen, reason)
        if event in _EVENTS:
            self._tell(_EVENTS[event], seen)

    def _meet(self, connection: tcp.Connection, number: int) -> _Seen:
        seen = self._seen[connection] = _Seen(number, connection)
        seen.label = self._label(connection) or label_of(connection)
        return seen

    def _meet_late(self, connection: tcp.Connection, event: str = "") -> _Seen:
        """Meet one that was there before us, perhaps because of an event."""
        seen = self._meet(connection, self._unmet.pop(connection))
        is_paused = connection.flow_state == flow.PAUSED and event != flow.PAUSE
        if is_paused or (event == flow.RESUME and connection.streamingProducer):
            self._begin_pause(seen, self._began)
        return seen

    def _meet_all(self, until: float) -> bool:
        """Meet those who were there before us; return whether none is left at that time."""
        for met, connection in enumerate(list(self._unmet), 1):
            self._meet_late(connection)
            if met % CHUNK == 0 and self.reactor.seconds() >= until:
                break
        return not self._unmet

    def _begin_pause(self, seen: _Seen, since: float) -> None:
        if seen.paused_since is None:
            seen.paused_since = since
            seen.is_active = True
            self._paused_now += 1
            self._paused_since += seen.paused_since

    def _end_pause(self, seen: _Seen) -> None:
        if seen.paused_since is None:
            return
        took = self.reactor.seconds() - seen.paused_since
        seen.paused += took
        self._paused += took
        self._paused_now -= 1
        self._paused_since -= seen.paused_since
        seen.paused_since = None

    def _paused_by(self, seen: _Seen) -> float:
        """Seconds, up to now."""
        if seen.paused_since is None:
            return seen.paused
        return seen.paused + self.reactor.seconds() - seen.paused_since

    def _part(self, seen: _Seen, reason: Failure) -> None:
        connection = seen.connection
        self._end_pause(seen)
        self._update(seen)
        del self._seen[connection]
        for name, value in (
            *(("in", seen.bytes_in), ("out", seen.bytes_out), ("pauses", seen.pauses)),
        ):
            self._open[name] -= value
            self._ended[name] += value
        self._lost.append(self._row(seen))
        self._tell("lost", seen, reason=reason.getErrorMessage())

    def _tell(self, event: str, seen: _Seen, **more: str) -> None:
        for subscriber in self._subscribers.copy():
            told = {"type": "event", "time": self._now(), "event": event, "id": seen.id}
            try:
                subscriber({**told, "peer": seen.peer, **more})
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                log.err(
                    None, f"{subscriber!r}, a subscriber of a monitor, has failed and is dropped"
                )
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

    # Samples.

    def sample(self) -> dict[str, Any]:
        """How things are now; see above."""
        self._look()
        return self._sample()

    def sample_soon(self, then: Callable[[dict[str, Any]], object]) -> None:
        """Call `then` with a sample for which every connection has been looked at.

        That is at once where there are few, and else some iterations of the loop later."""
        if self._look():
            then(self._sample())
        else:
            self.reactor.call_later_internal(0, partial(self.sample_soon, then))

    def _look(self) -> bool:
        """Go on with a round of looks at all connections; return whether that completes it."""
        seconds = self.reactor.seconds
        until = seconds() + LOOK_SECONDS
        if not self._meet_all(until):
            return False
        if self._round is None:
            self._round = list(self._seen.values())
            self._round.reverse()
            self._ranked.clear()
        waiting = self._round
        key = _KEYS[self.order]
        by_pauses = self.order == PAUSES
        while waiting:
            for _ in range(min(CHUNK, len(waiting))):
                seen = waiting.pop()
                connection = seen.connection
                # One that has ended meanwhile is as it was at its end, and changes no sum.
                if (
                    seen.is_active
                    or connection.bytes_in != seen.bytes_in
                    or connection.bytes_out != seen.bytes_out
                    or connection._flush_due
                ):
                    self._look_at(seen)
                elif not (by_pauses and seen.pauses):
                    continue
                self._ranked.append((key(seen), seen.id, seen))
            if len(self._ranked) > MAX_RANKED:
                self._ranked = nsmallest(self.limit, self._ranked)
            if waiting and seconds() >= until:
                return False
        self._round = None
        self._rank(key)
        return True

    def _look_at(self, seen: _Seen) -> None:
        """Do for one connection what a round is for."""
        self._update(seen)
        connection = seen.connection
        waiting = seen.pending + (send_queue(connection) or 0)
        moved = seen.bytes_in + seen.bytes_out
        share = 1.0 if seen.waiting < 0 else NEWEST
        seen.waiting += share * (waiting - seen.waiting)
        seen.rate += share * (moved - seen.moved - seen.rate)
        seen.moved = moved
        seen.is_active = (
            waiting > 0 or seen.paused_since is not None or seen.waiting >= 1 or seen.rate >= 1
        )

    def _update(self, seen: _Seen) -> None:
        """Bring what is known of one connection, and the sums, up to date."""
        connection = seen.connection
        pending = connection.pending
        self._highest_pending = max(self._highest_pending, pending, connection.highest_pending)
        open_ones = self._open
        open_ones["in"] += connection.bytes_in - seen.bytes_in
        open_ones["out"] += connection.bytes_out - seen.bytes_out
        open_ones["pauses"] += connection.pauses - seen.pauses
        open_ones["pending"] += pending - seen.pending
        seen.bytes_in = connection.bytes_in
        seen.bytes_out = connection.bytes_out
        seen.pauses = connection.pauses
        seen.pending = pending
        if seen.paused_since is not None and connection.flow_state != flow.PAUSED:
            self._end_pause(seen)  # its producer has left: of that, nobody tells

    def _rank(self, key: Callable[[_Seen], Any]) -> None:
        """Say who comes first: of those that were active, and of the idle ones, which are equal."""
        ranked = self._ranked
        known = {number for _, number, _ in ranked}
        everybody = self._seen.values()
        idle = islice(
            reversed(everybody) if self.order == NEWEST_FIRST else everybody,
            self.limit + len(known),
        )
        ranked += [(key(seen), seen.id, seen) for seen in idle if seen.id not in known]
        self._first = [seen for *_, seen in nsmallest(self.limit, ranked)]
        ranked.clear()

    def _sample(self) -> dict[str, Any]:
        rows = []
        for seen in self._first[: self.limit]:
            if seen.connection in self._seen:
                self._update(seen)
                rows.append(self._row(seen))
        count = self.count()
        totals = {
            "connections": self._count,
            "open": count,
            **{name: ended + self._open[name] for name, ended in self._ended.items()},
            "highest_pending": self._highest_pending,
            "paused": round(self._paused_seconds(), 6),
            "paused_now": self._paused_now,
        }
        rest = self._rest(count - len(rows), rows)
        while self._lost and len(rows) < self.limit:
            rows.append(self._lost.popleft())
        self._lost.clear()
        return {
            "type": "sample",
            "time": self._now(),
            "lag": self._lag_since_last(),
            "memory": resident(),
            "totals": totals,
            "connections": rows,
            "rest": rest,
        }

    def _paused_seconds(self) -> float:
        return self._paused + self._paused_now * self.reactor.seconds() - self._paused_since

    def _row(self, seen: _Seen) -> dict[str, Any]:
        connection = seen.connection
        seen.label = self._label(connection) or seen.label
        high, low = connection.marks
        return {
            "id": seen.id,
            "peer": seen.peer,
            "label": seen.label,
            "state": connection.state,
            "producer": connection.flow_state,
            "pending": connection.pending,
            "high": high,
            "low": low,
            "in": connection.bytes_in,
            "out": connection.bytes_out,
            "pauses": connection.pauses,
            "paused": round(self._paused_by(seen), 6),
            "sendq": send_queue(connection),
            "recvq": receive_queue(connection),
            "unsent": unsent_limit(connection.socket),
        }

    def _rest(self, count: int, rows: list[dict[str, Any]]) -> dict[str, int] | None:
        if not count:
            return None
        left = {
            name: self._open[name] - sum(row[name] for row in rows)
            for name in ("pending", "in", "out", "pauses")
        }
        return {"count": count, **left}

    def _now(self) -> float:
        return round(self.reactor.seconds() - self._began, 6)

    # Lag and memory.

    def _beat(self) -> None:
        self._note_lag()
        self._meet_all(self.reactor.seconds() + LOOK_SECONDS)
        self._beat_due = self.reactor.seconds() + BEAT
        self._beating = self.reactor.call_later_internal(BEAT, self._beat)

    def _note_lag(self) -> None:
        if self._beat_due is not None:
            self._lag = max(self._lag, self.reactor.seconds() - self._beat_due)

    def _lag_since_last(self) -> float:
        self._note_lag()  # a beat may be overdue
        lag, self._lag = self._lag, 0.0
        if lag and self._beat_due is not None:
            self._beat_due = max(self._beat_due, self.reactor.seconds())  # do not count it twice
        return round(lag, 6)


def label_of(connection: tcp.Connection) -> str:
    """The class of its protocol."""
    protocol = connection.protocol
    return "" if protocol is None else type(protocol).__name__


def resident() -> int | None:
    """Bytes of memory that this process occupies; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _is_unwatched(connection: tcp.Connection) -> bool:
    return getattr(connection.protocol, "unwatched", False)
