"""Addresses of the two ends of a connection, as getHost() and getPeer() return them."""

from __future__ import annotations

from functools import total_ordering
from typing import Any


@total_ordering
class _Address:
    """Compares and hashes by value. Addresses of different classes are never equal."""

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
    """`IPv4Address(type, host, port)`: "TCP" or "UDP", a dotted quad, a port number.

    Do not change an address: addresses are shared, and used as keys. Raises ValueError if `type` is
    neither "TCP" nor "UDP".
    """

    # Slots instead of a __dict__ save memory: every connection keeps an address.
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

    The same rules hold as for IPv4Address. `scopeID` is the number (or name) of the interface that
    leads to a link-local host, and 0 for all other hosts.
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
    """Return the TCP address for a socket address, as accept() and getpeername() return it.

    `(host, port)` is IPv4, `(host, port, flowinfo, scope_id)` is IPv6. Some systems write the scope
    into the host as well (`fe80::1%eth0`); the result has the scope only in `scopeID`. Raises
    ValueError if `sockaddr` has any other number of items.
    """
    if len(sockaddr) == 2:
        return IPv4Address("TCP", *sockaddr)
    if len(sockaddr) == 4:
        host, port, flow_info, scope_id = sockaddr
        return IPv6Address("TCP", host.partition("%")[0], port, flow_info, scope_id)
    raise ValueError(f"{sockaddr!r} is not a TCP socket address; give a tuple of 2 or 4 items")


def bracketed(host: str) -> str:
    """Return a host as people write it before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int | str) -> str:
    """Return host and port as people write them: `127.0.0.1:80`, `[::1]:80`."""
    return f"{bracketed(host)}:{port}"


def format_address(address: Any) -> str:
    """Return an address as people write it, like host_port()."""
    return host_port(address.host, address.port)


def _check_type(type: str) -> None:
    if type not in ("TCP", "UDP"):
        raise ValueError(f"type is {type!r}; use 'TCP' or 'UDP'")
