"""A connected socket: what can be asked of it, and set, whatever the state of the connection."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

from minireactor.address import IPv4Address, IPv6Address, from_sockaddr
from minireactor.core.handler import Handler
from minireactor.core.waker import has_forked
from minireactor.transports.closing import Lingering

if TYPE_CHECKING:
    from minireactor.core.loop import Loop

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Endpoint(Handler):
    """Our end of a connection, and the protocol that it is the transport of."""

    __slots__ = (
        *("reactor", "socket", "protocol", "_peer", "_host"),
        "__dict__",  # programs keep things of their own on a transport, or replace its methods
    )

    def __init__(
        self,
        reactor: Loop,
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
        if self.protocol is None:
            return type(self).__name__
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

    def is_half_closeable(self) -> bool:
        """Whether the protocol is to be told of the end of each direction."""
        protocol = self.protocol
        return hasattr(protocol, "readConnectionLost") and hasattr(protocol, "writeConnectionLost")

    def close_socket(self, reset: bool, linger: bool) -> None:
        """Close the socket: with a reset, or gracefully; with `linger`, wait in the background
        until the sent data has arrived."""
        try:
            self.getHost()  # keeps the address, for calls after the end
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            elif linger:
                Lingering.take_over(self.reactor, self.socket)
            if has_forked():  # rule T4: the peer hears of a close() only after the child's
                if reset and sys.platform == "linux":
                    _disconnect(self.socket)
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the application has closed the handle itself, or the peer has gone
        self.socket.close()


def _disconnect(sock: socket.socket) -> None:
    """Send a reset, although another process has the socket as well.

    After shutdown() the peer would see an orderly end, and take what it has for the whole. Linux
    sends a reset when a socket is connected to the address family AF_UNSPEC, which is 0; the
    `socket` module has no way to say that."""
    try:
        import ctypes  # slow to import, and seldom needed
    except ImportError:
        return  # some builds of Python are without it: the peer sees an end of the stream
    ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16)
