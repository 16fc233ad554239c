"""`python -m bench`: its options, and the order of the runs."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from bench import measure, network, page, report, simulate
from bench.engines import BASE, ENGINES, PROXY, SERVER, Engine, from_checkout, serving
from bench.workloads import WORKLOADS, Workload

ROUNDS = 5
MAX_QUICK_ROUNDS = 3
QUICK_SECONDS = 105.0  # with --quick, no round starts that would probably end after this
LAST_SECONDS = 112.0  # with --quick, no run starts after this
TIMEOUT, QUICK_TIMEOUT = 180.0, 40.0  # seconds that one run may take


class Options(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def options() -> Options:
    parser = Options(
        prog="python -m bench",
        description="Compare minireactor with its peers on this machine. stderr shows the "
        "progress; stdout gets the tables at the end.",
        epilog="A full run takes about three quarters of an hour. NAMES are separated by commas; "
        "--list shows them. The beginning of several names selects all of them: echo, bulk, proxy.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="take two minutes at most, and measure less exactly")
    add("--engines", metavar="NAMES", help="run only these engines")
    add("--workload", metavar="NAMES", help="run only these workloads")
    add("--rounds", metavar="N", type=_positive, help=f"repeat N times (default: {ROUNDS})")
    add(
        "--veth",
        action="store_true",
        help="put the servers and the clients into two network namespaces, joined by a veth pair "
        f"with an MTU of {network.MTU:,} bytes; needs root and the program ip; servers only",
    )
    add("--json", metavar="FILE", help="write every figure to FILE")
    add("--chart", metavar="FILE", help="draw the ratios, and write the picture (SVG) to FILE")
    add(
        "--readme",
        metavar="FILE",
        help="replace the tables of this network in FILE, between its marks",
    )
    add(
        "--from", metavar="FILE", dest="earlier", help="run nothing: show the --json of another run"
    )
    add(
        "--against",
        metavar="FOLDER",
        help=f"compare {BASE} with another checkout of it, in FOLDER; other engines only if named",
    )
    add("--ladder", action="store_true", help="measure tiny after each step of bench/ladder")
    add(
        "--simulate",
        metavar="N",
        type=_positive,
        help="run nothing else: simulate N stalled and slow clients of one server, and compare "
        "memory and throughput with a model; 100,000 take one or two minutes and 4 GB",
    )
    add("--list", action="store_true", help="show the workloads and the engines, and exit")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible; give 1 or more")
    return number


def chosen(kind: str, names: str | None, among: Sequence[Any]) -> list[Any]:
    """Return the workloads or engines that `names` selects, in the order of `among`.

    A name selects itself. Anything else selects all names that begin with it and a dash. Raises
    ValueError if a name selects nothing."""
    if names is None:
        return list(among)
    given = [name.strip() for name in names.split(",") if name.strip()]
    known = [each.name for each in among]
    wanted: set[str] = set()
    for name in given:
        found = [name] if name in known else [each for each in known if each.startswith(f"{name}-")]
        wanted.update(found)
        if not found:
            raise ValueError(f"no {kind} {name!r}; there are: {', '.join(known)}")
    if not wanted:
        raise ValueError(f"no {kind} is named; there are: {', '.join(known)}")
    return [each for each in among if each.name in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options()
    given = parser.parse_args(arguments)
    if given.simulate:
        print(simulate.run(given.simulate))
        return 0
    try:
        names = BASE if given.against and given.engines is None else given.engines
        engines = chosen("engine", names, ENGINES)
        if given.against:
            engines.append(from_checkout(Path(given.against)))
        workloads = chosen("workload", given.workload, WORKLOADS)
        if given.veth:
            workloads = servers_only(workloads, given.workload)
        if given.list:
            show_lists(workloads, engines)
            return 0
        if given.ladder:
            from bench.ladder import run

            return run.main(given, workloads)
        engines = with_something_to_do(workloads, engines)
        earlier = report.load(Path(given.earlier)) if given.earlier else None
        name = "veth" if given.veth else network.LOOPBACK.name
        check_writable(given, earlier.header["network"] if earlier else name)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if os.name != "posix":
        parser.error("needs a POSIX system")
    if not earlier and all(measure.installed(engine) for engine in engines):
        parser.error("; ".join(f"{e.title}: {measure.installed(e)}" for e in engines))
    where = network.veth() if given.veth and not earlier else nullcontext(network.LOOPBACK)
    try:
        with measure.signals.taken(), where as net:
            results = earlier or compare(engines, workloads, given.quick, given.rounds, net)
    except network.Unavailable as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    print(report.text(results, sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    for path, content in ((given.json, report.as_json), (given.chart, page.chart)):
        if path:
            Path(path).write_text(content(results), encoding="utf-8")
    if given.readme:
        readme = Path(given.readme)
        text = readme.read_text(encoding="utf-8")
        readme.write_text(report.with_summary(text, results), encoding="utf-8")
    return 1 if results.failures() else 0


def check_writable(given: argparse.Namespace, name: str) -> None:
    """Check the files to write now, and not after half an hour of measuring.

    Raises ValueError if a file cannot be written or the readme has no block of the network `name`,
    OSError if the readme cannot be read."""
    for path in filter(None, (given.json, given.chart)):
        folder = Path(path).resolve().parent
        if Path(path).is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(f"cannot write {path!r}")
    if given.readme:
        report.block(Path(given.readme).read_text(encoding="utf-8"), name)


def servers_only(workloads: Sequence[Workload], names: str | None) -> list[Workload]:
    """Return the workloads of servers. Raises ValueError if `names` asks for one of a proxy."""
    found = [workload for workload in workloads if workload.role == SERVER]
    if names is not None and len(found) < len(workloads):
        raise ValueError(f"--workload {names}: --veth measures servers, not proxies")
    return found


def with_something_to_do(workloads: Sequence[Workload], engines: Sequence[Engine]) -> list[Engine]:
    """Return the engines that do any of the workloads. Raises ValueError if there is none."""
    found = [e for e in engines if any(workload.is_done_by(e.name) for workload in workloads)]
    if not found:
        rows, columns = (", ".join(each.name for each in named) for named in (workloads, engines))
        raise ValueError(f"{rows}: not for {columns}; --list shows the roles of each engine")
    return found


def show_lists(workloads: Sequence[Workload], engines: Sequence[Engine]) -> None:
    print("workloads:")
    for workload in workloads:
        print(f"  {workload.name:16} {workload.title} ({workload.unit})")
        explained = textwrap.fill(workload.measured, 79)
        print(textwrap.indent(explained, " " * 19))
    print("engines:")
    for engine in engines:
        reason = measure.installed(engine)
        roles = " and ".join(role for role in (SERVER, PROXY) if engine.is_a(role))
        print(f"  {engine.name:16} {engine.title}: {roles}{f' ({reason})' if reason else ''}")


def compare(
    engines: Sequence[Engine],
    workloads: Sequence[Workload],
    quick: bool,
    rounds: int | None,
    net: network.Network,
) -> report.Results:
    """Run every engine on every workload, round after round; return the results."""
    absent = {engine: reason for engine in engines if (reason := measure.installed(engine))}
    for engine, reason in absent.items():
        print(f"{engine.title} is left out: {reason}", file=sys.stderr)
    engines = [engine for engine in engines if engine not in absent]
    results = report.Results(header(engines, absent, quick, net), [])
    bounded = quick and rounds is None
    pairs = [(w, e) for w in workloads for e in engines if w.is_done_by(e.name)]
    backwards = [(w, e) for w in workloads for e in reversed(engines) if w.is_done_by(e.name)]
    wanted = rounds or (MAX_QUICK_ROUNDS if quick else ROUNDS)
    progress = Progress(len(pairs), wanted, quick)
    session = measure.Session(QUICK_TIMEOUT if quick else TIMEOUT, net)
    begun = time.monotonic()
    try:
        for number in range(1, wanted + 1):
            results.header["rounds"] = number
            # Every other round goes backwards: a machine that slows down favours no engine.
            for workload, engine in pairs if number % 2 else backwards:
                if bounded and time.monotonic() - begun > LAST_SECONDS:
                    results.header["unfinished"] = True
                    break
                progress.start(number, workload, engine)
                run = run_once(session, number, workload, engine, quick)
                results.runs.append(run)
                progress.end(run)
            spent = time.monotonic() - begun
            if bounded and spent + 1.1 * spent / number > QUICK_SECONDS:
                break
    finally:
        session.close()
        progress.clear()
    results.header["seconds"] = round(time.monotonic() - begun)
    return results


def run_once(
    session: measure.Session, number: int, workload: Workload, engine: Engine, quick: bool
) -> dict[str, Any]:
    """Do one run; return it as `report.Results` keeps it."""
    run: dict[str, Any] = {"round": number, "workload": workload.name, "engine": engine.name}
    try:
        if session.descriptors < workload.descriptors:
            raise measure.RunFailed(
                f"needs {workload.descriptors} descriptors, the limit is {session.descriptors}: "
                "raise it with ulimit -n"
            )
        run["figures"] = workload.run(session, engine, quick)
    except measure.RunFailed as error:
        run["error"] = str(error)
    if session.complaints:
        # A server that logs errors may have done less than it is measured by.
        complaint = session.complaints[-1].splitlines()[-1]
        session.complaints.clear()
        run["error"] = f"{run.get('error', 'a process wrote to stderr')}: {complaint}"
        run.pop("figures", None)
    return run


def header(
    engines: Sequence[Engine], absent: dict[Engine, str], quick: bool, net: network.Network
) -> dict[str, Any]:
    """Return where and how the engines are compared, as `report.Results` keeps it."""
    return {
        "machine": measure.machine(),
        "python": measure.python(),
        "engines": {
            engine.name: {
                "title": engine.title,
                "version": measure.version(engine),
                "nodelay": engine.nodelay,
            }
            for engine in engines
        },
        "absent": {engine.name: reason for engine, reason in absent.items()},
        "network": net.name,
        "mtu": net.mtu,
        "high": serving.HIGH,
        "low": serving.LOW,
        "backlog": serving.BACKLOG,
        "pinned": bool(measure.split_cores()[0]),
        "quick": quick,
        "rounds": 0,
        "unfinished": False,
    }


class Progress:
    """The progress on stderr: one line that changes on a terminal, else a line for each run."""

    def __init__(self, runs: int, rounds: int, quick: bool) -> None:
        self.runs = runs
        self.rounds = rounds
        self.quick = quick
        self.done = 0
        self.since = 0.0
        self.live = sys.stderr.isatty()
        self.what = ""

    def start(self, number: int, workload: Workload, engine: Engine) -> None:
        self.since = time.monotonic()
        self.done += 1
        place = f"{(self.done - 1) % self.runs + 1}/{self.runs}"
        self.what = f"round {number} of {self.rounds}, {place:>7}: {workload.name}, {engine.title}"
        self.unit = workload.unit_in(self.quick)
        if self.live:
            sys.stderr.write(f"\r\x1b[K{self.what} ...")
            sys.stderr.flush()

    def end(self, run: dict[str, Any]) -> None:
        seconds = time.monotonic() - self.since
        if "error" in run:
            outcome = f"FAILED: {run['error']}"
        else:
            outcome = f"{report.number(run['figures']['main'])} {self.unit}"
        if self.live and "error" not in run:
            return
        start = "\r\x1b[K" if self.live else ""
        print(f"{start}{self.what}: {outcome} ({seconds:.1f} s)", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
