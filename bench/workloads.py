"""The workloads: what a server has to do, how much of it, and which figures are taken.

The main figure of a workload is a cost: lower is better. Mostly it is the server's CPU time, user
and system, for one unit of work. On shared machines CPU time is steadier than wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.engines import CHECKOUT_MARK, ENGINES, PROXY, SERVER, Engine
from bench.measure import Load, RunFailed, Server, Session, proxy

Figures = dict[str, float]

CPU, LATENCY, MEMORY = KINDS = "CPU", "latency", "memory"  # of a figure
MAX_LOADS = 3  # processes that share a load, if there are cores for them
SHARED = ("connections", "busy", "amount", "warm")  # the numbers of a load that are divided
QUIET = 0.002  # CPU seconds in a tenth of a second: a server that uses less is at rest
SETTLE = 20.0  # seconds in which a server must come to rest
WATCH = 0.5  # seconds for which a server at rest is watched
FEWEST_FOR_P99 = 100  # with fewer values, p99 is the maximum
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
        """Start the server, or the proxy; return it when it is ready."""
        if self.app == PROXY:
            return proxy(self.session, self.engine)
        return Server(self.session, self.engine, self.app, self.app_numbers)

    def loads(self, server: Server) -> list[Load]:
        """Start the load generators of `server`, each with its share."""
        shares = shared(self.numbers, self.processes)
        return [Load(self.session, self.load, share, server) for share in shares]


def shared(numbers: dict[str, int], processes: int) -> list[dict[str, int]]:
    """Divide a load among processes: return the numbers of each."""
    return [
        {
            name: number // processes + (i < number % processes) if name in SHARED else number
            for name, number in numbers.items()
        }
        for i in range(processes)
    ]


class Counted(NamedTuple):
    """What a server used for the counted part of a load, and what the load measured."""

    cpu: float
    seconds: float
    bytes: int
    grown: int  # bytes of memory
    peak: int
    latencies: list[float]
    direct: list[float]  # latencies without the proxy

    def figures(self, main: float, rate: float) -> Figures:
        """Return all figures, with `main` as the main one and `rate` units in all."""
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
    """Return the value that `part` of the values (0 to 1) are below."""
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))]


def counted(run: Run) -> Counted:
    """Warm the server up, and let the load do its counted part. Return what was measured."""
    with run.server() as server:
        loads = run.loads(server)
        try:
            _await_marks(loads)
            before, resident = server.cpu(), server.memory()[0]
            _release(loads)
            _await_marks(loads)
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
            server.end()  # first: then it spends no CPU on the ends of its connections
            for load in loads:
                load.end()


def _await_marks(loads: list[Load]) -> None:
    for load in loads:
        load.await_mark()


def _release(loads: list[Load]) -> None:
    for load in loads:
        load.answer()


def per_item(run: Run) -> Figures:
    """Measure the microseconds of CPU for each line, message or connection."""
    seen, amount = counted(run), run.numbers["amount"]
    return seen.figures(seen.cpu * 1e6 / amount, amount)


def per_gigabyte(run: Run) -> Figures:
    """Measure the seconds of CPU for each gigabyte."""
    seen = counted(run)
    return seen.figures(seen.cpu / (seen.bytes / GB), seen.bytes / MB)


def added_latency(run: Run) -> Figures:
    """Measure the microseconds that a proxy adds to a round trip: the difference of two medians."""
    seen, amount = counted(run), run.numbers["amount"]
    direct = quantile(seen.direct, 0.50)
    return {
        **seen.figures((quantile(seen.latencies, 0.50) - direct) * 1e6, amount),
        "direct": direct * 1e3,
        "each": seen.cpu * 1e6 / amount,
    }


def memory_of_idle(run: Run) -> Figures:
    """Measure the bytes of memory for each connection."""
    seen, amount = counted(run), run.numbers["amount"]
    return seen.figures(seen.grown / amount, amount)


def memory_of_stalled(run: Run) -> Figures:
    """Measure the bytes of memory for each connection whose peer does not read, and CPU at rest.

    The server first gets the time to write all that it may. Then it is watched."""
    with run.server() as server:
        loads = run.loads(server)
        try:
            for _ in range(2):
                _await_marks(loads)
                resident = server.memory()[0]
                _release(loads)
            _await_marks(loads)
            _await_rest(server)
            before = server.cpu()
            time.sleep(WATCH)
            after = server.cpu()
            now, peak = server.memory()
            if before is None or after is None:
                peak = now = server.peak()
                before, after = 0.0, float("nan")
            server.end()  # before the peers end: the server would go on writing to them
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
    """Measure by how many milliseconds a timer fires late: p99, or p50 if it fires seldom."""
    firings = run.app_numbers["firings"]
    with run.server() as server:
        loads = run.loads(server)
        try:
            _await_marks(loads)
            before = server.cpu()
            _release(loads)
            late = server.result()
            after = server.cpu()
            _release(loads)
            found = [load.outcome() for load in loads]
            received = sum(each["bytes"] for each in found)
            peak = server.peak()
            if len(late) != firings:
                raise RunFailed(f"{len(late)} of {firings} timers fired")
            figures = {"main": quantile(late, 0.50) * 1e3}
            if firings >= FEWEST_FOR_P99:
                figures = {"main": quantile(late, 0.99) * 1e3, "p50": figures["main"]}
            return {
                **figures,
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


def waits_of_new_clients(run: Run) -> Figures:
    """Measure the longest wait, in milliseconds, of a new client for all that it asked for."""
    with run.server() as server:
        loads = run.loads(server)
        try:
            _await_marks(loads)
            before = server.cpu()
            _release(loads)
            _await_marks(loads)
            late, after, peak = server.lateness(), server.cpu(), server.peak()
            cpu = server.cpu_between(before, after)
            server.end()  # before the peers end: the server would go on writing to them
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
    """Measure the microseconds of CPU for each delayed call that was added."""
    with run.server() as server:
        cpu, fired = server.result()
        amount = run.app_numbers["count"]
        if fired != amount - amount // 2:
            raise RunFailed(f"{fired:.0f} of {amount - amount // 2} calls were made")
        return {"main": cpu * 1e6 / amount, "cpu": cpu, "peak": server.peak() / MB}


def start_up(run: Run) -> Figures:
    """Measure the milliseconds of CPU until the first connection is accepted: the median.

    One start before those that count fills the system's caches."""
    _start_once(run)
    starts = [_start_once(run) for _ in range(run.numbers["starts"])]
    return {name: statistics.median(each[name] for each in starts) for name in starts[0]}


