"""Hostile peers of TLS: they stall, send garbage, or keep the other side busy for nothing."""

from __future__ import annotations

import gc
import os
import random
import ssl
import time
import weakref

import pytest
from libssl import KeyUpdater
from scripted import PEER, ScriptedSocket
from support import PATIENCE, OneFactory, Recorder, connect, iterations, next_timer, pump
from tls_support import Peer, tls_served

from minireactor.error import ConnectionLost
from minireactor.transports.connection import Connection
from minireactor.transports.tls_session import Session
from minireactor.transports.tls_start import start_tls

K = 1024
MUTANTS = 100_000


@pytest.fixture
def port(reactor, certificates):
    return reactor.listenSSL(0, OneFactory(), certificates.server(), interface="127.0.0.1")


def client_hello(certificates):
    peer = Peer(ScriptedSocket(), certificates.client())
    with pytest.raises(ssl.SSLWantReadError):
        peer.ssl.do_handshake()
    return peer.outgoing.read()


def test_a_client_that_sends_one_byte_at_a_time_is_served(reactor, certificates, closing):
    protocol = Recorder()
    port = reactor.listenSSL(0, OneFactory(protocol), certificates.server(), interface="127.0.0.1")
    peer = Peer(closing(connect(port)), certificates.client())
    peer.setblocking(False)

    def flush():
        for byte in peer.outgoing.read():
            peer.sock.send(bytes([byte]))
            reactor.iterate(0)

    peer.flush = flush
    pump(reactor, peer.step, "the handshake")
    peer.ssl.write(b"slowly")
    peer.flush()
    pump(reactor, lambda: protocol.received == b"slowly")


def test_a_thousand_half_handshakes_stop_nobody_and_leave_nothing(
    reactor, port, certificates, closing
):
    hello = client_hello(certificates)
    half = []
    for count in range(40, 1001, 40):
        half += [closing(connect(port)) for _ in range(40)]
        pump(reactor, lambda count=count: len(port.factory.built) == count, "the connections")
    for number, sock in enumerate(half):
        sock.sendall(hello[: number % len(hello)])
    peer = Peer(closing(connect(port)), certificates.client()).shake_hands(reactor)
    peer.sendall(b"I am served")
    pump(reactor, lambda: any(each.received for each in port.factory.built))
    for sock in half:
        sock.close()
    ended = [each for each in port.factory.built if not each.received]
    pump(reactor, lambda: len(ended) == 1000 and all(each.reason for each in ended))
    assert all("TLS handshake" in each.reason.getErrorMessage() for each in ended)
    peer.close()
    pump(reactor, lambda: all(each.reason for each in port.factory.built))
    pump(reactor, lambda: next_timer(reactor) is None, "no timer of a handshake")


@pytest.mark.parametrize("size", [2**14 + 256, 2**14 + 257, 2**16 - 1])
def test_a_record_of_the_largest_size_or_above_ends_the_connection(
    reactor, certificates, closing, size
):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    peer.sock.sendall(b"\x17\x03\x03" + size.to_bytes(2, "big") + os.urandom(size))
    pump(reactor, lambda: protocol.reason is not None)
    why = "not genuine" if size == 2**14 + 256 else "above the largest size"
    assert why in protocol.reason.getErrorMessage()
    assert protocol.received == b""


@pytest.mark.parametrize("kind", [0x16, 0x17])
def test_a_flood_of_empty_records_ends_the_connection(reactor, certificates, closing, kind):
    protocol, peer = tls_served(reactor, certificates)
    closing(peer)
    peer.sock.sendall(bytes([kind, 3, 3, 0, 0]) * 10_000)
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(ConnectionLost)
    assert protocol.received == b""


def test_TLS12_key_updates_without_end_have_a_bound(reactor, closing, port):
    client, sock = closing(KeyUpdater()), closing(connect(port))
    shake_hands(reactor, client, sock)
    (protocol,) = port.factory.built
    sock.setblocking(True)
    for _ in range(20):  # with data in between, all is well
        client.update_key()
        client.write(b"data")
        sock.sendall(client.take())
    pump(reactor, lambda: protocol.received == b"data" * 20)
    protocol.transport.write(b"answer")
    iterations(reactor)
    sock.setblocking(False)
    updates = 0
    deadline = time.monotonic() + PATIENCE
    while protocol.reason is None and time.monotonic() < deadline:
        for _ in range(100):
            client.update_key()
        updates += 100
        try:
            sock.sendall(client.take())
        except (BlockingIOError, ConnectionError):
            pass
        reactor.iterate(0)
        if protocol.transport.connected:
            assert protocol.transport._session.outgoing.pending < K
    assert "of TLS records without any data" in protocol.reason.getErrorMessage()
    assert updates < 20_000


