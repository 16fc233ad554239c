"""A stage that limits the number of bytes that pass in a second: a token bucket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minireactor.streams.stage import Stage

if TYPE_CHECKING:
    from minireactor.interfaces import IReactorTime

# Seconds. A shorter delay may be rounded to nothing, and would then be repeated endlessly.
SHORTEST_WAIT = 1e-6


class RateLimiter(Stage):
    """Pass on `rate` bytes a second, and up to `burst` bytes at once after a rest.

    rate: bytes a second, any number above 0.
    burst: bytes, 1 or more; by default, the bytes of a tenth of a second.

    At most `rate + burst` bytes pass in any second. The full `rate` is reached if the loop is never
    later than `burst / (2 * rate)` seconds.

    Bytes that may not pass yet are buffered. The producer is paused with the first buffered byte,
    so the buffer holds the rest of one chunk at most. The producer is resumed when the last
    buffered byte has passed. If the consumer pauses, the producer is paused at once. During the
    pause the allowance grows up to `burst` and no further. At the end of the stream, the buffered
    bytes pass at the same rate, and then the end does. If the consumer is lost, the buffered bytes
    are dropped.

    Raises ValueError if `rate` or `burst` is not such a number.
    """

    def __init__(
        self, rate: float, burst: int | None = None, reactor: IReactorTime | None = None
    ) -> None:
        super().__init__(reactor)
        if not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise ValueError(f"rate={rate!r} is not valid: give bytes a second, more than 0")
        if burst is None:
            burst = max(1, int(rate / 10))
        if not isinstance(burst, int) or burst < 1:
            raise ValueError(f"burst={burst!r} is not valid: give a number of bytes, 1 or more")
        self._rate = rate
        self._burst = burst
        # Wait until half a burst may pass: each single byte would cost a wake-up. The other half of
        # the bucket takes the bytes that are earned while a wake-up is late.
        self._portion = (burst + 1) // 2
        # The allowance is counted from the last moment when the bucket was full. Adding up many
        # small steps would add up their rounding errors.
        self._full_at = -math.inf
        self._spent = 0  # bytes passed since then

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
            # A view of the rest: copying the rest for every portion would take quadratic time.
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
