"""Wake a sleeping loop from other threads and from signals. Keep loops apart after a fork.

A child process inherits the descriptors of its parent's loops. If the child used these descriptors,
parent and child would take each other's events. So in the child, each open loop forgets them.

After a fork, close() alone no longer ends a connection of the parent. The kernel ends a connection
when the last descriptor of its socket is closed, and the child has a descriptor as well. See
close_socket() and is_shared().
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import weakref
from typing import Any, Callable, NoReturn

from minireactor.core.handler import Handler
from minireactor.core.system import SYSTEM, System

_DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)


class Waker(Handler):
    """Two connected sockets. A byte sent through one makes the other readable, and the poll ends.

    Any thread and any signal handler may send that byte."""

    __slots__ = ("_inside", "_outside", "_wake_sent")

    comes_first = True
    internal = True

    def __init__(self, system: System = SYSTEM) -> None:
        self._inside, self._outside = system.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        super().__init__(self._inside.fileno())
        self.reading = True
        self._wake_sent = False

    def wake_threadsafe(self) -> None:
        """End the poll that the loop waits in, or the next one."""
        if self._wake_sent:
            return
        self._wake_sent = True
        try:
            self._outside.send(b"\0")
        except OSError:
            pass  # the buffer is full, so the loop is about to wake; or the loop has been closed

    def doRead(self) -> None:
        try:
            self._inside.recv(4096)
        except BlockingIOError:
            pass
        # Clear the flag after reading. The other order loses a wake-up: a thread could set the flag
        # and send its byte, we would read that byte, and the flag would stay set. A thread that
        # finds the flag still set needs no byte: the next loop iteration is about to begin.
        self._wake_sent = False

    def close(self) -> None:
        self._inside.close()
        self._outside.close()

    def take_signals(self, on_signal: Callable[[int, Any], None] | None) -> Callable[[], None]:
        """Let signals wake the loop. Return a function that restores the state before.

        on_signal: called for SIGINT, SIGTERM and SIGBREAK, if given. A handler that the program has
            set itself stays in force, and an ignored signal stays ignored.

        Does nothing outside the main thread: only the main thread gets signals."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        # Without this, a signal that comes just before the poll is noticed only after the poll.
        before_fd = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        taken = {}
        if on_signal is not None:
            for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) in _DEFAULT_HANDLERS:
                    taken[number] = signal.signal(number, on_signal)

        def undo() -> None:
            signal.set_wakeup_fd(before_fd)
            for number, handler in taken.items():
                if signal.getsignal(number) is on_signal:
                    signal.signal(number, handler)

        return undo


open_loops: weakref.WeakSet[Any] = weakref.WeakSet()

_forked = False

# Programs and tests may replace the name in `socket`.
_KERNEL_SOCKET = socket.socket


class AfterFork:
    """Replaces the poller of a loop in a child process. Every call raises RuntimeError."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def _refuse(self, *args: Any, **kw: Any) -> NoReturn:
        raise RuntimeError(
            f"this reactor belongs to process {self._parent}, and a fork cannot share it; "
            "make a new one with minireactor.Reactor()"
        )

    watch = forget = poll = close = _refuse


def is_shared(sock: socket.socket) -> bool:
    """Return whether a child of this process may share a socket.

    A socket that is not the kernel's belongs to this process alone."""
    return _forked and isinstance(sock, _KERNEL_SOCKET)


def close_socket(sock: socket.socket) -> None:
    """Close a socket so that its peer notices at once, even if a child shares the socket: rule T4.

    The parent shuts the socket down first, which ends the connection for all its descriptors."""
    if _forked and is_shared(sock):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the socket has ended already, or was not connected
    sock.close()


def _in_parent() -> None:
    global _forked
    _forked = _forked or bool(open_loops)


def _in_child() -> None:
    global _forked
    _forked = False
    for loop in list(open_loops):
        loop.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_in_parent, after_in_child=_in_child)
