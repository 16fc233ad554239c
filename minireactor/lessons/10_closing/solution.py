"""The fault repaired: loseConnection() waits until the producer says that it has finished."""

import socket
import sys
import threading
import time

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
            time.sleep(0.2)
            while data := client.recv(65536):
                results["read"] += len(data)
            results["end"] = "the end"
        except socket.timeout:
            results["end"] = "nothing"
        except ConnectionError:
            results["end"] = "a reset"
    reactor.callFromThread(reactor.stop)


class Watched(Answer):
    def connectionMade(self):
        super().connectionMade()
        reactor.callLater(0.1, self.look)

    def look(self):
        results["held"] = self.transport.pending


results = {"read": 0, "held": 0}
host = reactor.listenTCP(0, Factory.forProtocol(Watched), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
if results["read"] != TOTAL:
    sys.exit(f"fault: {results['read']:,} bytes arrived of {TOTAL:,}, and then {results['end']}")
if results["end"] == "nothing":
    sys.exit(f"fault: all {TOTAL:,} bytes have arrived, but not the end of the stream")
if results["end"] == "a reset":
    sys.exit("fault: all bytes have arrived, and then a reset: was the answer whole?")
if results["held"] > 128 * 1024:
    sys.exit(f"fault: {results['held']:,} bytes were pending: nobody told the producer to pause")
print(f"right: all {TOTAL:,} bytes have arrived, and the end of the stream")
