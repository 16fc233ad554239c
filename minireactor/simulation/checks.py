"""The checks of a simulated network, made while it runs. A failure names the broken rule.

For each connection, by the ids of the rules in `core/README.md`:

    B1      the bytes that the kernel gets are those that were written, in order (not with TLS)
    P2, P3  a push producer is paused above the high mark and resumed at the low mark, in turns;
    U1      a pull producer is asked again; neither waits in vain for its next call
    E3, E8  one stopProducing(), one connectionLost()
    E5, E7  an orderly end comes after all bytes (not with TLS) and after the producer
    C1      a close destroys no byte that the peer would have read
    R1      nothing is read while reading is paused
    memory  a paused producer does not go on writing

For each host: no ready socket waits for long (T5), the loop does not spin, and the library logs no
exception. At the end: no connection, descriptor or attempt is left over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.core import events, flow
from minireactor.core.buffer import as_bytes
from minireactor.core.poller import WRITE
from minireactor.error import ConnectionDone
from minireactor.simulation.pipes import MemoryPipe
from minireactor.transports.connection import Connection
from minireactor.transports.sendfile import FileSource

if TYPE_CHECKING:
    from minireactor.core.buffer import Source
    from minireactor.core.handler import Handler
    from minireactor.failure import Failure
    from minireactor.simulation.roles import Machine, Net

# Between two looks at a producer that must get a call. Two looks in a row find a missing call.
CALL_SECONDS = 1.0
# How much a paused producer may still write, in high marks: a protocol may send a last message.
MAX_PAUSED_MARKS = 4

_FLOWING, _PAUSED, _PULL, _NONE, _STOPPED = "flowing", "paused", "pull", "none", "stopped"


class Watched:
    """One connection, and what it must still do for its peer and for its producer."""

    __slots__ = (
        "_checker",
        "_has_written",
        "_is_look_due",
        "_is_low",
        "_paused_bytes",
        "_register",
        "_unregister",
        "_was_registered",
        "_write",
        "_write_source",
        "_writing",
        "connection",
        "expected",
        "flow",
        "lingers",
        "lost",
    )

    def __init__(self, checker: Checker, connection: Connection) -> None:
        self._checker = checker
        self.connection = connection
        self.expected = bytearray()  # bytes that were written and not yet sent
        self.flow = _NONE
        self.lingers = False  # the reactor has taken the socket over
        self.lost = False
        self._paused_bytes = 0
        self._writing = 0
        self._has_written = False  # since the last call of a pull producer
        self._is_look_due = self._is_low = False
        self._was_registered = False  # when the connection ended
        # These methods are replaced on the transport, as a program may do, too.
        self._write, connection.write = connection.write, self.write  # type: ignore[method-assign]
        self._write_source = connection.write_source
        connection.write_source = self.write_source  # type: ignore[method-assign]
        self._register = connection.registerProducer
        connection.registerProducer = self.register  # type: ignore[method-assign]
        self._unregister = connection.unregisterProducer
        connection.unregisterProducer = self.unregister  # type: ignore[method-assign]

    def fail(self, message: str) -> None:
        connection = self.connection
        self._checker.network.fail(f"{message}, on {connection!r} of {connection.reactor!r}")

    # What the program calls.

    def write(self, data: Any) -> None:
        data = as_bytes(data)
        connection = self.connection
        if not connection.write_ended:
            self._expect(data)
            self._count(len(data))
        self._writing += 1
        try:
            self._write(data)
        finally:
            self._writing -= 1
        self._check_mark()

    def write_source(self, source: Source) -> None:
        if isinstance(source, (FileSource, MemoryPipe)) and not self.connection.write_ended:
            self._expect(source.rest())
            self._count(source.left)
        self._write_source(source)
        self._check_mark()

    def _expect(self, data: bytes) -> None:
        if not self.connection.encrypted:  # the kernel gets other bytes than these
            self.expected += data

    def _count(self, size: int) -> None:
        self._has_written = True
        if self.flow is _PAUSED:
            self._paused_bytes += size
            high, _ = self.connection.marks
            if self._paused_bytes > MAX_PAUSED_MARKS * high + size:
                self.fail(f"memory: {self._paused_bytes} bytes written while paused")

    def _check_mark(self) -> None:
        connection = self.connection
        pending = connection.pending
        if self.flow is _FLOWING and pending > connection.marks[0] and not connection.write_ended:
            self.fail(f"P2: the producer is not paused at {pending} bytes pending")

    def register(self, producer: Any, streaming: bool) -> None:
        if self.flow is _NONE and self.connection.producer is None:
            self.flow = _FLOWING if streaming else _PULL
            self._paused_bytes = 0
        elif self.flow is _STOPPED:
            self.flow = _NONE  # a lost connection stops this producer at once: rule E2
        self._register(producer, streaming)

    def unregister(self) -> None:
        if self.flow is not _STOPPED:
            self.flow = _NONE
        self._unregister()

    # What the connection calls.

    def producer_called(self, name: str) -> None:
        """Check a call of the producer before it is made."""
        connection = self.connection
        pending = connection.pending
        high, low = connection.marks
        if name is flow.PAUSE:
            if self.flow is not _FLOWING:
                self.fail(f"P2: pauseProducing() of a producer that is {self.flow}")
            elif pending <= high:
                self.fail(f"P2: paused at {pending} bytes pending, with a high mark of {high}")
            self.flow, self._paused_bytes = _PAUSED, 0
        elif name is flow.RESUME:
            if self.flow not in (_PAUSED, _PULL):
                self.fail(f"P3: resumeProducing() of a producer that is {self.flow}")
            elif pending > low and (self.flow is _PAUSED or self._has_written):
                self.fail(f"P3: resumed at {pending} bytes pending, with a low mark of {low}")
            elif self._writing:
                self.fail("P3: resumeProducing() from inside write()")
            if self.flow is _PAUSED:
                self.flow = _FLOWING
            self._has_written = False
        else:
            if self.flow is _STOPPED:
                self.fail("E3: a second stopProducing()")
            self._was_registered = self.flow is not _NONE
            self.flow = _STOPPED
        self._is_low = False

    def sent(self, data: bytes) -> None:
        """Check bytes that the kernel takes."""
        expected = self.expected
        if expected:
            if not expected.startswith(data):
                self.fail(f"B1: {len(data)} bytes sent are not those that were written")
            del expected[: len(data)]
        if not self._is_look_due and self.flow in (_PAUSED, _PULL):
            self._is_look_due = True
            self._look_later()

    def _look_later(self) -> None:
        network = self._checker.network
        network.at(network.seconds() + CALL_SECONDS, self._look)

    def _look(self) -> None:
        """Fail if this look and the last one find a producer that waits at the low mark."""
        self._is_look_due = False
        connection = self.connection
        host: Any = connection.reactor
        end = self._end()
        waits = self.flow is _PAUSED or (self.flow is _PULL and self._has_written)
        if not waits or connection.write_ended or connection.pending > connection.marks[1]:
            self._is_low = False
            return
        if connection.pending and end is not None and not end.ready() & WRITE:
            self._is_low = False  # the kernel's buffer is full; the next flush makes the call
            return
        if host.frozen or not host.is_on:
            self._is_low = False
        elif self._is_low:
            self.fail(f"P3, U1: a producer that is {self.flow} waits in vain for its next call")
            return
        else:
            self._is_low = True
        self._is_look_due = True
        self._look_later()

    def reads(self) -> None:
        """Check that the program wants input now."""
        if not (self.lingers or self.connection.reading):
            self.fail("R1: a read while reading is paused")

    def write_side_ends(self) -> None:
        """Check that shutdown() follows the last byte, unless the connection has failed."""
        if self.connection.state == "open" and (self.expected or self.flow in (_FLOWING, _PULL)):
            self.fail(f"E7: the write side is shut, {len(self.expected)} bytes too early")

    def closes(self) -> None:
        """Check a close() without a reset."""
        end = self._end()
        if end is not None and end.received and self._loses(end):
            self.fail(f"C1: close() with unread input destroys {len(end.unsent)} bytes unsent")

    def input_after_close(self, end: Any) -> None:
        """Check input that came for a closed socket, which answers with a reset."""
        if self._loses(end):
            self.fail("C1: input after a plain close() destroys bytes on their way")

    def _loses(self, end: Any) -> bool:
        on_the_way = end.unsent or end.unacked
        return bool(self.connection.disconnecting and on_the_way and not (self.lingers or end.over))

    def _end(self) -> Any:
        sock: Any = self.connection.socket
        return sock.end

    def ended(self, reason: Failure | None) -> None:
        """Check the end of the connection."""
        if self.lost:
            self.fail("E8: a second connectionLost()")
        self.lost = True
        if self.flow in (_FLOWING, _PAUSED, _PULL):
            self.fail("E3: no stopProducing() for the producer of a lost connection")
        in_order = reason is not None and reason.check(ConnectionDone)
        if in_order and self.connection.disconnecting:
            if self.expected:
                self.fail(f"E5: closed with {len(self.expected)} bytes unsent")
            elif self._was_registered:
                self.fail("E5: closed while a producer is registered")


class Checker:
    """Watches all connections of a network.

    expects_errors: whether the library may log errors. Set it to true for a program that fails.
    """

    def __init__(self, network: Net, is_on: bool) -> None:
        self.network = network
        self.expects_errors = False
        self.open: dict[Connection, Watched] = {}
        self.connections = 0  # how many have been made
        self._is_on = is_on

    def observe(self, event: str, connection: Connection, reason: Failure | None) -> None:
        """Observe the connections of a host: see `Loop.add_observer`."""
        if not self._is_on:
            return
        if event == events.MADE:
            self.connections += 1
            watched = self.open[connection] = Watched(self, connection)
            end: Any = connection.socket
            end.end.watched = watched
        elif event == events.LOST:
            if connection in self.open:
                self.open.pop(connection).ended(reason)
            else:
                self.network.fail(f"E8: a second connectionLost() of {connection!r}")

    def producer_called(self, handler: Handler, producer: object, name: str) -> None:
        """Check a call of a producer before its consumer makes it."""
        watched = getattr(getattr(handler, "write", None), "__self__", None)
        if isinstance(watched, Watched):
            watched.producer_called(name)

    def input_after_close(self, end: Any) -> None:
        """Check input for an end whose socket is closed."""
        if end.watched is not None:
            end.watched.input_after_close(end)

    def thawed(self, host: Machine) -> None:
        """Let each ready socket wait its full time again, counted from now."""
        for sock in host.system.open.values():
            (getattr(sock, "end", None) or sock).ready_since = -1.0

    def vanished(self, host: Machine) -> None:
        """Forget the connections of a host without power."""
        for connection in list(self.open):
            if connection.reactor is host:  # type: ignore[comparison-overlap]
                del self.open[connection]

    def finish(self, open_connections: int) -> None:
        """Check what is left over at the end of a run."""
        left = [each for each in self.open if each.reactor.is_on]  # type: ignore[attr-defined]
        if len(left) > open_connections:
            self.network.fail(f"left over: {len(left)} connections, such as {left[0]!r}")
        for host in self.network.hosts.values():
            if not host.is_on:
                continue
            if host.attempts:
                self.network.fail(f"left over: an attempt to connect of {host.name}")
            known = {handler.fd for handler in host.handlers()}
            for fd, sock in host.system.open.items():
                if getattr(sock, "end", None) is not None and fd not in known:
                    self.network.fail(f"leak: {sock!r} of {host.name} has no handler")
            for handler in host.handlers():
                if handler.fd not in host.system.open:
                    self.network.fail(f"left over: {handler!r} of {host.name} has no descriptor")
