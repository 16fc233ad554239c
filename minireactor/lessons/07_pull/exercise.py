"""Find the fault: this producer sends a log's errors, and stands still in the middle."""

import socket
import sys
import threading
import time

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

# A log in 300 blocks, of which every third has no error in it; and then a quiet night.
LOG = [b"error %d\n" % n * 1000 if n % 3 else b"all is well\n" for n in range(1, 301)]
LOG[200:200] = [b"all is well\n"] * 2000


class Errors(Protocol):
    """Sends the blocks with errors, as a pull producer: each time it is asked for one."""

    def connectionMade(self):
        self.blocks = iter(LOG)
        self.transport.registerProducer(self, False)

    def resumeProducing(self):
        block = next(self.blocks, None)
        if block is None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif block.startswith(b"error"):
            self.transport.write(block)

    def stopProducing(self):
        """The client has gone, and nobody will ask again."""


# ---- The check: the fault is above this line ----

EXPECTED = b"".join(block for block in LOG if block.startswith(b"error"))
LONGEST = max(map(len, LOG))


class Watched(Errors):
    """Notes how much was pending at most, and which errors were raised."""

    def resumeProducing(self):
        try:
            super().resumeProducing()
        except Exception as error:
            results.append(type(error).__name__)
            reactor.stop()

    def connectionLost(self, reason):
        highest.append(self.transport.highest_pending)


def read(address):
    with socket.create_connection(address, timeout=1) as client:
        try:
            time.sleep(0.2)
            while data := client.recv(65536):
                received.extend(data)
            results.append("ended")
        except socket.timeout:
            results.append("stands still")
    reactor.callFromThread(reactor.stop)


received, results, highest = bytearray(), [], []
host = reactor.listenTCP(0, Factory.forProtocol(Watched), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
count, wanted = received.count(10) // 1000, EXPECTED.count(10) // 1000
if results[0] not in ("ended", "stands still"):
    sys.exit(f"fault: resumeProducing() raises {results[0]} after {count} of {wanted} blocks")
if results[0] == "stands still" and count < wanted:
    sys.exit(f"fault: {count} of {wanted} blocks have come, and for a second now nothing more")
if received != EXPECTED:
    sys.exit(f"fault: {count} of {wanted} blocks have come, and they are not the errors of the log")
if results[0] == "stands still":
    sys.exit("fault: all blocks have come, but not the end of the stream")
if max(highest) > 16 * 1024 + LONGEST:
    sys.exit(f"fault: a block has {LONGEST:,} bytes, and {max(highest):,} were pending at once")
print(f"right: {count} of {wanted} blocks have come, and the end")
