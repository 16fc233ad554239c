"""The workloads: what is asked of a server, how much of it, and what is read off it.

The main figure of a workload is a cost, lower is better: mostly the server's CPU, user and system,
for one unit of work, because that holds on machines where time does not.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.engines import CHECKOUT_MARK, ENGINES, PROXY, SERVER, Engine
from bench.measure import Load, RunFailed, Server, Session, proxy

Figures = dict[str, float]

MOST_LOADS = 3  # processes, where the load can be shared and there are cores for it
SHARED = ("connections", "busy", "amount", "warm")  # the numbers of a load that are divided
QUIET = 0.002  # seconds of CPU in a tenth of a second: a server that has come to rest
SETTLE = 20.0  # seconds that it may take to come to rest
WATCH = 0.5  # seconds for which it is then watched
MB, GB = 1e6, 1e9


class Run(NamedTuple):
    """One workload, done once by one engine."""

    session: Session
    engine: Engine
    app: str
    app_numbers: dict[str, int]
    load: str
    numbers: dict[str, int]
    processes: int

    def server(self) -> Server:
        if self.app == PROXY:
            return proxy(self.session, self.engine)
        return Server(self.session, self.engine, self.app, self.app_numbers)

    def loads(self, server: Server) -> list[Load]:
        shares = shared(self.numbers, self.processes)
        return [Load(self.session, self.load, share, server) for share in shares]


def shared(numbers: dict[str, int], processes: int) -> list[dict[str, int]]:
    """The numbers of each of several processes, which do it all between them."""
    return [
        {
            name: number // processes + (i < number % processes) if name in SHARED else number
            for name, number in numbers.items()
        }
        for i in range(processes)
    ]


class Counted(NamedTuple):
    """What a server has used for the counted part of a load, and what the load has found."""

    cpu: float
    seconds: float
    bytes: int
    grown: int  # bytes of memory
    peak: int
    latencies: list[float]
    direct: list[float]  # latencies of the same without what is measured

    def figures(self, main: float, rate: float) -> Figures:
        found = {
            "main": main,
            "rate": rate / self.seconds,
            "cpu": self.cpu,
            "seconds": self.seconds,
            "bytes": float(self.bytes),
            "peak": self.peak / MB,
        }
        if self.latencies:
            found["p50"] = quantile(self.latencies, 0.50) * 1e3
            found["p99"] = quantile(self.latencies, 0.99) * 1e3
        return found


def quantile(values: Sequence[float], part: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))]


def counted(run: Run) -> Counted:
    with run.server() as server:
        loads = run.loads(server)
        try:
            _gate(loads)
            before, resident = server.cpu(), server.memory()[0]
            _release(loads)
            _gate(loads)
            after, now = server.cpu(), server.memory()[0]
            _release(loads)
            found = [load.outcome() for load in loads]
            peak = server.peak()
            return Counted(
                server.cpu_between(before, after),
                max(each["seconds"] for each in found),
                sum(each["bytes"] for each in found),
                max(now, peak if before is None else 0) - resident,
                peak,
                [value for each in found for value in each.get("latencies", ())],
                [value for each in found for value in each.get("direct", ())],
            )
        finally:
            server.end()  # first, so that it does not spend itself on the ends of connections
            for load in loads:
                load.end()


def _gate(loads: list[Load]) -> None:
    for load in loads:
        load.at_mark()


def _release(loads: list[Load]) -> None:
    for load in loads:
        load.answer()


def per_item(run: Run) -> Figures:
    """Microseconds of CPU for each line, message or connection."""
    seen, amount = counted(run), run.numbers["amount"]
    return seen.figures(seen.cpu * 1e6 / amount, amount)


def per_gigabyte(run: Run) -> Figures:
    """Seconds of CPU for each gigabyte."""
    seen = counted(run)
    return seen.figures(seen.cpu / (seen.bytes / GB), seen.bytes / MB)


def added_latency(run: Run) -> Figures:
    """Microseconds by which a message takes longer than on the direct way; medians."""
    seen, amount = counted(run), run.numbers["amount"]
    direct = quantile(seen.direct, 0.50)
    return {
        **seen.figures((quantile(seen.latencies, 0.50) - direct) * 1e6, amount),
        "direct": direct * 1e3,
        "each": seen.cpu * 1e6 / amount,
    }


def memory_of_idle(run: Run) -> Figures:
    """Bytes of memory for each connection."""
    seen, amount = counted(run), run.numbers["amount"]
    return seen.figures(seen.grown / amount, amount)


def memory_of_stalled(run: Run) -> Figures:
    """Bytes of memory for each connection whose peer does not read, and the CPU of doing nothing.

    The server is given time to write all that it may; then it is watched."""
    with run.server() as server:
        loads = run.loads(server)
        try:
            for _ in range(2):
                _gate(loads)
                resident = server.memory()[0]
                _release(loads)
            _gate(loads)
            _await_rest(server)
            before = server.cpu()
            time.sleep(WATCH)
            after = server.cpu()
            now, peak = server.memory()
            if before is None or after is None:
                peak = now = server.peak()
                before, after = 0.0, float("nan")
            server.end()  # before its peers go: it would go on writing to them
            _release(loads)
            found = loads[0].outcome()
            return {
                "main": (now - resident) / run.numbers["amount"],
                "idle": (after - before) / WATCH * 1e3,
                "rate": run.numbers["amount"] / found["seconds"],
                "peak": peak / MB,
            }
        finally:
            server.end()
            for load in loads:
                load.end()


def _await_rest(server: Server) -> None:
    until = time.monotonic() + SETTLE
    before = server.cpu()
    if before is None:
        time.sleep(2 * WATCH)
        return
    while time.monotonic() < until:
        time.sleep(0.1)
        now = server.cpu()
        assert now is not None
        if now - before < QUIET:
            return
        before = now


def lateness(run: Run) -> Figures:
    """Milliseconds by which a timer is late, 99 of 100 times at the most."""
    with run.server() as server:
        loads = run.loads(server)
        try:
            _gate(loads)
            before = server.cpu()
            _release(loads)
            late = server.result()
            after = server.cpu()
            _release(loads)
            found = [load.outcome() for load in loads]
            received = sum(each["bytes"] for each in found)
            peak = server.peak()
            if len(late) != run.app_numbers["firings"]:
                raise RunFailed(f"{len(late)} of {run.app_numbers['firings']} timers fired")
            return {
                "main": quantile(late, 0.99) * 1e3,
                "p50": quantile(late, 0.50) * 1e3,
                "p99": quantile(late, 0.99) * 1e3,
                "max": max(late) * 1e3,
                "rate": received / MB / max(each["seconds"] for each in found),
                "bytes": float(received),
                "cpu": server.cpu_between(before, after),
                "peak": peak / MB,
            }
        finally:
            server.end()
            for load in loads:
                load.end()


def waits_of_newcomers(run: Run) -> Figures:
    """Milliseconds that a newcomer waits at most until it has all that it asked for."""
    with run.server() as server:
        loads = run.loads(server)
        try:
            _gate(loads)
            before = server.cpu()
            _release(loads)
            _gate(loads)
            late, after, peak = server.lateness(), server.cpu(), server.peak()
            cpu = server.cpu_between(before, after)
            server.end()  # before its peers go: it would go on writing to them
            _release(loads)
            found = loads[0].outcome()
            waits = found["latencies"]
            return {
                "main": max(waits) * 1e3,
                "p50": quantile(waits, 0.50) * 1e3,
                "late": late * 1e3,
                "unserved": found["unserved"],
                "cpu": cpu,
                "seconds": found["seconds"],
                "bytes": found["bytes"],
                "peak": peak / MB,
            }
        finally:
            server.end()
            for load in loads:
                load.end()


def own_timers(run: Run) -> Figures:
    """Microseconds of CPU for each call that was asked for, made or cancelled."""
    with run.server() as server:
        cpu, fired = server.result()
        amount = run.app_numbers["count"]
        if fired != amount - amount // 2:
            raise RunFailed(f"{fired:.0f} of {amount - amount // 2} calls were made")
        return {"main": cpu * 1e6 / amount, "cpu": cpu, "peak": server.peak() / MB}


def start_up(run: Run) -> Figures:
    """Milliseconds of CPU until the first connection has been accepted; the median of several
    starts after a first one, which finds nothing in the system's caches."""
    _start_once(run)
    starts = [_start_once(run) for _ in range(run.numbers["starts"])]
    return {name: statistics.median(each[name] for each in starts) for name in starts[0]}


