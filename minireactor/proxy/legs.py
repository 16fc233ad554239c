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

import socket
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.error import ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.protocol import Protocol
from minireactor.streams import RateLimiter, pipe
from minireactor.transports.kernel import send_queue

if TYPE_CHECKING:
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
        if is_ending(near):
            far.loseConnection()
            return
    for near, far in ((a, b), (b, a)):
        sink = far if rate is None else pipe(RateLimiter(rate, reactor=near.reactor), far)
        kind = SplicingLeg if splice and CAN_SPLICE and rate is None else Leg
        near.protocol = kind(near, sink, far, on_lost)
        keep_urgent_bytes(near.socket)
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


def keep_urgent_bytes(sock: socket.socket) -> None:
    """Have urgent bytes (MSG_OOB) read in their place: a plain read leaves each of them out.

    If a second urgent byte arrives before this call, the first one may be lost."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    except OSError:
        pass  # it is closed, which is found out by reading


def is_ending(transport: Connection) -> bool:
    return transport.disconnecting or transport.disconnected


def _has_bytes_waiting(transport: Connection) -> bool:
    return transport.connected and bool(transport.pending or send_queue(transport))
