"""Count the proxies that a connection has come through, so that a ring of proxies comes to an end.

A proxy whose target leads back to the proxy itself, by way of other proxies, turns one client into
connections without end. No proxy of such a ring sees that from addresses. So each one hands a
count on, in a field that every packet has and no program looks at: the TTL (IPv6: hop limit).

    255 ... 160   the connection comes from a proxy; each proxy takes HOP off
    128 ... 1     it comes from a client: systems begin at 64 or 128

A target answers as before: what a proxy sends reaches farther than what other programs send.
Routers take one off each; from 160 on, 31 of them leave more than 128, so the count is not lost.

This needs Linux, which keeps the first packet of a connection on request. It does not see a ring
that passes a proxy of another kind: such a proxy begins anew at the system's own TTL.
"""

from __future__ import annotations

import contextlib
import socket
import sys

_CAN_SAVE = sys.platform == "linux"
_TCP = int(socket.IPPROTO_TCP)
_TCP_SAVE_SYN, _TCP_SAVED_SYN = 27, 28  # of linux/tcp.h; Python has no names for them
_IP_HEADERS = 128  # bytes: the TTL is among the first nine

_FIRST = 255  # the highest TTL
_FROM_CLIENT = 128  # the highest TTL that a system begins with by itself
HOP = 16  # what each proxy takes off: five proxies in a row work, and the sixth refuses
_LAST = 160


def save_first_packets(listening: socket.socket) -> None:
    """Have the system keep the first packet of each connection to come, where it can."""
    if _CAN_SAVE:
        with contextlib.suppress(OSError):
            listening.setsockopt(_TCP, _TCP_SAVE_SYN, 1)


def next_ttl(accepted: socket.socket) -> int | None:
    """Return the TTL for connections that are made on behalf of an accepted one.

    None: it has come through too many proxies."""
    ttl = _ttl_of(accepted) if _CAN_SAVE else 0
    if ttl <= _FROM_CLIENT:
        return _FIRST - HOP
    return ttl - HOP if ttl - HOP >= _LAST else None


def _ttl_of(accepted: socket.socket) -> int:
    """Return the TTL of its first packet, or 0 where the system has not kept that."""
    try:
        packet = accepted.getsockopt(_TCP, _TCP_SAVED_SYN, _IP_HEADERS)
    except OSError:  # it is closed
        return 0
    if len(packet) <= 8:
        return 0
    return packet[8] if packet[0] >> 4 == 4 else packet[7]


def set_ttl(sock: socket.socket, ttl: int, is_ipv6: bool) -> None:
    """Send the packets of a socket that is not connected yet with that TTL."""
    try:
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        # An IPv6 socket sends IPv4 packets to an address such as ::ffff:192.0.2.1.
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    except OSError:
        pass  # a ring is not found then
