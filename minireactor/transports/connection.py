"""A connection over a stream socket: the transport through which a protocol reads and writes.

A connection is a consumer of what the application writes, see `flow`. It is also a push producer
of what it reads. Its lifecycle is a table of states and events, see `lifecycle`.

`write()` only appends. The flush sends, once for each connection, just before the loop sleeps. So
a thousand small writes cost one system call. If the kernel takes only a part, the connection waits
until the socket is writable. Data that a protocol writes while it handles its own input is sent
right after that, without waiting for the flush.

The flush gathers small writes already, so TCP_NODELAY keeps TCP from waiting for more. Without that
option, the last bytes of each send wait until the peer has acknowledged the bytes before them.
Benchmark `stream-back`: twice the CPU without TCP_NODELAY.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address
from minireactor.core import flow
from minireactor.core.buffer import Source
from minireactor.core.events import LOST, MADE
from minireactor.core.poller import READ, WRITE
from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.transports import lifecycle
from minireactor.transports.consumer import Consumer
from minireactor.transports.kernel import UnsentLimit
from minireactor.transports.lifecycle import CLOSED, CLOSING, CLOSING_SILENT, WRITE_CLOSED

if TYPE_CHECKING:
    from minireactor.address import Address
    from minireactor.core.loop import Loop

# A connection's share of one loop iteration, in bytes, so that a fast peer starves nobody. The read
# size starts at 4 KiB and grows while reads fill it, so a connection with 64-byte messages never
# allocates 256 KiB.
SMALLEST_READ = 4 * 1024
LARGEST_READ = 256 * 1024
LARGEST_SEND = 1024 * 1024
# Bytes that a read and a send of the same data move on loopback, about. Converts time into bytes.
BYTES_PER_SECOND = 1_000_000_000
SMALLEST_SHARE = 16 * 1024  # with less, the system calls cost more than moving the bytes

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class Connection(Consumer):
    """The transport of one protocol. A Port or a Connector makes it: see `interfaces.ITransport`.

    `on_lost(reason)` is called last of all, after the protocol's connectionLost. `state` is "open",
    "closing", "ending" or "closed". `read_ended` and `write_ended` are about one direction each.
    """

    __slots__ = (
        "_input_due",
        "_on_lost",
        "_read_hook",
        "_read_size",
        "_reason",
        "bytes_in",
        "bytes_out",
        "disconnecting",
        "read_ended",
    )

    # Whether the bytes on the socket are not those of the program: see `tls`.
    encrypted = False

    def __init__(
        self,
        reactor: Loop,
        sock: socket.socket,
        peer: Address,
        marks: tuple[int, int] = (flow.HIGH, flow.LOW),
        on_lost: Callable[[Failure], None] | None = None,
        host: Address | None = None,
    ) -> None:
        super().__init__(reactor, sock, peer, marks, host)
        self._on_lost = on_lost
        self.disconnecting = False  # for programs: whether they have closed or aborted
        self._reason: Failure | None = None  # why the state is ENDING
        self.read_ended = False  # the peer has sent its end of the stream
        self._read_size = SMALLEST_READ
        self._input_due = False  # a line receiver gets its buffered input before the next read
        self._read_hook: Callable[[], bool] | None = None  # see set_read_hook()
        self.bytes_in = 0
        self.bytes_out = 0

    def start(self, protocol: Any) -> None:
        """Connect `protocol` to this transport, then begin to read."""
        self.protocol = protocol
        self.reading = True
        self.reactor.attach(self)
        self.reactor.notify(MADE, self)
        self.reactor.guard(self, protocol.makeConnection, self)
        if self.reactor.knows(self):
            self.reactor.guard(self, self.reactor.update_interest, self)

    def startTLS(self, context: Any = None, server_hostname: str | None = None) -> None:
        """Speak TLS from now on, after all that has been written before.

        context: an ssl.SSLContext for a client or a server. None: for a client that verifies.
        server_hostname: for a client, the name that the server's certificate must have. Only a
            context with check_hostname=False needs none.

        The protocol's handshakeCompleted() is called at the end of the handshake, if it has that
        method. Does nothing after the end of the connection. Raises RuntimeError if one direction
        has ended or TLS has started already, and TypeError or ValueError if `context` or
        `server_hostname` is not valid."""
        reactor: Any = self.reactor  # a bare Loop knows neither TCP nor TLS
        reactor.start_tls(self, context, server_hostname)

    # Writing.

    def doWrite(self) -> None:
        """Flush: send once, then do what waits for the flush, such as resuming the producer."""
        if not self._flush_due:
            return
        tail = self._tail
        before = len(tail) + self._buffer.sealed
        had_to_wait = self.writing
        if not before:
            self._flush_due = self.writing = False
            if self._state.finishes:
                self._end_of_writing()
            return
        if before > self.highest_pending:
            self.highest_pending = before
        try:
            if self._buffer.sealed or before > LARGEST_SEND:
                sent = self._send_chunks()
            else:
                sent = self.socket.send(tail)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.connectionLost(Failure(ConnectionLost(error)))
            return
        except ConnectionAborted as error:  # a source has fewer bytes than its `left` says
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
            if self.registered is None or not self.registered & WRITE:
                self.reactor.update_interest(self)
            if self._state is CLOSING:
                self._drop_input()
        if pending <= self._flow.low and self._flow.state in flow.WAITING:
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
        # The connection is not in `loop.flushes`: the call of doWrite() below is its flush.
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

    def interest(self) -> int:
        # After the peer's end, `reading` only means that a line receiver may deliver what it has
        # buffered.
        reads = self.reading and not self.read_ended
        return (READ if reads else 0) | (WRITE if self.writing else 0)

    def _drop_input(self) -> None:
        """Read and drop what the peer sends, while loseConnection() waits for the kernel.

        The peer may write before it reads. If nobody took its bytes, both sides would wait."""
        if self._state is not CLOSING or self.reading or self.read_ended:
            return
        self.reading = True
        self._input_due = False
        self._read_hook = self._read_and_drop
        self.reactor.update_interest(self)

    def _read_and_drop(self) -> bool:
        try:
            self.read_ended = not self.socket.recv(min(LARGEST_READ, self.share_in_bytes()))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.connectionLost(Failure(ConnectionLost(error)))
            return False
        if self.read_ended:
            self.reactor.update_interest(self)
        return False

    def _end_of_reading(self) -> None:
        self.read_ended = True
        if self.is_half_closeable():
            self.protocol.readConnectionLost()
            self._close_if_both_ended()
            # Only now: a connection that has closed needs no change of its interest.
            if self._state is not CLOSED:
                self.reactor.update_interest(self)
        elif self._fire(lifecycle.END_OF_INPUT):
            self._close(Failure(ConnectionDone()))

    def _close_if_both_ended(self) -> None:
        ended = self.read_ended and self._state is WRITE_CLOSED
        if ended and self._fire(lifecycle.END_OF_INPUT):
            self._close(Failure(ConnectionDone()))

    def pauseProducing(self) -> None:
        """Stop reading at once, until `resumeProducing()`.

        The peer's end of the stream waits like the bytes before it. A reset does not wait."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Read again. Does nothing if the connection reads already, or `state` is not "open"."""
        if self.reading or not self._state.reads:
            return
        self.reading = True
        if self.registered is None or not self.registered & READ:
            self.reactor.update_interest(self)
        # If a line receiver still buffers input from before the pause, deliver that first. Reading
        # more before would let its buffer grow without bound.
        if getattr(self.protocol, "has_buffered_input", False):
            self._input_due = True
            self.reactor.call_soon(self.reactor.guard, self, self._deliver_buffered)

    def _deliver_buffered(self) -> bool:
        """Deliver what a line receiver has buffered; return whether a read may follow."""
        if self._input_due and self.reading:
            self._input_due = False
            self.protocol.dataReceived(b"")
        return self.reading

    def set_read_hook(self, hook: Callable[[], bool] | None) -> None:
        """Set the read hook, which doRead() calls before each read. None removes the hook.

        A read follows only if the hook returns true. The hook must return true at the end of the
        stream and on an error. The hook itself adds to `bytes_in` the bytes that it takes."""
        self._read_hook = hook

    startReading = resumeProducing
    stopReading = pauseProducing

    def stopProducing(self) -> None:
        self.loseConnection()

    # Endings: see `lifecycle`.

    def loseConnection(self) -> None:
        """Close once all written data has been sent and no producer is registered.

        The protocol gets no more calls but connectionLost, in a later loop iteration."""
        if self._fire(lifecycle.LOSE):
            self.disconnecting = True
            self.reading = False
            self._finish_soon()
            if self.writing:  # later: a line receiver looks at `reading` after this call
                self.reactor.call_soon(self._drop_input)

    def loseWriteConnection(self) -> None:
        """Close the write side under the same conditions as loseConnection(); reading goes on."""
        if self._fire(lifecycle.LOSE_WRITE):
            self._finish_soon()

    def _finish_soon(self) -> None:
        if not self._state.finishes:
            return
        if self._state is CLOSING_SILENT:
            self.reactor.call_soon(self._end_of_writing)  # there is nothing left to flush
        elif not self._flush_due:
            self._flush_due = True
            self.reactor.flushes.append(self)

    def abortConnection(self) -> None:
        """Close in the next loop iteration, with a reset; pending data is dropped."""
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
            # Both directions have ended without an error. Only input that waits is still to come.
            self.reactor.unregister(self)

    def connectionLost(self, reason: Failure) -> None:
        """Close at once. The reason is `reason`, or that of an earlier abort or failure."""
        if self._fire(lifecycle.ERROR):
            self._close(reason)

    def _close(self, reason: Failure) -> None:
        """Close the socket, then notify the protocol. The state has just become CLOSED."""
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
        self.reactor.notify(LOST, self, reason)
        self.reactor.guard(self, protocol.connectionLost, reason)
        if on_lost is not None:
            self.reactor.guard(self, on_lost, reason)

    def __repr__(self) -> str:
        return f"<{self.logPrefix()} with {format_address(self._peer)}, {self.state}>"
