"""Find a target for each client of a port, and join the two: `ProxyFactory` and `Proxy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, cast

from minireactor.address import format_address, host_port
from minireactor.core import flow
from minireactor.error import ConnectError, ConnectionDone
from minireactor.failure import Failure
from minireactor.log import WARN_SECONDS, logger
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.proxy import hops
from minireactor.proxy.balance import EARLY_SECONDS
from minireactor.proxy.legs import is_ending, join, keep_urgent_bytes
from minireactor.proxy.loops import LoopDetector
from minireactor.serve.places import connect_to
from minireactor.streams import RateLimiter
from minireactor.transports.keepalive import set_keepalive

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator

    from minireactor.address import Address
    from minireactor.interfaces import IConnector
    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection
    from minireactor.transports.connector import Connector
    from minireactor.transports.tls_start import SecureConnector


class ProxyFactory(Factory):
    """Join each client of a port to a new connection to `host`, `port`; used with `listenTCP`.

    host, port: as for connectTCP; a name is looked up without blocking, and again after some time.
        Or the address of a UNIX socket and 0, see `serve.places`.
    timeout: seconds for each attempt to connect.
    high, low: the watermarks of the connections to the target in bytes, see setWriteBufferLimits().
        The watermarks of the clients' connections are set at the port that listenTCP returns.
    rate: bytes a second for each direction of each client; None for no limit.
    splice: allow splice() for bulk data, where the system has it, so that it is not copied.
    keepalive: seconds of silence after which the system asks a target whether it still exists.
    unsent: about how many unsent bytes the kernel may buffer for a target that does not read.
        0 for no limit, None for twice the high mark; see Connector.setUnsentLimit().
    target_tls: speaks TLS to the targets; None for none. A client is joined to a target only when
        their handshake is complete: if it fails, the next target is tried.

    header: called as `header(source, destination)` with the addresses of a client. What it returns
        is sent to the target before all else: see `serve.proxy_header`. None for none.

    Nothing is read from a client before it has a target. A client is closed at once if no target
    accepts it. A client that is reset while it waits is removed at once. Small packets are sent
    without delay (TCP_NODELAY).

    Subclasses override the methods below, which get the `Proxy` of a client.

    Raises ValueError if the watermarks or the rate are not possible.
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
        target_tls: SecureConnector | None = None,
        header: Callable[[Address, Address], bytes] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self.marks = flow.checked_marks(high, low)
        if rate is not None:
            RateLimiter(rate)  # raises ValueError now, and not when the first client comes
        self.rate = rate
        self.splice = splice
        self.keepalive = keepalive
        self.unsent = unsent
        self.target_tls = target_tls
        self.header = header
        self.loops = LoopDetector()
        self.has_prepared = False  # whether the clients' sockets inherit their options
        self._next_warning = -1.0

    def prepare_listening(self, sock: socket.socket) -> None:
        """Set the options that each client's socket inherits; called by the port before doStart().

        Both options must be set before the first bytes of a client arrive."""
        hops.save_first_packets(sock)
        keep_urgent_bytes(sock)
        self.has_prepared = True

    def buildProtocol(self, addr: Address | None) -> Proxy:
        return Proxy(self)

    def targets(self) -> Iterable[tuple[str, int | str]]:
        """Return the targets for one client as (host, port), to be tried in this order."""
        return [(self.host, self.port)]

    def all_targets(self) -> Iterable[tuple[str, int | str]]:
        """Return all targets as (host, port), for messages in the log."""
        return [(self.host, self.port)]

    def accepted(self, proxy: Proxy) -> None:
        """Do nothing: a client has connected. Override this."""

    def trying(self, proxy: Proxy) -> None:
        """Do nothing: an attempt to connect to `proxy.place` begins. Override this."""

    def connected(self, proxy: Proxy) -> None:
        """Do nothing: a client and its target have been joined. Override this."""

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        """Log a warning: the attempt to connect to `proxy.place` has failed."""
        logger.warning("no connection to %s: %s", host_port(*proxy.place), reason.getErrorMessage())

    def ended_early(self, proxy: Proxy) -> None:
        """Do nothing: the target has ended first, early, without a byte. Override this."""

    def connect_to_target(
        self, reactor: Reactor, place: tuple[str, int | str], factory: ClientFactory
    ) -> Connector:
        """Return a connector that connects to a target; clients and probes are connected alike."""
        connector = connect_to(reactor, *place, factory, self.timeout)
        connector.setWriteBufferLimits(*self.marks)
        connector.setUnsentLimit(self.unsent)
        if self.target_tls is not None:
            self.target_tls.secure(connector)
        return connector

    def leads_back(self, proxy: Proxy, why: str) -> None:
        """Log a warning, at most every 10 s: a target of the proxy leads back to the proxy."""
        now = proxy.client.reactor.seconds()
        if now >= self._next_warning:
            self._next_warning = now + WARN_SECONDS
            logger.warning("%s; give another target, or listen on another port", why)

    def ended(self, proxy: Proxy) -> None:
        """Log str(proxy), a summary in one line: both connections have ended."""
        logger.info("%s", proxy)


class MovedOn(Exception):
    """A client has given up an attempt to connect, because another target is usable."""


