"""Parsing of HTTP requests: from the bytes of a head to a Request, or to an HTTPError.

Parsing is strict: names are tokens, and there is at most one Host and one Content-Length.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD = 8 * 1024  # bytes of request line and headers; browsers send about 1 KiB
MAX_BODY = 64 * 1024  # bytes

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_HEADER = re.compile(rf"({_TOKEN}):([^\x00-\x08\x0a-\x1f\x7f]*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/?#@\s,]*)(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(r"(?i:http)://([^/?#@]+)((?:[/?].*)?)")


class HTTPError(Exception):
    """An error that becomes the answer: a status, and the reason in one line.

    Handlers may raise it, too. Further arguments are headers of the answer."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Request:
    """A complete request.

    method: as sent.
    path, query: as sent, not decoded; query is "" if there is none; path is "*" for OPTIONS *.
    headers: {lower-case name: value}; the values of a repeated name are joined by ", ".
    body: bytes.
    """

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(self, method: str, target: str, headers: dict[str, str]) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = b""

    @property
    def host(self) -> str:
        """Return the name or address in Host, in lower case; "" without a Host.

        The port and the dot that may end a full name are left out. Raises HTTPError if Host
        contains anything else."""
        name = self._host()[1].lower()
        return name[:-1] if name.endswith(".") and name != "." else name

    @property
    def port(self) -> int:
        """Return the port number in Host, or 80 if there is none. Raises HTTPError as `host`."""
        return int(self._host()[2] or 80)

    def _host(self) -> re.Match[str]:
        match = _HOST.fullmatch(self.headers.get("host", ""))
        if match is None:
            raise HTTPError(400, "Host must be a name or an address, and may have a port")
        return match


def parse_head(head: bytes) -> Request:
    """Return the request with this head. Raises HTTPError if the head is invalid.

    head: the request line and the headers, without the empty line after them."""
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise HTTPError(400, "the first line must look like: GET / HTTP/1.1")
    method, target, version = match[1], match[2], (int(match[3]), int(match[4]))
    if version[0] != 1:
        raise HTTPError(505, "use HTTP/1.1")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        target = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    elif not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise HTTPError(400, "the target must begin with a slash, or with http://")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise HTTPError(400, "each header must look like: Name: value")
        name, value = match[1].lower(), match[2].strip(" \t")
        if name in headers:
            if name in ("host", "content-length"):
                raise HTTPError(400, f"send {match[1]} only once")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    if version >= (1, 1) and "host" not in headers:
        raise HTTPError(400, "HTTP/1.1 needs a Host header")
    if absolute is not None:
        headers["host"] = absolute[1]  # takes precedence over Host (RFC 9112, 3.2.2)
    return Request(method, target, headers)


def body_length(headers: Mapping[str, str]) -> int:
    """Return the length of the body in bytes. Raises HTTPError if it is unclear or too large."""
    if "transfer-encoding" in headers:
        raise HTTPError(501, "send the body in one piece, with Content-Length")
    if "expect" in headers:
        raise HTTPError(417, "send the request without Expect")
    length = headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise HTTPError(400, "Content-Length must be a number of bytes")
    if int(length) > MAX_BODY:
        raise HTTPError(413, f"a body has at most {MAX_BODY} bytes")
    return int(length)


def is_local(host: str) -> bool:
    """Return whether `host` is localhost or a numeric address, which no DNS can redirect."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.inet_pton(family, host.strip("[]"))
    except (OSError, ValueError):
        return False
    return True
