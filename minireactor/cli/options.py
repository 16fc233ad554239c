"""The commands, their options and the help texts. `values` parses the values of options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Callable, NoReturn

from minireactor import __version__
from minireactor.cli import values
from minireactor.core import flow
from minireactor.proxy.balance import BALANCES, FAILURE_COOLDOWN, FIRST
from minireactor.view.output import UsageError

# Default timeouts of a proxy, in seconds. Without them it would keep dead connections for ever.
# They are long, because a terminal session or an idle pool of connections must not be cut off.
PROXY_IDLE = 3600.0
PROXY_STALL = 300.0
CORE = "core"  # the default of --engine
KEEPALIVE = 60  # seconds; routers with address translation remember idle connections for longer

# argparse would put all options that exclude each other on one line of 120 columns.
_LEARN_USAGE = """%(prog)s [-h] [--version] [--lang {en,zh}] [N]
       %(prog)s N --start | --try FILE | --solution
       %(prog)s N --program | --exercise
       %(prog)s --glossary
       %(prog)s [N] --check"""

_UNTIL_STOPPED = ", until SIGINT or SIGTERM"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options; `command` names the command.

    Raises UsageError if the arguments are wrong. Raises SystemExit after --help and --version."""
    options, unknown = _parser().parse_known_args(_joined(argv))
    if unknown:
        # parse_args() would name the help of the whole program, not of this command.
        prog = f"minireactor {options.command}"
        raise UsageError(f"{prog}: unrecognized arguments: {' '.join(unknown)} (see {prog} --help)")
    return options


def _joined(argv: Sequence[str]) -> list[str]:
    """Return `argv` with the words of a command, such as "learn build", as one argument."""
    for words in (("learn", "build", "check"), ("learn", "build")):
        if tuple(argv[: len(words)]) == words:
            return [" ".join(words), *argv[len(words) :]]
    return list(argv)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="minireactor",
        description="A TCP reactor with flow control that can be read, run and watched. "
        "Example: minireactor serve echo --port 1234",
        allow_abbrev=False,
    )
    _add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    _add_serve(commands)
    _add_proxy(commands)
    _add_connect(commands)
    _add_demo(commands)
    _add_replay(commands)
    _add_trace(commands)
    _add_learn(commands)
    _add_build(commands)
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version",
        action="version",
        version=f"minireactor {__version__}",
        help="print the version and exit",
    )


