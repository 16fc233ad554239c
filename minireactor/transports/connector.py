"""The connector, which a program gets for each connectTCP(): connects once or repeatedly.

What is the same for all kinds of sockets stands here. `tcp` and `unix` have the rest.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.address import from_sockaddr
from minireactor.core.timers import DelayedCall, checked_delay
from minireactor.core.waker import close_socket
from minireactor.error import (
    ConnectError,
    NotConnectingError,
    TimeoutError,
    UserError,
    getConnectError,
)
from minireactor.failure import Failure
from minireactor.protocol import Protocol
from minireactor.transports.attempt import Attempt
from minireactor.transports.connection import Connection
from minireactor.transports.limits import Limits

if TYPE_CHECKING:
    from minireactor.address import Address
    from minireactor.core.handler import Handler
    from minireactor.core.loop import Loop


def _connect_ex(sock: socket.socket, address: Any) -> int:
    return sock.connect_ex(address)


def _send_at_once(sock: socket.socket, data: bytes) -> None:
    """Send a few bytes on a new socket. Raises ConnectError unless the kernel takes them all."""
    try:
        sent = sock.send(data)
    except OSError as error:
        raise getConnectError(error) from None
    if sent < len(data):
        raise ConnectError(string=f"the system took {sent} of the first {len(data)} bytes")


class Connector(Limits):
    """Connects to one address, and keeps the state of the connection.

    A subclass has the address, and makes the attempts. `connection_class` is what they lead to.

    state: "disconnected", "connecting" or "connected".
    transport: the connection while there is one, from buildProtocol on; else None.
    connect_socket: called as `connect_socket(sock, address)` to start connecting a socket, like
        socket.connect_ex(). A program may replace it, to set options of each socket before.
    first_bytes: called as `first_bytes(own_address, peer_address)` when a socket is connected, with
        addresses of the kind that getHost() returns. What it returns is sent at once, before all
        else, also before TLS. If the kernel does not take all of it, the attempt has failed. Keep
        it under 1 KiB. `bytes_out` does not count these bytes. None: there are no first bytes.
    connection_class: makes the transport of a connected socket.
    """

    connection_class = Connection

    def __init__(self, factory: Any, timeout: float | None, reactor: Loop) -> None:
        self.factory = factory
        self.timeout = None if timeout is None else checked_delay(timeout)
        self.reactor = reactor
        self.state = "disconnected"
        self.transport: Connection | None = None
        self.connect_socket: Callable[[socket.socket, Any], int] = _connect_ex
        self.first_bytes: Callable[[Address, Address], bytes] | None = None
        self._factory_started = False
        self._attempt: Attempt | None = None
        self._timer: DelayedCall | None = None

    def new_attempt(self) -> Attempt:
        """Start an attempt, which calls connected() or connectionFailed() later."""
        raise NotImplementedError

    def connect(self) -> None:
        """Start an attempt. May be called again after the last connection or attempt has ended.

        Raises RuntimeError unless the connector is disconnected. Raises any exception of the
        factory's startFactory or startedConnecting; the connector is then disconnected."""
        if self.state != "disconnected":
            raise RuntimeError(f"{self!r} cannot connect: it is {self.state} already")
        self.reactor.open()
        if not self._factory_started:
            self.factory.doStart()
            self._factory_started = True
        self.state = "connecting"
        attempt = self._attempt = self.new_attempt()
        if self.timeout is not None:
            self._timer = self.reactor.call_later_internal(self.timeout, self._time_out)
        try:
            self.factory.startedConnecting(self)
        except BaseException:
            if self._attempt is attempt:
                self._end_attempt()
                self.state = "disconnected"
                self._stop_factory()
            raise

    def stopConnecting(self) -> None:
        """End the attempt: clientConnectionFailed is called with UserError.

        Raises NotConnectingError if no attempt is under way."""
        if self.state != "connecting":
            raise NotConnectingError(f"{self!r} is not connecting, it is {self.state}")
        self.connectionFailed(Failure(UserError()))

    def disconnect(self) -> None:
        """End the attempt or close the connection. Does nothing if there is neither."""
        if self.state == "connecting":
            self.stopConnecting()
        elif self.transport is not None:
            self.transport.loseConnection()

    def getDestination(self) -> Address:
        """Return the destination as the program gave it."""
        raise NotImplementedError

    def _time_out(self) -> None:
        self._timer = None
        error = TimeoutError(string=f"no connection within {self.timeout} seconds")
        self.connectionFailed(Failure(error))

    def connected(
        self, sock: socket.socket, peer_address: Any, own_address: Any, attempt: Handler
    ) -> None:
        """Build the protocol for `sock`, and start it.

        attempt: the handler that has connected `sock`, and is still registered with the poller."""
        self._end_attempt()
        peer = from_sockaddr(peer_address)
        host = from_sockaddr(own_address)
        if self.first_bytes is not None:
            try:
                _send_at_once(sock, self.first_bytes(host, peer))
            except Exception as error:
                self.reactor.detach(attempt)
                close_socket(sock)
                self.connectionFailed(Failure(error))
                return
        self.state = "connected"
        connection = self.connection_class(
            self.reactor, sock, peer, self._marks, self.connectionLost, host
        )
        self.transport = connection
        try:
            protocol = self.factory.buildProtocol(peer)
        except BaseException as error:
            self.transport = None
            self.reactor.detach(attempt)
            close_socket(sock)
            failure = Failure(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.connectionFailed(failure)
                raise
            log.err(failure, f"in buildProtocol of {type(self.factory).__name__}")
            self.connectionFailed(failure)
            return
        self.reactor.hand_over(attempt, connection)
        connection.start(Protocol() if protocol is None else protocol)
        if protocol is None:
            connection.loseConnection()

    def connectionFailed(self, reason: Failure) -> None:
        self._end_attempt()
        self._ended("clientConnectionFailed", reason)

    def connectionLost(self, reason: Failure) -> None:
        self.transport = None
        self._ended("clientConnectionLost", reason)

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.abandon()
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():  # a program may have cancelled the call
            timer.cancel()

    def _ended(self, method: str, reason: Failure) -> None:
        self.state = "disconnected"
        try:
            self._call_factory(method, self, reason)
        finally:
            self._stop_factory()

    def _stop_factory(self) -> None:
        # The factory may just have started another attempt: it is still in use then.
        if self.state == "disconnected" and self._factory_started:
            self._factory_started = False
            self._call_factory("doStop")

    def _call_factory(self, method: str, *args: Any) -> None:
        """Call a method of the factory. An exception in it is logged and has no other effect."""
        try:
            getattr(self.factory, method)(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            log.err(Failure(), f"in {method} of {type(self.factory).__name__}")

    def shown_address(self) -> str:
        """Return the destination, as people write it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<Connector to {self.shown_address()}, {self.state}>"
