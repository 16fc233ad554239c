"""The kernels of a simulated network: ends of connections, and the sockets that programs see.

An `End` is one end of a TCP connection, as its kernel knows it. It behaves as one of Linux does:
a send buffer and a receive buffer with a window, acknowledgements, an end for each direction, and
a reset for what arrives after a plain close(). A `VirtualSocket` is a program's handle to an End.

Segments are never lost or reordered for good: they come late, see `links`. So this is what a
program sees of TCP, not what a wire sees.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from minireactor.core.poller import HANGUP, READ, WRITE
from minireactor.simulation.pipes import MemoryPipe
from minireactor.transports import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.simulation.checks import Watched
    from minireactor.simulation.roles import Kernel, Machine, Wire

    Address = tuple[str, int]
    Options = dict[tuple[int, int], Any]

SEGMENT = 16 * 1024  # bytes that an End sends at a time
SYN_SECONDS = 127.0  # until an attempt without an answer fails, as on Linux
SYN_RETRY_SECONDS = 1.0  # until a SYN comes again that a full backlog has dropped
TIMEOUT_SECONDS = 924.0  # until unacknowledged data ends a connection, as on Linux

_NO_LIMIT = 2**31 - 1
_TTL = (int(socket.IPPROTO_IP), int(socket.IP_TTL))
_SAVED_SYN = (int(socket.IPPROTO_TCP), 28)
_ERROR = (int(socket.SOL_SOCKET), int(socket.SO_ERROR))
_LINGER = (int(socket.SOL_SOCKET), int(socket.SO_LINGER))
_NOTSENT = (int(socket.IPPROTO_TCP), kernel.NOTSENT_LOWAT or -1)
_SIZES = {
    (int(socket.SOL_SOCKET), int(socket.SO_SNDBUF)): "send_size",
    (int(socket.SOL_SOCKET), int(socket.SO_RCVBUF)): "receive_size",
}
USUAL_TTL = 64


def failure(code: int) -> OSError:
    """Return the OSError of an error number."""
    return OSError(code, os.strerror(code))


class End:
    """One end of a connection, as its kernel knows it.

    peer: the other end, None before the connection is made.
    unsent: bytes that send() has taken and that wait for the window.
    unacked: how many bytes have been sent and not acknowledged; the FIN counts as one.
    on_wire: how many bytes have been sent and have not arrived.
    received: bytes that have arrived and wait for recv().
    shut, eof: our direction has ended; the peer's direction has.
    error: what the next call on the socket raises, an errno.
    over: the connection was reset, has timed out, or was refused.
    closed: no socket belongs to this end any more.
    held: segments that wait for a link to be whole again, oldest first.
    ready_since: since when the poller has reported this end without a call on its socket.
    """

    __slots__ = (
        "closed",
        "connected",
        "eof",
        "error",
        "fd",
        "fin_sent",
        "held",
        "held_since",
        "host",
        "last_arrival",
        "link",
        "local",
        "on_wire",
        "options",
        "over",
        "peer",
        "ready_since",
        "receive_size",
        "received",
        "remote",
        "remote_name",
        "send_size",
        "shut",
        "unacked",
        "unsent",
        "update_due",
        "watched",
    )

    def __init__(self, host: Machine, local: Address, options: Options) -> None:
        self.host = host
        self.local = local
        self.options = options
        self.remote: Address = ("", 0)
        self.remote_name = ""
        self.peer: End | None = None
        self.link: Wire
        self.fd = -1
        self.connected = self.shut = self.fin_sent = self.eof = self.over = self.closed = False
        self.error = 0
        self.unsent = bytearray()
        self.unacked = self.on_wire = 0
        self.received = bytearray()
        self.last_arrival = 0.0
        self.update_due = False
        self.held: deque[Any] | None = None
        self.held_since = 0.0
        self.ready_since = -1.0
        self.send_size = self.receive_size = 0
        self.watched: Watched | None = None

    def attach(self, link: Wire, remote: Address, remote_name: str) -> None:
        """Note the link that leads to the peer; its buffer sizes apply unless options set them."""
        self.link = link
        self.remote, self.remote_name = remote, remote_name
        self.send_size = self.send_size or link.send_buffer
        self.receive_size = self.receive_size or link.receive_buffer

    # What the poller and the socket ask.

    def ready(self) -> int:
        """Return the events of this end, as epoll reports them."""
        if not self.connected:
            return READ | WRITE | HANGUP if self.error else 0
        events = 0
        if self.received or self.eof or self.over:
            events = READ
        if self.shut or self.over or self._is_writable():
            events |= WRITE
        if self.over or (self.shut and self.eof):
            events |= HANGUP
        return events

    def _is_writable(self) -> bool:
        used = len(self.unsent) + self.unacked
        return (self.send_size - used) * 3 >= self.send_size and self._lowat() > len(self.unsent)

    def _lowat(self) -> int:
        return self.options.get(_NOTSENT, _NO_LIMIT)  # type: ignore[no-any-return]

    def room(self) -> int:
        """Return how many bytes send() may take now."""
        unsent = len(self.unsent)
        return min(self.send_size - unsent - self.unacked, self._lowat() - unsent)

    def touch(self) -> None:
        """Tell the host's poller that this end may be ready now."""
        if self.fd >= 0:
            self.host.poller.touch(self.fd)

    # Sending.

    def queue(self, data: bytes) -> None:
        """Take bytes from send()."""
        self.unsent += data
        self.transmit()

    def end_output(self) -> None:
        """End our direction, after what is unsent."""
        if not self.shut:
            self.shut = True
            self.transmit()
            self.touch()

    def transmit(self) -> None:
        """Send what the peer's window allows, then the FIN if it is due."""
        peer = self.peer
        if peer is None or self.over:
            return
        self.update_due = False
        unsent = self.unsent
        while unsent:
            room = peer.receive_size - len(peer.received) - self.on_wire
            if room < min(len(unsent), SEGMENT, peer.receive_size // 2):
                return  # a read of the peer opens the window: see take()
            size = min(len(unsent), SEGMENT, room)
            data = bytes(unsent[:size])
            del unsent[:size]
            self.unacked += size
            self.on_wire += size
            self.link.carry(self, size, self._arrive, data)
        if self.shut and not self.fin_sent:
            self.fin_sent = True
            self.unacked += 1
            self.link.carry(self, 0, self._arrive_fin)

    def _arrive(self, data: bytes) -> None:
        peer = self.peer
        assert peer is not None
        self.on_wire -= len(data)
        if self.over or peer.over:
            return
        network = self.host.network
        if network.faults.happens("reset"):
            self.lose(errno.ECONNRESET)
            peer.lose(errno.ECONNRESET)
        elif peer.closed:
            # Nobody can read this any more. The kernel answers with a reset, and forgets its queue.
            network.checker.input_after_close(peer)
            peer.reset()
        else:
            peer.received += data
            peer.touch()
            peer.link.carry(peer, 0, self._acked, len(data))

    def _arrive_fin(self) -> None:
        peer = self.peer
        assert peer is not None
        if not (self.over or peer.over):
            peer.eof = True
            peer.touch()
            peer.link.carry(peer, 0, self._acked, 1)

    def _acked(self, count: int) -> None:
        if not self.over:
            self.unacked -= count
            self.transmit()
            self.touch()

    # Receiving.

    def take(self, count: int) -> bytes:
        """Give received bytes to recv()."""
        data = bytes(self.received[:count])
        del self.received[:count]
        peer = self.peer
        if peer is not None and peer.unsent and not peer.update_due and not self.over:
            free = self.receive_size - len(self.received)
            if free >= min(SEGMENT, self.receive_size // 2):
                peer.update_due = True
                self.link.carry(self, 0, peer.transmit)
        return data

    # Endings.

    def close(self, reset: bool) -> None:
        """Close the socket of this end: with a reset, or in order if nothing is left to read."""
        self.closed = True
        self.fd = -1
        if not self.connected:
            self.over = True
        elif not self.over:
            if reset or self.received:
                self.reset()
            else:
                self.end_output()

    def reset(self) -> None:
        """Send a reset, and forget all bytes."""
        if not self.over:
            self._forget()
            if self.peer is not None:
                self.link.carry(self, 0, self._arrive_reset)

    def _arrive_reset(self) -> None:
        peer = self.peer
        assert peer is not None
        # As on Linux: after the peer's end of the stream, a reset is reported as EPIPE.
        peer.lose(errno.EPIPE if peer.eof else errno.ECONNRESET)

    def lose(self, code: int) -> None:
        """End the connection with an error. What has been received can still be read."""
        if not self.over:
            self._forget()
            self.error = code
            self.touch()

    def _forget(self) -> None:
        self.over = True
        self.unsent = bytearray()
        self.unacked = 0


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
        """Return the end; the call that is made now costs time. Raises OSError if closed."""
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

    def recv(self, size: int) -> bytes:
        end = self._open_end()
        host = self._system.host
        faults = host.network.faults
        if end.watched is not None:
            end.watched.reads()
        if end.received:
            if faults.again and faults.happens("again"):
                raise BlockingIOError(errno.EAGAIN, "nothing to read, as if by mistake")
            size = faults.part(min(size, len(end.received)), faults.short_read)
            host.spend_bytes(size)
            return end.take(size)
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
            raise BlockingIOError(errno.EAGAIN, "nobody waits")
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
    """One of two sockets that wake a loop. The bytes pass at once."""

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
