"""Server endpoints: each calls one `listen...` method of the reactor, with fixed arguments.

`listen(factory)` returns a Deferred of the port. Every error becomes the failure of this Deferred.
"""

from __future__ import annotations

from typing import Any, Callable

from minireactor.defer import Deferred, execute


class _Server:
    _listen: Callable[..., Any]  # called with the factory, returns the port

    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        """Listen, and return a Deferred of the port. `port.stopListening()` ends it."""
        return execute(self._listen, protocolFactory)


class TCP4ServerEndpoint(_Server):
    """Listens with `listenTCP`; an `interface` of "" stands for all IPv4 addresses."""

    def __init__(self, reactor: Any, port: int, backlog: int = 50, interface: str = "") -> None:
        self._listen = lambda factory: reactor.listenTCP(
            port, factory, backlog=backlog, interface=interface
        )


class TCP6ServerEndpoint(TCP4ServerEndpoint):
    """Listens with `listenTCP`, by default on all IPv6 addresses."""

    def __init__(self, reactor: Any, port: int, backlog: int = 50, interface: str = "::") -> None:
        super().__init__(reactor, port, backlog, interface)


class SSL4ServerEndpoint(_Server):
    """Listens with `listenSSL`. `sslContextFactory` is an ssl.SSLContext with a certificate."""

    def __init__(
        self,
        reactor: Any,
        port: int,
        sslContextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> None:
        self._listen = lambda factory: reactor.listenSSL(
            port, factory, sslContextFactory, backlog=backlog, interface=interface
        )


class UNIXServerEndpoint(_Server):
    """Listens with `listenUNIX` on the path `address`."""

    def __init__(
        self,
        reactor: Any,
        address: str,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> None:
        self._listen = lambda factory: reactor.listenUNIX(
            address, factory, backlog=backlog, mode=mode, wantPID=wantPID
        )


class AdoptedStreamServerEndpoint(_Server):
    """Accepts from a listening socket that another program has opened.

    fileno: the descriptor of that socket.
    addressFamily: the family of that socket, such as socket.AF_INET.
    """

    def __init__(self, reactor: Any, fileno: int, addressFamily: int) -> None:
        self._listen = lambda factory: reactor.adoptStreamPort(fileno, addressFamily, factory)


class StandardIOEndpoint(_Server):
    """Connects one protocol to standard input and output. The port is the StandardIO object."""

    def __init__(self, reactor: Any) -> None:
        def listen(factory: Any) -> Any:
            from minireactor.stdio import StandardIO  # and its threads, for this kind alone

            return StandardIO(factory.buildProtocol(None), reactor=reactor)

        self._listen = listen
