"""Limits for single clients: who may connect, how often, and how fast new clients are accepted.

    limits = ClientLimits(deny=[ip_network("192.0.2.0/24")], most=10, rate=100)
    server = Server(reactor, factory, clients=limits)

A client is known by its address. With a PROXY header, that is the address in the header. Clients of
a UNIX socket have no address, and only the rate holds for them.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Union

from minireactor.address import unix_path
from minireactor.serve.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# An owner of IPv6 addresses has at least 2^64 of them, and may use another one each time.
IPV6_BITS = 64
BURST_SECONDS = 1.0  # an idle server accepts at once what the rate allows in this time
MIN_PAUSE = 1e-6  # seconds; less than that is a rounding error
# Results that are kept. A lookup in 100 networks takes some 50 us, in the cache less than 1 us.
MAX_CACHED = 10_000


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a peer, as networks contain it: without its scope, IPv4 as such."""
    address = ipaddress.ip_address(host.partition("%")[0])
    # A port that serves both IPv6 and IPv4 reports 127.0.0.1 as ::ffff:127.0.0.1.
    return getattr(address, "ipv4_mapped", None) or address


class _Client(NamedTuple):
    key: str  # what the connections of one client have in common
    refusal: Refusal | None


class ClientLimits:
    """Decides which clients may connect. Grammar of the calls for one client:

    refusal() [joined() left()]

    allow: networks whose clients may connect; with none, all may.
    deny: networks whose clients may not connect, even if `allow` contains them.
    most: how many connections one client may have at a time; None for no limit. All IPv6 addresses
        with the same first 64 bits are one client.
    rate: how many new connections all clients together may make in a second; None for no limit.

    Memory: one entry for each client that is connected, and MAX_CACHED results.
    """

    def __init__(
        self,
        allow: Iterable[Network] = (),
        deny: Iterable[Network] = (),
        most: int | None = None,
        rate: float | None = None,
    ) -> None:
        self._allow = list(allow)
        self._deny = list(deny)
        self._most = most
        self._rate = rate
        self._connected: dict[str, int] = {}  # by key
        self._used_until = float("-inf")
        self._client = lru_cache(MAX_CACHED)(self._examine)

    def _examine(self, host: str) -> _Client:
        if unix_path(host) is not None:
            return _Client("", None)
        address = ip_address(host)
        key = str(address)
        if address.version == 6:
            key = str(ipaddress.ip_network((address, IPV6_BITS), strict=False))
        if any(address in network for network in self._deny):
            return _Client(key, Refusal("--deny", f"{address} may not connect"))
        if self._allow and not any(address in network for network in self._allow):
            return _Client(key, Refusal("--allow", f"{address} is in no network that may connect"))
        return _Client(key, None)

    def refusal(self, host: str) -> Refusal | None:
        """Return why a client must not connect now; None if it may."""
        key, refusal = self._client(host)
        if refusal is not None or self._most is None or not key:
            return refusal
        if self._connected.get(key, 0) < self._most:
            return None
        count = "1 connection" if self._most == 1 else f"{self._most} connections"
        return Refusal("--max-per-client", f"{key} has {count}")

    def joined(self, host: str) -> None:
        """Count a connection of a client."""
        key = self._client(host).key
        self._connected[key] = self._connected.get(key, 0) + 1

    def left(self, host: str) -> None:
        """Count the end of a connection that joined() has counted."""
        key = self._client(host).key
        self._connected[key] -= 1
        if not self._connected[key]:
            del self._connected[key]

    def pause(self, now: float) -> float:
        """Count a new connection for the rate. Return for how many seconds to accept no other."""
        if self._rate is None:
            return 0.0
        # Each connection uses 1 / rate seconds. The time up to `now` can be used, but no more than
        # the last BURST_SECONDS.
        each = 1 / self._rate
        self._used_until = max(self._used_until, now - BURST_SECONDS) + each
        wait = self._used_until + each - now
        return wait if wait > MIN_PAUSE else 0.0
