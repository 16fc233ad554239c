"""A connected socket: what can be asked of it, and set, whatever the state of the connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from minireactor.address import IPv4Address, IPv6Address, from_sockaddr
from minireactor.handler import Handler

if TYPE_CHECKING:
    from minireactor.internet import Reactor


class Endpoint(Handler):
    """Our end of a connection, and the protocol that it is the transport of."""

    __slots__ = (
        *("reactor", "socket", "protocol", "_peer", "_host"),
        "__dict__",  # programs keep things of their own on a transport, or replace its methods
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        peer: IPv4Address | IPv6Address,
        host: IPv4Address | IPv6Address | None = None,
    ) -> None:
        super().__init__(sock.fileno())
        self.reactor = reactor
        self.socket = sock
        self.protocol: Any = None
        self._peer = peer
        self._host = host

    def getPeer(self) -> IPv4Address | IPv6Address:
        """The peer's address, in numbers; also after the end."""
        return self._peer

    def getHost(self) -> IPv4Address | IPv6Address:
        """Our end's address; also after the end."""
        if self._host is None:
            self._host = from_sockaddr(self.socket.getsockname())
        return self._host

    def getHandle(self) -> socket.socket:
        """The socket. It is closed when the protocol's connectionLost is called."""
        return self.socket

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        prefix = getattr(self.protocol, "logPrefix", None)
        return prefix() if prefix else type(self.protocol).__name__

    def getTcpNoDelay(self) -> bool:
        return bool(self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, bool(enabled))

    def getTcpKeepAlive(self) -> bool:
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(enabled))
