"""Find the fault: nobody waits for a slow subscriber; but in the end it shows an old number."""

import contextlib
import socket
import sys
import time

from minireactor import reactor
from minireactor.protocol import Factory, Protocol


class Subscription(Protocol):
    """Sends a price that changes; while it is paused, changes are left out."""

    paused = False

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        subscriptions.append(self)

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False

    stopProducing = pauseProducing

    def publish(self, price):
        if not self.paused:
            self.transport.write(price)


subscriptions = []


# ---- The check: the fault is above this line ----

PRICES, SIZE, PATIENCE = 5000, 4096, 3

host = reactor.listenTCP(0, Factory.forProtocol(Subscription), interface="127.0.0.1").getHost()
with socket.create_connection((host.host, host.port)) as slow:
    slow.setblocking(False)
    while not subscriptions:
        reactor.iterate(0.01)
    transport = subscriptions[0].transport
    for number in range(1, PRICES + 1):
        subscriptions[0].publish(b"%4095d\n" % number)
        if number % 8 == 0:
            reactor.iterate()
    held = transport.pending
    if held > 128 * 1024:
        sys.exit(f"fault: {held:,} bytes were held for a subscriber that did not read")
    written = (transport.bytes_out + held) // SIZE  # prices
    received, began = bytearray(), time.monotonic()
    while subscriptions[0].paused or transport.pending or transport.bytes_out > len(received):
        reactor.iterate()
        with contextlib.suppress(BlockingIOError, ConnectionError):
            received += slow.recv(1024 * 1024)
        if time.monotonic() - began > PATIENCE:
            sys.exit(f"fault: {PATIENCE} s later the subscription is still paused, or has been cut")
last, count = int(received[-SIZE:]), len(received) // SIZE
if last != PRICES:
    sys.exit(f"fault: the subscriber shows {last:,} for good, but the price is {PRICES:,}")
if count > written + 2:
    sys.exit(f"fault: {count - written:,} old prices came after the pause: who had kept them?")
print(f"right: the subscriber has read {count:,} prices, the last of them {last:,}")
