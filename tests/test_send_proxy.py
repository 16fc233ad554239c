"""A proxy in front of targets that read PROXY headers, and the first bytes of a connector."""

from __future__ import annotations

import errno
import os
import random
import socket
import sys
from ipaddress import ip_network

import pytest
from proxy_support import MODES, exchange, is_quiet, listening, unused_number
from serve_support import read_all
from support import (
    PATIENCE,
    RecordingClientFactory,
    connect,
    drain,
    iterations,
    open_descriptors,
    pump,
    receive,
)
from test_proxy_header import GOOD
from tls_support import Peer, make_certificates

from minireactor import Reactor
from minireactor.address import IPv4Address
from minireactor.core.system import System
from minireactor.error import ConnectError, ConnectionRefusedError
from minireactor.proxy.factory import ProxyFactory
from minireactor.proxy.relay import Relay
from minireactor.serve.accept_proxy import HeaderReader
from minireactor.serve.proxy_header import decode, header_v1, header_v2
from minireactor.transports.tls_start import SecureConnector

LOOPBACK = [ip_network("127.0.0.0/8")]
writers = pytest.mark.parametrize("header", [header_v1, header_v2])


@pytest.fixture
def target(closing):
    """A plain listening socket."""
    listener = closing(listening())
    listener.settimeout(PATIENCE)
    return listener


@pytest.fixture
def start(reactor, target):
    """start(*places, **options) returns a listening Relay; its lines at the end are `lines`."""

    def start(*places, on=reactor, listen=("127.0.0.1", 0), **options):
        lines = []

        def note(event, proxy, detail):
            if event == "connectionLost":
                lines.append(str(proxy))

        relay = Relay(on, places or [target.getsockname()], on_event=note, **options)
        relay.lines = lines
        relay.address = relay.listen(*listen)
        return relay

    return start


@pytest.fixture
def join(closing):
    """join(relay, data=b"") returns a plain client that has sent `data`."""

    def join(relay, data=b""):
        client = closing(connect(relay.ports[0]))
        client.sendall(data)
        return client

    return join


@pytest.fixture
def accept(reactor, target, closing):
    """accept() runs the reactor until the target has a connection, and returns it."""

    def accept():
        found = []
        target.setblocking(False)

        def accepted():
            try:
                found.append(closing(target.accept()[0]))
            except BlockingIOError:
                return False
            return True

        pump(reactor, accepted, "a connection to the target")
        return found[0]

    return accept


@writers
def test_a_target_first_gets_the_addresses_of_the_client(reactor, start, join, accept, header):
    relay = start(header=header)
    client = join(relay)
    there = accept()
    expected = header(IPv4Address("TCP", *client.getsockname()), relay.address)
    assert receive(reactor, there, len(expected)) == expected
    iterations(reactor)
    assert is_quiet(there)


@writers
@pytest.mark.parametrize("mode", MODES)
def test_the_bytes_of_the_client_follow_and_are_counted_alone(
    reactor, start, join, accept, header, mode
):
    relay = start(header=header, **MODES[mode][0])
    client = join(relay, b"up")
    there = accept()
    expected = header(IPv4Address("TCP", *client.getsockname()), relay.address) + b"up"
    assert receive(reactor, there, len(expected)) == expected
    content = random.Random(2).randbytes(1 << 20)
    assert exchange(reactor, client, there, content) == content
    client.close()
    there.close()
    pump(reactor, lambda: relay.lines, "the end")
    assert f": {2 + (1 << 20)} bytes up, 0 down" in relay.lines[0]


def test_the_header_comes_before_tls_to_the_target(reactor, start, join, accept, tmp_path):
    certificates = make_certificates(tmp_path)
    secure = SecureConnector(certificates.client(), "localhost")
    relay = start(header=header_v2, target_tls=secure)
    client = join(relay, b"hello")
    there = accept()
    expected = header_v2(IPv4Address("TCP", *client.getsockname()), relay.address)
    assert receive(reactor, there, len(expected)) == expected
    peer = Peer(there, certificates.server(), server_side=True)
    peer.shake_hands(reactor)
    iterations(reactor)
    assert peer.recv(5) == b"hello"


