"""Run `serve` and `proxy` with --workers, as the parent of these."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, cast

from minireactor import reactor
from minireactor.cli.log_printer import open_log
from minireactor.cli.process import stop
from minireactor.cli.running import listen, run_server
from minireactor.operation.workers import Workers, WorkersFailed
from minireactor.view.output import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minireactor.operation.shared import SharedPort
    from minireactor.serve.places import Place
    from minireactor.serve.server import Server


def run_workers(
    options: argparse.Namespace, places: list[Place], what: str, does: str, to: str = ""
) -> int:
    """Run the parent of workers. Return the exit status. Raises UsageError.

    what: what is served, for an error. does: what the server does, such as "echo listening on".
    to: what follows the addresses."""
    command = f"minireactor {options.command}"
    count: int = options.workers
    if os.name != "posix":
        raise UsageError(f"{command}: this system has no --workers; leave it out")
    if options.max_connections is not None and options.max_connections < count:
        raise UsageError(
            f"{command}: --max-connections {options.max_connections} is less than --workers "
            f"{count}; give at least one connection for each worker"
        )
    output = open_log(options, reactor)
    workers = Workers(reactor, options.life.command, count, lambda: stop(reactor))
    server = cast("Server", workers)  # it has the methods that are called here
    addresses = listen(server, options, places, what)
    try:
        workers.start(cast("Mapping[str, SharedPort]", options.life.listening.ports))
    except WorkersFailed as error:
        raise UsageError(str(error)) from error
    text = f"{does} {addresses}{to}, {count} workers"
    return run_server(server, options, output, text, workers=workers)
