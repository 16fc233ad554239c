"""A worker: one of several processes that serve the same places for a parent, see `workers`.

    worker = worker_of_this_process()        # None unless a parent has started it as a worker
    worker.serve(server, reload=..., report=..., can_reload=..., label=..., grace=...)
    reactor.run()

A worker serves like any other process. It takes its orders from the parent, so it ignores the
signals that a terminal or a supervisor sends to all processes at once. SIGTERM lets it drain.
If the parent ends, the worker drains and ends too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core.slices import Walk
from minireactor.core.system import ListeningSocket
from minireactor.defer import Deferred
from minireactor.operation.control import Control, connect
from minireactor.view.monitor import Monitor
from minireactor.view.ranking import BUSIEST, KEYS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, MutableMapping

    from minireactor.internet import Reactor
    from minireactor.serve.server import Server
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port
    from minireactor.view.watched import WatchedConnection

MAX_EVENTS = 5000  # of one view between two samples; older ones are dropped
MAX_TEXT = 1024 * 1024  # bytes that wait for a parent that does not print them
LAST_SECONDS = 1.0  # how long the last figures may take at the end

_VARIABLE = "MINIREACTOR_WORKER"  # a JSON object: the arguments of Worker


def variables(fd: int, number: int, count: int) -> Mapping[str, str]:
    """Return the variables of the environment that make a process a worker."""
    return {_VARIABLE: json.dumps({"fd": fd, "number": number, "count": count})}


def taken_from(environ: MutableMapping[str, str]) -> Worker | None:
    """Return the worker that the environment describes, and remove its variable; else None."""
    text = environ.pop(_VARIABLE, "")
    with contextlib.suppress(ValueError, TypeError, OSError):
        return Worker(**json.loads(text))
    return None


@functools.cache
def worker_of_this_process() -> Worker | None:
    """Return the worker that this process is, always the same object; None if it is none.

    The first call removes the variable from os.environ, so call it before any application code."""
    return taken_from(os.environ)


class Worker:
    """This process as a worker: serve(), once.

    fd: the descriptor of its end of the control connection.
    number, count: its place among the workers, from 0, and their number."""

    def __init__(self, fd: int, number: int, count: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self.number = number
        self.count = count
        self._views: dict[int, _View] = {}
        self._borrowed: dict[int, Port] = {}  # by the worker whose sockets they are
        self._done: Deferred[None] = Deferred()

    def take_share(self, options: argparse.Namespace) -> None:
        """Reduce the limits that hold for all workers together to the share of this one."""
        for name in ("max_connections", "max_per_client", "accept_rate"):
            limit = getattr(options, name, None)
            if limit is not None:
                setattr(options, name, share(limit, self.number, self.count))

    def serve(
        self,
        server: Server,
        *,
        grace: float,
        marks: tuple[int, int | None],
        reload: Callable[[], object],
        report: Callable[[], object],
        can_reload: bool,
        label: Callable[[Connection], str] | None = None,
    ) -> None:
        """Take orders from the parent, and send it figures, while the reactor runs.

        grace: seconds for the transfers that are under way when the server stops.
        marks: the high and the low mark of the ports.
        reload, report: called for these orders. label: as for a Monitor."""
        self._server = server
        self._reactor = server.reactor
        self._grace = grace
        self._marks = marks
        self._label = label
        self._orders: dict[str, Callable[..., object]] = {
            "sample": self._send_sample,
            "close": self._close,
            "marks": self._set_marks,
            "lend": self._borrow,
            "return": self._give_back,
            "retire": lambda: server.retire(grace),
            "stop": self.stop,
            "abort": server.abort,
            "reload": reload,
            "report": report,
        }
        self._control = Control(self._obey, self._on_lost)
        connect(self._reactor, self._socket, self._control)
        self._control.send(can_reload=can_reload)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._send_last)

    def print_by_parent(self) -> None:
        """Let the parent print what this process prints on a terminal, where it shows --watch."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                setattr(sys, name, _PrintedByParent(self._reactor, self._control, name))

    def stop(self) -> None:
        """Let the server drain and end. Further calls change nothing."""
        if not self._server.stopping:
            self._server.stop(self._grace)

    def _obey(self, order: dict[str, Any]) -> None:
        self._orders[order.pop("do")](**order)

    def _on_lost(self) -> None:
        # The parent has ended, or it has got the last figures.
        if not self._done.called:
            self._done.callback(None)
        self.stop()

    # Sockets of a worker that is started anew only after a delay.

    def _borrow(self, owner: int, count: int) -> None:
        """Accept the clients of another worker too."""
        received = self._control.descriptors
        sockets: list[socket.socket] = [ListeningSocket(fileno=fd) for fd in received[:count]]
        del received[:count]
        self._give_back(owner)
        if self._server.stopping or self._server.retired:
            for sock in sockets:
                sock.close()
            return
        for sock in sockets:
            sock.setblocking(False)
        self._server.listen("", 0, *self._marks, sockets=sockets)
        self._borrowed[owner] = self._server.ports[-1]

    def _give_back(self, owner: int) -> None:
        """Stop accepting the clients of that worker."""
        port = self._borrowed.pop(owner, None)
        if port is not None:
            port.stopListening()
            self._server.ports.remove(port)

    # Figures.

    def _send_sample(
        self, view: int, limit: int, order: str = BUSIEST, events: bool = False, whole: bool = False
    ) -> None:
        if view not in self._views:
            self._views[view] = _View(self._server, self._label, events)
        found = self._views[view]
        found.limit, found.order = limit, order
        if whole:
            found.sample_soon(lambda sample: self._send(view, sample))
        else:
            self._send(view, found.sample())

    def _send(self, view: int, sample: dict[str, Any]) -> None:
        if view in self._views:
            events = self._views[view].take_events()
            now = self._reactor.seconds()
            self._control.send(view=view, now=now, sample=sample, events=events)

    def _close(self, view: int) -> None:
        found = self._views.pop(view, None)
        if found is not None:
            found.close()

    def _send_last(self) -> Deferred[None]:
        """Send all figures for the last time. The result fires once the parent has them."""
        for view, monitor in self._views.items():
            self._send(view, monitor.sample())
        totals = self._server.totals()
        figures = {name: getattr(totals, name) for name in totals.__slots__}
        self._control.send(totals=figures, aborted=self._server.aborted)
        if not self._control.is_lost:
            self._control.transport.loseConnection()
            self._reactor.callLater(LAST_SECONDS, self._control.transport.abortConnection)
        return self._done

    # Marks.

    def _set_marks(
        self, high: int, low: int, view: int | None = None, id: int | None = None
    ) -> None:
        def visit(connection: Connection) -> bool:
            connection.setWriteBufferLimits(high, low)
            return False

        if view is None:
            self._marks = high, low
            self._server.set_marks(high, low)
            views = list(self._views.values())[:1]  # each of them knows all connections
            connections = [each for found in views for each in found.connections()]
        else:
            connection = self._views[view].connection(id or 0) if view in self._views else None
            connections = [] if connection is None else [connection]
        Walk(self._reactor, connections, visit).start()


