"""The options of `learn`, `learn build` and `learn build check`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from minireactor.cli import values
from minireactor.cli.parser import add_command, add_version

# argparse would put all options that exclude each other on one line of 120 columns.
_LEARN_USAGE = """%(prog)s [-h] [--version] [--lang {en,zh}] [N]
       %(prog)s N --start | --try FILE | --solution
       %(prog)s N --program | --exercise
       %(prog)s --glossary
       %(prog)s [N] --check"""


def _can_be_printed(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def add_learn(commands: Any) -> None:
    chinese = "中文" if _can_be_printed("中文") else "in Chinese"
    what = f"Learn flow control with programs that run ({chinese}: --lang zh)"
    description = "List the lessons or, with a number, show one and run its program."
    parser = add_command(commands, "learn", what, "2", description=description)
    parser.usage = _LEARN_USAGE
    add = parser.add_argument
    add(
        "lesson",
        metavar="N",
        nargs="?",
        type=values.lesson,
        help="number of a lesson (default: list)",
    )
    add(
        "--lang",
        choices=("en", "zh"),
        help="language, English or Chinese (default: the language that LC_ALL, LC_MESSAGES or "
        "LANG names, or else English)",
    )
    instead = parser.add_mutually_exclusive_group()
    for part, what in (
        ("start", "write lessonN.py, a program with a fault to find: repair it, then --try it"),
        ("program", "print its program"),
        ("exercise", "print the program that --start writes"),
        ("solution", "print the exercise without its fault"),
    ):
        instead.add_argument(
            f"--{part}",
            dest="part",
            action="store_const",
            const=part,
            help=f"{what} (default: no)",
        )
    instead.add_argument(
        "--try",
        dest="attempt",
        metavar="FILE",
        help="run a repaired exercise, and report whether it is right (default: no)",
    )
    instead.add_argument(
        "--glossary",
        action="store_true",
        help="print the terms in English and Chinese, and a reading list (default: no)",
    )
    instead.add_argument(
        "--check",
        action="store_true",
        help="run all programs, exercises and solutions of all lessons and of all steps of learn "
        "build, or of lesson N, and compare the texts with their output; the exit status is 1 if "
        "anything is wrong (default: no)",
    )
    add_version(parser)


def add_build(commands: Any) -> None:
    what = "Write a reactor of your own in twelve steps, which learn build check judges"
    parser = add_command(commands, "learn build", what, "my-reactor")
    _add_folder(parser, "start a folder with a reactor.py, or show the current step")


def add_build_check(commands: Any) -> None:
    what = "Judge your reactor by the checks of all steps up to the current one"
    parser = add_command(commands, "learn build check", what, "--hint")
    _add_folder(parser, "judge the reactor.py in this folder")
    instead = parser.add_mutually_exclusive_group()
    hint = "give a hint for the current step, and the next one each time (default: no)"
    instead.add_argument("--hint", action="store_true", help=hint)
    diff = "show one solution of the current step, as a difference from your file (default: no)"
    instead.add_argument("--diff", action="store_true", help=diff)


def _add_folder(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help=f"{what} (default: the current directory if it is such a folder, else my-reactor)",
    )
    parser.add_argument(
        "--lang",
        choices=("en", "zh"),
        help="language, English or Chinese (default: the language that LC_ALL, LC_MESSAGES or "
        "LANG names, or else English)",
    )
    add_version(parser)
