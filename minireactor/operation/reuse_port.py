"""Listen at a place where other processes may listen too: SO_REUSEPORT.

Each process has a queue of its own for new clients, and the system chooses a queue for each client.
A process that closes its socket resets the clients in its queue. So accept_waiting() empties the
queue before. A client whose handshake ends between these two steps is still reset. Linux can move
such a client to another process instead (sysctl net.ipv4.tcp_migrate_req=1).
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from minireactor.core.system import System
from minireactor.error import CannotListenError
from minireactor.transports.port import BACKLOG
from minireactor.transports.tcp import bound_sockets

if TYPE_CHECKING:
    from minireactor.transports.port import Port


class ReusingSystem(System):
    """Makes listening sockets that let other sockets listen at the same place."""

    def listening_socket(self, family: int, kind: int, proto: int) -> socket.socket:
        sock = super().listening_socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return sock


def is_supported() -> bool:
    """Return whether this system lets several processes listen at the same place."""
    return hasattr(socket, "SO_REUSEPORT")


def reusing_sockets(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets on all addresses of a host. Raises CannotListenError."""
    try:
        return bound_sockets(ReusingSystem(), host, port, BACKLOG)
    except (OSError, OverflowError, ValueError) as error:
        raise CannotListenError(host, port, error) from None


def accept_waiting(port: Port) -> None:
    """Accept the clients that wait in the queues of a port, as far as its factory lets them in."""
    for listener in port.listeners():
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        for _ in range(BACKLOG):
            if not listener.reading or not poll.poll(0):
                break
            port.accept_from(listener)
