"""Protocols that split a stream of bytes into lines: LineReceiver and LineOnlyReceiver."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from typing import Any

from minireactor.basic.receiver import InputBuffer, PauseableReceiver, Receiver
from minireactor.failure import safe_repr


class _BaseLineReceiver(Receiver):
    """The base of both line receivers."""

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

    def _next_chunk(self, buffer: InputBuffer, delimiter: bytes) -> bool:
        """Handle a chunk without a delimiter. Return False if no line can be delivered now."""
        if buffer.gather_line(delimiter):
            return True
        if len(buffer.later) < self.MAX_LENGTH + len(delimiter):
            return False
        self.lineLengthExceeded(buffer.replace())
        return True


# After this many switches to raw mode in one dataReceived(), raw data is delivered in parts. Up to
# then, each switch delivers the whole buffered input.
WHOLE_SWITCHES = 16
_FIRST_PART = 1024  # bytes; the smallest part of raw data after WHOLE_SWITCHES


class LineReceiver(_BaseLineReceiver, PauseableReceiver):
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

        `rawDataReceived` and `lineLengthExceeded` get all input, and give back `extra` of it here.
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

    def _deliver(self, buffer: InputBuffer, transport: Any) -> Any:
        delimiter: Any = None
        result = None  # of the last rawDataReceived()
        whole, part = WHOLE_SWITCHES, _FIRST_PART
        while not self.paused and transport.reading:
            if not self.line_mode:
                if whole:
                    whole -= 1
                    data = buffer.replace()
                else:
                    data = buffer.take(part)
                if not data:
                    return result
                result = self.rawDataReceived(data)
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
                    return result
                if not self._next_chunk(buffer, delimiter):
                    return result
            elif end - start > self.MAX_LENGTH:
                self.lineLengthExceeded(buffer.replace())
            else:
                buffer.offset = end + width
                self.lineReceived(chunk[start:end])
        return result


class LineOnlyReceiver(_BaseLineReceiver):
    """Receives lines, faster than LineReceiver: it has neither raw mode nor `pauseProducing`.

    delimiter: the bytes that end a line; a change takes effect with the next read.
    MAX_LENGTH: the longest line, in bytes without the delimiter.
    """

    # The lines of the last chunk. After a pause, the iterator continues with the next line.
    _lines: Iterator[bytes] = iter(())

    @property
    def has_buffered_input(self) -> bool:
        return length_hint(self._lines) > 0 or super().has_buffered_input

    def _deliver(self, buffer: InputBuffer, transport: Any) -> None:
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
