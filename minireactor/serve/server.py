"""The server behind `minireactor serve`: one port, who is connected to it, its limits, its end.

    server = Server(reactor, factory, idle_timeout=60)
    server.listen("127.0.0.1", 1234)
    reactor.run()

`Server` prints nothing and takes no signals, so that it can be used from any program.
"""

from __future__ import annotations

from reprlib import repr
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core import flow
from minireactor.core.slices import Walk
from minireactor.log import logger
from minireactor.protocol import Factory
from minireactor.serve.timeouts import Timeouts, still_in
from minireactor.transports.keepalive import set_keepalive
from minireactor.transports.port import BACKLOG

if TYPE_CHECKING:
    import socket

    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.transports.port import Port
    from minireactor.transports.tcp import Connection

WARN_SECONDS = 10.0  # between two warnings that the server is full


class Totals:
    """What a server has done: connections (number), bytes in and out (of the application's, which
    the kernel has given and taken), pauses of producers, and the most bytes that have been pending
    for one connection."""

    __slots__ = ("bytes_in", "bytes_out", "connections", "highest_pending", "pauses")

    def __init__(self) -> None:
        self.connections = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.pauses = 0
        self.highest_pending = 0

    def add(self, connection: Connection, *others: Connection) -> None:
        """Count a client's connection; `others` are those that were made on its behalf."""
        self.connections += 1
        self.bytes_in += connection.bytes_in
        self.bytes_out += connection.bytes_out
        for part in (connection, *others):
            self.pauses += part.pauses
            self.highest_pending = max(self.highest_pending, part.highest_pending)

    def copy(self) -> Totals:
        other = Totals()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def __str__(self) -> str:
        return (
            f"connections {self.connections}, bytes in {self.bytes_in}, "
            f"bytes out {self.bytes_out}, pauses {self.pauses}, "
            f"highest pending {self.highest_pending} bytes"
        )


class Admission(Factory):
    """Passes clients on to the application's factory, and rejects those above the limit."""

    def __init__(self, server: Server, factory: Any) -> None:
        self._server = server
        self._factory = factory

    def prepare_listening(self, sock: socket.socket) -> None:
        prepare = getattr(self._factory, "prepare_listening", None)
        if prepare is not None:
            prepare(sock)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Any:
        if self._server.is_full():
            self._server.reject()
            return None
        protocol = self._server.expected = self._factory.buildProtocol(addr)
        return protocol

    def logPrefix(self) -> str:
        return type(self._factory).__name__


