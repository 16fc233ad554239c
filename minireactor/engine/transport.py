"""The connections of an Engine: a Transport stands between the program and the small reactor."""

from __future__ import annotations

from typing import Any, Callable

from minireactor import error
from minireactor.address import format_address
from minireactor.basic import FileSender
from minireactor.core import flow
from minireactor.engine.loading import EngineError
from minireactor.failure import Failure, safe_repr
from minireactor.protocol import Protocol

TRANSPORT = (
    "write",
    "pending",
    "setWriteBufferLimits",
    "registerProducer",
    "unregisterProducer",
    "pauseProducing",
    "resumeProducing",
    "loseConnection",
    "loseWriteConnection",
    "abortConnection",
    "getPeer",
    "getHost",
    "socket",
)


class Bridge(Protocol):
    """The protocol that the small reactor calls: passes the calls on, and counts the bytes.

    place: the port or connector of the Engine, see `ports`."""

    def __init__(
        self, place: Any, protocol: Any, on_lost: Callable[[Failure], object] | None = None
    ) -> None:
        self._place = place
        self._protocol = protocol
        self._on_lost = on_lost

    def connectionMade(self) -> None:
        engine = self._place.reactor
        try:
            engine.check("transport", self.transport, TRANSPORT)
        except EngineError as reason:
            engine.fail(reason)
            return
        self.transport = outer = Transport(engine, self.transport, self._protocol)
        outer.setWriteBufferLimits(*self._place.marks)
        engine.notify("connectionMade", outer)
        engine.guard(outer, self._protocol.makeConnection, outer)

    def __getattr__(self, name: str) -> Any:
        if name not in ("readConnectionLost", "writeConnectionLost"):
            raise AttributeError(name)
        method = getattr(self.transport.protocol, name)  # AttributeError: it is not half-closeable
        return lambda: self._half_ended(name, method)

    def _half_ended(self, name: str, method: Callable[[], Any]) -> None:
        if name == "readConnectionLost":
            self.transport.read_ended = True
        else:
            self.transport.write_ended = True
        self.transport.reactor.guard(self.transport, method)

    def dataReceived(self, data: bytes) -> None:
        outer = self.transport
        outer.bytes_in += len(data)
        outer.reactor.guard(outer, outer.protocol.dataReceived, data)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        outer = self.transport
        if isinstance(outer, Transport):
            reason = outer.lost(as_failure(reason))
            if self._on_lost is not None:
                self._on_lost(reason)


def as_failure(reason: Any) -> Failure:
    """Return a small reactor's reason as a Failure: ConnectionDone for what is no exception."""
    if isinstance(reason, Failure):
        return reason
    return Failure(reason if isinstance(reason, BaseException) else error.ConnectionDone())


