"""In which order handlers are served while more are ready than an iteration has time for.

Usually an iteration serves all that are ready, in any order. When there is no time for that, a
newcomer must not wait behind all the others, and nobody must wait for ever. So ports and the waker,
whose work is short, come first. The others form two queues:

- those that have not been served since the loop fell behind. The one that became ready last and the
  one that has waited longest take turns;
- those that have been served since then and are ready again. One of them, the one that was served
  longest ago, is served after SERVED_EVERY - 1 of the first queue.

Turns go on from one iteration to the next. So nobody starves, even if an iteration has time for one
handler only and brings another newcomer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from minireactor.core.handler import Handler

    Events = list[tuple[int, int]]  # (descriptor, events)

# How long timers wait for input that the loop does not get to. Ten thousand clients whose input
# has come during a stall are served within that time.
LATE_SECONDS = 0.2
# Less often, a client with a request after each answer would wait behind all newcomers of a flood.
# More often, those that are always ready would delay those that have waited for their first turn.
SERVED_EVERY = 8
# Handlers that take turns in one iteration: more than it has time for, at 3 us each. With 10,000
# that are ready, ordering all of them would take longer than serving some.
MAX_ORDERED = 1500


class Backlog:
    """What the loop has not got to, from the moment at which it fell behind until it has caught up.

    now: that moment."""

    __slots__ = ("_ports", "_served", "_since", "_turns", "_waiting")

    def __init__(self, now: float) -> None:
        # Descriptors, in order: as they became ready, and as they were served last.
        self._waiting: dict[int, None] = {}
        self._served: dict[int, None] = {}
        self._since = now
        self._turns = 0  # taken since that moment
        self._ports = 0  # and the waker, in the events that in_order() returned last

    def add(self, ready: Events, rest: Events) -> None:
        """An iteration has served what was `ready`, but for the `rest` at its end."""
        count = len(ready) - len(rest)
        self._turns += max(0, count - self._ports)
        for fd, _ in ready[:count]:
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
        self._ports = len(first)
        waiting = deque([fd for fd in self._waiting if fd in events])
        served = deque([fd for fd in self._served if fd in events])
        order = first
        turn = self._turns
        while waiting and len(order) < MAX_ORDERED:
            turn += 1
            if served and turn % SERVED_EVERY == 0:
                order.append(served.popleft())
            else:
                order.append(waiting.popleft() if turn % 2 else waiting.pop())
        order += waiting
        order += served
        return [(fd, events[fd]) for fd in order]

    def is_late(self, now: float) -> bool:
        """Return whether timers have waited long enough for input that is not delivered."""
        return now - self._since >= LATE_SECONDS
