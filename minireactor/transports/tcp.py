"""What only TCP has: port numbers, options of sockets, and limits on unsent bytes.

`port`, `connector` and `connection` have what all stream sockets share.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from minireactor.address import Address, IPv4Address, IPv6Address, from_sockaddr
from minireactor.core.waker import close_socket
from minireactor.error import CannotListenError, DNSLookupError
from minireactor.transports.attempt import Attempt
from minireactor.transports.connection import Connection
from minireactor.transports.connector import Connector
from minireactor.transports.kernel import limit_unsent
from minireactor.transports.port import Port
from minireactor.transports.resolver import checked_host, lack_of_descriptors

if TYPE_CHECKING:
    from minireactor.core.handler import Handler
    from minireactor.core.loop import Loop
    from minireactor.core.system import System

MAX_TRIES = 10  # how many free numbers are tried on all addresses of a name

# This machine lacks the address, or does not support its family.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class TCPConnection(Connection):
    """A connection over TCP."""

    __slots__ = ()

    def getTcpNoDelay(self) -> bool:
        return bool(self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, bool(enabled))

    def getTcpKeepAlive(self) -> bool:
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(enabled))


class TCPPort(Port):
    """Listens on a port number; made by `listenTCP`.

    An interface that is given by name may have several addresses. The port listens on each address
    that this machine has, with the same port number for all.
    """

    connection_class = TCPConnection

    def __init__(
        self, port: int, factory: Any, backlog: int, interface: str | bytes, reactor: Loop
    ) -> None:
        super().__init__(factory, backlog, reactor)
        self.port = port
        self.interface = (
            interface.decode("utf-8", "replace") if isinstance(interface, bytes) else interface
        )

    def bound_sockets(self) -> list[socket.socket]:
        check_number(self.port)
        try:
            return bound_sockets(self.reactor.system, self.interface, self.port, self.backlog)
        except (OSError, OverflowError, ValueError) as error:
            raise self.cannot_listen(error) from None

    def cannot_listen(self, error: Exception) -> CannotListenError:
        return CannotListenError(self.interface, self.port, error)

    def own_host(self, sock: socket.socket) -> Address | None:
        # To know the address in advance saves a getsockname() for each connection in benchmark
        # `churn`. A socket that is bound to all addresses has connections of different addresses.
        host = from_sockaddr(sock.getsockname())
        return None if host.host in ("0.0.0.0", "::") else host

    def _apply_limits(self) -> None:
        for sock in self.sockets():
            limit_unsent(sock, self.unsent_limit())

    def shown_address(self) -> str:
        number = self.port if self._host is None else self._host.port
        return f"{self.interface or '*'}:{number}"


class TCPConnector(Connector):
    """Connects to a port number of a host; made by `connectTCP`."""

    connection_class = TCPConnection

    def __init__(
        self,
        host: str | bytes,
        port: Any,
        factory: Any,
        timeout: float | None,
        bindAddress: tuple[str, int] | None,
        reactor: Loop,
    ) -> None:
        super().__init__(factory, timeout, reactor)
        self.host = host.decode("utf-8", "replace") if isinstance(host, bytes) else host
        self.port = port
        self.bindAddress = bindAddress

    def new_attempt(self) -> Attempt:
        return Attempt(
            self.reactor,
            self.host,
            self.port,
            self.timeout,
            self.bindAddress,
            self.connected,
            self.connectionFailed,
            lambda sock, address: self.connect_socket(sock, address),
        )

    def connected(
        self, sock: socket.socket, peer_address: Any, own_address: Any, attempt: Handler
    ) -> None:
        limit_unsent(sock, self.unsent_limit())
        super().connected(sock, peer_address, own_address, attempt)

    def getDestination(self) -> IPv4Address | IPv6Address:
        """Return the destination as the program gave it: its `host` may be a name."""
        kind = IPv6Address if ":" in str(self.host) else IPv4Address
        return kind("TCP", self.host, self.port)

    def shown_address(self) -> str:
        return f"{self.host}:{self.port}"


def check_number(port: Any) -> None:
    """Raise TypeError unless `port` is an int. A bool is not accepted."""
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"listenTCP() needs a port number from 0 to 65535 as int, not {port!r}")


def bound_sockets(system: System, interface: Any, port: int, backlog: int) -> list[socket.socket]:
    """Return listening sockets on all addresses of `interface`, all with the same port number.

    Addresses that this machine does not have are left out, if at least one other remains.
    Raises OSError, OverflowError or ValueError if no address remains, or if the number cannot be
    bound on one of them."""
    addresses = _addresses(system, interface)
    for _ in range(MAX_TRIES):
        try:
            return _bind_all(system, addresses, port, backlog)
        except OSError as error:
            # The system chose a free number for the first address. Another address may have it in
            # use: try again with another number.
            if error.errno != errno.EADDRINUSE or port != 0:
                raise
    return _bind_all(system, addresses, port, backlog)


def _addresses(system: System, interface: Any) -> list[Any]:
    if interface is None or interface == "":
        interface = "0.0.0.0"
    if not isinstance(interface, str):
        raise TypeError(f"interface={interface!r} is not valid; give a name or an address as str")
    try:
        checked_host(interface)
    except DNSLookupError as error:
        raise ValueError(*error.args) from None
    try:
        found = system.local_addresses(interface)
    except socket.gaierror as error:
        raise lack_of_descriptors() or error from None
    addresses = ((family, kind, proto, place) for family, kind, proto, _, place in found)
    return list(dict.fromkeys(addresses))  # /etc/hosts may list an address twice


def _bind_all(system: System, addresses: list[Any], port: int, backlog: int) -> list[socket.socket]:
    socks: list[socket.socket] = []
    error = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    try:
        for address in addresses:
            try:
                sock = _bound_socket(system, address, port, backlog, len(addresses) == 1)
            except OSError as reason:
                if reason.errno not in _NO_SUCH_ADDRESS:
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


def _bound_socket(
    system: System, address: Any, port: int, backlog: int, is_only: bool
) -> socket.socket:
    family, kind, proto, (host, _, *scope) = address
    sock = system.listening_socket(family, kind, proto)
    try:
        if os.name == "posix":
            # The number can be bound again while old connections are in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not is_only:
            # IPv4 has a socket of its own here. "::" as the only address accepts IPv4 too, if the
            # system allows that.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        sock.bind((host, port, *scope))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_all(socks: list[socket.socket]) -> None:
    for sock in socks:
        close_socket(sock)
