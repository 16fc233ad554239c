"""My own reactor. `minireactor learn build check` judges it."""

import heapq
import itertools
import selectors
import socket
import struct
import time

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
READ_SIZE = 64 * 1024  # bytes


class Reactor:
    """The loop. It calls doRead() and doWrite() of its targets: ports and connections."""

    seconds = staticmethod(time.monotonic)

    def __init__(self):
        self.targets = {}  # and the events that they wait for
        self._selector = selectors.DefaultSelector()
        self._calls = []  # a heap: the earliest comes first
        self._numbers = itertools.count()  # calls for the same time come in this order
        self._running = False

    def run(self):
        """Run the loop until stop(), then end all connections."""
        self._running = True
        while self._running:
            self.iterate(None)
        self.close()

    def stop(self):
        self._running = False

    def close(self):
        for target in list(self.targets):
            target.connectionLost(error.ConnectionLost())
        self.iterate()  # in which they are notified
        self._selector.close()

    def iterate(self, delay=0.0):
        """Run one iteration, which waits at most `delay` seconds: input first, then due calls."""
        if self._calls:
            until_due = max(0.0, self._calls[0][0] - self.seconds())
            delay = until_due if delay is None else min(delay, until_due)
        ready = self._selector.select(delay)
        now = self.seconds()
        for key, events in ready:
            target = key.data
            # An earlier event of this iteration may have closed the target.
            if events & READ & self.targets.get(target, 0):
                target.doRead()
            if events & WRITE & self.targets.get(target, 0):
                target.doWrite()
        while self._calls and self._calls[0][0] <= now:
            heapq.heappop(self._calls)[2].run()

    def watch(self, target, events):
        """Wait for READ, WRITE, both or (0) none of them on behalf of `target`."""
        before, self.targets[target] = self.targets.get(target, 0), events
        if before and events:
            self._selector.modify(target.socket, events, target)
        elif events:
            self._selector.register(target.socket, events, target)
        elif before:
            self._selector.unregister(target.socket)

    def forget(self, target):
        self.watch(target, 0)
        del self.targets[target]
        target.socket.close()

    def callLater(self, delay, f, *a, **k):
        """Call `f(*a, **k)` in `delay` seconds, in a later iteration."""
        call = DelayedCall(lambda: f(*a, **k))
        heapq.heappush(self._calls, (self.seconds() + delay, next(self._numbers), call))
        return call

    def listenTCP(self, port, factory, backlog=50, interface=""):
        return Port(self, port, factory, backlog, interface)


class DelayedCall:
    def __init__(self, function):
        self._function = function

    def active(self):
        return self._function is not None

    def cancel(self):
        self._function = None

    def run(self):
        function, self._function = self._function, None
        if function is not None:
            function()


class Connection:
    """A transport: the socket of one client, and the protocol that talks through it."""

    def __init__(self, reactor, sock):
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self.output = "open"  # then "finishing" (what is pending goes first), "ended"
        self._buffer = bytearray()
        self._host, self._peer = sock.getsockname(), sock.getpeername()

    def start(self, factory):
        """Connect a protocol, and begin to read."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self._update()
        self.protocol.makeConnection(self)

    def getHost(self):
        return from_sockaddr(self._host)

    def getPeer(self):
        return from_sockaddr(self._peer)

    def _update(self):
        reads = self.output == "open"
        self.reactor.watch(self, (READ if reads else 0) | (WRITE if self._buffer else 0))

    @property
    def pending(self):
        """How many bytes have been written that the kernel has not taken yet."""
        return len(self._buffer)

    def write(self, data):
        """Queue bytes. They are sent in a later iteration, when the socket is writable."""
        if self.output == "ended":
            return
        self._buffer += data
        self._update()

    def doWrite(self):
        sent = self._system_call(self.socket.send, self._buffer)
        if sent is None:
            return
        del self._buffer[:sent]
        self._update()
        self._finish()

    def doRead(self):
        data = self._system_call(self.socket.recv, READ_SIZE)
        if data == b"":
            self.connectionLost(error.ConnectionDone())
        elif data:
            self.protocol.dataReceived(data)

    def _system_call(self, call, argument):
        """Return the result of `call`; None if it would block, or the connection is lost."""
        try:
            return call(argument)
        except BlockingIOError:
            return None
        except OSError as reason:
            return self.connectionLost(error.ConnectionLost(reason))

    def loseConnection(self):
        """Close, once nothing is pending."""
        if self.output == "open":
            self.output = "finishing"
            self._update()
            self.reactor.callLater(0, self._finish)

    def _finish(self):
        if self.output == "finishing" and not self._buffer:
            self.connectionLost(error.ConnectionDone())

    def abortConnection(self):
        """Drop what is pending, and close with a reset."""
        if self in self.reactor.targets:
            reset = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self.connectionLost(error.ConnectionAborted())

    def connectionLost(self, reason):
        """Close at once. The protocol gets its last call in the next iteration."""
        if self in self.reactor.targets:
            self.output = "ended"
            self._buffer.clear()
            self.reactor.forget(self)
            self.reactor.callLater(0, self.protocol.connectionLost, Failure(reason))


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

    def stopListening(self, reason=None):
        if self in self.reactor.targets:
            self.reactor.forget(self)

    connectionLost = stopListening
