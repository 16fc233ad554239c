"""Run the server of a command: where it listens, what its signals do, what it prints."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

from minireactor.address import format_address
from minireactor.cli.printer import Printer
from minireactor.cli.process import (
    RELOAD_SIGNALS,
    REPORT_SIGNALS,
    max_connections,
    set_handler,
)
from minireactor.cli.reload import Reloads
from minireactor.cli.tls import reload_certificate
from minireactor.view.output import UsageError, cannot_listen

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable

    from minireactor.internet import Reactor
    from minireactor.operation.workers import Workers
    from minireactor.serve.places import Place
    from minireactor.serve.server import Server
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port

ABORTED = 1  # the exit status if transfers were aborted at the end


def listen(server: Server, options: argparse.Namespace, places: list[Place], what: str) -> str:
    """Make the server listen at each place. Return the addresses, as people write them.

    Sockets that this process has inherited for a place are used. Raises UsageError if the server
    cannot start; the ports that are open by then stay open."""
    return " and ".join(_listen_at(server, options, place, what) for place in places)


def _listen_at(server: Server, options: argparse.Namespace, place: Place, what: str) -> str:
    from minireactor.error import CannotListenError

    command = f"minireactor {options.command}"
    option = "LISTEN" if options.command == "proxy" or options.listen else "--port"

    def open_port(sockets: list[socket.socket] | None) -> Port:
        server.listen(*place, options.high, options.low, sockets)
        return server.ports[-1]

    try:
        return format_address(options.life.listen(place, open_port).getHost())
    except UsageError:
        raise
    except CannotListenError as error:
        raise UsageError(f"{command}: {cannot_listen(error, option)}") from error
    except Exception as error:  # from the app's startFactory(), or the app has run the reactor
        raise UsageError(f"{command}: starting {what} raised {error!r}") from error


def run_server(
    server: Server,
    options: argparse.Namespace,
    output: Printer,
    what_it_does: str,
    label: Callable[[Connection], str] | None = None,
    workers: Workers | None = None,
    add_reloads: Callable[[Reloads], object] = lambda reloads: None,
) -> int:
    """Run until a signal stops the server, or its app stops the reactor. Return the exit status.

    label: returns a short text about a connection, for the views.
    workers: the server itself if it serves with workers.
    add_reloads: called with what reads files again, to add files to it."""
    reactor = server.reactor
    life = options.life

    def stop(*_: Any) -> None:
        reactor.callFromThread(life.stop)

    def reopen_and_report() -> None:
        output.reopen()  # first, so that the report is in the new file
        if workers is None:
            _report(reactor, options, output)
        else:
            workers.report()

    notifier = life.notifier
    reloads = Reloads(reactor, output.announce, output.warn, notifier.reloading, notifier.ready)
    if server.tls is not None:
        reload_certificate(reloads, options, server.tls)
    add_reloads(reloads)
    reload = reloads.on_signal if reloads else stop
    most = max_connections(options, options.descriptors)
    if workers is not None:
        from minireactor.cli.worker import most_connections, reload_or

        reload = functools.partial(reload_or, workers, stop)
        most = most_connections(options)
    elif options.workers is not None:
        from minireactor.cli.worker import run_worker

        return run_worker(server, options, reload, bool(reloads), reopen_and_report, label)
    with contextlib.ExitStack() as views:
        pages = views.enter_context(contextlib.ExitStack())
        messages = [what_it_does if most is None else f"{what_it_does}, up to {most} connections"]
        if options.dashboard:
            from minireactor.view.command import open_dashboard

            message, life.secret = open_dashboard(
                pages, server, options, what_it_does, label, life.open_port, life.secret
            )
            messages.append(message)
        if options.metrics:
            from minireactor.view.command import open_metrics

            messages.append(open_metrics(pages, reactor, options, life.open_port, life.is_draining))
        if options.record is not None:
            from minireactor.view.command import open_recording

            if life.listening.is_successor:
                _keep_recording(options.record)
            messages.append(open_recording(views, reactor, options, label))
        for number in RELOAD_SIGNALS:
            set_handler(number, reload)
        for number in REPORT_SIGNALS:
            set_handler(number, lambda *_: reactor.callFromThread(reopen_and_report))
        life.begin(server, output, pages.close)
        for message in messages:
            output.announce(message)
        if options.watch:
            from minireactor.view.command import watch

            options.flush()  # before the view takes over the screen
            watch(views, server, stop, f"minireactor: {what_it_does}", label)
        reactor.run(installSignalHandlers=False)
    life.notifier.close()
    aborted = f", transfers aborted {server.aborted}" if server.aborted else ""
    output.announce(f"{server.totals()}{aborted}")
    return ABORTED if server.aborted else 0


def _keep_recording(path: str) -> None:
    """Give the recording of the process before this one another name: it is still written.

    A file that cannot be renamed is left: opening it will report why."""
    if os.path.isfile(path):
        with contextlib.suppress(OSError):
            os.replace(path, f"{path}.old")


def _report(reactor: Reactor, options: argparse.Namespace, output: Printer) -> None:
    """Begin to report which connections do not move, and why."""
    from minireactor.cli.view_options import CORE

    if options.engine != CORE:
        output.report(f"no report: leave out --engine {options.engine}")
        return
    from minireactor.debugging.report import report

    report(reactor, output.report)
