"""Find the fault: this producer obeys pauseProducing(), and holds far too much all the same."""

import socket
import sys
import threading

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

PAGES, LINES, LINE = 8, 8192, b"%127d\n"  # a page of 8,192 lines of 128 bytes is 1 MB


class Report(Protocol):
    """Sends all pages, as a push producer."""

    page = 0

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while self.page < PAGES and not self.paused:
            for number in range(LINES):
                self.transport.write(LINE % number)
            self.page += 1
        if self.page == PAGES:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    stopProducing = pauseProducing

    def connectionLost(self, reason):
        results["highest"] = self.transport.highest_pending


results = {}


# ---- The check: the fault is above this line ----


def read(address):
    with socket.create_connection(address, timeout=5) as client:
        results["read"] = 0
        while data := client.recv(65536):
            results["read"] += len(data)
    reactor.callFromThread(reactor.stop)


host = reactor.listenTCP(0, Factory.forProtocol(Report), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
if results["read"] != PAGES * LINES * 128:
    sys.exit(f"fault: {results['read']:,} bytes arrived of {PAGES * LINES * 128:,}")
if results["highest"] > 64 * 1024 + 128:
    sys.exit(f"fault: the high mark is 65,536, and {results['highest']:,} bytes were pending")
print(f"right: never more than {results['highest']:,} bytes were pending")
