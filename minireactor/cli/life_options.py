"""The options about the life of a server's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.cli import values
from minireactor.cli.worker_options import add_workers

if TYPE_CHECKING:
    import argparse


def add_life(parser: argparse.ArgumentParser) -> None:
    """Add the options about how a process listens and ends."""
    add = parser.add_argument_group(
        "the process",
        "SIGINT and SIGTERM end it. SIGUSR2 starts a process that replaces it. SIGHUP reads files "
        "such as certificates again; if there are none, it ends the process.",
    ).add_argument
    add_workers(add)
    add(
        "--reuse-port",
        action="store_true",
        help="let other processes listen at the same places, if they have this option too; the "
        "system distributes the clients; after SIGINT or SIGTERM, connections go on for --grace "
        "before they are ended (default: no)",
    )
    add(
        "--drain-delay",
        type=values.grace,
        default=0.0,
        metavar="SECONDS",
        help="after SIGINT or SIGTERM, go on accepting for this many seconds, while /healthz of "
        "--metrics answers 503; a balancer notices that; a second signal skips the rest of this "
        "time (default: 0)",
    )
    add(
        "--grace",
        type=values.grace,
        default=5.0,
        metavar="SECONDS",
        help="after SIGINT or SIGTERM, and after --drain-delay, let transfers go on for this many "
        "seconds before they are aborted; one more signal aborts them at once; after SIGUSR2, the "
        "old process first leaves its connections alone for as long (default: 5)",
    )
