"""Run the server of a command: where it listens, what its signals do, what it prints."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from minireactor.address import format_address, host_port
from minireactor.cli.printer import Printer
from minireactor.cli.process import (
    RELOAD_SIGNALS,
    REPORT_SIGNALS,
    STOP_SIGNALS,
    max_connections,
    set_handler,
)
from minireactor.cli.reload import Reloads
from minireactor.cli.tls import reload_certificate
from minireactor.operation.handover import SYSTEMD, HandoverError, Inherited
from minireactor.view.output import UsageError, cannot_listen

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from minireactor.internet import Reactor
    from minireactor.serve.places import Place
    from minireactor.serve.server import Server
    from minireactor.transports.connection import Connection

ABORTED = 1  # the exit status if transfers were aborted at the end


def listen(server: Server, options: argparse.Namespace, places: list[Place], what: str) -> str:
    """Make the server listen at each place. Return the addresses, as people write them.

    Sockets that this process has inherited for a place are used. Raises UsageError if the server
    cannot start; the ports that are open by then stay open."""
    command = f"minireactor {options.command}"
    try:
        inherited = Inherited(os.environ)
    except HandoverError as error:
        raise UsageError(f"{command}: {error}") from error
    try:
        addresses = [_listen_at(server, options, place, inherited, what) for place in places]
    finally:
        inherited.close()
    return " and ".join(addresses)


def _listen_at(
    server: Server, options: argparse.Namespace, place: Place, inherited: Inherited, what: str
) -> str:
    from minireactor.error import CannotListenError

    command = f"minireactor {options.command}"
    option = "LISTEN" if options.command == "proxy" or options.listen else "--port"
    is_from_systemd = place[0].partition(":")[0] == SYSTEMD
    name = place[0] if is_from_systemd else host_port(*place)
    sockets = inherited.take(name)
    if sockets is None and is_from_systemd:
        raise UsageError(f"{command}: {name}: systemd has passed no such socket (LISTEN_FDS)")
    try:
        address = server.listen(*place, options.high, options.low, sockets)
    except CannotListenError as error:
        raise UsageError(f"{command}: {cannot_listen(error, option)}") from error
    except Exception as error:  # from the app's startFactory(), or the app has run the reactor
        raise UsageError(f"{command}: starting {what} raised {error!r}") from error
    return format_address(address)


def run_server(
    server: Server,
    options: argparse.Namespace,
    output: Printer,
    what_it_does: str,
    label: Callable[[Connection], str] | None = None,
) -> int:
    """Run until a signal stops the server, or its app stops the reactor. Return the exit status.

    `label` returns a short text about a connection, for the views."""
    reactor = server.reactor

    def stop(*_: Any) -> None:
        reactor.callFromThread(server.stop, options.grace)

    def look() -> None:
        output.reopen()  # first, so that the report is in the new file
        _report(reactor, options, output)

    reloads = Reloads(reactor, output.announce)
    if server.tls is not None:
        reload_certificate(reloads, options, server.tls)
    with contextlib.ExitStack() as views:
        most = max_connections(options, options.descriptors)
        messages = [what_it_does if most is None else f"{what_it_does}, up to {most} connections"]
        if options.dashboard:
            from minireactor.view.command import open_dashboard

            messages.append(open_dashboard(views, server, options, what_it_does, label))
        if options.metrics or options.record is not None:
            from minireactor.view.command import open_views

            messages += open_views(views, reactor, options, label)
        for number in STOP_SIGNALS:
            set_handler(number, stop)
        for number in RELOAD_SIGNALS:
            set_handler(number, reloads.on_signal if reloads else stop)
        for number in REPORT_SIGNALS:
            set_handler(number, lambda *_: reactor.callFromThread(look))
        for message in messages:
            output.announce(message)
        if options.watch:
            from minireactor.view.command import watch

            options.flush()  # before the view takes over the screen
            watch(views, server, stop, f"minireactor: {what_it_does}", label)
        reactor.run(installSignalHandlers=False)
    aborted = f", transfers aborted {server.aborted}" if server.aborted else ""
    output.announce(f"{server.totals()}{aborted}")
    return ABORTED if server.aborted else 0


def _report(reactor: Reactor, options: argparse.Namespace, output: Printer) -> None:
    """Begin to report which connections do not move, and why."""
    from minireactor.cli.view_options import CORE

    if options.engine != CORE:
        output.report(f"no report: leave out --engine {options.engine}")
        return
    from minireactor.debugging.report import report

    report(reactor, output.report)
