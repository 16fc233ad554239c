"""A recording as a trace: a file of Chrome's trace events, which https://ui.perfetto.dev shows.

Each connection is a thread of the trace, named by its peer. A slice of the thread lasts from
connect to lost; within it, each pause is a slice. Counters show the bytes that wait for a
connection, and the bytes per second that it moves. The process has counters for lag, memory and
open connections. Times are microseconds since the recording began.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIN_INTERVAL = 1e-6  # seconds between two samples for a rate; the resolution of a trace
PROCESS = 1  # the id of the one process; each trace event must name a process


class _Connection:
    """A connection of the recording, as of the events and samples read so far."""

    def __init__(self, number: int, peer: str, began: float) -> None:
        self.id = number
        self.peer = peer
        self.label = ""
        self.began = began
        self.paused_since: float | None = None
        # As of its last sample.
        self.time = began
        self.bytes_in = 0
        self.bytes_out = 0


class _Tracer:
    """Turns the lines of one recording into trace events: events()"""

    def __init__(self) -> None:
        self._connections: dict[int, _Connection] = {}
        self._now = 0.0

    def events(self, recording: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        name = "minireactor"
        for found in recording:
            if found["type"] == "recording":
                name = str(found.get("command") or name)
                continue
            self._now = max(self._now, found["time"])
            if found["type"] == "sample":
                yield from self._read_sample(found)
            else:
                yield from self._read_event(found)
        for connection in list(self._connections.values()):
            yield from self._end(connection, "still open at the end of the recording")
        yield self._name("process_name", 0, name)

    def _connection(self, number: int, peer: str) -> _Connection:
        connection = self._connections.get(number)
        if connection is None:
            connection = self._connections[number] = _Connection(number, peer, self._now)
        return connection

    def _read_event(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        connection = self._connection(event["id"], event["peer"])
        kind = event["event"]
        if kind == "pause":
            if connection.paused_since is None:
                connection.paused_since = self._now
        elif kind == "resume":
            yield from self._end_pause(connection)
        elif kind == "lost":
            yield from self._end(connection, str(event.get("reason", "")))

    def _end_pause(self, connection: _Connection) -> Iterator[dict[str, Any]]:
        if connection.paused_since is not None:
            yield self._slice("paused", connection.id, connection.paused_since)
            connection.paused_since = None

    def _end(self, connection: _Connection, reason: str) -> Iterator[dict[str, Any]]:
        yield from self._end_pause(connection)
        name = f"{connection.peer} {connection.label}".rstrip()
        yield self._slice(name, connection.id, connection.began, reason=reason)
        yield self._name("thread_name", connection.id, f"#{connection.id} {connection.peer}")
        del self._connections[connection.id]

    def _read_sample(self, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
        totals = sample["totals"]
        yield self._counter("connections", 0, open=totals["open"])
        yield self._counter("lag", 0, ms=round(sample["lag"] * 1000, 3))
        if sample["memory"] is not None:
            yield self._counter("memory", 0, bytes=sample["memory"])
        for row in sample["connections"]:
            if row["state"] != "closed":
                yield from self._read_row(row)

    def _read_row(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        connection = self._connection(row["id"], row["peer"])
        connection.label = row["label"]
        if row["producer"] != "paused":
            # The recording lacks the resume, or the producer was unregistered.
            yield from self._end_pause(connection)
        waiting = {"pending": row["pending"], "kernel": row["sendq"] or 0}
        yield self._counter(f"#{connection.id} waiting", connection.id, **waiting)
        passed = self._now - connection.time
        if passed >= MIN_INTERVAL:
            rates = {
                "in": round((row["in"] - connection.bytes_in) / passed),
                "out": round((row["out"] - connection.bytes_out) / passed),
            }
            yield self._counter(f"#{connection.id} bytes/s", connection.id, **rates)
        connection.time = self._now
        connection.bytes_in, connection.bytes_out = row["in"], row["out"]

    def _slice(self, name: str, thread: int, since: float, **more: str) -> dict[str, Any]:
        event = {"ph": "X", "name": name, "cat": "flow", "pid": PROCESS, "tid": thread}
        start, end = _micros(since), _micros(self._now)
        return {**event, "ts": start, "dur": end - start, "args": more}

    def _counter(self, name: str, thread: int, **values: float) -> dict[str, Any]:
        event = {"ph": "C", "name": name, "pid": PROCESS, "tid": thread}
        return {**event, "ts": _micros(self._now), "args": values}

    def _name(self, what: str, thread: int, name: str) -> dict[str, Any]:
        return {"ph": "M", "name": what, "pid": PROCESS, "tid": thread, "args": {"name": name}}


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def trace_events(recording: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the trace events of a recording, which are not sorted by time.

    recording: what record.read() returns."""
    return _Tracer().events(recording)


def write_trace(recording: Iterable[dict[str, Any]], out: IO[str]) -> int:
    """Write a trace file to `out` while reading the recording; return its number of events.

    Raises OSError if reading or writing fails, RecordingError if the recording is damaged."""
    count = 0
    out.write('{"displayTimeUnit":"ms","traceEvents":[')
    for event in trace_events(recording):
        out.write(",\n" if count else "\n")
        out.write(json.dumps(event, separators=(",", ":")))
        count += 1
    out.write("\n]}\n")
    return count
