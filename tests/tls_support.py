"""Helpers for tests of TLS: certificates, contexts, and a peer that looks like a plain socket."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import pytest
from support import PATIENCE, OneFactory, Recorder, connect, pump

from minireactor.transports.tls import TLSConnection
from minireactor.transports.tls_session import Session

OPENSSL = shutil.which("openssl")


class Certificates:
    """A certificate for localhost and 127.0.0.1, which signs itself, and a second one.

    cert, key: paths of the PEM files. other_cert, other_key: those of the second one."""

    def __init__(self, folder):
        self.cert, self.key = _make(folder, "first")
        self.other_cert, self.other_key = _make(folder, "other")

    def server(self, **attributes):
        """Return a new context for a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        # A plain close() of a peer that has not read its tickets would be a reset.
        context.num_tickets = 0
        return _with(context, attributes)

    def client(self, **attributes):
        """Return a new context for a client that trusts `cert`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.cert)
        return _with(context, attributes)


def _make(folder, name):
    cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    what = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [OPENSSL, *what.split(), *names, "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    return cert, key


def _with(context, attributes):
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


def make_certificates(folder):
    """Return Certificates; skip the test without the program `openssl`."""
    if OPENSSL is None:
        pytest.skip("no program `openssl`, which makes the certificates for these tests")
    return Certificates(folder)


class Peer:
    """One side of TLS over a plain socket, with the methods of a plain socket.

    recv() returns b"" at close_notify, and raises ConnectionError at an end without it."""

    def __init__(self, sock, context, server_side=False, server_hostname="localhost"):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else server_hostname
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_side, name)
        self.has_closed = False

    def __getattr__(self, name):
        """Look up the other methods, such as setblocking(), in the socket."""
        return getattr(self.sock, name)

    def step(self):
        """Take one step of the handshake; return whether it is complete."""
        try:
            self.ssl.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        self.flush()
        if not done:
            try:
                self.feed()
            except BlockingIOError:
                pass
        return done

    def shake_hands(self, reactor):
        """Complete the handshake with a peer on `reactor`; leave the socket blocking."""
        self.sock.setblocking(False)
        pump(reactor, self.step, "the handshake")
        self.sock.setblocking(True)
        self.sock.settimeout(PATIENCE)
        return self

    def feed(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the stream has ended without close_notify")
        self.incoming.write(data)

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.sock.sendall(data)

    def sendall(self, data):
        self.ssl.write(data)
        self.flush()

    send = sendall

    def recv(self, size):
        while True:
            try:
                return self.ssl.read(min(size, 1 << 16))
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                self.feed()

    def close_notify(self, flush=True):
        if not self.has_closed:
            self.has_closed = True
            try:
                self.ssl.unwrap()
            except ssl.SSLError:
                pass
            if flush:
                self.flush()

    def shutdown(self, how):
        self.close_notify()
        self.sock.shutdown(how)

    def close(self):
        """Send close_notify, and close. This is no reset, even if records have not been read."""
        try:
            self.close_notify()
            self.sock.setblocking(False)
            while self.sock.recv(1 << 16):
                pass
        except (OSError, ValueError):
            pass
        self.sock.close()


def tls_served(reactor, certificates, protocol=None):
    """Return (protocol, Peer), as support.served() does: of a connection that speaks TLS.

    The handshake is complete, unless the protocol has closed before."""
    protocol = protocol if protocol is not None else Recorder()
    port = reactor.listenSSL(0, OneFactory(protocol), certificates.server(), interface="127.0.0.1")
    sock = connect(port)
    peer = Peer(sock, certificates.client())
    try:
        peer.shake_hands(reactor)
    except ConnectionError:
        pass
    pump(reactor, lambda: protocol.transport is not None, "the connection")
    port.stopListening()
    return protocol, peer


class ClearSession(Session):
    """A session whose records are the plain bytes, so that a test can count them exactly."""

    def __init__(self):
        super().__init__(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), False, "localhost")
        self.established = True

    def read(self):
        self._fruitless = 0
        return self.incoming.read() or None

    def write(self, data):
        return self.outgoing.write(data)

    def send_close(self):
        self.close_sent = True


class ClearConnection(TLSConnection):
    """A TLSConnection with a ClearSession. The end of the stream stands for close_notify."""

    __slots__ = ()

    def __init__(self, *args):
        super().__init__(*args)
        self._session = ClearSession()

    def _begin(self):
        """Begin nothing: the session is established."""

    def _end_of_stream(self):
        if not self.read_ended:
            self._end_of_reading()
