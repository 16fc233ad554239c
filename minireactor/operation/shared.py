"""Listening sockets that a parent opens, and that its workers accept from.

On Linux there is one socket for each worker at each address (SO_REUSEPORT), and the kernel
distributes new clients over them. Elsewhere, and for sockets that exist only once, all workers
accept from the same socket.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from minireactor.address import from_sockaddr, unix_path
from minireactor.core.system import System
from minireactor.operation.reuse_port import ReusingSystem, is_supported
from minireactor.protocol import Factory
from minireactor.transports.port import BACKLOG
from minireactor.transports.tcp import TCPPort, bound_sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.address import Address
    from minireactor.internet import Reactor
    from minireactor.transports.port import Port


class SharedPort:
    """The listening sockets of one place, which workers accept from. This process does not.

    It has the methods of Port that concern the sockets.

    sockets: sockets that listen there already; None to open new ones.

    Raises CannotListenError if the place cannot be opened, or if somebody listens there."""

    def __init__(
        self,
        reactor: Reactor,
        host: str,
        port: int,
        count: int,
        sockets: list[socket.socket] | None = None,
    ) -> None:
        self._count = count
        path = unix_path(host)
        # This port never listens. It opens the sockets, and removes the file of a UNIX socket.
        self._opener: Port
        if path is None:
            self._opener = TCPPort(port, Factory(), BACKLOG, host, reactor)
        else:
            from minireactor.transports.unix import UNIXPort

            self._opener = UNIXPort(path, Factory(), BACKLOG, 0o666, False, reactor)
        self.is_adopted = sockets is not None
        if sockets is not None:
            self._sockets = sockets
        elif path is not None or count == 1 or not balances():
            self._sockets = self._opener.bound_sockets()
        else:
            try:
                self._sockets = balanced_sockets(host, port, count)
            except (OSError, OverflowError, ValueError) as error:
                raise self._opener.cannot_listen(error) from None
        self._host = from_sockaddr(self._sockets[0].getsockname())

    @property
    def is_adopted(self) -> bool:
        """Whether another process owns the sockets: then stopListening() removes no file."""
        return self._opener.is_adopted

    @is_adopted.setter
    def is_adopted(self, adopted: bool) -> None:
        self._opener.is_adopted = adopted

    def own_sockets(self) -> None:
        """Own the adopted sockets from now on: the other process listens no more."""
        self._opener.own_sockets()

    def getHost(self) -> Address:
        """Return the address of the first socket, with its real port number."""
        return self._host

    def sockets(self) -> list[socket.socket]:
        """Return all sockets of the place; none after stopListening()."""
        return list(self._sockets)

    def share(self, number: int) -> list[socket.socket]:
        """Return the sockets of worker `number`, counted from 0."""
        return shares(self._sockets, self._count)[number]

    def own_share(self, number: int) -> list[socket.socket]:
        """Return the sockets that no other worker accepts from."""
        others = [self.share(each) for each in range(self._count) if each != number]
        return [sock for sock in self.share(number) if not any(sock in share for share in others)]

    def stopListening(self) -> None:
        """Close the sockets for this process. They listen until the workers close theirs too."""
        self._opener.about_to_close()
        while self._sockets:
            self._sockets.pop().close()


def shares(sockets: Sequence[socket.socket], count: int) -> list[list[socket.socket]]:
    """Return the sockets that each of `count` workers accepts from.

    Each worker gets a socket for each address. Each socket is given to one worker at least, because
    the kernel queues clients in all of them."""
    by_address: dict[Any, list[socket.socket]] = {}
    for sock in sockets:
        by_address.setdefault(sock.getsockname(), []).append(sock)
    found: list[list[socket.socket]] = [[] for _ in range(count)]
    for same in by_address.values():
        for number, share in enumerate(found):
            share += same[number::count] or [same[number % len(same)]]
    return found


def balances() -> bool:
    """Return whether the kernel distributes clients over sockets with the same address."""
    # Elsewhere SO_REUSEPORT exists too, but the newest socket gets all clients.
    return sys.platform == "linux" and is_supported()


def balanced_sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` listening sockets for each address of a host, all with the same port number.

    Raises what bound_sockets() raises, also if somebody else listens there."""
    if port != 0:
        # A socket without SO_REUSEPORT finds out whether anybody listens there.
        for sock in bound_sockets(_Probing(), host, port, BACKLOG):
            sock.close()
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found += bound_sockets(ReusingSystem(), host, port, BACKLOG)
            port = found[0].getsockname()[1]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


class _Probing(System):
    """Makes sockets that are bound but never listen: no client can be lost in their queue."""

    def listening_socket(self, family: int, kind: int, proto: int) -> socket.socket:
        return _Silent(family, kind, proto)


class _Silent(socket.socket):
    def listen(self, backlog: int = 0, /) -> None:
        """Do not listen."""
