"""The log of `serve` and `proxy`: where its lines go, by the options --log and --log-format."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address, host_port
from minireactor.cli.printer import Printer, event_text, proxy_text
from minireactor.core import events
from minireactor.operation.logs import FORMATS, LogHandler, TextFormat
from minireactor.proxy import CONNECTED, FAILED
from minireactor.view.output import FLUSH_SECONDS, UsageError, lines_dropped

if TYPE_CHECKING:
    import argparse

    from minireactor.internet import Reactor
    from minireactor.operation.log_file import LogFile

_NAMES = {
    events.MADE: "made",
    events.LOST: "lost",
    events.PAUSE: "paused",
    events.RESUME: "resumed",
    CONNECTED: "connected",
    FAILED: "failed",
}


class LogPrinter(Printer):
    """Writes what a Printer prints as lines of the log, at level INFO.

    lines: the format.
    write, write_error: called with a line for standard output, and for standard error.
    file: the file that reopen() opens again, if there is one.
    """

    def __init__(
        self,
        quiet: bool,
        lines: TextFormat,
        write: Callable[[str], object] | None = None,
        write_error: Callable[[str], object] | None = None,
        file: LogFile | None = None,
    ) -> None:
        super().__init__(quiet)
        self._quiet = quiet
        self._lines = lines
        self._write = write or self.text
        self._write_error = write_error or _to_stderr
        self._file = file

    def line(self, text: str, **fields: Any) -> None:
        if not self._quiet:
            self._write(self._lines.line("INFO", text, fields))

    def announce(self, text: str) -> None:
        self.line(text)

    def warn(self, text: str) -> None:
        self.report(text, "WARNING")

    def report(self, text: str, level: str = "INFO") -> None:
        self._write_error(self._lines.line(level, text))

    def reopen(self) -> None:
        if self._file is not None:
            self._file.reopen()

    def event(self, event: str, connection: Any, reason: Any) -> None:
        fields = {"event": _NAMES[event], "peer": format_address(connection.getPeer())}
        if event == events.LOST:
            fields["reason"] = reason.getErrorMessage()
        self.line(event_text(event, connection, reason), **fields)

    def proxy_end(self, event: str, proxy: Any, detail: Any) -> None:
        if event == events.LOST:
            target = proxy.target
            self.line(
                str(proxy),
                **_parties(event, proxy),
                bytes_up=0 if target is None else target.bytes_out,
                bytes_down=proxy.client.bytes_out,
                seconds=round(proxy.seconds, 3),
                why=proxy.why,
            )

    def proxy_event(self, event: str, proxy: Any, detail: Any) -> None:
        if event == events.LOST:
            self.proxy_end(event, proxy, detail)
            return
        fields = _parties(event, proxy)
        if event == FAILED:
            fields["reason"] = detail.getErrorMessage()
        elif event in (events.PAUSE, events.RESUME):
            fields["slow"] = "client" if detail is proxy.client else "target"
        self.line(proxy_text(event, proxy, detail), **fields)


def _parties(event: str, proxy: Any) -> dict[str, Any]:
    client = format_address(proxy.client.getPeer())
    return {"event": _NAMES[event], "client": client, "target": host_port(*proxy.place)}


def open_log(options: argparse.Namespace, reactor: Reactor) -> Printer:
    """Return what prints the lines of `serve` or `proxy`, and send the records of `logging` there.

    Raises UsageError if the file cannot be opened. close_log() ends the log."""

    def later(seconds: float, call: Callable[[], None]) -> None:
        reactor.callFromThread(reactor.callLater, seconds, call)

    if options.log is None:
        lines = None if options.log_format is None else _format(options)
        # This has no effect if the app has set up logging as it wants it.
        logging.basicConfig(handlers=[LogHandler(lines, later=later)])
        return Printer(options.quiet) if lines is None else LogPrinter(options.quiet, lines)
    lines = _format(options)
    write, file = _to_stdout, None
    if options.log == "/dev/stderr":
        write = _to_stderr
    elif options.log not in ("-", "/dev/stdout"):
        options.log_file = file = _open_file(options, lines, reactor)
        write = file.write
    logging.root.addHandler(LogHandler(lines, write, later=later))
    return LogPrinter(options.quiet, lines, write, write, file)


def _format(options: argparse.Namespace) -> TextFormat:
    return FORMATS[options.log_format or "text"]()


def _open_file(options: argparse.Namespace, lines: TextFormat, reactor: Reactor) -> LogFile:
    from minireactor.operation.log_file import LogFile

    def warn(text: str) -> None:
        _to_stderr(lines.line("WARNING", text))

    file = LogFile(options.log, lines, lambda text: reactor.callFromThread(warn, text))
    try:
        is_open = file.open()
    except OSError as error:
        why = f"{error.strerror}; give another --log FILE"
        raise UsageError(
            f"minireactor {options.command}: cannot open the log {options.log}: {why}"
        ) from error
    if not is_open:
        warn(f"nobody reads the log {file.path} yet")
    return file


def close_log(options: argparse.Namespace) -> None:
    """End the log of a command: write the counts of repeated records, and what is queued."""
    for handler in list(logging.root.handlers):
        if isinstance(handler, LogHandler):
            logging.root.removeHandler(handler)
            handler.close()
    file = getattr(options, "log_file", None)
    if file is not None:
        missing = file.close(FLUSH_SECONDS)
        if missing:
            _to_stderr(_format(options).line("WARNING", missing))


def dropped_note(options: argparse.Namespace) -> Callable[[int], bytes]:
    """Return what makes the line in place of dropped lines on standard output or error."""
    if getattr(options, "log", None) is None and getattr(options, "log_format", None) is None:
        return lines_dropped
    return _format(options).dropped


def _to_stdout(line: str) -> None:
    _print(sys.stdout, line)


def _to_stderr(line: str) -> None:
    _print(sys.stderr, line)


def _print(stream: Any, line: str) -> None:
    if stream is not None:
        # Only streams of the system raise, on Windows: see standard_streams().
        with contextlib.suppress(OSError, ValueError):
            stream.write(line)
            stream.flush()
