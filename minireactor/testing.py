"""Time, transports and producers for the tests of programs: no socket, no waiting.

    clock = Clock()                        # callLater() and seconds(); clock.advance(5)
    transport = connected(MyProtocol())    # makeConnection() on a transport in memory
    StrictPushProducer(transport, chunks)  # raises if it is not called by the contract

The test plays the reactor: it calls `protocol.dataReceived(data)`, and `producer.resumeProducing()`
where a connection would, and looks at `transport.value()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Callable

from minireactor.address import IPv4Address, IPv6Address
from minireactor.core import flow
from minireactor.core.buffer import as_bytes
from minireactor.core.timers import DelayedCall, TimerQueue
from minireactor.defer import Deferred
from minireactor.error import ConnectionAborted, ConnectionDone
from minireactor.failure import Failure
from minireactor.transports.sendfile import FileSource


class Clock:
    """The reactor's time for a test: it stands still but for `advance()`.

    `rightNow`: the time, in seconds, 0.0 at first.
    """

    rightNow = 0.0

    def __init__(self) -> None:
        self._timers = TimerQueue(self.seconds)

    def seconds(self) -> float:
        return self.rightNow

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> DelayedCall:
        """Call `f(*a, **k)` when `delay` more seconds have been advanced. TypeError, ValueError."""
        return self._timers.add(delay, f, a, k)

    def getDelayedCalls(self) -> list[DelayedCall]:
        """The calls to come, in the order in which they will."""
        return sorted(self._timers.calls(), key=lambda call: (call.time, call.serial))

    @property
    def calls(self) -> list[DelayedCall]:
        return self.getDelayedCalls()

    def advance(self, amount: float) -> None:
        """Let `amount` seconds pass, then make all calls that are due, in order.

        It is one step: a call sees the time of its end. Calls that these calls ask for come as
        well if they are due by then. What one raises comes out here, and those behind it wait
        for the next `advance()`.
        """
        self.rightNow += amount
        while self._timers.timeout(self.rightNow) == 0:
            self._timers.run_due(self.rightNow, _call)

    def pump(self, timings: Iterable[float]) -> None:
        """Advance by each of `timings`, one after the other."""
        for amount in timings:
            self.advance(amount)


def _call(f: Callable[..., Any], args: Any, kw: Any) -> None:
    f(*args, **kw)


class StringTransport:
    """A transport that keeps what is written and calls nobody: the test plays the reactor.

    It takes and refuses what a connection does, and remembers what was asked of it:

    - `value()`: the bytes written. As on a connection, more may be written after
      loseConnection(), while that waits, but not after the other two ways to end.
    - `disconnecting`: one of loseConnection(), abortConnection(), stopProducing() was called.
      `write_ended`: loseWriteConnection() was. `aborting`, `disconnected`: abortConnection()
      was; `connected` is the opposite.
    - `producer`, `streaming`: as registered, else None.
    - `producerState`: of the transport itself as a producer of input: "producing", "paused" or,
      after stopProducing(), "stopped". `reading`: whether a connection would deliver input now.
    """

    connected = True
    disconnected = False
    disconnecting = False
    aborting = False
    write_ended = False
    producer: Any = None
    streaming: bool | None = None
    producerState = "producing"
    protocol: Any = None
    hostAddr: IPv4Address | IPv6Address = IPv4Address("TCP", "10.0.0.1", 12345)
    peerAddr: IPv4Address | IPv6Address = IPv4Address("TCP", "192.168.1.1", 54321)
    io: BytesIO

    def __init__(
        self,
        hostAddress: IPv4Address | IPv6Address | None = None,
        peerAddress: IPv4Address | IPv6Address | None = None,
    ) -> None:
        if hostAddress is not None:
            self.hostAddr = hostAddress
        if peerAddress is not None:
            self.peerAddr = peerAddress
        self._high, self._low = flow.HIGH, flow.LOW
        self._no_delay = self._keep_alive = False
        self.clear()

    def value(self) -> bytes:
        """All that was written since the last `clear()`."""
        return self.io.getvalue()

    def clear(self) -> None:
        """Forget what was written."""
        self.io = BytesIO()

    # The consumer.

    def write(self, data: Any) -> None:
        data = as_bytes(data)
        if not (self.disconnected or self.write_ended):
            self.io.write(data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(map(as_bytes, iovec)))

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Deferred[int]:
        """Write that part of a real file. The Deferred has fired."""
        source = FileSource(lambda call, *results: call(*results), file, offset, count)
        self.write(os.pread(file.fileno(), source.size, offset))
        source.left = 0
        source.close()
        return source.sent

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Note the producer, without a call on it: pull producers too wait for the test's.

        RuntimeError if there is one already. After the end it gets stopProducing() at once."""
        if self.producer is not None:
            raise RuntimeError(
                f"cannot register {producer!r}: {self.producer!r} is still registered; "
                "call unregisterProducer() first"
            )
        if self.disconnected:
            producer.stopProducing()
        else:
            self.producer, self.streaming = producer, bool(streaming)

    def unregisterProducer(self) -> None:
        self.producer = self.streaming = None

    @property
    def streamingProducer(self) -> bool:
        return bool(self.streaming)

    def stopConsuming(self) -> None:
        self.unregisterProducer()
        self.loseConnection()

    @property
    def bufferSize(self) -> int:
        return self._high

    @bufferSize.setter
    def bufferSize(self, high: int) -> None:
        self.setWriteBufferLimits(high)

    def setWriteBufferLimits(self, high: int | None = None, low: int | None = None) -> None:
        """Checks and keeps the marks, of which nothing else comes. ValueError."""
        if high is None:
            high, low = (flow.HIGH, flow.LOW) if low is None else (self._high, low)
        self._high, self._low = flow.checked_marks(high, low)

    # The producer of input.

    @property
    def reading(self) -> bool:
        return self.producerState == "producing" and not self.disconnecting

    def pauseProducing(self) -> None:
        if self.producerState == "producing":
            self.producerState = "paused"

    def resumeProducing(self) -> None:
        """Note it. A connection would go on with input that the protocol holds, a little later:
        `protocol.dataReceived(b"")` does that."""
        if self.producerState == "paused" and not self.disconnecting:
            self.producerState = "producing"

    startReading = resumeProducing
    stopReading = pauseProducing

    def stopProducing(self) -> None:
        self.producerState = "stopped"
        self.loseConnection()

    # Endings.

    def loseConnection(self) -> None:
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self.write_ended = True

    def abortConnection(self) -> None:
        self.aborting = self.disconnecting = self.disconnected = True
        self.connected = False

    # What is left of a connection.

    def getHost(self) -> IPv4Address | IPv6Address:
        return self.hostAddr

    def getPeer(self) -> IPv4Address | IPv6Address:
        return self.peerAddr

    def getHandle(self) -> None:
        """There is no socket."""

    def fileno(self) -> int:
        return -1

    def getTcpNoDelay(self) -> bool:
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._keep_alive = bool(enabled)

    def logPrefix(self) -> str:
        return type(self.protocol).__name__


