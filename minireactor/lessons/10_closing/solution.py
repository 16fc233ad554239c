"""The fault repaired: loseConnection() waits until the producer says that it has finished."""

import socket
import sys
import threading

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

TOTAL = 8 * 1024 * 1024


class Answer(Protocol):
    """Sends its answer as a push producer, then closes."""

    made = 0

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while self.made < TOTAL and not self.paused:
            self.made += 1024
            self.transport.write(bytes(1024))
        if self.made == TOTAL:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    stopProducing = pauseProducing


# ---- The check: the fault is above this line ----


def read(address):
    with socket.create_connection(address, timeout=1) as client:
        try:
            while data := client.recv(65536):
                results["read"] += len(data)
            results["ended"] = True
        except socket.timeout:
            pass  # nothing has come for a second
    reactor.callFromThread(reactor.stop)


results = {"read": 0, "ended": False}
host = reactor.listenTCP(0, Factory.forProtocol(Answer), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
if results["read"] != TOTAL:
    sys.exit(f"fault: {results['read']:,} bytes arrived of {TOTAL:,}")
if not results["ended"]:
    sys.exit(f"fault: all {TOTAL:,} bytes have arrived, but not the end of the stream")
print(f"right: all {TOTAL:,} bytes have arrived, and the end of the stream")
