"""A server that makes bytes faster than they are read: it holds what is not read."""

import socket
import sys
import threading

try:
    import resource
except ImportError:  # Windows
    resource = None

from minireactor import reactor
from minireactor.protocol import Factory, Protocol
from minireactor.transports.kernel import send_queue

MB = 1024 * 1024
RECORD, TOTAL = 16 * 1024, 32 * MB


class Source(Protocol):
    """Sends 2,048 records of 16 KB to whoever connects."""

    made = 0

    def connectionMade(self):
        self.show("connected")
        reactor.callLater(0.3, self.stall_is_over)
        self.produce()

    def produce(self):
        while self.made < TOTAL:
            self.made += RECORD
            self.transport.write(b"%16383d\n" % self.made)
            if self.made % (8 * MB) == 0:
                self.show("writing")
        self.transport.loseConnection()

    def stall_is_over(self):
        self.show("stalled")
        results["stalled"] = self.transport.pending
        kernel = (send_queue(self.transport) or 0) / MB
        peer = self.transport.bytes_out / MB - kernel
        print("  producer --> pending --> our kernel --> the peer's kernel --> client")
        print(f"{results['stalled'] / MB:20.2f} MB{kernel:11.2f} MB{peer:17.2f} MB   reads nothing")
        reading.set()

    def connectionLost(self, reason):
        self.show("closed")

    def show(self, when):
        made, pending = self.made / MB, self.transport.pending / MB
        print(f"{when:10}{made:7.2f} MB{pending:9.2f} MB{memory():>8} MB")


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


reading = threading.Event()
results = {}
print(f"{'':10}{'made':>10}{'pending':>12}{'process':>11}")
factory = Factory.forProtocol(Source)
host = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
print(f"the client has read {results['read'] / MB:.2f} MB")
assert results["read"] == TOTAL
assert results["stalled"] > TOTAL / 2, "it was to hold most of it"
