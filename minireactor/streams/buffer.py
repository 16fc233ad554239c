"""A stage that lets its producer run ahead of its consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.core import flow
from minireactor.core.buffer import LARGE, WriteBuffer
from minireactor.streams.stage import Piece

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

# Bytes that a Buffer passes on at a time: by no more can it overfill its consumer.
LARGEST_PASS = 16 * 1024


class Buffer(Piece):
    """Lets its producer run ahead of its consumer, by `high` bytes.

    0 <= low < high; low is high // 4 unless given; ValueError. A pause from below stays here until
    more than `high` bytes are held; then it goes up. A resume passes on what is held until the
    next pause, and goes up once `low` bytes or fewer are left. At the end, unregisterProducer()
    goes down after the last byte. At a loss, what is held is dropped.
    """

    def __init__(
        self, high: int = flow.HIGH, low: int | None = None, reactor: IReactorTime | None = None
    ) -> None:
        super().__init__(reactor)
        self._flow.high, self._flow.low = flow.checked_marks(high, low)
        self._buffer = WriteBuffer()

    @property
    def held(self) -> int:
        return len(self._buffer)

    def _take(self, data: bytes) -> None:
        if len(data) < LARGE:
            self._buffer.tail += data
        else:
            self._buffer.append(data)

    def _next(self) -> bytes | None:
        chunk = b"".join(self._buffer.peek(LARGEST_PASS))
        self._buffer.advance(len(chunk))
        return chunk or None

    def _unfinished(self) -> bool:
        return len(self._buffer) > 0

    def _load(self) -> int:
        return len(self._buffer)

    def _drop(self) -> None:
        self._buffer.clear()
