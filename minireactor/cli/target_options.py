"""The options of `proxy` about its targets, and the targets that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.cli import values
from minireactor.cli.own_address import is_same_address
from minireactor.proxy.balance import BALANCES, FIRST
from minireactor.proxy.targets import Target, read_targets
from minireactor.view.output import UsageError

if TYPE_CHECKING:
    import argparse

    from minireactor.cli.reload import Reloads
    from minireactor.proxy.relay import Relay
    from minireactor.serve.places import Place


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the options about targets, in a group of their own."""
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
        type=values.timeout,
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


def targets_of(options: argparse.Namespace, places: list[Place]) -> list[Target]:
    """Return the targets: the arguments, followed by those of --targets. Raises UsageError.

    places: where the proxy itself listens."""
    if not options.targets and options.targets_file is None:
        raise UsageError("minireactor proxy: give a TARGET, or --targets FILE (see proxy --help)")
    try:
        return _read(options, places)
    except ValueError as error:
        raise UsageError(f"minireactor proxy: {error}") from error


def _read(options: argparse.Namespace, places: list[Place]) -> list[Target]:
    """Return the targets. Raises ValueError, which says what is wrong."""
    given = {place: Target(place) for place in options.targets}  # one that is given twice is one
    for target in given.values():
        _refuse_own(target, places, "give another TARGET, or another LISTEN")
    if options.targets_file is None:
        return list(given.values())
    path = options.targets_file
    targets = read_targets(path, given.values())
    for target in targets:
        _refuse_own(target, places, f"remove it from {path!r}")
    return targets


def _refuse_own(target: Target, places: list[Place], fix: str) -> None:
    host, port = target.place
    if any(is_same_address(place, (host, int(port))) for place in places):
        raise ValueError(f"{target} is where the proxy itself listens; {fix}")


def reload_targets(
    reloads: Reloads, options: argparse.Namespace, relay: Relay, places: list[Place]
) -> None:
    """Have the file of --targets, if there is one, read again with the other files."""
    if options.targets_file is None:
        return

    def use(targets: list[Target]) -> str:
        changes = relay.set_targets(targets)
        return f"read the targets in {options.targets_file!r} again: {changes}"

    reloads.add("the old list of targets", lambda: _read(options, places), use)
