"""The fault repaired: what a leg writes comes from the other leg, so that one is its producer."""

import socket
import sys
import threading

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


def send():
    with server, server.accept()[0] as connection:
        connection.sendall(bytes(TOTAL))


def read(address):
    with socket.create_connection(address, timeout=5) as client:
        reading.wait()
        while data := client.recv(65536):
            results["read"] += len(data)
    reactor.callFromThread(reactor.stop)


results, reading = {"read": 0}, threading.Event()
server, front = socket.create_server(("127.0.0.1", 0)), Front()
proxy = reactor.listenTCP(0, Factory.forProtocol(lambda: front), interface="127.0.0.1").getHost()
threading.Thread(target=send, daemon=True).start()
threading.Thread(target=read, args=[(proxy.host, proxy.port)], daemon=True).start()
reactor.callLater(0.3, reading.set)
reactor.run()
highest = front.transport.highest_pending
if results["read"] != TOTAL:
    sys.exit(f"fault: {results['read']:,} bytes came through of {TOTAL:,}")
if highest > 512 * 1024:
    sys.exit(f"fault: the proxy held {highest:,} bytes while its client did not read")
print(f"right: {TOTAL:,} bytes came through, and the proxy held {highest:,} at most")
