"""Protocols that cut the stream of bytes into lines or strings, and a producer that sends a file.

All receivers here keep the same three promises.

Linear. Each byte that comes in is searched and copied a fixed number of times, however the
stream is cut: one line in a thousand reads, or a thousand lines in one read. LineReceiver says
what changes of its mode cost.

Held at once. Before each delivery a receiver looks whether it may go on. It stops while
`transport.reading` is false: from the moment that the transport pauses, closes or is lost. (Of a
transport without that attribute, `disconnecting` is asked.) Those that are push producers
themselves stop as well between their own `pauseProducing()` and `resumeProducing()`. What is left
is held, `holds_input` is then true, and `dataReceived(b"")` goes on with it: a transport calls
that after its own `resumeProducing()`.

Never re-entered. `dataReceived` called from inside a delivery only stores: the delivery under way
goes on with it. A callback that raises leaves everything behind its own line or string in place.
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
    """What came in is not a netstring, or is longer than MAX_LENGTH."""


class StringTooLongError(AssertionError):
    """`sendString` was given more bytes than the length prefix can count."""


class _Gate:
    """Stands in for a transport without `reading`, or for none at all."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    @property
    def reading(self) -> bool:
        return not getattr(self._transport, "disconnecting", False)


# A delimiter, and up to where `_Held.later` is known not to hold it.
_NOTHING_SOUGHT = (b"", 0)


class _Held:
    """Bytes that have come in and are not delivered: `chunk` from `offset` on, then `later`.

    `chunk` is bytes because strings are cut out of it, which costs a bytearray one copy more;
    `later` is a bytearray because it grows. It becomes the chunk only when that completes a line
    or a string, which keeps the copying linear.
    """

    __slots__ = ("busy", "chunk", "later", "offset", "sought")

    def __init__(self) -> None:
        self.chunk = b""
        self.offset = 0
        self.later = bytearray()
        self.sought = _NOTHING_SOUGHT
        self.busy = False

    def __bool__(self) -> bool:
        return self.offset < len(self.chunk) or bool(self.later)

    def peek(self) -> bytes:
        return self.chunk[self.offset :] + self.later

    def replace(self, data: bytes = b"") -> bytes:
        """Hold `data` instead, and return what was held."""
        held = self.peek()
        self.chunk, self.offset = data, 0
        self.later.clear()
        self.sought = _NOTHING_SOUGHT
        return held

    def take(self, limit: int) -> bytes:
        """Return the first `limit` bytes, or all there are, and hold the rest."""
        if self.offset == len(self.chunk):
            self.chunk, self.offset = bytes(self.later), 0
            self.later.clear()
            self.sought = _NOTHING_SOUGHT
        start = self.offset
        taken = self.chunk[start : start + limit]
        self.offset = start + len(taken)
        return taken

    def put_back(self, data: bytes) -> None:
        """Hold `data` before the rest. It costs no copy if that is where it was taken from."""
        start = self.offset - len(data)
        if start >= 0 and self.chunk.startswith(data, start):
            self.offset = start
        else:
            self.chunk, self.offset = data + self.chunk[self.offset :], 0
        self.sought = _NOTHING_SOUGHT

    def gather(self, size: int) -> bool:
        """The chunk is short of `size` bytes: join it with what came later if that suffices."""
        # What has been delivered need not stay in memory until the rest comes.
        self.chunk, self.offset = self.chunk[self.offset :], 0
        if len(self.chunk) + len(self.later) < size:
            return False
        self.chunk += self.later
        self.later.clear()
        return True

    def gather_line(self, delimiter: bytes) -> bool:
        """The chunk has no `delimiter`: join it with what came later if that has."""
        later = self.later
        if self.offset < len(self.chunk):
            later[:0] = self.chunk[self.offset :]
        self.chunk = b""
        self.offset = 0
        sought, start = self.sought
        if later.find(delimiter, start if sought == delimiter else 0) < 0:
            # It may have come in part.
            self.sought = (delimiter, max(0, len(later) - len(delimiter) + 1))
            return False
        self.chunk = bytes(later)
        later.clear()
        self.sought = _NOTHING_SOUGHT
        return True


