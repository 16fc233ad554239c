"""Count the proxies that a connection has passed, so that a ring of proxies comes to an end.

In a ring, the target of a proxy leads back to the same proxy through other proxies. One client
then causes connections without end. No proxy of the ring can detect this from addresses, so each
one passes a count on. The count is in a field that every packet has and no program reads: the TTL
(IPv6: hop limit).

    255 ... 160   the connection comes from a proxy; each proxy subtracts HOP
    128 ... 1     the connection comes from a client: systems start at 64 or 128

A target is reached as before: packets with a TTL above 128 reach farther than those of other
programs. Each router on the way subtracts one. With the lowest count, 160, a packet may pass 31
routers and still arrive with more than 128, so the count is not lost.

This needs Linux, which keeps the first packet of a connection on request. A ring through a proxy
of another kind is not detected: such a proxy starts again with the system's own TTL.
"""

from __future__ import annotations

import contextlib
import socket
import sys

_CAN_SAVE = sys.platform == "linux"
_TCP = int(socket.IPPROTO_TCP)
_TCP_SAVE_SYN, _TCP_SAVED_SYN = 27, 28  # from linux/tcp.h; Python has no names for them
_IP_HEADERS = 128  # bytes to ask for; the TTL is among the first nine

_FIRST = 255  # the highest TTL
_FROM_CLIENT = 128  # the highest TTL that a system starts with by itself
HOP = 16  # what each proxy subtracts: five proxies in a row work, and the sixth refuses
_LAST = 160


def save_first_packets(listening: socket.socket) -> None:
    """Have the system keep the first packet of each new connection, if it can."""
    if _CAN_SAVE:
        with contextlib.suppress(OSError):
            listening.setsockopt(_TCP, _TCP_SAVE_SYN, 1)


def next_ttl(accepted: socket.socket) -> int | None:
    """Return the TTL for connections to targets on behalf of an accepted connection.

    Returns None if the accepted connection has passed too many proxies."""
    ttl = _ttl_of(accepted) if _CAN_SAVE else 0
    if ttl <= _FROM_CLIENT:
        return _FIRST - HOP
    return ttl - HOP if ttl - HOP >= _LAST else None


def _ttl_of(accepted: socket.socket) -> int:
    """Return the TTL of the first packet, or 0 if the system has not kept that packet."""
    try:
        packet = accepted.getsockopt(_TCP, _TCP_SAVED_SYN, _IP_HEADERS)
    except OSError:  # the socket is closed
        return 0
    if len(packet) <= 8:
        return 0
    return packet[8] if packet[0] >> 4 == 4 else packet[7]


def set_ttl(sock: socket.socket, ttl: int, is_ipv6: bool) -> None:
    """Set the TTL of all packets of a socket that is not connected yet."""
    try:
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        # An IPv6 socket sends IPv4 packets to an address such as ::ffff:192.0.2.1.
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    except OSError:
        pass  # then a ring is not detected
