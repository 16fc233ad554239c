"""The two ends of a connection, as `getHost()`, `getPeer()` and `buildProtocol(addr)` give them."""

from __future__ import annotations

from functools import total_ordering
from typing import Any


@total_ordering
class _Address:
    """Compares and hashes by value. Addresses of two different kinds are never equal."""

    __slots__ = ()

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, self.__class__):
            return NotImplemented
        return self._key() == other._key()

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, self.__class__):
            return NotImplemented
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class IPv4Address(_Address):
    """`IPv4Address(type, host, port)`: "TCP" or "UDP", dotted numbers, a port number.

    To be read only, for addresses are shared and used as keys. ValueError for any other type.
    """

    # Every connection keeps one, hence no __dict__.
    __slots__ = ("host", "port", "type")

    def __init__(self, type: str, host: str, port: int) -> None:
        if type != "TCP":
            _check_type(type)
        self.type = type
        self.host = host
        self.port = port

    def _key(self) -> tuple[Any, ...]:
        return self.type, self.host, self.port

    def __repr__(self) -> str:
        return f"IPv4Address(type={self.type!r}, host={self.host!r}, port={self.port!r})"


class IPv6Address(_Address):
    """`IPv6Address(type, host, port, flowInfo=0, scopeID=0)`.

    As IPv4Address. `scopeID` is the number (or name) of the interface that a link-local host is
    to be reached through, and 0 for all other hosts.
    """

    __slots__ = ("flowInfo", "host", "port", "scopeID", "type")

    def __init__(
        self, type: str, host: str, port: int, flowInfo: int = 0, scopeID: int | str = 0
    ) -> None:
        if type != "TCP":
            _check_type(type)
        self.type = type
        self.host = host
        self.port = port
        self.flowInfo = flowInfo
        self.scopeID = scopeID

    def _key(self) -> tuple[Any, ...]:
        return self.type, self.host, self.port, self.flowInfo, self.scopeID

    def __repr__(self) -> str:
        return (
            f"IPv6Address(type={self.type!r}, host={self.host!r}, port={self.port!r}, "
            f"flowInfo={self.flowInfo!r}, scopeID={self.scopeID!r})"
        )


def from_sockaddr(sockaddr: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    """The TCP address for what `socket.accept`, `getsockname` and `getpeername` give.

    `(host, port)` is IPv4, `(host, port, flowinfo, scope_id)` is IPv6. Some systems write the
    scope into the host as well (`fe80::1%eth0`); here it stands in `scopeID` alone. ValueError
    for any other shape.
    """
    if len(sockaddr) == 2:
        return IPv4Address("TCP", *sockaddr)
    if len(sockaddr) == 4:
        host, port, flow_info, scope_id = sockaddr
        return IPv6Address("TCP", host.partition("%")[0], port, flow_info, scope_id)
    raise ValueError(f"{sockaddr!r} is not a TCP socket address: it needs 2 or 4 items")


def bracketed(host: str) -> str:
    """A host as it stands before a port: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int | str) -> str:
    """A place as people write it."""
    return f"{bracketed(host)}:{port}"


def shown(address: Any) -> str:
    """The same of an address."""
    return host_port(address.host, address.port)


def _check_type(type: str) -> None:
    if type not in ("TCP", "UDP"):
        raise ValueError(f"type is {type!r}; use 'TCP' or 'UDP'")
