"""A stage that lets its producer run ahead of its consumer, up to a high watermark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.core import flow
from minireactor.core.buffer import LARGE, WriteBuffer
from minireactor.streams.stage import Stage

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

# Bytes that a Buffer passes on at a time: a consumer gets at most this many above its high mark.
LARGEST_CHUNK = 16 * 1024


class Buffer(Stage):
    """Buffer bytes, up to a high watermark, so that the producer may run ahead of the consumer.

    high, low: the watermarks in bytes, 0 <= low < high. Without `low`, low is high // 4.

    If the consumer pauses, the producer goes on until more than `high` bytes are buffered. If the
    consumer resumes, the buffered bytes are passed on until it pauses again. The producer is
    resumed when `low` bytes or fewer are left. The end of the stream is passed on after the last
    byte. If the consumer is lost, the buffered bytes are dropped.

    Raises ValueError if the watermarks are not in that order.
    """

    def __init__(
        self, high: int = flow.HIGH, low: int | None = None, reactor: IReactorTime | None = None
    ) -> None:
        super().__init__(reactor)
        self._flow.high, self._flow.low = flow.checked_marks(high, low)
        self._buffer = WriteBuffer()

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def _store(self, data: bytes) -> None:
        if len(data) < LARGE:
            self._buffer.tail += data
        else:
            self._buffer.append(data)

    def _next(self) -> bytes | None:
        chunk = b"".join(self._buffer.peek(LARGEST_CHUNK))
        self._buffer.advance(len(chunk))
        return chunk or None

    def _unfinished(self) -> bool:
        return len(self._buffer) > 0

    def _level(self) -> int:
        return len(self._buffer)

    def _drop(self) -> None:
        self._buffer.clear()
