"""Protocols that split a stream of bytes into lines or strings, and a producer that sends a file.

All receivers here give the same three guarantees.

Linear cost. Each input byte is searched and copied a fixed number of times, however the stream is
cut: one line in a thousand reads, or a thousand lines in one read. LineReceiver documents the cost
of mode changes.

Pausing takes effect immediately. A receiver checks `transport.reading` before each delivery, and
stops while `transport.reading` is false. It is false as soon as the transport is paused, closed or
lost. (If a transport has no attribute `reading`, the receiver checks `disconnecting`.) A receiver
that is a push producer also stops between its own `pauseProducing()` and `resumeProducing()`. The
rest of the input is then buffered, and `has_buffered_input` is true. `dataReceived(b"")` delivers
the buffered input. A transport calls this after its own `resumeProducing()`.

No re-entrance. If `dataReceived` is called from inside a delivery, it only buffers the data, which
the running delivery then delivers. If a callback raises an exception, the input after its own line
or string stays buffered.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from operator import length_hint
from struct import calcsize, pack, unpack_from
from typing import TYPE_CHECKING, Any, Callable

from minireactor.defer import Deferred
from minireactor.error import ConnectionLost
from minireactor.failure import safe_repr
from minireactor.log import logger
from minireactor.protocol import Protocol

if TYPE_CHECKING:
    from minireactor.interfaces import IConsumer


class NetstringParseError(ValueError):
    """The input is not a netstring, or a string is longer than MAX_LENGTH."""


class StringTooLongError(AssertionError):
    """`sendString` was given a string whose length does not fit the length prefix."""


class _ReadingAdapter:
    """Gives the attribute `reading` to a transport without it, or to None."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    @property
    def reading(self) -> bool:
        return not getattr(self._transport, "disconnecting", False)


# (delimiter, offset): `later[:offset]` has been searched for `delimiter` already.
_NOT_SEARCHED = (b"", 0)


class _InputBuffer:
    """Input that is not delivered yet: `chunk` from `offset` on, then `later`.

    `chunk` is bytes because strings are cut out of it. A slice of a bytearray would need one more
    copy. `later` is a bytearray because it grows. `later` becomes the chunk only when it completes
    a line or a string, which keeps the cost of copying linear. `busy` is true during a delivery.
    """

    __slots__ = ("busy", "chunk", "later", "offset", "searched")

    def __init__(self) -> None:
        self.chunk = b""
        self.offset = 0
        self.later = bytearray()
        self.searched = _NOT_SEARCHED
        self.busy = False

    def __bool__(self) -> bool:
        return self.offset < len(self.chunk) or bool(self.later)

    def peek(self) -> bytes:
        return self.chunk[self.offset :] + self.later

    def replace(self, data: bytes = b"") -> bytes:
        """Replace the buffered bytes by `data`, and return the old bytes."""
        old = self.peek()
        self.chunk, self.offset = data, 0
        self.later.clear()
        self.searched = _NOT_SEARCHED
        return old

    def take(self, limit: int) -> bytes:
        """Remove and return the first `limit` bytes, or all bytes if there are fewer."""
        if self.offset == len(self.chunk):
            self.chunk, self.offset = bytes(self.later), 0
            self.later.clear()
            self.searched = _NOT_SEARCHED
        start = self.offset
        taken = self.chunk[start : start + limit]
        self.offset = start + len(taken)
        return taken

    def put_back(self, data: bytes) -> None:
        """Insert `data` before the rest. No copy is made if `data` was taken from there."""
        start = self.offset - len(data)
        if start >= 0 and self.chunk.startswith(data, start):
            self.offset = start
        else:
            self.chunk, self.offset = data + self.chunk[self.offset :], 0
        self.searched = _NOT_SEARCHED

    def gather(self, size: int) -> bool:
        """Join `chunk` and `later` if they have `size` bytes together. Return whether they have."""
        # Free the delivered bytes now, and not only when the rest comes.
        self.chunk, self.offset = self.chunk[self.offset :], 0
        if len(self.chunk) + len(self.later) < size:
            return False
        self.chunk += self.later
        self.later.clear()
        return True

    def gather_line(self, delimiter: bytes) -> bool:
        """Join `chunk` and `later` if `delimiter` occurs in them. Return whether it does.

        The caller has found no `delimiter` in the chunk alone."""
        later = self.later
        if self.offset < len(self.chunk):
            later[:0] = self.chunk[self.offset :]
        self.chunk = b""
        self.offset = 0
        delimiter_before, start = self.searched
        if later.find(delimiter, start if delimiter_before == delimiter else 0) < 0:
            # The end may be the first part of a delimiter.
            self.searched = (delimiter, max(0, len(later) - len(delimiter) + 1))
            return False
        self.chunk = bytes(later)
        later.clear()
        self.searched = _NOT_SEARCHED
        return True


