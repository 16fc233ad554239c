"""A chunk of the write buffer whose bytes are elsewhere, in a file or in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


class Source:
    """Bytes that never come into this process. `left`: how many are still to be sent."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def __len__(self) -> int:
        return self.left

    def send_to(self, sock: socket.socket, limit: int) -> int:
        """Have the kernel send up to `limit` of them, in one call; how many. OSError, and EOFError
        if there are fewer than was said."""
        raise NotImplementedError

    def close(self) -> None:
        """All is sent; or, if some are `left`, these never will be."""
