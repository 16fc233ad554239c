"""The tap: what the connections of a reactor are doing, as samples and events of plain values.

    tap = Tap(reactor)
    tap.subscribe(print)                       # events, as they happen
    reactor.callLater(1, lambda: print(tap.sample()))

Both are dicts that `json` can write; sizes are bytes, times are seconds. A *sample*:

    {"type": "sample", "time": since the tap began, on the reactor's clock,
     "lag": how late a timer of the tap came, the most since the last sample,
     "memory": what the process has resident, or null,
     "totals": {"connections": ever, "open": now, "in", "out", "pauses", "highest_pending",
                "paused": how long, all together, "paused_now": number of producers},
     "connections": [{"id": 1, 2, 3... as they came, "peer": "127.0.0.1:40312",
                      "label": the class of its protocol, or what the tap was told to say,
                      "state": "open" | "closing" | "ending" | "closed",
                      "producer": "none" | "flowing" | "paused" | "pull" | "closed",
                      "pending", "high", "low", "in", "out",
                      "pauses": number, "paused": how long, so far,
                      "sendq", "recvq": what the kernel holds for either way, or null}, ...],
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
them, a tap costs a call for each event. Who wants samples of another rhythm makes another tap.
"""

from __future__ import annotations

import os
from collections import deque
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Callable

from minireactor import flow, log, tcp
from minireactor.address import shown
from minireactor.queues import receive_queue, send_queue

if TYPE_CHECKING:
    from minireactor.failure import Failure
    from minireactor.internet import Reactor

    Subscriber = Callable[[dict[str, Any]], object]

LIMIT = 50  # connections that a sample has in full
BEAT = 0.05  # seconds between the calls whose lateness is the lag
NEWEST = 0.3  # the share of the latest sample in what "busiest" averages

# What comes first. Rates are averaged as above; equal ones stand in the order in which they came.
ORDERS = ("busiest", "rate", "pauses", "newest", "oldest")
BUSIEST, RATE, PAUSES, NEWEST_FIRST, OLDEST_FIRST = ORDERS

_EVENTS = {"connectionMade": "connect", flow.PAUSE: "pause", flow.RESUME: "resume"}


class _Seen:
    """What a tap knows of one connection beyond what that knows itself.

    A tap is a friend of `tcp.Connection`, and reads its `_flow`."""

    __slots__ = (
        *("connection", "id", "label", "moved", "paused", "paused_since", "peer", "rate"),
        "waiting",
    )

    def __init__(self, number: int, connection: tcp.Connection) -> None:
        self.id = number
        self.connection = connection
        self.peer = shown(connection.getPeer())
        self.label = ""
        self.paused = 0.0  # seconds, until the pause that began at...
        self.paused_since: float | None = None
        self.moved = connection.bytes_in + connection.bytes_out  # at the last sample
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


