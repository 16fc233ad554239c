"""What a check says of a learner's file: what was seen, what was expected, and in which line."""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import NamedTuple

Text = tuple[str, str]  # the same in English and in Chinese


class Place(NamedTuple):
    """A line of the learner's file."""

    line: int
    code: str


class Wrong(Exception):
    """What a check has seen, and what it expected. `where` is a line of the learner's file."""

    def __init__(self, rule: str, seen: Text, expected: Text, where: Place | None = None) -> None:
        super().__init__(rule, seen, expected)
        self.rule = rule
        self.seen = seen
        self.expected = expected
        self.where = where


def describe(error: BaseException) -> str:
    """Return an exception as its last line in a traceback."""
    return "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]


def place(path: str, line: int) -> Place:
    """Return a line of the learner's file, with its code."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    return Place(line, lines[line - 1].strip() if 0 < line <= len(lines) else "")


def place_of(trace: TracebackType | None, path: str) -> Place | None:
    """Return the innermost line of the file `path` in a traceback."""
    found = [frame for frame, _ in traceback.walk_tb(trace)]
    lines = [line for _, line in traceback.walk_tb(trace)]
    for frame, line in reversed(list(zip(found, lines))):
        if os.path.realpath(frame.f_code.co_filename) == path:
            return place(path, line)
    return None