class _View(Monitor):
    """A monitor for the parent: its rows have keys, and it keeps its events for the next sample."""

    def __init__(
        self, server: Server, label: Callable[[Connection], str] | None, events: bool
    ) -> None:
        super().__init__(server.reactor, label=label)
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        if events:
            self.subscribe(self._events.append)

    def _row(self, watched: WatchedConnection, now: float) -> dict[str, Any]:
        return {**super()._row(watched, now), "key": KEYS[self.order](watched)}

    def take_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call, with times of time.monotonic()."""
        events = [{**event, "time": event["time"] + self._began} for event in self._events]
        self._events.clear()
        return events


class _PrintedByParent(io.TextIOBase):
    """A text stream that sends its text to the parent. Any thread may write."""

    def __init__(self, reactor: Reactor, control: Control, name: str) -> None:
        self._reactor = reactor
        self._control = control
        self._name = name

    def write(self, text: str) -> int:
        self._reactor.callFromThread(self._send, text)
        return len(text)

    def _send(self, text: str) -> None:
        if self._control.transport.pending <= MAX_TEXT:
            self._control.send(text=text, stream=self._name)


def share(limit: float, number: int, count: int) -> float:
    """Return the part of a limit that one of `count` workers gets, at least 1.

    The parts of a whole number add up to it, unless it is less than `count`."""
    if isinstance(limit, int):
        return max(1, limit // count + (number < limit % count))
    return limit / count
