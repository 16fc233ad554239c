"""`python -m bench.workers`: what two workers can serve, compared with one process.

The clients run on the same cores as the servers, and cost more CPU time than these. A server would
wait for them most of the time. So the server is stopped (SIGSTOP) while some hundred clients
connect or send, and goes on with all of that at once, as it would if it were saturated.

Two figures are compared:

- capacity: the number served, divided by the CPU time of the busiest process of the server. That
  many can be served in a second in which each process has a core. It counts how evenly the kernel
  distributes the clients, and what it costs to share them. Other programs hardly change it.
- speed: the number served, divided by the time until the last client has its answer. Clients and
  other programs take their part of the cores, so this figure needs a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from bench import measure

WORKERS = 2
CLIENTS = 800  # at a time: fewer than a listening queue holds
ROUNDS = 5
BURSTS = 10  # in one run
MESSAGE = b"abcdefg\n" * 8
SETTLE_SECONDS = 0.05  # without CPU time, after which a server has nothing left to do


class Service(measure.Server):
    """`minireactor serve` or `proxy`, with all its processes."""

    def __init__(self, session: measure.Session, workers: int, name: str, *options: str) -> None:
        with socket.create_server((measure.HOST, 0)) as free:
            self.port = free.getsockname()[1]
        place = ["--port", str(self.port)] if name == "serve" else [str(self.port)]
        app = ["echo"] if name == "serve" else []
        command = ["minireactor", name, *app, *place, *options, "--workers", str(workers), "-q"]
        measure.Child.__init__(self, session, [sys.executable, "-m", *command], set(), None)
        try:
            self._wait(1 if workers == 1 else workers + 1)  # with the parent
        except BaseException:
            self.end()
            raise

    def _wait(self, processes: int) -> None:
        while time.monotonic() < self.deadline:
            if len(self.pids()) == processes:
                try:
                    with connect(self.port) as sock:
                        exchange([sock])
                        return
                except OSError:
                    pass
            time.sleep(0.01)
        raise measure.RunFailed("the server did not start")

    def pids(self) -> list[int]:
        return measure.pids_of_session(self.process.pid)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep all processes stopped inside the `with` block."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in self.pids():
                os.kill(pid, signal.SIGCONT)

    def clocks(self) -> dict[int, float]:
        """Return the CPU seconds of each process until now, once all of them have settled."""
        before: dict[int, float] = {}
        while True:
            now = {pid: measure.cpu_clock(pid) or 0.0 for pid in self.pids()}
            if now == before:
                return now
            before = now
            time.sleep(SETTLE_SECONDS)


class Result(NamedTuple):
    """What one run has used. cpu: seconds of each process of the server, the busiest first."""

    served: int
    seconds: float
    cpu: list[float]

    @property
    def capacity(self) -> float:
        return self.served / self.cpu[0]

    @property
    def speed(self) -> float:
        return self.served / self.seconds


# What clients do. Each function returns how long the clients have waited.


def connect(port: int) -> socket.socket:
    return socket.create_connection((measure.HOST, port), timeout=30)


def exchange(socks: Sequence[socket.socket]) -> None:
    """Send a message on each connection, and receive its echo. Raises OSError if it is wrong."""
    for sock in socks:
        sock.sendall(MESSAGE)
    receive(socks)


def receive(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        if sock.recv(len(MESSAGE), socket.MSG_WAITALL) != MESSAGE:
            raise OSError("the echo is not what was sent")


def echo(service: Service, bursts: int) -> float:
    """Echo messages on connections that are open already."""
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(service.port)) for _ in range(CLIENTS)]
        exchange(socks)
        return sum(_echo_once(service, socks) for _ in range(bursts))


def _echo_once(service: Service, socks: Sequence[socket.socket]) -> float:
    with service.stopped():
        for sock in socks:
            sock.sendall(MESSAGE)
        since = time.perf_counter()
    receive(socks)
    return time.perf_counter() - since


def churn(service: Service, bursts: int) -> float:
    """Open connections that live for one message and its echo."""
    return sum(_churn_once(service) for _ in range(bursts))


def _churn_once(service: Service) -> float:
    with ExitStack() as stack:
        with service.stopped():
            socks = [stack.enter_context(connect(service.port)) for _ in range(CLIENTS)]
            for sock in socks:
                sock.sendall(MESSAGE)
            since = time.perf_counter()
        receive(socks)
        seconds = time.perf_counter() - since
        with service.stopped():
            stack.close()
            since = time.perf_counter()
    return seconds


LOADS: tuple[tuple[str, str, Callable[[Service, int], float]], ...] = (
    ("echo", "serve", echo),
    ("churn", "serve", churn),
    ("proxied echo", "proxy", echo),
    ("proxied churn", "proxy", churn),
)


def run(
    session: measure.Session,
    name: str,
    load: Callable[[Service, int], float],
    workers: int,
    bursts: int,
) -> Result:
    """Run one load once, after a warm-up. Raises RunFailed."""
    with ExitStack() as stack:
        options: list[str] = []
        if name == "proxy":
            target = Service(session, WORKERS, "serve")
            stack.callback(target.end)
            options.append(str(target.port))
        service = Service(session, workers, name, *options)
        stack.callback(service.end)
        load(service, 1)
        before = service.clocks()
        seconds = load(service, bursts)
        after = service.clocks()
    cpu = sorted((after[pid] - before[pid] for pid in after), reverse=True)
    return Result(CLIENTS * bursts, seconds, cpu)


HEAD = (
    "load",
    f"capacity of {WORKERS} workers to 1 process",
    "speed to 1 process",
    "capacity of 1 process, a second",
    "the busier worker's share",
    "CPU of all processes to 1 process",
)


def row(title: str, pairs: Sequence[tuple[Result, Result]]) -> tuple[str, ...]:
    """Return the cells of a row: medians over the rounds, some with the lowest and highest."""
    several = [some for _, some in pairs]
    return (
        title,
        _range([some.capacity / one.capacity for one, some in pairs]),
        _range([some.speed / one.speed for one, some in pairs]),
        f"{statistics.median(one.capacity for one, _ in pairs):,.0f}",
        f"{statistics.median(some.cpu[0] / sum(some.cpu[:WORKERS]) for some in several):.0%}",
        _range([sum(some.cpu) / sum(one.cpu) for one, some in pairs]),
    )


def _range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.workers",
        description="Compare what two workers can serve with what one process can serve.",
    )
    add = parser.add_argument
    add("--rounds", metavar="N", type=int, default=ROUNDS, help="repeat N times (default: 5)")
    add("--load", metavar="NAME", help="run only this load, such as churn")
    add("--bursts", metavar="N", type=int, default=BURSTS, help="size of a run (default: 10)")
    options = parser.parse_args(argv)
    results: dict[str, list[tuple[Result, Result]]] = {title: [] for title, _, _ in LOADS}
    session = measure.Session(120.0)
    try:
        with measure.signals.taken():
            for number in range(options.rounds):
                for title, name, load in LOADS:
                    if options.load not in (None, title):
                        continue
                    one = run(session, name, load, 1, options.bursts)
                    some = run(session, name, load, WORKERS, options.bursts)
                    results[title].append((one, some))
                    print(f"round {number + 1}, {title}: {one}, {some}", file=sys.stderr)
    finally:
        session.close()
    print(f"{measure.machine()}; {measure.python()}; {options.rounds} rounds")
    rows = [HEAD, ("-",) + ("-:",) * (len(HEAD) - 1)]
    rows += [row(title, pairs) for title, pairs in results.items() if pairs]
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
