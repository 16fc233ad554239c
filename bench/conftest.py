"""Micro-benchmarks of the core: `pytest bench`, which takes less than a minute.

They are for whoever changes the core, to see what a change gives and what it costs. (How
minireactor compares with other engines is another question: `python -m bench`.)

Each benchmark does some *operations* in a *round*, and rounds enough to fill `--bench-seconds`.
pytest-benchmark's own tables show rounds; the list after them shows the median of one operation,
with its unit. Both numbers go into saved files, as `extra_info`: `operations` and `unit`.
Groups put together what is to be read together.

To compare, save a run before the change and one after it:

    pytest bench --benchmark-autosave
    ... change something ...
    pytest bench --benchmark-autosave --benchmark-compare

`--benchmark-compare` takes the last saved run unless it is given a number, `--benchmark-compare
0001`. What may be added:

    -k write                           only the benchmarks with "write" in their names
    --bench-seconds 2                  more rounds: steadier figures
    --benchmark-group-by fullname      each benchmark beside its own past, and nothing else
    --benchmark-columns min,median,iqr
    --benchmark-compare-fail min:15%   fail if any is slower by so much; the minimum is what a
                                       busy machine disturbs least
    --benchmark-disable-gc             without the garbage collector, which is part of what an
                                       allocation costs
    --benchmark-disable                run each once, only to see that it works

So, to see whether a change to `write()` is worth it, and to have a script notice if it is not:

    pytest bench/test_writing.py --bench-seconds 2 --benchmark-compare \\
        --benchmark-group-by fullname --benchmark-compare-fail min:15%

Figures of two machines, two interpreters or two kinds of load beside the benchmark cannot be
compared. No benchmark fails for being slow, but each asserts that its work was really done.

Sockets are pairs made by `socket.socketpair()`: real ones, whose kernel side is as cheap and as
steady as can be, for what is measured is the Python around it.
"""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from minireactor import Reactor
from minireactor.address import IPv4Address
from minireactor.protocol import Protocol
from minireactor.transports.tcp import Connection

try:
    import resource
except ImportError:  # Windows
    resource = None

PEER = IPv4Address("TCP", "192.0.2.1", 4321)

SECONDS = 0.3  # for each benchmark, set-up included: all of them together take less than a minute
# Of the time that a benchmark may take, for caches, and for PyPy's compiler.
WARM_UP = 0.25
FEWEST_ROUNDS = 7
MOST_ROUNDS = 5000

FILLING = b"x" * 4096

# By group, the lines of the list at the end.
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

    A round does that many operations, each of them one `unit`. Only `work` is timed."""
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
    """Warm up; then, by how long that took, how many rounds fit into `seconds`."""
    done = 0
    started = time.perf_counter()
    elapsed = 0.0
    while elapsed < seconds * WARM_UP and done < MOST_ROUNDS:
        prepare()
        work()
        done += 1
        elapsed = time.perf_counter() - started
    fitting = int(done * seconds * (1 - WARM_UP) / elapsed)
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, fitting))


@pytest.fixture
def reactor():
    """A reactor of the benchmark's own, driven by iterate()."""
    own = Reactor()
    yield own
    own.close()


class Link:
    """A connection, `transport`, whose peer is a plain socket that counts what it gets."""

    def __init__(self, transport, peer):
        self.transport = transport
        self.peer = peer
        self.received = 0

    def take(self):
        """Read all there is, at the peer's end."""
        while True:
            try:
                data = self.peer.recv(1 << 20)
            except BlockingIOError:
                return
            if not data:
                return
            self.received += len(data)

    def fill(self):
        """Behind the connection's back, write until the kernel has no room."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.transport.getHandle().send(FILLING)

    def settle(self):
        """Let all that was written arrive; how many bytes came since the last time."""
        self.take()
        while self.transport.pending:
            self.transport.reactor.iterate()
            self.take()
        received, self.received = self.received, 0
        return received


@pytest.fixture
def attach(reactor):
    """`attach(sock, protocol)`: the connection of `protocol` over one end of a pair."""

    def make(sock, protocol):
        sock.setblocking(False)
        transport = Connection(reactor, sock, PEER, host=PEER)
        transport.start(protocol)
        return transport

    return make


@pytest.fixture
def connect(attach):
    """`connect(protocol)`: a Link. All end with the benchmark."""
    with contextlib.ExitStack() as stack:

        def make(protocol=None):
            ours, peer = socket.socketpair()
            stack.enter_context(peer).setblocking(False)
            return Link(attach(ours, Protocol() if protocol is None else protocol), peer)

        yield make


@pytest.fixture
def connect_idle(attach):
    """`connect_idle()`: one more connection, each second one with the one before it.

    So each has one descriptor, where with plain sockets for their peers each would have two."""
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
    """`descriptors(count)`: let this process open as many; skips where the system does not."""
    with contextlib.ExitStack() as stack:

        def allow(count):
            if resource is None:
                pytest.skip(f"no way to ask for {count} descriptors on this system")
            limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft == resource.RLIM_INFINITY or soft >= count:
                return
            most = hard if hard == resource.RLIM_INFINITY else max(count, hard)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))
            except (OSError, ValueError):
                pytest.skip(f"needs {count} descriptors, and gets {hard}: raise `ulimit -Hn`")
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

        yield allow
