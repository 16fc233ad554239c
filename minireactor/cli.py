"""The command line: reads the options, prints what happens. The server itself is in `serve`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NoReturn

from minireactor import __version__, flow
from minireactor.error import CannotListenError, ReactorNotRunning
from minireactor.serve import LoadError, Server, load_app

USAGE_ERROR = 2

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, without the program's name; the exit status.

    Without `argv` it is the process's own command, and the process is about to end after it."""
    if argv is not None:
        return _run(argv)
    # A Ctrl-C before there is a server that it could stop is an end, not a traceback...
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return _run(sys.argv[1:])
    finally:
        # ...and in the last moments of the interpreter it is nothing at all.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # What the interpreter itself could not flush, it would complain about.
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _run(argv: Sequence[str]) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse's way to end: after an error, --help or --version
        return end.code if isinstance(end.code, int) else USAGE_ERROR
    try:
        _serve(options)
    except _CannotServe as error:
        _complain("minireactor serve", str(error))
        return USAGE_ERROR
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        _complain(self.prog, f"{message} (see {self.prog} --help)")
        self.exit(USAGE_ERROR)


def _parser() -> _Parser:
    parser = _Parser(
        prog="minireactor",
        description="A TCP reactor with flow control that can be read, run and watched.",
        allow_abbrev=False,
    )
    _add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    _add_serve(commands)
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version",
        action="version",
        version=f"minireactor {__version__}",
        help="print the version and exit",
    )


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve an app on a TCP port",
        description="Serve an app on a TCP port, until SIGINT or SIGTERM.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "app",
        metavar="APP",
        nargs="?",
        default="random",
        help="random: asks how many integers are wanted, and sends them, one a line; echo: sends "
        "back what comes in; discard: drops it; chargen: sends characters without end; or "
        "module:name, a Factory instance or class or a Protocol class, the current directory "
        "being looked in first (default: %(default)s)",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address or name to listen on, IPv4 or IPv6 (default: %(default)s)",
    )
    add(
        "--port",
        type=_port,
        default=1234,
        help="port number to listen on; 0: any free one (default: %(default)s)",
    )
    add(
        "--high",
        type=_size,
        metavar="BYTES",
        help="pause a producer when more than this waits to be sent to its peer; bytes, or with "
        f"K or M KiB or MiB (default: {flow.HIGH // 1024}K)",
    )
    add(
        "--low",
        type=_size,
        metavar="BYTES",
        help="resume it when this is left; bytes, or with K or M KiB or MiB, less than --high "
        "(default: a quarter of --high)",
    )
    add(
        "--max-connections",
        type=_count,
        metavar="N",
        help="close further clients at once (number of connections; default: no limit)",
    )
    add(
        "--idle-timeout",
        type=_timeout,
        metavar="SECONDS",
        help="close a connection on which no byte moves for so long (seconds; default: never)",
    )
    add(
        "--stall-timeout",
        type=_timeout,
        metavar="SECONDS",
        help="abort a connection whose peer for so long takes none of the bytes that wait for it "
        "(seconds; default: never)",
    )
    add(
        "--grace",
        type=_grace,
        default=5.0,
        metavar="SECONDS",
        help="on SIGINT or SIGTERM, let transfers go on for so long before aborting them; a second "
        "signal aborts them at once (seconds; default: 5)",
    )
    add(
        "--seed",
        type=_integer,
        metavar="N",
        help="random only: send the same integers to every client, those of this seed (any "
        "integer; default: none, all integers differ)",
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print a line for each connection made or lost, each pause and each resume "
        "(default: no)",
    )
    loudness.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print nothing but errors (default: no)",
    )
    _add_version(parser)


# Option values. What these raise, argparse reports together with the option's name.


def _bad(text: str, fix: str) -> argparse.ArgumentTypeError:
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return argparse.ArgumentTypeError(f"{shown!r} will not do: {fix}")


def _integer(text: str, fix: str = "give an integer, such as 42") -> int:
    # Twenty digits are enough for anything here, and Python refuses to read thousands.
    if re.fullmatch("[+-]?[0-9]{1,20}", text):
        return int(text)
    raise _bad(text, fix)


