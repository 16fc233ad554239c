"""The command: signals, standard output, exit status. What it serves with is in `serve`.

This module imports little before it has taken care of Ctrl-C; the rest takes a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

USAGE_ERROR = 2
INTERRUPTED = 130  # what shells report for a command that Ctrl-C has ended

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, which is without the program's name; the exit status.

    Without `argv` it is the process's own command, and the process is to end after it."""
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    if argv is None:
        # A Ctrl-C before there is a server that it could stop is an end, not a traceback...
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # ...and in the last moments of the interpreter it is nothing at all.
        before = dict.fromkeys(_STOP_SIGNALS, signal.SIG_IGN)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        # What the interpreter could not flush at its end, it would complain about.
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _run(argv: Sequence[str]) -> int:
    from minireactor.options import Refused, parse

    try:
        try:
            options = parse(argv)
        except SystemExit:  # --help or --version has been printed
            return 0
        return _COMMANDS[options.command](options) or 0
    except Refused as error:
        _complain(str(error))
        return USAGE_ERROR


def _serve(options: argparse.Namespace) -> None:
    import logging

    from minireactor import flow
    from minireactor.error import CannotListenError, ReactorNotRunning
    from minireactor.options import Refused
    from minireactor.serve import LoadError, Server, load_app

    high = flow.HIGH if options.high is None else options.high
    try:
        flow.checked_marks(high, options.low)
        if options.seed is not None and options.app != "random":
            raise LoadError(f"--seed is for random only; leave it out for {options.app}")
        factory = load_app(options.app, options.seed)
    except (ValueError, LoadError) as error:
        raise Refused(f"minireactor serve: {error}") from error
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
        raise Refused(f"minireactor serve: {error}") from error
    except Exception as error:  # of the app: in startFactory(), or it has used up the reactor
        raise Refused(f"minireactor serve: starting {options.app} raised {error!r}") from error
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: reactor.callFromThread(server.stop, options.grace))
    output.line(f"minireactor: {options.app} listening on {_shown(address)}")
    reactor.run(installSignalHandlers=False)
    output.line(f"minireactor: {server.totals()}")


def _learn(options: argparse.Namespace) -> int:
    from minireactor.lessons.command import learn

    # An exception, unlike the end of this process, lets it end the program that it runs.
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        return learn(options, _Output(quiet=False).text)
    except KeyboardInterrupt:
        return INTERRUPTED


class _Output:
    """Text on standard output, for as long as somebody takes it."""

    def __init__(self, quiet: bool) -> None:
        self._open = not quiet and sys.stdout is not None
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")

    def line(self, text: str) -> None:
        self.text(f"{_one_line(text)}\n")

    def text(self, text: str) -> bool:
        """Whether somebody has taken it."""
        if self._open:
            try:
                sys.stdout.write(text)
            except (OSError, ValueError):
                self._open = False
            self._open = _flush(sys.stdout) and self._open
        return self._open

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


def _complain(what: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{_one_line(what)}\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())


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


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "serve": _serve,
    "learn": _learn,
}
