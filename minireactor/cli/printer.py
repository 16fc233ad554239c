"""Print text on standard output, until its reader has gone, and errors on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from minireactor.address import format_address, host_port
from minireactor.core import events
from minireactor.proxy import CONNECTED, FAILED

_EVENTS = {
    events.MADE: "connection made from",
    events.PAUSE: "pausing connection from",
    events.RESUME: "resuming connection from",
}

_FLOW = {
    events.PAUSE: "pausing {fast}: bytes wait for {slow}",
    events.RESUME: "resuming {fast}: {slow} has taken them",
}


class Printer:
    """Prints text on standard output until its reader has gone. If `quiet`, prints nothing."""

    def __init__(self, quiet: bool) -> None:
        self._open = not quiet and sys.stdout is not None
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")

    def line(self, text: str) -> None:
        """Print a line, with control characters escaped."""
        self.text(f"{visible_line(text)}\n")

    def text(self, text: str) -> bool:
        """Print text as it is. Return whether standard output still takes text."""
        if self._open:
            try:
                sys.stdout.write(text)
            except (OSError, ValueError):
                self._open = False
            self._open = flush(sys.stdout) and self._open
        return self._open

    def announce(self, text: str) -> None:
        """Print what the command itself has to say."""
        self.line(f"minireactor: {text}")

    def warn(self, text: str) -> None:
        """Print what the command could not do. In a log, this is a warning, even if `quiet`."""
        self.announce(text)

    def report(self, text: str, level: str = "INFO") -> None:
        """Print a line that was asked for by a signal, on standard error, even if `quiet`.

        level: the level of the line if it goes to a log."""
        print_error(f"minireactor: {text}")

    def reopen(self) -> None:
        """Do nothing: there is no file to open again."""

    def event(self, event: str, connection: Any, reason: Any) -> None:
        """Print an event of a Server; this is its `on_event`."""
        self.line(event_text(event, connection, reason))

    def proxy_end(self, event: str, proxy: Any, detail: Any) -> None:
        """Print the end of a proxied connection; an `on_event` of a Relay. Ignore other events."""
        if event == events.LOST:
            self.line(str(proxy))

    def proxy_event(self, event: str, proxy: Any, detail: Any) -> None:
        """Print any event of a Relay; this is its `on_event`."""
        self.line(proxy_text(event, proxy, detail))


def event_text(event: str, connection: Any, reason: Any) -> str:
    """Return an event of a Server as text."""
    peer = format_address(connection.getPeer())
    if event == events.LOST:
        return f"connection lost from {peer}: {reason.getErrorMessage()}"
    return f"{_EVENTS[event]} {peer}"


def proxy_text(event: str, proxy: Any, detail: Any) -> str:
    """Return an event of a Relay as text."""
    client, target = format_address(proxy.client.getPeer()), host_port(*proxy.place)
    if event == CONNECTED:
        return f"connected {client} to {target}"
    if event == FAILED:
        return f"not connected {client} to {target}: {detail.getErrorMessage()}"
    if event in _FLOW:
        slow, fast = (client, target) if detail is proxy.client else (target, client)
        return _FLOW[event].format(fast=fast, slow=slow)
    return f"{_EVENTS[event]} {client}" if event == events.MADE else str(proxy)


def print_error(text: str) -> None:
    """Print a line on standard error, unless that is closed."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{visible_line(text)}\n")


def visible_line(text: str) -> str:
    """Return `text` with control characters escaped, so that it is one line."""
    # Imported late: `output` imports threading and more, which takes a while, see `commands`.
    from minireactor.view.output import visible

    return visible(text)


def flush(stream: Any) -> bool:
    """Flush a stream, and return True. If that fails, redirect it to the null device; return False.

    Without that, the interpreter would try to flush the stream at its end, and print an error."""
    if stream is None:
        return False
    try:
        stream.flush()
        return True
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        return False
