"""The log of a process: its formats, its lines with time and level, and its repeated warnings.

A line has a time in UTC, with milliseconds, and a level:

    2026-11-26T20:13:03.123Z WARNING target 10.0.0.7:80 is down: Connection refused
    {"time":"2026-11-26T20:13:03.123Z","level":"WARNING","pid":421,"message":"..."}

A format makes lines, and LogHandler passes the records of `logging` through a format. Only
`visible()` decides which characters a line contains, so no text of a peer can look like a line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Callable

from minireactor.view.output import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT = 4000  # characters of a message or a field
MAX_EXCEPTION = 16_000  # characters of a traceback: some 200 lines
REPEAT_SECONDS = 10.0  # for which repetitions of a record are counted at first, and not printed
MAX_REPEAT_SECONDS = 60.0  # as REPEAT_SECONDS, after it has doubled with each count
MAX_REPEATED = 100  # different records that are remembered for this count

_NO_FIELDS: dict[str, Any] = {}
_TAB = "\t"
_LINES = "\t\n"


class TextFormat:
    """Makes lines for people: time, level and message. Leaves the fields out.

    A traceback follows its line and is indented. `now` returns the seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._second = (-1, "")  # the latest second, and its text

    def line(
        self,
        level: str,
        message: str,
        fields: Mapping[str, Any] = _NO_FIELDS,
        exception: str = "",
    ) -> str:
        """Return a line of the log, which ends with a line feed.

        fields: what the message is about, by name; the values are texts, numbers or None.
        exception: a traceback of several lines, or ""."""
        text = f"{self._time()} {visible(level)} {_one_line(message)}\n"
        if exception:
            lines = _bounded(exception, MAX_EXCEPTION).split("\n")
            text += "".join(f"  {visible(line, keep=_TAB)}\n" for line in lines)
        return text

    def dropped(self, count: int) -> bytes:
        """Return the line that is written in place of `count` dropped lines."""
        noun = "line" if count == 1 else "lines"
        return self.line("WARNING", f"{count:,} {noun} dropped", {"dropped": count}).encode()

    def _time(self) -> str:
        second, milliseconds = divmod(int(self._now() * 1000), 1000)
        if self._second[0] != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{self._second[1]}.{milliseconds:03d}Z"


class JsonFormat(TextFormat):
    """Makes lines for programs: each is one JSON object in ASCII.

    The names are time, level, pid and message, those of the fields, and exception. Several
    processes may share a log; pid is the number of the process."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        import json

        super().__init__(now)
        # ASCII is valid in each encoding that standard output may have. One encoder for all lines:
        # json.dumps() would make one for each.
        self._encode = json.JSONEncoder(separators=(",", ":")).encode

    def line(
        self,
        level: str,
        message: str,
        fields: Mapping[str, Any] = _NO_FIELDS,
        exception: str = "",
    ) -> str:
        line = {
            "time": self._time(),
            "level": visible(level),
            "pid": os.getpid(),
            "message": _one_line(message),
        }
        for name, value in fields.items():
            line[name] = _one_line(value) if isinstance(value, str) else value
        if exception:
            line["exception"] = visible(_bounded(exception, MAX_EXCEPTION), keep=_LINES)
        return self._encode(line) + "\n"


FORMATS: dict[str, type[TextFormat]] = {"text": TextFormat, "json": JsonFormat}


def _one_line(text: str) -> str:
    return visible(_bounded(text, MAX_TEXT))


def _bounded(text: str, limit: int) -> str:
    """Return a text of about `limit` characters at most: of a longer one, its two ends."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... {len(text) - 2 * half:,} characters left out ... {text[-half:]}"


