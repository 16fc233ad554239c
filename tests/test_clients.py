"""Limits for single clients: addresses that may connect, connections of one client, the rate."""

from __future__ import annotations

import logging
import socket
from ipaddress import ip_network

import pytest
from support import connect, drain, iterations, pump, receive

from minireactor.protocol import Factory
from minireactor.serve import clients
from minireactor.serve.apps import Echo
from minireactor.serve.clients import ClientLimits
from minireactor.serve.server import Server

RATE = 4  # clients a second


def option_for(limits, host):
    """Return the option that refuses a client, or None."""
    refusal = limits.refusal(host)
    return refusal and refusal.option


@pytest.mark.parametrize(
    ("allow", "deny", "host", "option"),
    [
        ([], [], "192.0.2.1", None),
        (["10.0.0.0/8"], [], "10.1.2.3", None),
        (["10.0.0.0/8"], [], "11.1.2.3", "--allow"),
        (["10.0.0.0/8"], [], "::ffff:10.1.2.3", None),
        (["10.0.0.0/8"], [], "2001:db8::1", "--allow"),
        (["10.0.0.0/8", "2001:db8::/32"], [], "2001:db8::1", None),
        ([], ["10.0.0.0/8"], "10.1.2.3", "--deny"),
        ([], ["10.0.0.0/8"], "::ffff:10.1.2.3", "--deny"),
        ([], ["10.0.0.0/8"], "11.1.2.3", None),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.2.3", "--deny"),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.2.2.3", None),
        ([], ["fe80::/10"], "fe80::1%eth0", "--deny"),
        (["10.0.0.0/8"], ["0.0.0.0/0"], "unix:/run/x.sock", None),
    ],
)
def test_an_address_is_allowed_or_denied(allow, deny, host, option):
    limits = ClientLimits(map(ip_network, allow), map(ip_network, deny))
    assert option_for(limits, host) == option


def test_a_client_has_so_many_connections_at_a_time():
    limits = ClientLimits(most=2)
    for _ in range(2):
        assert limits.refusal("192.0.2.1") is None
        limits.joined("192.0.2.1")
    assert limits.refusal("192.0.2.1") == ("--max-per-client", "192.0.2.1 has 2 connections")
    assert limits.refusal("192.0.2.2") is None

    limits.left("192.0.2.1")

    assert limits.refusal("192.0.2.1") is None


def test_all_IPv6_addresses_with_the_same_first_64_bits_are_one_client():
    limits = ClientLimits(most=1)
    limits.joined("2001:db8::1")
    assert limits.refusal("2001:db8::2:3") == (
        "--max-per-client",
        "2001:db8::/64 has 1 connection",
    )
    assert limits.refusal("2001:db8:0:1::1") is None


def test_an_IPv4_client_is_the_same_on_a_port_for_IPv6():
    limits = ClientLimits(most=1)
    limits.joined("::ffff:192.0.2.1")
    assert option_for(limits, "192.0.2.1") == "--max-per-client"


def test_clients_of_a_UNIX_socket_have_no_limit_of_their_own():
    limits = ClientLimits(most=1)
    limits.joined("unix:")
    assert limits.refusal("unix:") is None


def test_clients_that_have_gone_take_no_memory(monkeypatch):
    monkeypatch.setattr(clients, "MAX_CACHED", 10)
    limits = ClientLimits(most=1)
    for number in range(1000):
        host = f"10.0.{number // 256}.{number % 256}"
        assert limits.refusal(host) is None
        limits.joined(host)
        limits.left(host)
    assert limits._connected == {}
    assert limits._client.cache_info().currsize == 10


def test_the_rate_lets_the_clients_of_one_second_connect_at_once():
    limits = ClientLimits(rate=RATE)
    assert [limits.pause(100.0) for _ in range(RATE)] == [0, 0, 0, 1 / RATE]


def test_after_the_pause_one_client_may_connect():
    limits = ClientLimits(rate=RATE)
    now = 100.0
    for _ in range(RATE):
        now += limits.pause(now)
    assert limits.pause(now) == pytest.approx(1 / RATE)


def test_an_idle_server_saves_up_no_more_than_the_clients_of_one_second():
    limits = ClientLimits(rate=RATE)
    limits.pause(100.0)
    assert [limits.pause(1000.0) for _ in range(RATE)] == [0, 0, 0, 1 / RATE]


def test_without_a_rate_there_is_no_pause():
    limits = ClientLimits()
    assert {limits.pause(100.0) for _ in range(1000)} == {0.0}


# In a server.


@pytest.fixture
def start():
    """start(reactor, **limits) returns an echo server with these ClientLimits."""

    def start(reactor, **limits):
        server = Server(reactor, Factory.forProtocol(Echo), clients=ClientLimits(**limits))
        server.listen("127.0.0.1", 0)
        return server

    return start


def test_a_client_that_is_denied_is_closed_and_counted(start, reactor, closing, caplog):
    server = start(reactor, deny=[ip_network("127.0.0.0/8")])
    with caplog.at_level(logging.WARNING, "minireactor"):
        for _ in range(3):
            assert drain(reactor, closing(connect(server.ports[0]))) == b""
    assert server.rejected == {"--deny": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "127.0.0.1 may not connect (--deny): clients rejected so far: 1"
    ]


def test_a_client_may_come_back_when_its_connection_has_ended(start, reactor, closing):
    server = start(reactor, most=1)
    first = closing(connect(server.ports[0]))
    pump(reactor, lambda: server.connections, "the first connection")
    assert drain(reactor, closing(connect(server.ports[0]))) == b""

    first.close()
    pump(reactor, lambda: not server.connections, "the end")

    second = closing(connect(server.ports[0]))
    second.sendall(b"hello")
    assert receive(reactor, second, 5) == b"hello"
    assert server.rejected == {"--max-per-client": 1}


def test_clients_above_the_rate_wait_and_are_served_later(start, time, timed, closing):
    server = start(timed, rate=2)
    waiting = [closing(connect(server.ports[0])) for _ in range(5)]
    pump(timed, lambda: len(server.connections) == 2, "the first two")
    iterations(timed, 20)
    assert len(server.connections) == 2

    for count in (3, 4, 5):
        time.advance(0.5)
        pump(timed, lambda count=count: len(server.connections) == count, "one more")
        iterations(timed, 20)
        assert len(server.connections) == count

    for client in waiting:
        client.sendall(b"hello")
        assert receive(timed, client, 5) == b"hello"
    assert server.rejected == {}


def test_the_rate_holds_for_all_places_together(start, time, timed, closing):
    server = start(timed, rate=1)
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [sock.getsockname() for sock in socks]
    server.listen("127.0.0.1", 0, sockets=socks)
    for address in addresses:
        closing(socket.create_connection(address))
    closing(connect(server.ports[0]))

    for count in (1, 2, 3):
        pump(timed, lambda count=count: len(server.connections) == count, "one more")
        iterations(timed, 20)
        assert len(server.connections) == count
        time.advance(1)


def test_a_server_that_stops_during_a_pause_does_not_accept_again(start, time, timed, closing):
    server = start(timed, rate=1)
    client = closing(connect(server.ports[0]))
    pump(timed, lambda: server.connections, "the connection")
    client.close()
    server.stop(grace=1)
    pump(timed, lambda: not server.connections, "the end")
    time.advance(10)
    iterations(timed, 20)
    assert timed.getReaders() == []
