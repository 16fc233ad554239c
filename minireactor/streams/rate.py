"""A stage that limits how many bytes pass in a second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minireactor.streams.stage import Piece

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

# Seconds. A delay that is lost in the rounding of the clock would come round again and again.
SHORTEST_WAIT = 1e-6


class RateLimiter(Piece):
    """Passes on `rate` bytes a second, and up to `burst` bytes at once after a rest.

    `rate`: any number above 0. `burst`: a whole number of bytes, 1 or more, unless given those of a
    tenth of a second. ValueError. In no second pass more than `rate + burst` bytes; and as long as
    there is something to pass, `rate` of them do, if the loop is never late by the time that half
    of `burst` takes.

    It holds what may not pass yet, and sends a pause up with the first byte that it has to hold:
    that is the rest of one chunk. Resume goes up when the last byte held has passed. A pause from
    below goes up at once; meanwhile the right to pass on grows no further than to `burst`. At the
    end, what is held goes on at its rate, then unregisterProducer(); at a loss it is dropped.
    """

    def __init__(
        self, rate: float, burst: int | None = None, reactor: IReactorTime | None = None
    ) -> None:
        super().__init__(reactor)
        if not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise ValueError(f"rate={rate!r} will not do: it is bytes a second, more than 0")
        if burst is None:
            burst = max(1, int(rate / 10))
        if not isinstance(burst, int) or burst < 1:
            raise ValueError(f"burst={burst!r} will not do: it is a number of bytes, 1 or more")
        self._rate = rate
        self._burst = burst
        # Not by single bytes, nor by all that may pass at once: what is earned while a wake-up is
        # late must still find room.
        self._portion = (burst + 1) // 2
        # The bucket is counted from a moment at which it was full, so that the roundings of many
        # small steps do not add up.
        self._full_at = -math.inf
        self._spent = 0  # bytes since

    def _next(self) -> bytes | None:
        if not self._chunks:
            return None
        now = self._time().seconds()
        allowed = self._allowed(now)
        wanted = min(self._size, self._portion)
        if allowed < wanted:
            due = self._full_at + (self._spent + wanted - self._burst) / self._rate
            self._wake_in(max(due - now, SHORTEST_WAIT))
            return None
        chunk = self._chunks.popleft()
        if len(chunk) > allowed:
            # To copy the rest for every portion would be quadratic: a view is not.
            view = memoryview(chunk)
            self._chunks.appendleft(view[allowed:])
            chunk = view[:allowed]
        self._size -= len(chunk)
        self._spent += len(chunk)
        return bytes(chunk)

    def _allowed(self, now: float) -> int:
        earned = (now - self._full_at) * self._rate
        if earned >= self._spent:
            self._full_at, self._spent = now, 0
            return self._burst
        return self._burst + int(earned) - self._spent
