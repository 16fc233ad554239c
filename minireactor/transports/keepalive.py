"""TCP keepalive: the kernel probes a silent peer, and so finds a dead one."""

from __future__ import annotations

import socket
from functools import lru_cache

PROBES = 9  # unanswered probes that end a connection, by the default settings of the system
MAX_SECONDS = 32767  # the most that Linux accepts

# macOS calls the first option TCP_KEEPALIVE.
_IDLE = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
_INTERVAL = getattr(socket, "TCP_KEEPINTVL", None)


def set_keepalive(sock: socket.socket, seconds: int) -> None:
    """Have the kernel probe the peer after `seconds` of silence, then every `seconds / 9`.

    A dead peer is thus found after about `2 * seconds`. On Linux and the BSDs, accepted
    connections inherit the options of a listening socket. If the system lacks an option, its own
    time stays in force. Does nothing if the socket is closed."""
    try:
        for level, option, value in _options(seconds):
            sock.setsockopt(level, option, value)
    except OSError:
        pass  # the socket is closed, or this kernel does not know the option


@lru_cache(maxsize=8)  # a proxy sets the same options on each of its connections
def _options(seconds: int) -> list[tuple[int, int, int]]:
    times = ((_IDLE, seconds), (_INTERVAL, max(1, seconds // PROBES)))
    options = [(int(socket.IPPROTO_TCP), name, value) for name, value in times if name is not None]
    return [(int(socket.SOL_SOCKET), int(socket.SO_KEEPALIVE), 1), *options]
