"""Waking a loop that sleeps, from other threads and from signals; and what a fork must not share.

A child process inherits the descriptors of its parent's loops: if it went on with them, both would
take each other's events. So in the child, each open loop disowns what it has.

In the parent, close() alone ends no connection any more: the kernel closes a socket when its last
descriptor is closed, and the child has one as well. See close_socket() and has_forked().
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import weakref
from typing import Any, Callable, NoReturn

from minireactor.core.handler import Handler

_BY_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


class Waker(Handler):
    """A socket to oneself: a byte into it ends the wait, from any thread or signal handler."""

    __slots__ = ("_asked", "_inside", "_outside")

    comes_first = True
    hidden = True

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        super().__init__(self._inside.fileno())
        self.reading = True
        self._asked = False

    def wake_threadsafe(self) -> None:
        if self._asked:
            return
        self._asked = True
        try:
            self._outside.send(b"\0")
        except OSError:
            pass  # full, so the loop is about to wake; or closed, so there is none to wake

    def doRead(self) -> None:
        try:
            self._inside.recv(4096)
        except BlockingIOError:
            pass
        # Last of all. Who asks until here sends no byte, and needs none: the next pass is about
        # to begin. Were it the first line, the byte of one who asks in between would be taken
        # out with the flag left up, and nobody would send another, ever.
        self._asked = False

    def close(self) -> None:
        self._inside.close()
        self._outside.close()

    def take_signals(self, on_signal: Callable[[int, Any], None] | None) -> Callable[[], None]:
        """Let signals wake the loop and, if `on_signal`, let SIGINT and SIGTERM call that.

        A handler that the program has set itself stays, and an ignored signal stays ignored.
        Returns what undoes it. Only the main thread gets signals: in others, nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        # Without this, a signal that comes just before the loop sleeps is noticed when it wakes.
        before_fd = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        taken = {}
        if on_signal is not None:
            for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) in _BY_DEFAULT:
                    taken[number] = signal.signal(number, on_signal)

        def undo() -> None:
            signal.set_wakeup_fd(before_fd)
            for number, handler in taken.items():
                if signal.getsignal(number) is on_signal:
                    signal.signal(number, handler)

        return undo


open_loops: weakref.WeakSet[Any] = weakref.WeakSet()

_forked = False


class AfterFork:
    """Stands in for the poller in a child process."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def _refuse(self, *args: Any, **kw: Any) -> NoReturn:
        raise RuntimeError(
            f"this reactor belongs to process {self._parent}, and a fork cannot share it; "
            "make a new one with minireactor.Reactor()"
        )

    watch = forget = poll = close = _refuse


def has_forked() -> bool:
    """Return whether a child of this process may share the sockets of a loop."""
    return _forked


def close_socket(sock: socket.socket) -> None:
    """Close a socket for its peer as well, at once, even if a child has it too: rule T4."""
    if _forked:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already, or was not connected
    sock.close()


def _in_parent() -> None:
    global _forked
    _forked = _forked or bool(open_loops)


def _in_child() -> None:
    global _forked
    _forked = False
    for loop in list(open_loops):
        loop.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_in_parent, after_in_child=_in_child)
