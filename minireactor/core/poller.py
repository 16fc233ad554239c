"""Readiness, from the standard library's `selectors`, level-triggered.

Facts about epoll that the loop depends on:

- A descriptor that was registered with no events at all is still watched: its hang-up and its
  errors are reported whatever the mask. That is how a connection that neither reads nor writes
  learns that its peer has gone. Reported again and again: whoever is told must act, or `disarm`.
- Closing a descriptor removes it silently, and its number may be a new socket's a moment later.
  So `forget` takes it calmly when there is nothing left to forget.
- `selectors` makes a key object for each registration and a tuple for each event, and hides
  events outside READ and WRITE. `EpollPoller` does neither.

Other systems get `Poller`, over whatever `selectors.DefaultSelector` is there. `select` and
`kqueue` report nothing for a descriptor without events, so it looks at those itself, every
`LOOK_SECONDS`, with `select.poll` where there is one.
"""

from __future__ import annotations

import select
import selectors
import time
from typing import Any

READ = 1
WRITE = 4
HANGUP = 8 | 16  # an error, or both directions closed; never asked for, always reported
LOOK_SECONDS = 2.0


class Poller:
    """(descriptor, events) pairs over any selector of the standard library."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._silent: Any = select.poll() if hasattr(select, "poll") else None
        self._silent_fds: set[int] = set()
        self._looked = 0.0

    def watch(self, fd: int, events: int, before: int | None) -> None:
        """Report `events` of `fd` from now on; `before` is what it was, None if not watched."""
        mask = (selectors.EVENT_READ if events & READ else 0) | (
            selectors.EVENT_WRITE if events & WRITE else 0
        )
        if before and mask:
            self._selector.modify(fd, mask)
        elif mask:
            self._selector.register(fd, mask)
        elif before:
            self._selector.unregister(fd)
        if mask:
            self._silent_fds.discard(fd)
        else:
            self._silent_fds.add(fd)

    def forget(self, fd: int, before: int) -> None:
        self._silent_fds.discard(fd)
        try:
            if before:
                self._selector.unregister(fd)
        except KeyError:
            pass  # a failed `watch` has removed it

    def poll(self, timeout: float, most: int = -1) -> list[tuple[int, int]]:
        """What is ready, after `timeout` seconds at the latest; more than `most`, if so it is: of
        what one call leaves out, only epoll sees to it that the next begins with that."""
        looking = self._silent_fds and self._silent is not None
        if looking:
            timeout = min(timeout, LOOK_SECONDS)
        ready = [
            (
                key.fd,
                (READ if mask & selectors.EVENT_READ else 0)
                | (WRITE if mask & selectors.EVENT_WRITE else 0),
            )
            for key, mask in self._select(timeout)
        ]
        if looking and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            ready += self._look()
        return ready

    def _select(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return self._selector.select(timeout)
        except OSError:
            # One descriptor that was closed behind our back, and select() serves nobody. Whoever
            # owns it finds out by using it.
            closed = [key for key in self._selector.get_map().values() if _is_closed(key.fd)]
            if not closed:
                raise
            return [(key, key.events) for key in closed]

    def _look(self) -> list[tuple[int, int]]:
        for fd in self._silent_fds:
            self._silent.register(fd, 0)
        gone = [(fd, HANGUP) for fd, _ in self._silent.poll(0)]
        for fd in self._silent_fds:
            self._silent.unregister(fd)
        return gone

    def close(self) -> None:
        self._selector.close()


def _is_closed(fd: int) -> bool:
    try:
        select.select([fd], [], [], 0)
    except OSError:
        return True
    return False


if hasattr(selectors, "EpollSelector"):

    class EpollPoller(selectors.EpollSelector):
        """The same over epoll, whose own event bits READ, WRITE and HANGUP are."""

        def __init__(self) -> None:
            super().__init__()
            self._epoll: Any = self._selector  # type: ignore[attr-defined]
            self.poll = self._epoll.poll

        def watch(self, fd: int, events: int, before: int | None) -> None:
            if before is None:
                self._epoll.register(fd, events)
            else:
                self._epoll.modify(fd, events)

        def forget(self, fd: int, before: int) -> None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass


def default_poller() -> Any:
    """The best poller of this system. It owns a descriptor: close() it."""
    return EpollPoller() if "EpollPoller" in globals() else Poller(selectors.DefaultSelector())
