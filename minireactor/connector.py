"""Connecting to a TCP server, once or again and again."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Callable, Union

from minireactor import flow
from minireactor.address import IPv4Address, IPv6Address, from_sockaddr
from minireactor.error import (
    ConnectBindError,
    ConnectError,
    DNSLookupError,
    NotConnectingError,
    ServiceNameUnknownError,
    TimeoutError,
    UserError,
    getConnectError,
)
from minireactor.failure import Failure
from minireactor.handler import Handler
from minireactor.protocol import Protocol
from minireactor.tcp import Connection
from minireactor.timers import DelayedCall, checked_delay

if TYPE_CHECKING:
    from minireactor.internet import Reactor

Resolved = Union["list[Any]", Exception]  # what getaddrinfo gave, or why it gave nothing

_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


def resolve(host: str, port: Any, flags: int = 0) -> Resolved:
    """The addresses of `host`. It blocks, unless `flags` has AI_NUMERICHOST."""
    if str(port).isdecimal() and int(port) > 65535:
        # Some systems would take it modulo 65,536, and connect to another port.
        return ConnectError(string=f"{port} is no port number: they go from 0 to 65535")
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        if error.errno == socket.EAI_SERVICE:
            return ServiceNameUnknownError(string=f"no such service: {port!r}")
        return DNSLookupError(f"cannot resolve {host!r}: {error.strerror}")
    except Exception as error:
        return DNSLookupError(f"cannot resolve {host!r}, port {port!r}: {error}")


class Attempt(Handler):
    """One attempt to connect: resolve the name, then try its addresses one after the other.

    It is over when it is no longer among `reactor.attempts`."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(-1)
        self._connector = connector
        self._reactor = connector.reactor
        self._addresses: list[Any] = []
        self._socket: socket.socket | None = None
        self._reactor.attempts.add(self)
        self._reactor.call_soon(self._reactor.guard, self, self._resolve)

    def _is_over(self) -> bool:
        return self not in self._reactor.attempts

    def _resolve(self) -> None:
        if self._is_over():
            return
        host, port = self._connector.host, self._connector.port
        found = resolve(host, port, socket.AI_NUMERICHOST)
        if isinstance(found, DNSLookupError):
            self._reactor.callInThread(self._resolve_in_thread, host, port)
        else:
            self._resolved(found)

    def _resolve_in_thread(self, host: str, port: Any) -> None:
        found = resolve(host, port)
        self._reactor.callFromThread(self._reactor.guard, self, self._resolved, found)

    def _resolved(self, found: Resolved) -> None:
        if self._is_over():
            return
        if isinstance(found, Exception):
            self._fail(found)
            return
        self._addresses = found
        self._try_next(ConnectError(string="no address to connect to"))

    def _try_next(self, error: Exception) -> None:
        """Connect to the next address; without one, `error` is how the last one failed."""
        while self._addresses:
            family, kind, proto, _, address = self._addresses.pop(0)
            try:
                self._socket = socket.socket(family, kind, proto)
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._bind()
                code = self._socket.connect_ex(address)
            except ConnectBindError as bind_error:
                error, code = bind_error, -1
            except OSError as system_error:
                error, code = getConnectError(system_error), -1
            if code in _UNDER_WAY:
                self.fd = self.fileno()
                self.writing = True
                self._reactor.attach(self)
                self._reactor.arm(self)
                return
            if code != -1:
                error = getConnectError(OSError(code, os.strerror(code)))
            self._drop_socket()
        self._fail(error)

    def _bind(self) -> None:
        if self._connector.bindAddress is None:
            return
        try:
            self._socket.bind(self._connector.bindAddress)  # type: ignore[union-attr]
        except Exception as error:
            raise ConnectBindError(getattr(error, "errno", None), str(error)) from None

    def doWrite(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[union-attr]
        if code:
            self._drop_socket()
            self._try_next(getConnectError(OSError(code, os.strerror(code))))
            return
        self._reactor.attempts.discard(self)
        self._reactor.detach(self)
        sock, self._socket = self._socket, None
        self._connector.connected(sock)  # type: ignore[arg-type]

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._reactor.detach(self)
            self._socket.close()
            self._socket = None

    def _fail(self, error: BaseException) -> None:
        if not self._is_over():
            self.abandon()
            self._connector.connectionFailed(Failure(error))

    def abandon(self) -> None:
        self._reactor.attempts.discard(self)
        self._drop_socket()

    def failed(self, failure: Failure) -> None:
        self._fail(failure.value)

    def connectionLost(self, reason: Failure) -> None:
        self._fail(ConnectError(string=reason.value))

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()


class Connector:
    """Connects to one place, and knows how that stands; made by `connectTCP`.

    `state` is "disconnected", "connecting" or "connected"; `transport` is set while
    connected, and in buildProtocol already.
    `setWriteBufferLimits(high, low)` gives the marks, 64 and 16 KiB by default, of the
    connections that come about from then on.
    """

    def __init__(
        self,
        host: str | bytes,
        port: Any,
        factory: Any,
        timeout: float | None,
        bindAddress: tuple[str, int] | None,
        reactor: Reactor,
    ) -> None:
        self.host = host.decode("utf-8", "replace") if isinstance(host, bytes) else host
        self.port = port
        self.factory = factory
        self.timeout = None if timeout is None else checked_delay(timeout)
        self.bindAddress = bindAddress
        self.reactor = reactor
        self.state = "disconnected"
        self.transport: Connection | None = None
        self._marks = (flow.HIGH, flow.LOW)
        self._factory_started = False
        self._attempt: Attempt | None = None
        self._timer: DelayedCall | None = None

    def setWriteBufferLimits(self, high: int, low: int | None = None) -> None:
        """The marks of connections to come, in bytes; ValueError unless 0 <= low < high."""
        self._marks = flow.checked_marks(high, low)

    def connect(self) -> None:
        """Begin an attempt: at first, and again once the last connection or attempt has ended."""
        if self.state != "disconnected":
            raise RuntimeError(f"{self!r} cannot connect: it is {self.state} already")
        self.reactor.open()
        if not self._factory_started:
            self.factory.doStart()
            self._factory_started = True
        self.state = "connecting"
        self._attempt = Attempt(self)
        if self.timeout is not None:
            self._timer = self.reactor.callLater(self.timeout, self._time_out)
        self.factory.startedConnecting(self)

    def stopConnecting(self) -> None:
        """Give the attempt up: clientConnectionFailed with UserError. NotConnectingError."""
        if self.state != "connecting":
            raise NotConnectingError(f"{self!r} is not connecting, it is {self.state}")
        self._give_up(UserError())

    def disconnect(self) -> None:
        """End whatever there is: give up the attempt, or close the connection."""
        if self.state == "connecting":
            self.stopConnecting()
        elif self.transport is not None:
            self.transport.loseConnection()

    def getDestination(self) -> IPv4Address | IPv6Address:
        """Where it connects to, as it was asked for: `host` may be a name."""
        kind = IPv6Address if ":" in self.host else IPv4Address
        return kind("TCP", self.host, self.port)

    def _time_out(self) -> None:
        self._timer = None
        self._give_up(TimeoutError(string=f"no connection within {self.timeout} seconds"))

    def _give_up(self, error: Exception) -> None:
        if self._attempt is not None:
            self._attempt.abandon()
        self.connectionFailed(Failure(error))

    def connected(self, sock: socket.socket) -> None:
        """The attempt has succeeded."""
        self._end_attempt()
        self.state = "connected"
        try:
            peer = from_sockaddr(sock.getpeername())
        except OSError as error:  # gone again
            sock.close()
            self.connectionFailed(Failure(getConnectError(error)))
            return
        connection = Connection(self.reactor, sock, peer, self._marks, self.connectionLost)
        self.transport = connection
        try:
            protocol = self.factory.buildProtocol(peer)
        except Exception:
            self.transport = None
            sock.close()
            failure = Failure()
            self.reactor.log_failure(failure, f"in buildProtocol of {type(self.factory).__name__}")
            self.connectionFailed(failure)
            return
        connection.start(Protocol() if protocol is None else protocol)
        if protocol is None:
            connection.loseConnection()

    def connectionFailed(self, reason: Failure) -> None:
        self._end_attempt()
        self._ended(self.factory.clientConnectionFailed, reason)

    def connectionLost(self, reason: Failure) -> None:
        self.transport = None
        self._ended(self.factory.clientConnectionLost, reason)

    def _end_attempt(self) -> None:
        self._attempt = None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _ended(self, tell: Callable[[Connector, Failure], Any], reason: Failure) -> None:
        self.state = "disconnected"
        try:
            tell(self, reason)
        finally:
            # Unless the factory has just asked for another attempt.
            if self.state == "disconnected" and self._factory_started:
                self._factory_started = False
                self.factory.doStop()

    def __repr__(self) -> str:
        return f"<Connector to {self.host}:{self.port}, {self.state}>"
