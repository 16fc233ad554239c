"""Run a small reactor, such as `tiny`, under the servers of this package.

    reactor = Engine(load("tiny"))                   # or load("mine.py"), which defines Reactor
    Server(reactor, factory).listen("127.0.0.1", 1234)
    reactor.run()

The small reactor moves all bytes of all connections. An Engine adds what servers and views need
beside that: counters, observers, a guard around callbacks, calls from signal handlers. What the
class Reactor has to have:

    listenTCP(port, factory, interface=host)   returns a port, with the names in PORT
    connectTCP(host, port, factory)            for a proxy only; without it, no attempt succeeds
    callLater(delay, f)                        returns a call, with active() and cancel()
    run(), stop()

Its transports have to have the names in TRANSPORT. It calls the protocol's makeConnection(),
dataReceived() and connectionLost(), and readConnectionLost() and writeConnectionLost() if there are
such methods.
"""

from __future__ import annotations

import importlib.util
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from minireactor import error, log
from minireactor.address import format_address
from minireactor.basic import FileSender
from minireactor.core import flow
from minireactor.failure import Failure, safe_repr
from minireactor.internet import Reactor
from minireactor.protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from minireactor.core.handler import Handler


TINY = "tiny"
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
PORT = ("getHost", "stopListening", "socket")
BEAT = 0.02  # seconds between two looks at calls of signal handlers, and at readers


class EngineError(Exception):
    """A small reactor cannot be loaded, or has failed. The message is one line."""


