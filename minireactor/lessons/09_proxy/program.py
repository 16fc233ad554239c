"""A proxy that holds next to nothing: each of its two connections is the producer of the other."""

import socket
import threading

from minireactor import reactor
from minireactor.protocol import ClientFactory, Factory, Protocol

TOTAL = 32 * 1024 * 1024


class Leg(Protocol):
    other = None  # the other one of the proxy's two connections, once it is there

    def dataReceived(self, data):
        self.other.transport.write(data)

    def connectionLost(self, reason):
        if self.other is not None:
            self.other.transport.unregisterProducer()  # no more from here
            self.other.transport.loseConnection()  # after what is pending


class Front(Leg):
    """To the client. It reads nothing before there is somebody to give it to."""

    def connectionMade(self):
        self.transport.pauseProducing()
        factory = ClientFactory()
        factory.buildProtocol = lambda address: Back(self)
        factory.clientConnectionFailed = lambda *_: self.transport.loseConnection()
        reactor.connectTCP(*server.getsockname(), factory)


class Back(Leg):
    """To the server. When it is there, the two are joined."""

    def __init__(self, front):
        self.other, front.other = front, self

    def connectionMade(self):
        front = self.other.transport
        front.registerProducer(self.transport, True)
        self.transport.registerProducer(front, True)
        front.resumeProducing()


def send():
    """The server, on a blocking socket: it waits while the proxy does not read."""
    with server, server.accept()[0] as connection:
        while results["sent"] < TOTAL:
            results["sent"] += connection.send(bytes(65536))


def read(address):
    """The client: connects, reads nothing until it is told to, then everything."""
    with socket.create_connection(address) as client:
        reading.wait()
        while data := client.recv(65536):
            results["read"] += len(data)
    reactor.callFromThread(reactor.stop)


def stall_is_over():
    results["stalled"] = results["sent"]
    print(f"while the client reads nothing, the server has sent {results['sent']:,} bytes")
    reading.set()


results, reading = {"sent": 0, "read": 0}, threading.Event()
server, front = socket.create_server(("127.0.0.1", 0)), Front()
proxy = reactor.listenTCP(0, Factory.forProtocol(lambda: front), interface="127.0.0.1").getHost()
threading.Thread(target=send, daemon=True).start()
threading.Thread(target=read, args=[(proxy.host, proxy.port)], daemon=True).start()
reactor.callLater(0.3, stall_is_over)
reactor.run()
print(f"the proxy held {front.transport.highest_pending:,} bytes at most")
print(f"the client got {results['read']:,}")
assert results["read"] == TOTAL > results["stalled"]
assert front.transport.highest_pending <= (64 + 256) * 1024  # the high mark, and one read
