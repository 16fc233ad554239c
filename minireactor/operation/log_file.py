"""The file of a log, which is opened again after it has been renamed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable

from minireactor.view.output import Writer

if TYPE_CHECKING:
    from minireactor.operation.logs import TextFormat

# Bytes that wait for a slow disk. A proxy writes 1 MB/s with 6,000 connections a second.
MAX_QUEUED = 4 * 1024 * 1024

# Several processes may append to one file: each write is whole lines.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOCTTY", 0)


class LogFile:
    """Appends lines to the file `path`, from a thread. The caller never waits.

    A new file is not readable for everybody: addresses of peers are in it, and that of a dashboard.

    lines: the format, for the line in place of lines that were dropped.
    on_error: called in that thread with a text when the file cannot be opened again, and when
        writing begins to fail.
    """

    def __init__(
        self, path: str, lines: TextFormat, on_error: Callable[[str], object] = lambda text: None
    ) -> None:
        self.path = os.path.abspath(path)  # the program may change its folder
        self._on_error = on_error
        self._writer = Writer(
            self._opened, limit=MAX_QUEUED, note=lines.dropped, on_error=self._failed
        )

    def _opened(self) -> int:
        return os.open(self.path, _FLAGS, 0o640)

    def open(self) -> bool:
        """Open the file. Return False if that takes long, such as a FIFO that nobody reads.

        Raises OSError if the file cannot be opened."""
        return self._writer.open()

    def write(self, line: str) -> None:
        """Queue a line, which ends with a line feed. Count it if the queue is full."""
        self._writer.put(line.encode("utf-8", "backslashreplace"))

    def reopen(self) -> None:
        """Open the file again: lines from now on go to the file that has its name by then."""
        self._writer.reopen()

    def close(self, seconds: float) -> str:
        """Write what is queued, for `seconds` at most. Return what is missing as a text, or ""."""
        lost = self._writer.close(seconds)
        return f"the log {self.path} lacks its last lines: {lost:,}" if lost else ""

    def _failed(self, error: OSError, is_from_open: bool) -> None:
        if is_from_open:
            text = f"the log {self.path} cannot be opened again: {error.strerror}"
            self._on_error(f"{text}; the old file stays in use")
        else:
            text = f"the log {self.path} cannot be written: {error.strerror}"
            self._on_error(f"{text}; lines are dropped until it can")
