"""A server behind a proxy: it reads a PROXY header before it serves the client."""

from __future__ import annotations

import gc
import logging
import random
import socket
from ipaddress import ip_network

import pytest
from proxy_support import end_of
from support import (
    OneFactory,
    Recorder,
    RecordingClientFactory,
    Watched,
    connect,
    iterations,
    next_timer,
    open_descriptors,
    pump,
    receive,
    reset,
)
from test_proxy_header import GOOD, V4, V6, mutated
from tls_support import Peer, make_certificates

from minireactor import Reactor
from minireactor.address import IPv4Address, UNIXAddress
from minireactor.error import ConnectionLost
from minireactor.log import WARN_SECONDS
from minireactor.protocol import Factory
from minireactor.serve import accept_proxy
from minireactor.serve.accept_proxy import HEADER_SECONDS, HeaderReader
from minireactor.serve.apps import Echo
from minireactor.serve.clients import ClientLimits
from minireactor.serve.server import Server
from minireactor.testing import Network
from minireactor.transports.tls_start import SecurePort

LOOPBACK = ip_network("127.0.0.0/8")
V1, V2 = GOOD["v1 TCP4"][0], GOOD["v2 TCP4"][0]
MEGABYTE = 1024 * 1024


@pytest.fixture
def start(reactor):
    """start(**options) returns a listening Server that reads headers. Its factory is `factory`."""

    def start(on=reactor, host="127.0.0.1", trusted=(LOOPBACK,), factory=None, **options):
        factory = OneFactory() if factory is None else factory
        server = Server(on, factory, headers=HeaderReader(trusted), **options)
        server.factory = factory
        server.address = server.listen(host, 0)
        return server

    return start


@pytest.fixture
def join(closing):
    """join(server, data=b"") returns a plain client that has sent `data`."""

    def join(server, data=b""):
        client = closing(connect(server.ports[0]))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if data:
            client.sendall(data)
        return client

    return join


def served(server, count=1):
    """Run until `count` protocols have been built; return the last one."""
    pump(server.reactor, lambda: len(server.factory.built) >= count, "the client")
    return server.factory.built[count - 1]


def waiting(server, count):
    pump(server.reactor, lambda: len(server.headers.waiting) == count, f"{count} that wait")


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# The header arrives, in any pieces.


@pytest.mark.parametrize("name", GOOD)
def test_the_client_in_the_header_is_the_peer(start, join, name):
    data, source, destination = GOOD[name]
    server = start()
    client = join(server, data + b"hello")
    protocol = served(server)
    pump(server.reactor, lambda: protocol.received == b"hello", "the bytes of the client")
    own = IPv4Address("TCP", *client.getsockname())
    assert protocol.transport.getPeer() == (own if source is None else source)
    assert protocol.transport.getHost() == (server.address if destination is None else destination)
    assert protocol.transport.bytes_in == 5


@pytest.mark.parametrize("data", [V1, V2])
def test_a_header_may_be_cut_anywhere(start, join, data):
    server = start()
    for cut in range(1, len(data)):
        client = join(server, data[:cut])
        waiting(server, 1)
        client.sendall(data[cut:] + b"hello")
        protocol = served(server, cut)
        pump(server.reactor, lambda p=protocol: p.received == b"hello", "the bytes of the client")
        assert protocol.transport.getPeer() == V4[0]
        client.close()
    assert server.rejected["--accept-proxy"] == 0


@pytest.mark.parametrize("data", [V1, V2, GOOD["v2 UNIX"][0]])
def test_a_header_may_come_byte_by_byte(start, join, data):
    server = start()
    client = join(server)
    waiting(server, 1)
    for byte in data:
        assert server.factory.built == []
        client.sendall(bytes((byte,)))
        iterations(server.reactor, 2)
    assert served(server).received == b""


def test_an_incomplete_header_leaves_the_loop_asleep(closing):
    poller = Watched()
    reactor = closing(Reactor(poller))
    server = Server(reactor, OneFactory(), headers=HeaderReader([LOOPBACK]))
    server.listen("127.0.0.1", 0)
    with connect(server.ports[0]) as client:
        client.sendall(V1[:-1])
        waiting(server, 1)
        pump(reactor, lambda: next(iter(server.headers.waiting))._received == V1[:-1], "the bytes")
        poller.returned.clear()
        iterations(reactor, 10)
        assert poller.returned == []


