"""A listening port: accepts connections, and has a factory build their protocols.

What is the same for all kinds of sockets stands here. `tcp` has the ports of TCP, and `unix` those
of UNIX sockets.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from minireactor.address import format_address, from_sockaddr
from minireactor.core.handler import Handler
from minireactor.core.waker import close_socket
from minireactor.defer import Deferred, fail, succeed
from minireactor.error import CannotListenError
from minireactor.failure import Failure
from minireactor.log import WARN_SECONDS, logger
from minireactor.transports.closing import Lingering
from minireactor.transports.connection import Connection
from minireactor.transports.limits import Limits
from minireactor.transports.resolver import OUT_OF_DESCRIPTORS

if TYPE_CHECKING:
    from minireactor.address import Address
    from minireactor.core.loop import Loop

# Connections that the kernel queues for accept(). With listenTCP()'s default of 50, a crowd of
# 1,000 waits for seconds: the kernel drops the other SYNs, and TCP repeats a SYN only after 1 s.
BACKLOG = 1024
# Connections that one listening socket accepts in a loop iteration, so that a crowd of new clients
# leaves time for the connected ones.
MAX_ACCEPTED = 64
# Seconds that one listening socket may spend accepting in a loop iteration. This time includes
# buildProtocol() and connectionMade(). It is shorter than loop.DISPATCH_SECONDS.
ACCEPT_SECONDS = 0.002
REST_SECONDS = 1.0  # until the next accept(), after the system had no resource for one

_PEER_GONE = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM)


class Listener(Handler):
    """The handler of one listening socket; `socket` is None while the port is closed.

    batch: the number of connections to accept in the next loop iteration.
    own_address: the local address of all accepted connections; None if their addresses differ."""

    comes_first = True

    def __init__(self, reactor: Loop, sock: socket.socket | None) -> None:
        super().__init__(-1 if sock is None else sock.fileno())
        self.reactor = reactor
        self.socket = sock
        self.batch = 1
        self.own_address: Address | None = None

    def resume_accepting(self) -> None:
        """Accept again after a pause. Does nothing if the socket is closed."""
        if self.socket is not None:
            self.reading = True
            self.reactor.update_interest(self)

    def getHandle(self) -> socket.socket | None:
        return self.socket

    def fileno(self) -> int:
        return -1 if self.socket is None else self.socket.fileno()


class Port(Limits, Listener):
    """Accepts connections and has `factory` build their protocols.

    A port may have several listening sockets. The port itself is the handler of the first one,
    whose address getHost() returns. Each further socket has a FurtherSocket.

    A subclass makes the sockets. `connection_class` is what it accepts.
    """

    connection_class = Connection
    is_adopted = False  # whether another process listens on the same sockets

    def __init__(self, factory: Any, backlog: int, reactor: Loop) -> None:
        super().__init__(reactor, None)
        self.factory = factory
        self.backlog = backlog
        self.connected = False
        self.disconnected = False
        self._host: Address | None = None
        self._further: list[FurtherSocket] = []
        self._spare = -1
        self._next_warning = -1.0
        self._rejected = 0  # peers, for want of descriptors

    def bound_sockets(self) -> list[socket.socket]:
        """Return new listening sockets, one per address. Raises CannotListenError."""
        raise NotImplementedError

    def cannot_listen(self, error: Exception) -> CannotListenError:
        """Return the exception that names this port's address, and `error` as the cause."""
        raise NotImplementedError

    def own_host(self, sock: socket.socket) -> Address | None:
        """Return the local address of all connections that `sock` accepts; None if they differ."""
        return from_sockaddr(sock.getsockname())

    def about_to_close(self) -> None:
        """Remove what a listening socket leaves behind, while it still listens."""

    def own_sockets(self) -> None:
        """Own the adopted sockets from now on: the other process listens no more."""
        self.is_adopted = False

    def close_listening(self, sock: socket.socket) -> None:
        """Close a listening socket: for all processes, or for this one alone if it is adopted."""
        if self.is_adopted:
            sock.close()
        else:
            close_socket(sock)

    def pause_accepting(self) -> None:
        """Leave new clients in the kernel's queue, until resume_accepting()."""
        for listener in self.listeners():
            listener.reading = False
            self.reactor.unregister(listener)

    def resume_accepting(self) -> None:
        super().resume_accepting()
        for listener in self._further:
            listener.resume_accepting()

    def sockets(self) -> list[socket.socket]:
        """Return the listening sockets, one per address. Accepted sockets inherit their options."""
        return [each.socket for each in self.listeners() if each.socket is not None]

    def listeners(self) -> tuple[Listener, ...]:
        """Return the handlers of the listening sockets, one per address."""
        return (self, *self._further)

    def startListening(self) -> None:
        """Bind and listen. May be called again after `stopListening()`.

        Raises CannotListenError if the port cannot be bound or watched. Raises TypeError if the
        address has the wrong type. Raises any exception of the factory's startFactory."""
        if self.socket is None:
            self.reactor.open()
            self.listen_on(self.bound_sockets())

    def listen_on(self, socks: list[socket.socket]) -> None:
        """Start the factory, and accept connections from these listening sockets.

        Raises the same exceptions as startListening(). The sockets are then closed."""
        try:
            prepare = getattr(self.factory, "prepare_listening", None)
            if prepare is not None:  # a factory of a program need not have it
                for sock in socks:
                    prepare(sock)
            self.factory.doStart()
        except BaseException:
            self.about_to_close()
            for sock in socks:
                self.close_listening(sock)
            raise
        self.socket = socks[0]
        self.fd = self.socket.fileno()
        self._host = from_sockaddr(self.socket.getsockname())
        self.own_address = self.own_host(self.socket)
        self._take_spare()
        self.connected, self.disconnected = True, False
        self._further = [FurtherSocket(self, sock) for sock in socks[1:]]
        self._apply_limits()
        try:
            for listener in (self, *self._further):
                listener.reading = True
                self.reactor.attach(listener)
                self.reactor.update_interest(listener)
        except OSError as error:  # the poller cannot watch a socket
            self.connectionLost(None)
            raise self.cannot_listen(error) from None

    def stopListening(self) -> Deferred[None]:
        """Close the port at once, and return a Deferred that has already fired.

        Accepted connections stay open. If the factory's stopFactory raises an exception, the
        Deferred fails with it."""
        try:
            self.connectionLost(None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return fail()
        return succeed(None)

    def loseConnection(self, connDone: Any = None) -> Deferred[None]:
        """Call stopListening(). `connDone` has no effect; Twisted programs may pass it."""
        return self.stopListening()

    def connectionLost(self, reason: Failure | None) -> None:
        if self.socket is None:
            return
        further, self._further = self._further, []
        for listener in further:
            listener.connectionLost(reason)
        self.about_to_close()
        sock, self.socket = self.socket, None
        self.connected, self.disconnected = False, True
        self.reactor.detach(self)
        self.close_listening(sock)
        self._drop_spare()
        self.factory.doStop()

    def failed(self, failure: Failure) -> None:
        """Keep listening: an exception of the factory ends only one connection."""

    def doRead(self) -> None:
        self.accept_from(self)

    def accept_from(self, listener: Listener) -> None:
        """Accept waiting connections from `listener`, at most `listener.batch`.

        The batch doubles, up to MAX_ACCEPTED, each time that it is used up."""
        seconds = self.reactor.seconds
        until = seconds() + ACCEPT_SECONDS
        if self._spare == -1:
            self._take_spare()  # a thread took the last one, between drop and take
        for _ in range(listener.batch):
            if listener.socket is None or not listener.reading:
                return
            try:
                sock, address = listener.socket.accept()
            except BlockingIOError:
                listener.batch = 1
                return
            except OSError as error:
                if error.errno in _PEER_GONE:
                    continue
                if error.errno in OUT_OF_DESCRIPTORS:
                    if not Lingering.reclaim(self.reactor, MAX_ACCEPTED):
                        self._reject_waiting(listener)
                else:
                    self._rest(listener, error)
                return
            self.serve(sock, address, listener.own_address)
            if seconds() >= until:
                return
        listener.batch = min(listener.batch * 2, MAX_ACCEPTED)

    def serve(self, sock: socket.socket, address: Any, host: Address | None) -> None:
        """Build a protocol for an accepted socket, and start it on a new connection.

        address: of the peer, as accept() returns it. host: of our end, None for the socket's own.

        A program may replace this method on a port, to do something with the socket before."""
        try:
            sock.setblocking(False)
            peer = from_sockaddr(address)
            protocol = self.factory.buildProtocol(peer)
        except BaseException:
            close_socket(sock)
            raise
        if protocol is None:
            # The peer gets EOF, not a reset, even if it has already sent data.
            Lingering.take_over(self.reactor, sock)
            sock.close()
            return
        connection = self.connection_class(self.reactor, sock, peer, self._marks, host=host)
        connection.start(protocol)

    # Without a free descriptor, accept() fails and the peer stays in the kernel's queue. The
    # listening socket would then be readable for ever, and the client would hang. The port
    # therefore keeps one spare descriptor. To reject a peer, the port closes the spare descriptor,
    # accepts the peer, closes the peer's socket, and opens the spare descriptor again.

    def _take_spare(self) -> None:
        if self._spare == -1:
            try:
                self._spare = self.reactor.system.open_spare()
            except OSError:
                pass

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, -1
        if spare != -1:
            self.reactor.system.close_spare(spare)

    def _reject_waiting(self, listener: Listener) -> None:
        """Accept and close waiting peers, and warn about it."""
        rejected = 0
        try:
            while rejected < MAX_ACCEPTED:
                self._drop_spare()
                try:
                    listener.socket.accept()[0].close()  # type: ignore[union-attr]
                finally:
                    self._take_spare()
                rejected += 1
        except BlockingIOError:
            pass  # No peer is left. (On some systems accept() needs a descriptor even then.)
        except OSError as error:
            if not rejected:
                self._rest(listener, error)
        self._rejected += rejected
        now = self.reactor.seconds()
        if rejected and now >= self._next_warning:
            self._next_warning = now + WARN_SECONDS
            logger.warning(
                "no descriptor left for connections to %s; peers rejected so far: %d; "
                "raise the limit (ulimit -n)",
                format_address(self._host),
                self._rejected,
            )

    def _rest(self, listener: Listener, error: OSError) -> None:
        """Stop accepting for REST_SECONDS: to try again at once would keep the CPU busy."""
        why = error.strerror or error
        logger.warning(
            "cannot accept connections to %s for now: %s", format_address(self._host), why
        )
        listener.reading = False
        self.reactor.unregister(listener)
        self.reactor.call_later_internal(REST_SECONDS, listener.resume_accepting)

    def getHost(self) -> Address:
        """Return the address of the first listening socket, with its real port number.

        Raises RuntimeError if the port has never listened."""
        if self._host is None:
            raise RuntimeError(f"{self!r} has no address yet; call startListening() first")
        return self._host

    def logPrefix(self) -> str:
        return f"{self._factory_name()} (port)"

    def __repr__(self) -> str:
        return f"<Port {self.shown_address()} of {self._factory_name()}>"

    def shown_address(self) -> str:
        """Return the address of the port, as people write it."""
        raise NotImplementedError

    def _factory_name(self) -> str:
        """Return the name that the factory gives itself, else that of its class."""
        prefix = getattr(self.factory, "logPrefix", None)
        return prefix() if prefix else type(self.factory).__name__


class FurtherSocket(Listener):
    """The second or a later listening socket of a port that has several addresses."""

    def __init__(self, port: Port, sock: socket.socket) -> None:
        super().__init__(port.reactor, sock)
        self._port = port
        self.own_address = port.own_host(sock)

    def doRead(self) -> None:
        self._port.accept_from(self)

    def failed(self, failure: Failure) -> None:
        """Keep listening, as Port.failed() does."""

    def connectionLost(self, reason: Failure | None) -> None:
        sock, self.socket = self.socket, None
        if sock is not None:
            self.reactor.detach(self)
            self._port.close_listening(sock)

    def logPrefix(self) -> str:
        return self._port.logPrefix()

    def __repr__(self) -> str:
        return f"<further socket of {self._port!r}>"
