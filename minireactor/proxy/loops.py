"""Find out that a target of a proxy is the proxy itself."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket

    from minireactor.transports.tcp import Connection


class Origin(Protocol):
    """What the detector needs of a `Proxy`."""

    client: Any
    outgoing: tuple[tuple[str, int], ...]

    def came_back(self) -> None: ...


class LoopDetector:
    """Finds out that a target is the proxy itself, however its address was written.

    A connection of the proxy to itself has two ends here, which have the same two addresses. The
    end that leads to the target is known first: from the moment in which it begins to connect."""

    def __init__(self) -> None:
        self._outgoing: dict[tuple[str, int], tuple[Origin, socket.socket]] = {}

    def add(self, proxy: Origin, sock: socket.socket, address: Any) -> None:
        """Note a socket that has begun to connect to a port of the proxy's own number."""
        if address[1] != proxy.client.getHost().port:
            return
        with contextlib.suppress(OSError):  # it has failed at once
            place = _comparable(sock.getsockname())
            self._outgoing[place] = proxy, sock
            proxy.outgoing += (place,)

    def origin(self, client: Connection) -> Origin | None:
        """Return the proxy whose connection to a target this client is, if there is one."""
        if not self._outgoing:
            return None
        peer, host = client.getPeer(), client.getHost()
        found = self._outgoing.get(_comparable((peer.host, peer.port)))
        if found is None:
            return None
        proxy, sock = found
        try:
            there = _comparable(sock.getpeername())
        except OSError:  # it has been closed
            return None
        # A system may give one port number to two sockets whose peers are different.
        return proxy if there == _comparable((host.host, host.port)) else None

    def forget(self, proxy: Origin) -> None:
        for place in proxy.outgoing:
            if place in self._outgoing and self._outgoing[place][0] is proxy:
                del self._outgoing[place]


def _comparable(address: Any) -> tuple[str, int]:
    """Return host and port; a port for both IPv6 and IPv4 writes 127.0.0.1 as ::ffff:127.0.0.1."""
    host, port = address[:2]
    mapped = host.startswith("::ffff:") and "." in host
    return host.rpartition(":")[2] if mapped else host, port
