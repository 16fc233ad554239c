"""Twisted: the same program, but for its imports."""

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

CHUNK = bytes(16 * 1024)
TOTAL = 16 * 1024 * 1024


class Source(Protocol):
    made = held = 0

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while self.made < TOTAL and not self.paused:
            self.transport.write(CHUNK)
            self.made += len(CHUNK)
            # Twisted does not tell: these are the two halves of its write buffer.
            pending = len(self.transport.dataBuffer) + self.transport._tempDataLen
            self.held = max(self.held, pending)
        if self.made == TOTAL:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self):
        self.paused = True

    def connectionLost(self, reason):
        print(self.held)
        reactor.stop()


port = reactor.listenTCP(0, Factory.forProtocol(Source), interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