def _port(text: str) -> int:
    fix = "give a port number from 1 to 65535, or 0 for any free one"
    port = _integer(text, fix)
    if 0 <= port <= 65535:
        return port
    raise _bad(text, fix)


def _count(text: str) -> int:
    fix = "give a number of connections, 1 or more"
    count = _integer(text, fix)
    if count >= 1:
        return count
    raise _bad(text, fix)


def _size(text: str) -> int:
    match = re.fullmatch("([0-9]{1,20})([kKmM]?)", text)
    if match:
        return int(match[1]) * _UNITS[match[2].lower()]
    raise _bad(text, "give a number of bytes, such as 65536, 64K or 1M")


def _seconds(text: str, fix: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds >= 0:
        return seconds
    raise _bad(text, fix)


def _timeout(text: str) -> float:
    fix = "give a number of seconds above 0, or leave the option out for none"
    seconds = _seconds(text, fix)
    if seconds > 0:
        return seconds
    raise _bad(text, fix)


def _grace(text: str) -> float:
    return _seconds(text, "give a number of seconds, 0 or more")


# The command.


class _CannotServe(Exception):
    """Says why in one line."""


def _serve(options: argparse.Namespace) -> None:
    high = flow.HIGH if options.high is None else options.high
    try:
        flow.checked_marks(high, options.low)
        if options.seed is not None and options.app != "random":
            raise LoadError(f"--seed is for random only; leave it out for {options.app}")
        factory = load_app(options.app, options.seed)
    except (ValueError, LoadError) as error:
        raise _CannotServe(error) from error
    # After the app, so that one which sets up logging for itself has its way.
    logging.basicConfig(format="%(levelname)s: %(message)s")
    # The default reactor, because that is the one that an app knows of.
    from minireactor import reactor

    def stopped() -> None:
        with contextlib.suppress(ReactorNotRunning):  # the app has stopped it already
            reactor.stop()

    output = _Output(quiet=options.quiet)
    server = Server(
        reactor,
        factory,
        max_connections=options.max_connections,
        idle_timeout=options.idle_timeout,
        stall_timeout=options.stall_timeout,
        on_event=output.event if options.verbose else None,
        on_stopped=stopped,
    )
    try:
        address = server.listen(options.host, options.port, high, options.low)
    except CannotListenError as error:
        raise _CannotServe(error) from error
    except Exception as error:  # of the app: in startFactory(), or it has used up the reactor
        raise _CannotServe(f"starting {options.app} raised {error!r}") from error
    with _stop_signals_call(lambda: reactor.callFromThread(server.stop, options.grace)):
        output.line(f"minireactor: {options.app} listening on {_shown(address)}")
        reactor.run(installSignalHandlers=False)
        output.line(f"minireactor: {server.totals()}")


@contextlib.contextmanager
def _stop_signals_call(f: Callable[[], None]) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM call `f`, which must be safe in a signal handler."""
    before = {number: signal.signal(number, lambda *_: f()) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What is printed.


class _Output:
    """Lines on standard output, for as long as somebody takes them."""

    def __init__(self, quiet: bool) -> None:
        self._open = not quiet and sys.stdout is not None
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")

    def line(self, text: str) -> None:
        if self._open:
            try:
                sys.stdout.write(f"{' '.join(text.split())}\n")
            except (OSError, ValueError):
                self._open = False
            self._open = _flush(sys.stdout) and self._open

    def event(self, event: str, connection: Any, reason: Any) -> None:
        peer = _shown(connection.getPeer())
        if event == "connectionLost":
            self.line(f"connection lost from {peer}: {reason.getErrorMessage()}")
        else:
            self.line(f"{_EVENTS[event]} {peer}")


_EVENTS = {
    "connectionMade": "connection made from",
    "pauseProducing": "pausing connection from",
    "resumeProducing": "resuming connection from",
}


def _shown(address: Any) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _complain(who: str, what: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{who}: {' '.join(what.split())}\n")


def _flush(stream: Any) -> bool:
    """Whether what was written to it has gone somewhere. If not, `stream` leads nowhere now."""
    if stream is None:
        return False
    try:
        stream.flush()
        return True
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return False
