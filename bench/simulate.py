"""`python -m bench --simulate N`: one server with N clients on virtual links, in one process.

Half of the clients are stalled: they read nothing. The others are slow: each has a link of its own,
and reads all that this link carries. The server is an ordinary reactor with an ordinary port and an
endless push producer for each client. The kernels, links and clients are simulated, see
`minireactor/simulation`. So the server has more clients than this machine has port numbers, and its
memory can be compared with a model, byte by byte.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Any

from minireactor.protocol import Factory, Protocol
from minireactor.simulation.ends import End
from minireactor.simulation.network import Network

HIGH, LOW = 16 * 1024, 4 * 1024  # bytes: the marks of the server's connections
WRITE = 8 * 1024  # bytes of one write; the write buffer keeps such a chunk as it is
BUFFER = 4 * 1024  # bytes of each kernel's send buffer and receive buffer
BANDWIDTH = 2000.0  # bytes a second of a slow client's link
DELAY = 0.001  # seconds
CONNECT_SECONDS = 1.5  # in which all clients connect; less than a slow client needs for a buffer
SETTLE_SECONDS = 3.0  # between the last connection and the measured time
ROUNDS = 4  # in which every slow client empties its write buffer once; sampled at each
SAMPLE = 5000  # stalled clients that tell what one connection costs beside its bytes
SERVER = "server"


class Endless(Protocol):
    """A push producer that writes whenever it is not paused."""

    is_paused = False

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False
        while not self.is_paused:
            self.transport.write(bytes(WRITE))

    def stopProducing(self) -> None:
        self.is_paused = True


class Client:
    """A host without a program: it connects, and reads all or nothing."""

    __slots__ = ("address", "end", "got", "is_on", "name", "network", "reads")

    def __init__(self, network: Any, name: str, reads: bool) -> None:
        self.network = network
        self.name = name
        self.address = name  # the simulated network only passes it on
        self.is_on = True
        self.reads = reads
        self.got = 0
        self.end = End(self, (name, 1), {})  # type: ignore[arg-type]
        self.end.fd = 0

    @property
    def poller(self) -> Client:
        return self

    def touch(self, fd: int) -> None:
        """Read what has arrived: the kernel calls this when the socket may be ready."""
        size = len(self.end.received)
        if self.reads and size:
            self.got += size
            self.end.take(size)

    def numeric(self, place: str) -> str:
        return place

    def start(self) -> None:
        """Do nothing: there is no program."""


class Crowd:
    """A server and its clients."""

    def __init__(self) -> None:
        self.network = Network(seed=1, check=False)
        self.network.links(delay=DELAY, send_buffer=BUFFER, receive_buffer=BUFFER)
        self.server = self.network.host(SERVER, call_seconds=5e-7)
        self.port = self.server.listenTCP(80, Factory.forProtocol(Endless), backlog=1024)
        self.port.setWriteBufferLimits(HIGH, LOW)
        self.clients: list[Client] = []

    def connect(self, count: int, every_slow: int = 2) -> None:
        """Connect so many clients, one after the other; every second one is slow, or none."""
        network = self.network
        for number in range(count):
            client = Client(
                network, f"client {number}", reads=bool(every_slow and number % every_slow)
            )
            if client.reads:
                network.link(SERVER, client.name, bandwidth=BANDWIDTH)
            self.clients.append(client)
            network.hosts[client.name] = client  # type: ignore[assignment]
            when = network.time + CONNECT_SECONDS * number / count
            network.at(when, network.connect, client.end, (self.address, 80))
        network.run(CONNECT_SECONDS)

    @property
    def address(self) -> str:
        return self.server.address

    def connections(self) -> list[Any]:
        return [each for each in self.server.handlers() if hasattr(each, "pending")]


def refilled(pending: int) -> int:
    """Return how much is pending after a producer was resumed at `pending` bytes."""
    while pending <= HIGH:
        pending += WRITE
    return pending


def stalled_pending() -> int:
    """Return what is pending for a client that reads nothing, once the kernels are full."""
    pending, room = refilled(0), 2 * BUFFER
    while room:
        sent = min(pending, room)
        pending, room = pending - sent, room - sent
        if pending <= LOW:
            pending = refilled(pending)
    return pending


def slow_pending() -> float:
    """Return what is pending for a slow client, on average.

    It falls evenly to the low mark, again and again, by a full send buffer at a time."""
    return (refilled(LOW) + LOW + BUFFER) / 2


def most_memory(reads: bool) -> int:
    """Return the most bytes that a connection and its simulated kernels need, in whole chunks.

    The kernel takes a buffer from the first writes of a slow client, and two of a stalled one: the
    second one is in the client's receive buffer, which a slow client empties at once."""
    pending = refilled(0) - BUFFER if reads else stalled_pending()
    chunk = sys.getsizeof(bytes(WRITE)) + 16  # with the allocator's own bytes
    return -(-pending // WRITE) * chunk + (BUFFER if reads else 2 * BUFFER)


def resident() -> int:
    """Return the memory of this process in bytes; 0 if the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def memory_beside_bytes() -> tuple[float, Crowd]:
    """Return what a connection costs beside its bytes, with its simulated kernels and client.

    Also returns the crowd that was measured. While it lives, nobody takes its memory."""
    crowd = Crowd()
    gc.collect()
    before = resident()
    crowd.connect(SAMPLE, every_slow=0)
    crowd.network.run(SETTLE_SECONDS)
    return (resident() - before) / SAMPLE - most_memory(reads=False), crowd


def run(count: int) -> str:
    """Simulate `count` clients, and return the figures as a text."""
    begun, cpu = time.perf_counter(), time.process_time()
    fixed, sample = memory_beside_bytes()
    crowd = Crowd()
    gc.collect()
    before = resident()
    crowd.connect(count)
    connected = time.perf_counter()
    network = crowd.network
    network.run(SETTLE_SECONDS)
    slow = [client for client in crowd.clients if client.reads]
    connections = crowd.connections()
    got = sum(client.got for client in slow)
    seconds = (refilled(LOW) - LOW) / BANDWIDTH  # one round of a slow client
    samples = []
    for _ in range(ROUNDS):
        network.run(seconds / ROUNDS)
        samples.append((sum(each.pending for each in connections), resident() - before))
    got = sum(client.got for client in slow) - got
    pending, used = (sum(column) / ROUNDS for column in zip(*samples))
    del sample
    highest = max(connection.highest_pending for connection in connections)
    ended = time.perf_counter()
    stalled = count - len(slow)
    model = stalled * stalled_pending() + len(slow) * slow_pending()
    # The allocator keeps what each connection has needed at its most.
    memory = count * fixed + stalled * most_memory(False) + len(slow) * most_memory(True)
    links = len(slow) * BANDWIDTH
    lines = [
        f"{count:,} clients of one reactor: {stalled:,} stalled, {len(slow):,} slow with "
        f"{BANDWIDTH:,.0f} bytes/s each; {len(connections):,} connected",
        f"marks {HIGH:,} and {LOW:,} bytes, writes of {WRITE:,} bytes; simulated kernels with "
        f"{BUFFER:,} bytes for each direction",
        "",
        f"{'':28}{'model':>14}{'measured':>14}{'ratio':>8}",
        _row("pending, MB", model / 1e6, pending / 1e6),
        _row("process memory, MB", memory / 1e6, used / 1e6),
        _row("throughput, MB/s", links / 1e6, got / seconds / 1e6),
        "",
        f"one connection: {fixed:,.0f} bytes beside its data; most pending {highest:,} bytes, "
        f"at most {HIGH + WRITE:,} by the rules",
        f"{network.step:,} steps, {network.time:,.0f} virtual seconds; "
        f"{connected - begun:.1f} s to connect, {ended - begun:.1f} s in all, "
        f"{time.process_time() - cpu:.1f} s of CPU",
    ]
    return "\n".join(lines)


def _row(name: str, model: float, measured: float) -> str:
    ratio = f"{measured / model:8.3f}" if model else ""
    return f"{name:28}{model:14,.1f}{measured:14,.1f}{ratio}"