class Server:
    """Serves a factory on one port of `reactor`, to which it adds a tap.

    max_connections: a further client is closed at once, and a warning logged, at most every 10 s.
    idle_timeout: seconds without a byte in either direction, after which a connection is closed.
    stall_timeout: seconds in which a peer takes none of the bytes that wait for it, after which
        it is aborted. Both timeouts are kept to within a quarter.
    keepalive: seconds of silence after which the system asks a peer whether it is still there.
    unsent: bytes that the kernel holds unsent for a peer that does not read, about; 0 for no
        limit, None for twice the high mark. See Port.setUnsentLimit().
    on_event: called as `on_event(event, connection, reason)` for "connectionMade",
        "pauseProducing", "resumeProducing" (of one that was paused) and "connectionLost", whose
        reason is a Failure, else None. If it raises, that is logged.
    on_stopped: called once, when `stop()` has closed the last connection.

    Outgoing connections that the application makes are none of the server's.
    """

    def __init__(
        self,
        reactor: Reactor,
        factory: Any,
        *,
        max_connections: int | None = None,
        idle_timeout: float | None = None,
        stall_timeout: float | None = None,
        keepalive: int | None = None,
        unsent: int | None = None,
        on_event: Callable[[str, Connection, Failure | None], None] | None = None,
        on_stopped: Callable[[], object] | None = None,
    ) -> None:
        self.reactor = reactor
        self.connections: set[Connection] = set()
        self.paused: set[Connection] = set()
        self.port: Port | None = None
        self.stopping = False
        self.rejected = 0
        self.cut = 0  # connections that abort() has ended after stop()
        self.expected: Any = None  # the protocol that the next connection made here will have
        self._admission = Admission(self, factory)
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._keepalive = keepalive
        self._unsent = unsent
        self._on_event = on_event
        self._on_stopped = on_stopped
        self._ended = Totals()  # of the connections that have ended
        self._timeouts = Timeouts(reactor, idle_timeout, stall_timeout, self._idle, self._stalled)
        self._ending: Walk[Connection] | None = None
        self._aborting: Any = None
        self._next_warning = -1.0
        self._unreported = 0

    def listen(
        self, host: str, port: int, high: int = flow.HIGH, low: int | None = None
    ) -> IPv4Address | IPv6Address:
        """Begin to serve; the address, with the real port number where 0 was given.

        `high` and `low` are the marks of each connection, in bytes, as in setWriteBufferLimits().
        Raises CannotListenError, after which another call may try another port; ValueError unless
        0 <= low < high; RuntimeError if it listens already."""
        marks = flow.checked_marks(high, low)
        if self.port is not None:
            raise RuntimeError("this Server listens already; make another one for another port")
        self.reactor.add_tap(self._tap)
        try:
            self.port = self.reactor.listenTCP(port, self._admission, BACKLOG, host)
        except BaseException:
            self.reactor.remove_tap(self._tap)
            raise
        self.port.setWriteBufferLimits(*marks)
        self.port.setUnsentLimit(self._unsent)
        if self._keepalive is not None:
            for sock in self.port.sockets():
                set_keepalive(sock, self._keepalive)
        return self.port.getHost()

    def set_marks(self, high: int, low: int | None = None) -> None:
        """The marks of connections to come, after `listen()`; ValueError unless 0 <= low < high."""
        assert self.port is not None
        self.port.setWriteBufferLimits(high, low)

    def totals(self) -> Totals:
        """Up to now, open connections included."""
        totals = self._ended.copy()
        for connection in self.connections:
            totals.add(*self._parts(connection))
        return totals

    def _parts(self, connection: Connection) -> tuple[Connection, ...]:
        """A client's connection, and others that share its fate: it first."""
        return (connection,)

    # Who is here.

    def is_full(self) -> bool:
        return self._max_connections is not None and len(self.connections) >= self._max_connections

    def reject(self) -> None:
        self.rejected += 1
        self._unreported += 1
        now = self.reactor.seconds()
        if now >= self._next_warning:
            self._next_warning = now + WARN_SECONDS
            logger.warning(
                "at the limit of %d connections (--max-connections): clients rejected: %d",
                self._max_connections,
                self._unreported,
            )
            self._unreported = 0

    def _tap(self, event: str, connection: Connection, reason: Failure | None) -> None:
        if event == "connectionMade":
            if connection.protocol is self.expected:
                self._arrived(connection)
        elif connection not in self.connections:
            return
        elif event == "pauseProducing":
            self.paused.add(connection)
            self._tell(event, connection)
        elif event == "resumeProducing" and connection in self.paused:
            self.paused.discard(connection)
            self._tell(event, connection)
        elif event == "connectionLost":
            self._gone(connection, reason)

    def _arrived(self, connection: Connection) -> None:
        self.expected = None
        self.connections.add(connection)
        self._watch(connection, connection)
        self._tell("connectionMade", connection)

    def _gone(self, connection: Connection, reason: Failure | None) -> None:
        parts = self._parts(connection)
        self.connections.discard(connection)
        self.paused.difference_update(parts)
        self._timeouts.forget(connection)
        self._ended.add(*parts)
        self._tell("connectionLost", connection, reason)
        if not self.connections:
            self._empty()

    def _tell(self, event: str, connection: Connection, reason: Failure | None = None) -> None:
        if self._on_event is not None:
            _report(self._on_event, event, connection, reason)

    # The timeouts.

    def _watch(self, connection: Connection, part: Connection) -> None:
        """Let the timeouts of a client's connection count for another one, or for itself."""
        self._timeouts.watch(connection, part)

    def _stalled(self, connection: Connection, part: Connection) -> None:
        part.abortConnection()

    def _idle(self, connection: Connection, busy: bool) -> None:
        # What waits for a peer that takes nothing would keep a gentler end waiting for ever.
        if busy:
            self._abort(connection)
        else:
            self._lose(connection)

    def _abort(self, connection: Connection) -> None:
        for part in self._parts(connection):
            part.abortConnection()

    def _lose(self, connection: Connection) -> None:
        # Nobody else would unregister it: what it produces is what it reads, and that ends now.
        if connection.producer is connection:
            connection.unregisterProducer()
        connection.loseConnection()

    # The end.

    def stop(self, grace: float) -> None:
        """Stop accepting, and close each connection once its transfer has finished.

        What is left after `grace` seconds is aborted; on a second call, at once."""
        if self.stopping:
            self.abort()
            return
        self.stopping = True
        if self.port is not None:
            self.port.stopListening()
        if not self.connections:
            self._empty()
            return
        self._aborting = self.reactor.call_later_hidden(grace, self.abort)
        self._end_all(self._let_finish)

    def _let_finish(self, connection: Connection) -> bool:
        """Close it once its transfer has finished; return whether that may be now."""
        self._lose(connection)
        return True

    def abort(self) -> None:
        """End all connections now, whatever waits to be sent."""
        if self.stopping:
            self.cut = max(self.cut, len(self.connections))
        self._end_all(self._end_now)

    def _end_now(self, connection: Connection) -> bool:
        self._abort(connection)
        return True

    def _end_all(self, end: Callable[[Connection], bool]) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = Walk(self.reactor, still_in(self.connections), end)
        self._ending.start()

    def _empty(self) -> None:
        self._timeouts.stop()
        if not self.stopping:
            return
        if self._aborting is not None and self._aborting.active():
            self._aborting.cancel()
        self.reactor.remove_tap(self._tap)
        stopped, self._on_stopped = self._on_stopped, None
        if stopped is not None:
            _report(stopped)


def _report(call: Callable[..., object], *args: Any) -> None:
    """Call somebody who is told what happens; what that raises is logged, and changes nothing."""
    try:
        call(*args)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        log.err(None, f"{repr(call)}, which is told what a server does, has failed")
