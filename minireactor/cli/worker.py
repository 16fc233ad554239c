"""What --workers changes in how a server runs: workers obey a parent, which gets the signals."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any, Callable

from minireactor.cli.process import SIGNALS, max_connections, set_handler
from minireactor.operation.child import parent
from minireactor.operation.worker import worker_of_this_process

if TYPE_CHECKING:
    from minireactor.operation.workers import Workers
    from minireactor.serve.server import Server
    from minireactor.transports.connection import Connection


def is_worker(options: argparse.Namespace) -> bool:
    """Return whether this process is a worker. If it is, reduce its limits to its share."""
    worker = worker_of_this_process()
    if worker is None:
        return False
    worker.take_share(options)
    return True


def run_worker(
    server: Server,
    options: argparse.Namespace,
    reload: Callable[[], object],
    can_reload: bool,
    report: Callable[[], object],
    label: Callable[[Connection], str] | None,
) -> int:
    """Run the server of a worker until its parent stops it. Return the exit status.

    reload, report: what the parent can ask for. The other arguments are those of run_server()."""
    worker = worker_of_this_process()
    assert worker is not None
    # A terminal sends these to all processes, and the parent passes on what it gets.
    for number in SIGNALS:
        set_handler(number, _ignore)
    set_handler(signal.SIGTERM, lambda *_: server.reactor.callFromThread(worker.stop))
    worker.serve(
        server,
        grace=options.grace,
        marks=(options.high, options.low),
        reload=reload,
        report=report,
        can_reload=can_reload,
        label=label,
    )
    if options.watch:
        worker.print_by_parent()
    options.life.listening.close_rest()
    parent().ready()
    server.reactor.run(installSignalHandlers=False)
    return 0


def _ignore(number: int, frame: Any) -> None:
    """Ignore a signal. Unlike SIG_IGN, programs that the application starts do not inherit this."""


def reload_or(workers: Workers, stop: Callable[[], object], *_: Any) -> None:
    """Let the workers read their files again, or call `stop` if they have none; for a signal."""
    workers.reactor.callFromThread(lambda: workers.reload() if workers.can_reload() else stop())


def most_connections(options: argparse.Namespace) -> int | None:
    """Return how many connections all workers allow together, or None for no limit."""
    unlimited = argparse.Namespace(**{**vars(options), "max_connections": None})
    each = max_connections(unlimited, options.descriptors)
    asked: int | None = options.max_connections
    if each is None:
        return asked
    allowed: int = each * options.workers
    return min(allowed, asked or allowed)