def shake_hands(reactor, client, sock):
    sock.setblocking(False)

    def step():
        try:
            client.give(sock.recv(1 << 16))
        except BlockingIOError:
            pass
        done = client.shake_hands()
        sock.sendall(client.take())
        return done

    pump(reactor, step, "the handshake")


@pytest.mark.skipif(not hasattr(ssl, "OP_NO_RENEGOTIATION"), reason="this Python has no option")
def test_TLS12_renegotiation_is_refused(certificates):
    context = certificates.server()
    Session(context, True, None)
    assert context.options & ssl.OP_NO_RENEGOTIATION


class TLSWire:
    """Connections on scripted sockets that speak TLS, and real clients of them without sockets."""

    def __init__(self, wire, certificates):
        self.wire = wire
        self.server = certificates.server()
        self.client = certificates.client()
        self.hello = client_hello(certificates)

    def connect(self):
        protocol, sock = Recorder(), ScriptedSocket(room=1 << 30)
        self.wire.poller.sockets[sock.number] = sock
        transport = Connection(self.wire.reactor, sock, PEER)
        start_tls(transport, self.server, None, True)
        transport.start(protocol)
        return protocol, sock

    def established(self):
        """Return (protocol, socket, Peer), after a complete handshake."""
        protocol, sock = self.connect()
        peer = Peer(ScriptedSocket(), self.client)
        for _ in range(10):
            try:
                peer.ssl.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            self.give(sock, peer.outgoing.read())
            if done:
                return protocol, sock, peer
            peer.incoming.write(bytes(sock.taken))
            sock.taken.clear()
        raise AssertionError("no handshake")

    def give(self, sock, data):
        if data:
            sock.inbox.append(data)
            for _ in range(20):
                self.wire.run(1)
                if not sock.inbox or sock.closed:
                    break

    def end(self, protocol, sock):
        """Let the peer end. Return the reason of the connection's end."""
        if not sock.closed:
            sock.inbox.append(b"")
            self.wire.run(3)
        self.wire.poller.sockets.pop(sock.number)
        assert protocol.calls[-1] == "lost" and protocol.calls.count("lost") == 1
        return protocol.reason.getErrorMessage()


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 50))):
        kind = rng.randrange(5)
        place = rng.randrange(len(data) + 1)
        if kind == 0 and place < len(data):
            data[place] = rng.randrange(256)
        elif kind == 1 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.choice((1, 2, 5, 1000)))
        elif kind == 3:
            del data[place : place + rng.choice((1, 2, 5, 1000))]
        else:
            data[place:place] = data[rng.randrange(len(data) + 1) :]
        if not data or len(data) > 60_000:
            break
    return bytes(data)


def check_mutants(wire, certificates, caplog, count):
    seed = int(os.environ.get("MINIREACTOR_SEED") or random.SystemRandom().randrange(10**9))
    print(f"MINIREACTOR_SEED={seed}")
    rng = random.Random(seed)
    tls = TLSWire(wire, certificates)
    alive = weakref.WeakSet()
    reasons = set()
    for number in range(count):
        if number % 4:
            protocol, sock = tls.connect()
            tls.give(sock, mutated(rng, tls.hello))
        else:
            protocol, sock, peer = tls.established()
            text = rng.randbytes(rng.choice((1, 10, 1000)))
            for _ in range(rng.choice((1, 3))):
                peer.ssl.write(text)
            records = peer.outgoing.read()
            changed = mutated(rng, records)
            tls.give(sock, changed)
            # What arrives is a prefix of what was sent.
            assert (text * 3).startswith(bytes(protocol.received))
        alive.add(protocol.transport)
        polls = wire.poller.polls
        before = protocol.transport._session.incoming.pending
        wire.run(1)
        assert wire.poller.polls == polls + 1 and before < 70 * K
        reasons.add(tls.end(protocol, sock))
    assert not any("(_ssl.c" in reason or "unknown" in reason for reason in reasons), reasons
    assert all("TLS" in reason or "certificate" in reason for reason in reasons), reasons
    assert not caplog.records
    wire.run()
    assert next_timer(wire.reactor) is None
    assert not wire.reactor.application_handlers()
    del protocol
    gc.collect()
    assert len(alive) <= 1


def test_mutated_records_end_the_connection_with_a_reason(wire, certificates, caplog):
    check_mutants(wire, certificates, caplog, 300)


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_mutated_records(wire, certificates, caplog, part):
    check_mutants(wire, certificates, caplog, MUTANTS // 10)
