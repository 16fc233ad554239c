"""Lingering close: close a socket without losing the data that the kernel still has to send.

The socket may have unread input at a plain close(), or get input after it. The kernel then answers
with a reset and discards its send queue, so the peer loses the end of what we sent.

A lingering close shuts the write side first, which lets all sent data arrive. Then input is read
and dropped until the peer sends EOF, within limits of time and bytes. Only the reactor waits for
this; the application does not. The socket option SO_LINGER is something else and plays no part.

If ports, connectors or files run out of descriptors, lingering sockets are closed early, provided
that the peer has acknowledged all of their data.
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

# After this time the socket is closed. The kernel still sends its queue then, unless the peer sends
# more input.
LINGER_SECONDS = 10.0
LINGER_BYTES = 16 * 1024 * 1024  # a peer that sends more input than this is not reading ours
_READ_SIZE = 64 * 1024  # bytes


class Lingering(Handler):
    """A socket that no connection owns any more, and that is read until its peer sends EOF."""

    __slots__ = ("_left", "_reactor", "_socket", "_timer")

    internal = True

    def __init__(self, reactor: Loop, sock: socket.socket) -> None:
        super().__init__(sock.fileno())
        self._reactor = reactor
        self._socket = sock
        self._left = LINGER_BYTES
        self._timer = reactor.call_later_internal(LINGER_SECONDS, self._finish)
        self.reading = True

    @classmethod
    def reclaim(cls, reactor: Loop, limit: int) -> bool:
        """Free descriptors, and return whether any was freed.

        Closes up to `limit` lingering sockets whose data has been acknowledged, oldest first."""
        lingering = (each for each in reactor.handlers() if isinstance(each, cls))
        drained = list(islice((each for each in lingering if not each.has_unacked_data()), limit))
        for each in drained:
            each._finish()
        return bool(drained)

    @classmethod
    def take_over(cls, reactor: Loop, sock: socket.socket) -> None:
        """Send EOF, and move the descriptor from `sock` to a lingering socket.

        For its user, `sock` is closed. Does nothing if the peer has gone."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer has gone: no data is left to wait for
        lingering = cls(reactor, reactor.system.moved(sock))
        reactor.attach(lingering)
        reactor.guard(lingering, reactor.update_interest, lingering)

    def doRead(self) -> None:
        try:
            count = len(self._socket.recv(_READ_SIZE))
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

    def has_unacked_data(self) -> bool:
        """Return whether sent data waits for the peer's acknowledgement.

        Returns True if the system cannot tell."""
        queued = send_queue(self._socket)
        return queued is None or queued > 1  # EOF counts as one byte
