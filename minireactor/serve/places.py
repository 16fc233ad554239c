"""Listen and connect at a place, which is a host and a port number, or a UNIX socket.

A place is `(host, port)`. The place of a UNIX socket is `("unix:/run/x.sock", 0)`, or
`("unix:@name", 0)` for an abstract name of Linux. The commands take such addresses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from minireactor.address import unix_path

if TYPE_CHECKING:
    import socket

    from minireactor.internet import Reactor
    from minireactor.transports.connector import Connector
    from minireactor.transports.port import Port

    Place = tuple[str, int]  # host, port number


def split_place(text: str) -> Place | None:
    """Return (host, port) of PORT, HOST:PORT, [IPV6]:PORT or :PORT; None for any other text.

    Without a colon, the host is 127.0.0.1."""
    # A host has no colon, slash or at sign. This refuses URLs and IPv6 without brackets.
    match = re.fullmatch(r"(?:(\[(?!unix:)[^][\s/]+\]|[^][:\s/@]*):)?([0-9]{1,5})", text)
    if match and int(match[2]) <= 65535:
        return "127.0.0.1" if match[1] is None else match[1].strip("[]"), int(match[2])
    return None


def listen_at(
    reactor: Reactor,
    host: str,
    port: int,
    factory: Any,
    backlog: int,
    sockets: list[socket.socket] | None = None,
) -> Port:
    """Return the port of listenTCP() or listenUNIX(). Raises CannotListenError.

    sockets: sockets that listen at this place already. The port accepts from them instead."""
    if sockets:
        from minireactor.transports.adopt import adopt_sockets

        return adopt_sockets(reactor, sockets, factory)
    path = unix_path(host)
    if path is None:
        return reactor.listenTCP(port, factory, backlog, host)
    return reactor.listenUNIX(path, factory, backlog)


def connect_to(
    reactor: Reactor, host: str, port: int | str, factory: Any, timeout: float | None
) -> Connector:
    """Return the connector of connectTCP() or connectUNIX()."""
    path = unix_path(host)
    if path is None:
        return reactor.connectTCP(host, port, factory, timeout)
    return reactor.connectUNIX(path, factory, timeout)
