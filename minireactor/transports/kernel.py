"""The kernel's queues of a connection: how to measure them, and how to limit unsent data.

The kernel's send buffer grows to about 4 MB if the peer does not read: sixty times the default
high watermark. TCP_NOTSENT_LOWAT limits the *unsent* part of the send buffer, which is
what neither the peer's window nor the network accepts yet. Measured on loopback, with 300 clients
that ask for 10^9 integers and read nothing: without the limit, 1,187 MB and 26 s of CPU time to
fill the buffers; with a limit of 128 KiB, 55 MB and 1.8 s.

For a peer that reads fast, the limit causes more wake-ups. One bulk stream on loopback costs 60 %
more CPU at 128 KiB, and still 40 % more at 1 MiB. UnsentLimit therefore lifts the limit once a
peer has proved fast, and restores it when that peer becomes slow.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]


# The option's number; None if the system has no such option. Some builds of Python lack the name.
NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", {"linux": 25, "darwin": 0x201}.get(sys.platform)
)
_UNLIMITED = 2**31 - 1  # bytes
SMALLEST_LIMIT = 16 * 1024  # bytes; with fewer, even a slow network would wait for our next send
# A peer is fast if half the limit drains within this time: 6 MB/s with the default marks.
QUICK_SECONDS = 0.01
# A peer is slow if a third of a full send buffer of 4 MB takes this long to drain.
SLOW_SECONDS = 0.25
QUICK_TIMES = 8  # fast drains in a row that lift the limit


def unsent_limit_for(high: int) -> int:
    """Return the unsent limit for a high mark: twice the mark, in bytes, or SMALLEST_LIMIT."""
    return max(2 * high, SMALLEST_LIMIT)


def limit_unsent(sock: socket.socket, limit: int) -> None:
    """Limit the unsent data in the kernel's buffer of `sock` to about `limit` bytes; 0: no limit.

    Accepted connections inherit the limit of a listening socket. Does nothing if the system has no
    such limit, or if the socket is closed or not TCP."""
    try:
        if NOTSENT_LOWAT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, min(limit or _UNLIMITED, _UNLIMITED))
    except OSError:
        pass  # the socket is closed, or not TCP


def unsent_limit(sock: socket.socket) -> int:
    """Return the unsent limit in force for `sock`, in bytes; 0 if there is none."""
    try:
        limit = 0 if NOTSENT_LOWAT is None else sock.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT)
    except OSError:
        return 0
    return 0 if limit in (-1, _UNLIMITED) else limit


class UnsentLimit:
    """Lifts the unsent limit of one socket while its peer reads fast. Grammar of the calls:

    (filled  emptied)*

    All times are seconds of the same clock. Does nothing for a socket without a limit.

    filled_at: the time of the last call of filled()."""

    __slots__ = ("_limit", "_quick", "_sock", "filled_at")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._limit = unsent_limit(sock)
        self.filled_at = 0.0
        self._quick = 0

    def filled(self, now: float) -> None:
        """Note that the kernel's buffer is full."""
        self.filled_at = now

    def emptied(self, now: float) -> None:
        """Note that the kernel's buffer has room again; lift or restore the limit."""
        if not self._limit:
            return
        waited = now - self.filled_at
        if self._quick == QUICK_TIMES:
            if waited >= SLOW_SECONDS:
                self._restore()
        elif waited >= QUICK_SECONDS:
            self._quick = 0
        else:
            self._quick += 1
            if self._quick == QUICK_TIMES:
                limit_unsent(self._sock, 0)

    def change(self, limit: int) -> None:
        """Set another limit, in bytes. Does nothing if the socket has no limit."""
        if self._limit:
            self._limit = limit
            self._restore()

    def _restore(self) -> None:
        self._quick = 0
        limit_unsent(self._sock, self._limit)


def send_queue(sock: Any) -> int | None:
    """Return how many bytes sent through `sock` the peer's system has not acknowledged yet.

    sock: any object with a fileno(). A socket that is not the kernel's has a method of the same
        name instead, which is called. Linux counts EOF as one byte.
    Returns None if the system cannot tell, for instance because the socket is closed."""
    return sock.send_queue() if hasattr(sock, "send_queue") else _queue(sock, "TIOCOUTQ")


def receive_queue(sock: Any) -> int | None:
    """Return how many bytes have arrived and have not been read yet.

    Takes the same argument as send_queue(), and returns None in the same cases."""
    return sock.receive_queue() if hasattr(sock, "receive_queue") else _queue(sock, "FIONREAD")


def _queue(sock: Any, request: str) -> int | None:
    try:
        answer = fcntl.ioctl(sock, getattr(termios, request), b"\0" * 4)
    except (AttributeError, OSError, ValueError):  # a closed socket gives ValueError
        return None
    return int.from_bytes(answer, sys.byteorder, signed=True)
