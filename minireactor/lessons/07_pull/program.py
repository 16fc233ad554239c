"""A file goes out through a pull producer: the transport asks for each chunk when it wants it."""

import socket
import tempfile
import threading

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

MB = 1024 * 1024
CHUNK = 64 * 1024
SIZE = 32 * MB


class FileProducer:
    """Reads a chunk each time it is asked for one, and no byte sooner."""

    def __init__(self, file, consumer):
        self.file = file
        self.consumer = consumer
        self.asked = 0

    def resumeProducing(self):
        self.asked += 1
        chunk = self.file.read(CHUNK)
        if chunk:
            self.consumer.write(chunk)
        else:
            self.consumer.unregisterProducer()
            self.consumer.loseConnection()

    def stopProducing(self):
        """The client has gone, and nobody will ask again."""


class SendFile(Protocol):
    """Sends the file to whoever connects."""

    def connectionMade(self):
        file.seek(0)
        self.producer = FileProducer(file, self.transport)
        self.transport.registerProducer(self.producer, False)  # asks at once
        print(f"registered: asked {self.producer.asked} time")
        reactor.callLater(0.3, self.stall_is_over)

    def stall_is_over(self):
        print(f"the client has read nothing yet: {self.so_far()}")
        results["stalled"] = file.tell()
        reading.set()

    def connectionLost(self, reason):
        print(f"the client has read everything:  {self.so_far()}")
        results["highest"] = self.transport.highest_pending

    def so_far(self):
        return f"asked {self.producer.asked} times, {file.tell() / MB:.2f} MB of the file read"


def read(address):
    """The client: connects, reads nothing until it is told to, then everything."""
    with socket.create_connection(address) as client:
        reading.wait()
        results["read"] = 0
        while data := client.recv(65536):
            results["read"] += len(data)
    reactor.callFromThread(reactor.stop)


reading = threading.Event()
results = {}
with tempfile.TemporaryFile() as file:
    file.truncate(SIZE)  # all zeros, but it is read like any other
    host = reactor.listenTCP(0, Factory.forProtocol(SendFile), interface="127.0.0.1").getHost()
    threading.Thread(target=read, args=[(host.host, host.port)], daemon=True).start()
    reactor.run()
print(f"the client got {results['read'] / MB:.2f} MB; at most {results['highest']:,} were pending")
assert results["read"] == SIZE and results["stalled"] < SIZE / 2
assert results["highest"] <= 16 * 1024 + CHUNK  # the low mark, and a chunk
