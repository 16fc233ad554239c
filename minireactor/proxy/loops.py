"""Detect that a target of a proxy is the proxy itself.

A ring through other proxies is detected in `hops`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from minireactor.address import from_sockaddr

if TYPE_CHECKING:
    import socket

    from minireactor.address import Address
    from minireactor.transports.connection import Connection


class Origin(Protocol):
    """The part of a `Proxy` that the detector needs."""

    client: Connection
    outgoing: tuple[tuple[str, int], ...]

    def came_back(self) -> None: ...


class LoopDetector:
    """Detect that a target is the proxy itself, whatever form its address has.

    asks_sockets: take a client's addresses from its socket, because getPeer() and getHost() return
        those of a PROXY header.

    Both ends of a connection from the proxy to itself are in this process, with the same two
    addresses. The detector notes the outgoing end when it begins to connect. An accepted connection
    with the same addresses must be the other end."""

    def __init__(self) -> None:
        self.asks_sockets = False
        self._outgoing: dict[tuple[str, int], tuple[Origin, socket.socket]] = {}

    def add(self, proxy: Origin, sock: socket.socket, address: Any) -> None:
        """Note a socket that has begun to connect, if the target's port number is the proxy's."""
        try:
            if address[1] != self._ends(proxy.client)[0].port:
                return
            place = _comparable(sock.getsockname())
        except OSError:  # the attempt has failed at once, or the client's socket has
            return
        self._outgoing[place] = proxy, sock
        proxy.outgoing += (place,)

    def origin(self, client: Connection) -> Origin | None:
        """Return the proxy that has made this client's connection, or None."""
        if not self._outgoing:
            return None
        try:
            host, peer = self._ends(client)
            found = self._outgoing.get(_comparable((peer.host, peer.port)))
            if found is None:
                return None
            proxy, sock = found
            there = _comparable(sock.getpeername())
        except OSError:  # the socket has been closed
            return None
        # A system may give the same port number to two sockets with different peers.
        return proxy if there == _comparable((host.host, host.port)) else None

    def _ends(self, client: Connection) -> tuple[Address, Address]:
        """Return the addresses of our end and of the client's. Raises OSError."""
        if not self.asks_sockets:
            return client.getHost(), client.getPeer()
        sock = client.socket
        return from_sockaddr(sock.getsockname()), from_sockaddr(sock.getpeername())

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
