"""TLS: a connection that encrypts what is written, and decrypts what is read.

A TLSConnection is the same object as the plain connection that it was before: `tls_start` changes
the class of the connection. So all that the program has set stays as it is: marks, producer, pause
and pending bytes. `tls_session` has the session, and README.md in this folder the rules.

The write buffer holds bytes of two kinds. The first `ready` bytes are for the wire: records, or
plain bytes that were written before startTLS(). All others wait to be encrypted, which a flush does
for a portion at a time, when no byte is ready any more. Both kinds are pending, so the marks and
the producer work on their sum, with the code of a plain connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.core import flow
from minireactor.core.buffer import Source
from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.transports.connection import LARGEST_SEND, SMALLEST_READ, Connection
from minireactor.transports.lifecycle import CLOSING
from minireactor.transports.sendfile import FileSource
from minireactor.transports.tls_session import EncryptedFile, Session

if TYPE_CHECKING:
    import ssl

    from minireactor.defer import Deferred

HANDSHAKE_SECONDS = 30.0  # after this time, a handshake that is not complete has failed
# Plain bytes that are encrypted at a time. The records are in memory twice for a moment, and should
# stay in the processor's caches.
LARGEST_PORTION = 64 * 1024

_TRUNCATED = "the peer has ended without close_notify of TLS: the data may be truncated"
_NO_HANDSHAKE = "the peer has closed the connection before the end of the TLS handshake"


class TLSConnection(Connection):
    """A connection that speaks TLS. start_tls() makes it of a Connection."""

    __slots__ = ()  # so that a Connection can become one
    encrypted = True
    _session: Session

    def take_over(self, session: Session) -> None:
        """Begin as a TLSConnection. All pending bytes are plain bytes that stay plain."""
        self._session = session
        if self._tail:
            # Bytes that are written from now on must not be appended to these.
            tail = bytes(self._tail)
            self._tail.clear()
            self._buffer.append(tail)
            self._tail_limit = self._flow.high - self._buffer.sealed
        session.ready = session.plain = self._buffer.sealed
        if self.reactor.knows(self):
            session.paused = not self.reading
            self._begin()

    def start(self, protocol: Any) -> None:
        super().start(protocol)
        self.reactor.guard(self, self._begin)

    def _begin(self) -> None:
        """Begin the handshake, and its time limit."""
        if self._state.reads or self._state.finishes:
            call_later = self.reactor.call_later_internal
            self._session.timer = call_later(HANDSHAKE_SECONDS, self._time_out)
            self._read_for_handshake()
            # Not at once: a failure must not call connectionLost from inside startTLS().
            self.reactor.call_soon(self.reactor.guard, self, self._go_on)

    def startTLS(
        self, context: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> None:
        """Raise RuntimeError: TLS has started already."""
        raise RuntimeError(f"{self!r} speaks TLS already; call startTLS() only once")

    def getPeerCertificate(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate, as SSLSocket.getpeercert() does; None without one."""
        session = self._session
        return session.ssl.getpeercert(binary_form) if session.established else None

    @property
    def handshaking(self) -> bool:
        """Whether the handshake is not complete yet."""
        return not self._session.established

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """The protocol that both sides have chosen by ALPN, such as b"h2"; None without one."""
        chosen = self._session.ssl.selected_alpn_protocol()
        return None if chosen is None else chosen.encode("ascii")

    # The handshake. While it lasts, `reading` is True, because the handshake needs the peer's
    # bytes. A pause of the program is kept in `session.paused`. `_flush_due` stays True while plain
    # bytes wait: the end of the handshake makes the flush.

    def _read_for_handshake(self) -> None:
        self.reading = True
        self.reactor.update_interest(self)

    def _go_on(self) -> None:
        """Take the next step of the handshake, and send what the step says."""
        if self._state.reads or self._state.finishes:
            self._flush_due = True
            self._shake_hands()
            self.doWrite()

    def _shake_hands(self) -> None:
        session = self._session
        try:
            if not session.handshake():
                return
        except ConnectionLost as error:
            self._fail(error)
            return
        self._stop_timer()
        self.reading = self._state.reads and not session.paused
        completed = getattr(self.protocol, "handshakeCompleted", None)
        if completed is not None and self._state.reads:
            completed()

    def _time_out(self) -> None:
        why = f"the TLS handshake has taken more than {HANDSHAKE_SECONDS:g} seconds"
        self.connectionLost(Failure(ConnectionLost(why)))

    def _stop_timer(self) -> None:
        timer, self._session.timer = self._session.timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _fail(self, error: ConnectionLost) -> None:
        """Send the alert that the session has for the peer, if the kernel takes it, and close."""
        self._send_last()
        self.connectionLost(Failure(error))

    def _send_last(self) -> None:
        session = self._session
        record = session.outgoing.read()
        if record and not session.ready:
            try:
                self.socket.send(record)
            except OSError:
                pass  # the peer has gone, or takes no byte

    # Writing.

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Deferred[int]:
        """Queue a part of a real file, as `Connection.sendFile` does. Reads and encrypts it."""
        source = FileSource(self.reactor.call_soon, file, offset, count)
        self.write_source(EncryptedFile(self._session, source))
        return source.sent

    def doWrite(self) -> None:
        """Flush: send what is ready; then encrypt portions, and send each at once.

        As soon as the kernel takes only a part, the rest is ready, and Connection.doWrite() waits
        until the socket is writable."""
        if not self._flush_due:
            return
        session = self._session
        if not session.established:
            self._flush_handshake()
            return
        if session.ready:
            super().doWrite()
            if session.ready or not self._flush_due:
                return
        buffer = self._buffer
        tail = self._tail
        pending = len(tail) + buffer.sealed
        if pending > self.highest_pending:
            self.highest_pending = pending
        left = pending  # bytes that this flush may send
        if left > LARGEST_PORTION:
            left = min(left, LARGEST_SEND, self.share_in_bytes())
        try:
            while True:
                count = self._encrypt()
                records = session.outgoing.read()
                left -= count
                if left <= 0 and (tail or buffer.sealed):
                    self._put_ready(records, count)
                    break
                try:
                    sent = self.socket.send(records) if records else 0
                except (BlockingIOError, InterruptedError):
                    sent = 0
                if sent < len(records):
                    done = count * sent // len(records)
                    self.bytes_out += done
                    self._put_ready(records[sent:], count - done)
                    break
                self.bytes_out += count
                if not (tail or buffer.sealed):
                    self._end_of_flush(pending)
                    return
        except OSError as error:
            self.connectionLost(Failure(ConnectionLost(error)))
        except ConnectionAborted as error:  # a file has fewer bytes than it said
            self._end_soon(Failure(error))
        except ConnectionLost as error:
            self._fail(error)
        else:
            super().doWrite()

    def _end_of_flush(self, sent: int) -> None:
        """Do what waited for the kernel to take all bytes."""
        self._flush_due = self.writing = False
        self._tail_limit = self._flow.high
        self._session.release_file(True)
        if sent and self._flow.state in flow.WAITING:
            self._resume_in_turn()
        if self._state.finishes:
            self._end_of_writing()

    def _flush_handshake(self) -> None:
        session = self._session
        if not session.ready:
            self._put_ready(session.outgoing.read(), 0)
        if session.ready:
            super().doWrite()
            if session.ready or self._state.write_ended:
                return
            if session.outgoing.pending:  # behind the plain bytes from before startTLS()
                self._flush_due = True
                self._flush_handshake()
                return
        self.writing = False  # the plain bytes wait for the peer, not for the kernel
        self._flush_due = len(self._buffer) > 0
        if self._state.finishes:
            self._end_of_writing()

    def _encrypt(self) -> int:
        """Encrypt a portion of the plain bytes; return how many bytes it has. No byte is ready."""
        session = self._session
        buffer = self._buffer
        session.release_file(True)
        if session.close_sent:
            buffer.clear()  # written after close_notify
            return 0
        tail = self._tail
        if not buffer.sealed and len(tail) <= LARGEST_PORTION:
            count = session.write(tail) if tail else 0
            tail.clear()
            return count
        done = 0
        while done < LARGEST_PORTION and (buffer.sealed or tail):
            chunk = buffer.take(LARGEST_PORTION - done)
            if isinstance(chunk, EncryptedFile):
                chunk = chunk.read(LARGEST_PORTION - done)
                buffer.advance(len(chunk))
            done += session.write(chunk)
        return done

    def _put_ready(self, data: bytes, plain: int) -> None:
        if data:
            self._buffer.prepend(data)
            self._session.ready = len(data)
            self._session.plain = plain

    def _send_chunks(self) -> int:
        """Send from the bytes that are ready. Return how many the kernel has taken."""
        session = self._session
        limit = min(LARGEST_SEND, self.share_in_bytes(), session.ready)
        first, *others = chunks = self._buffer.peek(limit)
        if isinstance(first, Source):  # queued before startTLS()
            sent = first.send_to(self.socket, limit)
        else:
            sent = self.socket.sendmsg(chunks) if others else self.socket.send(first)
        # `bytes_out` counts bytes of the application, and the caller adds `sent` to it.
        plain = session.plain * sent // session.ready
        session.plain -= plain
        session.ready -= sent
        self.bytes_out += plain - sent
        if not session.ready:
            session.release_file(True)
        return sent

    def _drop_input(self) -> None:
        """Drop input, unless the kernel has taken all that was ready: the flush then goes on."""
        if self._session.ready or not self.pending:
            super()._drop_input()

    def _end_of_writing(self) -> None:
        """Send close_notify once nothing is pending; then end the write side, or close."""
        session = self._session
        if not session.established:
            if self._state is CLOSING:
                super()._end_of_writing()
        elif session.close_sent:
            if not session.ready:
                self._buffer.clear()  # written after close_notify
                super()._end_of_writing()
        elif not len(self._buffer) and self._flow.producer is None:
            session.send_close()
            self._flush_due = True
            self.doWrite()

    # Reading.

    def doRead(self) -> None:
        session = self._session
        if self._input_due and not self._deliver_buffered():
            return
        if self._read_hook is not None and not self._read_hook():
            return
        if session.incoming.pending:  # from before a pause
            self._deliver()
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
            self._end_of_stream()
            return
        try:
            session.feed(data)
        except ConnectionLost as error:
            self._fail(error)
            return
        if not session.established:
            self._go_on()
        if session.established:
            self._deliver()

    def _deliver(self) -> None:
        """Deliver data, a record at a time, while the program reads; then send what it wrote."""
        flushes_later = self._flush_due or self._state.write_ended
        self._flush_due = not self._state.write_ended
        try:
            self._deliver_records()
        except BaseException:
            if not flushes_later:
                self.reactor.flushes.append(self)
            raise
        if flushes_later:
            return
        if len(self._buffer) or self._session.outgoing.pending or self._state.finishes:
            self.doWrite()
        else:
            self._flush_due = False

    def _deliver_records(self) -> None:
        session = self._session
        while self.reading and not self.read_ended and self._state.reads:
            try:
                data = session.read()
            except ConnectionLost as error:
                self._fail(error)
                return
            if data is None:
                return
            if not data:
                self._end_of_reading()
                return
            self.bytes_in += len(data)
            self.protocol.dataReceived(data)
            if not session.incoming.pending:
                return

    def _end_of_stream(self) -> None:
        """End the connection: the peer has ended the stream below TLS."""
        if not self.read_ended:
            why = _TRUNCATED if self._session.established else _NO_HANDSHAKE
            self.connectionLost(Failure(ConnectionLost(why)))

    def pauseProducing(self) -> None:
        if self._session.established:
            self.reading = False
        else:
            self._session.paused = True

    def resumeProducing(self) -> None:
        session = self._session
        if not session.established:
            session.paused = False
        elif not self.reading and self._state.reads:
            super().resumeProducing()
            if session.incoming.pending:
                self.reactor.call_soon(self.reactor.guard, self, self._deliver_held)

    def _deliver_held(self) -> None:
        """Deliver the records from before the pause."""
        if self.reading and (not self._input_due or self._deliver_buffered()):
            self._deliver()

    startReading = resumeProducing
    stopReading = pauseProducing

    # Endings.

    def loseConnection(self) -> None:
        super().loseConnection()
        if self._state is CLOSING and not self._session.established:
            self._read_for_handshake()

    def _close(self, reason: Failure) -> None:
        self._stop_timer()
        session = self._session
        is_complete = not len(self._buffer) and self._flow.producer is None
        in_order = (self._reason or reason).check(ConnectionDone)
        if session.established and not session.close_sent and is_complete and in_order:
            session.send_close()
            self._send_last()
        session.release_file(False)
        super()._close(reason)
