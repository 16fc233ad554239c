"""Helpers for tests of the proxy: plain sockets as its client and as its target."""

from __future__ import annotations

import socket
import time

from support import PATIENCE, connect, iterations, pump

from minireactor.proxy.factory import ProxyFactory
from minireactor.proxy.legs import CAN_SPLICE
from minireactor.transports.connection import LARGEST_READ

# The ways to move bytes: name -> (options of a ProxyFactory, arguments of the command). Each test
# on real sockets runs for each of them.
MODES = {"copy": ({"splice": False}, ["--copy"])}
MAX_AT_A_TIME = {"copy": LARGEST_READ}  # bytes that one iteration may add to pending
if CAN_SPLICE:
    from minireactor.transports.splice import PIPE_SIZE

    MODES["splice"] = ({}, [])
    MAX_AT_A_TIME["splice"] = PIPE_SIZE


class RecordingProxyFactory(ProxyFactory):
    """Records the names of its calls, and the last `proxy`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.calls = []
        self.proxy = None
        self.alive = 0

    def accepted(self, proxy):
        self.calls.append("accepted")
        self.proxy = proxy
        self.alive += 1

    def connected(self, proxy):
        self.calls.append("connected")

    def failed(self, proxy, reason):
        self.calls.append(type(reason.value).__name__)

    def ended(self, proxy):
        self.calls.append("ended")
        self.alive -= 1


def listening(backlog=16):
    """Return a plain listening socket, for a target."""
    return socket.create_server(("127.0.0.1", 0), backlog=backlog)


def unused_number():
    """Return the number of a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def full(closing):
    """Return the port number of a server that answers nobody, because its backlog is full."""
    server = closing(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    for _ in range(5):
        waiting = closing(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(server.getsockname())
    return server.getsockname()[1]


class Line:
    """A client and a target, plain sockets, and the `proxy` between them."""

    def __init__(self, reactor, closing, mode="copy", buffers=None, **options):
        self.reactor = reactor
        listener = closing(listening())
        if buffers:  # in bytes, small ones, so that the kernels of both ends fill up soon
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        self.factory = RecordingProxyFactory(
            "127.0.0.1", listener.getsockname()[1], **MODES[mode][0], **options
        )
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        if "high" in options:
            port.setWriteBufferLimits(options["high"], options.get("low"))
        self.client = closing(socket.socket())
        if buffers:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        self.client.connect(("127.0.0.1", port.getHost().port))
        pump(reactor, lambda: "connected" in self.factory.calls, "the target")
        self.target = closing(listener.accept()[0])
        self.proxy = self.factory.proxy
        self.port = port
        port.stopListening()

    def ends(self, source):
        """Return the plain sockets (source, sink). `source` is "client" or "target"."""
        ends = self.client, self.target
        return ends if source == "client" else ends[::-1]

    def transport(self, side):
        return self.proxy.client if side == "client" else self.proxy.target

    def until_ended(self):
        pump(self.reactor, lambda: "ended" in self.factory.calls, "the end of both")
        return self.proxy.why


def other(side):
    return "target" if side == "client" else "client"


def send_until_it_sticks(reactor, sock, data):
    """Send `data` with the reactor running, until it sticks. Return how many bytes went out."""
    sock.setblocking(False)
    sent = quiet = 0
    while quiet < 20 and sent < len(data):
        try:
            sent += sock.send(memoryview(data)[sent : sent + 65536])
            quiet = 0
        except BlockingIOError:
            quiet += 1
        reactor.iterate(0.001)
    return sent


def exchange(reactor, source, sink, data, sent=0):
    """Send `data` from one plain socket and return what arrives at the other, until all is there.

    The first `sent` bytes of it have been sent already."""
    source.setblocking(False)
    sink.setblocking(False)
    received = bytearray()
    deadline = time.monotonic() + PATIENCE
    while len(received) < len(data) and time.monotonic() < deadline:
        try:
            if sent < len(data):
                sent += source.send(memoryview(data)[sent : sent + 65536])
        except BlockingIOError:
            pass
        try:
            received += sink.recv(65536)
        except BlockingIOError:
            pass
        reactor.iterate(0)
    return bytes(received)


def end_of(reactor, sock):
    """Return how a stream ends: (the bytes before the end, "end" or "reset")."""
    sock.setblocking(False)
    received = bytearray()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            reactor.iterate(0.001)
            continue
        except (ConnectionResetError, BrokenPipeError):
            return bytes(received), "reset"
        if not data:
            return bytes(received), "end"
        received += data
    raise AssertionError(f"no end of the stream after {len(received)} bytes")


def is_quiet(sock):
    """Return whether a plain socket has neither bytes to read nor an end of the stream."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def accepted_client(reactor, closing, factory, before=None):
    """Listen with a factory and return a plain client, after the factory has accepted it."""
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    if before is not None:
        client.sendall(before)
    pump(reactor, lambda: "accepted" in factory.calls, "the client")
    port.stopListening()
    iterations(reactor, 2)
    return client
