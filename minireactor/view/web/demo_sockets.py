"""The kernel's buffers of the demo's sockets, which the demo makes small.

Between distant machines, of which one is slow, little fits into the kernels' buffers. On loopback
these buffers take megabytes before any byte is pending.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

KIB = 1024

# Bytes. Loopback's own segments of 64 KiB would fill these buffers in leaps.
SEND_BUFFER = 16 * KIB
RECEIVE_BUFFER = 6 * KIB
SEGMENT = 1460  # the segment of an Ethernet


def limit_sending(sock: socket.socket) -> None:
    """Make the kernel's send buffer small, if the socket is still open."""
    _set_size(sock, socket.SO_SNDBUF, SEND_BUFFER)


def limit_receiving(sock: socket.socket) -> None:
    """Make the kernel's receive buffer small, if the socket is still open."""
    _set_size(sock, socket.SO_RCVBUF, RECEIVE_BUFFER)


def limit_segments(sock: Any) -> None:
    """Make the segments as small as an Ethernet's, on systems that can."""
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)


def _set_size(sock: socket.socket, which: int, size: int) -> None:
    # The connection may have ended already; connectionLost reports that.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, which, size)
