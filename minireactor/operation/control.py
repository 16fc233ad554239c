"""The connection between a parent and one of its workers: JSON objects, one a line.

The parent sends {"do": ...}, and the worker sends figures:

    {"do": "sample", "view": number, "limit", "order", "events": whether it wants events,
     "whole": whether all connections must have been examined}
    {"do": "close", "view": number}
    {"do": "marks", "high", "low"}                  of all connections, and of those to come
    {"do": "marks", "high", "low", "view", "id"}    of one connection of that view
    {"do": "lend", "owner": number, "count": of sockets, whose descriptors have been sent before}
    {"do": "return", "owner": number}
    {"do": "retire"}, "stop", "abort", "reload" or "report"

    {"can_reload": whether the worker reads files again for "reload"}
    {"view", "now": by time.monotonic(), "sample": see merge, "events": since the last sample}
    {"text", "stream": "stdout" or "stderr"}        to be printed, while --watch has the terminal
    {"totals": {...}, "aborted": number}            at its end

A view is one monitor of the parent, with one monitor in each worker.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Callable

from minireactor.basic import LineOnlyReceiver
from minireactor.protocol import Factory, connectionDone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.failure import Failure
    from minireactor.internet import Reactor

MAX_LINE = 8 * 1024 * 1024  # bytes; a row takes about 400, and a screen shows some hundreds


class Control(LineOnlyReceiver):
    """One end of the connection: (on_message* on_lost)

    on_message: called with each object that the other end sends.
    on_lost: called at the end of the connection, which is the end of the other process."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE
    unwatched = True

    def __init__(
        self, on_message: Callable[[dict[str, Any]], object], on_lost: Callable[[], object]
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self.is_lost = False
        self.descriptors: list[int] = []  # that have been received, and not used yet

    def send(self, **message: Any) -> None:
        """Send an object. Does nothing once the connection has ended."""
        if not self.is_lost:
            self.sendLine(json.dumps(message, separators=(",", ":")).encode())

    def send_sockets(self, sockets: Sequence[socket.socket], **message: Any) -> None:
        """Send copies of sockets, then an object. Raises OSError if no descriptor is left."""
        for sock in sockets:
            self.transport.sendFileDescriptor(sock.fileno())
        self.send(**message)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.descriptors.append(descriptor)

    def lineReceived(self, line: bytes) -> None:
        self._on_message(json.loads(line))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        self._on_lost()


class _Once(Factory):
    def __init__(self, control: Control) -> None:
        self._control = control

    def buildProtocol(self, addr: Any) -> Control:
        return self._control


def connect(reactor: Reactor, sock: socket.socket, control: Control) -> None:
    """Connect a control to its socket, which this call closes: the transport has a duplicate."""
    with sock:
        transport = reactor.adoptStreamConnection(sock.fileno(), sock.family, _Once(control))
    # It is none of the application's connections: removeAll() and reports leave it out.
    if transport is not None:
        transport.internal = True
