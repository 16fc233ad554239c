"""The options of `demo`, `replay` and `trace`, and those of `serve` and `proxy` about views."""

from __future__ import annotations

import argparse
from typing import Any, Callable

from minireactor.cli import values
from minireactor.cli.parser import add_command, add_version

CORE = "core"  # the default of --engine

UNTIL_STOPPED = ", until SIGINT or SIGTERM"


def add_views(add: Callable[..., Any]) -> None:
    """Add the views, which `serve` and `proxy` share."""
    add(
        "--watch",
        action="store_true",
        help="show the connections with their buffers and marks: full screen on a terminal, "
        "elsewhere one line a second; in colours unless NO_COLOR is set (default: no)",
    )
    add(
        "--dashboard",
        type=values.dashboard_place,
        metavar="[HOST:]PORT",
        help="serve a web page on this port that draws the connections and can change their "
        "marks; only someone who has the full printed address can open it; without HOST: on "
        "127.0.0.1; or on systemd:NAME (default: no)",
    )
    add(
        "--metrics",
        type=values.listening_place,
        metavar="[HOST:]PORT",
        help="serve metrics for Prometheus on this port, at /metrics, and at /healthz whether "
        "this process is draining; without HOST: on 127.0.0.1; or on unix:PATH or systemd:NAME "
        "(default: no)",
    )
    add(
        "--record",
        metavar="FILE",
        help="record what the connections do in FILE, as JSON lines; replay and trace read it "
        "(default: no)",
    )


def add_engine(add: Callable[..., Any]) -> None:
    add(
        "--engine",
        metavar="ENGINE",
        default=CORE,
        help="the reactor that moves the bytes: core; tiny: the one in minireactor/tiny.py, which "
        "is small enough to be read at once; FILE: a Python file of your own with a class Reactor "
        "(default: %(default)s)",
    )


def add_demo(commands: Any) -> None:
    what = "Show flow control in a browser: a server, three clients, and switches to play with"
    parser = add_command(commands, "demo", what, "--port 8000", UNTIL_STOPPED)
    _add_page(parser)
    add_engine(parser.add_argument)
    add_version(parser)


def add_replay(commands: Any) -> None:
    what = "Show a recording in a browser, with a slider for the time"
    parser = add_command(commands, "replay", what, "monday.jsonl", UNTIL_STOPPED)
    help_of_file = "a recording, as --record of serve or proxy writes it"
    parser.add_argument("file", metavar="FILE", help=help_of_file)
    parser.add_argument(
        "--export",
        metavar="PAGE",
        help="write the page to the file PAGE, such as monday.html, which a browser opens without "
        "a server, and serve nothing (default: no)",
    )
    _add_page(parser)
    add_version(parser)


def _add_page(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that show a web page."""
    parser.add_argument(
        "--port",
        type=values.port,
        default=0,
        help="port number for the page, on 127.0.0.1; 0: any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        help="only print the address of the page; do not open a browser (default: open one if "
        "there is a display)",
    )


def add_trace(commands: Any) -> None:
    what = "Convert a recording into a trace for https://ui.perfetto.dev"
    parser = add_command(commands, "trace", what, "monday.jsonl")
    add = parser.add_argument
    add("file", metavar="FILE", help="a recording, as --record of serve or proxy writes it")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="file to write the trace to; -: standard output (default: FILE with the ending "
        ".trace.json)",
    )
    add_version(parser)
