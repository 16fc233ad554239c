"""The options of `proxy` about its targets. `cli.targets` makes the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.cli import values

if TYPE_CHECKING:
    import argparse


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the options about targets, in a group of their own."""
    # Only this command needs it, for its help.
    from minireactor.proxy.balance import BALANCES, FIRST

    add = parser.add_argument_group("targets").add_argument
    add(
        "--targets",
        dest="targets_file",
        metavar="FILE",
        help="file with more targets, one a line, such as 10.0.0.1:80 weight=3, or 10.0.0.9:80 "
        "backup for one that gets clients only while no other is usable; # begins a comment; read "
        "again on SIGHUP (default: none)",
    )
    add(
        "--balance",
        choices=BALANCES,
        default=FIRST,
        help="which target a client gets: first: the first one that can be connected, in the given "
        "order; round-robin: each one in turn, as often as its weight says; least: the one with "
        "the fewest connections for its weight (default: %(default)s)",
    )
    add(
        "--check",
        type=values.check,
        metavar="SECONDS",
        help="connect to each target about this often, and give no client to one that fails; 0: "
        "only to targets that have failed (default: 0)",
    )
    add(
        "--connect-timeout",
        type=values.timeout,
        metavar="SECONDS",
        default=10.0,
        help="give up an attempt to connect to a target after this many seconds; 0: no limit "
        "(default: 10)",
    )
