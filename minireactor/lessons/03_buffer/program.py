"""A socket that never waits takes what fits. The rest has to be kept: in a write buffer."""

import os
import selectors
import socket
import threading
import time

ANSWER = os.urandom(16 * 1024 * 1024)


class Connection:
    """A non-blocking socket with a write buffer, `pending`."""

    def __init__(self, selector, sock):
        sock.setblocking(False)
        self.selector = selector
        self.sock = sock
        self.pending = bytearray()
        self.sends = []  # how many bytes each send() took
        self.waiting = False  # whether the selector tells us when there is room

    def write(self, data):
        """Never waits, whatever the peer does."""
        self.pending += data
        if not self.waiting:
            self.flush()

    def flush(self):
        """Send what the kernel takes; wait for more room only while something is left."""
        try:
            sent = self.sock.send(self.pending)
        except BlockingIOError:
            sent = 0
        self.sends.append(sent)
        del self.pending[:sent]
        if bool(self.pending) != self.waiting:
            self.wait_for_room(bool(self.pending))

    def wait_for_room(self, wanted):
        self.waiting = wanted
        if wanted:
            self.selector.register(self.sock, selectors.EVENT_WRITE)
        else:
            self.selector.unregister(self.sock)


def read_all(client, received):
    while data := client.recv(65536):
        received += data


def wakeups(selector):
    count, end = 0, time.monotonic() + 0.05
    while (left := end - time.monotonic()) > 0:
        count += len(selector.select(left))
    return count


with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as selector:
    client = socket.create_connection(listener.getsockname())
    connection = Connection(selector, listener.accept()[0])
    connection.write(ANSWER)
    print(f"the answer has {len(ANSWER):,} bytes; the first send() took {connection.sends[0]:,}")
    print(f"{len(connection.pending):,} are left in the write buffer")
    received = bytearray()
    reader = threading.Thread(target=read_all, args=[client, received], daemon=True)
    reader.start()
    while connection.pending:
        for _ in selector.select():
            connection.flush()
    print(f"{len(connection.sends):,} calls of send() took all {sum(connection.sends):,}")
    print(f"50 ms idle, not asking for room: {wakeups(selector):,} wake-ups")
    connection.wait_for_room(True)
    print(f"50 ms idle, asking for room without need: {wakeups(selector):,} wake-ups")
    connection.sock.close()
    reader.join()
    client.close()
    print(f"the client got {len(received):,}")
    assert received == ANSWER and len(connection.sends) > 1
