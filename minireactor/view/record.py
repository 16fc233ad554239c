"""Recordings: the samples and events of a monitor in a file, one JSON object a line.

The first line describes the recording. Then follow samples and events as in `monitor`, in the order
of their times:

    {"type": "recording", "version": 1, "program": "minireactor 0.1.0",
     "started": "2026-01-31T12:00:00Z", "command": "minireactor serve echo"}

A line {"type": "dropped", "lines": 7} stands in place of lines that were dropped because the file
accepted them too slowly.

A connection may pause and resume a thousand times a second. The recording has only its first
MAX_PAUSES pauses between two samples; the samples count all of them.
"""

from __future__ import annotations

import json
import os
import re
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from minireactor import __version__
from minireactor.log import logger
from minireactor.view.monitor import open_monitor
from minireactor.view.output import FLUSH_SECONDS, Writer
from minireactor.view.targets import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection

VERSION = 1
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_FLAGS |= getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)  # POSIX, Windows
INTERVAL = 0.25  # seconds between samples
MAX_QUEUED = 4 * 1024 * 1024  # bytes that wait for a slow disk: full samples of 50 seconds
MAX_PAUSES = 20  # recorded pauses of one connection between two samples
MAX_DIGITS = 30  # of an integer; --high takes 20 digits and the unit M
MAX_DEPTH = 20  # levels of nested lists and objects; a sample has four
MAX_LINE = 4 * 1024 * 1024  # bytes; a sample has about 300 for each of 50 connections


class RecordingError(Exception):
    """A file is no recording, or is damaged. The message names the place, in one line."""


