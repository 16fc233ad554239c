"""Find the fault: this server costs three calls a message, until an answer is a long one."""

import selectors
import socket
import sys

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Connection:
    """Sends before the loop sleeps, and saves itself the change of interest."""

    def __init__(self, sock, selector):
        sock.setblocking(False)
        self.sock, self.selector = sock, selector
        self.pending = b""
        self.interest = READ
        selector.register(sock, READ, self)

    def write(self, data):
        self.pending += data

    def flush(self):
        """Called before the loop sleeps if something was written, and when there is room again."""
        try:
            sent = self.sock.send(self.pending)
        except BlockingIOError:
            sent = 0
        self.pending = self.pending[sent:]

    def ask_for(self, interest):
        """Wait for READ, or for READ | WRITE."""
        if interest != self.interest:
            self.selector.modify(self.sock, interest, self)
            self.interest = interest


# ---- The check: the fault is above this line ----

SMALL, LARGE = 100, 8 * 1024 * 1024


class Selector(selectors.DefaultSelector):
    """Counts the changes of interest."""

    changes = 0

    def modify(self, *arguments):
        self.changes += 1
        return super().modify(*arguments)


class Watched(socket.socket):
    """Counts the calls of send() for which there was no room."""

    refusals = 0

    def send(self, data):
        if self.refusals == 300:
            sys.exit("fault: 300 times in a row there was no room: ask for room, and wait")
        self.refusals += 1
        sent = super().send(data)
        self.refusals = 0
        return sent

    def setblocking(self, flag):
        if flag:
            sys.exit("fault: a socket that blocks makes the whole loop wait for one client")
        super().setblocking(flag)


def turn(seconds):
    """Run one turn of the loop. Return whether anything was ready."""
    if written:
        written.clear()
        connection.flush()
    ready = selector.select(seconds)
    for _, events in ready:
        if events & READ:
            connection.write(b"x" * int(connection.sock.recv(100)))
            written.append(True)
        if events & WRITE:
            connection.flush()
    return bool(ready)


def received():
    """Return how many bytes the client has got since the last time."""
    count = 0
    try:
        while data := client.recv(1 << 20):
            count += len(data)
    except BlockingIOError:
        pass
    return count


selector, written = Selector(), []
with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname())
    connection = Connection(Watched(fileno=listener.accept()[0].detach()), selector)
client.setblocking(False)
for _ in range(SMALL):
    client.send(b"10")
    turn(1)
    turn(0)
    if received() != 10:
        sys.exit("fault: a small answer has not come at once")
if selector.changes:
    sys.exit(f"fault: {selector.changes:,} changes of interest for {SMALL} small answers")
client.send(b"%d" % LARGE)
turn(1)
count = quiet = 0
while count < LARGE and quiet < 20:
    quiet = 0 if turn(0.05) else quiet + 1
    count += received()
if count < LARGE:
    sys.exit(f"fault: {count:,} bytes of {LARGE:,} have come, and for a second no more")
idle = sum(turn(0.01) for _ in range(20))
if idle:
    sys.exit(f"fault: everything is sent, and the loop woke up {idle} times for nothing")
print(f"right: {selector.changes} changes of interest for a long answer, none for small ones")
