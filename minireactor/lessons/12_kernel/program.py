"""How many bytes the kernel takes for a client that reads nothing, and what limits them."""

import contextlib
import select
import socket

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

SMALL, RECORD = 64 * 1024, bytes(16 * 1024)
# Not every system has this option. The kernel counts against it what it could not send yet.
UNSENT = getattr(socket, "TCP_NOTSENT_LOWAT", None)


def taken_by_socket(receive_buffer=0, send_buffer=0, unsent=0):
    """Return how many bytes a plain socket takes for a peer that reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        if receive_buffer:  # on the client's side, and before it connects
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        if send_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if unsent:
            connection.setsockopt(socket.IPPROTO_TCP, UNSENT, unsent)
        connection.setblocking(False)
        count = 0
        with connection, contextlib.suppress(BlockingIOError):
            while select.select([], [connection], [], 0.1)[1]:
                count += connection.send(RECORD)
        return count


class Source(Protocol):
    """A push producer without an end."""

    def connectionMade(self):
        sources.append(self)
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while not self.paused:
            self.transport.write(RECORD)

    stopProducing = pauseProducing


def taken_by_server(unsent_limit):
    """Return how many bytes the kernel takes from a server with that limit, None by default."""
    sources.clear()
    port = reactor.listenTCP(0, Factory.forProtocol(Source), interface="127.0.0.1")
    port.setUnsentLimit(unsent_limit)
    host = port.getHost()
    with socket.create_connection((host.host, host.port)):
        for _ in range(40):
            reactor.iterate(0.01)
        return sources[0].transport.bytes_out


def report(what, count):
    results.append(count)
    print(f"{what:34}{count:>12,} bytes")


sources, results = [], []
print("a client reads nothing, and the kernel takes")
report("with nothing set", taken_by_socket())
report("with SO_RCVBUF of 64 KiB", taken_by_socket(receive_buffer=SMALL))
report("with SO_SNDBUF of 64 KiB", taken_by_socket(send_buffer=SMALL))
if UNSENT:
    report("with TCP_NOTSENT_LOWAT of 128 KiB", taken_by_socket(unsent=2 * SMALL))
report("from minireactor, without a limit", taken_by_server(0))
report("from minireactor, as it is", taken_by_server(None))
assert results[2] < results[0] and results[-1] <= results[-2]
