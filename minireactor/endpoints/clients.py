"""Client endpoints: each calls one `connect...` method of the reactor, with fixed arguments.

`connect(factory)` returns a Deferred of the protocol that the factory has built, after its
connectionMade. Every error becomes the failure of this Deferred. Cancelling the Deferred ends the
attempt: it then fails with ConnectingCancelledError, and no socket is left.
"""

from __future__ import annotations

from typing import Any, Callable

from minireactor.defer import Deferred, fail
from minireactor.error import ConnectingCancelledError, NoProtocol
from minireactor.failure import Failure
from minireactor.protocol import ClientFactory, Factory, Protocol


class _Starter:
    """Takes the place of a protocol until the connection is made, then fires the Deferred."""

    def __init__(self, protocol: Any, made: Deferred[Any]) -> None:
        self._protocol = protocol
        self._made = made

    def makeConnection(self, transport: Any) -> None:
        transport.protocol = self._protocol
        try:
            self._protocol.makeConnection(transport)
        except BaseException:
            if not self._made.called:
                self._made.errback()
            raise
        if self._made.called:  # connectionMade has cancelled the Deferred
            transport.abortConnection()
        else:
            self._made.callback(self._protocol)


class _Attempt(ClientFactory):
    """The factory of one attempt: builds one protocol with the program's factory.

    made: the Deferred that connect() returns.
    """

    noisy = False

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self._connector: Any = None
        self.made: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, made: Deferred[Any]) -> None:
        connector = self._connector
        made.errback(ConnectingCancelledError(connector.getDestination()))
        if connector.state == "connecting":
            connector.stopConnecting()

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def startedConnecting(self, connector: Any) -> None:
        self._connector = connector

    def buildProtocol(self, addr: Any) -> Any:
        try:
            protocol = self._factory.buildProtocol(addr)
            if protocol is None:
                raise NoProtocol
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            if not self.made.called:
                self.made.errback()
            return None  # the connection is closed
        # buildProtocol may have cancelled the Deferred.
        return None if self.made.called else _Starter(protocol, self.made)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        if not self.made.called:
            self.made.errback(reason)


class _Client:
    _connect: Callable[[ClientFactory], Any]  # starts to connect, returns the connector

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, and return a Deferred of the protocol."""
        attempt = _Attempt(protocolFactory)
        try:
            self._connect(attempt)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return fail()
        return attempt.made


class TCP4ClientEndpoint(_Client):
    """Connects with `connectTCP`. All addresses of a name are tried, also those of IPv6."""

    def __init__(
        self,
        reactor: Any,
        host: str | bytes,
        port: int | str,
        timeout: float | None = 30,
        bindAddress: Any = None,
    ) -> None:
        self.host = host.decode() if isinstance(host, bytes) else host
        local = (bindAddress, 0) if isinstance(bindAddress, (str, bytes)) else bindAddress
        self._connect = lambda factory: reactor.connectTCP(
            host, port, factory, timeout=timeout, bindAddress=local
        )


class TCP6ClientEndpoint(TCP4ClientEndpoint):
    """Connects with `connectTCP`, and only to the IPv6 addresses of a name."""

    def __init__(
        self,
        reactor: Any,
        host: str | bytes,
        port: int | str,
        timeout: float | None = 30,
        bindAddress: Any = None,
    ) -> None:
        # A socket that is bound to an IPv6 address connects to no other family.
        super().__init__(reactor, host, port, timeout, bindAddress or ("::", 0))


class HostnameEndpoint(TCP4ClientEndpoint):
    """Connects to the first address of a name that answers, as RFC 8305 describes.

    This is what `connectTCP` does for every name. `attemptDelay` has no effect: the next address is
    tried after a quarter of a second, as the RFC recommends.
    """

    def __init__(
        self,
        reactor: Any,
        host: str | bytes,
        port: int | str,
        timeout: float | None = 30,
        bindAddress: Any = None,
        attemptDelay: float | None = None,
    ) -> None:
        super().__init__(reactor, host, port, timeout, bindAddress)


class SSL4ClientEndpoint(_Client):
    """Connects with `connectSSL`.

    sslContextFactory: an ssl.SSLContext, or None for one that verifies the server.
    """

    def __init__(
        self,
        reactor: Any,
        host: str | bytes,
        port: int | str,
        sslContextFactory: Any,
        timeout: float | None = 30,
        bindAddress: Any = None,
    ) -> None:
        self._connect = lambda factory: reactor.connectSSL(
            host, port, factory, sslContextFactory, timeout=timeout, bindAddress=bindAddress
        )


class UNIXClientEndpoint(_Client):
    """Connects with `connectUNIX` to the path `path`."""

    def __init__(
        self, reactor: Any, path: str, timeout: float | None = 30, checkPID: bool = False
    ) -> None:
        self._connect = lambda factory: reactor.connectUNIX(
            path, factory, timeout=timeout, checkPID=checkPID
        )


class _TLSStarter(Protocol):
    """Starts TLS on a new connection, then gives the connection to its protocol."""

    def __init__(self, protocol: Any, arguments: tuple[Any, ...]) -> None:
        self.protocol = protocol
        self._arguments = arguments

    def makeConnection(self, transport: Any) -> None:
        transport.startTLS(*self._arguments)  # if it fails, `protocol` gets no call at all
        transport.protocol = self.protocol
        self.protocol.makeConnection(transport)


class _TLSFactory(Factory):
    def __init__(self, factory: Any, arguments: tuple[Any, ...]) -> None:
        self._factory = factory
        self._arguments = arguments

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Any:
        protocol = self._factory.buildProtocol(addr)
        return None if protocol is None else _TLSStarter(protocol, self._arguments)


class _TLSClient:
    def __init__(self, endpoint: Any, arguments: tuple[Any, ...]) -> None:
        self._endpoint = endpoint
        self._arguments = arguments

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, start TLS, and return a Deferred of the protocol."""
        made: Deferred[Any] = self._endpoint.connect(_TLSFactory(protocolFactory, self._arguments))
        return made.addCallback(lambda starter: starter.protocol)


def wrapClientTLS(
    connectionCreator: Any, wrappedEndpoint: Any, server_hostname: str | None = None
) -> _TLSClient:
    """Return an endpoint that connects as `wrappedEndpoint` does, and then speaks TLS.

    connectionCreator: an ssl.SSLContext for a client, or None for one that verifies the server.
    server_hostname: the name that the certificate must have; by default the endpoint's `host`.
    """
    name = server_hostname or getattr(wrappedEndpoint, "host", None)
    return _TLSClient(wrappedEndpoint, (connectionCreator, name))


class _OneProtocol(Factory):
    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Any:
        return self._protocol


def connectProtocol(endpoint: Any, protocol: Any) -> Deferred[Any]:
    """Connect `protocol`, which needs no factory, and return a Deferred of this protocol."""
    made: Deferred[Any] = endpoint.connect(_OneProtocol(protocol))
    return made
