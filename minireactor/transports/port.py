"""A listening TCP port."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from minireactor.address import IPv4Address, IPv6Address, from_sockaddr, shown
from minireactor.core.handler import Handler
from minireactor.core.waker import close_socket
from minireactor.defer import Deferred, fail, succeed
from minireactor.error import CannotListenError, DNSLookupError
from minireactor.failure import Failure
from minireactor.log import logger
from minireactor.transports.closing import Lingering
from minireactor.transports.kernel import limit_unsent
from minireactor.transports.limits import Limits
from minireactor.transports.resolver import OUT_OF_DESCRIPTORS, checked_host, lack_of_descriptors
from minireactor.transports.tcp import Connection

if TYPE_CHECKING:
    from minireactor.core.loop import Loop

# Connections that wait to be accepted. listenTCP()'s 50 makes a crowd of 1,000 wait for seconds:
# the kernel drops the rest of their SYNs, and TCP repeats those only after a second.
BACKLOG = 1024
MOST_ACCEPTED = 64  # connections a pass, so that a crowd at the door leaves time for who is inside
# How long one iteration gives to accepting from one listening socket: it builds the protocols, and
# calls what the application does in connectionMade. Less than loop.DISPATCH_SECONDS.
ACCEPT_SECONDS = 0.002
MAX_TRIES = 10  # to find a number that is free on all addresses of a name
WARN_SECONDS = 10.0  # between two warnings that peers are turned away
REST_SECONDS = 1.0  # between attempts when the system has nothing left to accept with

# Of an address that this machine does not have, or of a family that it does not speak.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
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


class Listener(Handler):
    """One listening socket; `socket` is None while it is closed.

    batch: connections to accept at a time.
    own_host: the address that all its connections have on our side; None if they differ."""

    comes_first = True

    def __init__(self, reactor: Loop, sock: socket.socket | None) -> None:
        super().__init__(-1 if sock is None else sock.fileno())
        self.reactor = reactor
        self.socket = sock
        self.batch = 1
        self.own_host: IPv4Address | IPv6Address | None = None

    def go_on(self) -> None:
        """Accept again, after a rest."""
        if self.socket is not None:
            self.reading = True
            self.reactor.arm(self)

    def getHandle(self) -> socket.socket | None:
        return self.socket

    def fileno(self) -> int:
        return -1 if self.socket is None else self.socket.fileno()


class Port(Limits, Listener):
    """Accepts connections and has `factory` build their protocols; made by `listenTCP`.

    An interface given by name may have several addresses. The port listens on each of them that
    this machine has, with one number for all. It is itself the handler of the first, whose address
    getHost() gives; each further one has a handler of its own.
    """

    def __init__(
        self, port: int, factory: Any, backlog: int, interface: str | bytes, reactor: Loop
    ) -> None:
        super().__init__(reactor, None)
        self.port = port
        self.factory = factory
        self.backlog = backlog
        self.interface = (
            interface.decode("utf-8", "replace") if isinstance(interface, bytes) else interface
        )
        self.connected = False
        self.disconnected = False
        self._host: IPv4Address | IPv6Address | None = None
        self._further: list[FurtherSocket] = []
        self._spare = -1
        self._next_warning = -1.0
        self._turned_away = 0  # since the last warning

    def sockets(self) -> list[socket.socket]:
        """Return the listening sockets, one for each address. What is accepted inherits options."""
        listeners = (self, *self._further)
        return [each.socket for each in listeners if each.socket is not None]

    def _apply_limits(self) -> None:
        for sock in self.sockets():
            limit_unsent(sock, self.unsent_limit())

    def startListening(self) -> None:
        """Bind and listen; also again after `stopListening()`.

        Raises CannotListenError, TypeError if `port` is no number or `interface` no text, and
        what the factory's startFactory raises."""
        if self.socket is not None:
            return
        self.reactor.open()
        check_number(self.port)
        try:
            socks = bound_sockets(self.interface, self.port, self.backlog)
        except (OSError, OverflowError, ValueError) as error:
            raise CannotListenError(self.interface, self.port, error) from None
        try:
            prepare = getattr(self.factory, "prepare_listening", None)
            if prepare is not None:  # not every factory is one of ours
                for sock in socks:
                    prepare(sock)
            self.factory.doStart()
        except BaseException:
            _close_all(socks)
            raise
        self.socket = socks[0]
        self.fd = self.socket.fileno()
        self._host = from_sockaddr(self.socket.getsockname())
        self.own_host = own_host(self.socket)
        self._take_spare()
        self.connected, self.disconnected = True, False
        self._further = [FurtherSocket(self, sock) for sock in socks[1:]]
        self._apply_limits()
        try:
            for listener in (self, *self._further):
                listener.reading = True
                self.reactor.attach(listener)
                self.reactor.arm(listener)
        except OSError as error:  # the system cannot watch it
            self.connectionLost(None)
            raise CannotListenError(self.interface, self.port, error) from None

    def stopListening(self) -> Deferred[None]:
        """Close the port, at once; what it has accepted stays. Return a Deferred that has fired.

        The Deferred fails with what the factory's stopFactory raises."""
        try:
            self.connectionLost(None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return fail()
        return succeed(None)

    def loseConnection(self, connDone: Any = None) -> Deferred[None]:
        """The same; the argument is there for programs that give one."""
        return self.stopListening()

    def connectionLost(self, reason: Failure | None) -> None:
        if self.socket is None:
            return
        further, self._further = self._further, []
        for listener in further:
            listener.connectionLost(reason)
        sock, self.socket = self.socket, None
        self.connected, self.disconnected = False, True
        self.reactor.detach(self)
        close_socket(sock)
        self._drop_spare()
        self.factory.doStop()

    def failed(self, failure: Failure) -> None:
        """What the factory raised concerns the one connection, and the port goes on."""

    def doRead(self) -> None:
        self.accept_from(self)

    def accept_from(self, listener: Listener) -> None:
        """Accept those who wait, some at a time: more while there are always more."""
        seconds = self.reactor.seconds
        until = seconds() + ACCEPT_SECONDS
        if self._spare == -1:
            self._take_spare()  # the last one was taken by a thread, between drop and take
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
                    if not Lingering.reclaim(self.reactor, MOST_ACCEPTED):
                        self._turn_away(listener)
                else:
                    self._rest(listener, error)
                return
            self._serve(sock, address, listener.own_host)
            if seconds() >= until:
                return
        listener.batch = min(listener.batch * 2, MOST_ACCEPTED)

    def _serve(
        self, sock: socket.socket, address: Any, host: IPv4Address | IPv6Address | None
    ) -> None:
        try:
            sock.setblocking(False)
            peer = from_sockaddr(address)
            protocol = self.factory.buildProtocol(peer)
        except BaseException:
            close_socket(sock)
            raise
        if protocol is None:
            # The end of the stream, and not a reset even if the peer has sent something already.
            Lingering.take_over(self.reactor, sock)
            sock.close()
            return
        connection = Connection(self.reactor, sock, peer, self._marks, host=host)
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

    def _turn_away(self, listener: Listener) -> None:
        turned_away = 0
        try:
            while turned_away < MOST_ACCEPTED:
                self._drop_spare()
                try:
                    listener.socket.accept()[0].close()  # type: ignore[union-attr]
                finally:
                    self._take_spare()
                turned_away += 1
        except BlockingIOError:
            pass  # That was all. Some accept() want a descriptor even when nobody waits.
        except OSError as error:
            if not turned_away:
                self._rest(listener, error)
        self._turned_away += turned_away
        now = self.reactor.seconds()
        if turned_away and now >= self._next_warning:
            self._next_warning = now + WARN_SECONDS
            logger.warning(
                "no descriptor left for connections to %s; %d peers turned away; "
                "raise the limit (ulimit -n)",
                shown(self._host),
                self._turned_away,
            )
            self._turned_away = 0

    def _rest(self, listener: Listener, error: OSError) -> None:
        """Leave the door alone for a moment: trying again at once would keep the CPU busy."""
        why = error.strerror or error
        logger.warning("cannot accept connections to %s for now: %s", shown(self._host), why)
        listener.reading = False
        self.reactor.disarm(listener)
        self.reactor.call_later_hidden(REST_SECONDS, listener.go_on)

    def getHost(self) -> IPv4Address | IPv6Address:
        """The address that it listens on, with the real port number where 0 was asked for."""
        if self._host is None:
            raise RuntimeError(f"{self!r} has not been listening yet, so it has no address")
        return self._host

    def logPrefix(self) -> str:
        return f"{type(self.factory).__name__} (port)"

    def __repr__(self) -> str:
        number = self._host.port if self._host is not None else self.port
        return f"<Port {self.interface or '*'}:{number} of {type(self.factory).__name__}>"


class FurtherSocket(Listener):
    """A further listening socket of a port that listens on several addresses."""

    def __init__(self, port: Port, sock: socket.socket) -> None:
        super().__init__(port.reactor, sock)
        self._port = port
        self.own_host = own_host(sock)

    def doRead(self) -> None:
        self._port.accept_from(self)

    def failed(self, failure: Failure) -> None:
        """As of Port: what the factory raised concerns the one connection."""

    def connectionLost(self, reason: Failure | None) -> None:
        sock, self.socket = self.socket, None
        if sock is not None:
            self.reactor.detach(self)
            close_socket(sock)

    def logPrefix(self) -> str:
        return self._port.logPrefix()

    def __repr__(self) -> str:
        return f"<further socket of {self._port!r}>"


def own_host(sock: socket.socket) -> IPv4Address | IPv6Address | None:
    """Return the address that `sock` is bound to, unless that stands for all addresses.

    The address is that of each connection too: `churn` need not ask for it."""
    host = from_sockaddr(sock.getsockname())
    return None if host.host in ("0.0.0.0", "::") else host


def check_number(port: Any) -> None:
    """Raise TypeError unless `port` is an int, and no bool."""
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"listenTCP() takes a port number from 0 to 65535 as int, not {port!r}")


