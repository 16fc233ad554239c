"""Say why a connection does not move: one sentence, by rule and by queue.

    print(reactor.explain())

    10.0.0.7:80: its kernel queue (128 KiB) has been full for 42 s: that peer does not read; 66 KiB
    pending have paused its producer, the connection with 10.0.0.9:5044 (P2)

A sentence is made of what a connection keeps anyway: its states, pending, the time at which the
kernel last refused bytes, and the lengths of the kernel's queues. Nothing is counted for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.address import format_address
from minireactor.core import flow
from minireactor.transports.connection import Connection
from minireactor.transports.kernel import receive_queue, send_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from minireactor.core.loop import Loop

SLOW_SECONDS = 1.0  # a peer that takes nothing for this long is said not to read
MAX_LINES = 100  # of a text about many connections

IDLE = "waits for input: its peer sends nothing"


class Explanation(dict[Connection, str]):
    """The sentence of each connection that does not move. Its text has a line for each.

    The text only counts the connections that wait for input, and those after MAX_LINES lines."""

    def __str__(self) -> str:
        stuck = [each for each, sentence in self.items() if sentence != IDLE]
        lines = [f"{format_address(each.getPeer())}: {self[each]}" for each in stuck[:MAX_LINES]]
        if len(stuck) > MAX_LINES:
            lines.append(f"and {len(stuck) - MAX_LINES} more")
        if len(stuck) < len(self):
            lines.append(f"connections that wait for input: {len(self) - len(stuck)}")
        return "\n".join(lines or ["every connection moves"])


def explain(reactor: Loop) -> Explanation:
    """Return why each open connection of a reactor does not move; see Explanation.

    Takes about 10 us a connection; `report` does the same in slices."""
    connections = connections_of(reactor)
    consumers = consumers_of(connections)
    now = reactor.seconds()
    found = ((each, why(each, now, consumers)) for each in connections)
    return Explanation({each: sentence for each, sentence in found if sentence})


def connections_of(reactor: Loop) -> list[Connection]:
    """Return the open connections of a reactor."""
    return [each for each in reactor.application_handlers() if isinstance(each, Connection)]


def consumers_of(connections: Iterable[Connection]) -> dict[Any, Connection]:
    """Return the connections that are consumers of other connections, by their producers."""
    return {each.producer: each for each in connections if isinstance(each.producer, Connection)}


def why(
    connection: Connection, now: float, consumers: Mapping[Any, Connection] | None = None
) -> str | None:
    """Return why a connection does not move, as one sentence; None if the connection moves.

    now: the time of the connection's reactor.
    consumers: from consumers_of(). Without it, the sentence names a consumer only if the connection
        is its own consumer or a leg of a proxy."""
    if connection.state in ("ending", "closed"):
        return None  # the next iteration ends it
    if getattr(connection, "handshaking", False) and connection.blocked_since is None:
        size = connection.pending
        waiting = f"; {_size(size)} pending can be sent after it (TLS2)" if size else ""
        return f"waits for its peer in the handshake of TLS (TLS4){waiting}"
    if connection.finishing:
        return _why_not_closed(connection, now)
    if connection.blocked_since is not None:
        return f"its {_full(connection, now)}; {_effect(connection)}"
    if connection.pending:
        return None  # the next flush sends
    if not connection.reading and not connection.read_ended and connection.state == "open":
        return _why_not_read(connection, now, consumers)
    return _why_silent(connection)


def _full(connection: Connection, now: float) -> str:
    """Return for how long the kernel's queue has been full, and what that says about the peer."""
    since = connection.blocked_since
    seconds = 0.0 if since is None else now - since
    size = send_queue(connection.socket)
    queue = "kernel queue" if size is None else f"kernel queue ({_size(size)})"
    verdict = "does not read" if seconds >= SLOW_SECONDS else "reads slowly"
    return f"{queue} has been full for {_duration(seconds)}: that peer {verdict}"