class StringTransportWithDisconnection(StringTransport):
    """A StringTransport that ends its `protocol`, which has to be set, as a connection does.

    Not on a later pass, for there is none, but from within the call that ends it: a registered
    producer gets stopProducing(), then the protocol connectionLost(reason), each once.
    """

    def loseConnection(self) -> None:
        super().loseConnection()
        self._end(ConnectionDone())

    def abortConnection(self) -> None:
        self.aborting = self.disconnecting = True
        self._end(ConnectionAborted())

    def _end(self, error: Exception) -> None:
        if self.disconnected:
            return
        self.connected, self.disconnected = False, True
        producer = self.producer
        self.unregisterProducer()
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(error))


def connected(protocol: Any, transport: Any = None) -> Any:
    """The transport, a new StringTransport if none is given, after `protocol.makeConnection`."""
    if transport is None:
        transport = StringTransport()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return transport


# Producers that know their rights. The rules are the consumer's: P for push, U for pull
# producers, E for endings.

_FLOWING, _PAUSED, _STOPPED, _GONE = "flowing", "paused", "stopped", "unregistered"

_AFTER_THE_END = {
    (state, call): rule
    for call in (flow.PAUSE, flow.RESUME, flow.STOP)
    for state, rule in (
        (_STOPPED, "E3: no call comes after stopProducing()"),
        (_GONE, "E4: no call comes after unregisterProducer()"),
    )
}