def load(name: str) -> Any:
    """Return the class Reactor of `tiny`, or of the Python file at the path `name`.

    Raises EngineError if there is no such file, if running it raises, or if it has no Reactor."""
    if name == TINY:
        from minireactor import tiny

        return tiny.Reactor
    path = Path(name).absolute()
    if not path.is_file():
        raise EngineError(f"{name}: there is no such file; give core, {TINY} or a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise EngineError(f"{name}: it is no Python file; its name has to end with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as reason:
        raise EngineError(located(reason, name)) from reason
    try:
        return module.Reactor
    except AttributeError:
        raise EngineError(f"{name}: it defines no class Reactor") from None


def located(reason: BaseException, file: str) -> str:
    """Return an exception in one line, with the last line of `file` that it came through."""
    if isinstance(reason, SyntaxError):
        return f"{file}, line {reason.lineno}: {reason.msg}"
    frames = traceback.extract_tb(reason.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(file).absolute()]
    where = f"{file}, line {lines[-1]}" if lines else file
    return f"{where}: {type(reason).__name__}: {' '.join(str(reason).split())}"


class Engine(Reactor):
    """A reactor whose loop, ports and connections are those of a small reactor.

    make: makes the small reactor.
    file: the file that defines it, for messages."""

    def __init__(self, make: Callable[[], Any], file: str = TINY) -> None:
        try:
            self._inner = make()
        except Exception as reason:
            raise EngineError(located(reason, file)) from reason
        super().__init__(seconds=getattr(self._inner, "seconds", time.monotonic))
        self._file = file
        self._readers: list[Any] = []
        self._reason: EngineError | None = None

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run the small reactor until stop(). Raises EngineError if it fails."""
        self._started = True
        self.fireSystemEvent("startup")
        self.attempt(self._beat)
        try:
            self.attempt(self._inner.run)
        finally:
            self._started = self.running = False
        if self._reason is not None:
            raise self._reason

    def stop(self) -> None:
        if not self._started or self._stopping:
            raise error.ReactorNotRunning("call stop() once, while run() is active")
        self._stopping = True
        self.fireSystemEvent("shutdown")  # ends with crash()

    def crash(self) -> None:
        self._inner.stop()

    def fail(self, reason: EngineError) -> None:
        """End run() with this exception."""
        self._reason = self._reason or reason
        self._inner.stop()

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call of the small reactor. Raises EngineError if it raises."""
        try:
            return call(*args, **kwargs)
        except (error.CannotListenError, EngineError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as reason:
            raise EngineError(located(reason, self._file)) from reason

    def check(self, what: str, found: Any, names: Iterable[str]) -> None:
        """Raises EngineError if an object of the small reactor lacks one of these names."""
        missing = [name for name in names if not hasattr(found, name)]
        if missing:
            raise EngineError(f"{self._file}: a {what} lacks {', '.join(missing)}")

    def guard(self, handler: Any, call: Callable[..., Any], *args: Any) -> None:
        super().guard(handler, call, *args)

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        if not delay >= 0:
            raise ValueError(f"{delay!r} will not do: give a delay of 0 seconds or more")
        return self._inner.callLater(delay, lambda: self._call(f, a, k))

    def call_later_internal(self, delay: float, f: Callable[..., Any]) -> Any:
        return self.callLater(delay, f)

    def call_soon(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        self.callLater(0, f, *a, **k)

    def call_in_turn(self, f: Callable[[], Any], first: bool = False) -> None:
        self.callLater(0, f)

    def iterate(self, delay: float = 0) -> None:
        """Run one iteration, if the small reactor has iterate()."""
        self._look()
        self._inner.iterate(delay)

    def close(self) -> None:
        """Close all connections, if the small reactor has close()."""
        self._inner.close()

    def _beat(self) -> None:
        self._look()
        self.callLater(BEAT / 5 if self._readers else BEAT, self._beat)

    def _look(self) -> None:
        # A small reactor has neither a waker nor addReader().
        self._run_soon()
        for reader in list(self._readers):
            self._call(reader.doRead, (), {})

    def addReader(self, reader: Any) -> None:
        """Call `reader.doRead()` often; it has to expect that there is nothing to read."""
        if reader not in self._readers:
            self._readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        listening = Listening(self, factory)
        try:
            inner = self.attempt(self._inner.listenTCP, port, listening, interface=interface)
        except EngineError as reason:
            if isinstance(reason.__cause__, OSError):
                raise error.CannotListenError(interface, port, reason.__cause__) from reason
            raise
        self.check("port", inner, PORT)
        listening.opened(inner)
        return listening

    def connectTCP(
        self,
        host: Any,
        port: Any,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: Any = None,
    ) -> Any:
        connecting = Connecting(self, factory)
        connecting.connect(self._inner, host, port, timeout)
        return connecting

    def application_handlers(self) -> list[Handler]:
        return []


class Limited:
    """The watermarks of future connections of a port or a connector."""

    marks = (flow.HIGH, flow.LOW)

    def __init__(self, engine: Engine, factory: Any) -> None:
        self.reactor = engine
        self.factory = factory

    def setWriteBufferLimits(self, high: int = flow.HIGH, low: int | None = None) -> None:
        self.marks = flow.checked_marks(high, low)

    def setUnsentLimit(self, limit: int | None) -> None:
        """Do nothing: a small reactor leaves the kernel's buffers alone."""

    def built(self, address: Any) -> Any:
        """Return the factory's next protocol; None if it rejects the peer, or raises."""
        try:
            return self.factory.buildProtocol(address)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            log.err(None, f"in buildProtocol() of {safe_repr(self.factory)}")
            return None

    def doStart(self) -> None:
        self.factory.doStart()

    def doStop(self) -> None:
        self.factory.doStop()


class Listening(Limited):
    """The port that an Engine returns, and the factory that it gives to the small reactor."""

    def opened(self, port: Any) -> None:
        self._port = port
        self.stopListening = port.stopListening
        self.getHost = port.getHost

    def getHandle(self) -> Any:
        return self._port.socket

    def sockets(self) -> list[Any]:
        return [self._port.socket]

    def buildProtocol(self, address: Any) -> Any:
        protocol = self.built(address)
        return Bridge(self, protocol) if protocol is not None else Rejecting()


class Connecting(Limited):
    """The connector that an Engine returns, and the factory that it gives to the small reactor."""

    state = "disconnected"
    _bridge: Any = None
    _timer: Any = None

    def connect(self, inner: Any, host: Any, port: Any, timeout: float | None) -> None:
        self.state = "connecting"
        self.factory.doStart()
        self.factory.startedConnecting(self)
        if timeout is not None:
            late = Failure(error.TimeoutError())
            self._timer = self.reactor.callLater(timeout, self._failed, late)
        if hasattr(inner, "connectTCP"):
            self.reactor.attempt(inner.connectTCP, host, port, self)
        else:
            reason = error.ConnectError(string="this reactor has no connectTCP()")
            self.reactor.callLater(0, self._failed, Failure(reason))

    def startedConnecting(self, connector: Any) -> None:
        """Do nothing: the program's factory has been notified."""

    def buildProtocol(self, address: Any) -> Any:
        if self.state != "connecting":
            return Rejecting()
        self._end("connected")
        protocol = self.built(address)
        self._bridge = Rejecting() if protocol is None else Bridge(self, protocol, self._lost)
        return self._bridge

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self._failed(_failure(reason))

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        """Do nothing: _lost() is called."""

    def _failed(self, reason: Failure) -> None:
        if self.state == "connecting":
            self._end("disconnected")
            self.reactor.call_soon(self.factory.clientConnectionFailed, self, reason)
            self.reactor.call_soon(self.factory.doStop)

    def _lost(self, reason: Failure) -> None:
        self.state = "disconnected"
        self.reactor.call_soon(self.factory.clientConnectionLost, self, reason)
        self.reactor.call_soon(self.factory.doStop)

    def _end(self, state: str) -> None:
        self.state = state
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def disconnect(self) -> None:
        if self.state == "connecting":
            self._failed(Failure(error.UserError()))
        elif self._bridge is not None:
            self._bridge.transport.loseConnection()

    stopConnecting = disconnect


class Rejecting(Protocol):
    """Closes a connection that nobody wants."""

    def connectionMade(self) -> None:
        self.transport.loseConnection()


class Bridge(Protocol):
    """The protocol that the small reactor calls. It passes the calls on, and counts."""

    def __init__(
        self, place: Limited, protocol: Any, on_lost: Callable[[Failure], object] | None = None
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
            reason = outer.lost(_failure(reason))
            if self._on_lost is not None:
                self._on_lost(reason)


def _failure(reason: Any) -> Failure:
    if isinstance(reason, Failure):
        return reason
    return Failure(reason if isinstance(reason, BaseException) else error.ConnectionDone())


class Transport:
    """The transport that programs see: one of the small reactor, with counters and observers."""

    def __init__(self, engine: Engine, inner: Any, protocol: Any) -> None:
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
