"""In which order handlers are served while more are ready than an iteration has time for.

Usually an iteration serves all that are ready, in any order. When there is no time for that, a
newcomer must not wait behind all the others, and nobody must wait for ever. So the order is:

1. ports and the waker, whose work is short;
2. those that have not been served since the loop fell behind: the one that became ready last, then
   the one that has waited longest, and so on in turn;
3. those that have been served since then and are ready again: the one served last comes last.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from minireactor.handler import Handler

    Events = list[tuple[int, int]]  # (descriptor, events)

# How long timers wait for input that the loop does not get to. Ten thousand clients whose input
# has come during a stall are served within that time.
LATE_SECONDS = 0.2


class Backlog:
    """What the loop has not got to, from the moment at which it fell behind until it has caught up.

    now: that moment."""

    __slots__ = ("_served", "_since", "_waiting")

    def __init__(self, now: float) -> None:
        # Descriptors, in order: as they became ready, and as they were served last.
        self._waiting: dict[int, None] = {}
        self._served: dict[int, None] = {}
        self._since = now

    def add(self, ready: Events, rest: Events) -> None:
        """An iteration has served what was `ready`, but for the `rest` at its end."""
        for fd, _ in ready[: len(ready) - len(rest)]:
            self.forget((fd,))
            self._served[fd] = None
        for fd, _ in rest:
            if fd not in self._served:
                self._waiting[fd] = None

    def forget(self, descriptors: Iterable[int]) -> None:
        """Take them for those of newcomers."""
        for fd in descriptors:
            self._waiting.pop(fd, None)
            self._served.pop(fd, None)

    def in_order(self, ready: Events, handlers: dict[int, Handler]) -> Events:
        """Return the events in the order in which they are to be dispatched."""
        events = dict(ready)
        first = [fd for fd in events if fd in handlers and handlers[fd].comes_first]
        for fd in events:
            if fd not in self._served:
                self._waiting.setdefault(fd)
        self.forget(first)
        waiting = deque(fd for fd in self._waiting if fd in events)
        turns = []
        while waiting:
            turns.append(waiting.pop())
            if waiting:
                turns.append(waiting.popleft())
        served = [fd for fd in self._served if fd in events]
        return [(fd, events[fd]) for fd in (*first, *turns, *served)]

    def is_late(self, now: float) -> bool:
        """Return whether timers have waited long enough for input that is not delivered."""
        return now - self._since >= LATE_SECONDS