class Tap:
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
        self._lost: deque[dict[str, Any]] = deque(maxlen=LIMIT)  # since the last sample
        self._count = 0
        self._totals = {"in": 0, "out": 0, "pauses": 0}  # of those that have ended
        self._highest_pending = 0
        self._paused = 0.0  # seconds, of those that have ended
        self._subscribers: list[Subscriber] = []
        self._lag = 0.0
        self._beat_due: float | None = None
        reactor.add_tap(self._hear)
        for handler in reactor.shown():
            if isinstance(handler, tcp.Connection) and not _is_unwatched(handler):
                self._meet(handler)
        # At once, and not counted: a reactor that does not run yet is not late.
        self._beating = reactor.call_later_hidden(0, self._beat)

    def close(self) -> None:
        """Watch no more. Idempotent."""
        self.reactor.remove_tap(self._hear)
        self._subscribers.clear()
        self._seen.clear()
        if self._beating.active():
            self._beating.cancel()

    def connections(self) -> list[tcp.Connection]:
        """Those that it watches."""
        return list(self._seen)

    def connection(self, number: int) -> tcp.Connection | None:
        """The one with that id; None if there is none, or it has ended."""
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
            seen: _Seen | None = self._meet(connection)
        else:
            seen = self._seen.get(connection)
        if seen is None:
            return
        if event == flow.PAUSE:
            if seen.paused_since is None:
                seen.paused_since = self.reactor.seconds()
        elif event == flow.RESUME:
            # A pull producer is called so as well, without having been paused.
            if seen.paused_since is None or connection._flow.state != flow.FLOWING:
                return
            self._end_pause(seen)
        elif reason is not None:
            self._part(seen, reason)
        if event in _EVENTS:
            self._tell(_EVENTS[event], seen)

    def _meet(self, connection: tcp.Connection) -> _Seen:
        self._count += 1
        seen = self._seen[connection] = _Seen(self._count, connection)
        seen.label = self._label(connection) or label_of(connection)
        if connection._flow.state == flow.PAUSED:
            seen.paused_since = self.reactor.seconds()
        return seen

    def _end_pause(self, seen: _Seen) -> None:
        seen.paused = self._paused_by(seen)
        seen.paused_since = None

    def _paused_by(self, seen: _Seen) -> float:
        """Seconds, up to now."""
        if seen.paused_since is None:
            return seen.paused
        return seen.paused + self.reactor.seconds() - seen.paused_since

    def _part(self, seen: _Seen, reason: Failure) -> None:
        connection = seen.connection
        self._end_pause(seen)
        del self._seen[connection]
        self._totals["in"] += connection.bytes_in
        self._totals["out"] += connection.bytes_out
        self._totals["pauses"] += connection.pauses
        self._highest_pending = max(self._highest_pending, connection.highest_pending)
        self._paused += seen.paused
        self._lost.append(self._row(seen, None))
        self._tell("lost", seen, reason=reason.getErrorMessage())

    def _tell(self, event: str, seen: _Seen, **more: str) -> None:
        for subscriber in self._subscribers.copy():
            told = {"type": "event", "time": self._now(), "event": event, "id": seen.id}
            try:
                subscriber({**told, "peer": seen.peer, **more})
            except Exception:
                log.err(None, f"{subscriber!r}, a subscriber of a tap, has failed and is dropped")
                self._subscribers.remove(subscriber)

    # Samples.

    def sample(self) -> dict[str, Any]:
        """How things are now; see above."""
        totals = {
            "connections": self._count,
            "open": len(self._seen),
            **self._totals,
            "highest_pending": self._highest_pending,
        }
        ranked = []
        pending_of_all = paused_now = 0
        paused = self._paused
        key = _KEYS[self.order]
        for seen in self._seen.values():
            connection = seen.connection
            pending = connection.pending
            pending_of_all += pending
            totals["in"] += connection.bytes_in
            totals["out"] += connection.bytes_out
            totals["pauses"] += connection.pauses
            highest = max(pending, connection.highest_pending)
            if highest > totals["highest_pending"]:
                totals["highest_pending"] = highest
            if seen.paused_since is not None:
                if connection._flow.state == flow.PAUSED:
                    paused_now += 1
                else:
                    self._end_pause(seen)  # its producer has left: of that, nobody tells
            paused += self._paused_by(seen)
            sendq = send_queue(connection)
            self._average(seen, pending + (sendq or 0))
            ranked.append((key(seen), seen.id, seen, sendq))
        self._highest_pending = totals["highest_pending"]
        rows = [self._row(seen, sendq) for *_, seen, sendq in nsmallest(self.limit, ranked)]
        rest = self._rest(totals, pending_of_all, rows)
        while self._lost and len(rows) < self.limit:
            rows.append(self._lost.popleft())
        self._lost.clear()
        return {
            "type": "sample",
            "time": self._now(),
            "lag": self._lag_since_last(),
            "memory": resident(),
            "totals": {**totals, "paused": round(paused, 6), "paused_now": paused_now},
            "connections": rows,
            "rest": rest,
        }

    def _average(self, seen: _Seen, waiting: int) -> None:
        moved = seen.connection.bytes_in + seen.connection.bytes_out
        share = 1.0 if seen.waiting < 0 else NEWEST
        seen.waiting += share * (waiting - seen.waiting)
        seen.rate += share * (moved - seen.moved - seen.rate)
        seen.moved = moved

    def _row(self, seen: _Seen, sendq: int | None) -> dict[str, Any]:
        connection = seen.connection
        seen.label = self._label(connection) or seen.label
        return {
            "id": seen.id,
            "peer": seen.peer,
            "label": seen.label,
            "state": connection.state,
            "producer": connection._flow.state,
            "pending": connection.pending,
            "high": connection._flow.high,
            "low": connection._flow.low,
            "in": connection.bytes_in,
            "out": connection.bytes_out,
            "pauses": connection.pauses,
            "paused": round(self._paused_by(seen), 6),
            "sendq": sendq,
            "recvq": receive_queue(connection),
        }

    def _rest(
        self, totals: dict[str, int], pending: int, rows: list[dict[str, Any]]
    ) -> dict[str, int] | None:
        if len(rows) == len(self._seen):
            return None
        all_open = {name: totals[name] - self._totals[name] for name in self._totals}
        return {
            "count": len(self._seen) - len(rows),
            "pending": pending - sum(row["pending"] for row in rows),
            **{name: total - sum(row[name] for row in rows) for name, total in all_open.items()},
        }

    def _now(self) -> float:
        return round(self.reactor.seconds() - self._began, 6)

    # Lag and memory.

    def _beat(self) -> None:
        self._note_lag()
        self._beat_due = self.reactor.seconds() + BEAT
        self._beating = self.reactor.call_later_hidden(BEAT, self._beat)

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
