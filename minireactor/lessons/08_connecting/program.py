"""A client that connects: the answer to connectTCP() comes later, and it may be no."""

import time

from minireactor import reactor
from minireactor.protocol import ClientFactory, Factory, Protocol

FIRST_DELAY, MOST = 0.05, 1.0  # seconds


class Echo(Protocol):
    """The server, which opens its port late."""

    def dataReceived(self, data):
        self.transport.write(data)


class Greeter(Protocol):
    """The client's end of a connection. It has the same transport as a server's end."""

    def connectionMade(self):
        say("connected")
        self.transport.write(b"hello")

    def dataReceived(self, data):
        say(f"got {data.decode()!r} back")
        self.transport.loseConnection()


class Patient(ClientFactory):
    """Builds a Greeter when the connection is there, and tries again as long as it is not."""

    protocol = Greeter
    delay = FIRST_DELAY

    def startedConnecting(self, connector):
        say("connecting")

    def clientConnectionFailed(self, connector, reason):
        error = reason.type.__name__
        say(f"failed: {error}; next attempt in {self.delay * 1000:.0f} ms")
        reactor.callLater(self.delay, connector.connect)
        self.delay = min(2 * self.delay, MOST)

    def clientConnectionLost(self, connector, reason):
        say(f"lost: {reason.type.__name__}")
        reactor.stop()


def say(text):
    print(f"{(time.monotonic() - began) * 1000:4.0f} ms  {text}")


def listen(port):
    say("the server opens its port")
    reactor.listenTCP(port, Factory.forProtocol(Echo), interface="127.0.0.1")


def free_port():
    """Return the number of a port on which nobody listens."""
    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    number = port.getHost().port
    port.stopListening()
    return number


began = time.monotonic()
port = free_port()
connector = reactor.connectTCP("127.0.0.1", port, Patient(), timeout=5)
say(f"connectTCP() has returned, and the connector is {connector.state}")
reactor.callLater(0.3, listen, port)
reactor.run()
