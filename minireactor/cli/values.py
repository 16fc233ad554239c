"""Parsers of option values: each takes the text that a person typed, and returns the value.

A parser raises argparse.ArgumentTypeError if the text is wrong. The error names the text and the
fix. argparse adds the name of the option.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING

from minireactor.address import unix_path
from minireactor.proxy.targets import parse_place
from minireactor.serve.places import split_place

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def integer(text: str, fix: str = "give an integer, such as 42") -> int:
    # Twenty digits are enough for every option, and Python refuses to convert thousands.
    if re.fullmatch("[+-]?[0-9]{1,20}", text):
        return int(text)
    raise _wrong(text, fix)


def _integer_between(text: str, least: int, most: float, fix: str) -> int:
    number = integer(text, fix)
    if least <= number <= most:
        return number
    raise _wrong(text, fix)


def lesson(text: str) -> int:
    return integer(text, "give the number of a lesson, such as 5")


def count(text: str) -> int:
    return _integer_between(text, 1, math.inf, "give a number of connections, 1 or more")


def clients_per_second(text: str) -> int:
    return _integer_between(text, 1, math.inf, "give a number of clients a second, 1 or more")


def port(text: str) -> int:
    fix = "give a port number from 1 to 65535, or 0 for any free one"
    return _integer_between(text, 0, 65535, fix)


def keepalive(text: str) -> int | None:
    """Return a number of seconds, or None for 0."""
    from minireactor.transports.keepalive import MAX_SECONDS

    fix = f"give a whole number of seconds from 1 to {MAX_SECONDS}, or 0 to never ask"
    return _integer_between(text, 0, MAX_SECONDS, fix) or None


def size(text: str) -> int:
    """Return a number of bytes. The text may end in K or M."""
    match = re.fullmatch("([0-9]{1,20})([kKmM]?)", text)
    if match:
        return int(match[1]) * _UNITS[match[2].lower()]
    raise _wrong(text, "give a number of bytes, such as 65536, 64K or 1M")


def rate(text: str) -> int:
    """Return a number of bytes a second."""
    number = size(text)
    if number > 0:
        return number
    fix = "give a number of bytes a second above 0; for no limit, leave the option out"
    raise _wrong(text, fix)


def timeout(text: str) -> float | None:
    """Return a number of seconds, or None for 0."""
    return _seconds(text, "give a number of seconds, or 0 for no limit") or None


def check(text: str) -> float | None:
    """Return a number of seconds, or None for 0."""
    fix = "give a number of seconds, or 0 to check only targets that have failed"
    return _seconds(text, fix) or None


def grace(text: str) -> float:
    """Return a number of seconds, which may be 0."""
    return _seconds(text, "give a number of seconds, 0 or more")


def _seconds(text: str, fix: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds >= 0:
        return seconds
    raise _wrong(text, fix)


def host(text: str) -> str:
    """Return the address or name, without the brackets that an IPv6 address may have."""
    # This pattern refuses a URL, for example.
    match = re.fullmatch(r"\[([^][\s/]*:[^][\s/]*)\]|([^][\s/@]+)", text)
    if match:
        return match[1] or match[2]
    fix = "give an address or a name, such as ::1; for all addresses, give 0.0.0.0 or ::"
    raise _wrong(text, fix)


def listening_address(text: str) -> tuple[str, int]:
    """Return (host, port). The port may be 0; without a host before the colon, it is 0.0.0.0."""
    fix = "give PORT, HOST:PORT, [IPV6]:PORT or :PORT, such as 127.0.0.1:8080"
    name, number = _address(text, fix)
    return name or "0.0.0.0", number


def listening_place(text: str) -> tuple[str, int]:
    """Return what listening_address() returns, or (text, 0) for another kind of place.

    The other kinds are `unix:PATH`, `systemd` and `systemd:NAME`."""
    if text.partition(":")[0] == "systemd":
        return text, 0
    return unix_place(text) or listening_address(text)


def dashboard_place(text: str) -> tuple[str, int]:
    """Return what listening_address() returns, or (text, 0) for `systemd` and `systemd:NAME`."""
    return (text, 0) if text.partition(":")[0] == "systemd" else listening_address(text)


def port_or_unix(text: str) -> int | str:
    """Return a port number, or the address of a UNIX socket as it is."""
    place = unix_place(text)
    return port(text) if place is None else place[0]


def network(text: str) -> IPv4Network | IPv6Network:
    """Return the addresses that an ADDRESS/BITS stands for. Without /BITS, it is one address."""
    import ipaddress

    try:
        return ipaddress.ip_network(text)
    except ValueError:
        fix = "give ADDRESS/BITS, such as 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32"
    try:
        fix = f"{text} has other bits set; give {ipaddress.ip_network(text, strict=False)}"
    except ValueError:
        pass  # it is no address at all
    raise _wrong(text, fix)


def unix_place(text: str) -> tuple[str, int] | None:
    """Return (text, 0) if `text` is `unix:PATH` or `unix:@NAME`; None for any other address."""
    path = unix_path(text)
    if path is None:
        return None
    if path.strip("\0"):
        return text, 0
    raise _wrong(text, "give a path too, such as unix:/run/x.sock")


def target_address(text: str) -> tuple[str, int]:
    """Return (host, port), or (text, 0) for the address of a UNIX socket."""
    try:
        return parse_place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str, fix: str) -> tuple[str, int]:
    found = split_place(text)
    if found is None:
        raise _wrong(text, fix)
    return found


def _wrong(text: str, fix: str) -> argparse.ArgumentTypeError:
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return argparse.ArgumentTypeError(f"{shown!r} is not valid: {fix}")
