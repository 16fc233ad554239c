"""My own reactor. `minireactor learn build check` judges it."""

import selectors
import socket

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
READ_SIZE = 64 * 1024  # bytes


class Reactor:
    """The loop. It calls doRead() and doWrite() of its targets: ports and connections."""

    def __init__(self):
        self._selector = selectors.DefaultSelector()

    def run(self):
        """Run the loop for ever."""
        while True:
            self.iterate(None)

    def iterate(self, delay=0.0):
        """Run one iteration, which waits at most `delay` seconds."""
        ready = self._selector.select(delay)
        for key, events in ready:
            target = key.data
            if events & READ:
                target.doRead()
            if events & WRITE:
                target.doWrite()

    def watch(self, target, events):
        """Wait for READ, WRITE, both or (0) none of them on behalf of `target`."""
        if events:
            self._selector.register(target.socket, events, target)
        else:
            self._selector.unregister(target.socket)

    def forget(self, target):
        self.watch(target, 0)
        target.socket.close()

    def listenTCP(self, port, factory, backlog=50, interface=""):
        return Port(self, port, factory, backlog, interface)


class Connection:
    """A transport: the socket of one client, and the protocol that talks through it."""

    def __init__(self, reactor, sock):
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self._buffer = bytearray()
        self._host, self._peer = sock.getsockname(), sock.getpeername()

    def start(self, factory):
        """Connect a protocol, and begin to read."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self.reactor.watch(self, READ | WRITE)
        self.protocol.makeConnection(self)

    def getHost(self):
        return from_sockaddr(self._host)

    def getPeer(self):
        return from_sockaddr(self._peer)

    @property
    def pending(self):
        """How many bytes have been written that the kernel has not taken yet."""
        return len(self._buffer)

    def write(self, data):
        """Queue bytes. They are sent in a later iteration, when the socket is writable."""
        self._buffer += data

    def doWrite(self):
        if not self._buffer:
            return
        try:
            sent = self.socket.send(self._buffer)
        except BlockingIOError:
            return
        del self._buffer[:sent]

    def doRead(self):
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        if data == b"":
            self.connectionLost(error.ConnectionDone())
        else:
            self.protocol.dataReceived(data)

    def connectionLost(self, reason):
        """Close at once. The protocol gets its last call."""
        self._buffer.clear()
        self.reactor.forget(self)
        self.protocol.connectionLost(Failure(reason))


class Port:
    """A listening socket. Each connection to it gets a protocol of the factory."""

    def __init__(self, reactor, port, factory, backlog, host):
        self.socket = socket.create_server((host, port), backlog=backlog)
        self.socket.setblocking(False)
        self.reactor, self.factory = reactor, factory
        reactor.watch(self, READ)

    def doRead(self):
        """Accept one connection, and start it."""
        try:
            connection = Connection(self.reactor, self.socket.accept()[0])
        except OSError:
            return  # the client has gone again
        connection.start(self.factory)

    def getHost(self):
        return from_sockaddr(self.socket.getsockname())
