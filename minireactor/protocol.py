"""Protocols, one for each connection; and, under the name that Twisted has them, the factories.

The grammar of the calls that a protocol receives:

    connectionMade  dataReceived*  connectionLost

A half-closeable protocol, one that has both `readConnectionLost()` and `writeConnectionLost()`,
is told in between, at most once each, which half has ended:

    connectionMade  (dataReceived* | readConnectionLost | writeConnectionLost)*  connectionLost

A callback that raises is logged and ends its own connection, with the exception as the reason.
"""

from __future__ import annotations

from typing import Any

from minireactor.error import ConnectionDone
from minireactor.factory import ClientFactory, Factory, ReconnectingClientFactory, ServerFactory
from minireactor.failure import Failure

__all__ = [
    "BaseProtocol",
    "ClientFactory",
    "Factory",
    "Protocol",
    "ReconnectingClientFactory",
    "ServerFactory",
    "connectionDone",
]

connectionDone = Failure(ConnectionDone())


class BaseProtocol:
    """What all protocols share: the way in. `transport` is set just before `connectionMade`."""

    connected = 0
    transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        """Called once by whoever owns `transport`; calls `connectionMade`."""
        self.connected = 1
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """The connection is up: greet, register a producer, set limits."""


class Protocol(BaseProtocol):
    """A stream of bytes in, and one ending."""

    factory: Any = None

    def logPrefix(self) -> str:
        return self.__class__.__name__

    def dataReceived(self, data: bytes) -> None:
        """Some bytes, at least one, in order; cut anywhere, however the peer wrote them."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The last call. `reason.value` is ConnectionDone, ConnectionLost, ConnectionAborted or
        the exception that a callback raised."""
