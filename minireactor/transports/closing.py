"""Closing a socket without losing what it still has to send.

A plain close() of a socket that has unread input, or gets some later, makes the kernel answer
with a reset and throw away its send queue: the peer loses the end of what we sent. So the write
side is shut first, which lets everything sent arrive, and what the peer sends is read and
dropped until its own end comes, within bounds. Nobody but the reactor waits for this. When no
descriptor is left for ports, connectors or files, sockets whose bytes have all arrived are closed.
"""

from __future__ import annotations

import socket
from itertools import islice
from typing import TYPE_CHECKING

from minireactor.core.handler import Handler
from minireactor.core.waker import close_socket
from minireactor.transports.kernel import send_queue

if TYPE_CHECKING:
    from minireactor.core.loop import Loop

LINGER_SECONDS = 10.0  # what is queued goes on even after the close, if the peer sends no more
LINGER_BYTES = 16 * 1024 * 1024  # a peer that sends more than this is not listening
_CHUNK = 64 * 1024


class Lingering(Handler):
    """A socket that nobody owns any more, until its peer ends."""

    __slots__ = ("_left", "_reactor", "_socket", "_timer")

    hidden = True

    def __init__(self, reactor: Loop, sock: socket.socket) -> None:
        super().__init__(sock.fileno())
        self._reactor = reactor
        self._socket = sock
        self._left = LINGER_BYTES
        self._timer = reactor.call_later_hidden(LINGER_SECONDS, self._finish)
        self.reading = True

    @classmethod
    def reclaim(cls, reactor: Loop, limit: int) -> bool:
        """Free descriptors: close up to `limit` lingering sockets whose data has been acknowledged,
        oldest first. Return whether any was closed."""
        ours = (each for each in reactor.handlers() if isinstance(each, cls))
        settled = list(islice((each for each in ours if not each.unsettled()), limit))
        for each in settled:
            each._finish()
        return bool(settled)

    @classmethod
    def take_over(cls, reactor: Loop, sock: socket.socket) -> None:
        """End our side of the stream; the descriptor leaves `sock`, which is closed to its user."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer has gone
        own = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        lingering = cls(reactor, own)
        reactor.attach(lingering)
        reactor.guard(lingering, reactor.arm, lingering)

    def doRead(self) -> None:
        try:
            count = len(self._socket.recv(_CHUNK))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        self._left -= count
        if count == 0 or self._left <= 0:
            self._finish()

    def failed(self, failure: object) -> None:
        self._finish()

    def _finish(self) -> None:
        self._reactor.detach(self)
        self.close()

    def close(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        close_socket(self._socket)

    def unsettled(self) -> bool:
        """Whether bytes are still on their way, as far as the system can tell."""
        queued = send_queue(self.fd)
        return queued is None or queued > 1  # one is the end of the stream
