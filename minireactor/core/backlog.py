"""The order of the handlers while more of them are ready than an iteration has time for.

Usually an iteration serves all handlers that are ready, and their order does not matter. The loop
is *behind* when an iteration has no time for that. Then a new connection must not wait for all the
others, and no handler must wait for ever.

So ports and the waker come first: their work is short. The other handlers form two queues:

- *waiting*: handlers that have not been served since the loop fell behind. The handler that became
  ready last and the handler that has waited longest take turns.
- *served*: handlers that have been served since then, and are ready again. After SERVED_EVERY - 1
  handlers of the first queue comes one of these, the one that was served longest ago.

The next iteration goes on with the turn at which this one has stopped. So no handler starves, even
if each iteration has time for one handler only and brings a new connection.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from minireactor.core.handler import Handler

    Events = list[tuple[int, int]]  # (descriptor, events)

# How long timers wait for input while the loop is behind. Within this time, the loop serves ten
# thousand clients whose input has arrived during a stall.
LATE_SECONDS = 0.2
# With a larger number, a client that sends a request after each answer would wait for all new
# connections of a flood. With a smaller number, handlers that are always ready would delay those
# that wait to be served for the first time.
SERVED_EVERY = 8
# Handlers that one iteration puts in order, at 3 us each. An iteration has no time for more: if
# 10,000 are ready, ordering all of them would take longer than serving some of them.
MAX_ORDERED = 1500


class Backlog:
    """The handlers that wait, from the time when the loop falls behind until it has caught up.

    now: the time when it fell behind.
    """

    __slots__ = ("_ports", "_served", "_since", "_turns", "_waiting")

    def __init__(self, now: float) -> None:
        # Descriptors. The first is ordered by when they became ready, the second by when they were
        # last served.
        self._waiting: dict[int, None] = {}
        self._served: dict[int, None] = {}
        self._since = now
        self._turns = 0  # turns taken since the loop fell behind
        self._ports = 0  # ports and wakers at the start of what in_order() returned last

    def add(self, ready: Events, rest: Events) -> None:
        """Count the handlers of `ready` as served, except the `rest` at its end."""
        count = len(ready) - len(rest)
        self._turns += max(0, count - self._ports)
        for fd, _ in ready[:count]:
            self.forget((fd,))
            self._served[fd] = None
        for fd, _ in rest:
            if fd not in self._served:
                self._waiting[fd] = None

    def forget(self, descriptors: Iterable[int]) -> None:
        """Forget these descriptors, which now belong to new connections."""
        for fd in descriptors:
            self._waiting.pop(fd, None)
            self._served.pop(fd, None)

    def in_order(self, ready: Events, handlers: dict[int, Handler]) -> Events:
        """Return the events in the order in which the loop is to dispatch them."""
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
        """Return whether the timers have waited for LATE_SECONDS, and must run before the input."""
        return now - self._since >= LATE_SECONDS
