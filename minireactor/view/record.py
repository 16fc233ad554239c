"""Recordings: what a monitor gives, a JSON object a line.

The first line says what it is, the others are samples and events as in `monitor`, in the order of
their times:

    {"type": "recording", "version": 1, "program": "minireactor 0.1.0",
     "started": "2026-01-31T12:00:00Z", "command": "minireactor serve echo"}

A line {"type": "dropped", "lines": 7} stands where the file took lines more slowly than they came.

A connection may be paused and resumed a thousand times a second. Of such a one, only the first
MOST_PAUSES between two samples are in the recording; the samples count all of them.
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
from minireactor.view.monitor import Monitor
from minireactor.view.output import FLUSH_SECONDS, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minireactor.internet import Reactor
    from minireactor.transports.tcp import Connection

VERSION = 1
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_FLAGS |= getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)  # POSIX, Windows
INTERVAL = 0.25  # seconds between samples
MAX_QUEUED = 4 * 1024 * 1024  # bytes that wait for a slow disk; 50 seconds of full samples
MOST_PAUSES = 20  # of one connection, between two samples
MOST_DIGITS = 30  # of a number; marks may be given with 20, and M behind them
MOST_DEPTH = 20  # lists and objects inside each other; a sample has four
MOST_LINE = 4 * 1024 * 1024  # bytes; a sample has some 300 for each of 50 connections


class RecordingError(Exception):
    """It is no recording, or a damaged one; says where in one line."""


class Recorder:
    """Writes a recording of `reactor` to the file at `path`, which it makes or empties. OSError.

    A file that cannot be written to any more ends the recording, with a warning, and nothing else.
    A file that is slow, or a FIFO that nobody reads, never makes the loop wait: lines are dropped.
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
        # A FIFO without a reader takes longer. What comes until then is queued.
        self._writer.open(FLUSH_SECONDS)
        self._lines: list[str] = []
        self._pauses: dict[int, int] = {}  # by connection, since the last sample
        self._left_out: set[int] = set()  # connections whose latest pause is not in it
        self._note(
            {
                "type": "recording",
                "version": VERSION,
                "program": f"minireactor {__version__}",
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "command": command,
            }
        )
        self._monitor = Monitor(reactor, label=label)
        self._monitor.subscribe(self._hear)
        self._timer = reactor.call_later_internal(0, self._sample)

    def close(self) -> None:
        """Take a last sample and close the file. Idempotent."""
        if not self._open:
            return
        self._note(self._monitor.sample())
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

    def _hear(self, event: dict[str, Any]) -> None:
        number = event["id"]
        if event["event"] == "pause":
            pauses = self._pauses[number] = self._pauses.get(number, 0) + 1
            if pauses > MOST_PAUSES:
                self._left_out.add(number)
                return
            self._left_out.discard(number)
        elif event["event"] == "resume" and number in self._left_out:
            return
        elif event["event"] == "lost":
            self._left_out.discard(number)
        self._note(event)

    def _sample(self) -> None:
        self._timer = self._reactor.call_later_internal(INTERVAL, self._sample)
        self._pauses.clear()
        self._note(self._monitor.sample())
        self._write()

    def _note(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, separators=(",", ":")))

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            if not self._writer.put(f"{line}\n".encode()):
                self._end()
                return


def _dropped(lines: int) -> bytes:
    return b'{"type":"dropped","lines":%d}\n' % lines


def read(path: str) -> Iterator[dict[str, Any]]:
    """Its lines: the first, then samples and events. OSError, RecordingError.

    A last line that was cut off in the middle is left out, and so are types that are not known."""
    with open(path, "rb") as file:
        first = _parsed(file.readline(MOST_LINE + 1), f"{path}, line 1")
        if first.get("type") != "recording":
            raise RecordingError(f"{path} is no recording; one comes from: serve --record FILE")
        if first.get("version") != VERSION:
            raise RecordingError(
                f"{path} has version {first.get('version')!r:.40}, and only {VERSION} is known here"
            )
        yield first
        for number in count(2):
            line = file.readline(MOST_LINE + 1)
            if not line.endswith(b"\n") and len(line) <= MOST_LINE:
                return
            where = f"{path}, line {number}"
            found = _parsed(line, where)
            shape = _SHAPES.get(str(found.get("type")))
            if shape is not None:
                if not shape(found):
                    raise RecordingError(f"{where}: no complete {found['type']}: {_cut(line)}")
                yield found


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MOST_LINE:
        raise RecordingError(f"{where}: longer than {MOST_LINE} bytes: {_cut(line)}")
    try:
        # To look at each number would take longer than to read the line.
        integer = _integer if _LONG.search(line) else None
        found = json.loads(
            line, parse_int=integer, parse_float=_reasonable, parse_constant=_reasonable
        )
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RecordingError(f"{where}: no JSON object: {_cut(line)}")
    if line.count(b"[") + line.count(b"{") > MOST_DEPTH and _depth(line) > MOST_DEPTH:
        raise RecordingError(f"{where}: nested deeper than {MOST_DEPTH} levels: {_cut(line)}")
    return found


def _depth(line: bytes) -> int:
    """Return how deeply the lists and objects of a line are nested.

    Python can read JSON that is nested so deeply that it cannot write it again."""
    depth = deepest = 0
    for bracket in _BRACKET.finditer(line):
        kind = bracket[0][:1]
        if kind in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif kind in b"]}":
            depth -= 1
    return deepest


def _integer(text: str) -> int:
    if len(text) <= MOST_DIGITS:
        return int(text)
    raise ValueError(text)


def _reasonable(text: str) -> float:
    number = float(text)
    if abs(number) < 1e15:
        return number
    raise ValueError(text)


def _cut(line: bytes) -> str:
    text = repr(line[:41].decode("utf-8", "replace").rstrip())
    return text if len(line) <= 40 else f"{text[:40]}..."


_BRACKET = re.compile(rb'[][{}]|"(?:[^"\\]+|\\.)*"?')  # or a text, which may contain some
_LONG = re.compile(rb"[0-9]{%d}" % MOST_DIGITS)

_NUMBER = (int, float)
_NUMBER_OR_NOT = (int, type(None))
_BYTES = {"in": int, "out": int, "pauses": int}
_TOTALS = {"connections": int, "open": int, "highest_pending": int, **_BYTES}
_REST = {"count": int, "pending": int, **_BYTES}
_ROW = {
    **dict.fromkeys(("peer", "label", "state", "producer"), str),
    **dict.fromkeys(("id", "pending", "high", "low"), int),
    "paused": _NUMBER,
    "sendq": _NUMBER_OR_NOT,
    "recvq": _NUMBER_OR_NOT,
    **_BYTES,
}
_SAMPLE = {
    "time": _NUMBER,
    "lag": _NUMBER,
    "memory": _NUMBER_OR_NOT,
    "totals": dict,
    "connections": list,
    "rest": (dict, type(None)),
}
_EVENT = {"time": _NUMBER, "event": str, "id": int, "peer": str}


def _has(found: Any, kinds: dict[str, Any]) -> bool:
    if not isinstance(found, dict):
        return False
    return all(name in found and isinstance(found[name], kind) for name, kind in kinds.items())


def _is_sample(found: dict[str, Any]) -> bool:
    return (
        _has(found, _SAMPLE)
        and _has(found["totals"], _TOTALS)
        and (found["rest"] is None or _has(found["rest"], _REST))
        and all(_has(row, _ROW) for row in found["connections"])
    )


def _is_event(found: dict[str, Any]) -> bool:
    return _has(found, _EVENT)


_SHAPES = {"sample": _is_sample, "event": _is_event}
