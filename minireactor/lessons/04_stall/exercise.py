"""Find the fault: clients that do not read are dismissed, but that frees no memory."""

import socket
import sys

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

LIMIT = 1024 * 1024  # bytes: a client for which more than this is pending does not read


class Feed(Protocol):
    """Sends records to a client, and dismisses it if it does not read them."""

    dismissed = lost = False

    def connectionMade(self):
        feeds.append(self)

    def send(self, record):
        if self.dismissed:
            return
        self.transport.write(record)
        if self.transport.pending > LIMIT:
            self.dismissed = True
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.lost = True


feeds = []


# ---- The check: the fault is above this line ----

host = reactor.listenTCP(0, Factory.forProtocol(Feed), interface="127.0.0.1").getHost()
with socket.create_connection((host.host, host.port)):  # a client that never reads
    while not feeds:
        reactor.iterate(0.01)
    for _ in range(2048):
        feeds[0].send(bytes(16 * 1024))
        reactor.iterate()
    for _ in range(10):
        reactor.iterate(0.01)
    held = feeds[0].transport.pending
if not feeds[0].dismissed:
    sys.exit(f"fault: a client that does not read is served on; {held:,} bytes are held for it")
if held or not feeds[0].lost:
    sys.exit(f"fault: the client was dismissed, and {held:,} bytes are still held for it")
print("right: the client was dismissed, and nothing is held for it")