def _effect(connection: Connection) -> str:
    """Return what the pending bytes of a connection do to its producer."""
    size = _size(connection.pending)
    state = connection.flow_state
    if state == flow.PAUSED:
        return f"{size} pending have paused its producer, {_producer(connection)} (P2)"
    if state == flow.PULL:
        return f"its pull producer, {_producer(connection)}, waits until {size} can be sent (U1)"
    if state == flow.FLOWING:
        return f"with {size} pending, its producer, {_producer(connection)}, may write on (P1)"
    if connection.pending > connection.marks[0]:
        return f"with {size} pending, above the high mark, it has no producer to pause (M2)"
    return f"{size} pending"


def _why_not_closed(connection: Connection, now: float) -> str | None:
    """Return why a connection, or its write side, is being closed for so long."""
    what = "the close" if connection.disconnecting else "the end of its write side"
    if connection.blocked_since is not None:
        return f"{what} waits for {_size(connection.pending)} (E5): its {_full(connection, now)}"
    if connection.pending or connection.producer is None:
        return None  # the next flush
    return f"{what} waits until its producer, {_producer(connection)}, unregisters (E5)"


def _why_not_read(
    connection: Connection, now: float, consumers: Mapping[Any, Connection] | None
) -> str | None:
    """Return who has paused the reading of a connection."""
    protocol = connection.protocol
    # A leg of a proxy knows where its bytes go, even if a stage stands in between.
    consumer: Any = getattr(protocol, "far", None)
    stage = getattr(protocol, "sink", consumer)
    if not isinstance(consumer, Connection):
        stage = consumer = (consumers or {}).get(connection)
    if connection.producer is connection and connection.flow_state == flow.PAUSED:
        return None  # it resumes itself, in its turn
    if consumer is not None:
        name = format_address(consumer.getPeer())
        if consumer.blocked_since is not None and consumer.flow_state == flow.PAUSED:
            return f"paused by its consumer {name} (R1), whose {_full(consumer, now)}"
        if stage is not consumer:
            return f"paused by the {type(stage).__name__} before its consumer {name} (R1)"
        if consumer.flow_state == flow.PAUSED:
            return None  # the consumer resumes it, in its turn
    reason = getattr(protocol, "why_paused", None)
    by = f"{type(protocol).__name__} has paused its reading (R1)"
    if reason is not None:
        return f"{by} {reason()}"
    if consumers is None:
        return "its reading is paused (R1)"
    unread = receive_queue(connection.socket)
    waiting = f"; {_size(unread)} wait to be read" if unread else ""
    return f"{by} and has not called resumeProducing(){waiting}"


def _why_silent(connection: Connection) -> str | None:
    """Return why a connection that has nothing to send, and may read, does neither."""
    unread = receive_queue(connection.socket)
    if unread and connection.reading:
        return None  # the next iteration reads
    unacknowledged = (send_queue(connection.socket) or 0) - connection.write_ended
    if unacknowledged > 0:
        size = _size(unacknowledged)
        return f"the kernel has taken all, and its peer has not taken the last {size} yet (T6)"
    if connection.write_ended:
        return "its write side has ended, and its peer has not ended the other direction (E7)"
    producer = connection.producer
    if connection.read_ended:
        if producer is None:
            return "its peer has ended its direction, and the program has not ended the other (E7)"
        return (
            f"its peer has ended its direction, and its producer, {_producer(connection)}, "
            "has not finished (E7)"
        )
    if producer is None or isinstance(producer, Connection):
        return IDLE
    if connection.flow_state == flow.PULL:
        return (
            f"its pull producer, {_producer(connection)}, was asked and has written nothing; "
            "it is not asked again before it writes (U2)"
        )
    if connection.flow_state == flow.PAUSED:
        return None  # it is resumed, in its turn
    return f"its producer, {_producer(connection)}, may write and writes nothing (P1)"


def _producer(connection: Connection) -> str:
    producer: Any = connection.producer
    if producer is connection:
        return "the connection itself"
    if isinstance(producer, Connection):
        return f"the connection with {format_address(producer.getPeer())}"
    return type(producer).__name__


def _size(count: int) -> str:
    if count < 1024:
        return "1 byte" if count == 1 else f"{count} bytes"
    return f"{count / 1024:.0f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