class _Receiver(Protocol):
    """Holds what comes in, and delivers it while it may."""

    _held: _Held | None = None

    @property
    def holds_input(self) -> bool:
        """Whether any bytes have come in that are not delivered yet."""
        return bool(self._held)

    def dataReceived(self, data: bytes) -> Any:
        """Take `data`, which may be empty, and deliver what may be delivered."""
        held = self._held
        if held is None:
            held = self._held = _Held()
        if held.chunk or held.later:
            held.later += data
        else:
            held.chunk = data
        if held.busy:
            return None
        gate = self.transport
        if not hasattr(gate, "reading"):
            gate = _Gate(gate)
        held.busy = True
        try:
            return self._deliver(held, gate)
        finally:
            held.busy = False

    def _deliver(self, held: _Held, gate: Any) -> Any:
        raise NotImplementedError


class _Pauseable(_Receiver):
    """A receiver that is a push producer itself, in front of its transport."""

    paused = False

    def pauseProducing(self) -> None:
        """Pause the transport, and deliver nothing until `resumeProducing()`."""
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume the transport, and deliver what is held before this returns."""
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")

    def stopProducing(self) -> None:
        """Deliver nothing more and close the connection."""
        self.paused = True
        self.transport.stopProducing()


class _Lines(_Receiver):
    """What both receivers of lines share."""

    delimiter = b"\r\n"
    MAX_LENGTH = 16384

    def lineReceived(self, line: bytes) -> None:
        """One line, without its delimiter. Override this."""
        raise NotImplementedError(f"{safe_repr(self)} must override lineReceived(line)")

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line is longer than MAX_LENGTH bytes: closes the connection, unless overridden.

        `line` begins with that line, as much of it as has come; the receiver has let go of it.
        """
        self.transport.loseConnection()

    def sendLine(self, line: bytes) -> None:
        """Write `line` and the delimiter."""
        self.transport.write(line + self.delimiter)

    def _next_chunk(self, held: _Held, delimiter: bytes) -> bool:
        """Go on behind a chunk without a delimiter. False: nothing is left to deliver."""
        if held.gather_line(delimiter):
            return True
        if len(held.later) < self.MAX_LENGTH + len(delimiter):
            return False
        self.lineLengthExceeded(held.replace())
        return True


WHOLE_SWITCHES = 16  # to raw mode, within one dataReceived(), that each get all that is held
_FIRST_PART = 1024  # bytes; the smallest part of raw data after so many


