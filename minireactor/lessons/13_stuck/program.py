"""Four connections on which nothing moves. Three queues tell them apart, or almost."""

import contextlib
import socket

from minireactor import reactor
from minireactor.protocol import Factory, Protocol
from minireactor.transports.kernel import receive_queue, send_queue


class Server(Protocol):
    """The server's end, which each case uses in its own way."""

    def connectionMade(self):
        servers.append(self)

    def flood(self):
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while not self.paused:
            self.transport.write(bytes(16384))

    stopProducing = pauseProducing


def connect():
    """Return both ends of a new connection."""
    client = socket.create_connection((host.host, host.port))
    client.setblocking(False)
    wait(lambda: len(servers) > len(clients))
    clients.append(client)
    return client, servers[-1]


def wait(done=lambda: False):
    """Run the loop until that is true, or for a while."""
    for _ in range(50):
        if done():
            break
        reactor.iterate(0.01)


def report(case, client, server):
    ours = server.transport
    queues = ours.pending, send_queue(ours), receive_queue(ours)
    shown = "".join(f"{'?' if queue is None else f'{queue:,}':>12}" for queue in queues)
    print(f"{case:20}{shown}{receive_queue(client) or 0:>17,}")
    return [bool(queue) for queue in queues]


servers, clients = [], []
host = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1").getHost()
print(f"{'':20}{'pending':>12}{'send queue':>12}{'recv queue':>12}{'the client has':>17}")

client, server = connect()
server.flood()
wait()
assert report("client reads nothing", client, server)[0]

client, server = connect()
server.transport.pauseProducing()
with contextlib.suppress(BlockingIOError):
    while True:
        client.send(bytes(65536))
wait()
assert not report("server reads nothing", client, server)[0]

client, server = connect()
nobody = report("nobody speaks", client, server)

client, server = connect()
server.transport.write(b"here is your answer")
wait(lambda: receive_queue(client))
assert report("client hangs", client, server) == nobody
