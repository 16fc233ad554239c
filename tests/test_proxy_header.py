"""The header of the PROXY protocol as bytes: what is accepted, refused and written."""

from __future__ import annotations

import random

import pytest

from minireactor.address import IPv4Address, IPv6Address, UNIXAddress, from_sockaddr
from minireactor.serve.proxy_header import (
    FOR_CHECKS,
    MAX_BLOCK,
    MAX_LINE,
    SIGNATURE,
    decode,
    header_v1,
    header_v2,
    local_v2,
)

V4 = IPv4Address("TCP", "192.0.2.1", 56324), IPv4Address("TCP", "192.0.2.11", 443)
V6 = IPv6Address("TCP", "2001:db8::1", 65535), IPv6Address("TCP", "2001:db8::b", 0)
PATHS = UNIXAddress(b"/run/client.sock"), UNIXAddress(b"\0abstract")


def v2(command, kind, block=b"", size=None):
    """Return a header of version 2 with these numbers, whether they are valid or not."""
    size = len(block) if size is None else size
    return SIGNATURE + bytes((command, kind)) + size.to_bytes(2, "big") + block


IPV4_BLOCK = bytes((192, 0, 2, 1, 192, 0, 2, 11)) + (56324).to_bytes(2, "big") + b"\x01\xbb"
IPV6_BLOCK = (
    bytes.fromhex("20010db8000000000000000000000001 20010db800000000000000000000000b")
    + b"\xff\xff\0\0"
)
UNIX_BLOCK = b"/run/client.sock".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0")
TLVS = b"\x04\0\x03abc\x01\0\x02h2"

# The headers of the specification: bytes, source, destination.
GOOD = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n", *V4),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::1 2001:db8::b 65535 0\r\n", *V6),
    "v1 TCP6 in capitals": (b"PROXY TCP6 2001:0DB8::0001 2001:DB8:0::B 65535 0\r\n", *V6),
    "v1 UNKNOWN, short": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 UNKNOWN with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, None),
    "v1 UNKNOWN, longest": (b"PROXY UNKNOWN ".ljust(MAX_LINE - 2, b"\xff") + b"\r\n", None, None),
    "v2 TCP4": (v2(0x21, 0x11, IPV4_BLOCK), *V4),
    "v2 TCP4 with extensions": (v2(0x21, 0x11, IPV4_BLOCK + TLVS), *V4),
    "v2 longest": (v2(0x21, 0x11, IPV4_BLOCK.ljust(MAX_BLOCK, b"\0")), *V4),
    "v2 TCP6": (v2(0x21, 0x21, IPV6_BLOCK), *V6),
    "v2 UNIX": (v2(0x21, 0x31, UNIX_BLOCK), *PATHS),
    "v2 UNIX without names": (v2(0x21, 0x31, bytes(216)), UNIXAddress(None), UNIXAddress(None)),
    "v2 LOCAL": (v2(0x20, 0x00), None, None),
    "v2 LOCAL with a block": (v2(0x20, 0xFF, b"anything"), None, None),
    "v2 UNSPEC": (v2(0x21, 0x00, TLVS), None, None),
    "v2 UDP4": (v2(0x21, 0x12, IPV4_BLOCK), None, None),
    "v2 UNIX datagram": (v2(0x21, 0x32, UNIX_BLOCK), None, None),
}
good = pytest.mark.parametrize("name", GOOD)


def decoded(data):
    """Return (length, source, destination), the addresses as objects."""
    header = decode(data)
    ends = (header.source, header.destination)
    return (header.length, *(None if end is None else from_sockaddr(end) for end in ends))


@good
def test_a_header_gives_the_addresses_of_its_client(name):
    data, source, destination = GOOD[name]
    assert decoded(data) == (len(data), source, destination)


@good
def test_bytes_after_a_header_belong_to_the_client(name):
    data, source, destination = GOOD[name]
    for after in (b"\r\n", b"PROXY TCP4", SIGNATURE, b"\0"):
        assert decoded(data + after) == (len(data), source, destination)


