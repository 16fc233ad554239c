"""The targets of `proxy`, from its arguments and from the file of --targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.cli.own_address import is_same_address
from minireactor.proxy.targets import Target, read_targets
from minireactor.view.output import UsageError

if TYPE_CHECKING:
    import argparse

    from minireactor.cli.reload import Reloads
    from minireactor.proxy.relay import Relay
    from minireactor.serve.places import Place


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
