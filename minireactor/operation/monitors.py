"""The monitor of a parent: what the connections of all its workers do, as if it were one process.

It has the methods of `view.monitor.Monitor` that the views call. It never waits for a worker: a
sample has the figures that the workers have sent by then, and asks for the next ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from minireactor.core.timers import cancel_if_active
from minireactor.operation.merge import add_totals, empty_totals, ended_totals, merge
from minireactor.view.monitor import LIMIT, resident_memory
from minireactor.view.ranking import BUSIEST
from minireactor.view.subscribers import Subscribers

if TYPE_CHECKING:
    from minireactor.internet import Reactor
    from minireactor.operation.control import Control
    from minireactor.view.subscribers import Subscriber

    Sample = dict[str, Any]

# A sample_soon() waits for a worker at most this long. A worker that has not answered within this
# time is stuck: others are not kept waiting for it again, and its last figures count.
STUCK_SECONDS = 0.5


class _Source:
    """A worker, as one monitor knows it.

    offset: how many connections its predecessors in the same slot have had, for unique ids.
    asked: when it was asked for the sample that it has not sent yet; None if it owes none."""

    def __init__(self, slot: int, offset: int) -> None:
        self.slot = slot
        self.offset = offset
        self.asked: float | None = None
        self.time = 0.0
        self.sample: Sample | None = None


class WorkersMonitor:
    """Watches the connections of all workers. Its parent calls joined(), received() and left().

    number: names this monitor in orders to workers. count: the number of slots for workers.
    close: called by close(), with this monitor.
    limit, order: as for a Monitor."""

    def __init__(
        self,
        reactor: Reactor,
        number: int,
        count: int,
        close: Callable[[WorkersMonitor], object],
        limit: int = LIMIT,
        order: str = BUSIEST,
    ) -> None:
        self.reactor = reactor
        self.number = number
        self.limit = limit
        self.order = order
        self._count = count
        self._close = close
        self._began = self._time = reactor.seconds()
        self._sources: dict[Control, _Source] = {}
        self._offsets = [0] * count
        self._ended = empty_totals()
        self._subscribers = Subscribers()
        self._events: list[dict[str, Any]] = []
        self._waiting: list[Callable[[Sample], object]] = []
        self._timer: Any = None

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._close(self)
        for control in self._sources:
            control.send(do="close", view=self.number)
        self._sources.clear()
        self._subscribers.clear()
        self._waiting.clear()

    # The workers.

    def joined(self, control: Control, slot: int) -> None:
        """Add a worker. Its counters begin now."""
        self._sources[control] = _Source(slot, self._offsets[slot])
        self._ask()

    def left(self, control: Control) -> None:
        """Remove a worker that has ended. Its last figures stay in the totals."""
        source = self._sources.pop(control, None)
        if source is not None and source.sample is not None:
            add_totals(self._ended, ended_totals(source.sample["totals"]))
            self._offsets[source.slot] += source.sample["totals"]["connections"]
        self._answer_if_complete()

    def received(
        self, control: Control, now: float, sample: Sample, events: list[dict[str, Any]]
    ) -> None:
        """Take a sample that a worker has sent at the time `now`."""
        source = self._sources.get(control)
        if source is None:
            return
        for row in sample["connections"]:
            row["id"] = self._id(source, row["id"])
        for event in events:
            event["id"] = self._id(source, event["id"])
        self._events += events
        source.asked, source.time, source.sample = None, now, sample
        self._answer_if_complete()

    def _id(self, source: _Source, number: int) -> int:
        """Return the id that stands for a worker's connection: no other worker's has it."""
        return (source.offset + number - 1) * self._count + source.slot + 1

    def _ask(self, whole: bool = False) -> None:
        for control, source in self._sources.items():
            if source.asked is None:
                source.asked = self.reactor.seconds()
                control.send(
                    do="sample",
                    view=self.number,
                    limit=self.limit,
                    order=self.order,
                    events=bool(self._subscribers),
                    whole=whole,
                )

    # What the views call.

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with each event, shortly before the next sample.

        Returns a callable that ends this."""
        return self._subscribers.add(subscriber)

    def count(self) -> int:
        """Return the number of open connections."""
        samples = [each.sample for each in self._sources.values() if each.sample is not None]
        return sum(sample["totals"]["open"] for sample in samples)

    def connections(self) -> list[Any]:
        """Return no connection: orders to workers change all of them at once."""
        return []

    def connection(self, number: int) -> _Remote | None:
        """Return what stands for the open connection with that id, or None."""
        for control, source in self._sources.items():
            rows = source.sample["connections"] if source.sample is not None else ()
            if any(row["id"] == number and row["state"] != "closed" for row in rows):
                local = (number - 1 - source.slot) // self._count + 1 - source.offset
                return _Remote(control, self.number, local)
        return None

    def sample(self) -> Sample:
        """Return a sample, with figures that each worker has sent since the last one."""
        sample = self._merged()
        self._ask()
        return sample

    def sample_soon(self, callback: Callable[[Sample], object]) -> None:
        """Call `callback` with a sample once all workers have sent their figures.

        The call comes after STUCK_SECONDS at the latest, with the last figures of the others."""
        self._waiting.append(callback)
        self._ask(whole=True)
        if self._timer is None:
            self._timer = self.reactor.call_later_internal(STUCK_SECONDS, self._answer)
        self._answer_if_complete()

    def _answer_if_complete(self) -> None:
        if self._waiting and not any(map(self._is_awaited, self._sources.values())):
            self._answer()

    def _is_awaited(self, source: _Source) -> bool:
        return source.asked is not None and self.reactor.seconds() < source.asked + STUCK_SECONDS

    def _answer(self) -> None:
        timer, self._timer = self._timer, None
        cancel_if_active(timer)
        waiting, self._waiting = self._waiting, []
        if waiting:
            sample = self._merged()
            for callback in waiting:
                callback(sample)

    def _merged(self) -> Sample:
        now = self.reactor.seconds()
        known = [each for each in self._sources.values() if each.sample is not None]
        samples = [each.sample for each in known if each.sample is not None]
        found = merge(samples, self._ended, self.limit, self.order)
        before = self._time
        self._time = max([before, *(source.time for source in known)])
        self._send_events(before)
        for sample in samples:
            # The next sample reports neither this lag nor these ends again.
            sample["lag"] = 0.0
            sample["connections"] = [
                row for row in sample["connections"] if row["state"] != "closed"
            ]
        late = [now - each.asked for each in self._sources.values() if each.asked is not None]
        own_memory = resident_memory()
        if found["memory"] is not None and own_memory is not None:
            found["memory"] += own_memory
        return {
            "type": "sample",
            "time": round(self._time - self._began, 6),
            **found,
            "lag": round(max([found["lag"], *late]), 6),
            "workers": len(self._sources),
        }

    def _send_events(self, earliest: float) -> None:
        """Send the events, whose times may not precede that of the last sample."""
        events, self._events = self._events, []
        for event in sorted(events, key=lambda event: event["time"]):
            event["time"] = round(max(event["time"], earliest) - self._began, 6)
            self._subscribers.notify(event)


class _Remote:
    """Stands for one connection of a worker: its marks can be set."""

    def __init__(self, control: Control, view: int, number: int) -> None:
        self._control = control
        self._view = view
        self._number = number

    def setWriteBufferLimits(self, high: int, low: int) -> None:
        """Let the worker set the marks of the connection."""
        self._control.send(do="marks", high=high, low=low, view=self._view, id=self._number)
