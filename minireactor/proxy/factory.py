"""A proxy for each client of a port: `ProxyFactory`, and the `Proxy` of each client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.address import host_port, shown
from minireactor.core import flow
from minireactor.error import ConnectError, ConnectionDone
from minireactor.failure import Failure
from minireactor.log import logger
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.proxy import hops
from minireactor.proxy.legs import is_ending, join, keep_urgent_bytes
from minireactor.proxy.loops import LoopDetector
from minireactor.streams import RateLimiter
from minireactor.transports.keepalive import set_keepalive

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator

    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.interfaces import IConnector
    from minireactor.transports.connector import Connector
    from minireactor.transports.tcp import Connection

LOOP_WARNING_SECONDS = 10.0  # between two warnings that a target leads back to the proxy


class ProxyFactory(Factory):
    """For `listenTCP`: joins each client with a connection of its own to `host`, `port`.

    host, port: as for connectTCP; a name is looked up without blocking, and again after some time.
    timeout: seconds for each attempt to connect.
    high, low: the marks of the connections to the target, in bytes, see setWriteBufferLimits();
        those of the clients' are set at the port that listenTCP gives. ValueError.
    rate: bytes a second that pass in each direction of each client; None for no limit. ValueError.
    splice: whether the kernel may move the bytes, where it can, so that they need not be copied.
    keepalive: seconds of silence after which the system asks a target whether it is still there.
    unsent: bytes that the kernel holds unsent for a target that does not read, about; 0 for no
        limit, None for twice the high mark; see Connector.setUnsentLimit().

    Nothing is read from a client before it has a target. One that no target takes is closed at
    once; one that is reset meanwhile is forgotten at once. Small packets are sent without delay
    (TCP_NODELAY). Override the methods that follow, which are told of each client's `Proxy`.
    """

    noisy = False

    def __init__(
        self,
        host: str,
        port: int | str,
        timeout: float | None = 30.0,
        high: int = flow.HIGH,
        low: int | None = None,
        rate: float | None = None,
        splice: bool = True,
        keepalive: int | None = None,
        unsent: int | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self.marks = flow.checked_marks(high, low)
        if rate is not None:
            RateLimiter(rate)  # which says what is wrong with it now, and not to the first client
        self.rate = rate
        self.splice = splice
        self.keepalive = keepalive
        self.unsent = unsent
        self.loops = LoopDetector()
        self._next_warning = -1.0

    def prepare_listening(self, sock: socket.socket) -> None:
        """Set the options that each client's socket inherits; called by the port, before doStart().

        Both options must be there before a client's first bytes."""
        hops.save_first_packets(sock)
        keep_urgent_bytes(sock)

    def buildProtocol(self, addr: IPv4Address | IPv6Address | None) -> Any:
        return Proxy(self)

    def targets(self) -> Iterable[tuple[str, int | str]]:
        """(host, port) of those to try for one client, in turn, until one takes it."""
        return [(self.host, self.port)]

    def all_targets(self) -> Iterable[tuple[str, int | str]]:
        """The same for whoever reads the log, without a client."""
        return [(self.host, self.port)]

    def accepted(self, proxy: Proxy) -> None:
        """Its client is there."""

    def trying(self, proxy: Proxy) -> None:
        """It begins to connect to `proxy.place`."""

    def connected(self, proxy: Proxy) -> None:
        """Its client and its target are joined now."""

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        """It could not connect to `proxy.place`, and tries the next. Logged as a warning, here."""
        logger.warning("no connection to %s: %s", host_port(*proxy.place), reason.getErrorMessage())

    def leads_back(self, proxy: Proxy, why: str) -> None:
        """The proxy is its own target. Logged as a warning, here, at most every 10 s."""
        now = proxy.client.reactor.seconds()
        if now >= self._next_warning:
            self._next_warning = now + LOOP_WARNING_SECONDS
            logger.warning("%s; give another target, or listen on another port", why)

    def ended(self, proxy: Proxy) -> None:
        """All is over; str(proxy) tells it in a line, which is logged, here."""
        logger.info("%s", proxy)


