"""The write buffer: bytes that the application has written and the kernel has not taken yet.

    operation        cost
    tail += data     O(len(data)); for small chunks
    append(data)     O(1); for large chunks, which are never copied again
    prepend(data)    O(1)
    peek(limit)      O(chunks returned)
    take(limit)      O(1)
    advance(count)   O(chunks removed)

Small chunks are merged in one bytearray, the *tail*. So a thousand writes of a few bytes become one
send, and need no more memory than their bytes. Large chunks are kept as they are, in a queue before
the tail. The tail is the same object for the buffer's whole life: a hot path may keep a reference.

A chunk may also be a Source, whose bytes are elsewhere: in a file or in a pipe.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import socket

# Bytes. Copying a chunk of this size or more costs more than passing it to sendmsg() separately.
LARGE = 8 * 1024
# Chunks for one sendmsg(). More chunks gain nothing. The system's limit, IOV_MAX, is 1,024.
_MAX_CHUNKS = 64


class Source:
    """A chunk whose bytes never enter this process.

    left: how many bytes are still to be sent.
    """

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def __len__(self) -> int:
        return self.left

    def send_to(self, sock: socket.socket, limit: int) -> int:
        """Let the kernel send up to `limit` bytes in one call, and return how many it has sent.

        Raises EOFError if the source has fewer bytes than `left` says, and OSError."""
        raise NotImplementedError

    def read(self, limit: int) -> bytes:
        """Read up to `limit` bytes, for a transport that must change them. Raises as send_to()."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the source's resources. If bytes are `left`, they will never be sent."""


Chunk = Union[bytes, bytearray, memoryview, Source]


def as_bytes(data: Any) -> bytes:
    """Return the present bytes of `data`, which may be any buffer.

    Raises TypeError, with a message that names the fix, for anything else."""
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
    """A queue of bytes: `tail += data` and `append(data)` add to it, `advance(count)` removes.

    sealed: the number of bytes before the tail, in chunks to which no write adds any more.
    """

    __slots__ = ("_chunks", "sealed", "tail")

    def __init__(self) -> None:
        self.tail = bytearray()
        self.sealed = 0
        # An empty deque takes 0.7 KB, and most connections never need one.
        self._chunks: deque[Chunk] | None = None

    def __len__(self) -> int:
        return self.sealed + len(self.tail)

    def append(self, data: bytes | Source) -> None:
        """Add a large chunk or a source, without a copy, after what has been added before."""
        if self._chunks is None:
            self._chunks = deque()
        if self.tail:
            self._chunks.append(bytes(self.tail))
            self.sealed += len(self.tail)
            self.tail.clear()
        self._chunks.append(data)
        self.sealed += len(data)

    def prepend(self, data: bytes) -> None:
        """Add a chunk, without a copy, before all that is in the buffer."""
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.appendleft(data)
        self.sealed += len(data)

    def peek(self, limit: int) -> list[Any]:
        """Return the first chunks, `limit` bytes in all at most. They stay in the buffer.

        A source is returned alone and whole, even if it has more than `limit` bytes."""
        chunks: list[Any] = []
        for chunk in islice(self._chunks or (), _MAX_CHUNKS):
            if isinstance(chunk, Source):
                return chunks or [chunk]
            if len(chunk) >= limit:
                # A view copies nothing. Copying the rest of a huge chunk for every send would take
                # quadratic time.
                chunks.append(chunk if len(chunk) <= limit else memoryview(chunk)[:limit])
                return chunks
            chunks.append(chunk)
            limit -= len(chunk)
        if self.tail and len(chunks) < _MAX_CHUNKS:
            chunks.append(self.tail if len(self.tail) <= limit else self.tail[:limit])
        return chunks

    def take(self, limit: int) -> Any:
        """Remove and return the first chunk, or its first `limit` bytes if it is longer.

        A source is returned as it is, and stays in the buffer. There must be a chunk."""
        if not self._chunks:
            data = self.tail[:limit]
            del self.tail[:limit]
            return data
        chunk = self._chunks[0]
        if isinstance(chunk, Source):
            return chunk
        if len(chunk) <= limit:
            self._chunks.popleft()
        else:
            self._chunks[0] = memoryview(chunk)[limit:]
            chunk = memoryview(chunk)[:limit]
        self.sealed -= len(chunk)
        return chunk

    def advance(self, count: int) -> int:
        """Remove the first `count` bytes, which have been sent. Return how many bytes are left."""
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
        """Remove all bytes, and close the sources."""
        for chunk in self._chunks or ():
            if isinstance(chunk, Source):
                chunk.close()
        self._chunks = None
        self.sealed = 0
        self.tail.clear()
