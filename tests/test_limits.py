"""Rule T6: the marks also limit what the kernel buffers."""

from __future__ import annotations

import socket

import pytest
from support import OneFactory, Recorder, RecordingClientFactory, connect, pump, served

from minireactor.core.flow import HIGH
from minireactor.protocol import Factory
from minireactor.transports import kernel as queues
from minireactor.transports.kernel import (
    QUICK_SECONDS,
    QUICK_TIMES,
    SLOW_SECONDS,
    SMALLEST_LIMIT,
    UnsentLimit,
    limit_unsent,
    unsent_limit,
)

K = 1024

has_limit = pytest.mark.skipif(queues.NOTSENT_LOWAT is None, reason="the system has no such limit")


@pytest.fixture
def sock(closing):
    own = closing(socket.socket())
    limit_unsent(own, 128 * K)
    return own


@has_limit
def test_T6_an_accepted_connection_has_twice_the_high_mark(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    assert unsent_limit(protocol.transport.socket) == 2 * HIGH


@has_limit
def test_T6_so_has_one_that_a_connector_makes(reactor):
    port = reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")
    factory = RecordingClientFactory(Recorder())
    connector = reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
    connector.setWriteBufferLimits(32 * K)
    pump(reactor, lambda: connector.transport is not None)
    assert unsent_limit(connector.transport.socket) == 64 * K


@has_limit
@pytest.mark.parametrize(
    ("high", "limit", "expected"),
    [
        (32 * K, None, 64 * K),
        (10, None, SMALLEST_LIMIT),
        (32 * K, 500 * K, 500 * K),
        (32 * K, 0, 0),
        (32 * K, 2**40, 0),  # more than the option takes
        (2**40, None, 0),
    ],
)
def test_T6_a_port_gives_the_limit_to_later_connections(reactor, closing, high, limit, expected):
    factory = OneFactory()
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    port.setUnsentLimit(limit)
    port.setWriteBufferLimits(high)
    closing(connect(port))
    pump(reactor, lambda: factory.built)
    assert unsent_limit(factory.built[0].transport.socket) == expected


@has_limit
def test_T6_a_connection_with_new_marks_has_a_new_limit(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.setWriteBufferLimits(16 * K)
    assert unsent_limit(protocol.transport.socket) == 32 * K


@has_limit
def test_T6_new_marks_set_no_limit_where_there_is_to_be_none(reactor, closing):
    factory = OneFactory()
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    port.setUnsentLimit(0)
    closing(connect(port))
    pump(reactor, lambda: factory.built)
    factory.built[0].transport.setWriteBufferLimits(16 * K)
    assert unsent_limit(factory.built[0].transport.socket) == 0


@pytest.mark.parametrize("limit", [-1, "64K", 1.5])
def test_T6_a_limit_that_is_no_number_of_bytes_is_refused(reactor, limit):
    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    with pytest.raises(ValueError, match="limit="):
        port.setUnsentLimit(limit)


@has_limit
def test_T6_the_kernel_holds_little_for_a_peer_that_does_not_read(reactor, closing):
    """Without a limit, the kernel holds some 2.5 MB here, most of it in its send buffer."""
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.write(bytes(8 * K * K))
    pump(reactor, lambda: transport.writing)
    sent = -1
    while sent != transport.bytes_out:
        sent = transport.bytes_out
        reactor.iterate(0.01)
    in_kernel = queues.send_queue(transport)
    assert in_kernel < 1000 * K


@has_limit
def test_T6_a_peer_that_reads_fast_has_no_limit_and_gets_it_back_when_it_stalls(sock):
    unsent = UnsentLimit(sock)
    now = 100.0
    for _ in range(QUICK_TIMES):
        assert unsent_limit(sock) == 128 * K
        unsent.filled(now)
        now += QUICK_SECONDS / 2
        unsent.emptied(now)
    assert unsent_limit(sock) == 0
    unsent.filled(now)
    unsent.emptied(now + SLOW_SECONDS / 2)
    assert unsent_limit(sock) == 0
    unsent.filled(now)
    unsent.emptied(now + SLOW_SECONDS)
    assert unsent_limit(sock) == 128 * K


@has_limit
def test_T6_a_peer_that_is_sometimes_slow_keeps_the_limit(sock):
    unsent = UnsentLimit(sock)
    now = 100.0
    for _ in range(10):
        for wait in [QUICK_SECONDS / 2] * (QUICK_TIMES - 1) + [QUICK_SECONDS]:
            unsent.filled(now)
            now += wait
            unsent.emptied(now)
    assert unsent_limit(sock) == 128 * K


@has_limit
def test_T6_a_limit_of_the_system_itself_is_left_alone(closing):
    sock = closing(socket.socket())
    unsent = UnsentLimit(sock)
    unsent.change(64 * K)
    for _ in range(3 * QUICK_TIMES):
        unsent.filled(0.0)
        unsent.emptied(0.0)
    assert unsent_limit(sock) == 0


def test_T6_a_closed_socket_has_no_limit_and_takes_none():
    sock = socket.socket()
    sock.close()
    limit_unsent(sock, 64 * K)
    assert unsent_limit(sock) == 0


@has_limit
def test_T6_a_connection_knows_how_long_the_kernel_was_full(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.write(bytes(64 * K * K))
    client.setblocking(False)
    received = 0

    def read_fast():
        nonlocal received
        try:
            received += len(client.recv(K * K))
        except BlockingIOError:
            pass
        return unsent_limit(transport.socket) == 0

    pump(reactor, read_fast, "the limit to be lifted")
    assert received < 64 * K * K
