"""A clock, transports and producers for the tests of programs: no socket, no waiting.

    clock = Clock()                        # callLater() and seconds(); clock.advance(5)
    transport = connected(MyProtocol())    # makeConnection() on a transport in memory
    StrictPushProducer(transport, chunks)  # raises if a call breaks the contract
    network = Network(seed)                # hosts, links, virtual time and faults: `simulation`
    simulate(scenario, seeds=1000)         # a scenario on many networks

The test plays the part of the reactor. It calls `protocol.dataReceived(data)`. It calls
`producer.resumeProducing()` where a connection would. It checks `transport.value()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import IPv4Address, IPv6Address
from minireactor.core import flow
from minireactor.core.buffer import as_bytes
from minireactor.defer import Deferred
from minireactor.error import ConnectionAborted, ConnectionDone
from minireactor.failure import Failure
from minireactor.task import Clock as Clock
from minireactor.transports.sendfile import FileSource

if TYPE_CHECKING:
    from minireactor.simulation.network import Network as Network
    from minireactor.simulation.network import SimulationError as SimulationError
    from minireactor.simulation.runner import simulate as simulate


class StringTransport:
    """A transport that keeps all written bytes in memory, and makes no calls by itself.

    It takes and refuses data as a connection does. It records the calls on it:

    value(): the bytes written. Data written after loseConnection() is still taken, as on a
        connection that waits to close. Data written after loseWriteConnection() or
        abortConnection() is dropped.
    disconnecting: loseConnection(), abortConnection() or stopProducing() was called.
    write_ended: loseWriteConnection() was called.
    aborting, disconnected: abortConnection() was called. `connected` is the opposite.
    producer, streaming: the arguments of registerProducer(), or None.
    producerState: the state of the transport as a producer of input: "producing", "paused" or,
        after stopProducing(), "stopped".
    reading: whether a connection would deliver input now.
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
        """Return the bytes written since the last `clear()`."""
        return self.io.getvalue()

    def clear(self) -> None:
        """Drop the bytes written so far."""
        self.io = BytesIO()

    # As a consumer.

    def write(self, data: Any) -> None:
        """Keep `data`, or drop it after an end. Raises TypeError if `data` is not bytes-like."""
        data = as_bytes(data)
        if not (self.disconnected or self.write_ended):
            self.io.write(data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(map(as_bytes, iovec)))

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Deferred[int]:
        """Write a part of a real file; return a Deferred that has already fired."""
        source = FileSource(lambda call, *results: call(*results), file, offset, count)
        self.write(os.pread(file.fileno(), source.size, offset))
        source.left = 0
        source.close()
        return source.sent

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Record the producer. The test makes all calls on it, also the first of a pull producer.

        After an end, calls `producer.stopProducing()` at once. Raises RuntimeError if another
        producer is registered."""
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
        """Record the high and low watermark. They have no effect: nothing is ever pending.

        Raises ValueError unless 0 <= low < high."""
        if high is None:
            high, low = (flow.HIGH, flow.LOW) if low is None else (self._high, low)
        self._high, self._low = flow.checked_marks(high, low)

    # As a producer of input.

    @property
    def reading(self) -> bool:
        return self.producerState == "producing" and not self.disconnecting

    def pauseProducing(self) -> None:
        if self.producerState == "producing":
            self.producerState = "paused"

    def resumeProducing(self) -> None:
        """Record that input may be delivered again.

        A connection would then let a line receiver deliver its buffered input. In a test, call
        `protocol.dataReceived(b"")` for that."""
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

    # The other methods of a connection.

    def getHost(self) -> IPv4Address | IPv6Address:
        return self.hostAddr

    def getPeer(self) -> IPv4Address | IPv6Address:
        return self.peerAddr

    def getHandle(self) -> None:
        """Return None: there is no socket."""

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
    """A StringTransport that also reports its end to `protocol`, which must be set.

    The end is reported from inside loseConnection() or abortConnection(); a connection would report
    it in a later loop iteration. First, stopProducing() of a registered producer is called. Then
    connectionLost(reason) of the protocol is called, once.
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
    """Connect `protocol` to `transport`, by default a new StringTransport; return the transport."""
    if transport is None:
        transport = StringTransport()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return transport


