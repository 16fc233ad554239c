"""The commands `serve` and `proxy`: they make a server from the options, and run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor import reactor  # the default one, because an app imports that one
from minireactor.cli.client_options import client_limits
from minireactor.cli.life import Life
from minireactor.cli.log_printer import open_log
from minireactor.cli.options import DEFAULT_HOST, DEFAULT_PORT
from minireactor.cli.process import stop
from minireactor.cli.proxy_header_options import header_reader, header_writer
from minireactor.cli.running import listen, run_server
from minireactor.cli.targets import reload_targets, targets_of
from minireactor.cli.tls import client_tls, target_tls
from minireactor.core import flow
from minireactor.view.output import UsageError
from minireactor.view.sources import rejected_counts, target_rows

if TYPE_CHECKING:
    import argparse

    from minireactor.cli.reload import Reloads
    from minireactor.serve.places import Place


def serve(options: argparse.Namespace) -> int:
    """Run the command `serve`. Return the exit status. Raises UsageError."""
    from minireactor.serve.loading import LoadError, load_app
    from minireactor.serve.server import Server

    places = _places_of_serve(options)
    options.life = Life(options, places)
    if _is_parent(options):
        from minireactor.cli.workers import run_workers

        return run_workers(options, places, options.app, f"{options.app} listening on")
    try:
        flow.checked_marks(options.high, options.low)
        if options.seed is not None and options.app != "random":
            raise LoadError(f"--seed is for random only; leave it out for {options.app}")
        factory = load_app(options.app, options.seed, options.path)
    except (ValueError, LoadError) as error:
        raise UsageError(f"minireactor serve: {error}") from error
    output = open_log(options, reactor)
    server = Server(
        reactor,
        factory,
        on_event=output.event if options.verbose else None,
        **_common_arguments(options, places),
    )
    rejected_counts[reactor] = server.rejected
    addresses = listen(server, options, places, options.app)
    return run_server(server, options, output, f"{options.app} listening on {addresses}")


def _is_parent(options: argparse.Namespace) -> bool:
    """Return whether workers serve for this process. A worker gets its share of the limits."""
    if options.workers is None:
        return False
    from minireactor.cli.worker import is_worker

    return not is_worker(options)


def _places_of_serve(options: argparse.Namespace) -> list[Place]:
    """Return where `serve` listens. Raises UsageError if the options contradict each other."""
    if options.listen and not (options.host is options.port is None):
        option = "--host" if options.port is None else "--port"
        raise UsageError(f"minireactor serve: --listen and {option} exclude each other; give one")
    if options.listen:
        return list(options.listen)
    if isinstance(options.port, str):  # a UNIX socket
        return [(options.port, 0)]
    return [(options.host or DEFAULT_HOST, DEFAULT_PORT if options.port is None else options.port)]


def proxy(options: argparse.Namespace) -> int:
    """Run the command `proxy`. Return the exit status. Raises UsageError."""
    from minireactor.proxy.relay import Relay
    from minireactor.proxy.targets import names

    try:
        flow.checked_marks(options.high, options.low)
    except ValueError as error:
        raise UsageError(f"minireactor proxy: {error}") from error
    secure_targets = target_tls(options)
    places = [options.place, *options.listen]
    targets = targets_of(options, places)
    options.life = Life(options, places)
    if _is_parent(options):
        from minireactor.cli.workers import run_workers

        what = "proxy listening on"
        return run_workers(options, places, "the proxy", what, f", to {names(targets)}")
    output = open_log(options, reactor)
    if options.quiet:
        on_event = None
    else:
        on_event = output.proxy_event if options.verbose else output.proxy_end
    relay = Relay(
        reactor,
        targets,
        balance=options.balance,
        timeout=options.connect_timeout,
        check=options.check,
        rate=options.rate,
        splice=not options.copy,
        target_tls=secure_targets,
        header=header_writer(options),
        on_event=on_event,
        **_common_arguments(options, places),
    )
    rejected_counts[reactor] = relay.rejected
    target_rows[reactor] = relay.target_rows
    addresses = listen(relay, options, places, "the proxy")
    what = f"proxy listening on {addresses}, to {names(targets)}"

    def add_reloads(reloads: Reloads) -> None:
        reload_targets(reloads, options, relay, places)

    return run_server(relay, options, output, what, relay.label, add_reloads=add_reloads)


def _common_arguments(options: argparse.Namespace, places: list[Place]) -> dict[str, Any]:
    """Return the arguments that Server and Relay have in common."""
    return {
        "max_connections": options.max_connections,
        "idle_timeout": options.idle_timeout,
        "stall_timeout": options.stall_timeout,
        "keepalive": options.keepalive,
        "unsent": options.kernel_limit,
        "tls": client_tls(options),
        "headers": header_reader(options, places),
        "clients": client_limits(options),
        "on_stopped": lambda: stop(reactor),
    }
