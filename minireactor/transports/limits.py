"""The limits that new connections of a port or connector start with: marks and unsent limit."""

from __future__ import annotations

from minireactor.core import flow
from minireactor.transports.kernel import unsent_limit_for


class Limits:
    """The limits of a port or a connector. A change applies to later connections only."""

    _marks = (flow.HIGH, flow.LOW)
    _unsent: int | None = None

    def setWriteBufferLimits(self, high: int, low: int | None = None) -> None:
        """Set the high and low watermark, in bytes; 64 and 16 KiB by default.

        Raises ValueError unless 0 <= low < high."""
        self._marks = flow.checked_marks(high, low)
        self._apply_limits()

    def setUnsentLimit(self, limit: int | None = None) -> None:
        """Set about how many unsent bytes the kernel buffers for a peer that does not read.

        None: twice the high mark, the default. 0: as many as the system's send buffer holds.
        Raises ValueError if `limit` is neither None nor a number of bytes."""
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"limit={limit!r} is not valid; give bytes, 0 for no limit, or None")
        self._unsent = limit
        self._apply_limits()

    def unsent_limit(self) -> int:
        """Return the unsent limit of later connections, in bytes; 0 if they have none."""
        return unsent_limit_for(self._marks[0]) if self._unsent is None else self._unsent

    def _apply_limits(self) -> None:
        """Apply changed limits to open listening sockets. A connector has none."""
