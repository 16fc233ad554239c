"""Protocols that split a stream of bytes into strings, each sent with its length."""

from __future__ import annotations

from struct import calcsize, pack, unpack_from
from typing import Any

from minireactor.basic.receiver import InputBuffer, PauseableReceiver, Receiver
from minireactor.failure import safe_repr
from minireactor.log import logger


class NetstringParseError(ValueError):
    """The input is not a netstring, or a string is longer than MAX_LENGTH."""


class StringTooLongError(AssertionError):
    """`sendString` was given a string whose length does not fit the length prefix."""


class _BaseStringReceiver(Receiver):
    """The base of all string receivers."""

    MAX_LENGTH = 99999

    def stringReceived(self, string: bytes) -> None:
        """Handle one whole string, without its length prefix or framing. Override this."""
        raise NotImplementedError(f"{safe_repr(self)} must override stringReceived(string)")


class NetstringReceiver(_BaseStringReceiver):
    """Receives and sends netstrings, `<length in decimal>:<bytes>,`.

    MAX_LENGTH: the longest string, in bytes. A longer string, or input that is no netstring, closes
        the connection and sets `brokenPeer` to 1, as soon as the first wrong byte has arrived.
    """

    brokenPeer = 0

    def sendString(self, string: bytes) -> None:
        """Write `string` as a netstring."""
        self.transport.write(b"%d:%b," % (len(string), string))

    def _deliver(self, buffer: InputBuffer, transport: Any) -> None:
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

    def _next_string(self, buffer: InputBuffer) -> bytes | None:
        """Remove and return the next string, or None if it is not complete.

        Raises NetstringParseError if the input is no netstring, or a string is too long."""
        prefix_limit = len(str(self.MAX_LENGTH)) + 1
        if buffer.later and len(buffer.chunk) - buffer.offset < prefix_limit:
            buffer.gather(0)
        start = buffer.offset
        digits, colon, _ = buffer.chunk[start : start + prefix_limit].partition(b":")
        need = prefix_limit
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


class IntNStringReceiver(_BaseStringReceiver, PauseableReceiver):
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
            self._buffered_input = InputBuffer()
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

    def _deliver(self, buffer: InputBuffer, transport: Any) -> None:
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
    """A mixin for a string receiver: passes each string to the method of the current state.

    Name it before the receiver in the list of bases: `class Mine(StatefulStringProtocol, ...)`.

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
