"""My own reactor. `minireactor learn build check` judges it."""

import socket

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ_SIZE = 64 * 1024  # bytes


class Reactor:
    """The loop. It calls doRead() of its port."""

    def run(self):
        """Serve the port for ever."""
        while True:
            self.port.doRead()

    def listenTCP(self, port, factory, backlog=50, interface=""):
        self.port = Port(self, port, factory, backlog, interface)
        return self.port


class Connection:
    """A transport: the socket of one client, and the protocol that talks through it."""

    def __init__(self, reactor, sock):
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self._host, self._peer = sock.getsockname(), sock.getpeername()

    def start(self, factory):
        """Connect a protocol, and give it all input until its end."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self.protocol.makeConnection(self)
        while data := self.socket.recv(READ_SIZE):
            self.protocol.dataReceived(data)
        self.connectionLost(error.ConnectionDone())

    def getHost(self):
        return from_sockaddr(self._host)

    def getPeer(self):
        return from_sockaddr(self._peer)

    def write(self, data):
        """Send bytes."""
        self.socket.sendall(data)

    def connectionLost(self, reason):
        """Close at once. The protocol gets its last call."""
        self.socket.close()
        self.protocol.connectionLost(Failure(reason))


class Port:
    """A listening socket. Each connection to it gets a protocol of the factory."""

    def __init__(self, reactor, port, factory, backlog, host):
        self.socket = socket.create_server((host, port), backlog=backlog)
        self.reactor, self.factory = reactor, factory

    def doRead(self):
        """Accept one connection, and start it."""
        connection = Connection(self.reactor, self.socket.accept()[0])
        connection.start(self.factory)

    def getHost(self):
        return from_sockaddr(self.socket.getsockname())
