"""What the kernel holds of a connection, in either direction, where it tells."""

from __future__ import annotations

import sys
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]


def send_queue(sock: Any) -> int | None:
    """Bytes that were sent through `sock`, a descriptor or anything with a fileno(), and that its
    peer's system has not acknowledged; Linux counts the end of the stream as one. None: cannot
    tell, as of a socket that is closed."""
    return _queue(sock, "TIOCOUTQ")


def receive_queue(sock: Any) -> int | None:
    """Bytes that have come in and nobody has read; None: cannot tell."""
    return _queue(sock, "FIONREAD")


def _queue(sock: Any, request: str) -> int | None:
    try:
        answer = fcntl.ioctl(sock, getattr(termios, request), b"\0" * 4)
    except (AttributeError, OSError, ValueError):  # the last of a socket that is closed
        return None
    return int.from_bytes(answer, sys.byteorder, signed=True)
