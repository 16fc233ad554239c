"""My own reactor. `minireactor learn build check` judges it."""

import selectors
import socket

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ = selectors.EVENT_READ
READ_SIZE = 64 * 1024  # bytes


class Reactor:
    """The loop. It calls doRead() of its targets: ports and connections."""

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

    def watch(self, target, events):
        """Wait for READ or (0) for nothing on behalf of `target`."""
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
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self._host, self._peer = sock.getsockname(), sock.getpeername()

    def start(self, factory):
        """Connect a protocol, and begin to read."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self.reactor.watch(self, READ)
        self.protocol.makeConnection(self)

    def getHost(self):
        return from_sockaddr(self._host)

    def getPeer(self):
        return from_sockaddr(self._peer)

    def write(self, data):
        """Send bytes."""
        self.socket.sendall(data)

    def doRead(self):
        data = self.socket.recv(READ_SIZE)
        if data == b"":
            self.connectionLost(error.ConnectionDone())
        else:
            self.protocol.dataReceived(data)

    def connectionLost(self, reason):
        """Close at once. The protocol gets its last call."""
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
