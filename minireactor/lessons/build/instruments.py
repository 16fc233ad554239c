"""What stands between a learner's reactor and the system: a clock, and a counter of wake-ups."""

from __future__ import annotations

import contextlib
import select
import selectors
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable

monotonic = time.monotonic  # the real clock, for the checks themselves


class Clock:
    """Stands between a reactor and the clocks of `time`, so that a check can change the time."""

    def __init__(self) -> None:
        self._change: Callable[[float], float] = _unchanged

    def install(self) -> None:
        """Replace the clocks. Has to come before a learner's file is imported."""
        for name in ("monotonic", "time", "perf_counter"):
            setattr(time, name, self._stand_in(getattr(time, name)))

    def _stand_in(self, real: Callable[[], float]) -> Callable[[], float]:
        return lambda: self._change(real())

    @contextlib.contextmanager
    def changed(self, change: Callable[[float], float]) -> Iterator[None]:
        """Let reactors see `change(seconds)` as the time, inside this context."""
        self._change = change
        try:
            yield
        finally:
            self._change = _unchanged


def _unchanged(seconds: float) -> float:
    return seconds


clock = Clock()
wake_ups: Counter[threading.Thread] = Counter()  # by thread, since count_wake_ups()


def count_wake_ups() -> None:
    """Count each return of select() from now on, for all selectors and for select.select."""
    for name in ("Epoll", "Kqueue", "Devpoll", "Poll", "Select"):
        kind: Any = getattr(selectors, f"{name}Selector", None)
        if kind is not None and "select" in vars(kind):
            kind.select = _counting(kind.select)
    select.select = _counting(select.select)


def _counting(wait: Callable[..., Any]) -> Callable[..., Any]:
    def counting(*args: Any, **names: Any) -> Any:
        ready = wait(*args, **names)
        wake_ups[threading.current_thread()] += 1
        return ready

    return counting