def _start_once(run: Run) -> Figures:
    since = time.perf_counter()
    with run.server() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(run.session.timeout)
        sock.sendall(b"hello")
        if sock.recv(64) != b"hello":
            raise RunFailed("the first message did not come back")
        seconds = time.perf_counter() - since
        peak = server.peak()
        cpu = server.cpu()
        if cpu is None:
            server.end()
            cpu = server.ended.ru_utime + server.ended.ru_stime
        return {"main": cpu * 1e3, "seconds": seconds, "wall": seconds * 1e3, "peak": peak / MB}


class Workload(NamedTuple):
    """One row of the comparison."""

    name: str
    title: str
    unit: str  # of the main figure
    columns: tuple[str, ...]  # the other figures that are shown: keys of COLUMNS
    measured: str
    server: str
    why: str
    measure: Callable[[Run], Figures]
    app: str
    load: str = ""
    full: dict[str, int] = {}
    quick: dict[str, int] = {}
    app_full: dict[str, int] = {}
    app_quick: dict[str, int] = {}
    descriptors: int = 64  # that the server and the load each need
    processes: int = 1
    without: tuple[str, ...] = ()  # engines that have nothing of their own for this

    @property
    def role(self) -> str:
        return PROXY if self.app == PROXY else SERVER

    def is_done_by(self, name: str) -> bool:
        name = name.partition(CHECKOUT_MARK)[0]
        return name not in self.without and any(e.name == name for e in doers(self.role))

    def run(self, session: Session, engine: Engine, quick: bool) -> Figures:
        cores = max(1, len(session.load_cores))
        return self.measure(
            Run(
                session,
                engine,
                self.app,
                self.app_quick if quick else self.app_full,
                self.load,
                self.quick if quick else self.full,
                min(self.processes, cores),
            )
        )


