"""The parser of a command line, and of one command."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from minireactor import __version__
from minireactor.view.output import UsageError

EXAMPLES = "more examples:\n"


class Formatter(argparse.HelpFormatter):
    """Formats help. The lines of examples stay as they are, so that a person can copy them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)


def formatter(prog: str) -> argparse.HelpFormatter:
    """Return what formats help for the terminal's width.

    argparse asks shutil for the width, which takes 2 ms to load."""
    columns = 0
    with contextlib.suppress(ValueError):
        columns = int(os.environ.get("COLUMNS", ""))
    if columns <= 0:
        with contextlib.suppress(OSError):  # standard output is no terminal
            columns = os.get_terminal_size(1).columns
    return Formatter(prog, max_help_position=28, width=(columns or 80) - 2)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version",
        action="version",
        version=f"minireactor {__version__}",
        help="print the version and exit",
    )


def add_command(
    commands: Any,
    name: str,
    what: str,
    example: str,
    more: str = "",
    description: str = "",
    examples: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a command. Return its parser.

    The list of commands shows `what`. The command's own help shows `description`, or else `what`
    followed by `more`, and then the example. It ends with `examples`, one a line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=f"{what[0].lower()}{what[1:]}",
        description=f"{description or what + more + '.'} Example: minireactor {name} {example}",
        allow_abbrev=False,
        epilog=EXAMPLES + "".join(f"  minireactor {name} {each}\n" for each in examples)
        if examples
        else None,
        formatter_class=formatter,
    )
    return parser
