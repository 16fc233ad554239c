"""The ends of simulated connections, as the kernels of two hosts know them.

An `End` behaves like a TCP connection of Linux: a send buffer and a receive buffer with a window,
acknowledgements, an end for each direction, and a reset for what arrives after a plain close().

Segments are never lost or reordered. They only come late, see `links`. A program cannot tell
the difference: TCP hides what happens on the wire.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from minireactor.core.poller import HANGUP, READ, WRITE
from minireactor.transports import kernel

if TYPE_CHECKING:
    from collections import deque

    from minireactor.simulation.checks import Watched
    from minireactor.simulation.roles import Machine, Wire

    Address = tuple[str, int]
    Options = dict[tuple[int, int], Any]

SEGMENT = 16 * 1024  # bytes that an End sends at a time
SYN_SECONDS = 127.0  # until an attempt without an answer fails, as on Linux
SYN_RETRY_SECONDS = 1.0  # until a SYN comes again that a full backlog has dropped
TIMEOUT_SECONDS = 924.0  # until unacknowledged data ends a connection, as on Linux

_NO_LIMIT = 2**31 - 1
_NOTSENT = (int(socket.IPPROTO_TCP), kernel.NOTSENT_LOWAT or -1)


class End:
    """One end of a connection, as its kernel knows it.

    peer: the other end, None before the connection is made.
    unsent: bytes that send() has taken and that wait for the window.
    unacked: how many bytes have been sent and not acknowledged; the FIN counts as one.
    on_wire: how many bytes have been sent and have not arrived.
    received: bytes that have arrived and wait for recv().
    shut: our direction has ended. eof: the peer's direction has ended.
    error: the errno that the next call on the socket raises, 0 for none.
    over: the connection was reset, has timed out, or was refused.
    closed: no socket belongs to this end any more.
    held: segments that wait until the link passes segments again, oldest first.
    update_due: an update of the peer's window is on its way to this end.
    watched: what the checks know of this connection.
    ready_since: the time since which the poller has reported this end, while the program made no
        call on its socket; -1.0 if it has made one.
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
        """Note the link to the peer. Its buffer sizes apply unless options have set others."""
        self.link = link
        self.remote, self.remote_name = remote, remote_name
        self.send_size = self.send_size or link.send_buffer
        self.receive_size = self.receive_size or link.receive_buffer

    # For the poller and the socket.

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
        """End our direction, after the unsent bytes."""
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
                return  # the peer's next read opens the window: see take()
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
            # Nobody can read this data any more: the kernel answers with a reset.
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
        """Close the socket of this end. Unread input makes the close a reset, as on Linux."""
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
        # As on Linux: a reset that follows the end of the stream is reported as EPIPE.
        peer.lose(errno.EPIPE if peer.eof else errno.ECONNRESET)

    def lose(self, code: int) -> None:
        """End the connection with an error. Received bytes can still be read."""
        if not self.over:
            self._forget()
            self.error = code
            self.touch()

    def _forget(self) -> None:
        self.over = True
        self.unsent = bytearray()
        self.unacked = 0
