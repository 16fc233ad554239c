"""One server, three ways to answer, and how many system calls a message costs with each."""

import selectors
import socket
from collections import Counter

MESSAGES, NAMES = 2000, ("select", "recv", "modify", "send")
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Echo:
    """A loop with one connection, which it answers. It counts its system calls."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self.pending, self.calls = b"", Counter()
        self.selector, self.interest = selectors.DefaultSelector(), READ
        self.selector.register(sock, READ)

    def turn(self):
        self.calls["select"] += 1
        for _, events in self.selector.select():
            if events & READ:
                self.calls["recv"] += 1
                self.write(self.sock.recv(65536))
            if events & WRITE:
                self.flush()

    def write(self, data):
        self.pending += data
        self.watch(READ | WRITE)

    def flush(self):
        self.calls["send"] += 1
        self.pending = self.pending[self.sock.send(self.pending) :]
        self.watch(READ | WRITE if self.pending else READ)

    def watch(self, interest):
        if interest != self.interest:
            self.calls["modify"] += 1
            self.selector.modify(self.sock, interest)
            self.interest = interest


class FlushFirst(Echo):
    """Offers what is pending to the kernel before the loop sleeps."""

    def turn(self):
        super().turn()
        if self.pending:
            self.flush()


class AskForLeftovers(FlushFirst):
    """Asks for room only if the kernel has not taken all: in flush()."""

    def write(self, data):
        self.pending += data


def measure(server):
    """Return how many calls of each kind a message costs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        echo = server(listener.accept()[0])
    with client, echo.sock, echo.selector:
        for number in range(1, MESSAGES + 1):
            client.send(b"hello")
            while echo.calls["send"] < number:
                echo.turn()
            assert client.recv(100) == b"hello"
    return [echo.calls[name] / MESSAGES for name in NAMES]


print(f"{'calls a message':22}" + "".join(f"{name:>8}" for name in [*NAMES, "all"]))
counts = [measure(server) for server in (Echo, FlushFirst, AskForLeftovers)]
for server, found in zip(("first version", "flush before sleeping", "ask for leftovers"), counts):
    print(f"{server:22}" + "".join(f"{count:8.2f}" for count in [*found, sum(found)]))
assert sum(counts[0]) > sum(counts[1]) > sum(counts[2]) == 3
