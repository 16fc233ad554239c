"""The options about single clients: who may connect, how often, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minireactor.cli import values

if TYPE_CHECKING:
    import argparse

    from minireactor.serve.clients import ClientLimits


def add_clients(parser: argparse.ArgumentParser) -> None:
    """Add the options that `serve` and `proxy` share."""
    add = parser.add_argument_group("clients").add_argument
    add(
        "--allow",
        action="append",
        default=[],
        type=values.network,
        metavar="ADDRESS/BITS",
        help="close clients that are not from these addresses, such as 10.0.0.0/8; may be given "
        "several times (default: all may connect)",
    )
    add(
        "--deny",
        action="append",
        default=[],
        type=values.network,
        metavar="ADDRESS/BITS",
        help="close clients from these addresses, also if --allow has them; may be given several "
        "times (default: none)",
    )
    add(
        "--max-per-client",
        type=values.count,
        metavar="N",
        help="how many connections one address may have at a time; IPv6 addresses with the same "
        "first 64 bits count as one (default: no limit)",
    )
    add(
        "--accept-rate",
        type=values.clients_per_second,
        metavar="N",
        help="accept at most this many clients a second; further ones wait in the queue of the "
        "system (default: no limit)",
    )


def client_limits(options: argparse.Namespace) -> ClientLimits | None:
    """Return the limits that the options ask for; None for none."""
    most, rate = options.max_per_client, options.accept_rate
    if not options.allow and not options.deny and most is None and rate is None:
        return None
    from minireactor.serve.clients import ClientLimits

    return ClientLimits(options.allow, options.deny, most, rate)
