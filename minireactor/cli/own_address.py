"""Recognise targets that are the proxy itself, before the proxy starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.address import unix_path

if TYPE_CHECKING:
    from ipaddress import IPv4Address as _IPv4
    from ipaddress import IPv6Address as _IPv6

    IPAddress = _IPv4 | _IPv6


def is_same_address(listen: tuple[str, int], target: tuple[str, int]) -> bool:
    """Return whether a target is the proxy itself, as far as that is clear without a look-up.

    The proxy detects all other such targets when it connects to them."""
    paths = unix_path(listen[0]), unix_path(target[0])
    if None not in paths:
        return paths[0] == paths[1] or _is_same_file(*paths)
    if listen[1] != target[1] or not listen[1]:
        return False
    own, there = _numeric(listen[0]), _numeric(target[0])
    if own is None or there is None or own.version != there.version:
        return False
    # To connect to 0.0.0.0 or :: means to connect to the loopback address.
    if there.is_unspecified:
        return own.is_unspecified or own.is_loopback
    return there == own or (own.is_unspecified and there.is_loopback)


def _is_same_file(*paths: Any) -> bool:
    import os.path

    return not any("\0" in path for path in paths) and len(set(map(os.path.realpath, paths))) == 1


def _numeric(host: str) -> IPAddress | None:
    """Return the IP address of a host, or None if the host is a name other than localhost."""
    import ipaddress
    import socket

    host = "127.0.0.1" if host.lower() == "localhost" else host
    try:
        # getaddrinfo() knows spellings that ipaddress does not, such as 127.1.
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