@pytest.mark.parametrize("name", ["v1 TCP4", "v1 TCP6", "v2 TCP6"])
def test_a_client_that_came_with_a_header_is_passed_on(reactor, start, join, accept, name):
    data, source, destination = GOOD[name]
    relay = start(header=header_v2, headers=HeaderReader(LOOPBACK))
    join(relay, data + b"hello")
    expected = header_v2(source, destination) + b"hello"
    assert receive(reactor, accept(), len(expected)) == expected


def test_a_client_without_addresses_in_its_header_is_passed_on_as_it_is(
    reactor, start, join, accept
):
    relay = start(header=header_v1, headers=HeaderReader(LOOPBACK))
    client = join(relay, GOOD["v2 LOCAL"][0])
    expected = header_v1(IPv4Address("TCP", *client.getsockname()), relay.address)
    assert receive(reactor, accept(), len(expected)) == expected


def test_a_client_of_a_unix_socket(reactor, start, accept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start(header=header_v2, listen=("unix:x.sock", 0))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("x.sock")
        there = accept()
        expected = GOOD["v2 LOCAL"][0]
        assert receive(reactor, there, len(expected)) == expected


def test_a_target_at_a_unix_socket(reactor, start, join, closing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = closing(socket.socket(socket.AF_UNIX))
    target.bind("y.sock")
    target.listen()
    relay = start(("unix:y.sock", 0), header=header_v1)
    client = join(relay)
    expected = header_v1(IPv4Address("TCP", *client.getsockname()), relay.address)
    pump(reactor, lambda: relay._proxies and next(iter(relay._proxies.values())).target)
    assert receive(reactor, closing(target.accept()[0]), len(expected)) == expected


def test_a_proxy_for_programs_sends_a_header(reactor, target, closing, accept):
    factory = ProxyFactory("127.0.0.1", target.getsockname()[1], header=header_v1)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    expected = header_v1(IPv4Address("TCP", *client.getsockname()), port.getHost())
    assert receive(reactor, accept(), len(expected)) == expected


@writers
def test_a_proxy_that_is_its_own_target_is_detected_behind_headers(
    reactor, start, join, caplog, header
):
    number = unused_number()
    place = "127.0.0.1", number
    relay = start(place, listen=place, header=header, headers=HeaderReader(LOOPBACK))
    client = join(relay, GOOD["v1 TCP4"][0] + b"hello")
    assert drain(reactor, client) == b""
    client.close()
    pump(reactor, lambda: len(relay.lines) == 2, "the end of both")
    assert "is this proxy itself" in caplog.text
    assert relay.totals().connections == 2
    assert relay._relay_factory.loops._outgoing == {}


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2, which only Linux has")
def test_a_header_cannot_pretend_that_its_client_is_the_proxy_itself(reactor, start, join, closing):
    number = unused_number()
    target = closing(socket.create_server(("127.0.0.2", number)))
    target.settimeout(PATIENCE)
    headers = HeaderReader(LOOPBACK)
    relay = start(("127.0.0.2", number), listen=("127.0.0.1", number), headers=headers)
    join(relay, GOOD["v1 TCP4"][0])
    outgoing = relay._relay_factory.loops._outgoing
    pump(reactor, lambda: outgoing, "the detector's note of an outgoing socket")
    ((own, port),) = outgoing
    closing(target.accept()[0])
    ends = IPv4Address("TCP", own, port), IPv4Address("TCP", "127.0.0.2", number)
    join(relay, header_v1(*ends) + b"served")
    pump(reactor, lambda: len(outgoing) == 2, "the connection for the second client")
    assert receive(reactor, closing(target.accept()[0]), 6) == b"served"


# The first bytes of a connector.


class ShortSocket(socket.socket):
    """A socket whose first send() takes `most` bytes, or raises `error`."""

    most = 0
    error = None

    def send(self, data, *flags):
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return super().send(data[: self.most], *flags)


class ShortSystem(System):
    """Makes a socket of the class `kind` for the first connection, and plain ones after that."""

    def __init__(self, kind):
        self.kinds = [kind]

    def connecting_socket(self, family, kind, proto):
        return (self.kinds.pop() if self.kinds else socket.socket)(family, kind, proto)


class TakesTen(ShortSocket):
    most = 10


class Breaks(ShortSocket):
    error = errno.ECONNRESET


class IsFull(ShortSocket):
    error = errno.EAGAIN


def connecting(reactor, target, first_bytes):
    """Connect to `target` with first bytes. Return (factory, connector) once that has an end."""
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(*target.getsockname(), factory)
    connector.first_bytes = first_bytes
    pump(reactor, lambda: connector.state != "connecting", "the connection")
    return factory, connector


def test_first_bytes_are_sent_before_those_of_the_protocol_and_not_counted(
    reactor, target, closing
):
    factory, connector = connecting(reactor, target, lambda own, peer: f"{peer} ".encode())
    connector.transport.write(b"hello")
    connector.disconnect()
    pump(reactor, lambda: "lost" in factory.calls, "the end")
    received = read_all(closing(target.accept()[0]))
    assert received == f"{IPv4Address('TCP', *target.getsockname())} hello".encode()


def test_first_bytes_know_both_addresses(reactor, target, closing):
    seen = []
    factory, connector = connecting(reactor, target, lambda *ends: seen.append(ends) or b"x")
    transport = connector.transport
    assert seen == [(transport.getHost(), transport.getPeer())]
    assert transport.bytes_out == 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TakesTen, "the system took 10 of the first 13 bytes"),
        (Breaks, os.strerror(errno.ECONNRESET)),
        (IsFull, os.strerror(errno.EAGAIN)),
    ],
)
def test_first_bytes_that_cannot_be_sent_at_once_fail_the_attempt(target, closing, kind, message):
    reactor = closing(Reactor(system=ShortSystem(kind)))
    reactor.iterate(0)
    before = open_descriptors()
    factory, connector = connecting(reactor, target, lambda own, peer: b"thirteen byte")
    assert factory.calls[-2:] == ["failed", "stopFactory"]
    assert "build" not in factory.calls
    assert factory.reason.check(ConnectError)
    assert message in factory.reason.getErrorMessage()
    assert connector.state == "disconnected"
    assert open_descriptors() == before


