"""Where a loop gets its sockets and descriptors: from the operating system, or from a test.

    Reactor(poller, seconds=..., system=...)    # readiness, time and sockets, all injected

Every socket of a loop comes from its System. After that, the loop and the transports use only the
methods of the socket, so a test may pass an object that is no `socket.socket`. Three operations
need a descriptor of the kernel. For them, such an object is treated differently:

- lengths of the queues: the object has methods for them, see `transports.kernel`.
- sendfile(): the bytes of the file are read, and sent with the object's send().
- splice(): not used if the System's `has_splice` is false.
"""

from __future__ import annotations

import os
import socket
from typing import Any


class System:
    """Makes sockets and descriptors. Each method raises OSError if the system has none left.

    has_splice: whether os.splice() may be used on these sockets, if this machine has it."""

    has_splice = True

    def connecting_socket(self, family: int, kind: int, proto: int) -> socket.socket:
        """Return a new socket, which the caller will connect."""
        return socket.socket(family, kind, proto)

    def listening_socket(self, family: int, kind: int, proto: int) -> socket.socket:
        """Return a new socket, which the caller will bind and listen on."""
        return ListeningSocket(family, kind, proto)

    def moved(self, sock: socket.socket) -> socket.socket:
        """Return a new socket with the descriptor of `sock`. After that, `sock` is closed."""
        moved = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        moved.setblocking(False)  # PyPy makes the descriptor blocking when it makes the object
        return moved

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        """Return two sockets that are connected to each other, for a waker."""
        return socket.socketpair()

    def local_addresses(self, interface: str) -> list[Any]:
        """Return the addresses of an interface, as getaddrinfo() does. May block."""
        # Leave out the port: some systems take a number that is too large modulo 65,536.
        return socket.getaddrinfo(interface, None, type=socket.SOCK_STREAM)

    def open_spare(self) -> int:
        """Return a descriptor that is kept in reserve. Closing it makes another one possible."""
        return os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def close_spare(self, fd: int) -> None:
        """Close a descriptor that open_spare() has returned."""
        os.close(fd)


class ListeningSocket(socket.socket):
    """A listening socket that skips two enum lookups per accept().

    To do so, it uses a private method of `socket.socket`. Benchmark `churn`, median of five runs
    of nine pairs: 33.1 us -> 32.1 us of CPU a connection (3 %)."""

    def __init__(
        self, family: int = -1, kind: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        super().__init__(family, kind, proto, fileno)
        self._numbers = (int(self.family), int(self.type), int(self.proto))

    def accept(self) -> tuple[socket.socket, Any]:
        fd, address = self._accept()  # type: ignore[attr-defined]
        return socket.socket(*self._numbers, fd), address


SYSTEM = System()