class Transport:
    """The transport that programs see: one of the small reactor, with counters and observers."""

    encrypted = False

    def __init__(self, engine: Any, inner: Any, protocol: Any) -> None:
        self.reactor = engine
        self.protocol = protocol
        self.state = "open"
        self.marks = (flow.HIGH, flow.LOW)
        self.producer: Any = None
        self.streamingProducer = False
        self.is_paused = False  # the producer is
        self.reading = True
        self.read_ended = self.write_ended = False
        self.bytes_in = 0
        self.pauses = 0
        self.highest_pending = 0
        self._inner = inner
        self._written = 0
        self._reason: Failure | None = None
        self.getPeer = inner.getPeer
        self.getHost = inner.getHost

    # Writing.

    @property
    def socket(self) -> Any:
        return self._inner.socket

    def getHandle(self) -> Any:
        return self._inner.socket

    def fileno(self) -> int:
        return int(self._inner.socket.fileno())

    @property
    def pending(self) -> int:
        return 0 if self.disconnected else int(self._inner.pending)

    @property
    def bytes_out(self) -> int:
        return self._written - (0 if self.state == "ending" else self.pending)

    @property
    def writing(self) -> bool:
        return self.pending > 0

    _flush_due = writing

    def write(self, data: Any) -> None:
        if self.write_ended or self.disconnected:
            return
        self._written += len(data)
        self._inner.write(data)
        self.highest_pending = max(self.highest_pending, self.pending)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def sendFile(self, file: Any) -> Any:
        """Send a file with a pull producer; return a Deferred."""
        return FileSender().beginFileTransfer(file, self)

    # Flow control.

    @property
    def flow_state(self) -> str:
        if self.write_ended or self.disconnected:
            return flow.CLOSED
        if self.producer is None:
            return flow.NONE
        if not self.streamingProducer:
            return flow.PULL
        return flow.PAUSED if self.is_paused else flow.FLOWING

    @property
    def bufferSize(self) -> int:
        return self.marks[0]

    def setWriteBufferLimits(self, high: int = flow.HIGH, low: int | None = None) -> None:
        self.marks = flow.checked_marks(high, low)
        self._inner.setWriteBufferLimits(*self.marks)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(
                f"cannot register {safe_repr(producer)}: "
                f"{safe_repr(self.producer)} is still registered; "
                "call unregisterProducer() first"
            )
        if self.disconnected:
            self.reactor.guard(self, producer.stopProducing)
            return
        self.producer = producer
        self.streamingProducer = streaming
        self.is_paused = False
        self._inner.registerProducer(Observed(self, producer), streaming)

    def unregisterProducer(self) -> None:
        self.producer = None
        self.is_paused = False
        self._inner.unregisterProducer()

    # Reading.

    def pauseProducing(self) -> None:
        self.reading = False
        self._inner.pauseProducing()

    def resumeProducing(self) -> None:
        if self.reading or self.state != "open":
            return
        self.reading = True
        self._inner.resumeProducing()
        if getattr(self.protocol, "has_buffered_input", False):
            self.reactor.call_soon(self.reactor.guard, self, self._deliver_buffered)

    def _deliver_buffered(self) -> None:
        if self.reading:
            self.protocol.dataReceived(b"")

    def stopProducing(self) -> None:
        self.loseConnection()

    # Endings.

    @property
    def disconnecting(self) -> bool:
        return self.state != "open"

    @property
    def disconnected(self) -> bool:
        return self.state == "closed"

    @property
    def connected(self) -> bool:
        return not self.disconnected

    def loseConnection(self) -> None:
        if self.state == "open":
            self.state = "closing"
            self.reading = False
            self._inner.loseConnection()

    def loseWriteConnection(self) -> None:
        if self.state == "open":
            self._inner.loseWriteConnection()

    def abortConnection(self) -> None:
        if self.state in ("open", "closing"):
            self.state = "ending"
            self.reading = False
            self.write_ended = True
            self._written = self.bytes_out  # the rest is dropped
            self._inner.abortConnection()

    def failed(self, reason: Failure) -> None:
        """End the connection: a callback has raised `reason`."""
        self._reason = self._reason or reason
        self.abortConnection()

    def target(self) -> Any:
        return self

    def __repr__(self) -> str:
        name = type(self.protocol or self).__name__
        return f"<{name} with {format_address(self.getPeer())}, {self.state}>"

    def lost(self, reason: Failure) -> Failure:
        """Notify observers and protocol; return the reason."""
        reason = self._reason or reason
        self._written = self.bytes_out
        self.state = "closed"
        self.reading = False
        protocol, self.protocol = self.protocol, None
        self.producer = None
        self.reactor.notify("connectionLost", self, reason)
        self.reactor.guard(self, protocol.connectionLost, reason)
        return reason


class Observed:
    """The producer that the small reactor calls. It notifies observers, then the producer."""

    def __init__(self, transport: Transport, producer: Any) -> None:
        self._transport = transport
        self._producer = producer

    def __repr__(self) -> str:
        return safe_repr(self._producer)

    def pauseProducing(self) -> None:
        self._transport.is_paused = True
        self._transport.pauses += 1
        self._call(flow.PAUSE)

    def resumeProducing(self) -> None:
        self._transport.is_paused = False
        self._call(flow.RESUME)

    def stopProducing(self) -> None:
        self._transport.producer = None
        self._call(flow.STOP)

    def _call(self, name: str) -> None:
        transport = self._transport
        transport.highest_pending = max(transport.highest_pending, transport.pending)
        transport.reactor.notify(name, transport)
        transport.reactor.guard(transport, lambda: getattr(self._producer, name)())
