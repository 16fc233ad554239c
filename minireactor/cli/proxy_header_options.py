"""The options of the PROXY protocol: a header that says who the client is.

A balancer in front sends it (--accept-proxy), and a target may want it (--send-proxy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from minireactor.cli import values
from minireactor.view.output import UsageError

if TYPE_CHECKING:
    import argparse

    from minireactor.address import Address
    from minireactor.serve.accept_proxy import HeaderReader
    from minireactor.serve.places import Place


def add_proxy_header(parser: argparse.ArgumentParser, sends: bool = False) -> None:
    """Add the options that `serve` and `proxy` share, and if `sends`, those of `proxy` alone."""
    group = parser.add_argument_group("who the client is (PROXY protocol)")
    group.add_argument(
        "--accept-proxy",
        action="store_true",
        help="read a PROXY header, version 1 or 2, at the beginning of each connection, and take "
        "the client's address from it; needs --trust (default: no)",
    )
    group.add_argument(
        "--trust",
        action="append",
        default=[],
        type=values.network,
        metavar="ADDRESS/BITS",
        help="accept headers from these addresses, and close connections from all others; may be "
        "given several times; everybody who can open a UNIX socket is trusted (default: none)",
    )
    if not sends:
        return
    version = group.add_mutually_exclusive_group()
    version.add_argument(
        "--send-proxy",
        action="store_true",
        help="send a PROXY header of version 1 to the targets, before all else (default: no)",
    )
    version.add_argument(
        "--send-proxy-v2",
        action="store_true",
        help="the same with version 2, which is binary (default: no)",
    )


def header_reader(options: argparse.Namespace, places: list[Place]) -> HeaderReader | None:
    """Return what reads the headers of clients; None without --accept-proxy. Raises UsageError."""
    command = f"minireactor {options.command}"
    if not options.accept_proxy:
        if options.trust:
            raise UsageError(f"{command}: --trust needs --accept-proxy; give both")
        return None
    if not options.trust and not all(host.startswith("unix:") for host, _ in places):
        raise UsageError(
            f"{command}: --accept-proxy needs --trust, because a header can name any client; give "
            "the address of the balancer, such as --trust 127.0.0.1/32"
        )
    from minireactor.serve.accept_proxy import HeaderReader

    return HeaderReader(options.trust)


def header_writer(options: argparse.Namespace) -> Callable[[Address, Address], bytes] | None:
    """Return what makes the headers for targets; None if they get none."""
    if not options.send_proxy and not options.send_proxy_v2:
        return None
    from minireactor.serve.proxy_header import header_v1, header_v2

    return header_v2 if options.send_proxy_v2 else header_v1
