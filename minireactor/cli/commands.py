"""The commands: what each of them runs, which signals stop it, and its exit status.

This module imports little before it has set the handler of Ctrl-C. The other imports take a while,
so each command makes its own.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

from minireactor.address import format_address, host_port, unix_path
from minireactor.cli.printer import Printer, flush, print_error
from minireactor.cli.process import (
    max_connections,
    open_standard_descriptors,
    raise_descriptor_limit,
    set_handler,
)
from minireactor.cli.tls import client_tls, reload_on_hangup, server_tls, target_tls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address as _IPv4
    from ipaddress import IPv6Address as _IPv6

    from minireactor.address import Address
    from minireactor.internet import Reactor
    from minireactor.serve.server import Server
    from minireactor.transports.connection import Connection

    IPAddress = _IPv4 | _IPv6

# Exit statuses.
ABORTED = 1  # transfers were aborted at the end
USAGE_ERROR = 2
INTERRUPTED = 130  # what shells report for a command that Ctrl-C has ended

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Asks for a report on the connections that do not move. Windows has no such signal.
_REPORT_SIGNALS = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv`. Return the exit status.

    `argv` does not contain the program's name. Without `argv`, the arguments are the process's own,
    and the process must end after this call."""
    signals = _STOP_SIGNALS + _REPORT_SIGNALS
    before = {number: signal.getsignal(number) for number in signals}
    if argv is None:
        open_standard_descriptors()
        # Until a server runs, Ctrl-C ends the process at once, without a traceback.
        set_handler(signal.SIGINT, signal.SIG_DFL)
        # While the interpreter shuts down, Ctrl-C is ignored.
        before = dict.fromkeys(signals, signal.SIG_IGN)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        # The interpreter would print an error at its end if it could not flush one of these.
        for stream in (sys.stdout, sys.stderr):
            flush(stream)


def _run(argv: Sequence[str]) -> int:
    from minireactor.cli.options import parse
    from minireactor.view.output import UsageError

    try:
        try:
            options = parse(argv)
        except SystemExit:  # --help or --version has been printed
            return 0
        options.argv = list(argv)
        command = _COMMANDS[options.command]
        if options.command in _WITHOUT_LOOP:
            return command(options) or 0
        return _run_loop_command(command, options)
    except UsageError as error:
        print_error(str(error))
        return USAGE_ERROR


def _run_loop_command(
    command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace
) -> int:
    """Run a command with a loop, which must never wait for its own output. Return the status."""
    import logging

    from minireactor.cli.engines import engine
    from minireactor.view.output import LogHandler, standard_streams

    options.descriptors = raise_descriptor_limit()
    with standard_streams() as options.flush:
        try:
            with engine(options):
                return command(options) or 0
        finally:
            for handler in list(logging.root.handlers):
                if isinstance(handler, LogHandler):
                    logging.root.removeHandler(handler)
                    handler.close()


def _serve(options: argparse.Namespace) -> int:
    from minireactor.core import flow
    from minireactor.serve.loading import LoadError, load_app
    from minireactor.serve.server import Server
    from minireactor.view.output import UsageError

    try:
        flow.checked_marks(options.high, options.low)
        if options.seed is not None and options.app != "random":
            raise LoadError(f"--seed is for random only; leave it out for {options.app}")
        factory = load_app(options.app, options.seed, options.path)
    except (ValueError, LoadError) as error:
        raise UsageError(f"minireactor serve: {error}") from error
    _set_up_logging()
    # The default reactor, because an app imports that one.
    from minireactor import reactor

    output = Printer(quiet=options.quiet)
    server = Server(
        reactor,
        factory,
        on_event=output.event if options.verbose else None,
        **_common_arguments(options, reactor),
    )
    host, port = (
        (options.port, 0) if isinstance(options.port, str) else (options.host, options.port)
    )
    address = _listen(server, options, host, port, options.app)
    return _run_server(
        server, options, output, f"{options.app} listening on {format_address(address)}"
    )


