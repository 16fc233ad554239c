"""The same server as a push producer: told to pause and to resume, it holds next to nothing."""

import socket
import sys
import threading

try:
    import resource
except ImportError:  # Windows
    resource = None

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

MB = 1024 * 1024
RECORD, TOTAL = 16 * 1024, 32 * MB


class Source(Protocol):
    """Sends 2,048 records of 16 KB to whoever connects."""

    made = 0

    def connectionMade(self):
        self.show("connected")
        reactor.callLater(0.3, self.show, "stalled")
        reactor.callLater(0.3, reading.set)
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while self.made < TOTAL and not self.paused:
            self.made += RECORD
            self.transport.write(b"%16383d\n" % self.made)
            if self.made % (8 * MB) == 0:
                self.show("writing")
        if self.made == TOTAL:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    stopProducing = pauseProducing  # the client has gone: make no more

    def connectionLost(self, reason):
        self.show("closed")
        results.update(highest=self.transport.highest_pending, pauses=self.transport.pauses)

    def show(self, when):
        pending = self.transport.pending / MB
        print(f"{when:10}{self.made / MB:7.2f} MB{pending:9.2f} MB{memory():>8} MB")


def memory():
    """Return the most memory that this process has used so far, in MB; 0 on Windows."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0
    return round(peak / MB if sys.platform == "darwin" else peak / 1024)  # bytes or KB


def read(address):
    """The client: connects, reads nothing until it is told to, then everything."""
    with socket.create_connection(address) as client:
        reading.wait()
        results["read"] = 0
        while data := client.recv(65536):
            results["read"] += len(data)
    reactor.callFromThread(reactor.stop)


reading, results = threading.Event(), {}
print(f"{'':10}{'made':>10}{'pending':>12}{'process':>11}")
host = reactor.listenTCP(0, Factory.forProtocol(Source), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
print(f"the client has read {results['read'] / MB:.2f} MB, after {results['pauses']} pauses")
print(f"at most {results['highest']:,} bytes were pending")
assert results["read"] == TOTAL and results["highest"] <= 64 * 1024 + RECORD
