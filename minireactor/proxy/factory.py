"""A proxy: two connections, each of which is the other's producer and consumer.

    join(a, b)                                                        # two transports: that is all
    reactor.listenTCP(8080, ProxyFactory("example.internal", 80))     # one for each client

A transport produces what it reads, and consumes what is written to it. So joining two of them is
to register each with the other: whichever has more to send than its peer takes goes above its high
mark, and pauses the other, which stops to read; the kernel's buffers fill, and the distant writer
has to wait. Nothing here counts bytes for that.

How an end travels:

    near                                       far
    sends its end of the stream                its write side is closed, behind what is pending
    is closed (ConnectionDone)                 is closed, behind what is pending
    is lost otherwise: reset, aborted          is aborted, as what it got is not the whole; but if
                                               it is, and not sent yet: closed, behind that
"""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import host_port, shown
from minireactor.core import flow
from minireactor.error import ConnectError, ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.log import logger
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.proxy import hops
from minireactor.streams import RateLimiter, pipe
from minireactor.transports.keepalive import set_keepalive
from minireactor.transports.kernel import send_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.interfaces import IConnector
    from minireactor.transports.connector import Connector
    from minireactor.transports.splice import PipeSource
    from minireactor.transports.tcp import Connection

    OnLost = Callable[[Connection, Failure], object]

try:
    from minireactor.transports.splice import CAN_SPLICE, splice_from
except ImportError:  # no fcntl: this is Windows
    CAN_SPLICE = False

# Bytes. A read of so many is sent straight on, and the next ones are spliced...
BULK = 64 * 1024
SMALL = 16 * 1024  # ...until two bring less than this, which a copy moves for less.

# Seconds of one loop iteration for the legs that move bulk, for each that waits. Those that go on
# waiting are reported as readable once more, which costs a microsecond each: a twentieth of this.
TURN_SECONDS = 0.000025

LOOP_WARNING_SECONDS = 10.0  # between two warnings that a target leads back to the proxy


def join(
    a: Connection,
    b: Connection,
    rate: float | None = None,
    on_lost: OnLost | None = None,
    splice: bool = True,
) -> None:
    """Pass on to each of two transports what the other reads, and how it ends, from now on.

    Both get a protocol of ours in the place of their own, which hears nothing more, and begin to
    read; what it has read and not used is to be written to the other transport before. Neither
    may have a producer: RuntimeError. If one of them is closing already, the other is closed.

    rate: bytes a second, each way. `on_lost(transport, reason)` is called as each is lost.
    splice: whether the kernel may move what is much, where it can and there is no rate."""
    for near, far in ((a, b), (b, a)):
        if far.producer is not None:
            raise RuntimeError(
                f"cannot join {near!r}: {far.producer!r} is still registered with {far!r}; "
                "call unregisterProducer() first"
            )
    for near, far in ((a, b), (b, a)):
        if _is_ending(near):
            far.loseConnection()
            return
    for near, far in ((a, b), (b, a)):
        sink = far if rate is None else pipe(RateLimiter(rate, reactor=near.reactor), far)
        kind = SplicingLeg if splice and CAN_SPLICE and rate is None else Leg
        near.protocol = kind(near, sink, far, on_lost)
        _keep_urgent_bytes(near.socket)
        near.resumeProducing()
        sink.registerProducer(near, True)
    for near in (a, b):
        if near.read_ended:  # which nobody will tell the leg any more
            near.protocol.readConnectionLost()


class Leg(Protocol):
    """One of the two directions: what comes in at `near` goes out at `far`, by way of `sink`.

    A sink that is not `far` itself is the producer of `far`, which thus waits for what that holds
    before it closes."""

    connected = 1

    def __init__(
        self, near: Connection, sink: Any, far: Connection, on_lost: OnLost | None = None
    ) -> None:
        self.transport: Connection = near
        self.sink = sink
        self.far = far
        self._on_lost = on_lost
        self._is_whole = False  # all that near will ever send has been read

    def dataReceived(self, data: bytes) -> None:
        if len(data) >= BULK and self._is_clear():
            sent = self._send(self.far.socket.send, data)
            if sent < len(data):
                self.far.write(data[sent:])
        else:
            self.sink.write(data)

    def _is_clear(self) -> bool:
        """Whether bulk may go straight on, as there is nothing before it.

        It is in the caches still, and need not go over a mark and back: through the buffer, the
        works `proxy-1` and `proxy-100` take a sixth more with --copy, a third more by splice."""
        far = self.far
        return far.state == "open" and far.producer is self.transport and not far.pending

    def _send(self, send: Callable[..., int], *args: Any) -> int:
        try:
            sent = send(*args)
        except BlockingIOError:
            return 0
        except OSError as error:
            # The system tells of a reset once. A read after that would look like the end.
            self.far.failed(Failure(ConnectionLost(error)))
            return 0
        self.far.bytes_out += sent
        return sent

    def readConnectionLost(self) -> None:
        self._is_whole = True
        self.sink.unregisterProducer()
        self.far.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Only its presence counts: it makes the leg half-closeable."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        far = self.far
        self.sink.unregisterProducer()
        if reason.check(ConnectionDone) or (self._is_whole and _has_bytes_waiting(far)):
            far.loseConnection()
        else:
            far.abortConnection()
        if self._on_lost is not None:
            self._on_lost(self.transport, reason)


