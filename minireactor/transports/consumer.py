"""The consumer half of a connection: takes what the application writes, and calls its producer.

`write()` only appends. The bytes are pending until the kernel has taken them: the subclass sends
them, in a flush. Pending is compared with the two marks, see `flow`. A write that takes pending
above the high mark pauses the producer. A flush that takes pending down to the low mark resumes
the producer, in the producer's turn.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from minireactor.core import flow
from minireactor.core.buffer import LARGE, Source, WriteBuffer, as_bytes
from minireactor.transports.kernel import UnsentLimit, unsent_limit_for
from minireactor.transports.lifecycle import ENDING
from minireactor.transports.sendfile import FileSource
from minireactor.transports.sockets import Endpoint

if TYPE_CHECKING:
    from minireactor.address import Address
    from minireactor.core.flow import Producer, ProducerCall
    from minireactor.core.loop import Loop
    from minireactor.defer import Deferred


class Consumer(Endpoint):
    """Takes bytes and a producer. A subclass sends the bytes in doWrite(), and ends the stream."""

    __slots__ = (
        "_buffer",
        "_flow",
        "_flush_due",
        "_tail",
        "_tail_limit",
        "_to_resume",
        "_unsent",
        "highest_pending",
        "pauses",
    )

    # Three fields exist for speed alone.
    # - `_tail` is `_buffer.tail`: the small writes after the last large chunk. write() appends to
    #   the tail without a call.
    # - `_tail_limit` is the high mark less the bytes before the tail. A longer tail means that
    #   pending is above the high mark, so write() need not compute pending.
    # - `_flush_due` means that a call of doWrite() is certain: the connection is in `loop.flushes`,
    #   or waits until its socket is writable, or is inside doRead(). doRead() sets the flag, and
    #   calls doWrite() itself after dataReceived(), so an echo needs no entry in `loop.flushes`.
    # The plain version: write() appends to `_buffer`, adds the connection to `loop.flushes` if it
    # is not there, and compares `pending` with the high mark.

    def __init__(
        self,
        reactor: Loop,
        sock: socket.socket,
        peer: Address,
        marks: tuple[int, int],
        host: Address | None,
    ) -> None:
        super().__init__(reactor, sock, peer, host)
        self._flow = flow.FlowControl(*marks)
        self._buffer = WriteBuffer()
        self._tail = self._buffer.tail
        self._tail_limit = self._flow.high
        self._flush_due = False
        # These two have slots, although most connections never set them: an attribute in `__dict__`
        # makes each method call slower. Benchmark `lines`: 0.172 us -> 0.190 us a line with it.
        self._to_resume: Producer | None = None  # the producer that _resume_producer() will resume
        self._unsent: UnsentLimit | None = None  # set when the kernel first takes only a part
        self.highest_pending = 0
        self.pauses = 0

    def write(self, data: Any) -> None:
        """Queue bytes, a bytearray or a memoryview; the caller may change the data afterwards.

        Never sends at once. Does nothing once the connection or its write side has ended. Calls
        pauseProducing() of the registered producer if pending rises above the high mark. Raises
        TypeError if `data` is of another type.
        """
        # All in one function: one more call would cost as much as the append itself. Benchmark
        # `integers` calls write() once for each of a million integers.
        if data.__class__ is not bytes:
            data = as_bytes(data)
        if not self._flush_due and not (data and self._flush_soon()):
            return
        if len(data) < LARGE:
            tail = self._tail
            tail += data
            if len(tail) > self._tail_limit:
                self._signal(flow.ABOVE)
        else:
            self._seal(data)

    def writeSequence(self, iovec: Any) -> None:
        """Write an iterable of bytes. Raises TypeError if an item is of another type."""
        self.write(b"".join(map(as_bytes, iovec)))

    def write_source(self, source: Source) -> None:
        """Queue the bytes of a Source. These bytes, too, are pending until they are sent."""
        if source.left and self._flush_soon():
            self._seal(source)
        else:
            source.close()

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Deferred[int]:
        """Queue a part of a real file; return a Deferred of the number sent. See `sendfile`.

        count: by default, all bytes from `offset` on."""
        source = FileSource(self.reactor.call_soon, file, offset, count)
        self.write_source(source)
        return source.sent

    def _flush_soon(self) -> bool:
        """Make sure that a flush follows. Return False if no data is taken any more."""
        if self._state.write_ended:
            return False
        if not self._flush_due:
            self._flush_due = True
            self.reactor.flushes.append(self)
        return True

    def _seal(self, chunk: bytes | Source) -> None:
        self._buffer.append(chunk)
        self._tail_limit = self._flow.high - self._buffer.sealed
        if self._tail_limit < 0:
            self._signal(flow.ABOVE)

    # The producer and the marks.

    @property
    def producer(self) -> Producer | None:
        return self._flow.producer

    @property
    def streamingProducer(self) -> bool:
        return self._flow.streaming

    @property
    def flow_state(self) -> str:
        """The state of flow control: "none", "flowing", "paused", "pull" or "closed"."""
        return self._flow.state

    @property
    def marks(self) -> tuple[int, int]:
        """The high and the low mark, in bytes."""
        return self._flow.high, self._flow.low

    @property
    def pending(self) -> int:
        """How many bytes the application has written and the kernel has not yet taken."""
        return len(self._buffer)

    @property
    def blocked_since(self) -> float | None:
        """The time since which the kernel takes no byte; None if nothing waits for the kernel."""
        return self._unsent.filled_at if self._unsent is not None and self.writing else None

    @property
    def bufferSize(self) -> int:
        """The high mark. Setting it also sets the low mark, to a quarter of the high mark."""
        return self._flow.high

    @bufferSize.setter
    def bufferSize(self, high: int) -> None:
        self.setWriteBufferLimits(high)

    def setWriteBufferLimits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the high and low watermarks, in bytes; they apply at once.

        With `high` alone, low becomes a quarter of high. With `low` alone, high stays. Without
        both, the defaults return. Raises ValueError unless 0 <= low < high."""
        if high is None:
            high, low = (flow.HIGH, flow.LOW) if low is None else (self._flow.high, low)
        self._flow.high, self._flow.low = flow.checked_marks(high, low)
        self._tail_limit = self._flow.high - self._buffer.sealed
        self._unsent = self._unsent or UnsentLimit(self.socket)
        self._unsent.change(unsent_limit_for(self._flow.high))
        pending = len(self._buffer)
        if pending > self._flow.high:
            self._signal(flow.ABOVE)
        elif 0 < pending <= self._flow.low and self.writing:
            self.writing = False  # the flush does not wait for the poller to report the socket
            self.reactor.flushes.append(self)

    def registerProducer(self, producer: Producer, streaming: bool) -> None:
        """Let `producer` supply the data: a push producer if `streaming`, else a pull producer.

        If the connection has ended, calls stopProducing() of the producer at once. Raises
        RuntimeError if another producer is registered."""
        self._call_producer(self._flow.register(producer, streaming))

    def unregisterProducer(self) -> None:
        """Forget the producer, which has finished. Does nothing without a producer."""
        if self._flow.producer is not None:
            self._flow.fire(flow.UNREGISTERED)
            self._finish_soon()

    def stopConsuming(self) -> None:
        self.unregisterProducer()
        self.loseConnection()

    def _resume_in_turn(self) -> None:
        # A turn, because a thousand producers could fill their buffers inside one flush. All other
        # connections would then wait for seconds (rule T5).
        if self._to_resume is None:
            self.reactor.call_in_turn(self._resume_producer)
        self._to_resume = self._flow.producer

    def _resume_producer(self) -> None:
        producer, self._to_resume = self._to_resume, None
        if producer is not self._flow.producer:
            return  # the flush was for an earlier producer
        # Pending may have grown since. If so, the next flush asks for another turn.
        waits = self._flow.state in flow.WAITING and self._state is not ENDING
        if waits and len(self._buffer) <= self._flow.low:
            self._signal(flow.BELOW)

    def _signal(self, event: str) -> None:
        if self._flow.state is not flow.CLOSED:
            self._call_producer(self._flow.fire(event))

    def _call_producer(self, call: ProducerCall) -> None:
        if call is not None:
            producer, name = call
            if name is flow.PAUSE:
                self.pauses += 1
                self.highest_pending = max(self.highest_pending, self.pending)
            self.reactor.notify(name, self)
            self.reactor.guard(self, flow.call, producer, name)

    # What the subclass defines.

    def _finish_soon(self) -> None:
        """Arrange an end that waits until no bytes are pending and no producer is registered."""
        raise NotImplementedError

    def loseConnection(self) -> None:
        """Close once all written data has been sent and no producer is registered."""
        raise NotImplementedError
