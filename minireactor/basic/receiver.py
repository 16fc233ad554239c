"""The base classes of all receivers, and the buffer of input that is not delivered yet."""

from __future__ import annotations

from typing import Any

from minireactor.protocol import Protocol


class _ReadingAdapter:
    """Wraps a transport that lacks the attribute `reading`, and gives it this attribute."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    @property
    def reading(self) -> bool:
        return not getattr(self._transport, "disconnecting", False)


# (delimiter, offset): `later[:offset]` has been searched for `delimiter` already.
_NOT_SEARCHED = (b"", 0)


class InputBuffer:
    """The input that is not delivered yet: `chunk` from `offset` on, then `later`.

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
        """Return all buffered bytes, which stay buffered."""
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
        """Insert `data` before the rest, without a copy if `data` was just taken from here."""
        start = self.offset - len(data)
        if start >= 0 and self.chunk.startswith(data, start):
            self.offset = start
        else:
            self.chunk, self.offset = data + self.chunk[self.offset :], 0
        self.searched = _NOT_SEARCHED

    def gather(self, size: int) -> bool:
        """Join `chunk` and `later` if they have `size` bytes together; return whether they do."""
        # Free the delivered bytes now: the rest of the string may arrive much later.
        self.chunk, self.offset = self.chunk[self.offset :], 0
        if len(self.chunk) + len(self.later) < size:
            return False
        self.chunk += self.later
        self.later.clear()
        return True

    def gather_line(self, delimiter: bytes) -> bool:
        """Join `chunk` and `later` if they contain `delimiter`; return whether they do.

        The caller has searched the chunk alone, and found no `delimiter` in it."""
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


class Receiver(Protocol):
    """The base of all receivers: buffers input, and delivers it while the transport reads."""

    _buffered_input: InputBuffer | None = None

    @property
    def has_buffered_input(self) -> bool:
        """Whether any input is buffered that is not delivered yet."""
        return bool(self._buffered_input)

    def dataReceived(self, data: bytes) -> Any:
        """Buffer `data`, which may be empty, and deliver input until it is paused."""
        buffer = self._buffered_input
        if buffer is None:
            buffer = self._buffered_input = InputBuffer()
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

    def _deliver(self, buffer: InputBuffer, transport: Any) -> Any:
        """Deliver input while `transport.reading`. The result is that of `dataReceived`."""
        raise NotImplementedError


class PauseableReceiver(Receiver):
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
