"""The life of a server's process: where it listens, how it ends, and what replaces it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import host_port
from minireactor.cli.process import (
    RELOAD_SIGNALS,
    REPORT_SIGNALS,
    RESTART_SIGNALS,
    STOP_SIGNALS,
    set_handler,
)
from minireactor.cli.view_options import CORE
from minireactor.core.timers import cancel_if_active
from minireactor.operation.child import parent, same_command
from minireactor.operation.handover import SYSTEMD, HandoverError
from minireactor.operation.listening import Listening
from minireactor.operation.restart import Restart
from minireactor.operation.reuse_port import accept_waiting, is_supported, reusing_sockets
from minireactor.operation.systemd import Notifier
from minireactor.view.output import UsageError

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterable

    from minireactor.cli.printer import Printer
    from minireactor.core.timers import DelayedCall
    from minireactor.serve.places import Place
    from minireactor.serve.server import Server
    from minireactor.transports.port import Port

_SECRET = "MINIREACTOR_SECRET"  # of the dashboard's address


class Life:
    """The life of a server's process.

    Takes over what the process has inherited, and removes the variables about that from the
    environment. So make this object before any code of the application runs.

    places: where the server is going to listen.

    command: the command line that starts this program again.

    Raises UsageError if what has been inherited is not valid."""

    def __init__(self, options: argparse.Namespace, places: Iterable[Place]) -> None:
        # By default, these signals would end a process that is still starting.
        self._early: set[int] = set()
        for number in RELOAD_SIGNALS + REPORT_SIGNALS + RESTART_SIGNALS:
            set_handler(number, lambda number, _: self._early.add(number))
        self._options = options
        self.command = same_command(options.argv)
        self._folder: str | None = None
        with contextlib.suppress(OSError):  # somebody has removed the current directory
            self._folder = os.getcwd()
        # A view on the terminal replaces sys.stdout later.
        self._has_screen = options.watch and sys.stdout is not None and sys.stdout.isatty()
        self._parent = parent()
        self.notifier = Notifier(os.environ)
        self.secret = os.environ.pop(_SECRET, "")
        views = (place for place in (options.metrics, options.dashboard) if place)
        try:
            self.listening = Listening(os.environ, map(place_name, [*places, *views]))
        except HandoverError as error:
            raise UsageError(f"minireactor {options.command}: {error}") from error
        if options.reuse_port:
            _check_reuse_port(options)
        self._is_draining = False
        self._delayed: DelayedCall | None = None  # the end, after --drain-delay

    def listen(self, place: Place, listen: Callable[[list[socket.socket] | None], Port]) -> Port:
        """Return the port of the server itself at a place, with --reuse-port if that was given.

        The arguments are those of open_port(). Raises CannotListenError too."""
        if not self._options.reuse_port or place[0].partition(":")[0] in (SYSTEMD, "unix"):
            return self.open_port(place, listen)

        def listen_reusing(sockets: list[socket.socket] | None) -> Port:
            port = listen(sockets or reusing_sockets(*place))
            if sockets is None:
                port.own_sockets()
            return port

        return self.open_port(place, listen_reusing)

    def open_port(self, place: Place, listen: Callable[[list[socket.socket] | None], Port]) -> Port:
        """Call `listen` with the sockets that this process has inherited for a place, or None.

        Returns its port. Raises UsageError if systemd should have passed a socket and has not."""
        try:
            return self.listening.open(place_name(place), listen)
        except HandoverError as error:
            raise UsageError(f"minireactor {self._options.command}: {error}") from error

    def is_draining(self) -> bool:
        """Return whether a signal has asked for the end."""
        return self._is_draining

    def begin(self, server: Server, output: Printer, close_views: Callable[[], object]) -> None:
        """Handle the signals that end or replace the process, once everything listens.

        output: prints what happens.
        close_views: called once a successor serves. The ports of the views must close."""
        self._server, self._output, self._close_views = server, output, close_views
        self._restart = Restart(
            server.reactor,
            self.command,
            self.listening,
            cwd=self._folder,
            on_begin=self._begin_restart,
            on_replaced=self._replaced,
            on_failed=self._not_replaced,
        )
        self.listening.close_rest()
        call = server.reactor.callFromThread
        for number in STOP_SIGNALS:
            set_handler(number, lambda *_: call(self.stop))
        for number in RESTART_SIGNALS:
            set_handler(number, lambda *_: call(self.restart))
        self.notifier.start(server.reactor, server.status)
        call(self._serves)

    def _serves(self) -> None:
        self.listening.own()
        self._parent.ready()
        self.notifier.ready()
        for number in self._early:
            signal.raise_signal(number)  # it came before its handler

    # The end.

    def stop(self, *_: Any) -> None:
        """End in an orderly way. Each further call shortens that: see the README of `operation`."""
        self._restart.cancel()
        delay = self._options.drain_delay
        if not self._is_draining:
            self._is_draining = True
            self.notifier.stopping()
            if delay and not self._server.retired:
                self._output.announce(f"draining: clients are accepted for {delay:g} s more")
                self._delayed = self._server.reactor.call_later_internal(delay, self._stop)
                return
        cancel_if_active(self._delayed)
        self._stop()

    def _stop(self) -> None:
        server, grace = self._server, self._options.grace
        if self._options.reuse_port and not server.retired:
            # Another process serves the clients to come, so these here may go on.
            for port in server.ports:
                accept_waiting(port)
            server.retire(grace)
        else:
            server.stop(grace)

    # The successor.

    def restart(self) -> None:
        """Start a successor, or report why there is none."""
        reason = self._why_no_restart()
        if reason:
            self._output.report(f"no restart: {reason}", "WARNING")
        else:
            self._restart.begin()

    def _why_no_restart(self) -> str:
        options = self._options
        if options.engine != CORE:
            return f"--engine {options.engine} cannot hand its sockets over; leave it out"
        if self._has_screen:
            return "two processes cannot share a terminal for --watch; leave it out"
        if os.getpid() == 1:
            return "this is the first process of its container, which ends with it"
        if self._is_draining or self._server.stopping or self._server.retired:
            return "this process is about to end"
        if self._restart.is_starting():
            return "a successor is starting already"
        return ""

    def _begin_restart(self) -> dict[str, str]:
        self.notifier.reloading()
        return {_SECRET: self.secret, **self.notifier.variables()}

    def _replaced(self, pid: int) -> None:
        self._output.announce(
            f"process {pid} serves from now on; this one ends with its last connection"
        )
        self.notifier.replaced(pid)
        self._close_views()
        self._server.retire(self._options.grace)

    def _not_replaced(self, reason: str) -> None:
        if not self._is_draining:
            self._output.report(f"no restart, this process goes on: {reason}", "WARNING")
            self.notifier.ready()


def _check_reuse_port(options: argparse.Namespace) -> None:
    """Raise UsageError if this process cannot serve with --reuse-port."""
    command = f"minireactor {options.command}"
    if not is_supported():
        raise UsageError(f"{command}: this system has no --reuse-port; leave it out")
    if options.workers is not None:
        raise UsageError(
            f"{command}: --reuse-port and --workers exclude each other; leave one of them out"
        )


def place_name(place: Place) -> str:
    """Return the text that names a place where a process listens."""
    return place[0] if place[0].partition(":")[0] == SYSTEMD else host_port(*place)
