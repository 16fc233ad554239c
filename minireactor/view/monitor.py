"""The monitor: what the connections of a reactor do, as samples and events.

    monitor = Monitor(reactor)
    monitor.subscribe(print)                       # each event, as it happens
    reactor.callLater(1, lambda: print(monitor.sample()))

Samples and events are dicts that `json` can write. Sizes are bytes, times are seconds. A *sample*:

    {"type": "sample", "time": since the monitor began, by the reactor's clock,
     "lag": the longest delay of the monitor's own timer since the last sample,
     "memory": resident memory of the process, or null,
     "totals": {"connections": all so far, "open": now, "in", "out", "pauses", "highest_pending",
                "paused": the duration of all pauses, "paused_now": number of paused producers,
                "rejected": {option: clients that it did not allow}, only if there are any},
     "connections": [{"id": 1, 2, 3... in the order of arrival, "peer": "127.0.0.1:40312",
                      "label": what the monitor's `label` returns, else the protocol's class,
                      "state": "open" | "closing" | "ending" | "closed",
                      "producer": "none" | "flowing" | "paused" | "pull" | "closed",
                      "pending", "high", "low", "in", "out",
                      "pauses": number, "paused": their duration so far,
                      "sendq", "recvq": bytes in the kernel's queues, or null,
                      "unsent": the kernel's limit for unsent bytes, 0 for no limit,
                      "why": why the connection does not move, or null: see debugging.explain},
                     ...],
     "rest": {"count", "pending", "in", "out", "pauses"} of the connections without a row, or null,
     "targets": only of a proxy: [{"target": "10.0.0.1:80", "state": "up" | "down" | "draining",
                                   "weight", "backup": true or false,
                                   "clients": now, "failures": all so far,
                                   "connect": duration of the last attempt that succeeded, or null,
                                   "reason": of the last failure, or ""}, ...]}

The rows begin with the *busiest* connections. Most bytes wait for these, pending or in the kernel's
send queue. If this figure is equal, the connections that move the most bytes come first, then the
oldest. Both figures are averages over the last scans and are compared by powers of four; otherwise
rows would change their places all the time. `ranking.ORDERS` names the other orders. A connection
that has ended gets one last row in the next sample, as "closed", after the other rows.

An *event*:

    {"type": "event", "time", "event": "connect" | "pause" | "resume" | "lost", "id", "peer",
     "reason": only of "lost"}

A sample reads counters that the connections keep anyway. Between two samples, a monitor costs one
call for each event. Each consumer of samples needs a monitor of its own, because "lag" and the
"closed" rows cover the time since the last sample.

One sample examines connections for at most SCAN_SECONDS, enough for thousands of idle ones. The
next sample continues this scan. Until then, the other connections count in the totals with their
figures from the scan before. The figures in the rows are always current.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core import events, flow
from minireactor.transports.connection import Connection
from minireactor.view.ranking import BATCH, BUSIEST, Ranking
from minireactor.view.sources import monitor_makers, rejected_counts, target_rows
from minireactor.view.subscribers import Subscribers
from minireactor.view.watched import Totals, WatchedConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.view.subscribers import Subscriber

LIMIT = 50  # rows of a sample
LAG_INTERVAL = 0.05  # seconds between the timer calls whose delay is the lag
SCAN_SECONDS = 0.001  # of one sample: ten samples a second then take 1 % of a processor

_EVENTS = {events.MADE: "connect", events.PAUSE: "pause", events.RESUME: "resume"}


def open_monitor(reactor: Reactor, *args: Any, **kwargs: Any) -> Monitor:
    """Return a Monitor for a view of `reactor`, or what stands in for it: see `sources`."""
    opened: Monitor = monitor_makers.get(reactor, Monitor)(reactor, *args, **kwargs)
    return opened


class Monitor:
    """Watches all connections of `reactor`, including those that are open already.

    limit: the number of rows in a sample, 0 or more; may be changed later.
    order: the order of the rows, one of ranking.ORDERS; may be changed later.
    label: called with a connection, returns a few words about its purpose. It may return "" if it
        does not know the purpose any more, for instance after the end; the last label then stays.
        It must not raise.

    A connection whose protocol has a true attribute `unwatched` is left out. The pages' own
    connections have it.
    """

    def __init__(
        self,
        reactor: Reactor,
        limit: int = LIMIT,
        label: Callable[[Connection], str] | None = None,
        order: str = BUSIEST,
    ) -> None:
        self.reactor = reactor
        self.limit = limit
        self.order = order
        self._label = label or label_of
        self._began = reactor.seconds()
        self._watched: dict[Connection, WatchedConnection] = {}
        # Connections that were open before this monitor and are not in `_watched` yet: their ids.
        self._earlier: dict[Connection, int] = {}
        self._lost: deque[dict[str, Any]] = deque(maxlen=LIMIT)  # rows, since the last sample
        self._totals = Totals(reactor)
        self._ranking = Ranking(reactor, self._totals)
        self._subscribers = Subscribers()
        self._lag = 0.0
        self._timer_due: float | None = None
        reactor.add_observer(self._on_event)
        # Watching thousands at once would take long: each timer call and each sample adds some.
        for handler in reactor.application_handlers():
            if isinstance(handler, Connection) and not _is_unwatched(handler):
                self._totals.connections += 1
                self._earlier[handler] = self._totals.connections
        # The first call measures no lag: a reactor that does not run yet is not late.
        self._timer = reactor.call_later_internal(0, self._on_timer)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self.reactor.remove_observer(self._on_event)
        self._subscribers.clear()
        self._watched.clear()
        self._earlier.clear()
        self._ranking.clear()
        if self._timer.active():
            self._timer.cancel()

    def count(self) -> int:
        """Return the number of open connections."""
        return len(self._watched) + len(self._earlier)

    def connections(self) -> list[Connection]:
        """Return the open connections."""
        return [*self._watched, *self._earlier]

    def connection(self, number: int) -> Connection | None:
        """Return the open connection with that id, or None."""
        self._watch_earlier(float("inf"))
        return next((each.connection for each in self._watched.values() if each.id == number), None)

    # Events.

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with each event from now on; return a callable that ends this.

        The call comes in the middle of a connection's work: the subscriber should only note the
        event. A subscriber that raises is logged and removed."""
        return self._subscribers.add(subscriber)

    def _on_event(self, event: str, connection: Connection, reason: Failure | None) -> None:
        if event == events.MADE:
            if _is_unwatched(connection):
                return
            self._totals.connections += 1
            watched = self._watch(connection, self._totals.connections)
        elif connection in self._watched:
            watched = self._watched[connection]
        elif connection in self._earlier:
            watched = self._watch_earlier_one(connection, event)
        else:
            return
        if event == events.PAUSE:
            self._totals.begin_pause(watched, self.reactor.seconds())
        elif event == events.RESUME:
            # A pull producer gets this call too, without having been paused.
            if watched.paused_since is None or connection.flow_state != flow.FLOWING:
                return
            self._totals.end_pause(watched)
        elif reason is not None:
            self._on_lost(watched, reason)
        if event in _EVENTS:
            self._notify(_EVENTS[event], watched)

    def _watch(self, connection: Connection, number: int) -> WatchedConnection:
        watched = self._watched[connection] = WatchedConnection(number, connection)
        watched.label = self._label(connection) or label_of(connection)
        return watched

    def _watch_earlier_one(self, connection: Connection, event: str = "") -> WatchedConnection:
        """Watch a connection that was open before this monitor.

        event: the event of the connection that is being handled, if there is one."""
        watched = self._watch(connection, self._earlier.pop(connection))
        is_paused = connection.flow_state == flow.PAUSED and event != events.PAUSE
        if is_paused or (event == events.RESUME and connection.streamingProducer):
            self._totals.begin_pause(watched, self._began)
        return watched

    def _watch_earlier(self, until: float) -> bool:
        """Watch more connections that were open before; return whether all are watched.

        until: the time at which this call stops; at least BATCH connections are added."""
        for added, connection in enumerate(list(self._earlier), 1):
            self._watch_earlier_one(connection)
            if added % BATCH == 0 and self.reactor.seconds() >= until:
                break
        return not self._earlier

    def _on_lost(self, watched: WatchedConnection, reason: Failure) -> None:
        self._totals.remove(watched)
        del self._watched[watched.connection]
        self._lost.append(self._row(watched, self.reactor.seconds()))
        self._notify("lost", watched, reason=reason.getErrorMessage())

    def _notify(self, event: str, watched: WatchedConnection, **more: str) -> None:
        if self._subscribers:
            fields = {"type": "event", "time": self._now(), "event": event, "id": watched.id}
            self._subscribers.notify({**fields, "peer": watched.peer, **more})

    # Samples.

    def sample(self) -> dict[str, Any]:
        """Return a sample: what the connections do now."""
        self._scan()
        return self._sample()

    def sample_soon(self, callback: Callable[[dict[str, Any]], object]) -> None:
        """Call `callback` with a sample for which all connections have been examined.

        The call comes at once if one slice of time is enough, else some loop iterations later."""
        if self._scan():
            callback(self._sample())
        else:
            self.reactor.call_later_internal(0, partial(self.sample_soon, callback))

    def _scan(self) -> bool:
        """Examine connections for SCAN_SECONDS; return whether the scan is complete."""
        until = self.reactor.seconds() + SCAN_SECONDS
        return self._watch_earlier(until) and self._ranking.scan(
            self._watched, self.order, self.limit, until
        )

    def _sample(self) -> dict[str, Any]:
        rows = []
        now = self.reactor.seconds()
        update = self._totals.update
        for watched in self._ranking.first[: self.limit]:
            if watched.connection in self._watched:
                update(watched)
                rows.append(self._row(watched, now))
        count = self.count()
        totals = self._totals.values(count)
        add_rejected(totals, rejected_counts.get(self.reactor, {}))
        rest = self._totals.rest(count - len(rows), rows)
        while self._lost and len(rows) < self.limit:
            rows.append(self._lost.popleft())
        self._lost.clear()
        sample = {
            "type": "sample",
            "time": self._now(),
            "lag": self._lag_since_last(),
            "memory": resident_memory(),
            "totals": totals,
            "connections": rows,
            "rest": rest,
        }
        targets = target_rows.get(self.reactor)
        if targets is not None:
            sample["targets"] = targets()
        return sample

    def _row(self, watched: WatchedConnection, now: float) -> dict[str, Any]:
        watched.label = self._label(watched.connection) or watched.label
        return watched.row(now)

    def _now(self) -> float:
        return round(self.reactor.seconds() - self._began, 6)

    # Lag and memory.

    def _on_timer(self) -> None:
        self._measure_lag()
        self._watch_earlier(self.reactor.seconds() + SCAN_SECONDS)
        self._timer_due = self.reactor.seconds() + LAG_INTERVAL
        self._timer = self.reactor.call_later_internal(LAG_INTERVAL, self._on_timer)

    def _measure_lag(self) -> None:
        if self._timer_due is not None:
            self._lag = max(self._lag, self.reactor.seconds() - self._timer_due)

    def _lag_since_last(self) -> float:
        self._measure_lag()  # the timer may be overdue
        lag, self._lag = self._lag, 0.0
        if lag and self._timer_due is not None:
            # The timer's next call must not count this delay a second time.
            self._timer_due = max(self._timer_due, self.reactor.seconds())
        return round(lag, 6)


def label_of(connection: Connection) -> str:
    """Return the name of the protocol's class, or "" without a protocol."""
    protocol = connection.protocol
    return "" if protocol is None else type(protocol).__name__


def add_rejected(totals: dict[str, Any], more: Mapping[str, int]) -> None:
    """Add counts by option to those in `totals`, which has no counts before the first client."""
    rejected = Counter(totals.get("rejected", {}))
    rejected.update(more)
    if rejected:
        totals["rejected"] = dict(rejected)


def resident_memory() -> int | None:
    """Return the resident memory of this process in bytes, or None if the system cannot tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _is_unwatched(connection: Connection) -> bool:
    return getattr(connection.protocol, "unwatched", False)