class Recorder:
    """Writes a recording of `reactor` to the file at `path`. An existing file is emptied first.

    command: the command line, for the first line of the recording. label: as for a Monitor.

    Raises OSError if the file cannot be opened. If a later write fails, the recording ends with a
    warning, and the program goes on. The loop never waits for a slow file or for a FIFO that nobody
    reads: lines are dropped.
    """

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        command: str = "",
        label: Callable[[Connection], str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._writer = Writer(
            lambda: os.open(path, _FLAGS, 0o666), limit=MAX_QUEUED, note=_dropped, retry=False
        )
        self._open = True
        # Opening a FIFO without a reader takes longer. Lines are queued until it is open.
        self._writer.open(FLUSH_SECONDS)
        self._lines: list[str] = []
        self._pauses: dict[int, int] = {}  # by connection id, since the last sample
        self._left_out: set[int] = set()  # ids of connections whose last pause is not recorded
        self._add(
            {
                "type": "recording",
                "version": VERSION,
                "program": f"minireactor {__version__}",
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "command": command,
            }
        )
        self._monitor = open_monitor(reactor, label=label)
        self._monitor.subscribe(self._on_event)
        self._timer = reactor.call_later_internal(0, self._on_timer)

    def close(self) -> None:
        """Take a last sample and close the file. Idempotent."""
        if not self._open:
            return
        self._add(self._monitor.sample())
        self._write()
        self._end()

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._monitor.close()
        if self._timer.active():
            self._timer.cancel()
        lost = self._writer.close(FLUSH_SECONDS)
        if self._writer.error is not None:
            logger.warning("the recording %s ends here: %s", self._path, self._writer.error)
        elif lost:
            logger.warning("the recording %s lacks its last lines: %d", self._path, lost)

    def _on_event(self, event: dict[str, Any]) -> None:
        number = event["id"]
        if event["event"] == "pause":
            pauses = self._pauses[number] = self._pauses.get(number, 0) + 1
            if pauses > MAX_PAUSES:
                self._left_out.add(number)
                return
            self._left_out.discard(number)
        elif event["event"] == "resume" and number in self._left_out:
            return
        elif event["event"] == "lost":
            self._left_out.discard(number)
        self._add(event)

    def _on_timer(self) -> None:
        self._timer = self._reactor.call_later_internal(INTERVAL, self._on_timer)
        self._pauses.clear()
        self._add(self._monitor.sample())
        self._write()

    def _add(self, line: dict[str, Any]) -> None:
        """Add a line to those that the next _write() writes."""
        self._lines.append(json.dumps(line, separators=(",", ":")))

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            if not self._writer.put(f"{line}\n".encode()):
                self._end()
                return


def _dropped(lines: int) -> bytes:
    """Return the line that stands in place of dropped lines."""
    return b'{"type":"dropped","lines":%d}\n' % lines


def read(path: str) -> Iterator[dict[str, Any]]:
    """Return the lines of a recording, parsed: the first one, then samples and events.

    An incomplete last line is left out, and so are lines of unknown types. Each next() raises
    OSError if reading fails, or RecordingError if the file is no recording or is damaged."""
    with open(path, "rb") as file:
        first = _parse(file.readline(MAX_LINE + 1), f"{path}, line 1")
        if first.get("type") != "recording":
            raise RecordingError(f"{path} is no recording; make one with: serve --record FILE")
        if first.get("version") != VERSION:
            raise RecordingError(
                f"{path} has version {first.get('version')!r:.40}; only {VERSION} can be read"
            )
        yield first
        for number in count(2):
            line = file.readline(MAX_LINE + 1)
            if not line.endswith(b"\n") and len(line) <= MAX_LINE:
                return
            where = f"{path}, line {number}"
            found = _parse(line, where)
            is_complete = _COMPLETE.get(str(found.get("type")))
            if is_complete is not None:
                if not is_complete(found):
                    raise RecordingError(f"{where}: no complete {found['type']}: {_excerpt(line)}")
                yield found


def _parse(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise RecordingError(f"{where}: longer than {MAX_LINE} bytes: {_excerpt(line)}")
    try:
        # Checking each integer would take longer than parsing the line.
        parse_int = _parse_int if _LONG_NUMBER.search(line) else None
        found = json.loads(
            line, parse_int=parse_int, parse_float=_parse_float, parse_constant=_parse_float
        )
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RecordingError(f"{where}: no JSON object: {_excerpt(line)}")
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        raise RecordingError(f"{where}: nested deeper than {MAX_DEPTH} levels: {_excerpt(line)}")
    return found


def _depth(line: bytes) -> int:
    """Return how deeply the lists and objects of a line are nested.

    json.loads() accepts a deeper nesting than json.dumps() does."""
    depth = deepest = 0
    for bracket in _BRACKET.finditer(line):
        kind = bracket[0][:1]
        if kind in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif kind in b"]}":
            depth -= 1
    return deepest


def _parse_int(text: str) -> int:
    """Return an integer of JSON. Raises ValueError if it has too many digits."""
    if len(text) <= MAX_DIGITS:
        return int(text)
    raise ValueError(text)


def _parse_float(text: str) -> float:
    """Return a number of JSON. Raises ValueError if it is too large, infinite or NaN."""
    number = float(text)
    if abs(number) < 1e15:
        return number
    raise ValueError(text)


def _excerpt(line: bytes) -> str:
    """Return the beginning of a line for an error message."""
    text = repr(line[:41].decode("utf-8", "replace").rstrip())
    return text if len(line) <= 40 else f"{text[:40]}..."


# A bracket, or a whole string, whose brackets do not count.
_BRACKET = re.compile(rb'[][{}]|"(?:[^"\\]+|\\.)*"?')
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % MAX_DIGITS)

_NUMBER = (int, float)
_INT_OR_NULL = (int, type(None))
_COUNTERS = {"in": int, "out": int, "pauses": int}
_TOTALS = {"connections": int, "open": int, "highest_pending": int, **_COUNTERS}
_REST = {"count": int, "pending": int, **_COUNTERS}
_ROW = {
    **dict.fromkeys(("peer", "label", "state", "producer"), str),
    **dict.fromkeys(("id", "pending", "high", "low"), int),
    "paused": _NUMBER,
    "sendq": _INT_OR_NULL,
    "recvq": _INT_OR_NULL,
    **_COUNTERS,
}
_SAMPLE = {
    "time": _NUMBER,
    "lag": _NUMBER,
    "memory": _INT_OR_NULL,
    "totals": dict,
    "connections": list,
    "rest": (dict, type(None)),
}
_TARGET = {
    **dict.fromkeys(("target", "state", "reason"), str),
    **dict.fromkeys(("weight", "clients", "failures"), int),
    "backup": bool,
    "connect": (*_NUMBER, type(None)),
}
_EVENT = {"time": _NUMBER, "event": str, "id": int, "peer": str}


def _has_fields(found: Any, fields: dict[str, Any]) -> bool:
    """Return whether `found` is an object with all these fields, each of its type."""
    if not isinstance(found, dict):
        return False
    return all(name in found and isinstance(found[name], kind) for name, kind in fields.items())


def _is_target(row: Any) -> bool:
    return _has_fields(row, _TARGET) and row["state"] in STATES


def _is_sample(found: dict[str, Any]) -> bool:
    return (
        _has_fields(found, _SAMPLE)
        and _has_fields(found["totals"], _TOTALS)
        and (found["rest"] is None or _has_fields(found["rest"], _REST))
        and all(_has_fields(row, _ROW) for row in found["connections"])
        and isinstance(found.get("targets", []), list)
        and all(_is_target(row) for row in found.get("targets", []))
    )


def _is_event(found: dict[str, Any]) -> bool:
    return _has_fields(found, _EVENT)


# How to check a line of each known type.
_COMPLETE = {"sample": _is_sample, "event": _is_event}
