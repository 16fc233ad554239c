"""My own reactor. `minireactor learn build check` judges it."""

import heapq
import itertools
import selectors
import socket
import struct
import time

from minireactor import error, log
from minireactor.address import from_sockaddr
from minireactor.failure import Failure

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
READ_SIZE = 64 * 1024  # bytes
HIGH = 64 * 1024  # the high watermark ("mark"), in bytes
LINGER_SECONDS = 10.0  # how long a closing connection waits for the peer's end of the stream


class Reactor:
    """The loop: it waits for events, and calls doRead() and doWrite() of whoever watches them."""

    def __init__(self):
        self.running = False
        self._selector = selectors.DefaultSelector()
        self._watched = {}  # target: its events
        self._calls = []  # a heap: the earliest comes first
        self._numbers = itertools.count()  # calls for the same time keep their order

    def run(self):
        """Run the loop until stop(), then end all connections."""
        self.running = True
        try:
            while self.running:
                self.iterate(None)
        finally:
            self.close()

    def stop(self):
        self.running = False

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
            if events & READ & self._watched.get(target, 0):
                self.guard(target, target.doRead)
            if events & WRITE & self._watched.get(target, 0):
                self.guard(target, target.doWrite)
        due = []
        while self._calls and self._calls[0][0] <= now:
            due.append(heapq.heappop(self._calls)[2])
        for call in due:
            self.guard(call, call.run)

    def seconds(self):
        return time.monotonic()

    def callLater(self, delay, f, *a, **k):
        """Call `f(*a, **k)` in `delay` seconds, in a later iteration."""
        call = DelayedCall(lambda: f(*a, **k))
        heapq.heappush(self._calls, (self.seconds() + delay, next(self._numbers), call))
        return call

    def listenTCP(self, port, factory, backlog=50, interface=""):
        """Listen on `port`, or on any free one if it is 0."""
        return Port(self, port, factory, backlog, interface)

    def watch(self, target, events):
        """Wait for READ, WRITE, both or (0) none of them on behalf of `target`."""
        before = self._watched.pop(target, 0)
        if events:
            self._watched[target] = events
        if not before and events:
            self._selector.register(target, events, target)
        elif before and not events:
            self._selector.unregister(target)
        elif before != events:
            self._selector.modify(target, events, target)

    def guard(self, target, call, *args):
        """Make a call on behalf of `target`. What it raises is logged, and ends the target only."""
        try:
            call(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            failure = Failure()
            log.err(failure, f"in a callback of {target!r}")
            target.failed(failure)

    def close(self):
        for target in list(self._watched):
            target.connectionLost(Failure(error.ConnectionLost()))
        self._selector.close()


class DelayedCall:
    """A call of callLater(), until it has been made or cancelled."""

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

    def failed(self, reason):
        """Do nothing: the exception is logged already."""


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
        self.reactor.guard(connection, connection.start, self.factory)

    def failed(self, reason):
        """Do nothing: the exception is logged already."""

    def connectionLost(self, reason=None):
        if self.socket.fileno() >= 0:
            self.reactor.watch(self, 0)
            self.socket.close()

    def getHost(self):
        return from_sockaddr(self.socket.getsockname())

    def fileno(self):
        return self.socket.fileno()


class Connection:
    """A transport: the socket of one client, and the protocol that talks through it."""

    def __init__(self, reactor, sock):
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.protocol = None
        self.state = "open"  # later "closing" (what is pending goes first) or "ending", "closed"
        self.reading = False
        self.read_ended = False  # the peer has sent the end of its stream
        self.write_ended = False  # we have sent the end of ours
        self.producer = None
        self.streaming = False  # it is a push producer
        self.paused = False
        self.high = HIGH
        self._buffer = bytearray()
        self._ends_writing = False  # the end of our stream follows once nothing is pending
        self._linger = None
        self._peer = sock.getpeername()

    def start(self, factory):
        """Build the protocol, and connect it."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self.resumeProducing()
        self.protocol.makeConnection(self)

    def _update(self):
        """Watch the events for which there is something to do."""
        reads = (self.reading or self.state == "closing") and not self.read_ended
        self.reactor.watch(self, (READ if reads else 0) | (WRITE if self._buffer else 0))

    @property
    def pending(self):
        """How many bytes have been written that the kernel has not taken yet."""
        return len(self._buffer)

    def write(self, data):
        """Queue bytes. They are sent in a later iteration, when the socket is writable."""
        if not self.write_ended:
            self._buffer += data
            self._update()
            self._pause_if_above_high()

    def doWrite(self):
        """Send: the socket is writable."""
        try:
            sent = self.socket.send(self._buffer)
        except BlockingIOError:
            return
        except OSError as reason:
            self.connectionLost(Failure(error.ConnectionLost(reason)))
            return
        del self._buffer[:sent]
        self._update()
        self._resume_if_empty()
        self._finish()

    # Flow control. The state changes first. The producer is called last, as it may write again.

    def registerProducer(self, producer, streaming):
        """Let `producer` supply the data: a push producer if `streaming`, else a pull producer."""
        if self.producer is not None:
            raise RuntimeError(f"{self.producer!r} is registered; cannot register {producer!r}")
        if self.write_ended:
            self.reactor.guard(self, producer.stopProducing)
            return
        self.producer, self.streaming, self.paused = producer, streaming, False
        if not streaming:
            self.reactor.guard(self, producer.resumeProducing)

    def unregisterProducer(self):
        self.producer = None
        self._finish_soon()

    def _pause_if_above_high(self):
        flowing = self.producer is not None and self.streaming and not self.paused
        if flowing and self.pending > self.high:
            self.paused = True
            self.reactor.guard(self, self.producer.pauseProducing)

    def _resume_if_empty(self):
        waiting = self.producer is not None and (self.paused or not self.streaming)
        if waiting and not self._buffer:
            self.paused = False
            self.reactor.guard(self, self.producer.resumeProducing)

    # Reading. The transport is a push producer, too.

    def pauseProducing(self):
        self.reading = False
        self._update()

    def resumeProducing(self):
        self.reading = self.state == "open"
        self._update()

    def stopProducing(self):
        self.loseConnection()

    def doRead(self):
        """Read: there is input, its end, or an error. A closing connection drops its input."""
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as reason:
            self.connectionLost(Failure(error.ConnectionLost(reason)))
            return
        if not data:
            self.read_ended = True
            self._update()
            self._close_if_ended()
        elif self.state == "open":
            self.protocol.dataReceived(data)

    def loseConnection(self):
        """Close, once nothing is pending and no producer is registered."""
        if self.state == "open":
            self.state = "closing"
            self.pauseProducing()
            self.loseWriteConnection()

    def loseWriteConnection(self):
        """Close the write side under the same conditions; reading goes on."""
        self._ends_writing = True
        self._finish_soon()

    def abortConnection(self):
        """Drop what is pending, and close with a reset in the next iteration."""
        self.failed(Failure(error.ConnectionAborted()))

    def failed(self, reason):
        if self.state != "closed":
            self.state = "ending"
            self.write_ended = True
            self._buffer.clear()
            self.pauseProducing()
            self.reactor.callLater(0, self.connectionLost, reason)

    def _finish_soon(self):
        self.reactor.callLater(0, self.reactor.guard, self, self._finish)

    def _finish(self):
        """Send the end of our stream if it is due. A closing connection then waits for the peer's.

        A close before that would throw away what we sent, if the peer has sent unread input."""
        if self._buffer or self.producer is not None or not self._ends_writing:
            return
        if not self.write_ended:
            self.write_ended = True
            self.socket.shutdown(socket.SHUT_WR)
        if self.state == "closing" and self._linger is None:
            done = Failure(error.ConnectionDone())
            self._linger = self.reactor.callLater(LINGER_SECONDS, self.connectionLost, done)
        self._close_if_ended()

    def _close_if_ended(self):
        if self.read_ended:
            self.connectionLost(Failure(error.ConnectionDone()))

    def connectionLost(self, reason):
        """Close at once. The producer is stopped, then the protocol gets its last call."""
        if self.state == "closed":
            return
        self.state = "closed"
        self.write_ended = True
        self._buffer.clear()
        self.pauseProducing()
        if self._linger is not None:
            self._linger.cancel()
        if reason.check(error.ConnectionAborted):
            reset = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        self.socket.close()
        producer, self.producer = self.producer, None
        if producer is not None:
            self.reactor.guard(self, producer.stopProducing)
        if self.protocol is not None:
            self.reactor.guard(self, self.protocol.connectionLost, reason)

    def getPeer(self):
        return from_sockaddr(self._peer)

    def fileno(self):
        return self.socket.fileno()
