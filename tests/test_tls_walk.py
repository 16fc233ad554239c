"""A random walk of connections that speak real TLS, on a scripted kernel.

Whatever the program, the kernel and the peer do in which order: the peer can decrypt all that
comes, gets the bytes in order, and all of them at an orderly end. The program gets the peer's bytes
in order too, none while it has paused, and no call after the last one. To repeat a run:

    MINIREACTOR_SEED=12345 python -m pytest -m '' tests/test_tls_walk.py
"""

from __future__ import annotations

import os
import random
import ssl

import pytest
from scripted import PEER, ScriptedSocket
from support import HalfCloseable, Recorder, next_timer
from tls_support import Peer

from minireactor.error import ConnectionDone
from minireactor.testing import StrictPullProducer, StrictPushProducer
from minireactor.transports.connection import Connection
from minireactor.transports.tls_start import start_tls

SIZES = (0, 1, 10, 1000, 8192, 30_000, 100_000)
ROOMS = (1, 10, 1000, 20_000, 500_000)


class Walk:
    """One connection, its program and its peer. `is_calm` ends all obstacles."""

    def __init__(self, wire, certificates, rng):
        self.wire, self.rng = wire, rng
        self.half = rng.random() < 0.5
        self.protocol = HalfCloseable() if self.half else Recorder()
        self.protocol.dataReceived = self.received
        self.sock = ScriptedSocket()
        wire.poller.sockets[self.sock.number] = self.sock
        self.transport = Connection(wire.reactor, self.sock, PEER)
        self.transport.write = self.note
        self.peer = None
        self.plain = 0  # bytes that were written before startTLS()
        self.wire_bytes = b""  # from the connection, not yet read by the peer
        self.written = bytearray()
        self.got = bytearray()
        self.sent = bytearray()
        self.delivered = bytearray()
        self.is_established = self.peer_ended = self.closed = False
        self.producer = None
        self.server = certificates.server_context
        self.client = certificates.client_context
        if rng.random() < 0.5:
            start_tls(self.transport, self.server, None, True)
            self.peer = Peer(ScriptedSocket(), self.client)
        self.transport.start(self.protocol)

    def received(self, data):
        assert self.transport.reading, "delivered while paused"
        assert not self.closed, "delivered after the close"
        Recorder.dataReceived(self.protocol, data)
        self.delivered += data

    def note(self, data):
        """Write, as the transport's write(), and keep what is to arrive."""
        session = getattr(self.transport, "_session", None)
        if not (self.transport.write_ended or (session and session.close_sent)):
            self.written += data
        type(self.transport).write(self.transport, data)

    def act(self):
        rng, transport = self.rng, self.transport
        action = rng.choices(
            ("write", "room", "pause", "resume", "send", "marks", "start", "produce", "end"),
            (20, 30, 4, 8, 12, 2, 5, 2, 0.7),
        )[0]
        if action == "write" and not self.closed and self.producer is None:
            transport.write(rng.randbytes(rng.choice(SIZES)))
        elif action == "room":
            self.sock.room += rng.choice(ROOMS)
        elif action == "pause":
            transport.pauseProducing()
        elif action == "resume":
            transport.resumeProducing()
        elif action == "send" and self.is_established and not self.peer_ended:
            data = rng.randbytes(rng.choice(SIZES))
            if data:
                self.peer.ssl.write(data)
                self.sent += data
        elif action == "marks":
            transport.setWriteBufferLimits(rng.choice((1000, 50_000, 200_000)))
        elif action == "start" and self.peer is None and not self.closed:
            self.start_tls()
        elif action == "produce" and self.producer is None and not self.closed:
            kind = rng.choice((StrictPushProducer, StrictPullProducer))
            chunks = [rng.randbytes(rng.choice(SIZES[1:])) for _ in range(rng.randrange(12))]
            self.producer = kind(transport, chunks)
            self.producer.start()
        elif action == "end" and self.peer is not None and not self.closed:
            self.closed = not self.half or rng.random() < 0.5
            transport.loseConnection() if self.closed else transport.loseWriteConnection()
        self.step()

    def start_tls(self):
        self.plain = self.transport.bytes_out + self.transport.pending
        self.transport.startTLS(self.server)
        self.peer = Peer(ScriptedSocket(), self.client)

    def step(self):
        self.wire.run(1)
        self.wire_bytes += bytes(self.sock.taken)
        self.sock.taken.clear()
        missing = self.plain - len(self.got)
        if self.peer is None or missing > 0:
            count = len(self.wire_bytes) if self.peer is None else missing
            self.got += self.wire_bytes[:count]
            self.wire_bytes = self.wire_bytes[count:]
        if self.peer is not None and len(self.got) >= self.plain:
            self.peer.incoming.write(self.wire_bytes)
            self.wire_bytes = b""
            self.read()
            data = self.peer.outgoing.read()
            while data:  # in pieces, as a network delivers them
                count = self.rng.choice((1, 5, 100, 100_000))
                self.sock.inbox.append(data[:count])
                data = data[count:]
        assert self.written.startswith(self.got), "other bytes than were written"
        assert self.sent.startswith(self.delivered), "other bytes than the peer sent"

    def read(self):
        """Let the peer decrypt what has come. Raises ssl.SSLError if that is not possible."""
        try:
            if not self.is_established:
                self.peer.ssl.do_handshake()
                self.is_established = True
            while not self.peer_ended:
                data = self.peer.ssl.read(1 << 20)
                self.got += data
                if not data:
                    break
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLWantReadError:
            return
        self.peer_ended = True  # by close_notify: the peer answers with its own
        self.peer.close_notify(flush=False)

    def finish(self):
        """Remove all obstacles, close, and check that everything has arrived."""
        if self.peer is None:
            self.start_tls()
        self.sock.room = 1 << 40
        if not self.closed:
            self.closed = True
            self.transport.loseConnection()
        for _ in range(3000):
            self.step()
            if self.transport.disconnected:
                break
        self.step()
        assert self.transport.disconnected, "not closed"
        assert self.protocol.calls.count("lost") == 1 and self.protocol.calls[-1] == "lost"
        assert self.protocol.reason.check(ConnectionDone), self.protocol.reason
        if self.producer is not None:
            self.producer.check()
        if self.transport.bytes_out:
            assert self.got == self.written, "the end is missing"
        assert self.sock.shut or self.sock.closed
        self.wire.poller.sockets.pop(self.sock.number)


def walk(wire, certificates, count, caplog):
    seed = int(os.environ.get("MINIREACTOR_SEED") or random.SystemRandom().randrange(10**9))
    rng = random.Random(seed)
    certificates.server_context = certificates.server()
    certificates.client_context = certificates.client()
    for number in range(count):
        one = Walk(wire, certificates, rng)
        try:
            for _ in range(rng.randrange(200)):
                one.act()
            one.finish()
        except (AssertionError, ssl.SSLError, IndexError, RuntimeError) as error:
            raise AssertionError(f"MINIREACTOR_SEED={seed}, walk {number}: {error!r}") from error
    assert not caplog.records
    assert not wire.reactor.application_handlers()
    assert next_timer(wire.reactor) is None


def test_a_short_walk_loses_nothing(wire, certificates, caplog):
    walk(wire, certificates, 20, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_a_long_walk_loses_nothing(wire, certificates, caplog, part):
    walk(wire, certificates, 300, caplog)
