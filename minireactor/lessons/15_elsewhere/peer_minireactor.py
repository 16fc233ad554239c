"""minireactor: a push producer, told to pause and to resume."""

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

CHUNK = bytes(16 * 1024)
TOTAL = 16 * 1024 * 1024


class Source(Protocol):
    made = 0

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
        if self.made == TOTAL:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    stopProducing = pauseProducing

    def connectionLost(self, reason):
        print(self.transport.highest_pending)
        reactor.stop()


port = reactor.listenTCP(0, Factory.forProtocol(Source), interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
