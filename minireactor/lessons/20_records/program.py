"""Twenty records in one read, and a protocol that pauses at the first: three layers of TLS."""

import contextlib
import socket
import ssl

from minireactor import reactor
from minireactor.protocol import Factory, Protocol


class Slow(Protocol):  # pauses at its first bytes; counts those before the pause, in it, and after
    def connectionMade(self):
        self.counts, self.phase = [0, 0, 0], 0
        protocols.append(self)

    def dataReceived(self, data):
        self.counts[self.phase] += len(data)
        if self.phase == 0:
            self.phase = 1
            self.transport.pauseProducing()


class Layer(Protocol):  # TLS by hand, and the transport of another protocol
    def connectionMade(self):
        self.inner, self.paused = Slow(), False
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = servers.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.inner.makeConnection(self)

    def dataReceived(self, data):
        self.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            while not self.paused and (data := self.tls.read(16384)):
                self.inner.dataReceived(data)
        self.transport.write(self.outgoing.read())

    def pauseProducing(self):
        self.paused = self.factory.stops
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.paused = False
        self.transport.resumeProducing()


def iterate():  # for as long as the loop has something to do, and a little longer
    for _ in range(10):
        reactor.iterate(0.01)


def measure(case, port):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = clients.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", port.getHost().port)) as sock:
        for _ in range(2):  # the handshake
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            sock.sendall(outgoing.read())
            iterate()
            incoming.write(sock.recv(65536))
        for _ in range(20):
            tls.write(bytes(100))
        sock.sendall(outgoing.read())  # twenty records at once
        iterate()
        protocols[-1].phase = 2
        protocols[-1].transport.resumeProducing()
        iterate()
    print(f"{case:26}" + "".join(f"{count:8,}" for count in protocols[-1].counts))


servers, clients = map(ssl.SSLContext, (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
for context in (servers, clients):  # without certificates: good for a lesson only
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
protocols, factory = [], Factory.forProtocol(Layer)
print(f"{'bytes delivered':26}{'before':>8}{'in':>8}{'after':>8} the pause")
for factory.stops, case in ((False, "the socket pauses"), (True, "the delivery pauses, too")):
    measure(case, reactor.listenTCP(0, factory, 50, "127.0.0.1"))
measure("listenSSL()", reactor.listenSSL(0, Factory.forProtocol(Slow), servers, 50, "127.0.0.1"))
