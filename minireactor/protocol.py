"""Protocols, one for each connection, and the factories that build them.

The grammar of the calls that a protocol receives:

    connectionMade  dataReceived*  connectionLost

A half-closeable protocol has both `readConnectionLost()` and `writeConnectionLost()`. Each of these
is called at most once, when that half of the connection has ended:

    connectionMade  (dataReceived* | readConnectionLost | writeConnectionLost)*  connectionLost

An exception in a callback is logged and ends that connection, with the exception as the reason.
"""

from __future__ import annotations

import random
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Callable, ClassVar, TypeVar, cast

from minireactor.error import ConnectionDone, NotConnectingError
from minireactor.failure import Failure
from minireactor.log import logger

if TYPE_CHECKING:
    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.interfaces import IConnector

    Address = IPv4Address | IPv6Address

_Factory = TypeVar("_Factory", bound="Factory")

connectionDone = Failure(ConnectionDone())


class BaseProtocol:
    """The base of every protocol. `transport` is set just before `connectionMade` is called."""

    connected = 0
    transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        """Keep `transport` and call `connectionMade`. The transport calls this method once."""
        self.connected = 1
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Start the work on a new connection: greet, register a producer, set limits."""


class Protocol(BaseProtocol):
    """Receives a stream of bytes, then one connectionLost."""

    factory: Any = None

    def logPrefix(self) -> str:
        return self.__class__.__name__

    def dataReceived(self, data: bytes) -> None:
        """Handle the next bytes of the stream, at least one.

        The stream may be cut anywhere: the cuts do not follow the peer's writes."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Handle the end of the connection. This is the last call.

        `reason.value` is ConnectionDone, ConnectionLost, ConnectionAborted or the exception that a
        callback raised."""


class Factory:
    """Builds a protocol for each connection: set `protocol`, or override `buildProtocol`.

    One factory may serve several ports. `startFactory` is called before the first of them opens,
    and `stopFactory` after the last of them has closed. A factory that is used again later is
    started and stopped again.
    """

    protocol: Callable[..., Any] | None = None
    numPorts = 0
    noisy = True

    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)

    @classmethod
    def forProtocol(
        cls: type[_Factory], protocol: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> _Factory:
        """Return a factory made with `args` and `kwargs`, whose connections get `protocol()`."""
        factory = cls(*args, **kwargs)
        factory.protocol = protocol
        return factory

    def logPrefix(self) -> str:
        return self.__class__.__name__

    def doStart(self) -> None:
        """Count one more port or connector. For the first one, call `startFactory`."""
        if self.numPorts == 0:
            if self.noisy:
                logger.debug("starting factory %r", self)
            self.startFactory()
        self.numPorts += 1

    def doStop(self) -> None:
        """Count one port or connector fewer. After the last one, call `stopFactory`."""
        if self.numPorts == 0:
            return
        self.numPorts -= 1
        if self.numPorts == 0:
            if self.noisy:
                logger.debug("stopping factory %r", self)
            self.stopFactory()

    def startFactory(self) -> None:
        """Open what all connections share. Override this."""

    def stopFactory(self) -> None:
        """Close what `startFactory` opened. Override this."""

    def buildProtocol(self, addr: Address | None) -> Any:
        """Return a new protocol for the peer at `addr`, or None to reject the connection.

        A rejected connection is closed gracefully. Raises NotImplementedError if `protocol` is not
        set."""
        if self.protocol is None:
            raise NotImplementedError(
                f"{self!r} has no protocol; set {self.__class__.__name__}.protocol "
                "or override buildProtocol()"
            )
        protocol = self.protocol()
        protocol.factory = self
        return protocol


class ServerFactory(Factory):
    """A factory for `listenTCP`."""


class ClientFactory(Factory):
    """A factory for `connectTCP`. The grammar of the calls for one attempt:

    startedConnecting  (clientConnectionFailed | buildProtocol  clientConnectionLost)
    """

    def startedConnecting(self, connector: IConnector) -> None:
        """Handle the start of an attempt. `connector.stopConnecting()` ends the attempt."""

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """Handle a failed attempt. `connector.connect()` tries again."""

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """Handle the end of a connection, after its protocol's connectionLost.

        `connector.connect()` reconnects."""


class ReconnectingClientFactory(ClientFactory):
    """Reconnects after each failed attempt and each lost connection, with a growing delay.

    Each delay is `factor` times the delay before it, and at most `maxDelay` seconds. `jitter` is
    the standard deviation of a delay, as a share of the delay. The jitter spreads the clients of a
    restarted server, so that they do not all come back at once.

    Call `resetDelay()` from `buildProtocol`, or later when a connection has proved to work. Call
    `stopTrying()` to end the retries, or set `maxRetries` to limit their number.
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
    _waits: dict[Any, Any] | None = None  # for each connector, the call that reconnects it

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.retry(connector)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self.retry(connector)

    def retry(self, connector: IConnector | None = None) -> None:
        """Make `connector` connect again after the delay. Default: the one of the last attempt.

        Does nothing if this connector already waits for its next attempt. Raises ValueError if
        there is no connector yet."""
        if not self.continueTrying:
            return
        connector = connector or self.connector
        if connector is None:
            raise ValueError("no connector to retry: no attempt has been made yet; pass one")
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
            # Not max(0, ...): a delay of 0 would stay 0 when it is multiplied by `factor`.
            delay = abs(random.normalvariate(delay, delay * self.jitter))
            if delay > self.maxDelay:
                # Mirror the delay at maxDelay. Limiting it to maxDelay would make half of all
                # clients wait for exactly maxDelay, and come back at the same time.
                delay = min(abs(2 * self.maxDelay - delay), self.maxDelay)
        return delay

    def _reconnect(self, connector: IConnector) -> None:
        if self._waits is not None:
            self._waits.pop(connector, None)
        # The program may have called connect() itself in the meantime.
        if getattr(connector, "state", "disconnected") == "disconnected":
            connector.connect()

    def stopTrying(self) -> None:
        """Stop reconnecting: cancel all delayed attempts, and the attempt under way."""
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
        """Reset the delay and the retries, so that the next failure waits `initialDelay` again."""
        self.delay = self.initialDelay
        self.retries = 0
        self.continueTrying = 1
