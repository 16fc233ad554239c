"""Protocols, one for each connection, and the factories that build them.

The grammar of the calls that a protocol receives:

    connectionMade  dataReceived*  connectionLost

A half-closeable protocol, one that has both `readConnectionLost()` and `writeConnectionLost()`,
is told in between, at most once each, which half has ended:

    connectionMade  (dataReceived* | readConnectionLost | writeConnectionLost)*  connectionLost

A callback that raises is logged and ends its own connection, with the exception as the reason.
"""

from __future__ import annotations

import random
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Callable, ClassVar, cast

from minireactor.error import ConnectionDone, NotConnectingError
from minireactor.failure import Failure
from minireactor.log import logger

if TYPE_CHECKING:
    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.interfaces import IConnector

    Address = IPv4Address | IPv6Address

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


class Factory:
    """Builds a protocol for each connection: set `protocol`, or override `buildProtocol`.

    One factory may serve several ports: `startFactory` comes before the first of them opens and
    `stopFactory` after the last has closed, once for each such period of use.
    """

    protocol: Callable[..., Any] | None = None
    numPorts = 0
    noisy = True

    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)

    @classmethod
    def forProtocol(cls, protocol: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A factory, made with the arguments, whose connections get `protocol()`."""
        factory = cls(*args, **kwargs)
        factory.protocol = protocol
        return factory

    def logPrefix(self) -> str:
        return self.__class__.__name__

    def doStart(self) -> None:
        """A port or connector begins to use this factory."""
        if self.numPorts == 0:
            if self.noisy:
                logger.debug("starting factory %r", self)
            self.startFactory()
        self.numPorts += 1

    def doStop(self) -> None:
        """A port or connector has ceased to use this factory."""
        if self.numPorts == 0:
            return
        self.numPorts -= 1
        if self.numPorts == 0:
            if self.noisy:
                logger.debug("stopping factory %r", self)
            self.stopFactory()

    def startFactory(self) -> None:
        """Open here what all connections share."""

    def stopFactory(self) -> None:
        """Close here what `startFactory` opened."""

    def buildProtocol(self, addr: Address | None) -> Any:
        """A new protocol for the peer at `addr`; None turns the connection away, gracefully."""
        if self.protocol is None:
            raise NotImplementedError(
                f"{self!r} has no protocol; set {self.__class__.__name__}.protocol "
                "or override buildProtocol()"
            )
        protocol = self.protocol()
        protocol.factory = self
        return protocol


class ServerFactory(Factory):
    """For `listenTCP`."""


class ClientFactory(Factory):
    """For `connectTCP`. The grammar of an attempt:

    startedConnecting  (clientConnectionFailed | buildProtocol  clientConnectionLost)
    """

    def startedConnecting(self, connector: IConnector) -> None:
        """An attempt has begun; `connector.stopConnecting()` ends it."""

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """No connection came about. `connector.connect()` tries again."""

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """The connection has ended, and its protocol knows. `connector.connect()` reconnects."""


class ReconnectingClientFactory(ClientFactory):
    """Tries again after each failure and each loss, ever more patiently.

    Each wait is `factor` times the one before it, and spread by `jitter` (the standard deviation,
    as a share of the wait), so that the clients of a server that restarts do not all come back at
    once. No wait is longer than `maxDelay` seconds. Call `resetDelay()` from `buildProtocol`, or
    once a connection has proved good; `stopTrying()` ends it; `maxRetries` bounds it.
    """

    maxDelay = 3600.0
    initialDelay = 1.0
    factor = 2.7182818284590451
    jitter: float | None = 0.119626565582
    delay = initialDelay
    retries = 0
    maxRetries: int | None = None
    continueTrying = 1
    connector: IConnector | None = None
    clock: Any = None
    _waits: dict[Any, Any] | None = None  # of each connector that waits, its delayed call

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.retry(connector)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self.retry(connector)

    def retry(self, connector: IConnector | None = None) -> None:
        """Have `connector` (default: the one of the last attempt) connect again after the delay.

        While that connector waits already, its wait goes on and no other begins."""
        if not self.continueTrying:
            return
        connector = connector or self.connector
        if connector is None:
            raise ValueError("no connector to retry: none has been used yet, so pass one")
        if self._waits is None:
            self._waits = {}
        wait = self._waits.get(connector)
        if wait is not None and wait.active():  # a program may have cancelled the call
            return
        if self.maxRetries is not None and self.retries >= self.maxRetries:
            logger.info("giving up on %r after %d retries", connector, self.retries)
            return
        self.retries += 1
        self.connector = connector
        self.delay = self._next_delay()
        clock = self.clock or cast(Any, connector).reactor
        self._waits[connector] = clock.callLater(self.delay, self._reconnect, connector)

    def _next_delay(self) -> float:
        delay = min(self.delay * self.factor, self.maxDelay)
        if self.jitter:
            # Not max(0, ...): a wait of nothing would be multiplied to nothing ever after.
            delay = abs(random.normalvariate(delay, delay * self.jitter))
            if delay > self.maxDelay:
                # As far below: cut off there, half of all clients would come back at one time.
                delay = min(abs(2 * self.maxDelay - delay), self.maxDelay)
        return delay

    def _reconnect(self, connector: IConnector) -> None:
        if self._waits is not None:
            self._waits.pop(connector, None)
        # A program may have called connect() itself meanwhile.
        if getattr(connector, "state", "disconnected") == "disconnected":
            connector.connect()

    def stopTrying(self) -> None:
        """Give up: cancel all waits, and the attempt under way."""
        self.continueTrying = 0
        waits, self._waits = self._waits, None
        for wait in (waits or {}).values():
            if wait.active():
                wait.cancel()
        if self.connector is not None:
            try:
                self.connector.stopConnecting()
            except NotConnectingError:
                pass

    def resetDelay(self) -> None:
        """The connection is good: the next failure starts from the shortest wait again."""
        self.delay = self.initialDelay
        self.retries = 0
        self.continueTrying = 1
