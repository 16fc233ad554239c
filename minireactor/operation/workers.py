"""Several processes that serve the same places: a parent, which serves nobody, and its workers.

    workers = Workers(reactor, command, 2, on_stopped=reactor.stop)
    workers.listen("127.0.0.1", 8080)
    workers.start({"127.0.0.1:8080": workers.ports[0]})    # returns once the workers serve
    reactor.run()

`Workers` has the methods of `serve.server.Server` that a command calls: it listens, stops, and
counts what has been done.

The parent opens the listening sockets, and keeps them while workers come and go: see `shared`. When
a worker dies, clients that wait in the queue of its socket are served by its replacement, which
gets the same socket.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core import flow
from minireactor.core.timers import cancel_if_active
from minireactor.log import logger
from minireactor.operation import worker
from minireactor.operation.child import Child, how_it_ended
from minireactor.operation.control import Control, connect
from minireactor.operation.monitors import WorkersMonitor
from minireactor.operation.shared import SharedPort
from minireactor.serve.totals import Totals
from minireactor.view.monitor import LIMIT
from minireactor.view.sources import monitor_makers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from minireactor.address import Address
    from minireactor.internet import Reactor

# A worker that has lived for this long is started anew at once. After a shorter life there is a
# delay from the second death on: 1 s, then twice as long each time, up to MAX_DELAY. During the
# delay, another worker accepts from its sockets.
STABLE_SECONDS = 10.0
MAX_DELAY = 30.0
# Seconds after the grace. A worker that has not ended by then is killed: maybe it is stopped.
KILL_SECONDS = 2.0


class WorkersFailed(Exception):
    """No worker could start. The message says why, in one line."""


class Workers:
    """The workers of a command. Grammar of the calls:

    listen()* start() [retire()] stop()*

    command: the command line of a worker; it is the same as that of the parent.
    count: the number of workers, 1 or more.
    on_stopped: called once, after stop() or retire(), when the last worker has ended.

    size: the number of workers.
    stopping, retired: whether stop() or retire() has been called.
    aborted: connections that were aborted after that. A killed worker counts as one.
    without_figures: workers that have ended without sending their totals."""

    def __init__(
        self,
        reactor: Reactor,
        command: Sequence[str],
        count: int,
        on_stopped: Callable[[], object] = lambda: None,
    ) -> None:
        self.reactor = reactor
        self.size = count
        self.ports: list[SharedPort] = []
        self.places: Mapping[str, SharedPort] = {}
        self.tls = None  # the workers have it
        self.stopping = False
        self.retired = False
        self.aborted = 0
        self.without_figures = 0
        self.marks: tuple[int, int | None] | None = None  # that set_marks() has set
        self.monitors: list[WorkersMonitor] = []
        self._on_stopped = on_stopped
        self._totals = Totals()  # of workers that have ended
        self._slots = [_Slot(self, command, number) for number in range(count)]
        self._killing: Any = None
        self._next_monitor = 0
        self._counting: WorkersMonitor | None = None  # made by the first status()
        monitor_makers[reactor] = self.monitor

    def listen(
        self,
        host: str,
        port: int,
        high: int = flow.HIGH,
        low: int | None = None,
        sockets: list[socket.socket] | None = None,
    ) -> Address:
        """Listen at one more place; return its address. The arguments are those of Server.listen().

        The marks are checked only: workers set them. Raises CannotListenError, also if somebody
        listens there. Raises ValueError unless 0 <= low < high."""
        flow.checked_marks(high, low)
        opened = SharedPort(self.reactor, host, port, self.size, sockets)
        self.ports.append(opened)
        return opened.getHost()

    def start(self, places: Mapping[str, SharedPort]) -> None:
        """Start the workers, and run the loop until each of them serves or has failed.

        places: the ports, by the names under which workers ask for their sockets: see `handover`.

        Raises WorkersFailed if none of them serves."""
        self.places = dict(places)
        for slot in self._slots:
            slot.start()
        while any(slot.is_starting() for slot in self._slots):
            self.reactor.iterate(1)
        if not any(slot.is_serving() for slot in self._slots):
            self._close_ports()
            raise WorkersFailed(self._slots[0].failure)
        for slot in self._slots:
            slot.keep()

    # Orders.

    def retire(self, grace: float) -> None:
        """Stop listening, and let connections go on, because another process serves: see Server.

        Workers stop by themselves after `grace` seconds."""
        self.retired = True
        self._close_ports()
        for slot in self._slots:
            slot.stop("retire")
        self._killing = self.reactor.call_later_internal(2 * grace + KILL_SECONDS, self._kill)
        self.ended()

    def stop(self, grace: float) -> None:
        """Stop listening, and let the workers drain. A second call aborts their connections."""
        if self.stopping:
            self._abort()
            return
        self.stopping = True
        self._close_ports()
        for slot in self._slots:
            slot.stop("stop")
        cancel_if_active(self._killing)
        self._killing = self.reactor.call_later_internal(grace + KILL_SECONDS, self._kill)
        self.ended()

    def _close_ports(self) -> None:
        for port in self.ports:
            port.stopListening()

    def _abort(self) -> None:
        self._send(do="abort")
        cancel_if_active(self._killing)
        self._killing = self.reactor.call_later_internal(KILL_SECONDS, self._kill)

    def _kill(self) -> None:
        for slot in self._slots:
            slot.kill()

    def ended(self) -> None:
        """Note that a worker has ended. The last one calls on_stopped after stop() or retire()."""
        if self.is_ending() and not any(slot.is_alive() for slot in self._slots):
            cancel_if_active(self._killing)
            if self.without_figures:
                logger.warning(
                    "the totals lack the connections of workers that died: %d", self.without_figures
                )
            on_stopped, self._on_stopped = self._on_stopped, lambda: None
            on_stopped()

    def is_ending(self) -> bool:
        """Return whether workers that end are not started anew."""
        return self.stopping or self.retired

    def can_reload(self) -> bool:
        """Return whether a worker has files to read again."""
        return any(slot.can_reload for slot in self._slots)

    def reload(self) -> None:
        """Let the workers read their files again."""
        self._send(do="reload")

    def report(self) -> None:
        """Let the workers report on standard error which connections do not move, and why."""
        self._send(do="report")

    def set_marks(self, high: int, low: int | None = None) -> None:
        """Set the marks of all connections, and of those to come."""
        self.marks = flow.checked_marks(high, low)
        self._send(do="marks", high=self.marks[0], low=self.marks[1])

    def lend(self) -> None:
        """Let a worker accept the clients of all that are delayed, until return_to() is called."""
        helper = next((slot for slot in self._slots if slot.is_serving()), None)
        for number, slot in enumerate(self._slots):
            if helper is not None and slot.is_delayed:
                own = [sock for port in self.places.values() for sock in port.own_share(number)]
                helper.lend(number, own)

    def return_to(self, number: int) -> None:
        """Let no other worker accept the clients of worker `number`."""
        self._send(do="return", owner=number)

    def _send(self, **order: Any) -> None:
        for slot in self._slots:
            slot.send(**order)

    # Figures.

    def status(self) -> str:
        """Return how many clients there are and have been, as far as workers have said."""
        figures = self._figures()
        return f"{figures['open']} connections, {figures['connections']} so far"

    def _figures(self) -> dict[str, Any]:
        if self._counting is None:
            self._counting = self.monitor(self.reactor, 0)
        totals: dict[str, Any] = self._counting.sample()["totals"]
        return totals

    def totals(self) -> Totals:
        """Return the totals of the workers that have ended in order."""
        return self._totals.copy()

    def add_figures(self, totals: dict[str, int], aborted: int) -> None:
        """Add the last figures of a worker."""
        highest = max(self._totals.highest_pending, totals["highest_pending"])
        for name, value in totals.items():
            setattr(self._totals, name, getattr(self._totals, name) + value)
        self._totals.highest_pending = highest
        self.aborted += aborted

    def monitor(
        self, reactor: Reactor, limit: int = LIMIT, label: Any = None, **order: str
    ) -> WorkersMonitor:
        """Return a monitor of all workers' connections. The arguments are those of Monitor.

        The workers have labels of their own, so `label` has no effect."""
        number, self._next_monitor = self._next_monitor, self._next_monitor + 1
        found = WorkersMonitor(reactor, number, self.size, self._remove_monitor, limit, **order)
        self.monitors.append(found)
        for slot in self._slots:
            slot.introduce(found)
        return found

    def _remove_monitor(self, monitor: WorkersMonitor) -> None:
        if monitor in self.monitors:
            self.monitors.remove(monitor)


class _Slot:
    """The place of one worker: at most one process at a time, started anew when it dies.

    failure: why the process could not start, or "".
    can_reload: whether the process has files to read again.
    is_delayed: whether another worker should accept its clients for now."""

    def __init__(self, workers: Workers, command: Sequence[str], number: int) -> None:
        self.failure = ""
        self.can_reload = False
        self.is_delayed = False
        self._workers = workers
        self._reactor = workers.reactor
        self._command = command
        self._number = number
        self._child: Child | None = None
        self._control: Control | None = None
        self._how_it_ended = ""  # the process, while its last figures are still expected
        self._is_kept = False
        self._owes_totals = False
        self._began = 0.0
        self._deaths = 0  # in a row, each soon after the start
        self._timer: Any = None

    # The process.

    def start(self) -> None:
        """Start a process. If the system cannot start one, that counts as a death."""
        workers = self._workers
        self._began = self._reactor.seconds()
        self.failure = ""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = Child(
                    self._reactor,
                    self._command,
                    {place: port.share(self._number) for place, port in workers.places.items()},
                    variables=worker.variables(theirs.fileno(), self._number, workers.size),
                    descriptors=[theirs.fileno()],
                    on_ready=self._on_ready,
                    on_failed=self._on_failed,
                    on_ended=self._on_ended,
                )
            except OSError as error:
                ours.close()
                self._on_failed(error.strerror or str(error))
                return
        control: Control = Control(
            lambda message: self._received(control, **message), lambda: self._disconnected(control)
        )
        self._control = control
        connect(self._reactor, ours, control)
        if workers.marks is not None:
            high, low = workers.marks
            control.send(do="marks", high=high, low=low)
        for monitor in workers.monitors:
            self.introduce(monitor)

    def is_alive(self) -> bool:
        """Return whether there is a process, or one has ended whose last figures may arrive."""
        return self._child is not None or self._control is not None

    def is_serving(self) -> bool:
        """Return whether the process has said that it is ready."""
        return self._child is not None and self._child.is_ready

    def is_starting(self) -> bool:
        return self._child is not None and not self._child.is_ready

    def keep(self) -> None:
        """From now on, start the worker anew when it dies. Do so now if it has not started."""
        self._is_kept = True
        if not self.is_alive():
            self._died()

    def _on_ready(self) -> None:
        self._began = self._reactor.seconds()
        self._owes_totals = True
        self.is_delayed = False
        self._workers.return_to(self._number)
        self._workers.lend()  # perhaps no other worker has been there

    def _on_failed(self, reason: str) -> None:
        self.failure = reason
        self._ended(f"could not start: {reason}")

    def _on_ended(self, status: int) -> None:
        self._ended(how_it_ended(status))

    def _ended(self, how: str) -> None:
        pid = "" if self._child is None else f" (process {self._child.pid})"
        self._child = None
        self._how_it_ended = f"worker {self._number + 1}{pid} {how}"
        if self._control is None:
            self._died()
        else:
            # A process that the worker has left behind may keep the connection open.
            end = self._control.transport.abortConnection
            self._reactor.call_later_internal(worker.LAST_SECONDS, end)

    def _died(self) -> None:
        """Start another process, now or after a delay; the log says which."""
        self._workers.without_figures += self._owes_totals
        self._owes_totals = False
        if self._workers.is_ending():
            self._workers.ended()
            return
        if not self._is_kept:
            return
        if self._reactor.seconds() >= self._began + STABLE_SECONDS:
            self._deaths = 0
        delay = delay_after(self._deaths)
        self._deaths += 1
        when = f"in {delay:g} s" if delay else "now"
        logger.warning("%s; the next one starts %s", self._how_it_ended, when)
        self._timer = self._reactor.call_later_internal(delay, self.start)
        self.is_delayed = delay > 0
        self._workers.lend()

    def stop(self, order: str) -> None:
        """End the process by an order, or at once if it is still starting."""
        cancel_if_active(self._timer)
        if self._child is not None and not self._child.is_ready:
            self._child.send_signal(signal.SIGTERM)
        self.send(do=order)

    def kill(self) -> None:
        """Kill a process that does not end, and say so in the log."""
        if self._child is not None:
            logger.warning("worker %d is killed: it does not end", self._number + 1)
            self._workers.aborted += 1  # nobody knows how many connections it had
            self._child.send_signal(signal.SIGKILL)

    # Its control connection.

    def send(self, **order: Any) -> None:
        """Send an order to the process, if there is one: see `control`."""
        if self._control is not None:
            self._control.send(**order)

    def lend(self, owner: int, sockets: Sequence[socket.socket]) -> None:
        """Let the process accept from the sockets of another worker."""
        if self._control is not None and sockets:
            try:
                self._control.send_sockets(sockets, do="lend", owner=owner, count=len(sockets))
            except (OSError, RuntimeError) as error:
                logger.warning("clients of worker %d wait for it: %s", owner + 1, error)

    def introduce(self, monitor: WorkersMonitor) -> None:
        """Let a monitor know the process, if there is one."""
        if self._control is not None:
            monitor.joined(self._control, self._number)

    def _received(self, control: Control, **message: Any) -> None:
        if "can_reload" in message:
            self.can_reload = message["can_reload"]
        elif "totals" in message:
            self._owes_totals = False
            self._workers.add_figures(**message)
        elif "text" in message:
            getattr(sys, message["stream"]).write(message["text"])
        else:
            number = message.pop("view")
            for monitor in self._workers.monitors:
                if monitor.number == number:
                    monitor.received(control, **message)

    def _disconnected(self, control: Control) -> None:
        for monitor in self._workers.monitors:
            monitor.left(control)
        if control is self._control:
            self._control = None
            if self._child is None:
                self._died()


def delay_after(deaths: int) -> float:
    """Return for how many seconds a worker's start is delayed, after so many early deaths."""
    return min(MAX_DELAY, 2.0 ** (deaths - 1)) if deaths else 0.0
