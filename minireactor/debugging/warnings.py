"""The warnings of the debug mode: one line each, each kind at most once in WARN_SECONDS."""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any, Callable

from minireactor import log
from minireactor.failure import safe_repr
from minireactor.log import WARN_SECONDS

MAX_KINDS = 1000  # pairs of kind and place that are remembered

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Warnings:
    """Logs warnings. Warnings of one kind about one place are counted for WARN_SECONDS."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._kinds: dict[tuple[str, str], list[float]] = {}  # [end of counting, count]

    def warn(self, kind: str, place: str, text: str) -> None:
        """Log `kind: text`, or count it if this kind was logged for this place a moment ago."""
        now = self._seconds()
        noted = self._kinds.get((kind, place))
        if noted is not None and now < noted[0]:
            noted[1] += 1
            return
        if noted is not None and noted[1]:
            text += f" ({noted[1]:.0f} more since the last warning)"
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind, place] = [now + WARN_SECONDS, 0]
        line = " ".join(text.split())
        log.logger.warning("debug: %s: %s", kind, line)

    def warn_here(self, kind: str, text: str) -> None:
        """Warn about the place of the program that has called this package."""
        place = _caller()
        self.warn(kind, place, f"{text}, at {place}")


def place_of(function: Any) -> str:
    """Return the name and the place of a function or method, as `name (file:line)`."""
    function = _unwrapped(function)
    code = _code_of(function)
    name = getattr(function, "__qualname__", None) or safe_repr(function)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def file_of(function: Any) -> str:
    """Return the file that defines a function or method; "" if the function has no code."""
    code = _code_of(_unwrapped(function))
    return "" if code is None else str(code.co_filename)


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _code_of(function: Any) -> Any:
    code = getattr(function, "__code__", None)
    # An object with __call__ has its code there.
    return code or getattr(function.__call__, "__code__", None)


def is_ours(file: str) -> bool:
    """Return whether a file of code belongs to the reactor, and not to a program that uses it."""
    return file.startswith(_PACKAGE) and not file.startswith(
        (_PACKAGE + "lessons" + os.sep, _PACKAGE + "examples" + os.sep)
    )


def _caller() -> str:
    """Return the latest call outside this package as `file:line in name`, or the first inside."""
    at: Any = sys._getframe(1)
    last = at
    while at is not None and is_ours(at.f_code.co_filename):
        last, at = at, at.f_back
    at = at or last
    return f"{at.f_code.co_filename}:{at.f_lineno} in {at.f_code.co_name}"
