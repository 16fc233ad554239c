"""My own reactor. `minireactor learn build check` judges it."""

import socket

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ_SIZE = 64 * 1024  # bytes


class Reactor:
    """The loop."""

    def run(self):
        """Serve the port for ever."""

    def listenTCP(self, port, factory, backlog=50, interface=""):
        """Listen on `port`, or on any free one if it is 0."""
        self.port = Port(self, port, factory, backlog, interface)
        return self.port


class Port:
    """A listening socket: each connection to it gets a protocol of the factory."""

    def __init__(self, reactor, port, factory, backlog, interface):
        sock = socket.create_server((interface, port), backlog=backlog)
        self.reactor = reactor
        self.socket = sock
        self.factory = factory

    def doRead(self):
        """Accept one connection, and start it."""

    def getHost(self):
        return from_sockaddr(self.socket.getsockname())


class Connection:
    """A transport: the socket of one client, and the protocol that talks through it."""

    def __init__(self, reactor, sock):
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self._peer = sock.getpeername()

    def start(self, factory):
        """Build the protocol, and connect it."""

    def write(self, data):
        """Send bytes."""

    def connectionLost(self, reason):
        """Close. The protocol gets its last call."""

    def getPeer(self):
        return from_sockaddr(self._peer)
