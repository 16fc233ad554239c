"""Find the fault: this producer sends a log's errors, and stands still in the middle."""

import socket
import sys
import threading

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

# A log in 300 blocks; every third has no error in it.
LOG = [b"error %d\n" % n if n % 3 else b"all is well\n" * 1000 for n in range(1, 301)]


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


def read(address):
    with socket.create_connection(address, timeout=1) as client:
        try:
            while data := client.recv(65536):
                received.extend(data)
            results.append("ended")
        except socket.timeout:
            results.append("stands still")
    reactor.callFromThread(reactor.stop)


received, results = bytearray(), []
host = reactor.listenTCP(0, Factory.forProtocol(Errors), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
counts = f"{received.count(10)} of {EXPECTED.count(10)} errors"
if results[0] != "ended":
    sys.exit(f"fault: {counts} have come, and for a second now nothing more")
if received != EXPECTED:
    sys.exit(f"fault: the stream has ended after {counts}")
print(f"right: {counts} have come, and the end")