def _start_once(run: Run) -> Figures:
    since = time.perf_counter()
    with run.server() as server, run.session.connect(server.port) as sock:
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
    measured: str  # what the main figure is, for --list
    measure: Callable[[Run], Figures]
    app: str
    load: str = ""
    full: dict[str, int] = {}
    quick: dict[str, int] = {}
    app_full: dict[str, int] = {}
    app_quick: dict[str, int] = {}
    kind: str = CPU  # of the main figure
    quick_unit: str = ""  # of the main figure with --quick, if that differs
    descriptors: int = 64  # that the server and the load each need
    processes: int = 1
    without: tuple[str, ...] = ()  # engines that have nothing of their own for this

    @property
    def role(self) -> str:
        return PROXY if self.app == PROXY else SERVER

    def is_done_by(self, name: str) -> bool:
        name = name.partition(CHECKOUT_MARK)[0]
        return name not in self.without and any(e.name == name for e in doers(self.role))

    def unit_in(self, quick: bool) -> str:
        """Return the unit of the main figure in a quick run, or in a full one."""
        return (quick and self.quick_unit) or self.unit

    def run(self, session: Session, engine: Engine, quick: bool) -> Figures:
        """Have the engine do this workload once; return the figures.

        Raises RunFailed if the run does not count."""
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
    """Return the engines that can be a server, or a proxy."""
    return [engine for engine in ENGINES if engine.is_a(role)]


class Column(NamedTuple):
    """How one figure is shown."""

    heading: str
    form: str
    kind: str | None = None  # the table that the figure belongs to; None: the main figure's
    spread: bool = True  # show the minimum and the maximum beside the median


COLUMNS = {
    "rate": Column("throughput", "{:,.0f}"),
    "each": Column("CPU µs each", "{:.1f}", CPU),
    "direct": Column("direct p50 ms", "{:.3f}", LATENCY),
    "p50": Column("p50 ms", "{:.3f}", LATENCY),
    "p99": Column("p99 ms", "{:.3f}", LATENCY),
    "max": Column("max ms", "{:.3f}", LATENCY),
    "late": Column("timer late ms, max", "{:,.1f}", LATENCY),
    "unserved": Column("not served", "{:.0f}", LATENCY, spread=False),
    "idle": Column("CPU ms/s at rest", "{:.2f}", CPU),
    "wall": Column("wall ms", "{:.0f}", LATENCY),
    "peak": Column("peak MB", "{:.1f}", MEMORY),
    "bytes": Column("bytes checked", "{:,.0f}", spread=False),
}

