"""The options of `serve` and `proxy` about the log."""

from __future__ import annotations

import argparse


def add_log(parser: argparse.ArgumentParser) -> None:
    """Add the options about the log, in a group of their own."""
    add = parser.add_argument_group("log").add_argument
    add(
        "--log",
        metavar="FILE",
        help="append all lines to this file, each with its time and level; - or /dev/stdout: to "
        "standard output, /dev/stderr: to standard error; SIGUSR1 opens the file again, after it "
        "was renamed (default: no file; what happens goes to standard output, warnings and errors "
        "to standard error)",
    )
    add(
        "--log-format",
        choices=("text", "json"),
        help="how each line looks that is written to --log FILE, or else to standard output and "
        "standard error; text: the time, the level and what happened; json: one JSON object "
        "(default: text with --log; without it, only warnings and errors have a time)",
    )
