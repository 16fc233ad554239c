"""The commands: what each of them runs, which signals stop it, and its exit status.

This module imports little before it has set the handler of Ctrl-C. The other imports take a while,
so each command makes its own.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from minireactor.cli.printer import Printer, flush, print_error
from minireactor.cli.process import (
    SIGNALS,
    STOP_SIGNALS,
    open_standard_descriptors,
    raise_descriptor_limit,
    set_handler,
    set_up_logging,
    stop,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

# Exit statuses. `running` has another one.
USAGE_ERROR = 2
INTERRUPTED = 130  # what shells report for a command that Ctrl-C has ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv`. Return the exit status.

    `argv` does not contain the program's name. Without `argv`, the arguments are the process's own,
    and the process must end after this call."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if argv is None:
        open_standard_descriptors()
        # Until a server runs, Ctrl-C ends the process at once, without a traceback.
        set_handler(signal.SIGINT, signal.SIG_DFL)
        # While the interpreter shuts down, Ctrl-C is ignored.
        before = dict.fromkeys(SIGNALS, signal.SIG_IGN)
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
        from minireactor.operation.child import parent
        from minireactor.operation.worker import worker_of_this_process

        if worker_of_this_process() is None:
            print_error(str(error))  # otherwise the parent prints it, once for all workers
        parent().failed(str(error))
        return USAGE_ERROR


def _run_loop_command(
    command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace
) -> int:
    """Run a command with a loop, which must never wait for its own output. Return the status."""
    from minireactor.cli.engines import engine
    from minireactor.cli.log_printer import close_log, dropped_note
    from minireactor.view.output import UsageError, standard_streams

    options.descriptors = raise_descriptor_limit()
    with standard_streams(dropped_note(options)) as options.flush:
        try:
            with engine(options):
                return command(options) or 0
        except UsageError:
            if hasattr(options, "life"):
                options.life.listening.close()
            raise
        finally:
            close_log(options)


def _serve(options: argparse.Namespace) -> int:
    from minireactor.cli.servers import serve

    return serve(options)


def _proxy(options: argparse.Namespace) -> int:
    from minireactor.cli.servers import proxy

    return proxy(options)


def _connect(options: argparse.Namespace) -> int | None:
    from minireactor import reactor
    from minireactor.cli.connect import Client
    from minireactor.cli.tls import server_tls

    def report(text: str) -> None:
        if options.verbose:
            print_error(f"minireactor: {text}")

    def report_error(text: str) -> None:
        print_error(f"minireactor connect: {text}")

    tls = server_tls(options)
    set_up_logging()
    client = Client(reactor, options, report, report_error, lambda: stop(reactor), tls)
    for number in STOP_SIGNALS:
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
        for number in STOP_SIGNALS:
            set_handler(number, lambda *_: reactor.callFromThread(stop, reactor))
        output.line(f"minireactor: {text}")

    set_up_logging()
    output = Printer(quiet=False)
    show(options, report)


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
    for number in STOP_SIGNALS:
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
