"""Find the fault: with this connection, bytes arrive that were never written in that order."""

import select
import socket
import sys


class Connection:
    """A socket that never waits. What the kernel does not take at once is kept in `pending`."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self.pending = b""

    def write(self, data):
        sent = self.send(data)
        self.pending += data[sent:]

    def flush(self):
        """To be called when the socket is writable."""
        sent = self.send(self.pending)
        self.pending = self.pending[sent:]

    def send(self, data):
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0


# ---- The check: the fault is above this line ----

LONG, END = bytes(16 * 1024 * 1024), b"the end"
ATTEMPTS = 1000


class Watched(socket.socket):
    """The server's socket. It does not let anybody wait for room."""

    refusals = 0  # in a row

    def send(self, data):
        if self.refusals == ATTEMPTS:
            sys.exit(f"fault: {ATTEMPTS:,} times in a row there was no room: write() must not wait")
        self.refusals += 1
        sent = super().send(data)
        self.refusals = 0
        return sent

    def sendall(self, data):
        sys.exit("fault: sendall() either waits, or fails without saying how much it has sent")

    def setblocking(self, flag):
        if flag:
            sys.exit("fault: a socket that blocks makes the whole loop wait for one client")
        super().setblocking(flag)


with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname(), timeout=2)
    connection = Connection(Watched(fileno=listener.accept()[0].detach()))
received = bytearray()
connection.write(LONG)
while not select.select([], [connection.sock], [], 0)[1]:
    received += client.recv(65536)
connection.write(END)  # now that the socket is writable again
while connection.pending:
    connection.flush()
    received += client.recv(1024 * 1024)
connection.sock.close()
while data := client.recv(1024 * 1024):
    received += data
client.close()
if len(received) != len(LONG + END):
    sys.exit(f"fault: {len(LONG + END):,} bytes were written, and {len(received):,} arrived")
place = received.find(END)
if place != len(LONG):
    sys.exit(f"fault: what was written last overtook {len(LONG) - place:,} bytes")
print(f"right: {len(received):,} bytes arrived in the order in which they were written")