class LineReceiver(_Lines, _Pauseable):
    """Receives lines, or raw data while in raw mode; a callback may switch at any time.

    delimiter: what ends a line, bytes; it may be changed, also from within `lineReceived`.
    MAX_LENGTH: of a line, in bytes without the delimiter.
    line_mode: true in line mode, which is the first. `setLineMode` and `setRawMode` set it.

    In raw mode `rawDataReceived(data)` is given all there is. When only part of it was raw, hand
    the rest back with `setLineMode(rest)`. `dataReceived` returns what the last call of
    `rawDataReceived` in it returned. An over-long line goes to `lineLengthExceeded` together with
    all that is held behind it; hand back what is to be read as lines likewise.

    Cutting lines is linear, and so is a stream of raw data. Switching is not by itself: each
    switch to raw mode copies all that is held. So after WHOLE_SWITCHES of them in one
    `dataReceived`, raw data comes in parts: 1 KiB first, then twice as much each time. From there
    on the cost of a switch does not grow with what is held.

    A last line that lacks its delimiter is what `clearLineBuffer()` returns in `connectionLost`,
    where nothing is delivered any more. In `readConnectionLost` of a half-closeable protocol,
    `dataReceived(self.delimiter)` delivers it.
    """

    line_mode = 1

    def rawDataReceived(self, data: bytes) -> Any:
        """Bytes as they came, in raw mode. Override this if you use `setRawMode`."""
        raise NotImplementedError(f"{safe_repr(self)} must override rawDataReceived(data)")

    def setRawMode(self) -> None:
        """From here on bytes go to `rawDataReceived`."""
        self.line_mode = 0

    def setLineMode(self, extra: bytes = b"") -> None:
        """From here on lines go to `lineReceived`, those of `extra` first.

        `extra` is for `rawDataReceived` and `lineLengthExceeded`, which were given all there was.
        """
        held = self._held
        if held is not None and not self.line_mode and (held.chunk or held.later):
            # In raw mode, what is held came after what has been handed out.
            held.put_back(extra)
            extra = b""
        self.line_mode = 1
        if extra or held:
            self.dataReceived(extra)

    def clearLineBuffer(self) -> bytes:
        """Let go of the bytes that are held, and return them."""
        return self._held.replace() if self._held else b""

    def _deliver(self, held: _Held, gate: Any) -> Any:
        delimiter: Any = None
        answer = None  # of the last rawDataReceived()
        whole, part = WHOLE_SWITCHES, _FIRST_PART
        while not self.paused and gate.reading:
            if not self.line_mode:
                if whole:
                    whole -= 1
                    data = held.replace()
                else:
                    data = held.take(part)
                if not data:
                    return answer
                answer = self.rawDataReceived(data)
                part = _FIRST_PART if self.line_mode else 2 * part
                continue
            # Read afresh each time, for the callback may have changed any of these.
            if self.delimiter is not delimiter:
                delimiter = self.delimiter
                width = len(delimiter)
                if not width:
                    raise ValueError("delimiter is empty; set it to what ends a line")
            chunk = held.chunk
            start = held.offset
            end = chunk.find(delimiter, start)
            if end < 0:
                # The short way out, for most reads end with a line.
                if start == len(chunk) and not held.later:
                    held.chunk, held.offset = b"", 0
                    return answer
                if not self._next_chunk(held, delimiter):
                    return answer
            elif end - start > self.MAX_LENGTH:
                self.lineLengthExceeded(held.replace())
            else:
                held.offset = end + width
                self.lineReceived(chunk[start:end])
        return answer


class LineOnlyReceiver(_Lines):
    """Receives lines, faster than LineReceiver: it has neither raw mode nor `pauseProducing`.

    delimiter: what ends a line, bytes; a change takes effect with the next read.
    MAX_LENGTH: of a line, in bytes without the delimiter.
    """

    # Lines already cut. An iterator knows where it was when a pause came.
    _lines: Iterator[bytes] = iter(())

    @property
    def holds_input(self) -> bool:
        return length_hint(self._lines) > 0 or super().holds_input

    def _deliver(self, held: _Held, gate: Any) -> None:
        while gate.reading:
            for line in self._lines:
                if len(line) > self.MAX_LENGTH:
                    self.lineLengthExceeded(line)
                else:
                    self.lineReceived(line)
                if not gate.reading:
                    return
            if not held.chunk and not held.later:
                return
            lines = held.chunk.split(self.delimiter)
            held.chunk = lines.pop()
            self._lines = iter(lines)
            if not lines and not self._next_chunk(held, self.delimiter):
                return


class _Strings(_Receiver):
    """What the receivers of strings share."""

    MAX_LENGTH = 99999

    def stringReceived(self, string: bytes) -> None:
        """One whole string, without what framed it. Override this."""
        raise NotImplementedError(f"{safe_repr(self)} must override stringReceived(string)")


