"""The parser of a command line, and of one command."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, NoReturn

from minireactor import __version__
from minireactor.view.output import UsageError


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
    commands: Any, name: str, what: str, example: str, more: str = "", description: str = ""
) -> argparse.ArgumentParser:
    """Add a command. Return its parser.

    The list of commands shows `what`. The command's own help shows `description`, or else `what`
    followed by `more`, and then the example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=f"{what[0].lower()}{what[1:]}",
        description=f"{description or what + more + '.'} Example: minireactor {name} {example}",
        allow_abbrev=False,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=28),
    )
    return parser
