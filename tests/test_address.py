"""minireactor.address: the two ends of a connection."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from minireactor.address import IPv4Address, IPv6Address, format_address, from_sockaddr, host_port

V4 = IPv4Address("TCP", "127.0.0.1", 80)
V6 = IPv6Address("TCP", "::1", 80)


def test_IPv4Address_has_type_host_port() -> None:
    assert (V4.type, V4.host, V4.port) == ("TCP", "127.0.0.1", 80)


def test_IPv6Address_has_flowInfo_and_scopeID_of_zero() -> None:
    assert (V6.type, V6.host, V6.port, V6.flowInfo, V6.scopeID) == ("TCP", "::1", 80, 0, 0)


def test_IPv6Address_takes_flowInfo_and_scopeID() -> None:
    address = IPv6Address("TCP", "fe80::1", 80, 5, "eth0")
    assert (address.flowInfo, address.scopeID) == (5, "eth0")


def test_arguments_may_be_given_by_name() -> None:
    assert IPv4Address(type="TCP", host="127.0.0.1", port=80) == V4
    assert IPv6Address(type="TCP", host="::1", port=80, flowInfo=0, scopeID=0) == V6


def test_repr_is_the_call_that_makes_it() -> None:
    assert repr(V4) == "IPv4Address(type='TCP', host='127.0.0.1', port=80)"
    assert repr(V6) == "IPv6Address(type='TCP', host='::1', port=80, flowInfo=0, scopeID=0)"


@pytest.mark.parametrize("kind", [IPv4Address, IPv6Address])
def test_equal_fields_make_equal_addresses_and_hashes(kind: Any) -> None:
    one, other = kind("TCP", "h", 1), kind("TCP", "h", 1)
    assert one == other and hash(one) == hash(other)
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    "other",
    [
        IPv4Address("UDP", "127.0.0.1", 80),
        IPv4Address("TCP", "127.0.0.2", 80),
        IPv4Address("TCP", "127.0.0.1", 81),
        IPv6Address("TCP", "127.0.0.1", 80),
        ("TCP", "127.0.0.1", 80),
    ],
)
def test_any_other_field_or_kind_makes_it_unequal(other: object) -> None:
    assert other != V4 and other != V4


@pytest.mark.parametrize("extra", [(1, 0), (0, 1)])
def test_IPv6_flowInfo_and_scopeID_count(extra: tuple[int, int]) -> None:
    assert IPv6Address("TCP", "::1", 80, *extra) != V6


def test_addresses_of_one_kind_sort() -> None:
    low, high = IPv4Address("TCP", "127.0.0.1", 2), IPv4Address("TCP", "127.0.0.1", 10)
    assert sorted([high, low]) == [low, high]
    assert low <= high and high >= low


def test_addresses_of_two_kinds_do_not_sort() -> None:
    with pytest.raises(TypeError):
        assert V4 < V6


@pytest.mark.parametrize("address", [V4, V6])
def test_an_address_has_no_dict(address: object) -> None:
    assert not hasattr(address, "__dict__")


@pytest.mark.parametrize("kind", [IPv4Address, IPv6Address])
def test_UDP_is_a_type(kind: Any) -> None:
    assert kind("UDP", "h", 1).type == "UDP"


@pytest.mark.parametrize("kind", [IPv4Address, IPv6Address])
def test_an_unknown_type_is_an_error_that_names_it(kind: Any) -> None:
    with pytest.raises(ValueError, match="'SCTP'.*'TCP'"):
        kind("SCTP", "h", 1)


def test_from_sockaddr_makes_IPv4_of_two_items() -> None:
    assert from_sockaddr(("127.0.0.1", 80)) == V4


def test_from_sockaddr_makes_IPv6_of_four_items() -> None:
    assert from_sockaddr(("::1", 80, 3, 0)) == IPv6Address("TCP", "::1", 80, 3, 0)


@pytest.mark.parametrize("host", ["fe80::1", "fe80::1%eth0", "fe80::1%2"])
def test_from_sockaddr_keeps_the_scope_in_scopeID_alone(host: str) -> None:
    assert from_sockaddr((host, 80, 0, 2)) == IPv6Address("TCP", "fe80::1", 80, 0, 2)


@pytest.mark.parametrize("sockaddr", [(), ("h",), ("h", 1, 2), ("h", 1, 2, 3, 4)])
def test_from_sockaddr_refuses_any_other_shape(sockaddr: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="2 or 4"):
        from_sockaddr(sockaddr)


@pytest.mark.parametrize(
    ("family", "host", "kind"),
    [(socket.AF_INET, "127.0.0.1", IPv4Address), (socket.AF_INET6, "::1", IPv6Address)],
)
def test_from_sockaddr_of_a_real_connection(family: int, host: str, kind: type) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError as error:
            pytest.skip(f"{host} is not there: {error}")
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            accepted, sockaddr = listener.accept()
            accepted.close()
            peer = from_sockaddr(sockaddr)
            assert peer == from_sockaddr(client.getsockname())
            assert (type(peer), peer.host, peer.port) == (kind, host, client.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("a.b", "a.b:80")]
)
def test_a_place_is_written_with_IPv6_in_brackets(host: str, text: str) -> None:
    assert host_port(host, 80) == text
    assert format_address(from_sockaddr((host, 80))) == text