class NetstringReceiver(_Strings):
    """Receives and sends netstrings, `<length in decimal>:<bytes>,`.

    MAX_LENGTH: of a string, in bytes. A longer one, or anything that is no netstring, closes the
    connection and sets `brokenPeer` to 1; it is noticed as soon as its first wrong byte is here.
    """

    brokenPeer = 0

    def sendString(self, string: bytes) -> None:
        """Write `string` as a netstring."""
        self.transport.write(b"%d:%b," % (len(string), string))

    def _deliver(self, held: _Held, gate: Any) -> None:
        while not self.brokenPeer and gate.reading:
            try:
                string = self._next_string(held)
            except NetstringParseError as error:
                logger.debug("closing the connection of %s: %s", safe_repr(self), error)
                self.brokenPeer = 1
                self.transport.loseConnection()
                return
            if string is None:
                return
            self.stringReceived(string)

    def _next_string(self, held: _Held) -> bytes | None:
        """Take the next string out of what is held. None: it has not come as a whole."""
        longest = len(str(self.MAX_LENGTH)) + 1
        if held.later and len(held.chunk) - held.offset < longest:
            held.gather(0)
        start = held.offset
        digits, colon, _ = held.chunk[start : start + longest].partition(b":")
        need = longest
        if digits or colon:
            if not digits.isdigit() or (digits[0] == ord("0") and len(digits) > 1):
                raise NetstringParseError(f"{digits + colon!r} is no length; send digits and ':'")
            if int(digits) > self.MAX_LENGTH:
                raise NetstringParseError(f"length {digits!r} is above {self.MAX_LENGTH}")
            if colon:
                need = len(digits) + int(digits) + 2
        if len(held.chunk) - start < need and not held.gather(need):
            return None
        start = held.offset + len(digits) + 1
        held.offset = end = held.offset + need
        if held.chunk[end - 1] != ord(","):
            raise NetstringParseError(f"{held.chunk[end - 1 : end]!r} ends a string; send ','")
        return held.chunk[start : end - 1]


class IntNStringReceiver(_Strings, _Pauseable):
    """Receives and sends strings behind their length as a binary integer. Use a subclass.

    structFormat: of the length, as in the `struct` module. prefixLength: its size in bytes.
    MAX_LENGTH: of a string that is received, in bytes.
    """

    structFormat: str
    prefixLength: int

    @property
    def recvd(self) -> bytes:
        """The bytes that are held; may be set, for a protocol that hands over to another."""
        return self._held.peek() if self._held else b""

    @recvd.setter
    def recvd(self, data: bytes) -> None:
        if self._held is None:
            self._held = _Held()
        self._held.replace(data)

    def lengthLimitExceeded(self, length: int) -> None:
        """A string of `length` bytes is announced: closes the connection, unless overridden.

        The prefix and what follows it stay in `recvd`.
        """
        self.transport.loseConnection()

    def sendString(self, string: bytes) -> None:
        """Write `string` behind its length. StringTooLongError if the prefix cannot count it."""
        limit = 256**self.prefixLength
        if len(string) >= limit:
            raise StringTooLongError(
                f"{len(string)} bytes do not fit a prefix of {self.prefixLength} bytes; "
                f"send fewer than {limit}, or use a receiver with a longer prefix"
            )
        self.transport.write(pack(self.structFormat, len(string)) + string)

    def _deliver(self, held: _Held, gate: Any) -> None:
        prefix = self.prefixLength
        while not self.paused and gate.reading:
            # Read afresh each time, for the callback may have set `recvd`.
            chunk = held.chunk
            start = held.offset + prefix
            need = prefix
            if start <= len(chunk):
                (length,) = unpack_from(self.structFormat, chunk, start - prefix)
                if length > self.MAX_LENGTH:
                    self.lengthLimitExceeded(length)
                    return
                end = start + length
                if end <= len(chunk):
                    held.offset = end
                    self.stringReceived(chunk[start:end])
                    continue
                need += length
            if not held.gather(need):
                return


