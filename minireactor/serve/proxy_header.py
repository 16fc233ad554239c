"""Encode and decode headers of the PROXY protocol, version 1 (a line) and version 2 (binary).

A proxy sends this header before the bytes of a client. The header says who the client is, and
which address the client has connected to.

    header = decode(data)      None: more bytes are needed; ValueError: they are no header
    header.length              the bytes after these are the client's
    header.source              as accept() returns addresses; None: use the socket's own addresses

    header_v1(source, destination), header_v2(source, destination)
    FOR_CHECKS[header_v1]      the same for a health check, which has no client

This module uses no socket. The specification is `proxy-protocol.txt`, which HAProxy publishes.
"""

from __future__ import annotations

import re
import socket
from typing import Any, Callable, NamedTuple

from minireactor.address import Address, IPv4Address, IPv6Address

Encode = Callable[[Address, Address], bytes]  # source, destination

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2
MAX_LINE = 107  # bytes of a header of version 1, with CRLF
# Bytes of a header of version 2 after the first 16. The longest addresses take 216. The others are
# extensions (TLVs), which are passed over.
MAX_BLOCK = 4096
_MAX_SHOWN = 60  # bytes of a header in an error message

_FIRST_WORD = b"PROXY "
_FIXED = 16  # bytes of version 2 before the addresses
_LOCAL, _PROXY = 0x20, 0x21  # version 2 with its commands
_STREAM = 1  # the transport protocol of TCP, and of UNIX stream sockets
_UNIX, _UNIX_PATH = 3, 108  # family of UNIX sockets, and the bytes of a path
_MAPPED = bytes(10) + b"\xff\xff"  # of an IPv4 address in IPv6 form

# Version 1: word -> family. Version 2: number -> family and length of an address.
_V1_FAMILIES = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
_V2_FAMILIES = {1: (socket.AF_INET, 4), 2: (socket.AF_INET6, 16)}


class Header(NamedTuple):
    """A complete header.

    length: its length in bytes.
    source: the client's address as accept() returns it: (host, port) for IPv4, a tuple of four for
        IPv6, bytes for a UNIX socket. None if the sender does not speak for a client (LOCAL), or
        knows no address (UNKNOWN): then the addresses of the socket itself are true.
    destination: the address that the client has connected to, or None.
    """

    length: int
    source: Any
    destination: Any


def decode(data: bytes | bytearray) -> Header | None:
    """Return the header at the beginning of `data`. Return None if `data` ends inside the header.

    Raises ValueError as soon as the bytes cannot become a header."""
    if data.startswith(SIGNATURE):
        return _decode_v2(data)
    if data.startswith(_FIRST_WORD):
        return _decode_v1(data)
    if SIGNATURE.startswith(data) or _FIRST_WORD.startswith(data):
        return None
    raise _wrong("no PROXY header", data)


def _decode_v1(data: bytes | bytearray) -> Header | None:
    length = data.find(b"\n", 0, MAX_LINE) + 1
    if not length and len(data) < MAX_LINE:
        return None
    line = bytes(data[: length - 2])
    if data[length - 2 : length] != b"\r\n":
        raise _wrong(f"no CRLF at the end of a line of at most {MAX_LINE} bytes", data)
    _, kind, *words = line.split(b" ")
    if kind == b"UNKNOWN":  # whatever follows this word has no meaning
        return Header(length, None, None)
    family = _V1_FAMILIES.get(kind)
    if family is None:
        raise _wrong("the protocol is none of TCP4, TCP6 and UNKNOWN", line)
    if len(words) != 4:
        raise _wrong("a line has two addresses and two ports, each after one space", line)
    source, destination, *ports = words
    first, second = (_port(word, line) for word in ports)
    return Header(
        length,
        _sockaddr(_host(family, source, line), first),
        _sockaddr(_host(family, destination, line), second),
    )


def _host(family: int, word: bytes, line: bytes) -> str:
    """Return the usual form of a numeric address, as accept() returns it."""
    try:
        host = socket.inet_ntop(family, socket.inet_pton(family, word.decode("ascii")))
    except (OSError, ValueError):
        host = ""
    # IPv6 addresses have many forms, and IPv4 addresses only one: 010 may mean 8 or 10.
    if not host or (family == socket.AF_INET and host.encode() != word):
        raise _wrong(f"{_shown(word)} is no address of the protocol", line)
    return host


def _port(word: bytes, line: bytes) -> int:
    if not re.fullmatch(b"0|[1-9][0-9]{0,4}", word) or int(word) > 65535:
        raise _wrong(f"{_shown(word)} is no port from 0 to 65535", line)
    return int(word)


