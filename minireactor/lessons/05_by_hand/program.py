"""A write buffer with two marks: it tells its producer when to pause, and when to resume."""

import select
import socket
import threading

HIGH, LOW = 64 * 1024, 16 * 1024
RECORD, TOTAL = bytes(16 * 1024), 32 * 1024 * 1024


class Connection:
    """The write buffer of lesson 3, which now compares what is pending with two marks."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self.pending = bytearray()
        self.producer, self.paused = None, False
        self.highest = self.pauses = 0

    def write(self, data):
        self.pending += data
        self.highest = max(self.highest, len(self.pending))
        if len(self.pending) > HIGH and not self.paused:
            self.paused = True  # first the state, then the call
            self.pauses += 1
            self.producer.pauseProducing()

    def flush(self):
        """To be called when the socket is writable."""
        try:
            del self.pending[: self.sock.send(self.pending)]
        except BlockingIOError:
            pass  # no room after all
        if len(self.pending) <= LOW and self.paused:
            self.paused = False
            self.producer.resumeProducing()


class Source:
    """Makes records until it is told to pause."""

    def __init__(self, connection):
        self.made, self.connection = 0, connection
        connection.producer = self

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while self.made < TOTAL and not self.paused:
            self.made += len(RECORD)
            self.connection.write(RECORD)


def read_all(client):
    while data := client.recv(65536):
        results["read"] += len(data)


results = {"read": 0}
with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname())
    connection = Connection(listener.accept()[0])
    source = Source(connection)
    source.resumeProducing()
    while select.select([], [connection.sock], [], 0.2)[1]:  # for as long as there is room
        connection.flush()
    print(f"the client reads nothing: {source.made:,} bytes of {TOTAL:,} were made")
    print(f"{len(connection.pending):,} of them are pending, and the producer is paused")
    (reader := threading.Thread(target=read_all, args=[client])).start()
    while connection.pending and select.select([], [connection.sock], []):
        connection.flush()
    connection.sock.close()
    reader.join()
    client.close()
print(f"the client has read {results['read']:,}, after {connection.pauses} pauses")
print(f"at most {connection.highest:,} bytes were pending")
assert results["read"] == TOTAL and connection.highest <= HIGH + len(RECORD)
