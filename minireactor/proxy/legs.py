"""Join two connections, so that each is the producer and the consumer of the other.

    join(a, b)                                                     # two connected transports
    reactor.listenTCP(8080, ProxyFactory("example.internal", 80))  # joins each client to a target

A transport produces the bytes that it reads, and consumes the bytes that are written to it. To
join two transports is to register each as the producer of the other. If a peer reads too slowly,
its transport goes above the high watermark and pauses the other transport, which stops reading.
The kernel's buffers then fill up, and the distant writer has to wait. This module counts no bytes
for that.

How an end travels, from the near transport of a leg to the far one:

    near                                what happens to far
    sends the end of its stream         its write side is closed after its pending bytes
    is closed (ConnectionDone)          far is closed after its pending bytes
    is reset or aborted                 far is aborted too, so that a truncated stream is not taken
                                        for a complete one
    is reset after the end of its       far is closed after these bytes, because they are the whole
    stream, with bytes for far on       stream
    their way
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
from minireactor.transports.connection import Connection
from minireactor.transports.kernel import send_queue

if TYPE_CHECKING:
    from minireactor.core.buffer import Source
    from minireactor.core.loop import Loop
    from minireactor.interfaces import IConsumer

    OnLost = Callable[[Connection, Failure], object]

try:
    from minireactor.transports.splice import CAN_SPLICE, splice_from
except ImportError:  # no fcntl: this is Windows
    CAN_SPLICE = False

# Bytes. A read of this size is bulk data. It is sent on at once, and splice() replaces the next
# reads.
BULK = 64 * 1024
# Bytes. After two splices in a row of less than this, reading resumes: copying is cheaper then.
SMALL = 16 * 1024

# Seconds of one loop iteration for bulk transfers, multiplied by the number of waiting legs. A leg
# that still waits is reported as readable again, which costs a microsecond: a twentieth of this.
TURN_SECONDS = 0.000025


def _can_splice(near: Connection, far: Connection) -> bool:
    """Return whether the kernel can move the bytes of `near` to `far`."""
    if not CAN_SPLICE or near.encrypted or far.encrypted:
        return False
    return isinstance(near, Connection) and near.reactor.system.has_splice


def join(
    a: Connection,
    b: Connection,
    rate: float | None = None,
    on_lost: OnLost | None = None,
    splice: bool = True,
    urgent: bool = True,
) -> None:
    """Pass the bytes and the end of each transport on to the other, from now on.

    Both transports get a Leg as their protocol, and begin to read. Their own protocols get no more
    calls. Before joining, write to the other side what a protocol has read and not used. If one
    transport is closing already, the other one is closed too.

    rate: bytes a second in each direction; None for no limit.
    on_lost: called as `on_lost(transport, reason)` when a transport is lost.
    splice: allow splice() for bulk data, where the system has it and there is no rate.
    urgent: set the option of keep_urgent_bytes(); not needed on sockets that have it.

    Raises RuntimeError if one of the two has a producer."""
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
        splices = splice and rate is None and _can_splice(near, far)
        kind = SplicingLeg if splices else Leg
        near.protocol = kind(near, sink, far, on_lost)
        if urgent:
            keep_urgent_bytes(near.socket)
        near.resumeProducing()
        sink.registerProducer(near, True)
    for near in (a, b):
        if near.read_ended:  # the end came before: the transport does not report it twice
            near.protocol.readConnectionLost()


class Leg(Protocol):
    """Pass one direction on: bytes that `near` reads are written to `sink`, which leads to `far`.

    `sink` is `far` itself, or a rate limiter that feeds it. Such a limiter is the registered
    producer of `far`, so `far` does not close before the limiter has passed on its bytes."""

    connected = 1
    # Called when `near` has ended, or is lost, before its peer has sent a byte.
    on_silent_end: Callable[[], object] | None = None

    def __init__(
        self, near: Connection, sink: IConsumer, far: Connection, on_lost: OnLost | None = None
    ) -> None:
        self.transport: Connection = near
        self.sink = sink
        self.far = far
        self._on_lost = on_lost
        self._has_all_input = False  # near has sent the end of its stream

    def dataReceived(self, data: bytes) -> None:
        if len(data) >= BULK and self._may_send_now():
            sent = self._send(self.far.socket.send, data)
            if sent < len(data):
                self.far.write(data[sent:])
        else:
            self.sink.write(data)

    def _may_send_now(self) -> bool:
        """Return whether bulk data may be sent at once, because nothing is pending before it.

        The data is still in the CPU cache, and `near` need not be paused and resumed. Without this
        shortcut, benchmarks `proxy-1` and `proxy-100` take a sixth more CPU with --copy, and a
        third more with splice()."""
        far = self.far
        if not isinstance(far, Connection):
            return False  # of another reactor, whose write() it is for
        is_free = far.state == "open" and far.producer is self.transport and not far.pending
        return is_free and not far.encrypted

    def _send(self, send: Callable[..., int], *args: Any) -> int:
        try:
            sent = send(*args)
        except BlockingIOError:
            return 0
        except OSError as error:
            # The system reports a reset only once. A later read would report the end of the stream.
            self.far.failed(Failure(ConnectionLost(error)))
            return 0
        self.far.bytes_out += sent
        return sent

    def readConnectionLost(self) -> None:
        self._has_all_input = True
        if self.on_silent_end is not None and not self.transport.bytes_in:
            self.on_silent_end()
        self.sink.unregisterProducer()
        self.far.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing. A protocol that has this method is half-closeable."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        far = self.far
        if self.on_silent_end is not None and not self.transport.bytes_in:
            self.on_silent_end()
        self.sink.unregisterProducer()
        if reason.check(ConnectionDone) or (self._has_all_input and _has_bytes_waiting(far)):
            far.loseConnection()
        else:
            far.abortConnection()
        if self._on_lost is not None:
            self._on_lost(self.transport, reason)


class Turns:
    """Let the legs that move bulk data take turns, so that other ready sockets go first.

    One splice of a full pipe takes some tenths of a millisecond. Measured: the round trip of one
    byte beside twenty such streams, 99th percentile: 34 to 67 ms without turns, 7 to 28 ms with
    turns, 11 to 23 ms with --copy. The CPU time per byte is the same."""

    def __init__(self) -> None:
        self._queue: deque[SplicingLeg] = deque()
        self._last = 0  # id() of the leg that had the last turn

    def has(self, leg: SplicingLeg) -> bool:
        """Return whether `leg` may read now; if not, its transport reads when its turn comes."""
        if self._last == id(leg) and not self._queue:
            return True  # no other leg moves bulk data
        if not leg.is_queued:
            leg.is_queued = True
            self._queue.append(leg)
            if len(self._queue) == 1:
                reactor = leg.transport.reactor
                reactor.call_soon(self._run, reactor)
        return False

    def _run(self, reactor: Loop) -> None:
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


_turns: weakref.WeakKeyDictionary[Loop, Turns] = weakref.WeakKeyDictionary()  # by reactor


def _turns_of(reactor: Loop) -> Turns:
    """Return the Turns of a reactor."""
    turns = _turns.get(reactor)
    if turns is None:
        turns = _turns[reactor] = Turns()
    return turns


class SplicingLeg(Leg):
    """A leg that lets the kernel move bulk data from socket to socket: see `transports.splice`."""

    is_queued = False
    has_turn = False
    _was_small = False

    def dataReceived(self, data: bytes) -> None:
        if len(data) < BULK:
            self.sink.write(data)
        else:
            super().dataReceived(data)
            self._was_small = False
            self._turns = _turns_of(self.transport.reactor)
            self.transport.set_read_hook(self._splice)

    def _splice(self) -> bool:
        """Move bytes in place of a read; return True if the transport must read after all."""
        if not self.has_turn and not self._turns.has(self):
            return False
        # With more bytes pending, each further splice would occupy one more pipe.
        if self.far.pending > SMALL:
            return True
        try:
            source = splice_from(self.transport.socket)
        except OSError as error:
            self.transport.connectionLost(Failure(ConnectionLost(error)))
            return False
        if source is None:
            self.transport.set_read_hook(None)
            return True
        self.transport.bytes_in += source.left
        # One small splice is usually the tail of a larger write. Going back to copying after the
        # first one costs 50 % more CPU in the benchmark `proxy-1`, hence two in a row.
        was_small, self._was_small = self._was_small, source.left < SMALL
        if was_small and self._was_small:
            self.transport.set_read_hook(None)
        self._pass_on(source)
        return False

    def _pass_on(self, source: Source) -> None:
        if self._may_send_now():
            source.left -= self._send(source.send_to, self.far.socket, source.left)
        self.far.write_source(source)


def keep_urgent_bytes(sock: socket.socket) -> None:
    """Let urgent bytes (MSG_OOB) be read in their place in the stream.

    Without this option, a plain read leaves out each urgent byte. If a second urgent byte arrives
    before this call, the first one may be lost."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    except OSError:
        pass  # the socket is closed, which the next read reports


def is_ending(transport: Connection) -> bool:
    """Return whether a transport is closing or closed."""
    return transport.disconnecting or transport.disconnected


def _has_bytes_waiting(transport: Connection) -> bool:
    """Return whether a transport or its kernel has bytes that the peer has not acknowledged."""
    return transport.connected and bool(transport.pending or send_queue(transport.socket))
