"""What the debug mode checks at each connection. A warning names the rule, as in `core/README.md`.

P1, U1  a producer lacks a method that its kind needs
P2      write() while the producer is paused, for the third time
P3      the program resumes a connection that its consumer has paused
M2      much more is pending than the high mark, and no producer can be paused
B2      write() after the end of the connection, for the third time
B4      a call from another thread than the loop's
E8      a protocol has another connection already
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from minireactor.core import flow
from minireactor.failure import safe_repr
from minireactor.transports.connection import Connection

if TYPE_CHECKING:
    from minireactor.core.flow import Producer, ProducerCall


# Writes while paused, after the end, or without a producer far above the high mark. A producer may
# end the message that it has begun, and a protocol may say one last thing.
MAX_WRITES = 3
MAX_MARKS = 16  # high marks

_KINDS = {
    True: ("P1", "push", ("pauseProducing", "resumeProducing", "stopProducing")),
    False: ("U1", "pull", ("resumeProducing", "stopProducing")),
}


def begin_checks(connection: Connection, reactor: Any) -> None:
    """Give a connection the class that checks its use, and check its protocol."""
    own: Any = type(connection)
    connection.__class__ = _checked(own)
    protocol = connection.protocol
    other = getattr(protocol, "transport", None)
    if isinstance(other, Connection) and other is not connection and other.protocol is protocol:
        name = type(protocol).__name__
        text = (
            f"{name} of {connection!r} is the protocol of {other!r} too; "
            "let buildProtocol() make one for each connection"
        )
        reactor.warnings.warn("E8", name, text)


@cache
def _checked(own: Any) -> Any:
    names = {"__slots__": (), "__module__": own.__module__, "__qualname__": own.__qualname__}
    return type(own.__name__, (CheckedConnection, own), names)


class CheckedConnection(Connection):
    """What the debug mode adds to the class of a connection."""

    __slots__ = ()

    reactor: Any  # a DebugLoop, see `mode`
    _misplaced = 0  # writes in a row that should not have come

    def write(self, data: Any) -> None:
        self.reactor.check_thread("write()")
        if self.write_ended:
            self._count("B2", "write() for the third time after the end")
        elif self.flow_state == flow.PAUSED:
            self._count("P2", "write() for the third time while paused")
        super().write(data)
        if self.flow_state == flow.NONE:
            if self.pending > MAX_MARKS * self.marks[0]:
                self._count("M2", f"{self.pending:,} bytes pending and no producer to pause")
            else:
                self._misplaced = 0

    def _count(self, rule: str, text: str) -> None:
        self._misplaced += 1
        if self._misplaced == MAX_WRITES:
            self.reactor.warnings.warn_here(rule, f"{text}, on {self!r}")

    def _call_producer(self, call: ProducerCall) -> None:
        if call is not None:
            self._misplaced = 0  # the producer is paused, resumed or stopped now
        super()._call_producer(call)

    def registerProducer(self, producer: Producer, streaming: bool) -> None:
        self.reactor.check_thread("registerProducer()")
        rule, kind, methods = _KINDS[bool(streaming)]
        missing = [name for name in methods if not callable(getattr(producer, name, None))]
        if missing:
            text = f"the {kind} producer {safe_repr(producer)} has no {', '.join(missing)}"
            self.reactor.warnings.warn_here(rule, text)
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self.reactor.check_thread("unregisterProducer()")
        super().unregisterProducer()

    def pauseProducing(self) -> None:
        self.reactor.check_thread("pauseProducing()")
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self.reactor.check_thread("resumeProducing()")
        consumer = getattr(self.protocol, "far", self)
        # The consumer itself changes its state first, and then calls.
        if getattr(consumer, "producer", None) is self and consumer.flow_state == flow.PAUSED:
            text = f"resumeProducing() of {self!r}, which its consumer {consumer!r} has paused"
            self.reactor.warnings.warn_here("P3", text)
        super().resumeProducing()

    def loseConnection(self) -> None:
        self.reactor.check_thread("loseConnection()")
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        self.reactor.check_thread("loseWriteConnection()")
        super().loseWriteConnection()

    def abortConnection(self) -> None:
        self.reactor.check_thread("abortConnection()")
        super().abortConnection()
