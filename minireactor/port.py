"""A listening TCP port."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from minireactor import flow
from minireactor.address import IPv4Address, IPv6Address, from_sockaddr
from minireactor.defer import Deferred, succeed
from minireactor.error import CannotListenError
from minireactor.failure import Failure
from minireactor.handler import Handler
from minireactor.linger import Lingering
from minireactor.log import logger
from minireactor.tcp import Connection

if TYPE_CHECKING:
    from minireactor.internet import Reactor

# Connections that wait to be accepted. listenTCP()'s 50 makes a crowd of 1,000 wait for seconds:
# the kernel drops the rest of their SYNs, and TCP repeats those only after a second.
BACKLOG = 1024
MOST_ACCEPTED = 64  # connections a pass, so that a crowd at the door leaves time for who is inside
REST_SECONDS = 1.0  # between attempts when the system has nothing left to accept with

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_PEER_GONE = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM)


class _Listener(socket.socket):
    """A listening socket that does not look its own family and type up, as members of enums, for
    each connection: in the work `churn` that is a microsecond of 28."""

    def __init__(self, family: int, kind: int, proto: int) -> None:
        super().__init__(family, kind, proto)
        self._numbers = (int(family), int(kind), int(proto))

    def accept(self) -> tuple[socket.socket, Any]:
        fd, address = self._accept()  # type: ignore[attr-defined]
        return socket.socket(*self._numbers, fd), address


class Port(Handler):
    """Accepts connections and has `factory` build their protocols; made by `listenTCP`.

    `setWriteBufferLimits(high, low)` gives the marks, 64 and 16 KiB by default, of the
    connections that are accepted from then on.
    """

    def __init__(
        self, port: int, factory: Any, backlog: int, interface: str, reactor: Reactor
    ) -> None:
        super().__init__(-1)
        self.port = port
        self.factory = factory
        self.backlog = backlog
        self.interface = interface
        self.reactor = reactor
        self.socket: socket.socket | None = None
        self.connected = False
        self.disconnected = False
        self._marks = (flow.HIGH, flow.LOW)
        self._host: IPv4Address | IPv6Address | None = None
        self._own_host: IPv4Address | IPv6Address | None = None
        self._batch = 1
        self._spare = -1

    def setWriteBufferLimits(self, high: int, low: int | None = None) -> None:
        """The marks of connections to come, in bytes; ValueError unless 0 <= low < high."""
        self._marks = flow.checked_marks(high, low)

    def startListening(self) -> None:
        """Bind and listen; also again after `stopListening()`. CannotListenError."""
        if self.socket is not None:
            return
        self.reactor.open()
        try:
            sock = self._bound_socket()
        except (OSError, OverflowError, UnicodeError) as error:
            raise CannotListenError(self.interface, self.port, error) from None
        try:
            self.factory.doStart()
        except BaseException:
            sock.close()
            raise
        self.socket = sock
        self.fd = sock.fileno()
        self._host = from_sockaddr(sock.getsockname())
        # Bound to one address, it is that of each connection too: `churn` need not ask for it.
        self._own_host = None if self._host.host in ("0.0.0.0", "::") else self._host
        self._take_spare()
        self.connected, self.disconnected = True, False
        self.reading = True
        self.reactor.attach(self)
        self.reactor.arm(self)

    def _bound_socket(self) -> socket.socket:
        # Without the port: some systems would take one that is too large modulo 65,536.
        found = socket.getaddrinfo(self.interface or "0.0.0.0", None, type=socket.SOCK_STREAM)
        family, kind, proto, _, (host, _, *scope) = found[0]
        sock = _Listener(family, kind, proto)
        try:
            if os.name == "posix":
                # Lets the number be bound again while old connections are in TIME_WAIT.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for all that it accepts
            sock.bind((host, self.port, *scope))
            sock.listen(self.backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def stopListening(self) -> Deferred[None]:
        """Close the port, at once; what it has accepted stays. A Deferred that has fired."""
        self.connectionLost(None)
        return succeed(None)

    def loseConnection(self, connDone: Any = None) -> Deferred[None]:
        """The same; the argument is there for programs that give one."""
        return self.stopListening()

    def connectionLost(self, reason: Failure | None) -> None:
        if self.socket is None:
            return
        sock, self.socket = self.socket, None
        self.connected, self.disconnected = False, True
        self.reactor.detach(self)
        sock.close()
        self._drop_spare()
        self.factory.doStop()

    def failed(self, failure: Failure) -> None:
        """What the factory raised concerns the one connection, and the port goes on."""

    def doRead(self) -> None:
        """Accept those who wait, some at a time: more while there are always more."""
        for _ in range(self._batch):
            if self.socket is None or not self.reading:
                return
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                self._batch = 1
                return
            except OSError as error:
                if error.errno in _PEER_GONE:
                    continue
                if error.errno in _OUT_OF_DESCRIPTORS:
                    if not Lingering.reclaim(self.reactor, MOST_ACCEPTED):
                        self._turn_away()
                else:
                    self._rest(error)
                return
            self._serve(sock, address)
        self._batch = min(self._batch * 2, MOST_ACCEPTED)

    def _serve(self, sock: socket.socket, address: Any) -> None:
        try:
            sock.setblocking(False)
            peer = from_sockaddr(address)
            protocol = self.factory.buildProtocol(peer)
        except BaseException:
            sock.close()
            raise
        if protocol is None:
            # The end of the stream, and not a reset even if the peer has sent something already.
            Lingering.take_over(self.reactor, sock)
            sock.close()
            return
        connection = Connection(self.reactor, sock, peer, self._marks, host=self._own_host)
        connection.start(protocol)

    # Without a free descriptor accept() fails and the waiting peer stays where it is: a listener
    # that is readable for ever, and a client that hangs. One spare descriptor lets us take each
    # peer and close it, which both sides can understand.

    def _take_spare(self) -> None:
        if self._spare == -1:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError:
                pass

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, -1
        if spare != -1:
            os.close(spare)

    def _turn_away(self) -> None:
        turned_away = 0
        try:
            while turned_away < MOST_ACCEPTED:
                self._drop_spare()
                try:
                    self.socket.accept()[0].close()  # type: ignore[union-attr]
                finally:
                    self._take_spare()
                turned_away += 1
        except BlockingIOError:
            pass  # That was all. Some accept() want a descriptor even when nobody waits.
        except OSError as error:
            if not turned_away:
                self._rest(error)
        if turned_away:
            logger.warning("%r: no descriptor left; %d peers turned away", self, turned_away)

    def _rest(self, error: OSError) -> None:
        """Leave the door alone for a moment: trying again at once would keep the CPU busy."""
        logger.warning("%r: cannot accept: %s; trying again soon", self, error)
        self.reading = False
        self.reactor.disarm(self)
        self.reactor.call_later_hidden(REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self.socket is not None:
            self.reading = True
            self.reactor.arm(self)

    def getHost(self) -> IPv4Address | IPv6Address:
        """The address that it listens on, with the real port number where 0 was asked for."""
        if self._host is None:
            raise RuntimeError(f"{self!r} has not been listening yet, so it has no address")
        return self._host

    def getHandle(self) -> socket.socket | None:
        return self.socket

    def fileno(self) -> int:
        return -1 if self.socket is None else self.socket.fileno()

    def logPrefix(self) -> str:
        return f"{type(self.factory).__name__} (port)"

    def __repr__(self) -> str:
        number = self._host.port if self._host is not None else self.port
        return f"<Port {self.interface or '*'}:{number} of {type(self.factory).__name__}>"
