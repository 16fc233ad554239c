"""The server behind `minireactor serve`: one port, who is connected to it, its limits, its end.

    server = Server(reactor, factory, idle_timeout=60)
    server.listen("127.0.0.1", 1234)
    reactor.run()

`Server` prints nothing and takes no signals, so that it can be used from any program.
"""

from __future__ import annotations

import importlib
import sys
from operator import attrgetter
from reprlib import repr
from typing import TYPE_CHECKING, Any, Callable

from minireactor import flow
from minireactor.apps import Chargen, Discard, Echo, FileFactory, RandomFactory
from minireactor.log import logger
from minireactor.port import BACKLOG
from minireactor.protocol import Factory
from minireactor.queues import send_queue

if TYPE_CHECKING:
    from minireactor.address import IPv4Address, IPv6Address
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.port import Port
    from minireactor.tcp import Connection

APPS = ("random", "echo", "discard", "chargen", "file")

WARN_SECONDS = 10.0  # between two warnings that the server is full
SHORTEST_SWEEP = 0.01  # seconds; however short a timeout is, sweeping is not to fill the CPU


class LoadError(Exception):
    """There is no such app, or it is none; says why in one line."""


def load_app(name: str, seed: int | None = None, path: str | None = None) -> Any:
    """The factory of an app: one of APPS, or `module:name`. LoadError.

    `seed` makes the integers of random repeatable; `path` is of the file to send. A module is
    imported from the current directory or sys.path; the name in it is a Factory, a Factory class
    that needs no arguments, or a Protocol class, and may have dots.
    """
    if path is not None and name != "file":
        raise LoadError(f"PATH {path!r} is for file only; leave it out for {name}")
    if name == "random":
        return RandomFactory(seed)
    if name == "file":
        return _file_factory(path)
    if name in APPS:
        protocol = {"echo": Echo, "discard": Discard, "chargen": Chargen}[name]
        return Factory.forProtocol(protocol)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise LoadError(f"no app {name!r}; give {', '.join(APPS)} or module:name")
    found = _find(_import(module_name), module_name, attribute)
    if isinstance(found, type):
        if hasattr(found, "buildProtocol"):
            return _make(found, name)
        if hasattr(found, "makeConnection"):
            return Factory.forProtocol(found)
    elif hasattr(found, "buildProtocol"):
        return found
    raise LoadError(
        f"{name} is {repr(found)}; name a Factory instance or class, or a Protocol class"
    )


def _file_factory(path: str | None) -> FileFactory:
    if path is None:
        raise LoadError("file wants the PATH of the file to send")
    try:
        return FileFactory(path)
    except OSError as error:
        raise LoadError(f"cannot send {path!r}: {error.strerror}; give a file's PATH") from error
    except ValueError as error:  # it has a NUL in it
        raise LoadError(f"cannot send {path!r}: {error}; give a file's PATH") from error


