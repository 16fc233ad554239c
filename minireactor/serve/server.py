"""The server of `minireactor serve`: its ports, its connections, their limits, an orderly end.

    server = Server(reactor, factory, idle_timeout=60)
    server.listen("127.0.0.1", 1234)
    reactor.run()

`Server` prints nothing and installs no signal handlers, so any program can use it.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from operator import attrgetter
from reprlib import repr
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core import events, flow
from minireactor.core.slices import Walk
from minireactor.core.timers import cancel_if_active
from minireactor.log import WARN_SECONDS, logger
from minireactor.protocol import Factory
from minireactor.serve.places import listen_at
from minireactor.serve.refusal import Refusal
from minireactor.serve.timeouts import Timeouts, still_in
from minireactor.serve.totals import Totals
from minireactor.transports.keepalive import set_keepalive
from minireactor.transports.port import BACKLOG

if TYPE_CHECKING:
    import socket

    from minireactor.address import Address
    from minireactor.core.timers import DelayedCall
    from minireactor.failure import Failure
    from minireactor.interfaces import IProtocol, IProtocolFactory
    from minireactor.internet import Reactor
    from minireactor.serve.accept_proxy import HeaderReader
    from minireactor.serve.clients import ClientLimits
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port
    from minireactor.transports.tls_start import SecurePort


class Admission(Factory):
    """A factory that rejects clients above the limit. The application's factory builds the others.

    `doStart` and `doStop` are passed on too, because that factory counts its ports.
    """

    def __init__(self, server: Server, factory: IProtocolFactory) -> None:
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

    def buildProtocol(self, addr: Address | None) -> IProtocol | None:
        if self._server.is_full():
            self._server.reject()
            return None
        if self._server.clients is not None and addr is not None:
            refusal = self._server.clients.refusal(addr.host)
            if refusal is not None:
                self._server.refuse(refusal)
                return None
        self._server.expected = self._factory.buildProtocol(addr)
        return self._server.expected

    def logPrefix(self) -> str:
        """Return the name of the application's factory, which the log should show."""
        return type(self._factory).__name__


