"""Find the fault: this producer obeys pauseProducing(), and holds far too much all the same."""

import socket
import sys
import threading
import time

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
    """The client: reads slowly at first, and looks at each line."""
    with socket.create_connection(address, timeout=2) as client:
        time.sleep(0.2)
        rest, number = b"", 0
        try:
            while data := client.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if int(line) != number % LINES:
                        results["wrong"] = (number, int(line))
                        break
                    number += 1
                if "wrong" in results:
                    break
        except socket.timeout:
            results["stands still"] = True
        results["read"] = number
    reactor.callFromThread(reactor.stop)


host = reactor.listenTCP(0, Factory.forProtocol(Report), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.callLater(15, reactor.stop)
reactor.run()
if "wrong" in results:
    right, wrong = results["wrong"]
    page, line = divmod(right, LINES)
    sys.exit(f"fault: on page {page + 1}, line {line:,} was to come, and line {wrong:,} came")
if results.get("read") != PAGES * LINES:
    sys.exit(f"fault: {results.get('read', 0):,} lines arrived of {PAGES * LINES:,}")
if "stands still" in results:
    sys.exit("fault: all lines have arrived, but not the end of the stream")
if results["highest"] > 64 * 1024 + 128:
    sys.exit(f"fault: the high mark is 65,536, and {results['highest']:,} bytes were pending")
print(f"right: never more than {results['highest']:,} bytes were pending")
