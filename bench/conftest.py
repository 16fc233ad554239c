"""Micro-benchmarks of the core: `pytest bench`, which takes less than a minute.

They show what a change of the core gains and what it costs. (`python -m bench` compares minireactor
with other engines.)

Each benchmark does some *operations* in a *round*, and as many rounds as fill `--bench-seconds`.
pytest-benchmark's own tables show rounds. The list after them shows the median of one operation,
with its unit. Saved files have both numbers as `extra_info`: `operations` and `unit`. A group holds
benchmarks whose figures are to be compared.

To compare, save a run before the change and one after it:

    pytest bench --benchmark-autosave
    ... change something ...
    pytest bench --benchmark-autosave --benchmark-compare

`--benchmark-compare` takes the last saved run, or the one whose number follows:
`--benchmark-compare 0001`. More options:

    -k write                           only the benchmarks with "write" in their names
    --bench-seconds 2                  more rounds: steadier figures
    --benchmark-group-by fullname      each benchmark beside its own past, and nothing else
    --benchmark-columns min,median,iqr
    --benchmark-compare-fail min:15%   fail if a benchmark is slower by this much; a busy machine
                                       disturbs the minimum less than the median
    --benchmark-disable-gc             switch the garbage collector off; it is part of the cost of
                                       an allocation
    --benchmark-disable                run each once, only to see that it works

For example, this fails if a change of `write()` makes it slower:

    pytest bench/test_writing.py --bench-seconds 2 --benchmark-compare \\
        --benchmark-group-by fullname --benchmark-compare-fail min:15%

Compare only figures of one machine, one interpreter and the same load beside the benchmark. No
benchmark fails for being slow, but each asserts that its work was really done.

The sockets, from `socket.socketpair()`, are real, but cheap and steady in the kernel: the
Python code around them is what the figures are about.
"""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from minireactor import Reactor
from minireactor.address import IPv4Address
from minireactor.protocol import Protocol
from minireactor.transports.connection import Connection

try:
    import resource
except ImportError:  # Windows
    resource = None

PEER = IPv4Address("TCP", "192.0.2.1", 4321)

SECONDS = 0.3  # for each benchmark, with set-up: all together take less than a minute
WARM_UP = 0.25  # of that time: fills caches, and lets PyPy compile
MIN_ROUNDS, MAX_ROUNDS = 7, 5000

FILLING = b"x" * 4096

# By group, the rows of the list at the end.
MEDIANS = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--bench-seconds",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help="about how long each benchmark of bench/ runs, set-up included (default: %(default)s)",
    )


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "the benchmarks need pytest-benchmark: python -m pip install pytest-benchmark"
        )
    config.stash[MEDIANS] = {}


def pytest_terminal_summary(terminalreporter, config):
    medians = config.stash.get(MEDIANS, None)
    if not medians:
        return
    terminalreporter.section("median of one operation")
    width = max(len(name) for rows in medians.values() for name, _, _ in rows)
    for group, rows in medians.items():
        terminalreporter.write_line(f"{group}:")
        for name, seconds, unit in rows:
            terminalreporter.write_line(f"  {name:{width}} {seconds * 1e9:13,.1f} ns per {unit}")


@pytest.fixture
def measure(benchmark, request):
    """`measure(work, operations, unit, setup)`: time rounds of `work()`, each after `setup()`.

    One call of `work` does `operations` operations, and `unit` names one of them. Only `work` is
    timed."""
    seconds = request.config.getoption("--bench-seconds", SECONDS)

    def measured(work, operations, unit, setup=None):
        def prepare():
            if setup is not None:
                setup()

        benchmark.extra_info.update(operations=operations, unit=unit)
        rounds = _rounds(work, prepare, seconds) if benchmark.enabled else 1
        benchmark.pedantic(work, setup=prepare, rounds=rounds)
        if benchmark.stats is not None:
            row = request.node.name, benchmark.stats["median"] / operations, unit
            request.config.stash[MEDIANS].setdefault(benchmark.group, []).append(row)

    return measured


def _rounds(work, prepare, seconds):
    """Warm up; return how many rounds like those of the warm-up fit into `seconds`."""
    done = 0
    started = time.perf_counter()
    elapsed = 0.0
    while elapsed < seconds * WARM_UP and done < MAX_ROUNDS:
        prepare()
        work()
        done += 1
        elapsed = time.perf_counter() - started
    fitting = int(done * seconds * (1 - WARM_UP) / elapsed)
    return max(MIN_ROUNDS, min(MAX_ROUNDS, fitting))


@pytest.fixture
def reactor():
    """A new reactor, which the benchmark drives by iterate()."""
    own = Reactor()
    yield own
    own.close()


class Link:
    """A connection, `transport`, whose peer is a plain socket that counts received bytes."""

    def __init__(self, transport, peer):
        self.transport = transport
        self.peer = peer
        self.received = 0

    def take(self):
        """Read at the peer's end until nothing is left."""
        while True:
            try:
                data = self.peer.recv(1 << 20)
            except BlockingIOError:
                return
            if not data:
                return
            self.received += len(data)

    def fill(self):
        """Fill the kernel's send buffer, unknown to the connection."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.transport.getHandle().send(FILLING)

    def drain(self):
        """Let all pending bytes arrive; return how many came since the last drain()."""
        self.take()
        while self.transport.pending:
            self.transport.reactor.iterate()
            self.take()
        received, self.received = self.received, 0
        return received


@pytest.fixture
def attach(reactor):
    """`attach(sock, protocol)`: return a started connection of `protocol` over `sock`."""

    def make(sock, protocol):
        sock.setblocking(False)
        transport = Connection(reactor, sock, PEER, host=PEER)
        transport.start(protocol)
        return transport

    return make


@pytest.fixture
def connect(attach):
    """`connect(protocol)`: return a Link. All are closed at the end of the benchmark."""
    with contextlib.ExitStack() as stack:

        def make(protocol=None):
            ours, peer = socket.socketpair()
            stack.enter_context(peer).setblocking(False)
            return Link(attach(ours, Protocol() if protocol is None else protocol), peer)

        yield make


@pytest.fixture
def connect_idle(attach):
    """`connect_idle()`: return one more connection. Two of them are the ends of one pair.

    So each needs one descriptor. With a plain socket as its peer it would need two."""
    spare = []

    def make():
        if not spare:
            spare.extend(socket.socketpair())
        return attach(spare.pop(), Protocol())

    yield make
    for end in spare:
        end.close()


@pytest.fixture
def descriptors():
    """`descriptors(count)`: allow this process that many, or skip the benchmark."""
    with contextlib.ExitStack() as stack:

        def allow(count):
            if resource is None:
                pytest.skip(f"this system has no way to ask for {count} descriptors")
            limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft == resource.RLIM_INFINITY or soft >= count:
                return
            highest = hard if hard == resource.RLIM_INFINITY else max(count, hard)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (count, highest))
            except (OSError, ValueError):
                pytest.skip(f"needs {count} descriptors, may have {hard}: raise `ulimit -Hn`")
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

        yield allow
