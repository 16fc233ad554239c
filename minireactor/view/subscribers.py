"""Those that a monitor calls with each event."""

from __future__ import annotations

from typing import Any, Callable

from minireactor import log

Event = dict[str, Any]
Subscriber = Callable[[Event], object]


class Subscribers:
    """Calls each subscriber with each event. One that raises is logged and removed."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` from now on. Return a callable that ends this; it is idempotent."""
        self._subscribers.append(subscriber)
        return lambda: self._remove(subscriber)

    def _remove(self, subscriber: Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def clear(self) -> None:
        """Remove all subscribers."""
        self._subscribers.clear()

    def notify(self, event: Event) -> None:
        """Call each subscriber with a copy of the event."""
        for subscriber in self._subscribers.copy():
            try:
                subscriber({**event})
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                log.err(None, f"{subscriber!r}, a subscriber of a monitor, failed and is removed")
                self._remove(subscriber)
