"""Keepalive: have the system ask whether a silent peer is still there."""

from __future__ import annotations

import contextlib
import socket

PROBES = 4  # unanswered ones that end the connection
MAX_SECONDS = 32767  # what Linux takes

# macOS has its own name for the first.
_IDLE = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)


def set_keepalive(sock: socket.socket, seconds: int) -> None:
    """Probe a peer after `seconds` of silence, then at intervals of a quarter of that.

    So a dead peer is found after twice the time. On a listening socket, Linux and the BSDs hand
    the options on to each connection. A system that has no such option keeps its own times."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (_IDLE, seconds),
        (getattr(socket, "TCP_KEEPINTVL", None), max(1, seconds // PROBES)),
        (getattr(socket, "TCP_KEEPCNT", None), PROBES),
    ):
        if option is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
