"""Addresses of the two ends of a connection, as getHost() and getPeer() return them."""

from __future__ import annotations

import os
from functools import total_ordering
from typing import Any, Union


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


class UNIXAddress(_Address):
    """`UNIXAddress(name)`: the address of a UNIX socket.

    name: the path of the socket's file, as bytes. An abstract name of Linux begins with a zero
        byte. None if the socket has no address, as most clients. A str is encoded as a path.
    host, port: the name as people write it, such as `unix:/run/x.sock`, and 0. So code that shows
        an address of TCP shows this one too.
    """

    __slots__ = ("name",)

    type = "UNIX"

    def __init__(self, name: str | bytes | None) -> None:
        self.name = os.fsencode(name) if name else None

    @property
    def host(self) -> str:
        return unix_host(self.name)

    @property
    def port(self) -> int:
        return 0

    def _key(self) -> tuple[Any, ...]:
        return (self.name or b"",)

    def __repr__(self) -> str:
        name = None if self.name is None else os.fsdecode(self.name)
        return f"UNIXAddress({name!r})"


Address = Union[IPv4Address, IPv6Address, UNIXAddress]

_UNIX = "unix:"


def from_sockaddr(sockaddr: Any) -> Address:
    """Return the address for a socket address, as accept() and getpeername() return it.

    A str or bytes is the address of a UNIX socket, and empty for a socket without an address.
    `(host, port)` is IPv4, `(host, port, flowinfo, scope_id)` is IPv6. Some systems write the scope
    into the host as well (`fe80::1%eth0`); the result has the scope only in `scopeID`. Raises
    ValueError if `sockaddr` is a tuple of any other length.
    """
    if sockaddr.__class__ is not tuple:
        return UNIXAddress(sockaddr)
    if len(sockaddr) == 2:
        return IPv4Address("TCP", *sockaddr)
    if len(sockaddr) == 4:
        host, port, flow_info, scope_id = sockaddr
        return IPv6Address("TCP", host.partition("%")[0], port, flow_info, scope_id)
    raise ValueError(f"{sockaddr!r} is not a socket address; give a tuple of 2 or 4 items")


def bracketed(host: str) -> str:
    """Return a host as people write it before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int | str) -> str:
    """Return host and port as people write them: `127.0.0.1:80`, `[::1]:80`.

    A host that unix_path() takes is returned alone: the address of a UNIX socket has no port."""
    if host.startswith(_UNIX):
        return host
    return f"{bracketed(host)}:{port}"


def format_address(address: Any) -> str:
    """Return an address as people write it, like host_port()."""
    return host_port(address.host, address.port)


def unix_host(path: str | bytes | None) -> str:
    """Return the path of a UNIX socket as people write it: `unix:/run/x.sock`, `unix:@abstract`.

    Returns `unix:` for a socket without an address."""
    name = os.fsdecode(path or b"")
    return f"{_UNIX}@{name[1:]}" if name.startswith("\0") else f"{_UNIX}{name}"


def unix_path(host: str) -> str | None:
    """Return the path that unix_host() would write as `host`; None for any other host."""
    if not host.startswith(_UNIX):
        return None
    name = host[len(_UNIX) :]
    return f"\0{name[1:]}" if name.startswith("@") else name


def _check_type(type: str) -> None:
    if type not in ("TCP", "UDP"):
        raise ValueError(f"type is {type!r}; use 'TCP' or 'UDP'")
