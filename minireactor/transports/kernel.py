"""What the kernel holds of a connection: how to ask, and how to bound what waits to be sent.

A send buffer grows to some 4 MB for a peer that does not read, sixty times the usual high mark.
TCP_NOTSENT_LOWAT bounds the part of it that is *unsent*, which the peer's window or the network
does not take. Measured with 300 clients that ask for 10^9 integers and read nothing, on loopback:
1,187 MB and 26 s of work to fill without it, 55 MB and 1.8 s at 128 KiB.

A peer that reads fast pays for a bound with more wake-ups: 60 % more CPU for one bulk stream on
loopback, and still 40 % at 1 MiB. So the bound is lifted for a peer that has proved fast, and put
back when that peer has kept us waiting: see UnsentLimit.
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


# None where the system has no such limit. Python for some systems lacks the name.
_OPTION: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", {"linux": 25, "darwin": 0x201}.get(sys.platform)
)
_UNLIMITED = 2**31 - 1  # bytes
SMALLEST_LIMIT = 16 * 1024  # bytes; with less, even a slow network would have to wait for us
QUICK_SECONDS = 0.01  # for half the limit: 6 MB/s at the usual marks
SLOW_SECONDS = 0.25  # for a third of a full send buffer of 4 MB
QUICK_TIMES = 8  # in a row, until the limit is lifted


def unsent_limit_for(high: int) -> int:
    """Return the limit that goes with a high mark: twice as much, both in bytes."""
    return max(2 * high, SMALLEST_LIMIT)


def limit_unsent(sock: socket.socket, limit: int) -> None:
    """Let the kernel hold about `limit` bytes unsent for `sock`; 0: no limit.

    A listening socket hands its limit on to the connections that it accepts. Does nothing where
    the system has no such limit."""
    try:
        if _OPTION is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _OPTION, min(limit or _UNLIMITED, _UNLIMITED))
    except OSError:
        pass  # closed, or not TCP


def unsent_limit(sock: socket.socket) -> int:
    """Return the limit in force for `sock`, in bytes; 0 if there is none."""
    try:
        limit = 0 if _OPTION is None else sock.getsockopt(socket.IPPROTO_TCP, _OPTION)
    except OSError:
        return 0
    return 0 if limit in (-1, _UNLIMITED) else limit


class UnsentLimit:
    """Lifts the limit of one socket while its peer reads fast. Grammar of the calls:

    (filled  emptied)*

    Times are seconds of one clock. Does nothing for a socket without a limit."""

    __slots__ = ("_filled_at", "_limit", "_quick", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._limit = unsent_limit(sock)
        self._filled_at = 0.0
        self._quick = 0

    def filled(self, now: float) -> None:
        """The kernel takes no more."""
        self._filled_at = now

    def emptied(self, now: float) -> None:
        """The kernel has room again."""
        if not self._limit:
            return
        waited = now - self._filled_at
        if self._quick == QUICK_TIMES:
            if waited >= SLOW_SECONDS:
                self._put_back()
        elif waited >= QUICK_SECONDS:
            self._quick = 0
        else:
            self._quick += 1
            if self._quick == QUICK_TIMES:
                limit_unsent(self._sock, 0)

    def change(self, limit: int) -> None:
        """Set another limit, unless the socket is to have none."""
        if self._limit:
            self._limit = limit
            self._put_back()

    def _put_back(self) -> None:
        self._quick = 0
        limit_unsent(self._sock, self._limit)


def send_queue(sock: Any) -> int | None:
    """Return how many bytes sent through `sock` the peer's system has not acknowledged.

    sock: a descriptor, or anything with a fileno(). Linux counts the end of the stream as one byte.
    Returns None if the system cannot tell, for instance because the socket is closed."""
    return _queue(sock, "TIOCOUTQ")


def receive_queue(sock: Any) -> int | None:
    """Return how many bytes have arrived and have not been read, or None as for send_queue()."""
    return _queue(sock, "FIONREAD")


def _queue(sock: Any, request: str) -> int | None:
    try:
        answer = fcntl.ioctl(sock, getattr(termios, request), b"\0" * 4)
    except (AttributeError, OSError, ValueError):  # a closed socket gives ValueError
        return None
    return int.from_bytes(answer, sys.byteorder, signed=True)