class _Receiver(Protocol):
    """Buffers input, and delivers it while it is not paused."""

    _buffered_input: _InputBuffer | None = None

    @property
    def has_buffered_input(self) -> bool:
        """Whether any input is buffered that is not delivered yet."""
        return bool(self._buffered_input)

    def dataReceived(self, data: bytes) -> Any:
        """Buffer `data`, which may be empty, and deliver input until it is paused."""
        buffer = self._buffered_input
        if buffer is None:
            buffer = self._buffered_input = _InputBuffer()
        if buffer.chunk or buffer.later:
            buffer.later += data
        else:
            buffer.chunk = data
        if buffer.busy:
            return None
        transport = self.transport
        if not hasattr(transport, "reading"):
            transport = _ReadingAdapter(transport)
        buffer.busy = True
        try:
            return self._deliver(buffer, transport)
        finally:
            buffer.busy = False

    def _deliver(self, buffer: _InputBuffer, transport: Any) -> Any:
        raise NotImplementedError


class _Pauseable(_Receiver):
    """A receiver that is a push producer itself: it pauses and resumes its transport."""

    paused = False

    def pauseProducing(self) -> None:
        """Pause the transport, and stop delivering until `resumeProducing()`."""
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume the transport, and deliver the buffered input before this method returns."""
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")

    def stopProducing(self) -> None:
        """Stop delivering, and close the connection."""
        self.paused = True
        self.transport.stopProducing()


class _Lines(_Receiver):
    """The common part of both line receivers."""

    delimiter = b"\r\n"
    MAX_LENGTH = 16384

    def lineReceived(self, line: bytes) -> None:
        """Handle one line, without its delimiter. Override this."""
        raise NotImplementedError(f"{safe_repr(self)} must override lineReceived(line)")

    def lineLengthExceeded(self, line: bytes) -> None:
        """Handle a line longer than MAX_LENGTH bytes: close the connection, unless overridden.

        `line` starts with the part of that line that has arrived. The receiver has removed `line`
        from its buffer.
        """
        self.transport.loseConnection()

    def sendLine(self, line: bytes) -> None:
        """Write `line` and the delimiter."""
        self.transport.write(line + self.delimiter)

    def _next_chunk(self, buffer: _InputBuffer, delimiter: bytes) -> bool:
        """Go on after a chunk without a delimiter. Return False if nothing can be delivered."""
        if buffer.gather_line(delimiter):
            return True
        if len(buffer.later) < self.MAX_LENGTH + len(delimiter):
            return False
        self.lineLengthExceeded(buffer.replace())
        return True


# So many switches to raw mode in one dataReceived() each get the whole buffered input.
WHOLE_SWITCHES = 16
_FIRST_PART = 1024  # bytes; the smallest part of raw data after WHOLE_SWITCHES


class LineReceiver(_Lines, _Pauseable):
    """Receives lines, or raw data in raw mode. A callback may switch the mode at any time.

    delimiter: the bytes that end a line; may be changed at any time, also in `lineReceived`.
    MAX_LENGTH: the longest line, in bytes without the delimiter.
    line_mode: true in line mode, which is the initial mode. `setLineMode` and `setRawMode` set it.

    In raw mode, `rawDataReceived(data)` gets all buffered input. If only the first part was raw
    data, return the rest with `setLineMode(rest)`. `dataReceived` returns the result of its last
    call of `rawDataReceived`. `lineLengthExceeded` gets a line that is too long, together with all
    input buffered after it. Return the part to be read as lines in the same way.

    The cost of splitting lines is linear, and so is that of raw data. Mode switches alone would
    cost more: each switch to raw mode copies the whole buffered input. So after WHOLE_SWITCHES
    switches in one `dataReceived`, raw data is delivered in parts: 1 KiB first, then twice as much
    each time. From then on, the cost of a switch does not grow with the buffered input.

    The last line of a stream may lack its delimiter. In `connectionLost`, `clearLineBuffer()`
    returns this line; nothing is delivered any more. In `readConnectionLost` of a half-closeable
    protocol, `dataReceived(self.delimiter)` delivers it.
    """

    line_mode = 1

    def rawDataReceived(self, data: bytes) -> Any:
        """Handle input in raw mode. Override this if you use `setRawMode`."""
        raise NotImplementedError(f"{safe_repr(self)} must override rawDataReceived(data)")

    def setRawMode(self) -> None:
        """Switch to raw mode: further input goes to `rawDataReceived`."""
        self.line_mode = 0

    def setLineMode(self, extra: bytes = b"") -> None:
        """Switch to line mode: further lines go to `lineReceived`, those of `extra` first.

        `rawDataReceived` and `lineLengthExceeded` get all input; `extra` is the part they return.
        """
        buffer = self._buffered_input
        if buffer is not None and not self.line_mode and (buffer.chunk or buffer.later):
            # In raw mode, the buffered input came after the data that has been delivered.
            buffer.put_back(extra)
            extra = b""
        self.line_mode = 1
        if extra or buffer:
            self.dataReceived(extra)

    def clearLineBuffer(self) -> bytes:
        """Remove and return the buffered input."""
        return self._buffered_input.replace() if self._buffered_input else b""

    def _deliver(self, buffer: _InputBuffer, transport: Any) -> Any:
        delimiter: Any = None
        answer = None  # the result of the last rawDataReceived()
        whole, part = WHOLE_SWITCHES, _FIRST_PART
        while not self.paused and transport.reading:
            if not self.line_mode:
                if whole:
                    whole -= 1
                    data = buffer.replace()
                else:
                    data = buffer.take(part)
                if not data:
                    return answer
                answer = self.rawDataReceived(data)
                part = _FIRST_PART if self.line_mode else 2 * part
                continue
            # Read these attributes again each time: the callback may have changed them.
            if self.delimiter is not delimiter:
                delimiter = self.delimiter
                width = len(delimiter)
                if not width:
                    raise ValueError("delimiter is empty; set it to the bytes that end a line")
            chunk = buffer.chunk
            start = buffer.offset
            end = chunk.find(delimiter, start)
            if end < 0:
                # A shortcut, as most reads end with a complete line.
                if start == len(chunk) and not buffer.later:
                    buffer.chunk, buffer.offset = b"", 0
                    return answer
                if not self._next_chunk(buffer, delimiter):
                    return answer
            elif end - start > self.MAX_LENGTH:
                self.lineLengthExceeded(buffer.replace())
            else:
                buffer.offset = end + width
                self.lineReceived(chunk[start:end])
        return answer


class LineOnlyReceiver(_Lines):
    """Receives lines, faster than LineReceiver: it has neither raw mode nor `pauseProducing`.

    delimiter: the bytes that end a line; a change takes effect with the next read.
    MAX_LENGTH: the longest line, in bytes without the delimiter.
    """

    # Lines that are already split. After a pause, the iterator continues at the right line.
    _lines: Iterator[bytes] = iter(())

    @property
    def has_buffered_input(self) -> bool:
        return length_hint(self._lines) > 0 or super().has_buffered_input

    def _deliver(self, buffer: _InputBuffer, transport: Any) -> None:
        while transport.reading:
            for line in self._lines:
                if len(line) > self.MAX_LENGTH:
                    self.lineLengthExceeded(line)
                else:
                    self.lineReceived(line)
                if not transport.reading:
                    return
            if not buffer.chunk and not buffer.later:
                return
            lines = buffer.chunk.split(self.delimiter)
            buffer.chunk = lines.pop()
            self._lines = iter(lines)
            if not lines and not self._next_chunk(buffer, self.delimiter):
                return


class _Strings(_Receiver):
    """The common part of the string receivers."""

    MAX_LENGTH = 99999

    def stringReceived(self, string: bytes) -> None:
        """Handle one whole string, without its length prefix or framing. Override this."""
        raise NotImplementedError(f"{safe_repr(self)} must override stringReceived(string)")


class NetstringReceiver(_Strings):
    """Receives and sends netstrings, `<length in decimal>:<bytes>,`.

    MAX_LENGTH: the longest string, in bytes. A longer string, or input that is no netstring, closes
        the connection and sets `brokenPeer` to 1. This happens as soon as the first wrong byte has
        arrived.
    """

    brokenPeer = 0

    def sendString(self, string: bytes) -> None:
        """Write `string` as a netstring."""
        self.transport.write(b"%d:%b," % (len(string), string))

    def _deliver(self, buffer: _InputBuffer, transport: Any) -> None:
        while not self.brokenPeer and transport.reading:
            try:
                string = self._next_string(buffer)
            except NetstringParseError as error:
                logger.debug("closing the connection of %s: %s", safe_repr(self), error)
                self.brokenPeer = 1
                self.transport.loseConnection()
                return
            if string is None:
                return
            self.stringReceived(string)

    def _next_string(self, buffer: _InputBuffer) -> bytes | None:
        """Remove and return the next string, or None if it is not complete.

        Raises NetstringParseError if the input is no netstring, or a string is too long."""
        longest = len(str(self.MAX_LENGTH)) + 1
        if buffer.later and len(buffer.chunk) - buffer.offset < longest:
            buffer.gather(0)
        start = buffer.offset
        digits, colon, _ = buffer.chunk[start : start + longest].partition(b":")
        need = longest
        if digits or colon:
            if not digits.isdigit() or (digits[0] == ord("0") and len(digits) > 1):
                raise NetstringParseError(f"{digits + colon!r} is no length; send digits and ':'")
            if int(digits) > self.MAX_LENGTH:
                raise NetstringParseError(f"length {digits!r} is above {self.MAX_LENGTH}")
            if colon:
                need = len(digits) + int(digits) + 2
        if len(buffer.chunk) - start < need and not buffer.gather(need):
            return None
        start = buffer.offset + len(digits) + 1
        buffer.offset = end = buffer.offset + need
        if buffer.chunk[end - 1] != ord(","):
            raise NetstringParseError(f"{buffer.chunk[end - 1 : end]!r} ends a string; send ','")
        return buffer.chunk[start : end - 1]


class IntNStringReceiver(_Strings, _Pauseable):
    """Receives and sends strings after their length as a binary integer. Use a subclass.

    structFormat: the format of the length, as in the `struct` module.
    prefixLength: the size of the length, in bytes.
    MAX_LENGTH: the longest string to receive, in bytes.
    """

    structFormat: str
    prefixLength: int

    @property
    def recvd(self) -> bytes:
        """The buffered input. May be set, for a protocol that takes over from another one."""
        return self._buffered_input.peek() if self._buffered_input else b""

    @recvd.setter
    def recvd(self, data: bytes) -> None:
        if self._buffered_input is None:
            self._buffered_input = _InputBuffer()
        self._buffered_input.replace(data)

    def lengthLimitExceeded(self, length: int) -> None:
        """Handle a prefix above MAX_LENGTH: close the connection, unless overridden.

        The prefix and the input after it stay in `recvd`.
        """
        self.transport.loseConnection()

    def sendString(self, string: bytes) -> None:
        """Write the length of `string`, then `string`.

        Raises StringTooLongError if the length does not fit the prefix."""
        limit = 256**self.prefixLength
        if len(string) >= limit:
            raise StringTooLongError(
                f"{len(string)} bytes do not fit a prefix of {self.prefixLength} bytes; "
                f"send fewer than {limit}, or use a receiver with a longer prefix"
            )
        self.transport.write(pack(self.structFormat, len(string)) + string)

    def _deliver(self, buffer: _InputBuffer, transport: Any) -> None:
        prefix = self.prefixLength
        while not self.paused and transport.reading:
            # Read the chunk again each time: the callback may have set `recvd`.
            chunk = buffer.chunk
            start = buffer.offset + prefix
            need = prefix
            if start <= len(chunk):
                (length,) = unpack_from(self.structFormat, chunk, start - prefix)
                if length > self.MAX_LENGTH:
                    self.lengthLimitExceeded(length)
                    return
                end = start + length
                if end <= len(chunk):
                    buffer.offset = end
                    self.stringReceived(chunk[start:end])
                    continue
                need += length
            if not buffer.gather(need):
                return


class Int32StringReceiver(IntNStringReceiver):
    """Receives and sends strings after four bytes of length, in network byte order."""

    structFormat = "!I"
    prefixLength = calcsize(structFormat)


class Int16StringReceiver(IntNStringReceiver):
    """Receives and sends strings after two bytes of length, in network byte order."""

    structFormat = "!H"
    prefixLength = calcsize(structFormat)


class Int8StringReceiver(IntNStringReceiver):
    """Receives and sends strings after one byte of length."""

    structFormat = "!B"
    prefixLength = calcsize(structFormat)


class StatefulStringProtocol:
    """A mixin before a string receiver: passes each string to the method of the current state.

    The method of state "x" is `proto_x(string)`, which returns the next state. The first state is
    "init", and "done" closes the connection. If a state has no method, the string is logged and
    ignored.
    """

    transport: Any
    state = "init"

    def stringReceived(self, string: bytes) -> None:
        handler = getattr(self, f"proto_{self.state}", None)
        if handler is None:
            logger.warning(
                "%s ignores a string: it has no method proto_%s", safe_repr(self), self.state
            )
            return
        self.state = handler(string)
        if self.state == "done":
            self.transport.loseConnection()


class FileSender:
    """A pull producer that sends a file, one chunk each time that the consumer asks.

    CHUNK_SIZE: the number of bytes to read at a time.
    lastSent: the last byte sent; b"" before the first one.
    """

    # One loop iteration reads one chunk. A disk may be slow, and all other connections wait for it.
    CHUNK_SIZE = 2**14

    lastSent = b""
    deferred: Deferred[bytes] | None = None
    file: Any = None
    consumer: Any = None
    transform: Callable[[bytes], bytes] | None = None

    def beginFileTransfer(
        self,
        file: Any,
        consumer: IConsumer,
        transform: Callable[[bytes], bytes] | None = None,
    ) -> Deferred[bytes]:
        """Send `file` from its position to its end, and return a Deferred.

        file: an object whose `read(size)` returns bytes. The file is left open.
        transform: a function that is called with each chunk and returns the bytes to send, or None.

        The Deferred fires with the last byte sent when all bytes are written. It fails with an
        exception of `file`, `transform` or `consumer.write`. It fails with BlockingIOError if a
        non-blocking `file` has nothing to read yet, and with ConnectionLost if the consumer stops
        the transfer.

        Raises RuntimeError if this sender is still busy, or if `consumer` has another producer.
        """
        if self.deferred is not None:
            raise RuntimeError(
                f"{safe_repr(self)} is still sending {safe_repr(self.file)}; use another FileSender"
            )
        self.file, self.consumer, self.transform = file, consumer, transform
        self.lastSent = b""
        deferred: Deferred[bytes] = Deferred()
        self.deferred = deferred
        try:
            consumer.registerProducer(self, False)
        except BaseException:
            self._release()
            raise
        return deferred

    def resumeProducing(self) -> None:
        """Write one chunk, or end the transfer at the end of the file."""
        if self.deferred is None:
            return
        try:
            chunk = self._next_chunk()
            if chunk:
                self.consumer.write(chunk)
                self.lastSent = chunk[-1:]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._end(error)
        else:
            if not chunk:
                self._end()

    def pauseProducing(self) -> None:
        """Do nothing: a pull producer writes only when it is asked."""

    def stopProducing(self) -> None:
        """End the transfer with ConnectionLost: the consumer is lost."""
        error = ConnectionLost(
            f"{safe_repr(self.consumer)} stopped the transfer of {safe_repr(self.file)}"
        )
        deferred = self._release()
        if deferred is not None:
            deferred.errback(error)

    def _next_chunk(self) -> bytes:
        """Return the next chunk to write; an empty one at the end of the file."""
        while True:
            chunk: bytes | None = self.file.read(self.CHUNK_SIZE)
            if chunk is None:
                # This is not the end of the file. A peer must not take a part of it for all of it.
                raise BlockingIOError(
                    errno.EAGAIN,
                    f"{safe_repr(self.file)} has nothing to read now; wait until it has",
                )
            if not chunk or self.transform is None:
                return chunk
            chunk = self.transform(chunk)
            # The consumer would not ask again if no bytes were written, so read the next chunk.
            if chunk:
                return chunk

    def _end(self, error: BaseException | None = None) -> None:
        consumer = self.consumer
        deferred = self._release()
        if deferred is None:
            return
        consumer.unregisterProducer()
        if error is None:
            deferred.callback(self.lastSent)
        else:
            deferred.errback(error)

    def _release(self) -> Deferred[bytes] | None:
        deferred, self.deferred = self.deferred, None
        self.file = self.consumer = self.transform = None
        return deferred
