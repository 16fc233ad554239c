"""Find the fault: a layer of TLS between a program and its transport, which loses bytes."""

import ssl
import sys


class Secure:
    """Encrypts what a program writes, and writes that to a transport."""

    def __init__(self, tls, incoming, outgoing, transport):
        self.tls, self.incoming, self.outgoing = tls, incoming, outgoing
        self.transport = transport

    def dataReceived(self, data):
        self.incoming.write(data)
        self.go_on()

    def write(self, data):
        try:
            self.tls.write(data)
        except ssl.SSLWantReadError:
            pass  # it must read before it can write
        self.send()

    def close(self):
        self.transport.loseConnection()

    def go_on(self):
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        self.send()

    def send(self):
        data = self.outgoing.read()
        if data:
            self.transport.write(data)


# ---- The check: the fault is above this line ----

EARLY, LATE = b"early " * 1000, b"late " * 1000


class Transport:
    """Keeps what is written, until loseConnection()."""

    def __init__(self):
        self.written, self.closed = bytearray(), False

    def write(self, data):
        if not self.closed:
            self.written += data

    def loseConnection(self):
        self.closed = True


class Peer:
    """The other end, with a Secure of its own here."""

    def __init__(self):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = wrapped(ssl.PROTOCOL_TLS_CLIENT, self.incoming, self.outgoing)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = wrapped(ssl.PROTOCOL_TLS_SERVER, incoming, outgoing)
        self.transport = Transport()
        self.secure = Secure(tls, incoming, outgoing, self.transport)
        self.got, self.has_end = b"", False

    def step(self):
        try:
            self.tls.do_handshake()
            while not self.has_end:
                data = self.tls.read(65536)
                self.got, self.has_end = self.got + data, not data
        except ssl.SSLZeroReturnError:
            self.has_end = True
        except ssl.SSLWantReadError:
            pass
        self.secure.dataReceived(self.outgoing.read())
        self.incoming.write(self.transport.written)
        self.transport.written.clear()


def wrapped(kind, incoming, outgoing):
    context = ssl.SSLContext(kind)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context.wrap_bio(incoming, outgoing, server_side=kind == ssl.PROTOCOL_TLS_SERVER)


for late in (b"", LATE):
    peer = Peer()
    peer.secure.write(EARLY[:10])
    peer.secure.write(EARLY[10:])
    if not late:
        peer.secure.close()  # before the handshake
    for _ in range(10):
        peer.step()
    if late:
        peer.secure.write(late)
        peer.secure.close()
    for _ in range(3):
        peer.step()
    wanted = EARLY + late
    if not wanted.startswith(peer.got):
        sys.exit("fault: the bytes arrived in another order, or changed")
    if peer.got != wanted:
        sys.exit(f"fault: {len(peer.got):,} bytes arrived of {len(wanted):,}")
    if not peer.has_end:
        sys.exit("fault: all bytes arrived, but no close_notify: were these all?")
    if not peer.transport.closed:
        sys.exit("fault: all has arrived, but the transport was never closed")
print(f"right: {len(EARLY + LATE):,} bytes arrived, and close_notify behind them")
