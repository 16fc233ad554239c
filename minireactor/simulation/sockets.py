"""The sockets of a simulated network: each stands in for a `socket.socket`.

A `VirtualSocket` is a program's handle to an `End`, one end of a connection. A `VirtualListener`
holds the ends that wait for accept(). A `PairSocket` wakes a loop.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from minireactor.core.poller import READ
from minireactor.simulation.pipes import MemoryPipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.simulation.ends import Address, End, Options
    from minireactor.simulation.roles import Kernel

_TTL = (int(socket.IPPROTO_IP), int(socket.IP_TTL))
_SAVED_SYN = (int(socket.IPPROTO_TCP), 28)
_ERROR = (int(socket.SOL_SOCKET), int(socket.SO_ERROR))
_LINGER = (int(socket.SOL_SOCKET), int(socket.SO_LINGER))
_SIZES = {
    (int(socket.SOL_SOCKET), int(socket.SO_SNDBUF)): "send_size",
    (int(socket.SOL_SOCKET), int(socket.SO_RCVBUF)): "receive_size",
}
USUAL_TTL = 64


def failure(code: int) -> OSError:
    """Return the OSError of an error number."""
    return OSError(code, os.strerror(code))


class VirtualSocket:
    """A program's handle to an End: the methods of `socket.socket` that minireactor uses."""

    __slots__ = ("_system", "end", "fd")

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, system: Kernel, end: End, fd: int) -> None:
        self._system = system
        self.end: End | None = end
        self.fd = fd
        end.fd = fd

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool) -> None:
        """Do nothing: no virtual socket blocks."""

    def ready(self) -> int:
        return 0 if self.end is None else self.end.ready()

    def _open_end(self) -> End:
        """Return the end, and let the time of one system call pass. Raises OSError if closed."""
        end = self.end
        if end is None:
            raise failure(errno.EBADF)
        self._system.host.spend()
        end.ready_since = -1.0
        return end

    def bind(self, address: Address) -> None:
        end = self._open_end()
        end.local = self._system.host.bound(address)

    def connect_ex(self, address: Address) -> int:
        end = self._open_end()
        self._system.host.progressed = True
        self._system.host.network.connect(end, address[:2])
        return errno.EINPROGRESS

    def send(self, data: Any) -> int:
        return self.sendmsg((data,))

    def sendmsg(self, chunks: Sequence[Any]) -> int:
        end = self._open_end()
        host = self._system.host
        faults = host.network.faults
        if end.error:
            raise self._take_error(end)
        if end.shut or end.over or not end.connected:
            host.progressed = True
            raise failure(errno.EPIPE)
        room = end.room()
        if room <= 0 or (faults.again and faults.happens("again")):
            raise BlockingIOError(errno.EAGAIN, "the send buffer is full")
        data = chunks[0] if len(chunks[0]) >= room else b"".join(chunks)
        size = faults.part(min(len(data), room), faults.short_send)
        data = bytes(data[:size])
        host.spend_bytes(size)
        if end.watched is not None:
            end.watched.sent(data)
        end.queue(data)
        return size

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return received bytes. `flags` is 0, or MSG_PEEK to leave these bytes in the socket."""
        end = self._open_end()
        host = self._system.host
        faults = host.network.faults
        if end.watched is not None:
            end.watched.reads()
        if end.received:
            if faults.again and faults.happens("again"):
                raise BlockingIOError(errno.EAGAIN, "nothing to read, by an injected fault")
            size = faults.part(min(size, len(end.received)), faults.short_read)
            host.spend_bytes(size)
            return bytes(end.received[:size]) if flags & socket.MSG_PEEK else end.take(size)
        if end.error:
            raise self._take_error(end)
        if end.eof or end.over:
            host.progressed = True
            return b""
        raise BlockingIOError(errno.EAGAIN, "nothing to read")

    def splice(self, size: int) -> MemoryPipe | None:
        """Return what recv() would return, as a Source; None at the end, or without data."""
        try:
            data = self.recv(size)
        except BlockingIOError:
            return None
        return MemoryPipe(data) if data else None

    def _take_error(self, end: End) -> OSError:
        code, end.error = end.error, 0
        self._system.host.progressed = True
        return failure(code)

    def shutdown(self, how: int) -> None:
        end = self._open_end()
        if not end.connected or end.over:
            raise failure(errno.ENOTCONN)
        if end.watched is not None:
            end.watched.write_side_ends()
        self._system.host.progressed = True
        end.end_output()

    def close(self) -> None:
        end, self.end = self.end, None
        if end is None:
            return
        self._system.close(self.fd)
        self.fd = -1
        reset = end.options.get(_LINGER, b"")[:4] not in (b"", bytes(4))
        if end.watched is not None and not reset:
            end.watched.closes()
        end.close(reset)

    def moved(self) -> VirtualSocket:
        """Return a new handle to the same end; this one is closed."""
        end = self._open_end()
        if end.watched is not None:
            end.watched.lingers = True
        fd, self.fd, self.end = self.fd, -1, None
        return VirtualSocket(self._system, end, fd)

    def getsockname(self) -> Address:
        return self._open_end().local

    def getpeername(self) -> Address:
        end = self._open_end()
        if not end.connected or end.over:
            raise failure(errno.ENOTCONN)
        return end.remote

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        end = self._open_end()
        key = (int(level), int(name))
        if key in _SIZES:
            setattr(end, _SIZES[key], value)
        end.options = {**end.options, key: value}  # a copy: accepted sockets share the port's
        end.touch()

    def getsockopt(self, level: int, name: int, size: int = 0) -> Any:
        end = self._open_end()
        key = (int(level), int(name))
        if key == _ERROR:
            code, end.error = end.error, 0
            return code
        if key == _SAVED_SYN and end.peer is not None:
            # The IPv4 header of the peer's first packet, up to the TTL.
            return b"\x45" + bytes(7) + bytes([end.peer.options.get(_TTL, USUAL_TTL)])
        if key in _SIZES:
            return getattr(end, _SIZES[key])
        return end.options.get(key, b"" if size else 0)

    def send_queue(self) -> int | None:
        end = self.end
        return None if end is None else len(end.unsent) + end.unacked

    def receive_queue(self) -> int | None:
        return None if self.end is None else len(self.end.received)

    def __repr__(self) -> str:
        if self.end is None:
            return "<VirtualSocket, closed>"
        return f"<VirtualSocket {self.end.local} -> {self.end.remote}>"


class VirtualListener:
    """A listening socket: ends that are connected and wait for accept()."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, system: Kernel, fd: int) -> None:
        self._system = system
        self.fd = fd
        self.address: Address = ("0.0.0.0", 0)
        self.backlog = 0
        self.waiting: deque[tuple[End, float]] = deque()  # with the time of arrival
        self.options: Options = {}
        self.ready_since = -1.0

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool) -> None:
        """Do nothing: no virtual socket blocks."""

    def ready(self) -> int:
        return READ if self.waiting else 0

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        if self.fd < 0:
            raise failure(errno.EBADF)
        self.options = {**self.options, (int(level), int(name)): value}

    def getsockopt(self, level: int, name: int) -> Any:
        return self.options.get((int(level), int(name)), 0)

    def bind(self, address: Address) -> None:
        self.address = self._system.host.bound(address)

    def listen(self, backlog: int) -> None:
        self.backlog = backlog
        self._system.host.add_listener(self)

    def getsockname(self) -> Address:
        return self.address

    def accept(self) -> tuple[VirtualSocket, Address]:
        host = self._system.host
        host.spend()
        self.ready_since = -1.0
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "no connection waits")
        host.progressed = True
        if host.network.faults.happens("abort_accept"):
            self.waiting.popleft()[0].close(reset=True)
            raise failure(errno.ECONNABORTED)
        fd = self._system.new_fd()
        end, _ = self.waiting.popleft()
        return self._system.added(VirtualSocket(self._system, end, fd)), end.remote

    def close(self) -> None:
        if self.fd < 0:
            return
        self._system.close(self.fd)
        self.fd = -1
        self._system.host.remove_listener(self)
        while self.waiting:
            self.waiting.popleft()[0].close(reset=True)


class PairSocket:
    """One of two sockets that wake a loop. Bytes arrive at once."""

    def __init__(self, system: Kernel, fd: int) -> None:
        self._system = system
        self.fd = fd
        self.received = 0  # bytes
        self.other: PairSocket
        self.ready_since = -1.0

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool) -> None:
        """Do nothing: no virtual socket blocks."""

    def ready(self) -> int:
        return READ if self.received else 0

    def send(self, data: bytes) -> int:
        self.other.received += len(data)
        self._system.host.poller.touch(self.other.fd)
        return len(data)

    def recv(self, size: int) -> bytes:
        self.ready_since = -1.0
        if not self.received:
            raise BlockingIOError(errno.EAGAIN, "nothing to read")
        self._system.host.progressed = True
        count, self.received = self.received, 0
        return bytes(count)

    def close(self) -> None:
        if self.fd >= 0:
            self._system.close(self.fd)
            self.fd = -1
