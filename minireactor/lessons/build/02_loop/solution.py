"""My own reactor. `minireactor learn build check` judges it."""

import selectors
import socket

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ = selectors.EVENT_READ
READ_SIZE = 64 * 1024  # bytes


class Reactor:
    """The loop: it waits for events, and calls doRead() of whoever watches them."""

    def __init__(self):
        self._selector = selectors.DefaultSelector()

    def run(self):
        """Run the loop for ever."""
        while True:
            self.iterate(None)

    def iterate(self, delay=0.0):
        """Run one iteration, which waits at most `delay` seconds."""
        ready = self._selector.select(delay)
        for key, _ in ready:
            target = key.data
            target.doRead()

    def listenTCP(self, port, factory, backlog=50, interface=""):
        """Listen on `port`, or on any free one if it is 0."""
        return Port(self, port, factory, backlog, interface)

    def watch(self, target, events):
        """Wait for READ, or for nothing any more (0), on behalf of `target`."""
        if events:
            self._selector.register(target, events, target)
        else:
            self._selector.unregister(target)


class Port:
    """A listening socket: each connection to it gets a protocol of the factory."""

    def __init__(self, reactor, port, factory, backlog, interface):
        sock = socket.create_server((interface, port), backlog=backlog)
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.factory = factory
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

    def fileno(self):
        return self.socket.fileno()


class Connection:
    """A transport: the socket of one client, and the protocol that talks through it."""

    def __init__(self, reactor, sock):
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self._peer = sock.getpeername()

    def start(self, factory):
        """Build the protocol, and connect it."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self.reactor.watch(self, READ)
        self.protocol.makeConnection(self)

    def write(self, data):
        """Send bytes."""
        self.socket.sendall(data)

    def doRead(self):
        """Read: there is input, or its end."""
        data = self.socket.recv(READ_SIZE)
        if not data:
            self.connectionLost(Failure(error.ConnectionDone()))
        else:
            self.protocol.dataReceived(data)

    def connectionLost(self, reason):
        """Close. The protocol gets its last call."""
        self.reactor.watch(self, 0)
        self.socket.close()
        self.protocol.connectionLost(reason)

    def getPeer(self):
        return from_sockaddr(self._peer)

    def fileno(self):
        return self.socket.fileno()