def _proxy(options: argparse.Namespace) -> int:
    from minireactor import reactor
    from minireactor.core import flow
    from minireactor.proxy.relay import Relay
    from minireactor.view.output import UsageError

    try:
        flow.checked_marks(options.high, options.low)
    except ValueError as error:
        raise UsageError(f"minireactor proxy: {error}") from error
    secure_targets = target_tls(options)
    for target in options.targets:
        if _is_same_address(options.listen, target):
            raise UsageError(
                f"minireactor proxy: {host_port(*target)} is where the proxy itself listens; "
                "give another TARGET, or another LISTEN"
            )
    _set_up_logging()
    output = Printer(quiet=options.quiet)
    relay = Relay(
        reactor,
        options.targets,
        balance=options.balance,
        timeout=options.connect_timeout,
        rate=options.rate,
        splice=not options.copy,
        target_tls=secure_targets,
        on_event=output.proxy_event if options.verbose else output.proxy_end,
        **_common_arguments(options, reactor),
    )
    host, port = options.listen
    address = _listen(relay, options, host, port, "the proxy")
    targets = ", ".join(host_port(*target) for target in options.targets)
    what = f"proxy listening on {format_address(address)}, to {targets}"
    return _run_server(relay, options, output, what, relay.label)


def _connect(options: argparse.Namespace) -> int | None:
    from minireactor import reactor
    from minireactor.cli.connect import Client

    def report(text: str) -> None:
        if options.verbose:
            print_error(f"minireactor: {text}")

    def report_error(text: str) -> None:
        print_error(f"minireactor connect: {text}")

    tls = server_tls(options)
    _set_up_logging()
    client = Client(reactor, options, report, report_error, lambda: _stop(reactor), tls)
    for number in _STOP_SIGNALS:
        # Shells report 128 + number for a command that this signal has ended: 130 for Ctrl-C.
        set_handler(number, lambda number, _: reactor.callFromThread(client.end, 128 + number))
    reactor.run(installSignalHandlers=False)
    return client.status


def _trace(options: argparse.Namespace) -> None:
    from minireactor.view.command import trace

    message = trace(options)
    if message:
        Printer(quiet=False).line(f"minireactor: {message}")


def _demo(options: argparse.Namespace) -> None:
    from minireactor.view.command import demo

    _show_page(demo, options)


def _replay(options: argparse.Namespace) -> None:
    from minireactor.view.command import export, replay

    if options.export is not None:
        Printer(quiet=False).line(f"minireactor: {export(options)}")
    else:
        _show_page(replay, options)


def _show_page(
    show: Callable[[argparse.Namespace, Callable[[str], object]], None], options: argparse.Namespace
) -> None:
    from minireactor import reactor

    def report(text: str) -> None:
        # Until now a signal ends the process, also while it reads a long recording. Once the
        # address is printed, a signal must stop the reactor in an orderly way.
        for number in _STOP_SIGNALS:
            set_handler(number, lambda *_: reactor.callFromThread(_stop, reactor))
        output.line(f"minireactor: {text}")

    _set_up_logging()
    output = Printer(quiet=False)
    show(options, report)


def _set_up_logging() -> None:
    import logging

    from minireactor.view.output import LogHandler

    # Called after an app is loaded: if the app has set up logging, this changes nothing.
    logging.basicConfig(handlers=[LogHandler()])


def _is_same_address(listen: tuple[str, int], target: tuple[str, int]) -> bool:
    """Return whether a target is the proxy itself, as far as that is clear without a look-up.

    The proxy detects all other such targets when it connects to them."""
    paths = unix_path(listen[0]), unix_path(target[0])
    if None not in paths:
        return paths[0] == paths[1] or _is_same_file(*paths)
    if listen[1] != target[1] or not listen[1]:
        return False
    own, there = _numeric(listen[0]), _numeric(target[0])
    if own is None or there is None or own.version != there.version:
        return False
    # To connect to 0.0.0.0 or :: means to connect to the loopback address.
    if there.is_unspecified:
        return own.is_unspecified or own.is_loopback
    return there == own or (own.is_unspecified and there.is_loopback)


def _is_same_file(*paths: Any) -> bool:
    import os.path

    return not any("\0" in path for path in paths) and len(set(map(os.path.realpath, paths))) == 1


def _numeric(host: str) -> IPAddress | None:
    """Return the IP address of a host, or None if the host is a name other than localhost."""
    import ipaddress
    import socket

    host = "127.0.0.1" if host.lower() == "localhost" else host
    try:
        # getaddrinfo() knows spellings that ipaddress does not, such as 127.1.
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])


def _common_arguments(options: argparse.Namespace, reactor: Reactor) -> dict[str, Any]:
    """Return the arguments that Server and Relay have in common."""
    return {
        "max_connections": options.max_connections,
        "idle_timeout": options.idle_timeout,
        "stall_timeout": options.stall_timeout,
        "keepalive": options.keepalive,
        "unsent": options.kernel_limit,
        "tls": client_tls(options),
        "on_stopped": lambda: _stop(reactor),
    }


