"""A stage that passes on the output of a function: compress, decompress, count, encode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Union

from minireactor.core import flow
from minireactor.core.buffer import as_bytes
from minireactor.streams.stage import Stage

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

Output = Union[bytes, bytearray, memoryview, Iterable[Union[bytes, bytearray, memoryview]], None]

_END = object()


class Transform(Stage):
    """Pass on the output of `function(data)` for each chunk and, at the end, of `flush()`.

        pack, unpack = zlib.compressobj(), zlib.decompressobj()
        Transform(pack.compress, pack.flush)
        Transform(unpack.decompress)

    Each function returns a chunk, None, or an iterable of chunks, for example a generator. A chunk
    is bytes, a bytearray or a memoryview, and may be empty. The iterable is asked for its next
    chunk only while the consumer takes data. So little memory is needed, even if a small input has
    a large output:

        def unpacked(data, limit=16 * 1024):
            chunk = None
            while data or chunk:  # zlib may have consumed all data and still have output
                chunk = unpack.decompress(data, limit)
                data = unpack.unconsumed_tail
                yield chunk

        def check():
            if not unpack.eof:
                raise EOFError("the compressed data breaks off")

        Transform(unpacked, check)

    The producer is paused when the consumer pauses, or when a chunk has to wait. It is resumed when
    the last chunk was transformed and passed on. U2: a pull producer is asked for more if its chunk
    gave no output. The end of the stream is passed on after the output of `flush`.

    An exception of either function stops the producer and aborts the consumer. After a loss,
    neither function is called again.
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
        self._input_size = 0  # bytes of the input chunk that `_output` comes from

    @property
    def buffered(self) -> int:
        """The number of bytes that were written and are not yet fully transformed."""
        return self._size + self._input_size

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
            self._input_size = 0

    def _begin(self) -> Iterator[Any] | None:
        """Return the output for the next input chunk or, after the last one, of the flush."""
        data = super()._next()
        if data is not None:
            self._input_size = len(data)
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
        self._input_size = 0


def _chunks_of(output: Output) -> Iterator[Any]:
    if output is None:
        return iter(())
    return iter((output,) if isinstance(output, (bytes, bytearray, memoryview)) else output)