def bound_sockets(interface: Any, port: int, backlog: int) -> list[socket.socket]:
    """Return listening sockets, of one port number, on all addresses of `interface`.

    Addresses that this machine does not have are left out, as long as there is another one.
    Raises OSError, OverflowError or ValueError if there is none, or one cannot be listened on."""
    addresses = _addresses(interface)
    for _ in range(MAX_TRIES):
        try:
            return _bind_all(addresses, port, backlog)
        except OSError as error:
            # The system chose a number for the first address. On another one, it may be taken.
            if error.errno != errno.EADDRINUSE or port != 0:
                raise
    return _bind_all(addresses, port, backlog)


def _addresses(interface: Any) -> list[Any]:
    if interface is None or interface == "":
        interface = "0.0.0.0"
    if not isinstance(interface, str):
        raise TypeError(f"an interface is a name or an address as str, not {interface!r}")
    try:
        checked_host(interface)
    except DNSLookupError as error:
        raise ValueError(*error.args) from None
    # Without the port: some systems would take one that is too large modulo 65,536.
    try:
        found = socket.getaddrinfo(interface, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise lack_of_descriptors() or error from None
    addresses = ((family, kind, proto, place) for family, kind, proto, _, place in found)
    return list(dict.fromkeys(addresses))  # /etc/hosts may give one of them twice


def _bind_all(addresses: list[Any], port: int, backlog: int) -> list[socket.socket]:
    socks: list[socket.socket] = []
    error = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    try:
        for address in addresses:
            try:
                sock = _bound_socket(address, port, backlog, is_only=len(addresses) == 1)
            except OSError as reason:
                if reason.errno not in _NOT_HERE:
                    raise
                error = reason
            else:
                socks.append(sock)
                port = sock.getsockname()[1]
        if not socks:
            raise error
    except BaseException:
        _close_all(socks)
        raise
    return socks


def _bound_socket(address: Any, port: int, backlog: int, is_only: bool) -> socket.socket:
    family, kind, proto, (host, _, *scope) = address
    sock = _Listener(family, kind, proto)
    try:
        if os.name == "posix":
            # Lets the number be bound again while old connections are in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not is_only:
            # IPv4 has a socket of its own. "::" alone takes IPv4 as well, where the system does so.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for all that it accepts
        sock.bind((host, port, *scope))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_all(socks: list[socket.socket]) -> None:
    for sock in socks:
        close_socket(sock)