class Proxy(Protocol):
    """Handle one client of a ProxyFactory, until both of its connections have ended.

    client, target: the two transports; target is None before there is a connection to it.
    place: (host, port) of the last target that was tried, as the program gave it.
    why: the reason of the end, once both have ended. Code that ends a proxy may set it first.
    seconds: the duration, once both have ended.
    """

    client: Connection  # set by connectionMade

    def __init__(self, factory: ProxyFactory) -> None:
        self.factory = factory
        self.target: Connection | None = None
        self.place: tuple[str, int | str] = ("", "")
        self.why = ""
        self.seconds = 0.0
        self.outgoing: tuple[tuple[str, int], ...] = ()  # keys of the loop detector's table
        self._has_ended = False
        self._began = 0.0
        self._joined = 0.0
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
        """Close a client that gets no target; `why` is the reason."""
        self.why = self.why or why
        self.client.loseConnection()

    def came_back(self) -> None:
        """Give up the current target, which is the proxy itself, and try the next one.

        If the two are joined already, they stay joined."""
        why = f"{host_port(*self.place)} is this proxy itself"
        self.factory.leads_back(self, why)
        reason = Failure(ConnectError(string=why))
        if self.target is None:
            self._stop_connecting()
            self.failed(reason)
        else:
            self.factory.failed(self, reason)  # so that the next client gets another target

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
        # A transport only knows that it has a Loop. The one with ports also connects.
        reactor = cast("Reactor", self.client.reactor)
        self._connector = self.factory.connect_to_target(reactor, place, TargetConnector(self))
        self._connector.connect_socket = self._connect_socket
        if self.factory.header is not None:
            header = self.factory.header(self.client.getPeer(), self.client.getHost())
            self._connector.first_bytes = lambda *_: header

    def _connect_socket(self, sock: socket.socket, address: Any) -> int:
        assert self._ttl is not None
        keep_urgent_bytes(sock)
        if not isinstance(address, tuple):  # of a UNIX socket, which has no more options
            return sock.connect_ex(address)
        hops.set_ttl(sock, self._ttl, is_ipv6=len(address) == 4)
        if self.factory.keepalive is not None:
            set_keepalive(sock, self.factory.keepalive)
        code = sock.connect_ex(address)
        self.factory.loops.add(self, sock, address)
        return code

    def is_trying(self, connector: IConnector) -> bool:
        """Return whether `connector` is the current attempt to connect."""
        return connector is self._connector

    def failed(self, reason: Failure) -> None:
        """Try the next target: the attempt to connect to `place` has failed."""
        self._connector = None
        if not is_ending(self.client):
            self.factory.failed(self, reason)
            self._try_next(reason.getErrorMessage())

    def move_on(self) -> None:
        """Give up the attempt to connect to `place`, and try the targets in their present order."""
        self._stop_connecting()
        self._places = iter(self.factory.targets())
        self.failed(Failure(MovedOn("another target is usable")))

    def found(self, target: Connection) -> None:
        """Join the client to the target, which is connected now."""
        factory = self.factory
        self._connector = None
        self.target = target
        rate, splice, urgent = factory.rate, factory.splice, not factory.has_prepared
        join(self.client, target, rate, self._lost, splice, urgent)
        self._joined = self.client.reactor.seconds()
        target.protocol.on_silent_end = self._on_silent_end
        self.factory.connected(self)

    def _on_silent_end(self) -> None:
        # A client that has ended, or a timeout, may be why the target ends.
        if self.client.read_ended or self.client.disconnected or self.why:
            return
        if self.client.reactor.seconds() - self._joined < EARLY_SECONDS:
            self.factory.ended_early(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """End the proxy: the client is lost, and has no target yet."""
        self._stop_connecting()
        self._note_reason("client", reason)
        self._end()

    def _lost(self, transport: Connection, reason: Failure) -> None:
        self._note_reason("client" if transport is self.client else "target", reason)
        if self.client.disconnected and self.target.disconnected:  # type: ignore[union-attr]
            self._end()

    def _note_reason(self, side: str, reason: Failure) -> None:
        # The first error is the reason. The later one only follows from it.
        if not self.why and not reason.check(ConnectionDone):
            self.why = f"{side}: {reason.getErrorMessage()}"

    def lost_unjoined(self) -> None:
        """Close the client: the target's connection has ended before the two were joined."""
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

    def why_paused(self) -> str:
        """Return until when the client is not read from, for Reactor.explain()."""
        return f"until the target {host_port(*self.place)} is connected"

    @property
    def transports(self) -> tuple[Connection, ...]:
        """The client's transport and, if there is a target, the target's."""
        return (self.client,) if self.target is None else (self.client, self.target)

    def __str__(self) -> str:
        peer = self.client.getPeer()
        up = 0 if self.target is None else self.target.bytes_out
        return (
            f"{format_address(peer)} -> {host_port(*self.place)}: {up} bytes up, "
            f"{self.client.bytes_out} down, {self.seconds:.2f} s, {self.why}"
        )


class TargetConnector(ClientFactory):
    """Connect to one target on behalf of a Proxy."""

    noisy = False

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def doStart(self) -> None:
        """Do nothing: this factory has one connector, and nothing to open."""

    def doStop(self) -> None:
        """Do nothing, as in doStart()."""

    def buildProtocol(self, addr: Address | None) -> PendingTarget:
        return PendingTarget(self._proxy)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self.clientConnectionFailed(connector, reason)  # if still being tried: in the handshake

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        # If the factory raises, guard() ends the client: nothing else would end it.
        if self._proxy.is_trying(connector):
            client = self._proxy.client
            client.reactor.guard(client, self._proxy.failed, reason)


class PendingTarget(Protocol):
    """The protocol of a target until it is joined to its client."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._is_found = False

    def connectionMade(self) -> None:
        if not self.transport.encrypted:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        self._is_found = True
        self._proxy.found(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._is_found:
            self._proxy.lost_unjoined()
