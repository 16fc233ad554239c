"""The options of `serve`, `proxy` and `connect`, and how a command line is parsed.

`values` parses the values of options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Callable

from minireactor.cli import values
from minireactor.cli.client_options import add_clients
from minireactor.cli.learn_options import add_build, add_build_check, add_learn
from minireactor.cli.life_options import add_life
from minireactor.cli.log_options import add_log
from minireactor.cli.parser import Parser, add_command, add_version, formatter
from minireactor.cli.proxy_header_options import add_proxy_header
from minireactor.cli.target_options import add_targets
from minireactor.cli.tls import add_client_tls, add_target_tls, add_tls
from minireactor.cli.view_options import (
    UNTIL_STOPPED,
    add_demo,
    add_engine,
    add_replay,
    add_trace,
    add_views,
)
from minireactor.core import flow
from minireactor.view.output import UsageError

# Default timeouts of a proxy, in seconds. Without them it would keep dead connections for ever.
# They are long, because a terminal session or an idle pool of connections must not be cut off.
PROXY_IDLE = 3600.0
PROXY_STALL = 300.0
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 1234  # of `serve`
LISTEN = (
    "PORT (of 127.0.0.1), HOST:PORT, [IPV6]:PORT, :PORT (of all IPv4 addresses of this machine) or "
    "unix:PATH; port 0: any free one; systemd or systemd:NAME: the sockets that systemd passes"
)
UNTIL_STOPPED_AND_REPORTS = (
    f"{UNTIL_STOPPED}. SIGUSR1 reports on standard error which connections do not move, and why, "
    "and opens the file of --log again"
)
KEEPALIVE = 60  # seconds; routers with address translation remember idle connections for longer


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options; `command` names the command.

    Raises UsageError if the arguments are wrong. Raises SystemExit after --help and --version."""
    words = _joined(argv)
    options, unknown = _parser(words[0] if words else "").parse_known_args(words)
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


