"""The write buffer: what the application has written and the kernel has not yet taken.

    operation        cost
    tail += data     O(len(data)), for small chunks
    append(data)     O(1), for large ones: never copied again
    peek(limit)      O(chunks returned)
    advance(count)   O(chunks that it uses up)

Small chunks merge in one bytearray, the *tail*: a thousand writes of a few bytes become one
send, and cost their own length in memory. Large chunks stay as they are, in a queue before it.
The tail is one object for the buffer's whole life, so that a hot path may hold on to it.

A chunk may also be a Source, whose bytes are elsewhere, in a file or a pipe.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import socket

# Bytes. From here on, copying a chunk costs more than handing it to sendmsg() by itself.
LARGE = 8 * 1024
# Chunks for one sendmsg(): beyond this the call gains nothing, and IOV_MAX (1,024) stays far off.
_MAX_CHUNKS = 64


class Source:
    """Bytes that never come into this process. `left`: how many are still to be sent."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def __len__(self) -> int:
        return self.left

    def send_to(self, sock: socket.socket, limit: int) -> int:
        """Have the kernel send up to `limit` of them, in one call; how many. OSError, and EOFError
        if there are fewer than was said."""
        raise NotImplementedError

    def close(self) -> None:
        """All is sent; or, if some are `left`, these never will be."""


Chunk = Union[bytes, bytearray, memoryview, Source]


def as_bytes(data: Any) -> bytes:
    """What `data`, any buffer, holds now; a TypeError that names the fix for anything else."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        raise TypeError(f"write() takes bytes, not str: encode {data[:40]!r} first")
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(
            f"write() takes bytes, bytearray or memoryview, not {type(data).__name__}"
        ) from None


class WriteBuffer:
    """A queue of bytes: `tail += data` or `append(data)` fill it, peek and advance empty it."""

    __slots__ = ("_chunks", "sealed", "tail")

    def __init__(self) -> None:
        self.tail = bytearray()
        self.sealed = 0  # bytes in the chunks before the tail
        # A deque takes 0.7 KB even when it is empty: most connections never need one.
        self._chunks: deque[Chunk] | None = None

    def __len__(self) -> int:
        return self.sealed + len(self.tail)

    def append(self, data: bytes | Source) -> None:
        """Queue a large chunk, or a source, as it is, behind the small ones before it."""
        if self._chunks is None:
            self._chunks = deque()
        if self.tail:
            self._chunks.append(bytes(self.tail))
            self.sealed += len(self.tail)
            self.tail.clear()
        self._chunks.append(data)
        self.sealed += len(data)

    def peek(self, limit: int) -> list[Any]:
        """The first chunks, of `limit` bytes together at most; the buffer keeps them.

        A source comes alone, and whole."""
        chunks: list[Any] = []
        for chunk in islice(self._chunks or (), _MAX_CHUNKS):
            if isinstance(chunk, Source):
                return chunks or [chunk]
            if len(chunk) >= limit:
                # A copy of a huge chunk's head for every send would be quadratic: a view is not.
                chunks.append(chunk if len(chunk) <= limit else memoryview(chunk)[:limit])
                return chunks
            chunks.append(chunk)
            limit -= len(chunk)
        if self.tail and len(chunks) < _MAX_CHUNKS:
            chunks.append(self.tail if len(self.tail) <= limit else self.tail[:limit])
        return chunks

    def advance(self, count: int) -> int:
        """Forget the first `count` bytes, which have been sent; how many are left."""
        chunks = self._chunks
        while chunks:
            first = chunks[0]
            if isinstance(first, Source):
                return self._advance_source(first, count)
            size = len(first)
            if size > count:
                if count:
                    chunks[0] = memoryview(first)[count:]
                    self.sealed -= count
                return len(self)
            chunks.popleft()
            self.sealed -= size
            count -= size
        self._chunks = None
        if count == len(self.tail):
            self.tail.clear()
        else:
            del self.tail[:count]
        return len(self.tail)

    def _advance_source(self, source: Source, count: int) -> int:
        source.left -= count
        self.sealed -= count
        if not source.left and self._chunks:
            self._chunks.popleft()
            source.close()
        return len(self)

    def clear(self) -> None:
        """Forget everything."""
        for chunk in self._chunks or ():
            if isinstance(chunk, Source):
                chunk.close()
        self._chunks = None
        self.sealed = 0
        self.tail.clear()
