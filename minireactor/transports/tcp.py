"""A TCP connection: the transport that a protocol writes to, and reads through.

It is a consumer of what the application writes, see `flow`, and itself a push producer of what
it reads. How it ends is a table of states and events, in which it never goes back: see `lifecycle`.

`write()` only appends. The write pass sends, once for each connection and just before the loop
sleeps, so that a thousand small writes cost one system call; only when the kernel takes less
than all of it does the connection wait to be told that it is writable. What a connection writes
while its own input is handled does not even wait for the pass, but goes out right after that.

Small writes are thus gathered already, and TCP is asked not to wait for more (TCP_NODELAY): with
that delay, the last bytes of each send stay behind until the peer has acknowledged the others,
and the work `stream-back` takes twice the CPU.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import IPv4Address, IPv6Address
from minireactor.core import flow
from minireactor.core.buffer import LARGE, Source, WriteBuffer, as_bytes
from minireactor.core.poller import READ, WRITE
from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.transports import lifecycle
from minireactor.transports.kernel import UnsentLimit, unsent_limit_for
from minireactor.transports.lifecycle import CLOSED, CLOSING_SILENT, ENDING, OPEN, WRITE_CLOSED
from minireactor.transports.sendfile import FileSource
from minireactor.transports.sockets import Endpoint

if TYPE_CHECKING:
    from minireactor.core.loop import Loop
    from minireactor.defer import Deferred

# A connection's share of one pass, in bytes, so that a fast peer starves nobody. Reads start
# small and grow while they come back full: 64-byte messages want no 256 KiB to land in.
SMALLEST_READ = 4 * 1024
LARGEST_READ = 256 * 1024
LARGEST_SEND = 1024 * 1024
# Bytes that one read and one send of them move on loopback, about. Converts time into bytes.
BYTES_PER_SECOND = 1_000_000_000
SMALLEST_SHARE = 16 * 1024  # with less, system calls cost more than the bytes do

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class Connection(Endpoint):
    """The transport of one protocol. Made by a Port or a Connector; see `interfaces.ITransport`.

    `on_lost(reason)` is called last of all, after the protocol's connectionLost. `state` is "open",
    "closing", "ending" or "closed"; `read_ended` and `write_ended` tell of each direction.
    """

    __slots__ = (
        "_buffer",
        "_flow",
        "_flush_due",
        "_input_due",
        "_on_lost",
        "_read_hook",
        "_read_size",
        "_reason",
        "_state",
        "_tail",
        "_tail_limit",
        "bytes_in",
        "bytes_out",
        "disconnecting",
        "highest_pending",
        "pauses",
        "read_ended",
    )

    # Three fields are there for speed alone. Benchmarks asked for them; in words they say:
    # - `_tail` is `_buffer.tail`, the small writes that nothing large follows. write() adds to it
    #   without a call.
    # - `_tail_limit` is the high mark less the bytes before the tail. A tail that is longer means
    #   that pending is above the high mark. write() need not count pending for that.
    # - `_flush_due` means that doWrite() will be called without anybody asking for it again: the
    #   connection is in `loop.flushes`, or waits until it is writable, or is inside doRead(), which
    #   calls doWrite() itself after dataReceived(). The last is for echoes: no list is needed then.
    # The plain version: write() appends to `_buffer`, puts the connection into `loop.flushes` once,
    # and compares `pending` with the high mark.

    # Most connections never set these: the class has the default, and no connection pays a slot.
    _turn_for: Any = None  # the producer that is going to be resumed
    _unsent: UnsentLimit | None = None  # once the kernel has been full

    def __init__(
        self,
        reactor: Loop,
        sock: socket.socket,
        peer: IPv4Address | IPv6Address,
        marks: tuple[int, int] = (flow.HIGH, flow.LOW),
        on_lost: Callable[[Failure], None] | None = None,
        host: IPv4Address | IPv6Address | None = None,
    ) -> None:
        super().__init__(reactor, sock, peer, host)
        self._on_lost = on_lost
        self._state = OPEN
        self.disconnecting = False  # this side has asked for the end; nothing here depends on it
        self._reason: Failure | None = None  # why it is ENDING
        self.read_ended = False  # the peer has sent its end of the stream
        self._read_size = SMALLEST_READ
        self._input_due = False  # a line receiver gets its buffered input before the next read
        self._read_hook: Callable[[], bool] | None = None  # see divert()
        self._flow = flow.FlowControl(*marks)
        self._buffer = WriteBuffer()
        self._tail = self._buffer.tail
        self._tail_limit = self._flow.high
        self._flush_due = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.highest_pending = 0
        self.pauses = 0

    def start(self, protocol: Any) -> None:
        """Introduce the two to each other, then begin to read."""
        self.protocol = protocol
        self.reading = True
        self.reactor.attach(self)
        self.reactor.tell("connectionMade", self)
        self.reactor.guard(self, protocol.makeConnection, self)
        if self.reactor.knows(self):
            self.reactor.guard(self, self.reactor.arm, self)

    # Writing.

    def write(self, data: Any) -> None:
        """Queue bytes, bytearray or memoryview, which may change afterwards. TypeError.

        Never sends on the spot; does nothing once the connection or its write side has ended.
        Calls the registered producer's pauseProducing() if this takes pending over the high mark.
        """
        # All in one function: when each of a million integers is a write of its own, as in the
        # work `integers`, one more call would cost as much as the append itself.
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
        """Write all of an iterable of bytes or, on a TypeError, none of it."""
        self.write(b"".join(map(as_bytes, iovec)))

    def write_source(self, source: Source) -> None:
        """Queue bytes that are elsewhere. They are pending until they are sent, as any."""
        if source.left and self._flush_soon():
            self._seal(source)
        else:
            source.close()

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Deferred[int]:
        """Queue a part of a real file, by default all from `offset` on: see `sendfile`."""
        source = FileSource(self.reactor.call_soon, file, offset, count)
        self.write_source(source)
        return source.sent

    def _flush_soon(self) -> bool:
        """See to it that a write pass comes. False: nothing is taken any more."""
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

    def doWrite(self) -> None:
        """The write pass: one send, then whatever has been waiting for it."""
        if not self._flush_due:
            return
        tail = self._tail
        before = len(tail) + self._buffer.sealed
        had_to_wait = self.writing
        if before > self.highest_pending:
            self.highest_pending = before
        try:
            if self._buffer.sealed or before > LARGEST_SEND:
                sent = self._send_chunks()
            else:
                sent = self.socket.send(tail) if before else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.connectionLost(Failure(ConnectionLost(error)))
            return
        except ConnectionAborted as error:  # a source has fewer bytes than it said
            self._end_soon(Failure(error))
            return
        self.bytes_out += sent
        if sent == before and not self._buffer.sealed:
            pending = 0
            tail.clear()
        else:
            pending = self._buffer.advance(sent)
            self._tail_limit = self._flow.high - self._buffer.sealed
        self._flush_due = self.writing = pending > 0
        if had_to_wait and self._unsent is not None:
            self._unsent.emptied(self.reactor.seconds())
        if pending:
            if self._unsent is None:
                self._unsent = UnsentLimit(self.socket)
            self._unsent.filled(self.reactor.seconds())
            if self.armed is None or not self.armed & WRITE:
                self.reactor.arm(self)
        if before and pending <= self._flow.low and self._flow.state in flow.WAITING:
            self._resume_in_turn()
        if self._state.finishes:
            self._end_of_writing()

    def _send_chunks(self) -> int:
        limit = min(LARGEST_SEND, self.share_in_bytes())
        first, *others = chunks = self._buffer.peek(limit)
        if isinstance(first, Source):
            return first.send_to(self.socket, limit)
        return self.socket.sendmsg(chunks) if others and _HAS_SENDMSG else self.socket.send(first)

    def _end_of_writing(self) -> None:
        if len(self._buffer) or self._flow.producer is not None:
            return
        if self._fire(lifecycle.FLUSHED):
            if self._state is CLOSED:
                self._close(Failure(ConnectionDone()))
            else:
                self._end_write_side()

    def _end_write_side(self) -> None:
        self._flush_due = False
        self._flow.fire(flow.ENDED)
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.connectionLost(Failure(ConnectionLost(error)))
            return
        if self.is_half_closeable():
            self.protocol.writeConnectionLost()
        self._close_if_both_ended()

    # Flow control: see `flow`.

    @property
    def producer(self) -> Any:
        return self._flow.producer

    @property
    def streamingProducer(self) -> bool:
        return self._flow.streaming

    @property
    def pending(self) -> int:
        """Bytes that the application has written and the kernel has not yet taken."""
        return len(self._buffer)

    @property
    def bufferSize(self) -> int:
        """The high mark; setting it sets the low mark to a quarter of it."""
        return self._flow.high

    @bufferSize.setter
    def bufferSize(self, high: int) -> None:
        self.setWriteBufferLimits(high)

    def setWriteBufferLimits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, in bytes, 0 <= low < high, from now on: a ValueError otherwise.

        Only `high`: low is a quarter of it. Only `low`: high stays. Neither: the defaults."""
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
            self.writing = False  # the write pass will come first
            self.reactor.flushes.append(self)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let `producer` supply the bytes: pushing if `streaming`, else pulled. RuntimeError if
        there is one already. On a connection that has ended, it gets stopProducing() at once."""
        self._call_producer(self._flow.register(producer, streaming))

    def unregisterProducer(self) -> None:
        """The producer has finished. Without one, nothing happens."""
        self._flow.fire(flow.UNREGISTERED)
        self._finish_soon()

    def stopConsuming(self) -> None:
        self.unregisterProducer()
        self.loseConnection()

    def _resume_in_turn(self) -> None:
        # Not at once: a thousand producers that fill their buffers inside one flush would keep
        # everybody else waiting for seconds (rule T5).
        if self._turn_for is None:
            self.reactor.call_in_turn(self._resume_producer)
        self._turn_for = self._flow.producer

    def _resume_producer(self) -> None:
        producer, self._turn_for = self._turn_for, None
        if producer is not self._flow.producer:
            return  # the flush was for the one before it
        # Pending may have grown since. If so, the next flush asks for another turn.
        waits = self._flow.state in flow.WAITING and self._state is not ENDING
        if waits and len(self._buffer) <= self._flow.low:
            self._signal(flow.BELOW)

    def _signal(self, event: str) -> None:
        if self._flow.state is not flow.CLOSED:
            self._call_producer(self._flow.fire(event))

    def _call_producer(self, call: Callable[[], Any] | None) -> None:
        if call is not None:
            name = call.__name__
            if name == flow.PAUSE:
                self.pauses += 1
                self.highest_pending = max(self.highest_pending, self.pending)
            self.reactor.tell(name, self)
            self.reactor.guard(self, call)

    # Reading.

    def doRead(self) -> None:
        if self._input_due and not self._deliver_buffered():
            return
        if self._read_hook is not None and not self._read_hook():
            return
        size = self._read_size
        if size > SMALLEST_READ:
            size = min(size, self.share_in_bytes())
        try:
            data = self.socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.connectionLost(Failure(ConnectionLost(error)))
            return
        count = len(data)
        if count == size or size > SMALLEST_READ:
            self._adapt(count, size)
        if not data:
            if not self.read_ended:
                self._end_of_reading()
            return
        self.bytes_in += count
        if self._flush_due or self._state.write_ended:
            self.protocol.dataReceived(data)
            return
        # Data written during dataReceived is sent at once, while it is in the processor's caches.
        # Benchmark `echo`: 10 % less CPU than waiting for the flush; `stream-back`: 40 % less.
        # So the flush is due although `loop.flushes` does not have this connection: it comes below.
        self._flush_due = True
        try:
            self.protocol.dataReceived(data)
        except BaseException:
            self.reactor.flushes.append(self)
            raise
        if self._tail or self._buffer.sealed or self._state.finishes:
            self.doWrite()
        else:
            self._flush_due = False

    def _adapt(self, count: int, size: int) -> None:
        if count == size:
            self._read_size = min(self._read_size * 4, LARGEST_READ)
        elif count * 4 < size:
            self._read_size = max(self._read_size // 2, SMALLEST_READ)

    def share_in_bytes(self) -> int:
        """Return how many bytes this connection may move in this iteration: see Loop.share."""
        share = self.reactor.share
        return max(SMALLEST_SHARE, int(share * BYTES_PER_SECOND)) if share else SMALLEST_READ

    def wanted(self) -> int:
        # After the peer's end, `reading` only means that a line receiver may deliver what it has
        # buffered.
        reads = self.reading and not self.read_ended
        return (READ if reads else 0) | (WRITE if self.writing else 0)

    def _end_of_reading(self) -> None:
        self.read_ended = True
        if self.is_half_closeable():
            self.reactor.arm(self)
            self.protocol.readConnectionLost()
            self._close_if_both_ended()
        elif self._fire(lifecycle.END_OF_INPUT):
            self._close(Failure(ConnectionDone()))

    def _close_if_both_ended(self) -> None:
        ended = self.read_ended and self._state is WRITE_CLOSED
        if ended and self._fire(lifecycle.END_OF_INPUT):
            self._close(Failure(ConnectionDone()))

    def pauseProducing(self) -> None:
        """Stop reading at once, until `resumeProducing()`. The peer's end of the stream waits with
        the bytes before it; a reset does not."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Read again; nothing happens unless the connection is open and its peer may send."""
        if self.reading or not self._state.reads:
            return
        self.reading = True
        if self.armed is None or not self.armed & READ:
            self.reactor.arm(self)
        # If a line receiver still buffers input from before the pause, deliver that first. Reading
        # more before would let its buffer grow without bound.
        if getattr(self.protocol, "holds_input", False):
            self._input_due = True
            self.reactor.call_soon(self.reactor.guard, self, self._deliver_buffered)

    def _deliver_buffered(self) -> bool:
        """Deliver what a line receiver has buffered; return whether a read may follow."""
        if self._input_due and self.reading:
            self._input_due = False
            self.protocol.dataReceived(b"")
        return self.reading

    def divert(self, hook: Callable[[], bool] | None) -> None:
        """Set the read hook: what doRead() calls before each read. None removes it.

        A read follows if the hook returns true, as it must at the end of the stream and on an
        error. The hook itself adds the bytes that it takes to `bytes_in`."""
        self._read_hook = hook

    startReading = resumeProducing
    stopReading = pauseProducing

    def stopProducing(self) -> None:
        self.loseConnection()

    # Endings: see `lifecycle`.

    def _fire(self, event: str) -> bool:
        """Change state by the table; return whether it is another one."""
        before = self._state
        self._state = lifecycle.TRANSITIONS[before, event]
        return self._state is not before

    @property
    def state(self) -> str:
        return self._state.shown

    @property
    def write_ended(self) -> bool:
        """Whether nothing is taken any more: our end has been sent, or the connection has ended."""
        return self._state.write_ended

    @property
    def connected(self) -> bool:
        return self._state is not CLOSED

    @property
    def disconnected(self) -> bool:
        return self._state is CLOSED

    def loseConnection(self) -> None:
        """Close once all that was written has been sent and no producer is registered.

        Nothing more is delivered to the protocol but connectionLost, on a later pass."""
        if self._fire(lifecycle.LOSE):
            self.disconnecting = True
            self.reading = False
            self._finish_soon()

    def loseWriteConnection(self) -> None:
        """Close the write side in the same manner; reading goes on."""
        if self._fire(lifecycle.LOSE_WRITE):
            self._finish_soon()

    def _finish_soon(self) -> None:
        if self._state is CLOSING_SILENT:
            self.reactor.call_soon(self._end_of_writing)  # there is nothing left to flush
        elif self._state.finishes and not self._flush_due:
            self._flush_due = True
            self.reactor.flushes.append(self)

    def abortConnection(self) -> None:
        """Close on the next pass, with a reset; what is pending is dropped."""
        if self._state is not CLOSED:
            self.disconnecting = True
        self._end_soon(Failure(ConnectionAborted()))

    def _end_soon(self, failure: Failure) -> None:
        if self._fire(lifecycle.ABORT):
            self._reason = failure
            self.reading = self.writing = self._flush_due = False
            self._buffer.clear()
            self.reactor.call_soon(self.connectionLost, failure)

    failed = _end_soon

    def hungUp(self) -> None:
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.connectionLost(Failure(ConnectionLost(OSError(error, os.strerror(error)))))
        else:
            # Both directions have ended in order. Nothing more can come but what waits to be read.
            self.reactor.disarm(self)

    def connectionLost(self, reason: Failure) -> None:
        """End the connection at once, for `reason` unless there has been one before."""
        if self._fire(lifecycle.ERROR):
            self._close(reason)

    def _close(self, reason: Failure) -> None:
        """Close the socket and tell the protocol; the state is CLOSED already, and for this."""
        reason, self._reason = self._reason or reason, None
        self._flush_due = False
        self._input_due = False
        self._read_hook = None
        self._buffer.clear()
        self.reactor.detach(self)
        self.close_socket(bool(reason.check(ConnectionAborted)), linger=not self.read_ended)
        protocol, self.protocol = self.protocol, None
        on_lost, self._on_lost = self._on_lost, None
        self._call_producer(self._flow.fire(flow.ENDED))
        self.reactor.tell("connectionLost", self, reason)
        self.reactor.guard(self, protocol.connectionLost, reason)
        if on_lost is not None:
            self.reactor.guard(self, on_lost, reason)

    def __repr__(self) -> str:
        return f"<{self.logPrefix()} with {self._peer.host}:{self._peer.port}, {self.state}>"
