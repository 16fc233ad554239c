"""The count of the proxies before a connection, in the TTL of its first packet."""

from __future__ import annotations

import socket
import sys

import pytest

from minireactor.proxy import hops

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the system does not keep the first packet of a connection"
)


@pytest.fixture
def accepted(closing):
    """accepted(ttl, host) returns the accepted end of a connection made with that TTL."""

    def accepted(ttl=None, host="127.0.0.1", save=True):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = closing(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip(f"no {host} here")
        if save:
            hops.save_first_packets(listener)
        client = closing(socket.socket(family))
        if ttl is not None:
            hops.set_ttl(client, ttl, family == socket.AF_INET6)
        client.connect(listener.getsockname())
        return closing(listener.accept()[0])

    return accepted


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "ttl, following",
    [(None, 239), (1, 239), (64, 239), (128, 239), (239, 223), (191, 175), (176, 160)],
)
def test_each_proxy_takes_off_its_part(accepted, host, ttl, following):
    assert hops.next_ttl(accepted(ttl, host)) == following


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("ttl", [175, 160, 129])
def test_too_many_proxies_are_detected_also_behind_31_routers(accepted, host, ttl):
    assert hops.next_ttl(accepted(ttl, host)) is None


def test_an_ipv4_address_of_an_ipv6_socket_has_the_count_too(closing):
    listener = closing(socket.create_server(("127.0.0.1", 0)))
    hops.save_first_packets(listener)
    client = closing(socket.socket(socket.AF_INET6))
    hops.set_ttl(client, 191, True)
    try:
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
    except OSError:
        pytest.skip("no IPv6 here")
    assert hops.next_ttl(closing(listener.accept()[0])) == 175


def test_without_the_first_packet_it_counts_as_a_client(accepted, closing):
    assert hops.next_ttl(accepted(175, save=False)) == 239
    gone = accepted()
    gone.close()
    assert hops.next_ttl(gone) == 239
