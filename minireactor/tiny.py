"""A whole reactor in one file, for reading aloud: what one would write first, without any trick.

The names are Twisted's, and the rules are those of `core/README.md`. These are left out: B1 for
writeSequence, B3 and B4 (an exception of the program ends the loop; other threads may not call it),
C2 (connectionLost waits for the end of the peer's stream), R1 for what a line receiver holds, R2 (a
paused connection does not see that its peer has gone), R4 and T5 (an iteration has no limit), T2
and T3 (a look-up blocks, one address is tried, without a timeout), T4 (a forked child may delay a
reset), and T6 (the kernel's own buffers have no limit). A factory builds a protocol for each
connection; it gets no call of doStart(), doStop() and startedConnecting().
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import socket
import struct
import time
from typing import Any, Callable

from minireactor import error
from minireactor.address import from_sockaddr
from minireactor.core.flow import HIGH, LOW, checked_marks
from minireactor.failure import Failure

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
READ_SIZE = 64 * 1024  # bytes
LINGER_SECONDS = 10.0  # how long a closing connection waits for the end of the peer's stream


class Reactor:
    """The loop. It calls doRead() and doWrite() of its targets: ports and connections."""

    seconds = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.targets: dict[Any, int] = {}  # and the events that they wait for
        self._selector = selectors.DefaultSelector()
        self._calls: list[tuple[float, int, DelayedCall]] = []  # a heap: the earliest comes first
        self._numbers = itertools.count()  # calls for the same time come in this order
        self._running = False

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run the loop until stop(), then end all connections."""
        self._running = True
        while self._running:
            self.iterate(None)
        self.close()

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        for target in list(self.targets):
            target.connectionLost(error.ConnectionLost())
        self.iterate()  # in which they are notified
        self._selector.close()

    def iterate(self, delay: float | None = 0.0) -> None:
        """Run one iteration, which waits at most `delay` seconds: input first, then due calls."""
        if self._calls:
            until_due = max(0.0, self._calls[0][0] - self.seconds())
            delay = until_due if delay is None else min(delay, until_due)
        ready = self._selector.select(delay)
        now = self.seconds()
        for key, events in ready:
            target = key.data
            # An earlier event of this iteration may have paused or closed the target.
            if events & READ & self.targets.get(target, 0):
                target.doRead()
            if events & WRITE & self.targets.get(target, 0):
                target.doWrite()
        while self._calls and self._calls[0][0] <= now:
            heapq.heappop(self._calls)[2].run()

    def watch(self, target: Any, events: int) -> None:
        """Wait for READ, WRITE, both or (0) none of them on behalf of `target`."""
        before, self.targets[target] = self.targets.get(target, 0), events
        if before and events:
            self._selector.modify(target.socket, events, target)
        elif events:
            self._selector.register(target.socket, events, target)
        elif before:
            self._selector.unregister(target.socket)

    def forget(self, target: Any) -> None:
        self.watch(target, 0)
        del self.targets[target]
        target.socket.close()

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> DelayedCall:
        """Call `f(*a, **k)` in `delay` seconds, in a later iteration."""
        call = DelayedCall(lambda: f(*a, **k))
        heapq.heappush(self._calls, (self.seconds() + delay, next(self._numbers), call))
        return call

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        return Port(self, port, factory, backlog, interface)

    def connectTCP(self, host: str, port: int, factory: Any) -> Connector:
        return Connector(self, host, port, factory)