def _decode_v2(data: bytes | bytearray) -> Header | None:
    command = data[12] if len(data) > 12 else _PROXY
    if command not in (_LOCAL, _PROXY):
        raise _wrong(f"version and command are {command:#04x}, neither 0x20 nor 0x21", data)
    if len(data) < _FIXED:
        return None
    kind, size = data[13], int.from_bytes(data[14:_FIXED], "big")
    if size > MAX_BLOCK:
        raise _wrong(f"{size} bytes of addresses and extensions, more than {MAX_BLOCK}", data)
    length = _FIXED + size
    if len(data) < length:
        return None
    if command == _LOCAL:
        return Header(length, None, None)
    family, transport = divmod(kind, 16)
    if family > _UNIX or transport > 2:
        raise _wrong(f"family and protocol are {kind:#04x}, which is not valid", data)
    if not family or transport != _STREAM:  # unspecified, or of datagrams
        return Header(length, None, None)
    return Header(length, *_addresses(family, bytes(data[_FIXED:length]), data))


def _addresses(family: int, block: bytes, data: bytes | bytearray) -> tuple[Any, Any]:
    """Return source and destination from the block that begins with them."""
    number, size = _V2_FAMILIES.get(family, (None, _UNIX_PATH))
    needed = 2 * size + (0 if number is None else 4)
    if len(block) < needed:
        raise _wrong(f"{len(block)} bytes for addresses that take {needed}", data)
    source, destination = block[:size], block[size : 2 * size]
    if number is None:
        return _path(source), _path(destination)
    ports = block[2 * size : needed]
    return (
        _sockaddr(socket.inet_ntop(number, source), int.from_bytes(ports[:2], "big")),
        _sockaddr(socket.inet_ntop(number, destination), int.from_bytes(ports[2:], "big")),
    )


def _path(field: bytes) -> bytes:
    """Return the path in a field that zero bytes fill up; an abstract name begins with one."""
    name = field.rstrip(b"\0")
    return name if name.startswith(b"\0") else name.partition(b"\0")[0]


def _sockaddr(host: str, port: int) -> tuple[Any, ...]:
    return (host, port, 0, 0) if ":" in host else (host, port)


def header_v1(source: Address, destination: Address) -> bytes:
    """Return a header of version 1 for a client at `source` that has connected to `destination`.

    If these are not two addresses of TCP of one family, the header says UNKNOWN."""
    (family, host, port), (other, there, number) = _packed(source), _packed(destination)
    if family != other or not family:
        return b"PROXY UNKNOWN\r\n"
    kind = _V2_FAMILIES[family][0]
    hosts = f"{socket.inet_ntop(kind, host)} {socket.inet_ntop(kind, there)}"
    return f"PROXY TCP{4 if family == 1 else 6} {hosts} {port} {number}\r\n".encode("ascii")


def header_v2(source: Address, destination: Address) -> bytes:
    """Return a header of version 2 for a client at `source` that has connected to `destination`.

    If these are not two addresses of TCP of one family, it is local_v2(), which every receiver must
    accept. HAProxy 2.6 does the same, and resets a connection whose header has a path."""
    (family, host, port), (other, there, number) = _packed(source), _packed(destination)
    if family != other or not family:
        return local_v2()
    ports = port.to_bytes(2, "big") + number.to_bytes(2, "big")
    return _v2(_PROXY, family << 4 | _STREAM, host + there + ports)


def local_v2(*ends: Address) -> bytes:
    """Return a header of version 2 for a connection without a client, such as a health check.

    The two addresses are left out: the receiver takes those of the connection itself."""
    return _v2(_LOCAL, 0, b"")


# What a health check sends in place of the header of a client. Some receivers reject the UNKNOWN of
# version 1, so the specification wants the addresses of the check's own connection there.
FOR_CHECKS: dict[Encode, Encode] = {header_v1: header_v1, header_v2: local_v2}


def _v2(command: int, kind: int, block: bytes) -> bytes:
    return SIGNATURE + bytes((command, kind)) + len(block).to_bytes(2, "big") + block


def _packed(address: Address) -> tuple[int, bytes, int]:
    """Return the family in version 2, the address as bytes, and the port. 0: no address of TCP."""
    if isinstance(address, IPv4Address):
        return 1, socket.inet_pton(socket.AF_INET, address.host), address.port
    if not isinstance(address, IPv6Address):
        return 0, b"", 0
    packed = socket.inet_pton(socket.AF_INET6, address.host)
    if packed.startswith(_MAPPED):  # a client with IPv4, at a port that serves both families
        return 1, packed[len(_MAPPED) :], address.port
    return 2, packed, address.port


def _wrong(why: str, data: bytes | bytearray) -> ValueError:
    return ValueError(f"{why}; the peer has sent {_shown(data)}")


def _shown(data: bytes | bytearray) -> str:
    shown = repr(bytes(data[:_MAX_SHOWN]))[1:]
    return f"{shown}..." if len(data) > _MAX_SHOWN else shown
