"""A recording as a trace that Perfetto (https://ui.perfetto.dev) opens: Chrome's trace events.

Each connection is a thread, named by its peer: a slice for its life, and in that a slice for each
pause. Its bytes that wait, and those that move, are counters; so are what belongs to the process:
lag, memory, open connections. Times are microseconds from the beginning of the recording.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHORTEST = 1e-6  # seconds between samples for a rate: the unit of a trace's times
PROCESS = 1  # there is one only, and what is in it needs a number


class _Life:
    """Of a connection in the recording."""

    def __init__(self, number: int, peer: str, began: float) -> None:
        self.id = number
        self.peer = peer
        self.label = ""
        self.began = began
        self.paused_since: float | None = None
        self.time = began  # and bytes either way, at its last sample
        self.bytes_in = 0
        self.bytes_out = 0


class _Tracer:
    def __init__(self) -> None:
        self._lives: dict[int, _Life] = {}
        self._now = 0.0

    def events(self, recording: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        name = "minireactor"
        for found in recording:
            if found["type"] == "recording":
                name = str(found.get("command") or name)
                continue
            self._now = max(self._now, found["time"])
            if found["type"] == "sample":
                yield from self._sample(found)
            else:
                yield from self._event(found)
        for life in list(self._lives.values()):
            yield from self._end(life, "still open at the end of the recording")
        yield self._name("process_name", 0, name)

    def _life(self, number: int, peer: str) -> _Life:
        life = self._lives.get(number)
        if life is None:
            life = self._lives[number] = _Life(number, peer, self._now)
        return life

    def _event(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        life = self._life(event["id"], event["peer"])
        kind = event["event"]
        if kind == "pause":
            if life.paused_since is None:
                life.paused_since = self._now
        elif kind == "resume":
            yield from self._end_pause(life)
        elif kind == "lost":
            yield from self._end(life, str(event.get("reason", "")))

    def _end_pause(self, life: _Life) -> Iterator[dict[str, Any]]:
        if life.paused_since is not None:
            yield self._slice("paused", life.id, life.paused_since)
            life.paused_since = None

    def _end(self, life: _Life, reason: str) -> Iterator[dict[str, Any]]:
        yield from self._end_pause(life)
        name = f"{life.peer} {life.label}".rstrip()
        yield self._slice(name, life.id, life.began, reason=reason)
        yield self._name("thread_name", life.id, f"#{life.id} {life.peer}")
        del self._lives[life.id]

    def _sample(self, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
        totals = sample["totals"]
        yield self._counter("connections", 0, open=totals["open"])
        yield self._counter("lag", 0, ms=round(sample["lag"] * 1000, 3))
        if sample["memory"] is not None:
            yield self._counter("memory", 0, bytes=sample["memory"])
        for row in sample["connections"]:
            if row["state"] != "closed":
                yield from self._row(row)

    def _row(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        life = self._life(row["id"], row["peer"])
        life.label = row["label"]
        if row["producer"] != "paused":
            # The recording has left out a resume, or its producer has gone.
            yield from self._end_pause(life)
        waiting = {"pending": row["pending"], "kernel": row["sendq"] or 0}
        yield self._counter(f"#{life.id} waiting", life.id, **waiting)
        passed = self._now - life.time
        if passed >= SHORTEST:
            rates = {
                "in": round((row["in"] - life.bytes_in) / passed),
                "out": round((row["out"] - life.bytes_out) / passed),
            }
            yield self._counter(f"#{life.id} bytes/s", life.id, **rates)
        life.time, life.bytes_in, life.bytes_out = self._now, row["in"], row["out"]

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
    """The trace events of a recording, as `record.read` gives it; in no order of time."""
    return _Tracer().events(recording)


def write_trace(recording: Iterable[dict[str, Any]], out: IO[str]) -> int:
    """Write a trace file, as it is read; the number of events in it. OSError, RecordingError."""
    count = 0
    out.write('{"displayTimeUnit":"ms","traceEvents":[')
    for event in trace_events(recording):
        out.write(",\n" if count else "\n")
        out.write(json.dumps(event, separators=(",", ":")))
        count += 1
    out.write("\n]}\n")
    return count