@good
def test_every_beginning_of_a_header_asks_for_more(name):
    data = GOOD[name][0]
    assert [decode(data[:cut]) for cut in range(len(data))] == [None] * len(data)


V1_LINE = b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n"


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (b"PROXY TCP4", b"proxy TCP4", "no PROXY header"),
        (b"PROXY TCP4", b"PROXY\tTCP4", "no PROXY header"),
        (b"TCP4", b"TCP5", "none of TCP4, TCP6 and UNKNOWN"),
        (b"TCP4", b"UNKNOWNX", "none of TCP4, TCP6 and UNKNOWN"),
        (b"TCP4", b"TCP6", "'192.0.2.1' is no address of the protocol"),
        (b"192.0.2.1 ", b"2001:db8::1 ", "'2001:db8::1' is no address of the protocol"),
        (b"192.0.2.1 ", b"192.0.2.01 ", "'192.0.2.01' is no address of the protocol"),
        (b"192.0.2.1 ", b"192.0.2 ", "'192.0.2' is no address of the protocol"),
        (b"192.0.2.11", b"192.0.2.256", "'192.0.2.256' is no address of the protocol"),
        (b"192.0.2.11", b"localhost", "'localhost' is no address of the protocol"),
        (b" 443", b" 65536", "'65536' is no port from 0 to 65535"),
        (b" 443", b" 0443", "'0443' is no port from 0 to 65535"),
        (b" 443", b" +443", "'+443' is no port from 0 to 65535"),
        (b" 443", b" -1", "'-1' is no port from 0 to 65535"),
        (b" 443", b" 44\xb2", r"'44\xb2' is no port from 0 to 65535"),
        (b" 443", b" ", "'' is no port from 0 to 65535"),
        (b" 443", b"", "two addresses and two ports"),
        (b" 443", b" 443 ", "two addresses and two ports"),
        (b" 443", b"  443", "two addresses and two ports"),
        (b" 443\r\n", b" 443\n", "no CRLF"),
        (b" 443\r\n", b" 443\r\r\n", r"'443\r' is no port"),
        (b" 443\r\n", b" 443 and so on".ljust(MAX_LINE, b"."), "no CRLF"),
        (b" 443\r\n", b" 443".ljust(MAX_LINE, b".") + b"\r\n", "no CRLF"),
    ],
)
def test_a_wrong_line_is_refused(before, after, why):
    assert before in V1_LINE
    with pytest.raises(ValueError) as error:
        decode(V1_LINE.replace(before, after))
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"G", "no PROXY header; the peer has sent 'G'"),
        (b"\r\n\r\n\0\r\nQUIX", "no PROXY header"),
        (SIGNATURE + b"\x11", "version and command are 0x11"),
        (SIGNATURE + b"\x31", "version and command are 0x31"),
        (SIGNATURE + b"\x22", "version and command are 0x22"),
        (v2(0x21, 0x41, bytes(216)), "family and protocol are 0x41"),
        (v2(0x21, 0x13, IPV4_BLOCK), "family and protocol are 0x13"),
        (v2(0x21, 0x11, IPV4_BLOCK[:-1]), "11 bytes for addresses that take 12"),
        (v2(0x21, 0x21, IPV6_BLOCK[:-1]), "35 bytes for addresses that take 36"),
        (v2(0x21, 0x31, UNIX_BLOCK[:-1]), "215 bytes for addresses that take 216"),
        (v2(0x21, 0x11, b"", MAX_BLOCK + 1), "4097 bytes of addresses and extensions"),
        (v2(0x20, 0x00, b"", 65535), "65535 bytes of addresses and extensions"),
    ],
)
def test_a_wrong_binary_header_is_refused(data, why):
    with pytest.raises(ValueError, match=why):
        decode(data)


def test_bytes_of_a_peer_are_shown_escaped_and_not_all_of_them():
    with pytest.raises(ValueError) as error:
        decode(b"\x1b[2J\n\xff" + b"x" * 1000)
    assert str(error.value).isprintable()
    assert r"'\x1b[2J\n\xffxxx" in str(error.value)
    assert len(str(error.value)) < 120


