"""The clients of the demo: each reads at the speed that the page sets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from minireactor.core.timers import cancel_if_active
from minireactor.transports.kernel import receive_queue
from minireactor.view.web.demo_sockets import limit_receiving, limit_segments

if TYPE_CHECKING:
    from minireactor.failure import Failure
    from minireactor.internet import Reactor

LOOPBACK = "127.0.0.1"


class SlowReader:
    """A client that reads `rate` bytes a second, or nothing.

    Its socket is a plain one, so it is none of the connections that the dashboard watches."""

    PORTION = 512  # bytes; it reads at least this much at once

    def __init__(self, reactor: Reactor, name: str, rate: int) -> None:
        self.name = name
        self.rate = rate
        self.gone = False  # True: it has vanished
        self.peer = ""  # its own address, which the server sees as the peer; "": not connected
        self.received = 0  # bytes
        self._reactor = reactor
        self._socket: socket.socket | None = None
        self._timer: Any = None
        self._tokens = 0.0  # bytes that it may read
        self._filled = 0.0  # when tokens were last added

    def connect(self, port: int) -> None:
        """Connect to a port on loopback; a connection that is open is closed before."""
        self.close()
        sock = self._socket = socket.socket()
        sock.setblocking(False)
        limit_receiving(sock)
        limit_segments(sock)
        sock.connect_ex((LOOPBACK, port))
        self.peer = "{}:{}".format(*sock.getsockname())
        self._go_on()

    def close(self) -> None:
        """Close the connection, with a reset if unread bytes are left. Idempotent."""
        self._rest()
        self.peer = ""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def update(self) -> None:
        """Follow the attributes `rate` and `gone`, which have been set."""
        self._rest()
        if self._socket is not None:
            self._go_on()

    def unread(self) -> int | None:
        """Return how many bytes wait in the client's kernel; None if nobody knows."""
        return None if self._socket is None else receive_queue(self._socket)

    def _go_on(self) -> None:
        self._timer = None
        if self.rate and not self.gone:
            self._filled = self._reactor.seconds()
            self._reactor.addReader(self)

    def _rest(self) -> None:
        self._tokens = 0.0
        timer, self._timer = self._timer, None
        cancel_if_active(timer)
        if self._socket is not None:
            self._reactor.removeReader(self)

    # The reactor calls these.

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def doRead(self) -> None:
        now = self._reactor.seconds()
        limit = self.PORTION + self.rate * 0.1
        self._tokens = min(limit, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < self.PORTION:
            self._reactor.removeReader(self)
            seconds = (self.PORTION - self._tokens) / self.rate
            self._timer = self._reactor.callLater(seconds, self._wake)
            return
        try:
            data = self._socket.recv(int(self._tokens))  # type: ignore[union-attr]
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        self._tokens -= len(data)
        self.received += len(data)

    def _wake(self) -> None:
        self._timer = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        self.close()
