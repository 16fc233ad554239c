"""A connected socket: its addresses, options, lifecycle and closing."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

from minireactor.address import from_sockaddr
from minireactor.core.handler import Handler
from minireactor.core.waker import close_socket, is_shared
from minireactor.transports import lifecycle
from minireactor.transports.closing import Lingering
from minireactor.transports.lifecycle import CLOSED, OPEN

if TYPE_CHECKING:
    from minireactor.address import Address
    from minireactor.core.loop import Loop

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Endpoint(Handler):
    """Our end of a connection: the socket, and the protocol whose transport it is."""

    __slots__ = (
        "__dict__",  # programs set attributes of their own on a transport, or replace its methods
        "_host",
        "_peer",
        "_state",
        "protocol",
        "reactor",
        "socket",
    )

    def __init__(
        self,
        reactor: Loop,
        sock: socket.socket,
        peer: Address,
        host: Address | None = None,
    ) -> None:
        super().__init__(sock.fileno())
        self.reactor = reactor
        self.socket = sock
        self.protocol: Any = None
        self._peer = peer
        self._host = host
        self._state = OPEN

    def getPeer(self) -> Address:
        """Return the peer's numeric address, also after the connection has ended."""
        return self._peer

    def getHost(self) -> Address:
        """Return the address of our end, also after the connection has ended."""
        if self._host is None:
            self._host = from_sockaddr(self.socket.getsockname())
        return self._host

    def getHandle(self) -> socket.socket:
        """Return the socket, which is closed by the time of the protocol's connectionLost."""
        return self.socket

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        if self.protocol is None:
            return type(self).__name__
        prefix = getattr(self.protocol, "logPrefix", None)
        return prefix() if prefix else type(self.protocol).__name__

    def is_half_closeable(self) -> bool:
        """Return whether the protocol handles the end of each direction by itself."""
        protocol = self.protocol
        return hasattr(protocol, "readConnectionLost") and hasattr(protocol, "writeConnectionLost")

    # The lifecycle: see `lifecycle`.

    def _fire(self, event: str) -> bool:
        """Change the state as the table says; return whether the new state is another one."""
        before = self._state
        self._state = lifecycle.TRANSITIONS[before, event]
        return self._state is not before

    @property
    def state(self) -> str:
        """The state in a word: "open", "closing", "ending" or "closed"."""
        return self._state.public_name

    @property
    def write_ended(self) -> bool:
        """Whether write() takes no data any more: our side, or the connection, has ended."""
        return self._state.write_ended

    @property
    def finishing(self) -> bool:
        """Whether an end waits until nothing is pending and no producer is registered (E5)."""
        return self._state.finishes

    @property
    def connected(self) -> bool:
        return self._state is not CLOSED

    @property
    def disconnected(self) -> bool:
        return self._state is CLOSED

    def close_socket(self, reset: bool, linger: bool) -> None:
        """Close the socket: with a reset, or gracefully.

        With `linger`, the reactor waits in the background until the sent data has arrived."""
        try:
            if self._host is None:
                self.getHost()  # remembers the address for calls after the close
            if reset:
                reset_on_close(self.socket)
            elif linger:
                Lingering.take_over(self.reactor, self.socket)
        except OSError:
            pass  # the application has closed the socket itself, or the peer has gone
        close_socket(self.socket)


def reset_on_close(sock: socket.socket) -> None:
    """Make the next close of `sock` send a reset. Raises OSError if `sock` is closed already."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    # Rule T4: if a child has the socket too, close() alone would send nothing.
    if is_shared(sock) and sys.platform == "linux":
        _disconnect(sock)


def _disconnect(sock: socket.socket) -> None:
    """Send a reset, even though another process has the socket too.

    After a shutdown() the peer would see EOF and take truncated data for complete data. Linux sends
    a reset when a socket is connected to the address family AF_UNSPEC, which is 0. The `socket`
    module cannot pass such an address."""
    try:
        import ctypes  # slow to import, and seldom needed
    except ImportError:
        return  # some builds of Python lack ctypes: the peer then sees EOF
    ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16)