class _Turns:
    """Lets legs that move bulk take turns, so that whatever else is ready goes first.

    A splice of a full pipe takes some tenths of a millisecond. The round trip of a byte beside
    twenty such streams, 99th percentile: 34 to 67 ms before, 7 to 28 ms with turns (--copy: 11 to
    23 ms), for the same CPU a byte."""

    def __init__(self) -> None:
        self._queue: deque[SplicingLeg] = deque()
        self._last = 0  # the id of the leg that has had the last turn

    def has(self, leg: SplicingLeg) -> bool:
        """Return whether `leg` may go on now. If not, its transport reads when its turn comes."""
        if self._last == id(leg) and not self._queue:
            return True  # nobody else moves bulk
        if not leg.is_queued:
            leg.is_queued = True
            self._queue.append(leg)
            if len(self._queue) == 1:
                reactor = leg.transport.reactor
                reactor.call_soon(self._run, reactor)
        return False

    def _run(self, reactor: Any) -> None:
        queue = self._queue
        until = reactor.seconds() + TURN_SECONDS * len(queue)
        for _ in range(len(queue)):
            leg = queue.popleft()
            leg.is_queued = False
            self._last = id(leg)
            transport = leg.transport
            if transport.reading:
                leg.has_turn = True
                reactor.guard(transport, transport.doRead)
                leg.has_turn = False
            if reactor.seconds() >= until:
                break
        if queue:
            reactor.call_soon(self._run, reactor)


_turns: weakref.WeakKeyDictionary[Any, _Turns] = weakref.WeakKeyDictionary()  # of each reactor


def _turns_of(reactor: Any) -> _Turns:
    turns = _turns.get(reactor)
    if turns is None:
        turns = _turns[reactor] = _Turns()
    return turns


class SplicingLeg(Leg):
    """A leg that leaves the moving to the kernel for as long as much comes in: see `splice`."""

    is_queued = False
    has_turn = False
    _was_small = False

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if len(data) >= BULK:
            self._was_small = False
            self._turns = _turns_of(self.transport.reactor)
            self.transport.divert(self._splice)

    def _splice(self) -> bool:
        """Instead of a read; true if it has to be one after all."""
        if not self.has_turn and not self._turns.has(self):
            return False
        # With more before it than this, each splice would hold one more pipe.
        if self.far.pending > SMALL:
            return True
        try:
            source = splice_from(self.transport.socket)
        except OSError as error:
            self.transport.connectionLost(Failure(ConnectionLost(error)))
            return False
        if source is None:
            self.transport.divert(None)
            return True
        self.transport.bytes_in += source.left
        # One alone is the end of a larger write, whose segments do not divide it: to copy for that
        # what comes next makes the work `proxy-1` half as dear again.
        was_small, self._was_small = self._was_small, source.left < SMALL
        if was_small and self._was_small:
            self.transport.divert(None)
        self._pass_on(source)
        return False

    def _pass_on(self, source: PipeSource) -> None:
        if self._is_clear():
            source.left -= self._send(source.send_to, self.far.socket, source.left)
        self.far.write_source(source)


def _keep_urgent_bytes(sock: socket.socket) -> None:
    """Have urgent bytes (MSG_OOB) read in their place: a plain read leaves each of them out.

    If a second urgent byte arrives before this call, the first one may be lost."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    except OSError:
        pass  # it is closed, which is found out by reading


def _is_ending(transport: Connection) -> bool:
    return transport.disconnecting or transport.disconnected


def _has_bytes_waiting(transport: Connection) -> bool:
    return transport.connected and bool(transport.pending or send_queue(transport))


class _LoopDetector:
    """Finds out that a target is the proxy itself, however its address was written.

    A connection of the proxy to itself has two ends here, which have the same two addresses. The
    end that leads to the target is known first: from the moment in which it begins to connect."""

    def __init__(self) -> None:
        self._outgoing: dict[tuple[str, int], tuple[Proxy, socket.socket]] = {}

    def add(self, proxy: Proxy, sock: socket.socket, address: Any) -> None:
        """Note a socket that has begun to connect to a port of the proxy's own number."""
        if address[1] != proxy.client.getHost().port:
            return
        with contextlib.suppress(OSError):  # it has failed at once
            place = _comparable(sock.getsockname())
            self._outgoing[place] = proxy, sock
            proxy.outgoing += (place,)

    def origin(self, client: Connection) -> Proxy | None:
        """Return the proxy whose connection to a target this client is, if there is one."""
        if not self._outgoing:
            return None
        peer, host = client.getPeer(), client.getHost()
        found = self._outgoing.get(_comparable((peer.host, peer.port)))
        if found is None:
            return None
        proxy, sock = found
        try:
            there = _comparable(sock.getpeername())
        except OSError:  # it has been closed
            return None
        # A system may give one port number to two sockets whose peers are different.
        return proxy if there == _comparable((host.host, host.port)) else None

    def forget(self, proxy: Proxy) -> None:
        for place in proxy.outgoing:
            if place in self._outgoing and self._outgoing[place][0] is proxy:
                del self._outgoing[place]


def _comparable(address: Any) -> tuple[str, int]:
    """Return host and port; a port for both IPv6 and IPv4 writes 127.0.0.1 as ::ffff:127.0.0.1."""
    host, port = address[:2]
    mapped = host.startswith("::ffff:") and "." in host
    return host.rpartition(":")[2] if mapped else host, port


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
        self.loops = _LoopDetector()
        self._next_warning = -1.0

    def prepare_listening(self, sock: socket.socket) -> None:
        """Set the options that each client's socket inherits; called by the port, before doStart().

        Both options must be there before a client's first bytes."""
        hops.save_first_packets(sock)
        _keep_urgent_bytes(sock)

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
        _keep_urgent_bytes(sock)
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
        if not _is_ending(self.client):
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
