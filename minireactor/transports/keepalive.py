"""Keepalive: have the system ask whether a silent peer is still there."""

from __future__ import annotations

import socket
from functools import lru_cache

PROBES = 9  # unanswered ones end the connection, if nobody has changed the system's settings
MAX_SECONDS = 32767  # what Linux takes

# macOS has its own name for the first.
_IDLE = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
_INTERVAL = getattr(socket, "TCP_KEEPINTVL", None)


def set_keepalive(sock: socket.socket, seconds: int) -> None:
    """Probe a peer after `seconds` of silence, then at intervals of a ninth of that.

    So a dead peer is found after about twice the time. On a listening socket, Linux and the BSDs
    hand the options on to each connection. A system that lacks an option keeps its own times."""
    try:
        for level, option, value in _options(seconds):
            sock.setsockopt(level, option, value)
    except OSError:
        pass  # it is closed, or the system has the name and not the option


@lru_cache(maxsize=8)  # a proxy asks for each of its connections
def _options(seconds: int) -> list[tuple[int, int, int]]:
    times = ((_IDLE, seconds), (_INTERVAL, max(1, seconds // PROBES)))
    options = [(int(socket.IPPROTO_TCP), name, value) for name, value in times if name is not None]
    return [(int(socket.SOL_SOCKET), int(socket.SO_KEEPALIVE), 1), *options]
