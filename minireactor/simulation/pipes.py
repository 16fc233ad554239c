"""What takes the place of the kernel's pipes, through which a proxy splices."""

from __future__ import annotations

from typing import Any

from minireactor.core.buffer import Source


class MemoryPipe(Source):
    """Bytes on their way from socket to socket, where a proxy would use a pipe of the kernel."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self._data = data

    def rest(self) -> bytes:
        """Return the bytes that are left."""
        return self._data[len(self._data) - self.left :]

    def send_to(self, sock: Any, limit: int) -> int:
        return sock.send(self.rest()[:limit])  # type: ignore[no-any-return]