class _StrictProducer:
    """What both share: a script, a memory, and a list of what must not happen.

    `chunks`: what it writes, one after the other; it unregisters when there are no more. `on`:
    functions, by the name of a call, to be run within that call: `on={"pauseProducing":
    transport.abortConnection}`. Use `write()` and `unregister()`, not the consumer's, so that it
    knows where it stands.

    A breach of the contract is an AssertionError that begins with the rule. Reactors log what
    producers raise, hence the breach is kept as well, in `breaches`: end each test with
    `check()`. `calls`: the names of all calls, in order. `written`: bytes. `state`: "flowing",
    "paused", "stopped" or "unregistered". `writing`: whether a `write()` is under way.
    """

    streaming: bool
    _breaches: Mapping[tuple[str, str], str] = _AFTER_THE_END
    _breach_in_write: str

    def __init__(
        self,
        consumer: Any,
        chunks: Iterable[bytes | None] = (),
        on: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self.consumer = consumer
        self.calls: list[str] = []
        self.breaches: list[str] = []
        self.state = _FLOWING
        self.writing = False
        self.written = 0
        self._chunks = iter(chunks)
        self._on = dict(on or {})

    def start(self) -> None:
        """Register with the consumer; a push producer then begins to write."""
        self.state = _FLOWING
        self.consumer.registerProducer(self, self.streaming)

    def write(self, data: bytes) -> None:
        outer, self.writing = self.writing, True
        try:
            self.consumer.write(data)
            self.written += len(data)
        finally:
            self.writing = outer

    def unregister(self) -> None:
        if self.state != _STOPPED:
            self.state = _GONE
        self.consumer.unregisterProducer()

    def check(self) -> None:
        """AssertionError if there has been any breach."""
        if self.breaches:
            raise AssertionError(f"{'; '.join(self.breaches)} (calls: {', '.join(self.calls)})")

    def pauseProducing(self) -> None:
        self._enter(flow.PAUSE, _PAUSED)

    def resumeProducing(self) -> None:
        self._enter(flow.RESUME, _FLOWING)

    def stopProducing(self) -> None:
        self._enter(flow.STOP, _STOPPED)

    def _enter(self, call: str, state: str) -> None:
        self.calls.append(call)
        breach = self._breaches.get((self.state, call))
        if breach is None and call == flow.RESUME and self.writing:
            breach = self._breach_in_write
        if breach is not None:
            self.breaches.append(breach)
            raise AssertionError(breach)
        self.state = state
        if call in self._on:
            self._on[call]()


class StrictPushProducer(_StrictProducer):
    """A push producer for tests: it writes until it is paused.

    Fails when it is paused twice, resumed without a pause or from inside `write()`, and on any
    call after stopProducing() or `unregister()`.
    """

    streaming = True
    _breach_in_write = "P3: resumeProducing() comes from the write pass, never from inside write()"
    _breaches = {
        (_PAUSED, flow.PAUSE): "P2: pauseProducing() comes once for each upward crossing",
        (_FLOWING, flow.RESUME): "P3: pause and resume alternate, and registering does not resume",
        **_AFTER_THE_END,
    }

    def start(self) -> None:
        super().start()
        self._produce()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._produce()

    def _produce(self) -> None:
        while self.state == _FLOWING:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.unregister()
            else:
                self.write(chunk)


class StrictPullProducer(_StrictProducer):
    """A pull producer for tests: each time it is asked, it writes one chunk; for None, nothing.

    Fails when it is paused, asked from inside `write()`, and on any call after stopProducing()
    or `unregister()`.
    """

    streaming = False
    _breach_in_write = "U1: resumeProducing() comes from the write pass, never from inside write()"
    _breaches = {
        (_FLOWING, flow.PAUSE): "U1: a pull producer is asked or not, it is never paused",
        **_AFTER_THE_END,
    }

    _nothing_left = object()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        chunk: Any = next(self._chunks, self._nothing_left)
        if chunk is self._nothing_left:
            self.unregister()
        elif chunk is not None and self.state == _FLOWING:
            self.write(chunk)