class LogHandler(logging.Handler):
    """Writes the records of `logging` as lines of the log; never raises.

    A record that repeats an earlier one within REPEAT_SECONDS is only counted. After that time, the
    count is written with the next record, by write_counts(), or by close(). Then the time doubles,
    up to MAX_REPEAT_SECONDS, until the record has stayed away for that long. Two records are the
    same if only numbers among their arguments differ, or if one exception came from one place. A
    record whose attribute `uncounted` is true is always written.

    lines: makes a line of each record.
    write: called with each line; without it, lines go to the sys.stderr of that moment.
    seconds: a clock that only runs forward.
    later: called as `later(seconds, call)`; makes the call after that time. Without it, a count
        waits for the next record.
    """

    def __init__(
        self,
        lines: TextFormat | None = None,
        write: Callable[[str], object] | None = None,
        seconds: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        super().__init__()
        self._lines = lines or TextFormat()
        self._write = write or _write_to_stderr
        self._seconds = seconds
        self._later = later
        self._repeated: dict[tuple[str, ...], _Repeated] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = _message_of(record)
            fields = _NO_FIELDS if record.name == "minireactor" else {"logger": record.name}
            now = self._seconds()
            self._report(now)
            if getattr(record, "uncounted", False):
                self._write(self._lines.line(record.levelname, message, fields))
                return
            key = _key_of(record, message)
            known = self._repeated.get(key)
            if known is not None and now < known.end:
                known.count += 1
                known.latest = record.levelname, message, fields
                if known.count == 1 and self._later is not None:
                    self._later(known.end - now, self.write_counts)
                return
            if known is not None:
                known.restart(now)
            else:
                while len(self._repeated) >= MAX_REPEATED:
                    self._forget(next(iter(self._repeated)), now)
                self._repeated[key] = _Repeated(now)
            text = _traceback_of(record)
            self._write(self._lines.line(record.levelname, message, fields, text))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # A logging handler has nowhere to report its own failure.
            return

    def write_counts(self) -> None:
        """Write the counts that are due."""
        self.acquire()
        try:
            self._report(self._seconds())
        finally:
            self.release()

    def _report(self, now: float) -> None:
        """Write the counts that are due. Forget the records that have stayed away."""
        for key, known in list(self._repeated.items()):
            if known.end <= now and known.count:
                self._write_count(known, now)
            elif known.end + known.seconds <= now:
                del self._repeated[key]

    def _forget(self, key: tuple[str, ...], now: float) -> None:
        known = self._repeated.pop(key)
        if known.count:
            self._write_count(known, now)

    def _write_count(self, known: _Repeated, now: float) -> None:
        level, message, fields = known.latest
        times = "1 time" if known.count == 1 else f"{known.count:,} times"
        message = f"{message[:MAX_TEXT]} (repeated {times} in {now - known.begin:.0f} s)"
        fields = {**fields, "repeated": known.count}
        self._write(self._lines.line(level, message, fields))
        known.restart(now)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for key in list(self._repeated):
                self._forget(key, self._seconds())
        super().close()


class _Repeated:
    """How often a record was repeated since its last line, and until when it is only counted."""

    def __init__(self, now: float) -> None:
        self.seconds = REPEAT_SECONDS
        self.begin, self.end = now, now + self.seconds
        self.count = 0
        self.latest: tuple[str, str, dict[str, Any]] = "", "", _NO_FIELDS

    def restart(self, now: float) -> None:
        self.seconds = min(2 * self.seconds, MAX_REPEAT_SECONDS)
        self.begin, self.end = now, now + self.seconds
        self.count = 0


def _key_of(record: logging.LogRecord, message: str) -> tuple[str, ...]:
    """Return what is equal for two records of which the second one tells nothing new."""
    key = (record.name, record.levelname)
    if record.exc_info and record.exc_info[1] is not None:
        kind, error, at = record.exc_info
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        if at is not None:  # else the message alone says where the exception came from
            place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
            return (*key, place, f"{kind}: {error}")
    if isinstance(record.msg, str) and isinstance(record.args, tuple):
        words = [str(arg) for arg in record.args if not isinstance(arg, (int, float))]
        return (*key, record.msg, *words)
    return (*key, message)


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return f"{record.msg!r} cannot be formatted: {type(error).__name__}"


def _traceback_of(record: logging.LogRecord) -> str:
    """Return the traceback and the stack of a record as lines, or ""."""
    found = []
    if record.exc_info and record.exc_info[1] is not None:
        found.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        found.append(record.stack_info)
    return "\n".join(found)


def _write_to_stderr(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line)
        sys.stderr.flush()