def doers(role: str) -> list[Engine]:
    """Those engines that can be a server, or a proxy."""
    return [engine for engine in ENGINES if engine.is_a(role)]


# key of a figure -> heading, and format
COLUMNS = {
    "rate": ("throughput", "{:,.0f}"),
    "each": ("CPU µs each", "{:.1f}"),
    "direct": ("direct p50 ms", "{:.3f}"),
    "p50": ("p50 ms", "{:.3f}"),
    "p99": ("p99 ms", "{:.3f}"),
    "max": ("max ms", "{:.3f}"),
    "late": ("timer late ms, max", "{:,.1f}"),
    "unserved": ("not served", "{:.0f}"),
    "idle": ("CPU ms/s at rest", "{:.2f}"),
    "wall": ("wall ms", "{:.0f}"),
    "peak": ("peak MB", "{:.1f}"),
    "bytes": ("bytes checked", "{:,.0f}"),
}

_COUNTED = ("rate", "peak", "bytes")
_TIMED = ("rate", "p50", "p99", "peak", "bytes")


def _echo(connections: int, amount: int, quick: int, **also: Any) -> Workload:
    busy = also.pop("busy", connections)
    numbers = {"connections": connections, "busy": busy, "warm": busy + 1000}
    many = connections >= 100
    return Workload(
        also.get("name", f"echo-{connections}"),
        also.get("title", f"Echo, {connections:,} connection{'s' * (connections > 1)}"),
        "µs of CPU a message",
        _TIMED,
        "The server's CPU for each message of 64 bytes that comes in and goes out again.",
        "Every connection sends its next message when the last one has come back.",
        also["why"],
        per_item,
        "echo",
        "echo",
        {**numbers, "amount": amount},
        {**numbers, "amount": quick},
        descriptors=connections + 100,
        processes=MOST_LOADS if many else 1,
    )


_PASSES = "It passes on what it gets, in both directions."


def _passed(connections: int, why: str) -> Workload:
    return Workload(
        f"proxy-{connections}",
        f"2 GB through a proxy, {connections} connection{'s' * (connections > 1)}",
        "s of CPU a GB",
        _COUNTED,
        "The proxy's CPU for each gigabyte that it passes on, from the target to the clients.",
        _PASSES,
        why,
        per_gigabyte,
        PROXY,
        "through",
        {"connections": connections, "amount": 2_000_000_000, "warm": 50_000_000},
        {"connections": connections, "amount": 400_000_000, "warm": 20_000_000},
        descriptors=2 * connections + 200,
    )


