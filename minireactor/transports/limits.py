"""What the connections of a port or a connector begin with: marks, and the kernel's limit."""

from __future__ import annotations

from minireactor.core import flow
from minireactor.transports.kernel import unsent_limit_for


class Limits:
    """For ports and connectors. Changes apply to connections to come."""

    _marks = (flow.HIGH, flow.LOW)
    _unsent: int | None = None

    def setWriteBufferLimits(self, high: int, low: int | None = None) -> None:
        """Set the marks, in bytes; 64 and 16 KiB by default. ValueError unless 0 <= low < high."""
        self._marks = flow.checked_marks(high, low)
        self._apply_limits()

    def setUnsentLimit(self, limit: int | None = None) -> None:
        """Set how many bytes the kernel holds unsent for a peer that does not read, about.

        None: twice the high mark, as by default. 0: as many as the system's send buffer takes.
        ValueError for anything else that is no number of bytes."""
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"limit={limit!r} will not do: give bytes, 0 for none, or None")
        self._unsent = limit
        self._apply_limits()

    def unsent_limit(self) -> int:
        """Return the limit of connections to come, in bytes; 0 for none."""
        return unsent_limit_for(self._marks[0]) if self._unsent is None else self._unsent

    def _apply_limits(self) -> None:
        """Apply changed limits to sockets that are open already: none, for a connector."""