class Proxy(Protocol):
    """A client of a ProxyFactory, from its first moment to the end of both connections.

    client, target: their transports; target is None while there is none.
    place: (host, port) of the target, as they were given; the last one that was tried.
    why: once it has ended, for what reason; whoever ends it may set that before.
    seconds: how long it took, once it has ended.
    """

    def __init__(self, factory: ProxyFactory) -> None:
        self.factory = factory
        self.client: Any = None
        self.target: Connection | None = None
        self.place: tuple[str, int | str] = ("", "")
        self.why = ""
        self.seconds = 0.0
        self.outgoing: tuple[tuple[str, int], ...] = ()  # where the loop detector has it
        self._has_ended = False
        self._began = 0.0
        self._ttl: int | None = None
        self._places: Iterator[tuple[str, int | str]] = iter(())
        self._connector: Connector | None = None

    def connectionMade(self) -> None:
        self.client = self.transport
        self.client.pauseProducing()
        self._began = self.client.reactor.seconds()
        self.factory.accepted(self)
        self._ttl = hops.next_ttl(self.client.socket)
        if self._ttl is None:
            self._refuse_ring()
            return
        origin = self.factory.loops.origin(self.client)
        if origin is not None:
            self.refuse("it comes from this proxy itself")
            origin.client.reactor.guard(origin.client, origin.came_back)
            return
        self._places = iter(self.factory.targets())
        self._try_next("there is none")

    def _refuse_ring(self) -> None:
        targets = ", ".join(host_port(*place) for place in self.factory.all_targets())
        why = f"a client has come through too many proxies: {targets} may lead back to this one"
        self.factory.leads_back(self, why)
        self.refuse("it has come through too many proxies")

    def refuse(self, why: str) -> None:
        """Close the client, which has no target."""
        self.why = self.why or why
        self.client.loseConnection()

    def came_back(self) -> None:
        """The target at `place` is the proxy itself: try the next, unless they are joined."""
        why = f"{host_port(*self.place)} is this proxy itself"
        self.factory.leads_back(self, why)
        reason = Failure(ConnectError(string=why))
        if self.target is None:
            self._stop_connecting()
            self.failed(reason)
        else:
            self.factory.failed(self, reason)  # so that the next client goes elsewhere

    def _stop_connecting(self) -> None:
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.disconnect()

    def _try_next(self, last_error: str) -> None:
        place = next(self._places, None)
        if place is None:
            self.why = f"no target: {last_error}"
            self.client.loseConnection()
            return
        self.place = place
        self.factory.trying(self)
        reactor = self.client.reactor
        self._connector = reactor.connectTCP(*place, _Call(self), self.factory.timeout)
        self._connector.setWriteBufferLimits(*self.factory.marks)
        self._connector.setUnsentLimit(self.factory.unsent)
        self._connector.connect_socket = self._connect_socket

    def _connect_socket(self, sock: socket.socket, address: Any) -> int:
        assert self._ttl is not None
        hops.set_ttl(sock, self._ttl, is_ipv6=len(address) == 4)
        keep_urgent_bytes(sock)
        if self.factory.keepalive is not None:
            set_keepalive(sock, self.factory.keepalive)
        code = sock.connect_ex(address)
        self.factory.loops.add(self, sock, address)
        return code

    def is_trying(self, connector: IConnector) -> bool:
        """Whether it still waits for this one."""
        return connector is self._connector

    def failed(self, reason: Failure) -> None:
        """No connection to the target at `place`."""
        self._connector = None
        if not is_ending(self.client):
            self.factory.failed(self, reason)
            self._try_next(reason.getErrorMessage())

    def found(self, target: Connection) -> None:
        """There is a connection to the target."""
        self._connector = None
        self.target = target
        join(self.client, target, self.factory.rate, self._lost, self.factory.splice)
        self.factory.connected(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Of the client, while it has no target."""
        self._stop_connecting()
        self._note("client", reason)
        self._end()

    def _lost(self, transport: Connection, reason: Failure) -> None:
        self._note("client" if transport is self.client else "target", reason)
        if self.client.disconnected and self.target.disconnected:  # type: ignore[union-attr]
            self._end()

    def _note(self, side: str, reason: Failure) -> None:
        # The first to break it off is to blame: the other is aborted because of that.
        if not self.why and not reason.check(ConnectionDone):
            self.why = f"{side}: {reason.getErrorMessage()}"

    def lost_unjoined(self) -> None:
        """The target's connection has ended, and was not joined with the client's."""
        self.client.loseConnection()
        if self.client.disconnected:
            self._end()

    def _end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self.why = self.why or "closed in good order"
        self.seconds = self.client.reactor.seconds() - self._began
        self.factory.loops.forget(self)
        self.factory.ended(self)

    @property
    def transports(self) -> tuple[Connection, ...]:
        """The client's and, if there is one, the target's."""
        return (self.client,) if self.target is None else (self.client, self.target)

    def __str__(self) -> str:
        peer = self.client.getPeer()
        up = 0 if self.target is None else self.target.bytes_out
        return (
            f"{shown(peer)} -> {host_port(*self.place)}: {up} bytes up, "
            f"{self.client.bytes_out} down, {self.seconds:.2f} s, {self.why}"
        )


class _Call(ClientFactory):
    """An attempt to connect to a target."""

    noisy = False

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def buildProtocol(self, addr: IPv4Address | IPv6Address | None) -> Any:
        return _Answer(self._proxy)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        # On behalf of the client, which is to end if the factory raises: nobody else would end it.
        if self._proxy.is_trying(connector):
            client = self._proxy.client
            client.reactor.guard(client, self._proxy.failed, reason)


class _Answer(Protocol):
    """The protocol of a target for the moment that it takes to join it with its client."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def connectionMade(self) -> None:
        self._proxy.found(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._proxy.lost_unjoined()
