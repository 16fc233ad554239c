"""Adopt sockets that another program has opened: a parent process, or a supervisor.

The descriptor is duplicated, so the caller still has to close its own. Adopting makes a socket
non-blocking for all processes that share it.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from minireactor.address import UNIXAddress, from_sockaddr
from minireactor.error import UnsupportedAddressFamily, UnsupportedSocketType
from minireactor.transports.tcp import TCPConnection, TCPPort
from minireactor.transports.unix import UNIXConnection, UNIXPort

if TYPE_CHECKING:
    from minireactor.core.loop import Loop
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port

_UNIX = getattr(socket, "AF_UNIX", None)
_FAMILIES = (socket.AF_INET, socket.AF_INET6, _UNIX)


def adopt_port(reactor: Loop, fd: int, family: int, factory: Any) -> Port:
    """Return a Port that accepts from a listening socket; see Reactor.adoptStreamPort()."""
    return adopt_sockets(reactor, [_adopted(fd, family, listens=True)], factory)


def adopt_sockets(reactor: Loop, socks: list[socket.socket], factory: Any) -> Port:
    """Return a Port that accepts from these listening sockets, which the port closes at its end.

    Raises any exception of the factory's startFactory. The sockets are then closed."""
    address = from_sockaddr(socks[0].getsockname())
    port: Port
    if isinstance(address, UNIXAddress):
        port = UNIXPort(address.name or b"", factory, 50, 0o666, False, reactor)
    else:
        for sock in socks:  # accepted sockets inherit the option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = TCPPort(address.port, factory, 50, address.host, reactor)
    port.is_adopted = True
    reactor.open()
    port.listen_on(socks)
    return port


def adopt_connection(reactor: Loop, fd: int, family: int, factory: Any) -> Connection | None:
    """Return the transport of a connected socket; see Reactor.adoptStreamConnection()."""
    sock = _adopted(fd, family, listens=False)
    try:
        peer = from_sockaddr(sock.getpeername())
        protocol = factory.buildProtocol(peer)
    except BaseException:
        sock.close()
        raise
    if protocol is None:
        sock.close()
        return None
    connection: Connection
    if isinstance(peer, UNIXAddress):
        connection = UNIXConnection(reactor, sock, peer)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = TCPConnection(reactor, sock, peer)
    connection.start(protocol)
    return connection


def _adopted(fd: int, family: int, listens: bool) -> socket.socket:
    if family not in _FAMILIES:
        raise UnsupportedAddressFamily(f"{family!r}; give AF_INET, AF_INET6 or AF_UNIX")
    own = -1
    try:
        own = os.dup(fd)
        sock = socket.socket(fileno=own)
    except OSError as error:
        if own != -1:
            os.close(own)
        raise UnsupportedSocketType(f"descriptor {fd} is not a socket: {error.strerror}") from None
    try:
        _check(sock, fd, family, listens)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _check(sock: socket.socket, fd: int, family: int, listens: bool) -> None:
    if sock.family != family:
        raise UnsupportedAddressFamily(
            f"descriptor {fd} is a socket of {_name(sock.family)}, not of {_name(family)}"
        )
    if sock.type != socket.SOCK_STREAM:
        raise UnsupportedSocketType(f"descriptor {fd} is not a stream socket")
    if bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) != listens:
        raise UnsupportedSocketType(
            f"descriptor {fd} does not listen; call adoptStreamConnection()"
            if listens
            else f"descriptor {fd} listens; call adoptStreamPort()"
        )
    if not listens:
        try:
            sock.getpeername()
        except OSError:
            raise UnsupportedSocketType(f"descriptor {fd} is not connected") from None


def _name(family: int) -> str:
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return f"family {family}"
