"""TLS: its own rules, by name; hostile peers; and the programs curl, openssl and socat as peers.

test_tls_rules.py runs the rules of every connection on TLS.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
import warnings
from pathlib import Path

import pytest
from support import (
    HalfCloseable,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    connect,
    drain,
    iterations,
    next_timer,
    output,
    pump,
    receive,
    served,
)
from tls_support import Peer, tls_served

from minireactor import Reactor
from minireactor.basic import LineReceiver
from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost, FileEnded
from minireactor.testing import StrictPullProducer, StrictPushProducer
from minireactor.transports import tls, tls_session
from minireactor.transports.tls_session import Session

K = 1024

ALERT = "" if sys.implementation.name == "pypy" else "alert."  # PyPy names its own error


class Greeting(Recorder):
    """Writes a greeting before the handshake, and records the end of the handshake."""

    def connectionMade(self):
        super().connectionMade()
        self.transport.write(b"hello")

    def handshakeCompleted(self):
        self.calls.append("handshake")


@pytest.fixture
def port(reactor, certificates):
    """A function that listens for TLS with a protocol, and returns the port."""

    def listen(*protocols, context=None):
        return reactor.listenSSL(
            0, OneFactory(*protocols), context or certificates.server(), interface="127.0.0.1"
        )

    return listen


def connected(reactor, port, context, protocol=None, **options):
    """Return the protocol of a new client of a port; connectSSL has just been called."""
    factory = RecordingClientFactory(protocol)
    number = port.getHost().port
    reactor.connectSSL("localhost", number, factory, context, **options)
    pump(reactor, lambda: factory.connection is not None, "the connection")
    factory.connection.factory = factory
    return factory.connection


def reason_of(reactor, protocol):
    pump(reactor, lambda: protocol.reason is not None, "the end of the connection")
    return protocol.reason.getErrorMessage()


def is_over(protocol):
    """Return whether the handshake of a protocol's connection is complete."""
    return protocol.transport is not None and protocol.transport._session.established


# --- TLS1: pending and the marks


def test_TLS1_bytes_that_wait_for_the_handshake_are_pending(reactor, port, closing):
    protocol = Recorder()
    closing(connect(port(protocol)))  # a client that says nothing
    pump(reactor, lambda: protocol.transport is not None, "the connection")
    producer = StrictPushProducer(protocol.transport)
    protocol.transport.registerProducer(producer, True)
    producer.write(b"x" * 64 * K)
    assert (protocol.transport.pending, producer.state) == (64 * K, "flowing")
    producer.write(b"x")
    assert (protocol.transport.pending, producer.state) == (64 * K + 1, "paused")
    iterations(reactor)
    assert protocol.transport.pending == 64 * K + 1


