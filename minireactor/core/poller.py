"""Which descriptors are ready: the design of the standard library's `selectors`, level-triggered.

A poller keeps a table of descriptors and of the events that each of them waits for, as a selector
does. `SelectorPoller` works on any system, over `selectors.DefaultSelector`. Linux gets
`EpollPoller`, which does over `select.epoll` what `selectors.EpollSelector` does, without an object
for each registration and for each event.

Facts about epoll that the loop depends on:

- epoll still watches a descriptor that is registered with no events: it always reports a hang-up
  or an error. A connection that neither reads nor writes thus learns that its peer has gone. epoll
  repeats the report in every poll until the handler ends or is unregistered.
- Closing a descriptor removes it from epoll, and no event reports this. The kernel may give the
  number to the next socket. So `forget` ignores a descriptor that epoll no longer knows.
- `selectors` makes a key object for each registration and a tuple for each event, and hides all
  events but READ and WRITE. `EpollPoller` does neither, so HANGUP reaches the loop.

`select` and `kqueue` report nothing for a descriptor without events. So `SelectorPoller` checks
such descriptors itself, with `select.poll` where the system has it, every `LOOK_SECONDS`.
"""

from __future__ import annotations

import select
import selectors
import time
from typing import TYPE_CHECKING

# The values of epoll's own bits.
READ = 1
WRITE = 4
HANGUP = 8 | 16  # an error, or both directions closed; always reported, cannot be asked for
LOOK_SECONDS = 2.0  # between two checks of the descriptors that are watched without events

if TYPE_CHECKING:  # making the class would take 30 us of the start
    from typing import Protocol

    class Poller(Protocol):
        """What the loop needs to know which descriptors are ready."""

        def watch(self, fd: int, events: int, before: int | None, /) -> None:
            """Report these events of `fd` from now on, in place of `before`.

            before: the events that were given last time; None if `fd` is not watched yet.
            Raises OSError if the system cannot watch `fd`."""

        def forget(self, fd: int, before: int, /) -> None:
            """Stop watching `fd`. Does nothing if `fd` has been closed already."""

        def poll(self, timeout: float, limit: int, /) -> list[tuple[int, int]]:
            """Return (descriptor, events) of what is ready; wait at most `timeout` seconds.

            May return more than `limit`: only epoll guarantees that the next call starts with what
            this one left out."""

        def close(self) -> None:
            """Close the poller's own descriptor. Those that it watches stay open."""


class SelectorPoller:
    """A Poller over any selector of the standard library."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._hangups = select.poll() if hasattr(select, "poll") else None
        self._without_events: set[int] = set()  # descriptors
        self._last_look = 0.0

    def watch(self, fd: int, events: int, before: int | None) -> None:
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
            self._without_events.discard(fd)
        else:
            self._without_events.add(fd)

    def forget(self, fd: int, before: int) -> None:
        self._without_events.discard(fd)
        try:
            if before:
                self._selector.unregister(fd)
        except KeyError:
            pass  # a `watch` that failed has removed it

    def poll(self, timeout: float, limit: int = -1) -> list[tuple[int, int]]:
        hangups = self._hangups if self._without_events else None
        if hangups is not None:
            timeout = min(timeout, LOOK_SECONDS)
        ready = [
            (
                key.fd,
                (READ if mask & selectors.EVENT_READ else 0)
                | (WRITE if mask & selectors.EVENT_WRITE else 0),
            )
            for key, mask in self._select(timeout)
        ]
        if hangups is not None and time.monotonic() - self._last_look >= LOOK_SECONDS:
            self._last_look = time.monotonic()
            ready += self._hung_up(hangups)
        return ready

    def _select(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return self._selector.select(timeout)
        except OSError:
            # select() fails for all descriptors if the application has closed one that is still
            # registered. Report that one as ready: its handler finds the error by using it.
            closed = [key for key in self._selector.get_map().values() if _is_closed(key.fd)]
            if not closed:
                raise
            return [(key, key.events) for key in closed]

    def _hung_up(self, hangups: select.poll) -> list[tuple[int, int]]:
        """Return the descriptors without events that have hung up."""
        for fd in self._without_events:
            hangups.register(fd, 0)
        gone = [(fd, HANGUP) for fd, _ in hangups.poll(0)]
        for fd in self._without_events:
            hangups.unregister(fd)
        return gone

    def close(self) -> None:
        self._selector.close()


def _is_closed(fd: int) -> bool:
    try:
        select.select([fd], [], [], 0)
    except OSError:
        return True
    return False


class EpollPoller:
    """A Poller over epoll. READ, WRITE and HANGUP have the values of epoll's own bits."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.poll = self._epoll.poll  # called once an iteration: no method in between

    def watch(self, fd: int, events: int, before: int | None) -> None:
        if before is None:
            self._epoll.register(fd, events)
        else:
            self._epoll.modify(fd, events)

    def forget(self, fd: int, before: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # closing the descriptor has removed it

    def close(self) -> None:
        self._epoll.close()


def default_poller() -> Poller:
    """Return the best poller of this system. The poller owns a descriptor: close() it."""
    if hasattr(select, "epoll"):
        return EpollPoller()
    return SelectorPoller(selectors.DefaultSelector())