class DelayedCall:
    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function

    def active(self) -> bool:
        return self._function is not None

    def cancel(self) -> None:
        self._function = None

    def run(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


class Connection:
    """A transport: a consumer of what its protocol writes, a push producer of what it reads."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.protocol: Any = None
        self.input = "paused"  # or "flowing"; then "dropped" (we are closing), "ended"
        self.output = "open"  # then "finishing" (what is pending goes first), "ended"
        self.is_closing = False  # no half-close is notified any more
        self.producer: Any = None
        self.flow_state = "none"  # or "flowing", "paused" (a push producer), "pull"
        self.high, self.low = HIGH, LOW  # the watermarks ("marks"), in bytes
        self._buffer = bytearray()
        self._host, self._peer = sock.getsockname(), sock.getpeername()

    def start(self, factory: Any) -> None:
        """Connect a protocol, and begin to read."""
        self.protocol = factory.buildProtocol(self.getPeer())
        self.resumeProducing()
        self.protocol.makeConnection(self)

    def getHost(self) -> Any:
        return from_sockaddr(self._host)

    def getPeer(self) -> Any:
        return from_sockaddr(self._peer)

    def _update(self) -> None:
        reads = self.input in ("flowing", "dropped")
        self.reactor.watch(self, (READ if reads else 0) | (WRITE if self._buffer else 0))

    # Writing. The state changes first, and the producer is called last: it may write again.

    @property
    def pending(self) -> int:
        """How many bytes have been written that the kernel has not taken yet."""
        return len(self._buffer)

    def write(self, data: Any) -> None:
        """Queue bytes. They are sent in a later iteration, when the socket is writable."""
        if self.output == "ended":
            return
        self._buffer += data
        self._update()
        if self.flow_state == "flowing" and self.pending > self.high:
            self.flow_state = "paused"
            self.producer.pauseProducing()

    def doWrite(self) -> None:
        sent = self._system_call(self.socket.send, self._buffer)
        if sent is None:
            return
        del self._buffer[:sent]
        self._update()
        if self.flow_state in ("paused", "pull") and self.pending <= self.low:
            self.flow_state = "flowing" if self.flow_state == "paused" else "pull"
            self.producer.resumeProducing()
        self._finish()

    def setWriteBufferLimits(self, high: int = HIGH, low: int | None = None) -> None:
        self.high, self.low = checked_marks(high, low)
        self.write(b"")  # pauses the producer if pending is above the new mark

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let `producer` supply the data: a push producer if `streaming`, else a pull producer."""
        if self.producer is not None:
            raise RuntimeError(f"{self.producer!r} is registered; cannot register {producer!r}")
        if self.output == "ended":
            producer.stopProducing()
            return
        self.producer, self.flow_state = producer, "flowing" if streaming else "pull"
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer, self.flow_state = None, "none"
        self.reactor.callLater(0, self._finish)

    def pauseProducing(self) -> None:
        if self.input == "flowing":
            self.input = "paused"
            self._update()

    def resumeProducing(self) -> None:
        if self.input == "paused":
            self.input = "flowing"
            self._update()

    def doRead(self) -> None:
        data = self._system_call(self.socket.recv, READ_SIZE)
        if data == b"":
            self.input = "ended"
            self._update()
            self._half_ended("readConnectionLost")
        elif data and self.input == "flowing":
            self.protocol.dataReceived(data)

    def _system_call(self, call: Callable[[Any], Any], argument: Any) -> Any:
        """Return the result of `call`; None if it would block, or the connection is lost."""
        try:
            return call(argument)
        except BlockingIOError:
            return None
        except OSError as reason:
            return self.connectionLost(error.ConnectionLost(reason))

    def loseConnection(self) -> None:
        """Close, once nothing is pending and no producer is registered."""
        self.is_closing = True
        if self.input != "ended":
            self.input = "dropped"  # unread input would make the kernel drop what is not sent yet
            self._update()
        self.loseWriteConnection()

    stopProducing = loseConnection

    def loseWriteConnection(self) -> None:
        """Close the write side under the same conditions; reading goes on."""
        if self.output == "open":
            self.output = "finishing"
        self.reactor.callLater(0, self._finish)

    def _finish(self) -> None:
        """Send the end of our stream. A closing connection then reads until the peer's end."""
        if self.output == "open" or self._buffer or self.producer is not None:
            return
        if self.input == "dropped":
            self.reactor.callLater(LINGER_SECONDS, self.connectionLost, error.ConnectionDone())
        if self.output == "finishing":
            self.output = "ended"
            self._system_call(self.socket.shutdown, socket.SHUT_WR)
            self._half_ended("writeConnectionLost")

    def _half_ended(self, which: str) -> None:
        """Notify a half-closeable protocol. Close after both halves, or if it is not such a one."""
        if hasattr(self.protocol, which) and not self.is_closing:
            getattr(self.protocol, which)()
        elif self.output == "open":
            self.output = "ended"
        if self.input == self.output == "ended":
            self.connectionLost(error.ConnectionDone())

    def abortConnection(self) -> None:
        """Drop what is pending, and close with a reset."""
        if self in self.reactor.targets:
            reset = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self.connectionLost(error.ConnectionAborted())

    def connectionLost(self, reason: BaseException) -> None:
        """Close at once. Producer and protocol are notified in the next iteration."""
        if self in self.reactor.targets:
            self.input = self.output = "ended"
            self._buffer.clear()
            self.reactor.forget(self)
            self.reactor.callLater(0, self._notify, reason)

    def _notify(self, reason: BaseException) -> None:
        producer, self.producer, self.flow_state = self.producer, None, "none"
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))


class Port:
    """A listening socket. Each connection to it gets a protocol of the factory."""

    def __init__(self, reactor: Reactor, port: int, factory: Any, backlog: int, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, port), family=family, backlog=backlog)
        self.socket.setblocking(False)
        self.reactor, self.factory = reactor, factory
        reactor.watch(self, READ)

    def doRead(self) -> None:
        try:
            connection = Connection(self.reactor, self.socket.accept()[0])
        except OSError:
            return  # the client has gone again
        connection.start(self.factory)

    def getHost(self) -> Any:
        return from_sockaddr(self.socket.getsockname())

    def stopListening(self, reason: Any = None) -> None:
        if self in self.reactor.targets:
            self.reactor.forget(self)

    connectionLost = stopListening


class Connector:
    """An attempt to connect. It leads to a connection, or to clientConnectionFailed()."""

    def __init__(self, reactor: Reactor, host: str, port: int, factory: Any) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.setblocking(False)
        self.reactor, self.factory = reactor, factory
        self.socket.connect_ex((host, port))
        reactor.watch(self, WRITE)  # writable means that the attempt has ended

    def doWrite(self) -> None:
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.connectionLost(error.getConnectError((code, os.strerror(code))))
        else:
            self.reactor.watch(self, 0)
            del self.reactor.targets[self]
            Connection(self.reactor, self.socket).start(self.factory)

    def connectionLost(self, reason: BaseException) -> None:
        self.reactor.forget(self)
        self.factory.clientConnectionFailed(self, Failure(reason))


def join(a: Connection, b: Connection) -> None:
    """Pass the bytes and the end of each connection on to the other: that is a proxy."""
    a.protocol, b.protocol = Leg(a, b), Leg(b, a)


class Leg:
    """The protocol of one direction. If the far peer is slow, `far` pauses `near`."""

    def __init__(self, near: Connection, far: Connection) -> None:
        self.far, self.dataReceived = far, far.write
        far.registerProducer(near, True)

    def readConnectionLost(self) -> None:
        self.far.unregisterProducer()
        self.far.loseWriteConnection()

    def connectionLost(self, reason: Failure) -> None:
        if not reason.check(error.ConnectionDone):
            self.far.abortConnection()
