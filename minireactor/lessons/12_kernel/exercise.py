"""Find the fault: this server limits what the kernel holds, and holds just as much itself."""

import socket
import sys
import threading

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

TOTAL, RECORD = 16 * 1024 * 1024, 16 * 1024


class Source(Protocol):
    """Sends its records to whoever connects."""

    made = 0

    def connectionMade(self):
        self.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        while self.made < TOTAL:
            self.transport.write(bytes(RECORD))
            self.made += RECORD
        self.transport.loseConnection()


# ---- The check: the fault is above this line ----


class Watched(Source):
    def connectionMade(self):
        super().connectionMade()
        reactor.callLater(0.3, self.look)

    def look(self):
        results["pending"] = self.transport.pending
        results["kernel"] = self.transport.bytes_out
        reading.set()

    def connectionLost(self, reason):
        super().connectionLost(reason)
        results.setdefault("pending", 0)
        reading.set()


def read(address):
    with socket.create_connection(address, timeout=2) as client:
        reading.wait(3)
        try:
            while data := client.recv(65536):
                results["read"] += len(data)
        except OSError:
            pass  # nothing for 2 s, or a reset
    reactor.callFromThread(reactor.stop)


results, reading = {"read": 0, "kernel": 0}, threading.Event()
host = reactor.listenTCP(0, Factory.forProtocol(Watched), interface="127.0.0.1").getHost()
threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
pending, kernel = results["pending"], results["kernel"]
if pending > 256 * 1024:
    sys.exit(f"fault: the kernel has {kernel:,} bytes, the server {pending:,}, for one client")
if kernel > 1024 * 1024:
    sys.exit(f"fault: the server has {pending:,} bytes, the kernel {kernel:,}, for one client")
if results["read"] != TOTAL:
    sys.exit(f"fault: {results['read']:,} bytes have arrived of {TOTAL:,}")
print(f"right: one client costs {pending:,} bytes here and {kernel:,} in the kernel")
