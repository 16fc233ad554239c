"""A stage that passes on what a function makes of the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Union

from minireactor.core import flow
from minireactor.core.buffer import as_bytes
from minireactor.streams.stage import Piece

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

Output = Union[bytes, bytearray, memoryview, Iterable[Union[bytes, bytearray, memoryview]], None]

_END = object()


class Transform(Piece):
    """Passes on what `function` makes of the bytes: `function(data)` for each chunk that comes, and
    at the end `flush()`, if there is one.

        pack, unpack = zlib.compressobj(), zlib.decompressobj()
        Transform(pack.compress, pack.flush)
        Transform(unpack.decompress)

    Both return bytes, a bytearray or a memoryview, which may be empty; None; or an iterable of
    them, a generator say. That is asked for its next chunk only while the consumer takes it, so
    what makes much of little needs little memory, whatever the peer sends:

        def unpacked(data, most=16 * 1024):
            chunk = None
            while data or chunk:  # zlib may have taken all of data, and still have more to give
                chunk = unpack.decompress(data, most)
                data = unpack.unconsumed_tail
                yield chunk

        def check():
            if not unpack.eof:
                raise EOFError("the compressed data breaks off")

        Transform(unpacked, check)

    A pause goes up at once, and with the first chunk that has to wait; a resume goes up when the
    last has been transformed and passed on. U2: a pull producer whose chunk was swallowed is asked
    for the next one. The end goes down after what `flush` gives. What one of the two raises breaks
    the stream off, both ways; at a loss neither is called any more.
    """

    def __init__(
        self,
        function: Callable[[bytes], Output],
        flush: Callable[[], Output] | None = None,
        reactor: IReactorTime | None = None,
    ) -> None:
        super().__init__(reactor)
        self._function = function
        self._flush = flush
        self._output: Iterator[Any] | None = None
        self._in_work = 0  # bytes of the input that `_output` is made of

    @property
    def held(self) -> int:
        """Bytes that were written and are not yet transformed to the end."""
        return self._size + self._in_work

    def _next(self) -> bytes | None:
        while True:
            if self._output is None:
                self._output = self._begin()
                if self._output is None:
                    return None
            chunk = next(self._output, _END)
            if chunk is not _END:
                return as_bytes(chunk)
            self._output = None
            self._in_work = 0

    def _begin(self) -> Iterator[Any] | None:
        """What comes of the next input or, after the last, of the flush."""
        data = super()._next()
        if data is not None:
            self._in_work = len(data)
            return _chunks_of(self._function(data))
        flush = self._flush
        if flush is None or self._flow.state is not flow.CLOSED:
            return None
        self._flush = None
        return _chunks_of(flush())

    def _unfinished(self) -> bool:
        unflushed = self._flush is not None and self._flow.state is flow.CLOSED
        return unflushed or self._output is not None or self._size > 0

    def _drop(self) -> None:
        super()._drop()
        self._output = self._flush = None
        self._in_work = 0


def _chunks_of(output: Output) -> Iterator[Any]:
    if output is None:
        return iter(())
    return iter((output,) if isinstance(output, (bytes, bytearray, memoryview)) else output)