def _parser(command: str) -> Parser:
    """Return a parser that knows `command`, or all commands if there is no such command.

    To add the options of `serve` takes 0.3 ms, and those of all commands 1.4 ms."""
    parser = Parser(
        prog="minireactor",
        description="A TCP reactor with flow control that can be read, run and watched. "
        "Example: minireactor serve echo --port 1234",
        allow_abbrev=False,
        formatter_class=formatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(
        prog="minireactor", metavar="COMMAND", dest="command", required=True
    )
    adders = {
        "serve": _add_serve,
        "proxy": _add_proxy,
        "connect": _add_connect,
        "demo": add_demo,
        "replay": add_replay,
        "trace": add_trace,
        "learn": add_learn,
        "learn build": add_build,
        "learn build check": add_build_check,
    }
    for add in [adders[command]] if command in adders else adders.values():
        add(commands)
    return parser


def _add_serve(commands: Any) -> None:
    parser = add_command(
        commands,
        "serve",
        "Serve an app on a TCP port",
        "echo --watch",
        UNTIL_STOPPED_AND_REPORTS,
        examples=(
            "random --seed 1 -v",
            "file disk.img --host :: --port 8000",
            "echo --listen 4000 --listen unix:/run/echo.sock",
            "chat:Chat --workers auto --log chat.log",
        ),
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
        help="address or name to listen on, IPv4 or IPv6; 0.0.0.0 or :: for all addresses of this "
        f"machine (default: {DEFAULT_HOST})",
    )
    add(
        "--port",
        type=values.port_or_unix,
        help="port number to listen on; 0: any free one; unix:PATH: a UNIX socket instead "
        f"(default: {DEFAULT_PORT})",
    )
    add(
        "--listen",
        action="append",
        default=[],
        metavar="LISTEN",
        type=values.listening_place,
        help=f"in place of --host and --port, and may be given several times: {LISTEN} (default: "
        "none)",
    )
    add(
        "--seed",
        type=values.integer,
        metavar="N",
        help="for random only: start the random numbers from this integer; every client then gets "
        "the same ones, in each run (default: none)",
    )
    add_engine(add)
    _add_flow_control(parser)
    _add_limits(parser, None, None)
    add_clients(parser)
    add_proxy_header(parser)
    add_tls(parser.add_argument_group("TLS").add_argument)
    add_life(parser)
    add_views(parser.add_argument_group("what shows the connections").add_argument)
    add_log(parser)
    _add_loudness(
        parser,
        "print a line for each connection made or lost, each pause and each resume (default: no)",
        "print nothing but errors (default: no)",
    )
    add_version(parser)


def _add_proxy(commands: Any) -> None:
    what = "Pass connections to a TCP port on to a target"
    parser = add_command(
        commands,
        "proxy",
        what,
        "8080 example.internal:80",
        UNTIL_STOPPED_AND_REPORTS,
        examples=(
            "8080 10.0.0.1:80 10.0.0.2:80 --balance least",
            ":443 --targets list.txt --tls-cert cert.pem",
            ":25 10.0.0.3:25 --send-proxy-v2",
        ),
    )
    add = parser.add_argument
    add(
        "place",
        metavar="LISTEN",
        type=values.listening_place,
        help=f"where to listen: {LISTEN}",
    )
    add(
        "targets",
        metavar="TARGET",
        nargs="*",
        type=values.target_address,
        help="where to connect for each client: PORT (of 127.0.0.1), HOST:PORT, [IPV6]:PORT or "
        "unix:PATH; may be left out with --targets; if one of several targets fails, the next is "
        "tried; the failed one gets no client until the proxy itself has connected to it",
    )
    add(
        "--listen",
        action="append",
        default=[],
        metavar="LISTEN",
        type=values.listening_place,
        help="listen at one more place; may be given several times (default: none)",
    )
    add_engine(add)
    add_targets(parser)
    flow_control = _add_flow_control(parser)
    flow_control(
        "--rate",
        type=values.rate,
        metavar="BYTES",
        help="pass at most this many bytes a second for each connection and direction; with K or "
        "M: KiB or MiB (default: no limit)",
    )
    flow_control(
        "--copy",
        action="store_true",
        help="copy all bytes through this process, even where the kernel could move them with "
        "splice() (default: no)",
    )
    _add_limits(parser, PROXY_IDLE, PROXY_STALL)
    add_clients(parser)
    add_proxy_header(parser, sends=True)
    tls = parser.add_argument_group("TLS").add_argument
    add_tls(tls)
    add_target_tls(tls)
    add_life(parser)
    add_views(parser.add_argument_group("what shows the connections").add_argument)
    add_log(parser)
    _add_loudness(
        parser,
        "also print a line for each connection made or not made, each pause and each resume "
        "(default: no)",
        "print nothing but errors, not even the line for each connection that has ended "
        "(default: no)",
    )
    add_version(parser)


def _add_connect(commands: Any) -> None:
    what = "Connect to a TCP server: standard input to the server, the server to standard output"
    description = (
        "Connect to a TCP server or a UNIX socket. Send standard input to it, and write what it "
        "sends to standard output. When the input ends, the sending direction is closed; reading "
        "goes on until the server ends. On a terminal, the command ends with the server. Exit "
        "status: 0 if both directions have ended in order, or if nobody reads the output any more; "
        "1 after an error; 130 after Ctrl-C."
    )
    parser = add_command(commands, "connect", what, "1234 --rate 10K", description=description)
    add = parser.add_argument
    add(
        "address",
        metavar="[HOST:]PORT",
        type=values.target_address,
        help="where to connect: PORT (of 127.0.0.1), HOST:PORT, [IPV6]:PORT or unix:PATH",
    )
    add_client_tls(add)
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
    add_version(parser)


def _add_flow_control(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    """Add the options that `serve` and `proxy` share. Return what adds more to their group."""
    add = parser.add_argument_group("flow control").add_argument
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
    return add


def _add_limits(parser: argparse.ArgumentParser, idle: float | None, stall: float | None) -> None:
    """Add the limits that `serve` and `proxy` share; `idle` and `stall` are default timeouts."""
    add = parser.add_argument_group("limits").add_argument
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


def _default_of(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:g}"


def _add_loudness(parser: argparse.ArgumentParser, verbose: str, quiet: str) -> None:
    loudness = parser.add_argument_group("what is printed").add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help=verbose)
    loudness.add_argument("-q", "--quiet", action="store_true", help=quiet)
