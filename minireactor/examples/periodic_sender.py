"""Send a number to all clients in each interval: ... periodic_sender [ENDPOINT [SECONDS]]"""

import sys

from minireactor.defer import Deferred
from minireactor.endpoints import serverFromString
from minireactor.protocol import Factory, Protocol
from minireactor.task import LoopingCall, react


class Listener(Protocol):
    """Counts for itself. The count stops while the peer does not read."""

    count = 0

    def connectionMade(self):
        self.sending = LoopingCall(self.send)
        self.sending.clock = self.factory.reactor
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def send(self):
        self.count += 1
        self.transport.write(b"%d\n" % self.count)

    def pauseProducing(self):
        if self.sending.running:
            self.sending.stop()

    def resumeProducing(self):
        self.sending.start(self.factory.interval)

    stopProducing = pauseProducing

    def connectionLost(self, reason):
        print("the end of a client", flush=True)


async def main(reactor, where="tcp:8003:interface=127.0.0.1", seconds="1"):
    factory = Factory.forProtocol(Listener)
    factory.reactor = reactor
    factory.interval = float(seconds)
    port = await serverFromString(reactor, where).listen(factory)
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until the reactor is stopped


if __name__ == "__main__":
    react(main, sys.argv[1:])
