"""What the command does with --watch, --metrics, --record, --dashboard, trace, demo and replay."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Callable, Union

from minireactor.address import format_address
from minireactor.error import CannotListenError
from minireactor.view.output import UsageError, cannot_listen

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from contextlib import ExitStack

    from minireactor.internet import Reactor
    from minireactor.serve.server import Server
    from minireactor.transports.tcp import Connection

    Label = Union[Callable[[Connection], str], None]


def open_views(
    stack: ExitStack, reactor: Reactor, options: argparse.Namespace, label: Label
) -> list[str]:
    """Begin what `options` ask for, but --watch, until `stack` is closed; a line on each, to be
    printed. UsageError."""
    said = []
    if options.metrics:
        from minireactor.view.metrics import Metrics

        metrics = Metrics(reactor)
        stack.callback(metrics.close)
        with _refused(f"minireactor {options.command}: --metrics"):
            address = metrics.listen(*options.metrics).getHost()
        said.append(f"metrics on http://{format_address(address)}/metrics")
    # Last, as it empties the file: nothing that could still be refused is to cost a recording.
    if options.record is not None:
        from minireactor.view.record import Recorder

        command = shlex.join(["minireactor", *options.argv])
        try:
            recorder = Recorder(reactor, options.record, command, label)
        except OSError as error:
            why = f"--record {options.record}: {error.strerror}"
            raise UsageError(f"minireactor {options.command}: {why}") from error
        stack.callback(recorder.close)
        said.append(f"recording to {options.record}")
    return said


def open_dashboard(
    stack: ExitStack, server: Server, options: argparse.Namespace, title: str, label: Label
) -> str:
    """Serve the page on `server` until `stack` is closed; a line to be printed. UsageError."""
    from minireactor.view.web.dashboard import Dashboard

    command = f"minireactor {options.command}"
    if options.quiet:
        raise UsageError(f"{command}: --dashboard prints an address to open; leave --quiet out")
    page = Dashboard(
        server.reactor,
        title,
        hint=f"nc {_place_of(server)}",
        label=label,
        set_marks=server.set_marks,
    )
    stack.callback(page.close)
    with _refused(f"{command}: --dashboard"):
        page.listen(server.reactor, *options.dashboard)
    return f"dashboard on {page.url}"


def demo(options: argparse.Namespace, say: Callable[[str], object]) -> None:
    """A server and three clients, with the page on them, until a signal. UsageError."""
    from minireactor import reactor
    from minireactor.view.web.demo import Demo

    whole = Demo(reactor)
    with _refused("minireactor demo"):
        whole.listen(options.port)
    say(f"demo on {whole.dashboard.url} (Ctrl-C ends it)")
    _run_page(whole.dashboard.url, options)


def replay(options: argparse.Namespace, say: Callable[[str], object]) -> None:
    """The page, on a recording, until a signal. UsageError."""
    from minireactor import reactor
    from minireactor.view.record import RecordingError
    from minireactor.view.web.replay import Replay

    try:
        page = Replay(options.file)
    except RecordingError as error:
        raise UsageError(f"minireactor replay: {error}") from error
    except OSError as error:
        raise UsageError(f"minireactor replay: {options.file}: {error.strerror}") from error
    with _refused("minireactor replay"):
        page.listen(reactor, "127.0.0.1", options.port)
    say(f"replay of {options.file} on {page.url} (Ctrl-C ends it)")
    _run_page(page.url, options)


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """A port that cannot be had is UsageError, with `what` asked for it."""
    try:
        yield
    except CannotListenError as error:
        raise UsageError(f"{what}: {cannot_listen(error, 'port')}") from error


def _run_page(url: str, options: argparse.Namespace) -> None:
    from minireactor import reactor

    # Without a display, what webbrowser finds would be a browser in this very terminal.
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if options.browser and (
        os.name == "nt" or sys.platform == "darwin" or any(map(os.getenv, displays))
    ):
        import threading
        import webbrowser

        # Some browsers keep their caller waiting until they are closed.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    reactor.run(installSignalHandlers=False)


def _place_of(server: Server) -> str:
    """Where it can be reached from this machine, as `nc` wants it."""
    address = server.port.getHost()  # type: ignore[union-attr]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"{host} {address.port}"


def watch(
    stack: ExitStack, server: Server, stop: Callable[[], object], title: str, label: Label
) -> None:
    """Show `server` until `stack` is closed; `q` calls `stop`."""
    from minireactor.view.terminal.watch import open_watch

    view = open_watch(
        server.reactor,
        title,
        hint=f"no connection yet; try: nc {_place_of(server)}",
        label=label,
        on_quit=stop,
        is_stopping=lambda: server.stopping,
    )
    stack.callback(view.close)


def trace(options: argparse.Namespace) -> str:
    """Write the trace of a recording; what to say about it. UsageError."""
    from minireactor.view.record import RecordingError, read
    from minireactor.view.trace import write_trace

    path = options.file
    out = options.output
    if out is None:
        out = f"{path[:-6] if path.endswith('.jsonl') else path}.trace.json"
    try:
        recording = read(path)
        # Before anything is written: most mistakes show here.
        first = next(recording)
        if os.path.exists(out) and os.path.samefile(path, out):
            raise UsageError(f"minireactor trace: {out} is the recording itself; give another OUT")
        if out == "-":
            if sys.stdout is not None:  # it was closed, or there is none
                write_trace(chain([first], recording), sys.stdout)
            return ""
        with open(out, "w", encoding="utf-8") as file:
            try:
                count = write_trace(chain([first], recording), file)
            except RecordingError:
                if os.path.isfile(out):
                    os.remove(out)
                raise
    except BrokenPipeError:
        return ""  # who reads the standard output has seen enough
    except RecordingError as error:
        raise UsageError(f"minireactor trace: {error}") from error
    except OSError as error:
        raise UsageError(f"minireactor trace: {error.filename or out}: {error.strerror}") from error
    return f"wrote {count} events to {out}; open it at https://ui.perfetto.dev"