@pytest.mark.parametrize("data", [V1, V2])
def test_a_megabyte_may_follow_in_the_same_packet(start, join, data):
    server = start(factory=Factory.forProtocol(Echo))
    content = random.Random(1).randbytes(MEGABYTE)
    client = join(server)
    client.setblocking(False)
    sent = data + content
    while sent:
        try:
            sent = sent[client.send(sent) :]
        except BlockingIOError:
            break
    echoed = receive(server.reactor, client, MEGABYTE - len(sent))
    assert echoed == content[: len(echoed)]
    assert len(echoed) > 10_000


def test_a_client_may_end_its_side_right_after_the_header(start, join):
    server = start()
    join(server, V1 + b"all").shutdown(socket.SHUT_WR)
    protocol = served(server)
    pump(server.reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.received == b"all"
    assert server.rejected["--accept-proxy"] == 0


def test_a_reset_after_the_header_reaches_the_protocol(start, join):
    server = start()
    client = join(server, V1)
    protocol = served(server)
    reset(client)
    pump(server.reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.reason.check(ConnectionLost)


def test_tls_begins_after_the_header(start, join, tmp_path):
    certificates = make_certificates(tmp_path)
    server = start(factory=Factory.forProtocol(Echo), tls=SecurePort(certificates.server()))
    peer = Peer(join(server, V2), certificates.client()).shake_hands(server.reactor)
    peer.sendall(b"hello")
    (connection,) = server.connections
    assert connection.getPeer() == V4[0]
    pump(server.reactor, lambda: connection.bytes_out == 5, "the echo")
    assert peer.recv(5) == b"hello"


def test_ipv6_senders_and_clients(start, closing):
    server = start(host="::1", trusted=[ip_network("::1/128")])
    with socket.create_connection(("::1", server.address.port)) as client:
        client.sendall(GOOD["v1 TCP6"][0])
        assert served(server).transport.getPeer() == V6[0]


def test_everybody_at_a_unix_socket_is_trusted(reactor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = Server(reactor, OneFactory(), headers=HeaderReader())
    server.factory = server._admission._factory
    server.listen("unix:x.sock", 0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("x.sock")
        client.sendall(V1 + b"hello")
        protocol = served(server)
        pump(reactor, lambda: protocol.received == b"hello", "the bytes of the client")
        assert protocol.transport.getPeer() == V4[0]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("x.sock")
        client.sendall(GOOD["v2 LOCAL"][0])
        assert served(server, 2).transport.getPeer() == UNIXAddress(None)


@pytest.mark.parametrize("data", [V1, V2])
def test_a_header_arrives_over_a_network_that_splits_every_read(data):
    """The kernel may give less than it has shown before: only what it gives has left the socket."""

    class Sender(Recorder):
        def connectionMade(self):
            self.transport.write(data + b"hello")

    for seed in range(20):
        network = Network(seed)
        network.faults.set(short_send=0.8, short_read=0.8, again=0.3)
        factory = OneFactory()
        headers = HeaderReader([ip_network("0.0.0.0/0")])
        Server(network.host("server"), factory, headers=headers).listen("0.0.0.0", 80)
        network.host("client").connectTCP("server", 80, RecordingClientFactory(Sender()))
        network.run(3)
        (protocol,) = factory.built
        assert protocol.received == b"hello"
        assert protocol.transport.getPeer() == V4[0]
        network.close()


# The header does not arrive, or is wrong.


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", r"no PROXY header; the peer has sent 'GET / HTTP/1.1\r\n'"),
        (b"PROXY TCP4 1 2 3 4\r\n", "'1' is no address of the protocol"),
        (V2[:12] + b"\x31", "version and command are 0x31"),
    ],
)
def test_a_wrong_header_ends_the_connection(start, join, caplog, data, why):
    server = start()
    before = open_descriptors()
    client = join(server, data)
    end_of(server.reactor, client)
    assert why in warnings(caplog)[0]
    assert warnings(caplog)[0].startswith(
        f"no PROXY header from 127.0.0.1:{client.getsockname()[1]}: "
    )
    assert server.factory.built == []
    client.close()
    assert open_descriptors() == before


def test_a_connection_without_a_header_ends_after_some_seconds(time, timed, start, join, caplog):
    server = start(timed)
    client = join(server, V1[:20])
    waiting(server, 1)
    time.advance(HEADER_SECONDS - 0.01)
    iterations(timed)
    assert len(server.headers.waiting) == 1
    time.advance(0.02)
    assert end_of(timed, client) == (b"", "end")
    assert warnings(caplog) == [
        f"no PROXY header from 127.0.0.1:{client.getsockname()[1]}: it was not complete "
        "after 5 s, with 20 bytes (--accept-proxy): clients rejected so far: 1"
    ]
    assert not server.headers.waiting
    assert next_timer(timed) is None


def test_a_complete_header_stops_the_clock(time, timed, start, join, caplog):
    server = start(timed)
    client = join(server, V1[:20])
    waiting(server, 1)
    client.sendall(V1[20:])
    protocol = served(server)
    time.advance(10 * HEADER_SECONDS)
    iterations(timed)
    assert protocol.calls == ["made"]
    assert warnings(caplog) == []


@pytest.mark.parametrize("end", ["end", "reset"])
def test_an_end_in_the_middle_of_a_header_is_refused(start, join, caplog, end):
    server = start()
    client = join(server, V1[:20])
    waiting(server, 1)
    iterations(server.reactor)
    if end == "end":
        client.close()
    else:
        reset(client)
    waiting(server, 0)
    expected = "the peer has closed after 20 bytes" if end == "end" else "reset by peer"
    assert expected in warnings(caplog)[0]
    assert server.factory.built == []


def test_a_sender_that_is_not_trusted_is_closed(start, join, caplog):
    server = start(trusted=[ip_network("192.0.2.0/24"), ip_network("::/0")])
    client = join(server)
    end_of(server.reactor, client)
    assert warnings(caplog) == [
        f"127.0.0.1:{client.getsockname()[1]} may send no PROXY header (--trust): "
        "clients rejected so far: 1"
    ]
    assert server.factory.built == []


@pytest.mark.parametrize(
    ("address", "network", "is_trusted"),
    [
        (("10.1.2.3", 4), "10.0.0.0/8", True),
        (("11.1.2.3", 4), "10.0.0.0/8", False),
        (("::ffff:10.1.2.3", 4, 0, 0), "10.0.0.0/8", True),
        (("::ffff:11.1.2.3", 4, 0, 0), "10.0.0.0/8", False),
        (("fe80::1%eth0", 4, 0, 2), "fe80::/10", True),
        (("2001:db8::1", 4, 0, 0), "0.0.0.0/0", False),
        (b"/run/x.sock", "10.0.0.0/8", True),
        ("", "10.0.0.0/8", True),
    ],
)
def test_the_networks_decide_who_is_trusted(address, network, is_trusted):
    assert HeaderReader([ip_network(network)]).is_trusted(address) is is_trusted


def test_warnings_are_counted_and_not_repeated(time, timed, start, join, caplog):
    server = start(timed)
    for _ in range(20):
        end_of(timed, join(server, b"x"))
    time.advance(WARN_SECONDS)
    end_of(timed, join(server, b"x"))
    first, second = warnings(caplog)
    assert first.endswith(" (--accept-proxy): clients rejected so far: 1")
    assert second.endswith(" (--accept-proxy): clients rejected so far: 21")
    assert server.rejected["--accept-proxy"] == 21


# Limits and the end.


def test_connections_without_a_header_count_for_the_limit(start, join):
    server = start(max_connections=3)
    join(server, V1)
    served(server)
    late = [join(server, V1[:10]) for _ in range(2)]
    waiting(server, 2)
    assert end_of(server.reactor, join(server, V1)) == (b"", "end")
    assert server.rejected == {"--max-connections": 1}
    for client in late:
        client.sendall(V1[10:])
    served(server, 3)
    assert len(server.connections) == 3
    assert server.rejected == {"--max-connections": 1}


def test_limits_for_single_clients_hold_for_the_client_in_the_header(start, join):
    limits = ClientLimits(deny=[ip_network("2001:db8::/32")], most=1)
    server = start(clients=limits)
    join(server, V1)
    served(server)
    assert end_of(server.reactor, join(server, V1)) == (b"", "end")
    assert end_of(server.reactor, join(server, GOOD["v1 TCP6"][0])) == (b"", "end")
    assert server.rejected == {"--max-per-client": 1, "--deny": 1}
    join(server, V1.replace(b"192.0.2.1 ", b"192.0.2.2 "))
    assert served(server, 2).calls == ["made"]


def test_a_retired_server_waits_for_the_rest_of_a_header(start, join):
    stopped = []
    server = start(on_stopped=lambda: stopped.append(True))
    client = join(server, V1[:10])
    waiting(server, 1)
    server.retire(60)
    server.reactor.iterate(0)
    assert stopped == []
    client.sendall(V1[10:])
    assert served(server).calls == ["made"]
    client.close()
    pump(server.reactor, lambda: stopped)


def test_a_retired_server_ends_after_a_header_that_was_not_completed(start, join):
    stopped = []
    server = start(on_stopped=lambda: stopped.append(True))
    client = join(server, V1[:10])
    waiting(server, 1)
    server.retire(60)
    client.close()
    waiting(server, 0)
    assert stopped == [True]


def test_stop_ends_connections_without_a_header(start, join):
    stopped = []
    server = start(on_stopped=lambda: stopped.append(True))
    client = join(server, V1[:10])
    waiting(server, 1)
    server.stop(5)
    assert stopped == [True]
    assert end_of(server.reactor, client) == (b"", "end")
    assert server.rejected["--accept-proxy"] == 0
    assert next_timer(server.reactor) is None


def test_a_reactor_that_closes_closes_them_too(start, join):
    own = Reactor()
    server = start(own)
    before = open_descriptors()
    client = join(server, V1[:10])
    waiting(server, 1)
    own.close()
    assert not server.headers.waiting
    assert client.recv(1) == b""
    client.close()
    assert open_descriptors() < before


def test_a_factory_that_raises_ends_only_its_own_client(start, join, caplog):
    class Failing(OneFactory):
        def buildProtocol(self, addr):
            if not self.built:
                self.built.append(None)
                raise RuntimeError("not today")
            return super().buildProtocol(addr)

    server = start(factory=Failing())
    client = join(server, V1[:10])
    waiting(server, 1)
    client.sendall(V1[10:])
    assert end_of(server.reactor, client)[1] in ("end", "reset")
    join(server, V1)
    assert served(server, 2).calls == ["made"]


def test_many_senders_wait_and_all_arrive(start, closing):
    server = start()
    count = 200
    clients = [closing(connect(server.ports[0])) for _ in range(count)]
    for client in clients:
        client.sendall(V2[:13])
    waiting(server, count)
    for client in clients:
        client.sendall(V2[13:])
    served(server, count)
    assert not server.headers.waiting
    assert len(server.connections) == count


@pytest.mark.slow
def test_a_thousand_senders_that_never_finish_end_together(time, timed, start, closing):
    server = start(timed)
    before = open_descriptors()
    clients = [connect(server.ports[0]) for _ in range(1000)]
    for client in clients:
        client.sendall(V2[:13])
    waiting(server, 1000)
    time.advance(HEADER_SECONDS)
    waiting(server, 0)
    assert server.rejected["--accept-proxy"] == 1000
    for client in clients:
        client.close()
    iterations(timed)
    assert open_descriptors() == before
    assert next_timer(timed) is None


def send_damaged(server, seed, count):
    """Send damaged headers through socket pairs, as if they had been accepted."""
    chance = random.Random(seed)
    port = server.ports[0]
    for number in range(count):
        ours, theirs = socket.socketpair()
        data = mutated(chance)
        cut = chance.randrange(len(data) + 1)
        with theirs:
            theirs.sendall(data[:cut])
            port.serve(ours, (f"127.0.0.{number % 250 + 1}", 1), None)
            server.reactor.iterate(0)
            try:
                theirs.sendall(data[cut:])
            except (BrokenPipeError, ConnectionResetError):
                pass  # the server has refused the first part
            server.reactor.iterate(0)
    pump(server.reactor, lambda: not server.headers.waiting and not server.connections, "the end")


def check_damaged(server, caplog, seed, count):
    """Send damaged headers, and check that nothing is left of them."""
    caplog.set_level(logging.WARNING)
    gc.collect()
    before = open_descriptors()
    send_damaged(server, seed, count)
    gc.collect()
    assert open_descriptors() == before
    assert next_timer(server.reactor) is None
    assert all(text.startswith("no PROXY header from 127.0.0.") for text in warnings(caplog))
    assert server.rejected["--accept-proxy"] + server.totals().connections == count
    assert min(server.rejected["--accept-proxy"], server.totals().connections) > count / 100
    assert len(warnings(caplog)) < 20


def test_damaged_headers_leave_nothing_behind(start, caplog):
    check_damaged(start(), caplog, 3, 500)


@pytest.mark.slow
@pytest.mark.newest
def test_100_000_damaged_headers_leave_nothing_behind(start, caplog):
    check_damaged(start(), caplog, 4, 100_000)


def test_a_header_is_never_read_past_its_end(monkeypatch, start, join):
    sizes = []

    class Spy(accept_proxy.PendingHeader):
        def _serve_client(self, header):
            sizes.append((len(self._received), header.length))
            super()._serve_client(header)

    monkeypatch.setattr(accept_proxy, "PendingHeader", Spy)
    server = start()
    for data, _, _ in GOOD.values():
        join(server, data + data)
    for count in range(len(GOOD)):
        served(server, count + 1)
    assert [own for own, _ in sizes] == [length for _, length in sizes]
    for protocol, (length, _) in zip(server.factory.built, sizes):
        pump(server.reactor, lambda p=protocol, n=length: len(p.received) == n, "the second copy")