class Server:
    """Serves a factory on ports of `reactor`, and observes the connections of these ports.

    max_connections: how many clients may be connected at a time. A further client is closed at
        once. A warning is logged, at most every 10 s.
    idle_timeout: a connection is closed after this many seconds without a byte either way.
    stall_timeout: a connection is aborted if its peer takes no byte for this many seconds while
        bytes wait for that peer. Both timeouts are exact to a quarter of their length.
    keepalive: after this many seconds of silence the system asks the peer whether it still exists.
    unsent: about how many unsent bytes the kernel may buffer for a peer that does not read. 0 means
        no limit, None means twice the high watermark. See Port.setUnsentLimit().
    tls: speaks TLS to the clients; None for none.
    headers: reads a PROXY header before each connection, see `accept_proxy`; None for none.
    clients: limits for single clients; None for none. A client that they refuse is closed at once.
    on_event: called as `on_event(event, connection, reason)`. The event is one of `core.events`:
        MADE, PAUSE, RESUME (only after a pause) or LOST. The reason is a Failure for LOST, and None
        otherwise. An exception from on_event is logged.
    on_stopped: called once, after `stop()`, when the last connection has closed.

    The server ignores outgoing connections that the application makes.
    """

    def __init__(
        self,
        reactor: Reactor,
        factory: IProtocolFactory,
        *,
        max_connections: int | None = None,
        idle_timeout: float | None = None,
        stall_timeout: float | None = None,
        keepalive: int | None = None,
        unsent: int | None = None,
        tls: SecurePort | None = None,
        headers: HeaderReader | None = None,
        clients: ClientLimits | None = None,
        on_event: Callable[[str, Connection, Failure | None], None] | None = None,
        on_stopped: Callable[[], object] | None = None,
    ) -> None:
        self.reactor = reactor
        self.connections: set[Connection] = set()
        self.paused: set[Connection] = set()
        self.ports: list[Port] = []
        self.stopping = False
        self.rejected: Counter[str] = Counter()  # clients, by the option that did not allow them
        self.retired = False  # whether another process serves the clients to come
        self.aborted = 0  # connections that abort() has ended after stop()
        self.expected: IProtocol | None = None  # the protocol of the next connection to a port
        self._admission = Admission(self, factory)
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._keepalive = keepalive
        self._unsent = unsent
        self.tls = tls
        self.headers = headers
        self.clients = clients
        self._on_event = on_event
        self._on_stopped = on_stopped
        self._ended = Totals()  # of connections that have ended
        self._timeouts = Timeouts(reactor, idle_timeout, stall_timeout, self._idle, self._stalled)
        self._ending: Walk[Connection] | None = None
        self._aborting: DelayedCall | None = None
        self._resuming: DelayedCall | None = None  # accepts again, after a pause for the rate
        self._next_warning: dict[str, float] = {}  # by option
        self._retiring: DelayedCall | None = None

    def listen(
        self,
        host: str,
        port: int,
        high: int = flow.HIGH,
        low: int | None = None,
        sockets: list[socket.socket] | None = None,
    ) -> Address:
        """Serve at one more place. Return the address, with the real port number if `port` is 0.

        `host` may be the address of a UNIX socket, with 0 as its port: see `places`.
        `high` and `low` are the high and low watermark of each connection, in bytes, as in
        setWriteBufferLimits().
        `sockets` are sockets that listen there already; the server accepts from them instead.
        Raises CannotListenError if the system refuses the address; a further call may then try
        another one. Raises ValueError unless 0 <= low < high."""
        marks = flow.checked_marks(high, low)
        if not self.ports:
            self.reactor.add_observer(self._observe)
        try:
            opened = listen_at(self.reactor, host, port, self._admission, BACKLOG, sockets)
        except BaseException:
            if not self.ports:
                self.reactor.remove_observer(self._observe)
            raise
        self.ports.append(opened)
        opened.setWriteBufferLimits(*marks)
        opened.setUnsentLimit(self._unsent)
        if self.tls is not None:
            self.tls.secure(opened)
        if self.headers is not None:
            self.headers.read_before(opened, self)
        if self._keepalive is not None:
            for sock in opened.sockets():
                set_keepalive(sock, self._keepalive)
        return opened.getHost()

    def set_marks(self, high: int, low: int | None = None) -> None:
        """Set the marks of future connections to the ports that listen now.

        Raises ValueError unless 0 <= low < high."""
        for port in self.ports:
            port.setWriteBufferLimits(high, low)

    def totals(self) -> Totals:
        """Return the totals up to now, including the open connections."""
        totals = self._ended.copy()
        for connection in self.connections:
            totals.add(*self._parts(connection))
        return totals

    def status(self) -> str:
        """Return how many clients there are and have been. Unlike totals(), this is fast."""
        count = len(self.connections)
        return f"{count} connections, {self._ended.connections + count} so far"

    def _parts(self, connection: Connection) -> tuple[Connection, ...]:
        """Return a client's connection, followed by the connections that end together with it."""
        return (connection,)

    # The connections.

    def is_full(self) -> bool:
        """Return whether the limit of connections is reached."""
        if self._max_connections is None:
            return False
        waiting = 0 if self.headers is None else len(self.headers.waiting)
        return len(self.connections) + waiting >= self._max_connections

    def reject(self) -> None:
        """Count a client that is closed because the server is full; see refuse()."""
        why = f"at the limit of {self._max_connections} connections"
        self.refuse(Refusal("--max-connections", why))

    def refuse(self, refusal: Refusal) -> None:
        """Count a client that is closed at once, and log a warning if one is due."""
        option, why = refusal
        self.rejected[option] += 1
        now = self.reactor.seconds()
        if now >= self._next_warning.get(option, now):
            self._next_warning[option] = now + WARN_SECONDS
            logger.warning(
                "%s (%s): clients rejected so far: %d", why, option, self.rejected[option]
            )

    def _observe(self, event: str, connection: Connection, reason: Failure | None) -> None:
        # An observer gets the events of all connections of the reactor, also of other ports.
        if event == events.MADE:
            if connection.protocol is self.expected:
                self._arrived(connection)
        elif connection not in self.connections:
            return
        elif event == events.PAUSE:
            self.paused.add(connection)
            self._notify(event, connection)
        elif event == events.RESUME and connection in self.paused:
            self.paused.discard(connection)
            self._notify(event, connection)
        elif event == events.LOST:
            self._gone(connection, reason)

    def _arrived(self, connection: Connection) -> None:
        self.expected = None
        self.connections.add(connection)
        if self.clients is not None:
            self.clients.joined(connection.getPeer().host)
            pause = self.clients.pause(self.reactor.seconds())
            if pause:
                self._pause_accepting(pause)
        self._watch(connection, connection)
        self._notify(events.MADE, connection)

    def _gone(self, connection: Connection, reason: Failure | None) -> None:
        parts = self._parts(connection)
        self.connections.discard(connection)
        if self.clients is not None:
            self.clients.left(connection.getPeer().host)
        self.paused.difference_update(parts)
        self._timeouts.forget(connection)
        self._ended.add(*parts)
        self._notify(events.LOST, connection, reason)
        if not self.connections:
            self._empty()

    def _pause_accepting(self, seconds: float) -> None:
        """Leave further clients in the kernel's queue for some time."""
        for port in self.ports:
            port.pause_accepting()
        if self._resuming is None or not self._resuming.active():
            self._resuming = self.reactor.call_later_internal(seconds, self._resume_accepting)

    def _resume_accepting(self) -> None:
        for port in self.ports:
            port.resume_accepting()

    def _notify(self, event: str, connection: Connection, reason: Failure | None = None) -> None:
        if self._on_event is not None:
            _call_logged(self._on_event, event, connection, reason)

    # The timeouts.

    def _watch(self, connection: Connection, part: Connection) -> None:
        """Let bytes on `part` count for the timeouts of the client's connection.

        `part` is that connection itself, or one that ends together with it."""
        self._timeouts.watch(connection, part)

    def _stalled(self, connection: Connection, part: Connection) -> None:
        part.abortConnection()

    def _idle(self, connection: Connection, busy: bool) -> None:
        # loseConnection() first sends the pending bytes. A peer that takes none of them would delay
        # the end for ever.
        if busy:
            self._abort(connection)
        else:
            self._lose(connection)

    def _abort(self, connection: Connection) -> None:
        for part in self._parts(connection):
            part.abortConnection()

    def _lose(self, connection: Connection) -> None:
        # A connection that is its own producer, as in echo, writes what it reads. Reading ends now,
        # so no other code would unregister the producer.
        if connection.producer is connection:
            connection.unregisterProducer()
        connection.loseConnection()

    # The end.

    def retire(self, grace: float) -> None:
        """Stop accepting, and let the connections go on until their peers end them.

        After `grace` seconds, stop(grace) ends those that are left."""
        self.retired = True
        self._close_ports()
        self._retiring = self.reactor.call_later_internal(grace, partial(self.stop, grace))
        self.stop_if_retired()

    def stop_if_retired(self) -> None:
        """Stop a retired server that has no client left, nor one whose header is incomplete.

        Called after each end of a connection, and of the wait for a header."""
        is_waiting = self.headers is not None and self.headers.waiting
        if self.retired and not (self.stopping or self.connections or is_waiting):
            self.stop(0)

    def stop(self, grace: float) -> None:
        """Stop accepting, and close each connection once its transfer has finished.

        Connections that are left after `grace` seconds are aborted. A second call aborts them at
        once."""
        if self.stopping:
            self.abort()
            return
        self.stopping = True
        cancel_if_active(self._retiring)
        self._close_ports()
        if self.headers is not None:
            self.headers.stop()
        if not self.connections:
            self._empty()
            return
        self._aborting = self.reactor.call_later_internal(grace, self.abort)
        self._end_all(self._let_finish)

    def _close_ports(self) -> None:
        cancel_if_active(self._resuming)
        for port in self.ports:
            port.stopListening()

    def _let_finish(self, connection: Connection) -> bool:
        """Close a connection once its transfer has finished. Return whether that was started."""
        self._lose(connection)
        return True

    def abort(self) -> None:
        """Abort all connections; bytes that wait to be sent are dropped."""
        if self.stopping:
            self.aborted = max(self.aborted, len(self.connections))
        self._end_all(self._end_now)

    def _end_now(self, connection: Connection) -> bool:
        self._abort(connection)
        return True

    def _end_all(self, end: Callable[[Connection], bool]) -> None:
        if self._ending is not None:
            self._ending.cancel()
        # A set has another order in each run, and a simulation repeats a run exactly.
        ordered = sorted(self.connections, key=attrgetter("fd"))
        self._ending = Walk(self.reactor, still_in(self.connections, ordered), end)
        self._ending.start()

    def _empty(self) -> None:
        """Stop the timers, as no connection is left. After stop(), call on_stopped."""
        self._timeouts.stop()
        if not self.stopping:
            self.stop_if_retired()
            return
        cancel_if_active(self._aborting)
        self.reactor.remove_observer(self._observe)
        stopped, self._on_stopped = self._on_stopped, None
        if stopped is not None:
            _call_logged(stopped)


def _call_logged(call: Callable[..., object], *args: Any) -> None:
    """Call a callback of the application; log what it raises, and go on."""
    try:
        call(*args)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        log.err(None, f"{repr(call)}, a callback of a server, has failed")