def _add_command(
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


def _add_serve(commands: Any) -> None:
    parser = _add_command(
        commands, "serve", "Serve an app on a TCP port", "echo --watch", _UNTIL_STOPPED
    )
    add = parser.add_argument
    add(
        "app",
        metavar="APP",
        nargs="?",
        default="random",
        help="random: asks how many random integers you want, and sends them, one a line; echo: "
        "sends back what it receives; discard: drops what it receives; chargen: sends characters "
        "without end; file: sends the file at PATH; module:name: your own Factory (instance or "
        "class) or Protocol class; the current directory is searched too (default: %(default)s)",
    )
    add("path", metavar="PATH", nargs="?", help="for file only: the file to send (default: none)")
    add(
        "--host",
        type=values.host,
        default="127.0.0.1",
        help="address or name to listen on, IPv4 or IPv6; 0.0.0.0 or :: for all addresses of this "
        "machine (default: %(default)s)",
    )
    add(
        "--port",
        type=values.port,
        default=1234,
        help="port number to listen on; 0: any free one (default: %(default)s)",
    )
    _add_limits(add, None, None)
    add(
        "--seed",
        type=values.integer,
        metavar="N",
        help="for random only: start the random numbers from this integer; every client then gets "
        "the same ones, in each run (default: none)",
    )
    _add_views(add)
    _add_engine(add)
    _add_loudness(
        parser,
        "print a line for each connection made or lost, each pause and each resume (default: no)",
        "print nothing but errors (default: no)",
    )
    _add_version(parser)


def _add_proxy(commands: Any) -> None:
    what = "Pass connections to a TCP port on to a target"
    parser = _add_command(commands, "proxy", what, "8080 example.internal:80", _UNTIL_STOPPED)
    add = parser.add_argument
    add(
        "listen",
        metavar="LISTEN",
        type=values.listening_address,
        help="where to listen: PORT (of 127.0.0.1), HOST:PORT, [IPV6]:PORT, or :PORT (of all IPv4 "
        "addresses of this machine); port 0: any free one",
    )
    add(
        "targets",
        metavar="TARGET",
        nargs="+",
        type=values.target_address,
        help="where to connect for each client: PORT (of 127.0.0.1), HOST:PORT or [IPV6]:PORT; if "
        "one of several targets fails, the next is tried; the failed one is then tried last for "
        f"{FAILURE_COOLDOWN:g} s",
    )
    add(
        "--balance",
        choices=BALANCES,
        default=FIRST,
        help="which target a client gets: first: the first one that can be connected, in the given "
        "order; round-robin: each one in turn; least: the one with the fewest connections "
        "(default: %(default)s)",
    )
    add(
        "--connect-timeout",
        type=values.timeout,
        metavar="SECONDS",
        default=10.0,
        help="give up an attempt to connect to a target after this many seconds; 0: no limit "
        "(default: 10)",
    )
    add(
        "--rate",
        type=values.rate,
        metavar="BYTES",
        help="pass at most this many bytes a second for each connection and direction; with K or "
        "M: KiB or MiB (default: no limit)",
    )
    add(
        "--copy",
        action="store_true",
        help="copy all bytes through this process, even where the kernel could move them with "
        "splice() (default: no)",
    )
    _add_limits(add, PROXY_IDLE, PROXY_STALL)
    _add_views(add)
    _add_engine(add)
    _add_loudness(
        parser,
        "also print a line for each connection made or not made, each pause and each resume "
        "(default: no)",
        "print nothing but errors, not even the line for each connection that has ended "
        "(default: no)",
    )
    _add_version(parser)


def _add_connect(commands: Any) -> None:
    what = "Connect to a TCP server: standard input to the server, the server to standard output"
    description = (
        "Connect to a TCP server. Send standard input to it, and write what it sends to standard "
        "output. When the input ends, the sending direction is closed; reading goes on until the "
        "server ends. On a terminal, the command ends with the server. Exit status: 0 if both "
        "directions have ended in order, or if nobody reads the output any more; 1 after an error; "
        "130 after Ctrl-C."
    )
    parser = _add_command(commands, "connect", what, "1234 --rate 10K", description=description)
    add = parser.add_argument
    add(
        "address",
        metavar="[HOST:]PORT",
        type=values.target_address,
        help="where to connect: PORT (of 127.0.0.1), HOST:PORT or [IPV6]:PORT",
    )
    slow = parser.add_mutually_exclusive_group()
    slow.add_argument(
        "--rate",
        type=values.rate,
        metavar="BYTES",
        help="read slowly: this many bytes a second; with K or M: KiB or MiB (default: no limit)",
    )
    slow.add_argument(
        "--stall",
        action="store_true",
        help="read nothing, until Ctrl-C: a client that has hung (default: no)",
    )
    add(
        "--timeout",
        type=values.timeout,
        metavar="SECONDS",
        default=10.0,
        help="seconds after which the attempt to connect has failed; 0: no limit (default: 10)",
    )
    add(
        "-v",
        "--verbose",
        action="store_true",
        help="print on standard error when the connection is made, when a direction ends, and how "
        "many bytes were sent and received (default: no)",
    )
    _add_version(parser)


def _add_limits(add: Callable[..., Any], idle: float | None, stall: float | None) -> None:
    """Add the limits that `serve` and `proxy` share; `idle` and `stall` are default timeouts."""
    add(
        "--high",
        type=values.size,
        default=flow.HIGH,
        metavar="BYTES",
        help="pause the producer of a connection when more than this many bytes wait to be sent; "
        f"with K or M: KiB or MiB (default: {flow.HIGH // 1024}K)",
    )
    add(
        "--low",
        type=values.size,
        metavar="BYTES",
        help="resume the producer when this many bytes or fewer are left; less than --high; with K "
        "or M: KiB or MiB (default: a quarter of --high)",
    )
    add(
        "--kernel-limit",
        type=values.size,
        metavar="BYTES",
        help="let the kernel buffer about this many unsent bytes for a peer that does not read, if "
        "the system has such a limit; 0: no limit (default: twice --high)",
    )
    add(
        "--max-connections",
        type=values.count,
        metavar="N",
        help="how many connections there may be at a time; further clients are closed at once "
        "(default: as many as descriptors allow)",
    )
    add(
        "--idle-timeout",
        type=values.timeout,
        metavar="SECONDS",
        default=idle,
        help="close a connection after this many seconds without a byte in either direction; "
        f"0: never (default: {_default_of(idle)})",
    )
    add(
        "--stall-timeout",
        type=values.timeout,
        metavar="SECONDS",
        default=stall,
        help="abort a connection if its peer takes none of the waiting bytes for this many "
        f"seconds; 0: never (default: {_default_of(stall)})",
    )
    add(
        "--keepalive",
        type=values.keepalive,
        metavar="SECONDS",
        default=KEEPALIVE,
        help="after this many seconds of silence, the system asks a peer whether it is still "
        "there; a connection without an answer ends after about twice that time; 0: never ask "
        "(default: %(default)s)",
    )
    add(
        "--grace",
        type=values.grace,
        default=5.0,
        metavar="SECONDS",
        help="after SIGINT or SIGTERM, let transfers go on for this many seconds before they are "
        "aborted; a second signal aborts them at once (default: 5)",
    )


def _default_of(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:g}"


def _add_views(add: Callable[..., Any]) -> None:
    """Add the views, which `serve` and `proxy` share."""
    add(
        "--watch",
        action="store_true",
        help="show the connections with their buffers and marks: full screen on a terminal, "
        "elsewhere one line a second; in colours unless NO_COLOR is set (default: no)",
    )
    add(
        "--dashboard",
        type=values.listening_address,
        metavar="[HOST:]PORT",
        help="serve a web page on this port that draws the connections and can change their "
        "marks; only someone who has the full printed address can open it; without HOST: on "
        "127.0.0.1 (default: no)",
    )
    add(
        "--metrics",
        type=values.listening_address,
        metavar="[HOST:]PORT",
        help="serve metrics for Prometheus on this port, at /metrics; without HOST: on 127.0.0.1 "
        "(default: no)",
    )
    add(
        "--record",
        metavar="FILE",
        help="record what the connections do in FILE, as JSON lines; replay and trace read it "
        "(default: no)",
    )


def _add_engine(add: Callable[..., Any]) -> None:
    add(
        "--engine",
        metavar="ENGINE",
        default=CORE,
        help="the reactor that moves the bytes: core; tiny: the one in minireactor/tiny.py, which "
        "is small enough to be read at once; FILE: a Python file of your own with a class Reactor "
        "(default: %(default)s)",
    )


def _add_demo(commands: Any) -> None:
    what = "Show flow control in a browser: a server, three clients, and switches to play with"
    parser = _add_command(commands, "demo", what, "--port 8000", _UNTIL_STOPPED)
    _add_page(parser)
    _add_engine(parser.add_argument)
    _add_version(parser)


def _add_replay(commands: Any) -> None:
    what = "Show a recording in a browser, with a slider for the time"
    parser = _add_command(commands, "replay", what, "monday.jsonl", _UNTIL_STOPPED)
    help_of_file = "a recording, as --record of serve or proxy writes it"
    parser.add_argument("file", metavar="FILE", help=help_of_file)
    parser.add_argument(
        "--export",
        metavar="PAGE",
        help="write the page to the file PAGE, such as monday.html, which a browser opens without "
        "a server, and serve nothing (default: no)",
    )
    _add_page(parser)
    _add_version(parser)


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


def _add_trace(commands: Any) -> None:
    what = "Convert a recording into a trace for https://ui.perfetto.dev"
    parser = _add_command(commands, "trace", what, "monday.jsonl")
    add = parser.add_argument
    add("file", metavar="FILE", help="a recording, as --record of serve or proxy writes it")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="file to write the trace to; -: standard output (default: FILE with the ending "
        ".trace.json)",
    )
    _add_version(parser)


def _add_loudness(parser: argparse.ArgumentParser, verbose: str, quiet: str) -> None:
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help=verbose)
    loudness.add_argument("-q", "--quiet", action="store_true", help=quiet)


def _can_be_printed(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _add_learn(commands: Any) -> None:
    chinese = "中文" if _can_be_printed("中文") else "in Chinese"
    what = f"Learn flow control with programs that run ({chinese}: --lang zh)"
    description = "List the lessons or, with a number, show one and run its program."
    parser = _add_command(commands, "learn", what, "2", description=description)
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
        help="run all programs, exercises and solutions of all lessons, or of lesson N, and "
        "compare the texts with their output; the exit status is 1 if anything is wrong "
        "(default: no)",
    )
    _add_version(parser)


def _add_build(commands: Any) -> None:
    what = "Write a reactor of your own in twelve steps"
    parser = _add_command(commands, "learn build", what, "my-reactor")
    _add_folder(parser, "start a folder with a reactor.py, or show the current step")
    what = "Judge your reactor by the checks of all steps up to the current one"
    parser = _add_command(commands, "learn build check", what, "--hint")
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
    _add_version(parser)