def test_a_path_ends_at_its_first_zero_byte():
    block = b"/run/a\0garbage".ljust(108, b"\0") + b"\0b\0c".ljust(108, b"\0")
    header = decode(v2(0x21, 0x31, block))
    assert (header.source, header.destination) == (b"/run/a", b"\0b\0c")


# Writing.

ENDS = {"IPv4": V4, "IPv6": V6}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("write", [header_v1, header_v2])
def test_a_written_header_says_the_same_when_it_is_read(write, name):
    data = write(*ENDS[name])
    assert decoded(data) == (len(data), *ENDS[name])


def test_the_headers_are_those_of_the_specification():
    assert header_v1(*V4) == GOOD["v1 TCP4"][0]
    assert header_v1(*V6) == GOOD["v1 TCP6"][0]
    assert header_v2(*V4) == GOOD["v2 TCP4"][0]
    assert header_v2(*V6) == GOOD["v2 TCP6"][0]


def test_a_health_check_speaks_for_no_client():
    assert FOR_CHECKS[header_v1](*V4) == header_v1(*V4)
    assert FOR_CHECKS[header_v2](*V4) == local_v2() == GOOD["v2 LOCAL"][0]


@pytest.mark.parametrize("ends", [PATHS, (V4[0], V6[1]), (V6[0], PATHS[1]), (PATHS[0], V4[1])])
def test_a_header_without_two_addresses_of_one_family_names_none(ends):
    assert header_v1(*ends) == b"PROXY UNKNOWN\r\n"
    assert header_v2(*ends) == v2(0x20, 0x00)


@pytest.mark.parametrize("write", [header_v1, header_v2])
def test_a_client_with_ipv4_at_a_port_for_both_families_is_written_as_ipv4(write):
    mapped = [IPv6Address("TCP", f"::ffff:{end.host}", end.port) for end in V4]
    assert write(*mapped) == write(*V4)


def test_the_scope_of_an_address_stays_out():
    ends = IPv6Address("TCP", "fe80::1", 1, 0, 2), IPv6Address("TCP", "fe80::2", 3, 0, 2)
    assert header_v1(*ends) == b"PROXY TCP6 fe80::1 fe80::2 1 3\r\n"


# Damaged headers.


def mutated(chance):
    """Return a good header after one to four damages."""
    data = bytearray(chance.choice(list(GOOD.values()))[0])
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data[place:place] = bytes((chance.randrange(256),))
        elif kind == 1:
            del data[place : place + chance.randint(1, 8)]
        elif kind == 2 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 3:
            data[place:place] = chance.choice(
                [b" ", b"\r\n", b"\0", b"PROXY ", b"65536", SIGNATURE]
            )
        else:
            other = chance.choice(list(GOOD.values()))[0]
            data[place:] = other[chance.randrange(len(other)) :]
    return bytes(data)


def outcome(data):
    """Return what decode() finds in `data`: a header, None, or "refused"."""
    try:
        return decode(data)
    except ValueError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 600
        return "refused"


def check_damaged(seed, count):
    """Decode damaged headers. Return how many had each outcome."""
    chance = random.Random(seed)
    seen = {"header": 0, "more": 0, "refused": 0}
    for _ in range(count):
        data = mutated(chance)
        found = outcome(data)
        if found is None:
            seen["more"] += 1
            assert len(data) < 16 + MAX_BLOCK
        elif found == "refused":
            seen["refused"] += 1
        else:
            seen["header"] += 1
            assert 15 <= found.length <= len(data)
            assert decode(data[: found.length]) == found
            for end in found[1:]:
                assert end is None or from_sockaddr(end) is not None
        # The outcome must not depend on how the bytes arrive.
        cut = chance.randrange(len(data) + 1)
        assert outcome(data[:cut]) in (None, found)
    return seen


def test_a_damaged_header_is_read_or_refused():
    seen = check_damaged(1, 3000)
    assert min(seen.values()) > 100


@pytest.mark.slow
@pytest.mark.newest
def test_100_000_damaged_headers_are_read_or_refused():
    seen = check_damaged(2, 100_000)
    assert min(seen.values()) > 3000