WORKLOADS: Sequence[Workload] = (
    Workload(
        "integers",
        "A million integers",
        "µs of CPU a line",
        _COUNTED,
        "The server's CPU for each line, of a million, as the client asks for them.",
        "A push producer makes a random number and writes it as a line of its own, pausing and "
        "resuming as it is told.",
        "This is the program that the project began from. Making the number costs about as much "
        "as the rest together, on every engine.",
        per_item,
        "integers",
        "lines",
        {"amount": 1_000_000, "warm": 20_000},
        {"amount": 50_000, "warm": 5_000},
    ),
    Workload(
        "lines",
        "A million lines",
        "µs of CPU a line",
        _COUNTED,
        "The same with a constant line of 6 bytes: the engine's own cost of a small write.",
        "The loop of the integers, without the making of a number.",
        "Programs write in small pieces. Who makes a system call for each of them pays for it.",
        per_item,
        "lines",
        "lines",
        {"amount": 1_000_000, "warm": 20_000},
        {"amount": 50_000, "warm": 5_000},
    ),
    _echo(
        1,
        20_000,
        3_000,
        why="One message at a time: every one is a wake-up, and the latency is all there is.",
    ),
    _echo(100, 300_000, 20_000, why="A busy server of ordinary size."),
    _echo(1_000, 300_000, 20_000, why="Many are ready in each pass: the cost of dispatching."),
    _echo(10_000, 300_000, 20_000, why="Does a message cost more when there are many clients?"),
    _echo(
        10_000,
        300_000,
        20_000,
        busy=100,
        name="mostly-idle",
        title="Mostly idle: 100 busy among 10,000",
        why="Most connections of most servers are silent. They should cost nothing.",
    ),
    Workload(
        "bulk-out-push",
        "2 GB out, pushed",
        "s of CPU a GB",
        _COUNTED,
        "The server's CPU for each gigabyte that it sends, in writes of 64 KiB.",
        "A push producer writes until it is paused, and goes on when it is resumed.",
        "Files, backups, video: large writes, for which every copy shows.",
        per_gigabyte,
        "push",
        "chunks",
        {"amount": 32_768, "warm": 512, "size": 65_536},
        {"amount": 3_072, "warm": 64, "size": 65_536},
    ),
    Workload(
        "bulk-out-pull",
        "2 GB out, pulled",
        "s of CPU a GB",
        _COUNTED,
        "The same, from a producer that writes one chunk whenever it is asked.",
        "A pull producer. The asyncio engines have none: they write one chunk for each pass of "
        "the loop, unless paused. Streams write as before, so they are left out.",
        "The simplest way to send a file in Twisted's world.",
        per_gigabyte,
        "pull",
        "chunks",
        {"amount": 32_768, "warm": 512, "size": 65_536},
        {"amount": 3_072, "warm": 64, "size": 65_536},
        without=("streams",),
    ),
    Workload(
        "bulk-in",
        "2 GB in",
        "s of CPU a GB",
        _COUNTED,
        "The server's CPU for each gigabyte that it receives, on one connection.",
        "It counts the bytes, and says so after each 64 MB.",
        "Uploads. How large the reads are decides it.",
        per_gigabyte,
        "sink",
        "upload",
        {"amount": 32, "warm": 1, "unit": 64_000_000},
        {"amount": 4, "warm": 1, "unit": 50_000_000},
        {"unit": 64_000_000},
        {"unit": 50_000_000},
    ),
    Workload(
        "stream-back",
        "2 GB in and out, 10 connections",
        "s of CPU a GB",
        _COUNTED,
        "The server's CPU for each gigabyte that comes in and goes out again.",
        "It writes what it receives, and reads no more from a client that does not read.",
        "What a proxy does all day, with back-pressure from one side to the other.",
        per_gigabyte,
        "back",
        "back",
        {"connections": 10, "amount": 2_000_000_000, "warm": 20_000_000},
        {"connections": 10, "amount": 200_000_000, "warm": 10_000_000},
    ),
    Workload(
        "churn",
        "Connect, one echo, close",
        "µs of CPU a connection",
        _TIMED,
        "The server's CPU for each connection: accepted, one message echoed, closed by the client.",
        "It echoes. Sixty-four clients come at a time.",
        "Short-lived connections: what it costs to build and to drop one.",
        per_item,
        "echo",
        "churn",
        {"amount": 20_000, "warm": 500, "batch": 64},
        {"amount": 2_000, "warm": 200, "batch": 64},
        descriptors=300,
        processes=MOST_LOADS,
    ),
    Workload(
        "stalled",
        "1,000 readers that stop",
        "bytes a connection",
        ("idle", "peak"),
        "The server's memory for each of 1,000 clients that ask for a thousand million lines of "
        "1,024 bytes, each a new one, and then do not read; and its CPU when it has come to rest.",
        "It writes until it is paused, and has to leave it at that.",
        "One client that stops reading must cost neither memory without end nor any CPU.",
        memory_of_stalled,
        "numbered",
        "stalled",
        {"amount": 1_000, "warm": 10},
        {"amount": 1_000, "warm": 10},
        {"length": 1_024},
        {"length": 1_024},
        descriptors=1_100,
    ),
    Workload(
        "greedy",
        "A newcomer beside 1,000 greedy clients",
        "ms, longest wait",
        ("p50", "late", "unserved", "peak"),
        "How long a newcomer waits for 1,000 random integers, from its connect() to the end, while "
        "1,000 clients (quick: 200) ask for a thousand million each and read nothing. Ten "
        "newcomers come one after the other. All together have 20 seconds (quick: 3); a wait that "
        "is cut off there counts as what it was by then.",
        "The program of the integers, and a timer of 10 ms that notes how late it is.",
        "Clients that want everything must not keep others from what little they want.",
        waits_of_newcomers,
        "greedy",
        "greedy",
        {"connections": 1_000, "newcomers": 10, "amount": 1_000, "limit": 20},
        {"connections": 200, "newcomers": 5, "amount": 1_000, "limit": 3},
        descriptors=1_200,
    ),
    Workload(
        "timer",
        "A 10 ms timer under bulk load",
        "ms late, p99",
        ("p50", "p99", "max", "rate", "peak", "bytes"),
        "How late a repeating timer fires while ten connections stream back all they can.",
        "As for the stream back; the timer notes how late it is, each time.",
        "A loop that takes too much of one connection at once keeps everybody else waiting.",
        lateness,
        "timer",
        "back_until_told",
        {"connections": 10},
        {"connections": 10},
        {"firings": 300},
        {"firings": 40},
    ),
    Workload(
        "timers",
        "100,000 timers, half of them cancelled",
        "µs of CPU a timer",
        ("peak",),
        "The server's CPU for each call that is asked for, and then made or cancelled.",
        "It asks for 100,000 calls within half a second, and cancels every other one. raw keeps a "
        "heap. Streams use asyncio's calls, so they are left out.",
        "Every connection of a careful server has a timer that almost never fires.",
        own_timers,
        "timers",
        app_full={"count": 100_000},
        app_quick={"count": 50_000},
        without=("streams",),
    ),
    Workload(
        "idle-memory",
        "Memory of an idle connection",
        "bytes a connection",
        ("rate", "peak"),
        "The server's resident memory for each connection, without the kernel's part.",
        "It has echoed one message of each.",
        "What decides how many clients fit.",
        memory_of_idle,
        "echo",
        "idle",
        {"amount": 10_000, "warm": 200},
        {"amount": 5_000, "warm": 200},
        descriptors=10_300,
    ),
    Workload(
        "start-up",
        "Start, until the first connection",
        "ms of CPU",
        ("wall", "peak"),
        "The CPU, wall time and memory of a server from its start until it has accepted its first "
        "connection and answered it. All modules have been compiled before.",
        "Python starts, imports the engine, listens, accepts and echoes.",
        "Command-line tools and tests start often.",
        start_up,
        "echo",
        full={"starts": 9},
        quick={"starts": 2},
    ),
    _passed(
        1,
        why="A download through a proxy: how many times the bytes are copied, and how many are "
        "moved at a time.",
    ),
    _passed(100, why="The same, when many take turns."),
    Workload(
        "proxy-echo",
        "Echo through a proxy",
        "µs added, p50",
        ("each", "direct", "p50", "p99", "peak", "bytes"),
        "By how much the way there and back of 64 bytes takes longer through the proxy than on a "
        "connection without one; both take turns, a hundred messages each.",
        _PASSES,
        "What a proxy costs those who wait for an answer.",
        added_latency,
        PROXY,
        "through_echo",
        {"amount": 10_000, "warm": 500},
        {"amount": 2_000, "warm": 200},
    ),
    Workload(
        "proxy-churn",
        "Connect through a proxy, one echo, close",
        "µs of CPU a connection",
        _TIMED,
        "The proxy's CPU for each connection, and for that to the target: made, one message passed "
        "on and back, closed by the client, until the target has heard of that.",
        f"{_PASSES} Sixteen clients come at a time.",
        "Short-lived connections cost a proxy twice.",
        per_item,
        PROXY,
        "through_churn",
        {"amount": 5_000, "warm": 200, "batch": 16},
        {"amount": 600, "warm": 50, "batch": 16},
    ),
)
