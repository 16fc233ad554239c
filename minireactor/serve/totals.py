"""What a server has done, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minireactor.transports.connection import Connection


class Totals:
    """Counts what a server has done.

    connections: how many clients have connected.
    bytes_in, bytes_out: bytes received from and accepted by the kernel, application data only.
    pauses: how often a producer was paused.
    highest_pending: the most bytes that were pending for one connection at a time.
    """

    __slots__ = ("bytes_in", "bytes_out", "connections", "highest_pending", "pauses")

    def __init__(self) -> None:
        self.connections = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.pauses = 0
        self.highest_pending = 0

    def add(self, connection: Connection, *others: Connection) -> None:
        """Add a client's connection to the totals.

        `others` are connections that were made for this client. They count for pauses and pending
        bytes only."""
        self.connections += 1
        self.bytes_in += connection.bytes_in
        self.bytes_out += connection.bytes_out
        for part in (connection, *others):
            self.pauses += part.pauses
            self.highest_pending = max(self.highest_pending, part.highest_pending)

    def copy(self) -> Totals:
        """Return an independent copy of these totals."""
        other = Totals()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def __str__(self) -> str:
        return (
            f"connections {self.connections}, bytes in {self.bytes_in}, "
            f"bytes out {self.bytes_out}, pauses {self.pauses}, "
            f"highest pending {self.highest_pending} bytes"
        )