def _stop(reactor: Reactor) -> None:
    from minireactor.error import ReactorNotRunning

    with contextlib.suppress(ReactorNotRunning):  # the app or an earlier signal has stopped it
        reactor.stop()


def _listen(
    server: Server, options: argparse.Namespace, host: str, port: int, what: str
) -> Address:
    """Make the server listen. Return its address. Raises UsageError if the server cannot start."""
    from minireactor.error import CannotListenError
    from minireactor.view.output import UsageError, cannot_listen

    command = f"minireactor {options.command}"
    option = "LISTEN" if options.command == "proxy" else "--port"
    try:
        return server.listen(host, port, options.high, options.low)
    except CannotListenError as error:
        raise UsageError(f"{command}: {cannot_listen(error, option)}") from error
    except Exception as error:  # from the app's startFactory(), or the app has run the reactor
        raise UsageError(f"{command}: starting {what} raised {error!r}") from error


def _run_server(
    server: Server,
    options: argparse.Namespace,
    output: Printer,
    what_it_does: str,
    label: Callable[[Connection], str] | None = None,
) -> int:
    """Run until a signal stops the server, or its app stops the reactor. Return the exit status.

    `label` returns a short text about a connection, for the views."""
    reactor = server.reactor

    def stop(*_: Any) -> None:
        reactor.callFromThread(server.stop, options.grace)

    with contextlib.ExitStack() as views:
        most = max_connections(options, options.descriptors)
        messages = [what_it_does if most is None else f"{what_it_does}, up to {most} connections"]
        if options.dashboard:
            from minireactor.view.command import open_dashboard

            messages.append(open_dashboard(views, server, options, what_it_does, label))
        if options.metrics or options.record is not None:
            from minireactor.view.command import open_views

            messages += open_views(views, reactor, options, label)
        for number in _STOP_SIGNALS:
            set_handler(number, stop)
        if server.tls is not None:

            def report(text: str) -> None:
                output.line(f"minireactor: {text}")

            reload_on_hangup(views, reactor, options, server.tls, report)
        for number in _REPORT_SIGNALS:
            set_handler(number, lambda *_: reactor.callFromThread(_report, reactor, options))
        for message in messages:
            output.line(f"minireactor: {message}")
        if options.watch:
            from minireactor.view.command import watch

            options.flush()  # before the view takes over the screen
            watch(views, server, stop, f"minireactor: {what_it_does}", label)
        reactor.run(installSignalHandlers=False)
    aborted = f", transfers aborted {server.aborted}" if server.aborted else ""
    output.line(f"minireactor: {server.totals()}{aborted}")
    return ABORTED if server.aborted else 0


def _report(reactor: Reactor, options: argparse.Namespace) -> None:
    """Begin to report on standard error which connections do not move, and why."""
    from minireactor.cli.view_options import CORE

    if options.engine != CORE:
        print_error(f"minireactor: no report: leave out --engine {options.engine}")
        return
    from minireactor.debugging.report import report

    report(reactor, lambda line: print_error(f"minireactor: {line}"))


def _learn(options: argparse.Namespace) -> int:
    from minireactor.lessons.command import learn

    return _teach(learn, options)


def _build(options: argparse.Namespace) -> int:
    from minireactor.lessons.build.command import build

    return _teach(build, options)


def _build_check(options: argparse.Namespace) -> int:
    from minireactor.lessons.build.command import check

    return _teach(check, options)


def _teach(lesson: Callable[[argparse.Namespace, Any], int], options: argparse.Namespace) -> int:
    # KeyboardInterrupt, unlike the end of this process, lets the lesson end its program.
    for number in _STOP_SIGNALS:
        set_handler(number, signal.default_int_handler)
    try:
        return lesson(options, Printer(quiet=False).text)
    except KeyboardInterrupt:
        return INTERRUPTED


# These may wait for a slow reader of their output.
_WITHOUT_LOOP = ("trace", "learn", "learn build", "learn build check")
_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "serve": _serve,
    "proxy": _proxy,
    "connect": _connect,
    "trace": _trace,
    "demo": _demo,
    "replay": _replay,
    "learn": _learn,
    "learn build": _build,
    "learn build check": _build_check,
}