@pytest.mark.slow
def test_TLS1_pending_is_the_sum_of_plain_and_encrypted_bytes(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    transport = protocol.transport
    transport.write(b"x" * 4_000_000)
    pump(reactor, lambda: transport._session.ready > 0, "a kernel that takes no more")
    iterations(reactor, 50)
    ready = transport._session.ready
    plain = len(transport._buffer) - ready
    assert transport.pending == ready + plain
    assert 0 < ready <= tls.LARGEST_PORTION + 2 * K * 10
    assert transport.bytes_out + plain <= 4_000_000 <= transport.bytes_out + plain + ready
    assert receive(reactor, peer, 4_000_000) == b"x" * 4_000_000
    assert (transport.bytes_out, transport.pending) == (4_000_000, 0)


@pytest.mark.parametrize("kind", [StrictPushProducer, StrictPullProducer])
def test_TLS1_a_producer_is_called_as_on_any_connection(reactor, certificates, closing, kind):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    producer = kind(protocol.transport, [b"y" * 5000] * 400)
    producer.start()
    protocol.transport.loseConnection()
    assert drain(reactor, peer) == b"y" * 2_000_000
    producer.check()
    assert len(producer.calls) > 10
    assert protocol.transport is None or protocol.transport.highest_pending < 64 * K + 6000


# --- TLS2: the handshake and what is written before its end


def test_TLS2_connectionMade_comes_first_and_what_it_writes_arrives(reactor, port, certificates):
    server = Greeting()
    client = connected(reactor, port(server), certificates.client(), Greeting())
    pump(reactor, lambda: client.received == server.received == b"hello", "both greetings")
    assert client.calls == server.calls == ["made", "handshake", "data"]


def test_TLS2_the_certificate_and_the_protocol_of_ALPN_can_be_read(reactor, port, certificates):
    context, server = certificates.server(), Greeting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    there = certificates.client()
    there.set_alpn_protocols(["http/1.1"])
    client = connected(reactor, port(server, context=context), there, Greeting())
    assert client.transport.getPeerCertificate() is None
    assert client.transport.negotiatedProtocol is None
    pump(reactor, lambda: client.received and server.received, "both greetings")
    assert client.transport.getPeerCertificate()["subject"] == ((("commonName", "first"),),)
    assert ssl.DER_cert_to_PEM_cert(client.transport.getPeerCertificate(True)).startswith("-----")
    assert server.transport.getPeerCertificate() is None
    assert client.transport.negotiatedProtocol == b"http/1.1"
    assert server.transport.negotiatedProtocol == b"http/1.1"


def test_TLS2_an_exception_in_handshakeCompleted_ends_the_connection(reactor, port, certificates):
    class Fails(Recorder):
        def handshakeCompleted(self):
            raise ValueError("on purpose")

    server = Fails()
    connected(reactor, port(server), certificates.client())
    assert reason_of(reactor, server) == "on purpose"


def test_TLS2_a_client_certificate_reaches_the_server(reactor, port, certificates):
    context, server = certificates.server(verify_mode=ssl.CERT_REQUIRED), Greeting()
    context.load_verify_locations(certificates.other_cert)
    there = certificates.client()
    there.load_cert_chain(certificates.other_cert, certificates.other_key)
    client = connected(reactor, port(server, context=context), there, Greeting())
    pump(reactor, lambda: client.received and server.received, "both greetings")
    assert server.transport.getPeerCertificate()["subject"] == ((("commonName", "other"),),)


# --- TLS3: reading and pausing


class OneAtATime(Recorder):
    def __init__(self):
        super().__init__()
        self.chunks = []

    def dataReceived(self, data):
        super().dataReceived(data)
        self.chunks.append(data)
        self.transport.pauseProducing()


def test_TLS3_a_pause_holds_back_records_that_have_been_read(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates, OneAtATime())
    closing(peer)
    for text in (b"one", b"two", b"three"):
        peer.ssl.write(text)
    peer.flush()  # three records in one segment
    pump(reactor, lambda: protocol.chunks)
    for count in (1, 2, 3):
        iterations(reactor)
        assert len(protocol.chunks) == count
        protocol.transport.resumeProducing()
    assert protocol.chunks == [b"one", b"two", b"three"]


def test_TLS3_a_pause_holds_back_close_notify_too(reactor, certificates):
    protocol, peer = tls_served(reactor, certificates, OneAtATime())
    peer.ssl.write(b"last words")
    peer.close()
    pump(reactor, lambda: protocol.chunks)
    iterations(reactor)
    assert protocol.reason is None
    protocol.transport.resumeProducing()
    reason_of(reactor, protocol)
    assert protocol.reason.check(ConnectionDone)


def test_TLS3_the_handshake_goes_on_while_the_program_pauses(reactor, port, certificates, closing):
    class Pauses(Greeting):
        def connectionMade(self):
            super().connectionMade()
            self.transport.pauseProducing()

    server = Pauses()
    peer = Peer(closing(connect(port(server))), certificates.client()).shake_hands(reactor)
    assert receive(reactor, peer, 5) == b"hello"
    peer.sendall(b"a" * 100_000)
    iterations(reactor, 20)
    assert (bytes(server.received), server.transport.reading) == (b"", False)
    server.transport.resumeProducing()
    pump(reactor, lambda: len(server.received) == 100_000, "the bytes")


def test_TLS3_a_program_that_pauses_and_resumes_reads_no_more_than_it_can_hold(
    reactor,
    certificates,
    closing,
):
    protocol, peer = tls_served(reactor, certificates, OneAtATime())
    closing(peer)
    peer.setblocking(False)
    for _ in range(400):
        try:
            peer.sendall(b"b" * 16_000)
        except BlockingIOError:
            break
    largest = 0
    for _ in range(60):
        protocol.transport.resumeProducing()
        reactor.iterate(0)
        largest = max(largest, protocol.transport._session.incoming.pending)
    assert 0 < largest <= 300 * K
    assert len(protocol.chunks) > 20


# --- TLS4: the limits of a handshake


def test_TLS4_a_handshake_has_thirty_seconds(clock, certificates):
    reactor = Reactor(seconds=clock.seconds)
    try:
        server = Recorder()
        port = reactor.listenSSL(
            0, OneFactory(server), certificates.server(), interface="127.0.0.1"
        )
        with connect(port):
            pump(reactor, lambda: server.transport is not None)
            iterations(reactor)
            clock.advance(29.9)
            iterations(reactor)
            assert server.reason is None
            clock.advance(0.2)
            assert "handshake has taken more than 30 seconds" in reason_of(reactor, server)
    finally:
        reactor.close()


def test_TLS4_no_timer_is_left_after_the_handshake(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    pump(reactor, lambda: is_over(protocol))
    assert next_timer(reactor) is None


def test_TLS4_a_handshake_has_a_bound_on_its_bytes(certificates):
    session = Session(certificates.server(), True, None)
    with pytest.raises(ConnectionLost, match="more than 262144 bytes for the TLS handshake"):
        for _ in range(300):
            session.feed(bytes(K))
    assert session.incoming.pending <= 256 * K


# --- TLS5: a peer that breaks the rules of TLS


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the peer speaks plain HTTP, not TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak TLS: its first bytes are b'SSH-2.0-OpenSSH_'"),
        (bytes(64), "does not speak TLS: its first bytes are b'\\x00"),
        (b"\x16\x03\x01\xff\xff" + bytes(64), "record above the largest size"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "TLS with the peer has failed: unexpected message"),
    ],
    ids=["http", "ssh", "zeros", "too long", "alert"],
)
def test_TLS5_the_reason_says_what_the_peer_did(reactor, port, first, why):
    server = Recorder()
    with connect(port(server)) as client:
        client.sendall(first)
        assert why in reason_of(reactor, server)
        assert server.reason.check(ConnectionLost) and not server.reason.check(ConnectionAborted)
        answer = drain(reactor, client)
    assert answer[:1] == b"\x15", "no alert"
    assert server.calls == ["made", "lost"]