class Int32StringReceiver(IntNStringReceiver):
    """Strings behind four bytes of length, in network byte order."""

    structFormat = "!I"
    prefixLength = calcsize(structFormat)


class Int16StringReceiver(IntNStringReceiver):
    """Strings behind two bytes of length, in network byte order."""

    structFormat = "!H"
    prefixLength = calcsize(structFormat)


class Int8StringReceiver(IntNStringReceiver):
    """Strings behind one byte of length."""

    structFormat = "!B"
    prefixLength = calcsize(structFormat)


class StatefulStringProtocol:
    """A mixin, before a receiver of strings, that hands each string to the method of the state.

    In state "x" that is `proto_x(string)`, which returns the next state. The first is "init";
    "done" closes the connection. A string in a state without a method is logged and passed over.
    """

    transport: Any
    state = "init"

    def stringReceived(self, string: bytes) -> None:
        handler = getattr(self, f"proto_{self.state}", None)
        if handler is None:
            logger.warning(
                "%s passes over a string: it has no method proto_%s", safe_repr(self), self.state
            )
            return
        self.state = handler(string)
        if self.state == "done":
            self.transport.loseConnection()


class FileSender:
    """A pull producer that sends a file, one chunk whenever the consumer asks.

    CHUNK_SIZE: how many bytes are read at a time. lastSent: the last byte sent, b"" before.
    """

    # A pass of the loop reads one chunk, and a disk may be slow: the other connections wait.
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
        """Send what `file.read(size)` gives, up to its end, through `transform` if there is one.

        `file` must give bytes; it is left open. The Deferred gets the last byte sent once all is
        written, or the exception that ended the transfer: one out of `file`, `transform` or
        `consumer.write`; BlockingIOError if a non-blocking `file` has nothing to read yet; or
        ConnectionLost if the consumer stops it. Raises RuntimeError if this sender is still busy,
        or if `consumer` has another producer.
        """
        if self.deferred is not None:
            raise RuntimeError(
                f"{safe_repr(self)} still sends {safe_repr(self.file)}; use another FileSender"
            )
        self.file, self.consumer, self.transform = file, consumer, transform
        self.lastSent = b""
        deferred: Deferred[bytes] = Deferred()
        self.deferred = deferred
        try:
            consumer.registerProducer(self, False)
        except BaseException:
            self._let_go()
            raise
        return deferred

    def resumeProducing(self) -> None:
        """Write one chunk, or end the transfer."""
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
        """Nothing to do: a pull producer writes only when it is asked."""

    def stopProducing(self) -> None:
        """The consumer takes no more: end the transfer with ConnectionLost."""
        error = ConnectionLost(
            f"{safe_repr(self.consumer)} stopped the transfer of {safe_repr(self.file)}"
        )
        deferred = self._let_go()
        if deferred is not None:
            deferred.errback(error)

    def _next_chunk(self) -> bytes:
        """What is to be written next; nothing at the end of the file."""
        while True:
            chunk: bytes | None = self.file.read(self.CHUNK_SIZE)
            if chunk is None:
                # Not the end of the file: a peer must not take a part for the whole.
                raise BlockingIOError(
                    errno.EAGAIN,
                    f"{safe_repr(self.file)} has nothing to read now; wait until it has",
                )
            if not chunk or self.transform is None:
                return chunk
            chunk = self.transform(chunk)
            # Nobody would ask again after a chunk of which the transform left nothing.
            if chunk:
                return chunk

    def _end(self, error: BaseException | None = None) -> None:
        consumer = self.consumer
        deferred = self._let_go()
        if deferred is None:
            return
        consumer.unregisterProducer()
        if error is None:
            deferred.callback(self.lastSent)
        else:
            deferred.errback(error)

    def _let_go(self) -> Deferred[bytes] | None:
        deferred, self.deferred = self.deferred, None
        self.file = self.consumer = self.transform = None
        return deferred