# Producers that check each call on them. The ids of the rules are those of `interfaces`: P is for
# push producers, U for pull producers, E for endings.

_FLOWING, _PAUSED, _STOPPED, _UNREGISTERED = "flowing", "paused", "stopped", "unregistered"

_AFTER_AN_END = {
    (state, call): rule
    for call in (flow.PAUSE, flow.RESUME, flow.STOP)
    for state, rule in (
        (_STOPPED, "E3: no call follows stopProducing()"),
        (_UNREGISTERED, "E4: no call follows unregisterProducer()"),
    )
}


class _StrictProducer:
    """The common part of both strict producers.

    chunks: the data to write, one chunk after the other; at their end the producer unregisters.
    on: functions to call from inside a call on the producer, by the name of that call:
        `on={"pauseProducing": transport.abortConnection}`.
    calls: the names of all calls on the producer, in order.
    written: the number of bytes written.
    state: "flowing", "paused", "stopped" or "unregistered".
    writing: whether a `write()` is under way.
    breaches: a message for each call that broke the contract.

    A breach raises AssertionError with a message that begins with the rule. A reactor logs the
    exceptions of producers and goes on. So end each test with `check()`, which raises again.

    To write or unregister from a test, call `write()` and `unregister()` of the producer, not those
    of the consumer. Otherwise the producer does not know its own state.
    """

    streaming: bool
    _breaches: Mapping[tuple[str, str], str] = _AFTER_AN_END
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
        """Register with the consumer. A push producer then begins to write."""
        self.state = _FLOWING
        self.consumer.registerProducer(self, self.streaming)

    def write(self, data: bytes) -> None:
        """Write `data` to the consumer."""
        outer, self.writing = self.writing, True
        try:
            self.consumer.write(data)
            self.written += len(data)
        finally:
            self.writing = outer

    def unregister(self) -> None:
        """Unregister from the consumer."""
        if self.state != _STOPPED:
            self.state = _UNREGISTERED
        self.consumer.unregisterProducer()

    def check(self) -> None:
        """Raise AssertionError, with all breaches and calls, if there was any breach."""
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
    """A push producer for tests, which writes until it is paused.

    These calls are breaches: a second pause, a resume without a pause, a resume from inside
    `write()`, and any call after stopProducing() or `unregister()`.
    """

    streaming = True
    _breach_in_write = "P3: resumeProducing() is called from the flush, never from inside write()"
    _breaches = {
        (_PAUSED, flow.PAUSE): "P2: pauseProducing() is called once for each upward crossing",
        (_FLOWING, flow.RESUME): "P3: pause and resume alternate, and registering does not resume",
        **_AFTER_AN_END,
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
    """A pull producer for tests, which writes one chunk each time that it is asked.

    A chunk that is None makes it write nothing. These calls are breaches: a pause, a call of
    resumeProducing() from inside `write()`, and any call after stopProducing() or `unregister()`.
    """

    streaming = False
    _breach_in_write = "U1: resumeProducing() is called from the flush, never from inside write()"
    _breaches = {
        (_FLOWING, flow.PAUSE): "U1: a pull producer is never paused",
        **_AFTER_AN_END,
    }

    _nothing_left = object()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        chunk: Any = next(self._chunks, self._nothing_left)
        if chunk is self._nothing_left:
            self.unregister()
        elif chunk is not None and self.state == _FLOWING:
            self.write(chunk)


def __getattr__(name: str) -> Any:
    """Load the simulated network when it is first used: most tests do not need it."""
    if name == "simulate":
        from minireactor.simulation.runner import simulate

        return simulate
    if name in ("Network", "SimulationError"):
        from minireactor.simulation import network

        return getattr(network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