_COUNTED = ("rate", "peak", "bytes")
_TIMED = ("rate", "p50", "p99", "peak", "bytes")


def _echo(connections: int, **other: Any) -> Workload:
    busy = other.get("busy", connections)
    full, quick = (20_000, 3_000) if connections == 1 else (300_000, 20_000)
    numbers = {"connections": connections, "busy": busy, "warm": busy + 1000}
    return Workload(
        other.get("name", f"echo-{connections}"),
        other.get("title", f"Echo, {connections:,} connection{'s' * (connections > 1)}"),
        "µs of CPU a message",
        _TIMED,
        "The server's CPU for each message of 64 bytes that it receives and sends back. Each "
        "connection sends its next message when the last one has come back.",
        per_item,
        "echo",
        "echo",
        {**numbers, "amount": full},
        {**numbers, "amount": quick},
        descriptors=connections + 100,
        processes=MAX_LOADS if connections >= 100 else 1,
    )


def _passed(connections: int) -> Workload:
    return Workload(
        f"proxy-{connections}",
        f"2 GB through a proxy, {connections} connection{'s' * (connections > 1)}",
        "s of CPU a GB",
        _COUNTED,
        "The proxy's CPU for each gigabyte that it passes on from the target to the clients.",
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
        "The server's CPU for each line. A push producer makes random numbers and writes each as "
        "a line of its own. Making the number costs about as much as all the rest.",
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
        "Like `integers`, with a constant line of 6 bytes: the engine's own cost of a small write.",
        per_item,
        "lines",
        "lines",
        {"amount": 1_000_000, "warm": 20_000},
        {"amount": 50_000, "warm": 5_000},
    ),
    _echo(1),
    _echo(100),
    _echo(1_000),
    _echo(10_000),
    _echo(10_000, busy=100, name="mostly-idle", title="Mostly idle: 100 busy among 10,000"),
    Workload(
        "bulk-out-push",
        "2 GB out, pushed",
        "s of CPU a GB",
        _COUNTED,
        "The server's CPU for each gigabyte that it sends in writes of 64 KiB. A push producer "
        "writes until it is paused, and goes on when it is resumed.",
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
        "Like `bulk-out-push`, with a pull producer, which writes one chunk whenever it is asked. "
        "asyncio has no pull producers: there the server writes one chunk in each iteration of "
        "the loop, unless paused.",
        per_gigabyte,
        "pull",
        "chunks",
        {"amount": 32_768, "warm": 512, "size": 65_536},
        {"amount": 3_072, "warm": 64, "size": 65_536},
        without=("streams", "coroutines"),  # they would do the same as in bulk-out-push
    ),
    Workload(
        "tls-echo-100",
        "Echo with TLS, 100 connections",
        "µs of CPU a message",
        _TIMED,
        "Like `echo-100`, with TLS. The handshakes are not counted.",
        per_item,
        "tls_echo",
        "tls-echo",
        {"connections": 100, "busy": 100, "warm": 1_100, "amount": 200_000},
        {"connections": 100, "busy": 100, "warm": 1_100, "amount": 20_000},
        descriptors=200,
        processes=MAX_LOADS,
        without=("streams", "raw"),
    ),
    Workload(
        "tls-bulk-out",
        "1 GB out with TLS, pushed",
        "s of CPU a GB",
        _COUNTED,
        "Like `bulk-out-push`, with TLS.",
        per_gigabyte,
        "tls_push",
        "tls-chunks",
        {"amount": 16_384, "warm": 512, "size": 65_536},
        {"amount": 3_072, "warm": 64, "size": 65_536},
        without=("streams", "raw"),
    ),
    Workload(
        "bulk-in",
        "2 GB in",
        "s of CPU a GB",
        _COUNTED,
        "The server's CPU for each gigabyte that it receives on one connection. The server "
        "counts the bytes, and answers after each 64 MB.",
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
        "The server's CPU for each gigabyte that it receives and sends back. It stops reading "
        "from a client that does not read.",
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
        "The server's CPU for each connection: accepted, one message echoed, closed by the "
        "client. 64 clients connect at a time.",
        per_item,
        "echo",
        "churn",
        {"amount": 20_000, "warm": 500, "batch": 64},
        {"amount": 2_000, "warm": 200, "batch": 64},
        descriptors=300,
        processes=MAX_LOADS,
    ),
    Workload(
        "stalled",
        "1,000 readers that stop",
        "bytes a connection",
        ("idle", "peak"),
        "The server's memory for each of 1,000 clients, and its CPU at rest. Each client asks for "
        "a thousand million lines of 1,024 bytes, and then does not read. Each line is a new "
        "object.",
        memory_of_stalled,
        "numbered",
        "stalled",
        {"amount": 1_000, "warm": 10},
        {"amount": 1_000, "warm": 10},
        {"length": 1_024},
        {"length": 1_024},
        kind=MEMORY,
        descriptors=1_100,
    ),
    Workload(
        "greedy",
        "A new client beside 1,000 greedy clients",
        "ms, longest wait",
        ("p50", "late", "unserved", "peak"),
        "How long a new client waits for 1,000 random integers, from its connect() to the end. "
        "Meanwhile 1,000 clients (quick: 200) ask for a thousand million each and read nothing. "
        "Ten new clients (quick: 5) come one after the other. All of them together have 20 "
        "seconds (quick: 3). A wait that is not over by then counts with its length so far.",
        waits_of_new_clients,
        "greedy",
        "greedy",
        {"connections": 1_000, "clients": 10, "amount": 1_000, "limit": 20},
        {"connections": 200, "clients": 5, "amount": 1_000, "limit": 3},
        kind=LATENCY,
        descriptors=1_200,
    ),
    Workload(
        "timer",
        "A 10 ms timer under bulk load",
        "ms late, p99",
        ("p50", "max", "rate", "peak", "bytes"),
        "How late a repeating timer fires while ten connections stream back all they can. "
        "(quick: p50, because the timer fires only 40 times.)",
        lateness,
        "timer",
        "back_until_stopped",
        {"connections": 10},
        {"connections": 10},
        {"firings": 300},
        {"firings": 40},
        kind=LATENCY,
        quick_unit="ms late, p50",
    ),
    Workload(
        "timers",
        "100,000 timers, half of them cancelled",
        "µs of CPU a timer",
        ("peak",),
        "The server's CPU for each delayed call that is added and then made or cancelled. The "
        "server adds 100,000 calls within half a second, and cancels every other one. raw keeps "
        "a heap.",
        own_timers,
        "timers",
        app_full={"count": 100_000},
        app_quick={"count": 50_000},
        without=("streams", "coroutines"),  # they would use asyncio's calls
    ),
    Workload(
        "idle-memory",
        "Memory of an idle connection",
        "bytes a connection",
        ("rate", "peak"),
        "The server's resident memory for each connection, without the kernel's part. One message "
        "has been echoed on each connection.",
        memory_of_idle,
        "echo",
        "idle",
        {"amount": 10_000, "warm": 200},
        {"amount": 5_000, "warm": 200},
        kind=MEMORY,
        descriptors=10_300,
    ),
    Workload(
        "start-up",
        "Start, until the first connection",
        "ms of CPU",
        ("wall", "peak"),
        "The CPU, wall time and memory of a server from its start until it has accepted its first "
        "connection and answered it. All modules have been compiled before.",
        start_up,
        "echo",
        full={"starts": 9},
        quick={"starts": 2},
    ),
    _passed(1),
    _passed(100),
    Workload(
        "proxy-echo",
        "Echo through a proxy",
        "µs added, p50",
        ("each", "direct", "p50", "p99", "peak", "bytes"),
        "How much longer a round trip of 64 bytes takes through the proxy than without it. "
        "Both ways take turns, with 100 messages each.",
        added_latency,
        PROXY,
        "through_echo",
        {"amount": 10_000, "warm": 500},
        {"amount": 2_000, "warm": 200},
        kind=LATENCY,
    ),
    Workload(
        "proxy-churn",
        "Connect through a proxy, one echo, close",
        "µs of CPU a connection",
        _TIMED,
        "The proxy's CPU for each connection and for the one to the target: both made, one "
        "message passed on and back, closed by the client, until the target sees the end. 16 "
        "clients connect at a time.",
        per_item,
        PROXY,
        "through_churn",
        {"amount": 5_000, "warm": 200, "batch": 16},
        {"amount": 600, "warm": 50, "batch": 16},
    ),
)