def test_TLS5_a_client_of_a_plain_server_says_so(reactor, closing):
    server = Greeting()
    client = connected(reactor, reactor.listenTCP(0, OneFactory(server)), None)
    assert "does not speak TLS: its first bytes are b'hello" in reason_of(reactor, client)
    pump(reactor, lambda: client.factory.calls[-2:] == ["lost", "stopFactory"])


def test_TLS5_a_record_that_was_changed_is_named(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    peer.ssl.write(b"text")
    record = bytearray(peer.outgoing.read())
    record[-1] ^= 1
    peer.sock.sendall(record)
    assert "a TLS record that was damaged or is not genuine" in reason_of(reactor, protocol)
    assert "data" not in protocol.calls
    with pytest.raises(ssl.SSLError, match=f"(?i){ALERT}bad.record.mac"):
        drain(reactor, peer)


def test_TLS5_the_peer_may_leave_in_the_middle_of_the_handshake(reactor, port):
    server = Recorder()
    with connect(port(server)) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01")
    assert "before the end of the TLS handshake" in reason_of(reactor, server)


# --- TLS6 to TLS9: endings


def test_TLS6_a_close_sends_what_is_pending_then_close_notify_then_the_end(
    reactor,
    certificates,
    closing,
):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    protocol.transport.write(b"z" * 300_000)
    protocol.transport.loseConnection()
    assert drain(reactor, peer) == b"z" * 300_000  # close_notify
    peer.setblocking(True)
    assert peer.sock.recv(1) == b""
    assert protocol.reason.check(ConnectionDone)


def test_TLS6_a_close_during_the_handshake_waits_for_it_if_bytes_are_pending(
    reactor,
    port,
    certificates,
    closing,
):
    class Says(Recorder):
        def connectionMade(self):
            super().connectionMade()
            self.transport.write(b"all of it")
            self.transport.loseConnection()

    server = Says()
    peer = Peer(closing(connect(port(server))), certificates.client())
    pump(reactor, lambda: server.transport is not None)
    iterations(reactor)
    assert server.reason is None
    peer.shake_hands(reactor)
    peer.sendall(b"nobody reads this")
    assert drain(reactor, peer) == b"all of it"
    pump(reactor, lambda: server.reason is not None)
    assert (server.calls, bytes(server.received)) == (["made", "lost"], b"")


def test_TLS6_a_close_during_the_handshake_is_at_once_if_nothing_is_pending(reactor, port):
    server = Recorder()
    with connect(port(server)) as client:
        pump(reactor, lambda: server.transport is not None)
        server.transport.loseConnection()
        assert drain(reactor, client) == b""
    assert server.reason.check(ConnectionDone)


def test_TLS6_what_is_written_behind_close_notify_never_leaves_in_the_clear(
    reactor,
    certificates,
    closing,
):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    transport = protocol.transport
    transport.write(b"s" * 6_000_000)
    transport.loseConnection()
    pump(reactor, lambda: transport._session.ready > 0)

    def write_on():
        if transport.connected:
            transport.write(b"SECRET" * 1000)
            reactor.call_soon(write_on)

    pump(reactor, lambda: len(transport._buffer) < 6_000_000)
    write_on()
    received = bytearray()
    peer.setblocking(False)

    def ended():
        try:
            data = peer.sock.recv(1 << 18)
        except BlockingIOError:
            return False
        received.extend(data)
        return not data or len(received) > 30_000_000

    pump(reactor, ended)
    assert len(received) > 6_000_000 and b"SECRET" not in received
    transport.abortConnection()


def test_C1_of_four_megabytes_all_arrive_though_input_was_not_read(reactor, certificates, closing):
    check_that_all_arrives(reactor, certificates, closing, 1)


@pytest.mark.slow
def test_C1_of_four_megabytes_all_arrive_fifty_times(reactor, certificates, closing):
    check_that_all_arrives(reactor, certificates, closing, 50)


def check_that_all_arrives(reactor, certificates, closing, times):
    for _ in range(times):
        protocol, peer = tls_served(reactor, certificates)
        closing(peer)
        protocol.transport.pauseProducing()
        peer.sendall(b"u" * 50_000)
        iterations(reactor)
        protocol.transport.write(b"w" * 4_000_000)
        protocol.transport.loseConnection()
        peer.sendall(b"v" * 50_000)
        assert drain(reactor, peer) == b"w" * 4_000_000
        assert protocol.reason.check(ConnectionDone)


@pytest.mark.parametrize("kind", [Recorder, HalfCloseable])
def test_TLS7_an_end_without_close_notify_is_a_truncated_stream(reactor, certificates, kind):
    protocol, peer = tls_served(reactor, certificates, kind())
    peer.sendall(b"a part")
    peer.sock.shutdown(socket.SHUT_WR)
    assert "without close_notify of TLS: the data may be truncated" in reason_of(reactor, protocol)
    assert protocol.reason.check(ConnectionLost)
    assert protocol.calls == ["made", "data", "lost"]
    peer.sock.close()


def test_TLS7_close_notify_is_an_orderly_end_and_is_answered(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    peer.close_notify()
    reason_of(reactor, protocol)
    assert protocol.reason.check(ConnectionDone)
    assert drain(reactor, peer) == b""


def test_TLS7_a_half_closeable_protocol_goes_on_writing_after_close_notify(
    reactor,
    certificates,
    closing,
):
    protocol, peer = tls_served(reactor, certificates, HalfCloseable())
    closing(peer)
    peer.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: protocol.calls == ["made", "read lost"])
    protocol.transport.write(b"more" * 100_000)
    protocol.transport.loseConnection()
    assert drain(reactor, peer) == b"more" * 100_000


def test_TLS8_a_half_close_sends_close_notify_and_reads_on(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates, HalfCloseable())
    closing(peer)
    protocol.transport.pauseProducing()
    peer.sendall(b"before")  # waits in the session while close_notify is made
    iterations(reactor)
    protocol.transport.resumeProducing()
    protocol.transport.write(b"mine")
    protocol.transport.loseWriteConnection()
    assert drain(reactor, peer) == b"mine"
    peer.setblocking(True)
    peer.sendall(b" and after")
    pump(reactor, lambda: protocol.received == b"before and after")
    peer.close()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(ConnectionDone)
    assert "write lost" in protocol.calls and "read lost" in protocol.calls


def test_TLS8_records_that_a_pause_holds_back_survive_a_half_close(reactor, certificates, closing):
    class Pausing(OneAtATime, HalfCloseable):
        pass

    protocol, peer = tls_served(reactor, certificates, Pausing())
    closing(peer)
    for text in (b"one", b"two", b"three"):
        peer.ssl.write(text)
    peer.flush()
    pump(reactor, lambda: protocol.chunks)
    protocol.transport.loseWriteConnection()
    assert drain(reactor, peer) == b""
    for _ in range(3):
        protocol.transport.resumeProducing()
        iterations(reactor)
    assert protocol.chunks == [b"one", b"two", b"three"]


def test_TLS8_a_half_close_during_the_handshake_waits_for_it(reactor, port, certificates, closing):
    class Halves(HalfCloseable):
        def connectionMade(self):
            super().connectionMade()
            self.transport.loseWriteConnection()

    server = Halves()
    peer = Peer(closing(connect(port(server))), certificates.client()).shake_hands(reactor)
    peer.sendall(b"read on")
    assert drain(reactor, peer) == b""
    pump(reactor, lambda: server.received == b"read on")


@pytest.mark.parametrize("how", ["abort", "stop", "pending"])
def test_TLS9_an_end_that_loses_bytes_sends_no_close_notify(reactor, certificates, how):
    protocol, peer = tls_served(reactor, certificates)
    transport = protocol.transport
    if how == "abort":
        transport.abortConnection()
    elif how == "stop":
        reactor.callLater(0, reactor.stop)
        reactor.run(installSignalHandlers=False)
    else:  # the peer ends while it reads nothing
        transport.write(b"p" * 4_000_000)
        pump(reactor, lambda: transport._session.ready > 0)
        iterations(reactor, 20)
        peer.close_notify()
    if how != "stop":
        iterations(reactor)
    with pytest.raises(OSError, match="reset|without close_notify"):
        if how == "pending":
            drain(reactor, peer)
        else:
            peer.recv(1)
    peer.sock.close()


# --- TLS10: startTLS


class Switching(LineReceiver, Recorder):
    """Starts TLS when it gets the line STARTTLS."""

    delimiter = b"\n"

    def __init__(self, context, before=b"go\n", producer=None):
        Recorder.__init__(self)
        self.context, self.before, self.lines = context, before, []
        self.on_switch = lambda: None

    dataReceived = LineReceiver.dataReceived

    def lineReceived(self, line):
        self.lines.append(line)
        if line == b"STARTTLS":
            self.transport.write(self.before)
            self.transport.startTLS(self.context)
            self.on_switch()


def test_TLS10_a_server_starts_TLS_behind_what_it_has_written(reactor, certificates, closing):
    protocol, client = served(reactor, Switching(certificates.server(), b"g" * 3_000_000))
    closing(client)
    transport = protocol.transport
    transport.setTcpNoDelay(False)
    protocol.on_switch = lambda: transport.write(b"and this is encrypted")
    client.sendall(b"STARTTLS\n")
    assert receive(reactor, client, 3_000_000) == b"g" * 3_000_000
    assert protocol.transport is transport and transport.encrypted
    client.setblocking(True)
    peer = Peer(client, certificates.client()).shake_hands(reactor)
    assert receive(reactor, peer, 21) == b"and this is encrypted"
    peer.setblocking(True)
    peer.sendall(b"first line\nsecond line\n")
    pump(reactor, lambda: len(protocol.lines) == 3)
    assert transport.bytes_out == 3_000_021
    assert transport.bytes_in == 9 + 23


def test_TLS10_a_client_starts_TLS_by_the_context_it_gives(reactor, certificates, closing):
    protocol, sock = served(reactor)  # it plays the client, though it has accepted
    closing(sock)
    protocol.transport.write(b"STARTTLS\n")
    protocol.transport.startTLS(certificates.client(), "localhost")
    protocol.transport.write(b"secret")
    assert receive(reactor, sock, 9) == b"STARTTLS\n"
    sock.setblocking(True)
    peer = Peer(sock, certificates.server(), server_side=True).shake_hands(reactor)
    assert receive(reactor, peer, 6) == b"secret"


def test_TLS10_the_handshake_follows_plain_bytes_by_itself(reactor, certificates, closing):
    protocol, sock = served(reactor)
    closing(sock)
    protocol.transport.write(b"STARTTLS\n")
    protocol.transport.startTLS(certificates.client(), "localhost")  # nothing is written behind it
    assert receive(reactor, sock, 9) == b"STARTTLS\n"
    sock.setblocking(True)
    Peer(sock, certificates.server(), server_side=True).shake_hands(reactor)
    pump(reactor, lambda: is_over(protocol))


def test_TLS10_a_producer_and_the_marks_are_carried_over(reactor, certificates, closing):
    protocol, client = served(reactor, Switching(certificates.server()))
    closing(client)
    transport = protocol.transport
    transport.setWriteBufferLimits(10_000, 1000)
    producer = StrictPushProducer(transport, [b"p" * 3000] * 500)
    protocol.on_switch = producer.start
    client.sendall(b"STARTTLS\n")
    assert receive(reactor, client, 3) == b"go\n"
    assert (producer.state, transport.producer, transport.marks) == (
        "paused",
        producer,
        (10_000, 1000),
    )
    client.setblocking(True)
    peer = Peer(client, certificates.client()).shake_hands(reactor)
    assert receive(reactor, peer, 1_500_000) == b"p" * 1_500_000
    producer.check()
    assert producer.calls.count("resumeProducing") > 10


def test_TLS10_a_paused_connection_stays_paused(reactor, certificates, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.pauseProducing()
    protocol.transport.startTLS(certificates.server())
    peer = Peer(client, certificates.client()).shake_hands(reactor)
    peer.sendall(b"data")
    iterations(reactor, 20)
    assert (bytes(protocol.received), protocol.transport.reading) == (b"", False)


def test_TLS10_plain_bytes_behind_the_switch_are_not_taken_for_encrypted_ones(
    reactor,
    certificates,
    closing,
):
    protocol, client = served(reactor, Switching(certificates.server()))
    closing(client)
    client.sendall(b"STARTTLS\nDELETE everything\n")
    assert "plain bytes behind those that have started TLS" in reason_of(reactor, protocol)
    assert protocol.lines == [b"STARTTLS"]


def test_TLS10_TLS_starts_once_and_on_an_open_connection_only(reactor, certificates, closing):
    protocol, client = served(reactor, HalfCloseable())
    closing(client)
    transport = protocol.transport
    with pytest.raises(TypeError, match="takes an ssl.SSLContext, not 'cert.pem'"):
        transport.startTLS("cert.pem")
    transport.startTLS(certificates.server())
    with pytest.raises(RuntimeError, match="speaks TLS already"):
        transport.startTLS(certificates.server())
    transport.abortConnection()
    iterations(reactor)
    plain, client = served(reactor, HalfCloseable())
    closing(client)
    transport = plain.transport
    transport.loseWriteConnection()
    pump(reactor, lambda: "write lost" in plain.calls)
    with pytest.raises(RuntimeError, match="one of its directions has ended"):
        transport.startTLS(certificates.server())
    transport.abortConnection()
    iterations(reactor)
    transport.startTLS(certificates.server())  # the connection has ended: nothing


def test_TLS10_a_context_for_both_sides_serves_the_side_that_accepted(certificates):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        both = ssl.SSLContext(ssl.PROTOCOL_TLS)
    assert tls_session.is_server_side(both, True)
    assert not tls_session.is_server_side(both, False)
    assert tls_session.is_server_side(certificates.server(), False)
    assert not tls_session.is_server_side(certificates.client(), True)


# --- TLS11: what a client verifies


def test_TLS11_a_client_trusts_only_the_systems_authorities(reactor, port):
    server = Recorder()
    client = connected(reactor, port(server), None)
    assert "certificate is not accepted: self-signed certificate" in reason_of(
        reactor, client
    ).replace("self signed", "self-signed")
    assert "the TLS alert 'unknown ca'" in reason_of(reactor, server)
    assert client.calls == ["made", "lost"]


def test_TLS11_a_client_verifies_the_name(reactor, port, certificates):
    client = connected(reactor, port(), certificates.client(), server_hostname="example.org")
    assert "not valid for 'example.org'" in reason_of(reactor, client)


def test_TLS11_a_client_that_verifies_needs_a_name(reactor, certificates, closing):
    protocol, client = served(reactor)
    closing(client)
    for context in (None, certificates.client()):
        with pytest.raises(ValueError, match="no server_hostname for a context that checks it"):
            protocol.transport.startTLS(context)
    assert not protocol.transport.encrypted
    protocol.transport.startTLS(certificates.client(check_hostname=False))


def test_TLS11_a_context_for_the_other_side_is_refused(reactor, certificates):
    with pytest.raises(ValueError, match="is for a client"):
        reactor.listenSSL(0, OneFactory(), certificates.client())
    with pytest.raises(ValueError, match="is for a server"):
        reactor.connectSSL("localhost", 1, RecordingClientFactory(), certificates.server())
    with pytest.raises(TypeError, match="takes an ssl.SSLContext"):
        reactor.listenSSL(0, OneFactory(), None)
    with pytest.raises(ValueError):
        reactor.connectSSL("localhost", 1, RecordingClientFactory(), server_hostname=".bad")


# --- TLS12: floods


def test_TLS12_records_without_data_have_a_bound(certificates):
    session = Session(certificates.server(), True, None)
    session.established = True
    with pytest.raises(ConnectionLost, match="bytes of TLS records without any data"):
        for _ in range(100):
            session.feed(bytes(4 * K))
            session.incoming.read()
    assert session._fruitless <= 72 * K


def test_TLS12_data_is_not_counted_against_the_bound(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    for _ in range(20):
        peer.sendall(b"d" * 100_000)
        pump(reactor, lambda: len(protocol.received) % 100_000 == 0 and protocol.received)
    pump(reactor, lambda: len(protocol.received) == 2_000_000)


# --- TLS13: copies


def test_TLS13_a_large_write_is_not_copied_as_a_whole(reactor, certificates, closing):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    data = b"m" * 30_000_000
    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    tracemalloc.start()
    try:
        protocol.transport.write(data)
        peer.setblocking(False)
        left = len(data)
        while left:
            reactor.iterate(0)
            try:
                left -= len(peer.recv(1 << 16))
            except BlockingIOError:
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


# --- TLS14: what does not use TLS pays nothing


def test_TLS14_ssl_is_imported_at_first_use_only():
    code = """
        import sys
        from minireactor import reactor, protocol, basic
        import minireactor.cli.options, minireactor.serve.server, minireactor.proxy.relay
        print("ssl" in sys.modules)
    """
    assert output(code).strip() == "False"


def test_TLS14_a_plain_connection_has_no_field_for_TLS(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    assert protocol.transport.encrypted is False
    assert not protocol.transport.__dict__
    assert not any("tls" in name or "session" in name for name in dir(protocol.transport))


# --- TLS15: files


@pytest.mark.slow
def test_TLS15_a_file_is_encrypted_in_its_place(reactor, certificates, closing, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"f" * 1_000_000)
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    sent = []
    with path.open("rb") as file:
        protocol.transport.write(b"before ")
        protocol.transport.sendFile(file, 10).addCallback(sent.append)
        protocol.transport.write(b" after")
        assert protocol.transport.pending == 13 + 999_990
        expected = b"before " + b"f" * 999_990 + b" after"
        assert receive(reactor, peer, len(expected)) == expected
        pump(reactor, lambda: sent)
    assert sent == [999_990]
    assert protocol.transport.bytes_out == len(expected)


@pytest.mark.slow
def test_TLS15_a_file_that_becomes_shorter_aborts_the_connection(
    reactor,
    certificates,
    closing,
    tmp_path,
):
    path = tmp_path / "data"
    path.write_bytes(b"f" * 4_000_000)
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    with path.open("r+b") as file:
        protocol.transport.sendFile(file)
        file.truncate(1_000_000)
        pump(reactor, lambda: protocol.reason is not None or _drop(peer))
    assert protocol.reason.check(FileEnded)
    assert "has become shorter" in protocol.reason.getErrorMessage()


def _drop(peer):
    peer.setblocking(False)
    try:
        peer.recv(1 << 16)
    except BlockingIOError:
        pass
    return False


def test_TLS15_a_file_whose_last_bytes_are_lost_has_not_been_sent(
    reactor,
    certificates,
    closing,
    tmp_path,
):
    path = tmp_path / "data"
    path.write_bytes(b"f" * 100_000)
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    transport = protocol.transport
    transport.write(b"w" * 6_000_000)
    pump(reactor, lambda: transport._session.ready > 0)
    failures = []
    with path.open("rb") as file:
        transport.sendFile(file).addErrback(lambda failure: failures.append(failure.type))
        transport.abortConnection()
        pump(reactor, lambda: failures)
    assert failures == [ConnectionLost]


def test_each_rule_of_TLS_names_a_test_that_exists():
    folder = Path(__file__).parent
    text = (folder.parent / "minireactor/transports/README.md").read_text(encoding="utf-8")
    rules = re.findall(
        r"^\| (TLS\d+) \| .* \| `(test_\w+\.py)::(test_\w+)` \|$", text, re.MULTILINE
    )
    assert [rule for rule, _, _ in rules] == [f"TLS{number}" for number in range(1, 16)]
    for rule, file, test in rules:
        assert test.startswith(f"test_{rule}_")
        assert f"\ndef {test}(" in (folder / file).read_text(encoding="utf-8")
