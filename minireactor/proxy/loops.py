"""Detect that a target of a proxy is the proxy itself.

A ring through other proxies is detected in `hops`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket

    from minireactor.transports.connection import Connection


class Origin(Protocol):
    """The part of a `Proxy` that the detector needs."""

    client: Connection
    outgoing: tuple[tuple[str, int], ...]

    def came_back(self) -> None: ...


class LoopDetector:
    """Detect that a target is the proxy itself, whatever form its address has.

    Both ends of a connection from the proxy to itself are in this process, with the same two
    addresses. The detector notes the outgoing end when it begins to connect. An accepted connection
    with the same addresses must be the other end."""

    def __init__(self) -> None:
        self._outgoing: dict[tuple[str, int], tuple[Origin, socket.socket]] = {}

    def add(self, proxy: Origin, sock: socket.socket, address: Any) -> None:
        """Note a socket that has begun to connect, if the target's port number is the proxy's."""
        if address[1] != proxy.client.getHost().port:
            return
        with contextlib.suppress(OSError):  # the attempt has failed at once
            place = _comparable(sock.getsockname())
            self._outgoing[place] = proxy, sock
            proxy.outgoing += (place,)

    def origin(self, client: Connection) -> Origin | None:
        """Return the proxy that has made this client's connection, or None."""
        if not self._outgoing:
            return None
        peer, host = client.getPeer(), client.getHost()
        found = self._outgoing.get(_comparable((peer.host, peer.port)))
        if found is None:
            return None
        proxy, sock = found
        try:
            there = _comparable(sock.getpeername())
        except OSError:  # the socket has been closed
            return None
        # A system may give the same port number to two sockets with different peers.
        return proxy if there == _comparable((host.host, host.port)) else None

    def forget(self, proxy: Origin) -> None:
        """Remove the outgoing sockets of a proxy that has ended."""
        for place in proxy.outgoing:
            if place in self._outgoing and self._outgoing[place][0] is proxy:
                del self._outgoing[place]


def _comparable(address: Any) -> tuple[str, int]:
    """Return host and port, the host as IPv4 if it is an IPv4 address in IPv6 form.

    A port that serves both IPv6 and IPv4 reports 127.0.0.1 as ::ffff:127.0.0.1."""
    host, port = address[:2]
    mapped = host.startswith("::ffff:") and "." in host
    return host.rpartition(":")[2] if mapped else host, port
