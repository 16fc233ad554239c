"""Pass lines between clients and a server, and replace a word in the server's lines.

... rewriting_proxy LISTEN-ENDPOINT SERVER-ENDPOINT OLD NEW
"""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.endpoints import clientFromString, connectProtocol, serverFromString
from minireactor.protocol import Factory
from minireactor.task import react


class Leg(LineReceiver):
    """One of the two connections. Each is the producer of what the other one writes."""

    delimiter = b"\n"
    other = None

    def rewritten(self, line):
        return line

    def join(self, other):
        self.other = other
        other.transport.registerProducer(self.transport, True)

    def lineReceived(self, line):
        self.other.sendLine(self.rewritten(line))

    def connectionLost(self, reason):
        if self.other is not None:
            self.other.transport.unregisterProducer()
            self.other.transport.loseConnection()


class ToServer(Leg):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def rewritten(self, line):
        return line.replace(self.old, self.new)


class FromClient(Leg):
    """Reads nothing until the connection to the server is there."""

    connecting = None

    def connectionMade(self):
        self.transport.pauseProducing()
        to_server = ToServer(*self.factory.words)
        self.connecting = connectProtocol(self.factory.endpoint, to_server)
        self.connecting.addCallbacks(self.joined, self.failed)

    def joined(self, to_server):
        self.join(to_server)
        to_server.join(self)
        self.transport.resumeProducing()

    def failed(self, failure):
        print("no connection to the server", flush=True)
        self.transport.loseConnection()

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.connecting.cancel()


async def main(reactor, where, server, old, new):
    factory = Factory.forProtocol(FromClient)
    factory.endpoint = clientFromString(reactor, server)
    factory.words = old.encode(), new.encode()
    port = await serverFromString(reactor, where).listen(factory)
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until the reactor is stopped


if __name__ == "__main__":
    react(main, sys.argv[1:])
