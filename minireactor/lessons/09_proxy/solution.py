"""The fault repaired: what a leg writes comes from the other leg, so that one is its producer."""

import socket
import sys
import threading
import time

from minireactor import reactor
from minireactor.protocol import ClientFactory, Factory, Protocol


class Leg(Protocol):
    other = None  # the other leg, once it is there

    def join(self):
        self.transport.registerProducer(self.other.transport, True)

    def dataReceived(self, data):
        self.other.transport.write(data)

    def connectionLost(self, reason):
        if self.other is not None:
            self.other.transport.unregisterProducer()
            self.other.transport.loseConnection()


class Front(Leg):
    def connectionMade(self):
        self.transport.pauseProducing()
        factory = ClientFactory()
        factory.buildProtocol = lambda address: Back(self)
        reactor.connectTCP(*server.getsockname(), factory)


class Back(Leg):
    def __init__(self, front):
        self.other, front.other = front, self

    def connectionMade(self):
        self.join()
        self.other.join()
        self.other.transport.resumeProducing()


# ---- The check: the fault is above this line ----

TOTAL = 32 * 1024 * 1024


class End:
    """A client or a server that sends everything, or reads everything after a while."""

    def __init__(self, connected, sends):
        self.count, self.ended, self.finished = 0, False, False
        target = self.send if sends else self.read
        threading.Thread(target=target, args=[connected], daemon=True).start()

    def send(self, connected):
        with connected() as connection:
            try:
                connection.sendall(bytes(TOTAL))
            except OSError:
                pass  # the other end says what is wrong

    def read(self, connected):
        with connected() as connection:
            time.sleep(0.3)
            connection.settimeout(2)
            try:
                while data := connection.recv(65536):
                    self.count += len(data)
                self.ended = True
            except OSError:
                pass  # nothing came for 2 s, or a reset
        self.finished = True


def passed(to_client):
    """Return what came through, whether it ended, and what the proxy held at most."""
    global server
    front, server = Front(), socket.create_server(("127.0.0.1", 0))
    factory = Factory.forProtocol(lambda: front)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    place = port.getHost()
    client = End(lambda: socket.create_connection((place.host, place.port)), not to_client)
    with server:
        target = End(lambda: server.accept()[0], to_client)
        reader = client if to_client else target
        while not reader.finished:
            reactor.iterate(0.05)
        writer = front if to_client else front.other
        port.stopListening()
        return reader.count, reader.ended, writer.transport.highest_pending


def check(who, count, ended, held):
    if held > 512 * 1024:
        sys.exit(f"fault: the proxy held {held:,} bytes while its {who} did not read")
    if count != TOTAL:
        sys.exit(f"fault: {count:,} bytes came through to the {who}, of {TOTAL:,}")
    if not ended:
        sys.exit(f"fault: all bytes came through to the {who}, but not the end of the stream")


check("client", *passed(to_client=True))
check("server", *passed(to_client=False))
print(f"right: {TOTAL:,} bytes came through, and the proxy held next to nothing")