def _import(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current directory, which a console script does not look in
    try:
        return importlib.import_module(name)
    # SystemExit as well: a script that ends when it is imported would silently end us.
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise LoadError(
                f"no module {error.name!r} here or on sys.path; check the name and the directory"
            ) from error
        raise LoadError(f"importing {name!r} raised {_described(error)}") from error


def _find(module: Any, module_name: str, attribute: str) -> Any:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        raise LoadError(f"module {module_name!r} has no name {attribute!r}") from error


def _make(factory: Callable[[], Any], name: str) -> Any:
    try:
        return factory()
    except Exception as error:
        raise LoadError(f"{name}() raised {_described(error)}") from error


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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


class _Activity:
    """What the last sweep saw of one connection, and since when that has been so."""

    __slots__ = ("bytes_in", "bytes_taken", "quiet_since", "stuck_since")

    def __init__(self, now: float) -> None:
        self.bytes_in = 0
        self.bytes_taken = 0
        self.quiet_since = now  # no byte either way
        self.stuck_since = now  # no byte taken by the peer, though some wait for it

    def update(self, connection: Connection, now: float) -> bool:
        """Look at it again; whether bytes wait for its peer."""
        # The kernel says that there is room again only when a third of its buffer is free. A slow
        # peer may need longer for that than a timeout, and must not look as if it took nothing.
        in_kernel = send_queue(connection) or 0
        waiting = connection.pending + in_kernel
        bytes_taken = connection.bytes_out - in_kernel
        if bytes_taken != self.bytes_taken or not waiting:
            self.stuck_since = now
        if bytes_taken != self.bytes_taken or connection.bytes_in != self.bytes_in:
            self.quiet_since = now
        self.bytes_taken = bytes_taken
        self.bytes_in = connection.bytes_in
        return waiting > 0


class _Door(Factory):
    """Stands before the application's factory, and lets in no more than the limit."""

    def __init__(self, server: Server, factory: Any) -> None:
        self._server = server
        self._factory = factory

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Any:
        if self._server.is_full():
            self._server.turn_away()
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
    on_event: called as `on_event(event, connection, reason)` for "connectionMade",
        "pauseProducing", "resumeProducing" (of one that was paused) and "connectionLost", whose
        reason is a Failure, else None. It must not raise.
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
        on_event: Callable[[str, Connection, Failure | None], None] | None = None,
        on_stopped: Callable[[], object] | None = None,
    ) -> None:
        self.reactor = reactor
        self.connections: set[Connection] = set()
        self.paused: set[Connection] = set()
        self.port: Port | None = None
        self.stopping = False
        self.turned_away = 0
        self.cut = 0  # connections that abort() has ended after stop()
        self.expected: Any = None  # the protocol that the next connection made here will have
        self._door = _Door(self, factory)
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._on_event = on_event
        self._on_stopped = on_stopped
        self._ended = Totals()  # of the connections that have ended
        self._activity: dict[Connection, _Activity] = {}
        self._sweeping: Any = None
        self._aborting: Any = None
        self._next_warning = -1.0
        self._unreported = 0

    def listen(
        self, host: str, port: int, high: int = flow.HIGH, low: int | None = None
    ) -> IPv4Address | IPv6Address:
        """Begin to serve; the address, with the real port number where 0 was given.

        `high` and `low` are the marks of each connection, in bytes, as in setWriteBufferLimits().
        CannotListenError; ValueError unless 0 <= low < high."""
        marks = flow.checked_marks(high, low)
        self.reactor.add_tap(self._tap)
        self.port = self.reactor.listenTCP(port, self._door, BACKLOG, host)
        self.port.setWriteBufferLimits(*marks)
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

    def turn_away(self) -> None:
        self.turned_away += 1
        self._unreported += 1
        now = self.reactor.seconds()
        if now >= self._next_warning:
            self._next_warning = now + WARN_SECONDS
            logger.warning(
                "at the limit of %d connections (max-connections): clients turned away: %d",
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
        if self._idle_timeout or self._stall_timeout:
            self._activity[connection] = _Activity(self.reactor.seconds())
            if self._sweeping is None:
                self._sweep_later()
        self._tell("connectionMade", connection)

    def _gone(self, connection: Connection, reason: Failure | None) -> None:
        parts = self._parts(connection)
        self.connections.discard(connection)
        self.paused.difference_update(parts)
        for part in parts:
            self._activity.pop(part, None)
        self._ended.add(*parts)
        self._tell("connectionLost", connection, reason)
        if not self.connections:
            self._empty()

    def _tell(self, event: str, connection: Connection, reason: Failure | None = None) -> None:
        if self._on_event is not None:
            self._on_event(event, connection, reason)

    # The timeouts: one timer for all connections, and only while there are any.

    def _sweep_later(self) -> None:
        shortest = min(filter(None, (self._idle_timeout, self._stall_timeout)))
        self._sweeping = self.reactor.callLater(max(shortest / 4, SHORTEST_SWEEP), self._sweep)

    def _sweep(self) -> None:
        now = self.reactor.seconds()
        for connection in list(self.connections):
            self._look_at(connection, now)
        self._sweep_later()

    def _look_at(self, connection: Connection, now: float) -> None:
        busy, quiet_since = False, float("-inf")
        for part in self._parts(connection):
            activity = self._activity.get(part)
            if activity is None:
                activity = self._activity[part] = _Activity(now)
            busy |= activity.update(part, now) or (part.disconnecting and part.connected)
            if self._stall_timeout and now - activity.stuck_since >= self._stall_timeout:
                self._stalled(connection, part)
                return
            quiet_since = max(quiet_since, activity.quiet_since)
        if self._idle_timeout and now - quiet_since >= self._idle_timeout:
            self._idle(connection, busy)

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
        self._aborting = self.reactor.callLater(grace, self.abort)
        for connection in list(self.connections):
            self._let_finish(connection)

    def _let_finish(self, connection: Connection) -> None:
        self._lose(connection)

    def abort(self) -> None:
        """End all connections now, whatever waits to be sent."""
        if self.stopping:
            self.cut = max(self.cut, len(self.connections))
        for connection in list(self.connections):
            self._abort(connection)

    def _empty(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        if not self.stopping:
            return
        if self._aborting is not None and self._aborting.active():
            self._aborting.cancel()
        stopped, self._on_stopped = self._on_stopped, None
        if stopped is not None:
            stopped()
