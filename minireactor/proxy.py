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

from typing import TYPE_CHECKING, Any, Callable

from minireactor import flow
from minireactor.address import host_port, shown
from minireactor.error import ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.log import logger
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.queues import send_queue
from minireactor.streams import RateLimiter, pipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.connector import Connector
    from minireactor.splice import PipeSource
    from minireactor.tcp import Connection

    OnLost = Callable[[Connection, Failure], object]

try:
    from minireactor.splice import CAN_SPLICE, splice_from
except ImportError:  # no fcntl: this is Windows
    CAN_SPLICE = False

# Bytes. A read of so many is sent straight on, and the next ones are spliced...
BULK = 64 * 1024
SMALL = 16 * 1024  # ...until two bring less than this, which a copy moves for less.


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
        except OSError:
            return 0  # what it is, the write pass finds out
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


class SplicingLeg(Leg):
    """A leg that leaves the moving to the kernel for as long as much comes in: see `splice`."""

    _was_small = False

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if len(data) >= BULK:
            self._was_small = False
            self.transport.divert(self._splice)

    def _splice(self) -> bool:
        """Instead of a read; true if it has to be one after all."""
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


def _is_ending(transport: Connection) -> bool:
    return transport.disconnecting or transport.disconnected


def _has_bytes_waiting(transport: Connection) -> bool:
    return transport.connected and bool(transport.pending or send_queue(transport))


class ProxyFactory(Factory):
    """For `listenTCP`: joins each client with a connection of its own to `host`, `port`.

    host, port: as for connectTCP; a name is looked up without blocking, and again after some time.
    timeout: seconds for each attempt to connect.
    high, low: the marks of the connections to the target, in bytes, see setWriteBufferLimits();
        those of the clients' are set at the port that listenTCP gives. ValueError.
    rate: bytes a second that pass in each direction of each client; None for no limit. ValueError.
    splice: whether the kernel may move the bytes, where it can, so that they need not be copied.

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
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self.marks = flow.checked_marks(high, low)
        if rate is not None:
            RateLimiter(rate)  # which says what is wrong with it now, and not to the first client
        self.rate = rate
        self.splice = splice

    def buildProtocol(self, addr: IPv4Address | IPv6Address | None) -> Any:
        return Proxy(self)

    def targets(self) -> Iterable[tuple[str, int | str]]:
        """(host, port) of those to try for one client, in turn, until one takes it."""
        return [(self.host, self.port)]

    def accepted(self, proxy: Proxy) -> None:
        """Its client is there."""

    def connected(self, proxy: Proxy) -> None:
        """Its client and its target are joined now."""

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        """It could not connect to `proxy.place`, and tries the next. Logged as a warning, here."""
        logger.warning("no connection to %s: %s", host_port(*proxy.place), reason.getErrorMessage())

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
        self._began = 0.0
        self._places: Iterator[tuple[str, int | str]] = iter(())
        self._connector: Connector | None = None

    def connectionMade(self) -> None:
        self.client = self.transport
        self.client.pauseProducing()
        self._began = self.client.reactor.seconds()
        self.factory.accepted(self)
        self._places = iter(self.factory.targets())
        self._try_next("there is none")

    def _try_next(self, last_error: str) -> None:
        place = next(self._places, None)
        if place is None:
            self.why = f"no target: {last_error}"
            self.client.loseConnection()
            return
        self.place = place
        reactor = self.client.reactor
        self._connector = reactor.connectTCP(*place, _Call(self), self.factory.timeout)
        self._connector.setWriteBufferLimits(*self.factory.marks)

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
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.disconnect()
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

    def _end(self) -> None:
        self.why = self.why or "closed in good order"
        self.seconds = self.client.reactor.seconds() - self._began
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

    def clientConnectionFailed(self, connector: Connector, reason: Failure) -> None:
        # On behalf of the client, which is to end if the factory raises: nobody else would end it.
        client = self._proxy.client
        client.reactor.guard(client, self._proxy.failed, reason)


class _Answer(Protocol):
    """The protocol of a target for the moment that it takes to join it with its client."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def connectionMade(self) -> None:
        self._proxy.found(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._proxy.client.loseConnection()
