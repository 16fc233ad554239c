"""The views of the command: --watch, --metrics, --record, --dashboard, trace, demo and replay."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Callable, Union

from minireactor.address import format_address, unix_path
from minireactor.error import CannotListenError
from minireactor.view.output import UsageError, cannot_listen

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterator
    from contextlib import ExitStack

    from minireactor.internet import Reactor
    from minireactor.serve.places import Place
    from minireactor.serve.server import Server
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port

    Label = Union[Callable[[Connection], str], None]
    Sockets = Union[list[socket.socket], None]
    OpenPort = Callable[[Place, Callable[[Sockets], Port]], Port]


def open_metrics(
    stack: ExitStack,
    reactor: Reactor,
    options: argparse.Namespace,
    open_port: OpenPort,
    is_draining: Callable[[], bool],
) -> str:
    """Serve --metrics until `stack` is closed; return the line to print.

    open_port: called as `open_port(place, listen)`. Returns what `listen(sockets)` returns, with
        the sockets that listen at the place already, or None.
    is_draining: see Metrics.

    Raises UsageError if the port cannot be opened."""
    from minireactor.view.metrics import Metrics

    metrics = Metrics(reactor, is_draining)
    stack.callback(metrics.close)
    place: Place = options.metrics
    with _usage_errors(f"minireactor {options.command}: --metrics"):
        port = open_port(place, lambda sockets: metrics.listen(*place, sockets))
    address = port.getHost()
    shown = format_address(address)
    is_url = unix_path(address.host) is None
    return f"metrics on http://{shown}/metrics" if is_url else f"metrics on {shown}"


def open_recording(
    stack: ExitStack, reactor: Reactor, options: argparse.Namespace, label: Label
) -> str:
    """Record to the file of --record until `stack` is closed; return the line to print.

    The recorder empties its file, so it should open last: an error of another option must not cost
    an existing recording. Raises UsageError if the file cannot be opened."""
    from minireactor.view.record import Recorder

    command = shlex.join(["minireactor", *options.argv])
    try:
        recorder = Recorder(reactor, options.record, command, label)
    except OSError as error:
        reason = f"--record {options.record}: {error.strerror}"
        raise UsageError(f"minireactor {options.command}: {reason}") from error
    stack.callback(recorder.close)
    return f"recording to {options.record}"


def open_dashboard(
    stack: ExitStack,
    server: Server,
    options: argparse.Namespace,
    title: str,
    label: Label,
    open_port: OpenPort,
    token: str,
) -> tuple[str, str]:
    """Serve the page about `server` until `stack` is closed.

    Returns the line to print, and the secret of the page's address.

    open_port: see open_metrics().
    token: the secret that an earlier process has used; "" for a new one.

    Raises UsageError if its port cannot be opened, or if --quiet would hide its address."""
    from minireactor.view.web.dashboard import Dashboard

    command = f"minireactor {options.command}"
    if options.quiet:
        raise UsageError(f"{command}: --dashboard prints an address to open; leave --quiet out")
    page = Dashboard(
        server.reactor,
        title,
        hint=f"nc {_nc_arguments(server)}",
        label=label,
        set_marks=server.set_marks,
    )
    page.token = token or page.token
    stack.callback(page.close)
    place: Place = options.dashboard
    with _usage_errors(f"{command}: --dashboard"):
        open_port(place, lambda sockets: page.listen(server.reactor, *place, sockets))
    return f"dashboard on {page.url}", page.token


def demo(options: argparse.Namespace, print_line: Callable[[str], object]) -> None:
    """Run a server, three clients and their page until a signal. Raises UsageError.

    print_line: called with a line that names the address of the page."""
    from minireactor import reactor
    from minireactor.view.web.demo import Demo

    running = Demo(reactor)
    with _usage_errors("minireactor demo"):
        running.listen(options.port)
    print_line(f"demo on {running.dashboard.url} (Ctrl-C ends it)")
    _run_page(running.dashboard.url, options)


def replay(options: argparse.Namespace, print_line: Callable[[str], object]) -> None:
    """Serve the page about a recording until a signal. Raises UsageError.

    print_line: called with a line that names the address of the page."""
    from minireactor import reactor
    from minireactor.view.record import RecordingError
    from minireactor.view.web.replay import Replay

    try:
        page = Replay(options.file)
    except RecordingError as error:
        raise UsageError(f"minireactor replay: {error}") from error
    except OSError as error:
        raise UsageError(f"minireactor replay: {options.file}: {error.strerror}") from error
    with _usage_errors("minireactor replay"):
        page.listen(reactor, "127.0.0.1", options.port)
    print_line(f"replay of {options.file} on {page.url} (Ctrl-C ends it)")
    _run_page(page.url, options)


def export(options: argparse.Namespace) -> str:
    """Write a recording as one page to a file; return the line to print. Raises UsageError."""
    from minireactor.view.record import RecordingError
    from minireactor.view.web.replay import export as write_page

    path, out = options.file, options.export
    try:
        if os.path.exists(out) and os.path.samefile(path, out):
            raise UsageError(
                f"minireactor replay: {out} is the recording itself; give another PAGE"
            )
        write_page(path, out)
    except RecordingError as error:
        raise UsageError(f"minireactor replay: {error}") from error
    except OSError as error:
        raise UsageError(
            f"minireactor replay: {error.filename or out}: {error.strerror}"
        ) from error
    return f"wrote {out}; open it in a browser, it needs no server"


@contextmanager
def _usage_errors(place: str) -> Iterator[None]:
    """Turn CannotListenError into UsageError.

    place: the command and option that asked for the port; the message begins with it."""
    try:
        yield
    except CannotListenError as error:
        raise UsageError(f"{place}: {cannot_listen(error, 'port')}") from error


def _run_page(url: str, options: argparse.Namespace) -> None:
    """Open `url` in a browser, unless --no-browser was given, and run the loop."""
    from minireactor import reactor

    # Without a display, webbrowser could start a text browser in this terminal.
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if options.browser and (
        os.name == "nt" or sys.platform == "darwin" or any(map(os.getenv, displays))
    ):
        import threading
        import webbrowser

        # With some browsers, this call returns only when the browser is closed.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    reactor.run(installSignalHandlers=False)


def _nc_arguments(server: Server) -> str:
    """Return the arguments with which `nc` connects to the server from this machine."""
    address = server.ports[0].getHost()
    path = unix_path(address.host)
    if path is not None:
        return f"-U {shlex.quote(path)}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"{host} {address.port}"


def watch(
    stack: ExitStack, server: Server, stop: Callable[[], object], title: str, label: Label
) -> None:
    """Show --watch for `server` until `stack` is closed. The key `q` calls `stop`."""
    from minireactor.view.terminal.watch import open_watch

    view = open_watch(
        server.reactor,
        title,
        hint=f"no connection yet; try: nc {_nc_arguments(server)}",
        label=label,
        on_quit=stop,
        is_stopping=lambda: server.stopping,
    )
    stack.callback(view.close)


def trace(options: argparse.Namespace) -> str:
    """Write the trace of a recording; return the line to print. Raises UsageError."""
    from minireactor.view.record import RecordingError, read
    from minireactor.view.trace import write_trace

    path = options.file
    out = options.output
    if out is None:
        out = f"{path[:-6] if path.endswith('.jsonl') else path}.trace.json"
    try:
        recording = read(path)
        # Most errors show here, before the output is opened.
        first = next(recording)
        if os.path.exists(out) and os.path.samefile(path, out):
            raise UsageError(f"minireactor trace: {out} is the recording itself; give another OUT")
        if out == "-":
            if sys.stdout is not None:  # None if it was closed
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
        return ""  # the reader of standard output has closed it: no error
    except RecordingError as error:
        raise UsageError(f"minireactor trace: {error}") from error
    except OSError as error:
        raise UsageError(f"minireactor trace: {error.filename or out}: {error.strerror}") from error
    return f"wrote {count} events to {out}; open it at https://ui.perfetto.dev"