def test_an_exception_of_first_bytes_fails_the_attempt(reactor, target):
    reactor.iterate(0)
    before = open_descriptors()
    factory, connector = connecting(reactor, target, lambda own, peer: 1 / 0)
    assert factory.calls[-2:] == ["failed", "stopFactory"]
    assert factory.reason.check(ZeroDivisionError)
    assert open_descriptors() == before


def test_a_connector_connects_again_after_its_first_bytes_have_failed(target, closing):
    reactor = closing(Reactor(system=ShortSystem(Breaks)))
    factory, connector = connecting(reactor, target, lambda own, peer: b"first")
    connector.connect()
    pump(reactor, lambda: connector.state == "connected", "the connection")
    closing(target.accept()[0])
    assert closing(target.accept()[0]).recv(5) == b"first"


@pytest.mark.parametrize("kind", [TakesTen, Breaks])
def test_a_target_that_does_not_take_the_header_is_followed_by_the_next(
    target, closing, start, join, kind
):
    reactor = closing(Reactor(system=ShortSystem(kind)))
    bad = closing(listening())
    relay = start(bad.getsockname(), target.getsockname(), on=reactor, header=header_v2)
    client = join(relay, b"hello")
    there = []

    def accepted():
        target.setblocking(False)
        try:
            there.append(closing(target.accept()[0]))
        except BlockingIOError:
            pass
        return there

    pump(reactor, accepted, "the next target")
    received = receive(reactor, there[0], 28 + 5)
    assert decode(received).source == client.getsockname()
    assert received.endswith(b"hello")


def test_a_target_that_refuses_is_no_matter_of_first_bytes(reactor):
    factory = RecordingClientFactory()
    connector = reactor.connectTCP("127.0.0.1", unused_number(), factory)
    connector.first_bytes = lambda own, peer: 1 / 0
    pump(reactor, lambda: "failed" in factory.calls, "the failure")
    assert factory.reason.check(ConnectionRefusedError)
