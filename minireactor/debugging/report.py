"""Report why connections do not move, however many there are, in slices.

    report(reactor, print)

The report looks twice, SECONDS apart. Connections that have moved in between are left out.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Callable

from minireactor.core.slices import Walk
from minireactor.debugging.explain import Explanation, connections_of, why
from minireactor.transports.connection import Connection
from minireactor.transports.kernel import send_queue

if TYPE_CHECKING:
    from minireactor.core.loop import Loop

SECONDS = 1.0  # between the two looks


def report(reactor: Loop, write: Callable[[str], object]) -> None:
    """Call `write(line)` for each line of a report, about SECONDS from now. Returns at once.

    Does nothing while an earlier report of this reactor is being made. Use it only on the loop's
    own thread."""
    if reactor not in _under_way:
        _under_way.add(reactor)
        _Report(reactor, write).start()


_under_way: weakref.WeakSet[Loop] = weakref.WeakSet()


class _Report:
    def __init__(self, reactor: Loop, write: Callable[[str], object]) -> None:
        self._reactor = reactor
        self._write = write
        self._before: dict[Connection, int] = {}
        self._consumers: dict[object, Connection] = {}
        self._found = Explanation()

    def start(self) -> None:
        connections = connections_of(self._reactor)
        Walk(self._reactor, connections, self._note, self._wait).start()

    def _note(self, connection: Connection) -> bool:
        self._before[connection] = _moved(connection)
        producer = connection.producer
        if isinstance(producer, Connection):
            self._consumers[producer] = connection
        return False

    def _wait(self) -> None:
        self._reactor.call_later_internal(SECONDS, self._look_again)

    def _look_again(self) -> None:
        # Without a copy as a list: 10,000 connections that have not been used for a second are in
        # no cache, and touching all of them at once takes 10 ms.
        Walk(self._reactor, self._before, self._explain, self._print).start()

    def _explain(self, connection: Connection) -> bool:
        if _moved(connection) == self._before[connection]:
            sentence = why(connection, self._reactor.seconds(), self._consumers)
            if sentence:
                self._found[connection] = sentence
        return False

    def _print(self) -> None:
        _under_way.discard(self._reactor)
        count = f"{len(self._found)} of {len(self._before)}"
        self._write(f"connections that have not moved for {SECONDS:g} s: {count}")
        for line in str(self._found).split("\n") if self._found else ():
            self._write(f"  {line}")


def _moved(connection: Connection) -> int:
    """Return how many bytes have come in, plus how many the peer has taken: both only grow."""
    unacknowledged = send_queue(connection.socket) or 0
    return connection.bytes_in + connection.bytes_out - unacknowledged
