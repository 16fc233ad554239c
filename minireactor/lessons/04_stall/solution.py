"""The fault repaired: loseConnection() first sends what is pending; abortConnection() drops it."""

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
            self.transport.abortConnection()

    def connectionLost(self, reason):
        self.lost = True


feeds = []


# ---- The check: the fault is above this line ----

RECORDS, RECORD = 2048, 16 * 1024

host = reactor.listenTCP(0, Factory.forProtocol(Feed), interface="127.0.0.1").getHost()


def connected():
    """Return a client, and its Feed at the server."""
    client = socket.create_connection((host.host, host.port), timeout=2)
    count = len(feeds)
    while len(feeds) == count:
        reactor.iterate(0.01)
    return client, feeds[-1]


reader, feed = connected()
for _ in range(RECORDS // 8):
    feed.send(bytes(RECORD))
    reactor.iterate()
    if feed.dismissed:
        sys.exit("fault: a client that has read everything was dismissed")
    left = RECORD
    while left:
        left -= len(reader.recv(left))
client, feed = connected()  # this one never reads
for _ in range(RECORDS):
    feed.send(bytes(RECORD))
    reactor.iterate()
for _ in range(10):
    reactor.iterate(0.01)
held = feed.transport.pending
reader.close()
client.close()
if not feed.dismissed:
    sys.exit(f"fault: a client that does not read is served on; {held:,} bytes are held")
if held or not feed.lost:
    sys.exit(f"fault: the client was dismissed, and {held:,} bytes are still held for it")
print("right: the client was dismissed, and nothing is held for it")
