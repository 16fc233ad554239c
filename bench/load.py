"""Load generators: what the clients of a workload do. Each runs in a process of its own.

`python -m bench.load NAME JSON SECONDS` works in parts. Before each part it prints `mark` and waits
for a line, so that the server can be measured while nothing happens. At the end it prints
`done JSON`, or `failed WHY` if a byte is missing or wrong.

The generators are lean, so that they seldom limit the server. The figures that count are the
server's own.
"""

from __future__ import annotations

import json
import random
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

from bench.engines import serving

READ, WRITE = select.POLLIN, select.POLLOUT
MESSAGE = b"abcdefg\n" * 8  # 64 bytes
LARGE = 256 * 1024
TLS = "tls-"  # before the name of a generator whose connections speak TLS
BATCH = 500  # connections at a time, so that no listening queue overflows
TURN = 100  # messages in a row through a proxy, and then without it
PERIOD = 1_000_003  # bytes after which the pattern repeats: a prime, so no read size divides it
# One read in SPARING is compared. Copying and comparing all bytes would take longer than passing
# them on. A compared read also shows whether any byte before this read is missing.
SPARING = 16
DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0  # receive without copying: tcp(7)
MAX_QUANTILES = 1000
# For a client that does not read, in bytes. With small buffers and segments the kernel keeps
# little for it, as on a real network. With loopback's segments the kernel takes 2.5 MB before an
# engine's buffer begins to fill.
SMALL_BUFFER = 16 * 1024
SMALL_SEGMENT = 1460
NEXT_CLIENT_PAUSE = 0.1  # seconds from the end of one new client to the start of the next
BIND_WITHOUT_PORT = 24  # Linux's IP_BIND_ADDRESS_NO_PORT


class Wrong(Exception):
    """A byte is missing, or is another than expected."""


def mark() -> None:
    """Print `mark`, and wait until the next part may begin."""
    print("mark", flush=True)
    if not sys.stdin.buffer.readline():
        sys.exit()


def poller() -> Any:
    """Return an epoll object, or a poll object where there is no epoll."""
    if hasattr(select, "epoll"):
        return select.epoll()
    return select.poll()


def _sources() -> Iterator[str]:
    # Each address allows another 28,000 connections to one port.
    return (f"{serving.SOURCES}.{2 + i // 4 % 200}" for i in count())


SOURCES = _sources()
SECURE: ssl.SSLContext | None = None  # for connections that speak TLS


def connect(port: int, small: bool = False, timeout: float | None = None) -> socket.socket:
    """Return a connection to the server. If `small`, the kernel keeps little for it."""
    sock = socket.socket()
    sock.settimeout(timeout)
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, BIND_WITHOUT_PORT, 1)
        sock.bind((next(SOURCES), 0))
    sock.connect((serving.HOST, port))
    return sock if SECURE is None else SECURE.wrap_socket(sock)


def connect_all(port: int, amount: int) -> list[socket.socket]:
    """Return that many connections, all accepted: each has had one message echoed."""
    sockets: list[socket.socket] = []
    while len(sockets) < amount:
        batch = [connect(port) for _ in range(min(BATCH, amount - len(sockets)))]
        for sock in batch:
            sock.send(MESSAGE)
        for sock in batch:
            _receive_message(sock)
        sockets += batch
    return sockets


def _receive_message(sock: socket.socket) -> None:
    data = sock.recv(LARGE)
    while 0 < len(data) < len(MESSAGE):
        more = sock.recv(LARGE)
        if not more:
            break
        data += more
    if data != MESSAGE:
        raise Wrong(f"sent {len(MESSAGE)} bytes, {len(data)} other ones came back")


def quantiles(values: list[float]) -> list[float]:
    """Return the values sorted; of more than MAX_QUANTILES, so many at even distances."""
    values = sorted(values)
    if len(values) <= MAX_QUANTILES:
        return values
    last = len(values) - 1
    return [values[round(i * last / (MAX_QUANTILES - 1))] for i in range(MAX_QUANTILES)]


# The generators. Each takes its numbers, and returns at least `bytes` and `seconds`.


def lines(port: int, amount: int, warm: int) -> dict[str, Any]:
    """Ask for `warm` lines, then for `amount`; count them."""
    buffer = bytearray(LARGE)
    found = {}
    for wanted, counted in ((warm, False), (amount, True)):
        if counted:
            mark()
        since = time.perf_counter()
        received = newlines = 0
        with connect(port) as sock:
            sock.send(b"%d\r\n" % wanted)
            while got := sock.recv_into(buffer):
                received += got
                newlines += buffer.count(b"\n", 0, got)
        if newlines != wanted + 1:  # the first is a greeting
            raise Wrong(f"asked for {wanted} lines, got {newlines - 1}")
        found = {"bytes": received, "seconds": time.perf_counter() - since}
    mark()
    return found


def chunks(port: int, amount: int, warm: int, size: int) -> dict[str, Any]:
    """Ask for `warm` chunks, then for `amount`; count their bytes."""
    buffer = bytearray(LARGE)
    found = {}
    for wanted, counted in ((warm, False), (amount, True)):
        if counted:
            mark()
        since = time.perf_counter()
        received = 0
        with connect(port) as sock:
            sock.send(b"%d\n" % wanted)
            while got := sock.recv_into(buffer):
                received += got
        if received != wanted * size:
            raise Wrong(f"asked for {wanted * size} bytes, got {received}")
        found = {"bytes": received, "seconds": time.perf_counter() - since}
    mark()
    return found


def upload(port: int, amount: int, warm: int, unit: int) -> dict[str, Any]:
    """Send `warm` times `unit` bytes, then `amount` times; the server answers each with a byte."""
    data = memoryview(bytes(LARGE))
    found = {}
    with connect(port) as sock:
        for wanted, counted in ((warm, False), (amount, True)):
            if counted:
                mark()
            since = time.perf_counter()
            left = wanted * unit
            while left:
                left -= sock.send(data[:left])
            counted_there = 0
            while counted_there < wanted:
                answers = sock.recv(LARGE)
                if not answers:
                    raise Wrong(f"the server closed after {counted_there} of {wanted} units")
                counted_there += len(answers)
            if counted_there > wanted:
                raise Wrong(f"sent {wanted} units, the server has counted {counted_there}")
            found = {"bytes": wanted * unit, "seconds": time.perf_counter() - since}
    mark()
    return found


def echo(port: int, connections: int, busy: int, amount: int, warm: int) -> dict[str, Any]:
    """Have `busy` of the connections send a message, and the next when it has come back."""
    sockets = connect_all(port, connections)
    chosen = sockets[:: connections // busy][:busy]
    by_number = {sock.fileno(): sock for sock in chosen}
    poll = poller()
    for sock in chosen:
        sock.setblocking(False)
        poll.register(sock.fileno(), READ)
    _echo(poll, by_number, warm)
    mark()
    since = time.perf_counter()
    latencies = _echo(poll, by_number, amount)
    seconds = time.perf_counter() - since
    mark()
    return {
        "bytes": amount * len(MESSAGE),
        "seconds": seconds,
        "latencies": quantiles(latencies),
    }


def _echo(poll: Any, sockets: dict[int, socket.socket], amount: int) -> list[float]:
    clock = time.perf_counter
    started = dict.fromkeys(sockets, 0.0)
    latencies: list[float] = []
    unsent = amount
    for fd, sock in sockets.items():
        if unsent:
            unsent -= 1
            started[fd] = clock()
            sock.send(MESSAGE)
    while len(latencies) < amount:
        for fd, _ in poll.poll():
            sock = sockets[fd]
            data = sock.recv(4096)
            if data != MESSAGE:
                sock.setblocking(True)
                if not data or len(data) > len(MESSAGE):
                    raise Wrong(f"sent {len(MESSAGE)} bytes, {len(data)} came back")
                while len(data) < len(MESSAGE):
                    data += sock.recv(len(MESSAGE) - len(data)) or b"!" * len(MESSAGE)
                if data != MESSAGE:
                    raise Wrong("the echo is not what was sent")
                sock.setblocking(False)
            now = clock()
            latencies.append(now - started[fd])
            if unsent:
                unsent -= 1
                started[fd] = now
                sock.send(MESSAGE)
    return latencies


def back(port: int, connections: int, amount: int, warm: int) -> dict[str, Any]:
    """Send `amount` bytes in all, as fast as possible, and read them back."""
    streams = Streams(port, connections)
    streams.exchange(warm // connections)
    mark()
    since = time.perf_counter()
    received = streams.exchange(amount // connections)
    seconds = time.perf_counter() - since
    mark()
    return {"bytes": received, "seconds": seconds}


def back_until_stopped(port: int, connections: int) -> dict[str, Any]:
    """Send and read back like `back`, until a line can be read from stdin."""
    mark()
    streams = Streams(port, connections)
    since = time.perf_counter()
    streams.poll.register(sys.stdin.fileno(), READ)
    received = streams.exchange(1 << 60)
    return {"bytes": received, "seconds": time.perf_counter() - since}


class Streams:
    """Connections whose server sends back what it receives."""

    def __init__(self, port: int, connections: int) -> None:
        self.poll = poller()
        self.sockets = {}
        for _ in range(connections):
            sock = connect(port)
            sock.setblocking(False)
            self.sockets[sock.fileno()] = sock

    def exchange(self, amount: int) -> int:
        """Send and read back `amount` bytes on each connection; return how many came back in all.

        If stdin becomes readable, send no more, and read back only what has been sent."""
        data = memoryview(bytes(LARGE))
        buffer = bytearray(LARGE)
        unsent = dict.fromkeys(self.sockets, amount)
        missing = dict.fromkeys(self.sockets, amount)
        total = 0
        for fd in self.sockets:
            self.poll.register(fd, READ | WRITE)
        open_ones = set(self.sockets)
        while open_ones:
            for fd, events in self.poll.poll():
                if fd not in self.sockets:
                    self.poll.unregister(fd)
                    for each, rest in unsent.items():
                        missing[each] -= rest
                        unsent[each] = 0
                        self.poll.modify(each, READ)
                        if not missing[each]:
                            open_ones.discard(each)
                    continue
                sock = self.sockets[fd]
                if events & WRITE and unsent[fd]:
                    try:
                        unsent[fd] -= sock.send(data[: unsent[fd]])
                    except BlockingIOError:
                        pass
                    if not unsent[fd]:
                        self.poll.modify(fd, READ)
                if events & ~WRITE:
                    try:
                        got = sock.recv_into(buffer)
                    except BlockingIOError:
                        continue
                    total += got
                    missing[fd] -= got
                    if not got or missing[fd] < 0:
                        raise Wrong(f"{missing[fd]} bytes did not come back")
                    if not missing[fd]:
                        open_ones.discard(fd)
        for fd in self.sockets:
            self.poll.unregister(fd)
        return total


def churn(port: int, amount: int, warm: int, batch: int) -> dict[str, Any]:
    """Open connections that live for one message and its echo, `batch` at a time."""
    return _churn(port, None, amount, warm, batch)


def _churn(
    port: int, listener: socket.socket | None, amount: int, warm: int, batch: int
) -> dict[str, Any]:
    """Churn. With a `listener`, the echo is made here, by the target of a proxy."""
    _turn_over(port, listener, warm, batch)
    mark()
    since = time.perf_counter()
    latencies = _turn_over(port, listener, amount, batch)
    seconds = time.perf_counter() - since
    mark()
    return {
        "bytes": amount * len(MESSAGE),
        "seconds": seconds,
        "latencies": quantiles(latencies),
    }


def _turn_over(port: int, listener: socket.socket | None, amount: int, batch: int) -> list[float]:
    """Return the latencies. With a `listener`, a batch is over when it has seen all ends."""
    clock = time.perf_counter
    latencies = []
    while amount:
        now = min(batch, amount)
        amount -= now
        begun = []
        for _ in range(now):
            at = clock()
            near = connect(port)
            near.send(MESSAGE)
            begun.append((at, near))
        fars = [_answer_one(listener) for _ in range(now)] if listener else []
        for at, near in begun:
            _receive_message(near)
            latencies.append(clock() - at)
            near.close()
        for far in fars:
            if far.recv(1):
                raise Wrong("more came than was sent")
            far.close()
    return latencies


def _answer_one(listener: socket.socket) -> socket.socket:
    far, _ = listener.accept()
    _receive_message(far)
    far.send(MESSAGE)
    return far


def idle(port: int, amount: int, warm: int) -> dict[str, Any]:
    """Open connections, and leave them open."""
    opened = connect_all(port, warm)
    mark()
    since = time.perf_counter()
    opened += connect_all(port, amount)
    seconds = time.perf_counter() - since
    mark()
    return {"bytes": amount * len(MESSAGE), "seconds": seconds, "opened": len(opened)}


def stalled(port: int, amount: int, warm: int) -> dict[str, Any]:
    """Ask on each connection for a thousand million lines, and read none of them."""
    opened = []
    since = time.perf_counter()
    for wanted, each in ((warm, 1), (amount, BATCH)):
        mark()
        since = time.perf_counter()
        while wanted:
            batch = [connect(port, small=True) for _ in range(min(each, wanted))]
            wanted -= len(batch)
            for sock in batch:
                sock.send(b"1000000000\r\n")
            for sock in batch:
                sock.recv(1, socket.MSG_PEEK)
            opened += batch
    seconds = time.perf_counter() - since
    mark()
    return {"bytes": 0, "seconds": seconds, "opened": len(opened)}


def greedy(port: int, connections: int, clients: int, amount: int, limit: int) -> dict[str, Any]:
    """Ask on many connections for a thousand million lines each, and read none of them.

    Meanwhile `clients` new clients, one after the other, ask for `amount` lines each. All of them
    together have `limit` seconds."""
    mark()
    crowd = [connect(port) for _ in range(connections)]
    for sock in crowd:
        sock.send(b"1000000000\r\n")
    since = time.perf_counter()
    until = since + limit
    received = 0
    waits: list[float] = []
    served = 0
    while len(waits) < clients and time.perf_counter() < until:
        begun = time.perf_counter()
        try:
            received += _ask(port, amount, until)
            served += 1
        except socket.timeout:
            pass  # the wait until now counts
        waits.append(time.perf_counter() - begun)
        time.sleep(NEXT_CLIENT_PAUSE)
    seconds = time.perf_counter() - since
    mark()
    return {
        "bytes": received,
        "seconds": seconds,
        "latencies": waits,
        "unserved": clients - served,
    }


def _ask(port: int, amount: int, until: float) -> int:
    """Ask for `amount` lines; return how many bytes they have. Raises socket.timeout at `until`."""
    received = newlines = 0
    with connect(port, timeout=_left(until)) as sock:
        sock.send(b"%d\r\n" % amount)
        while data := sock.recv(LARGE):
            sock.settimeout(_left(until))
            received += len(data)
            newlines += data.count(b"\n")
    if newlines != amount + 1:  # the first is a greeting
        raise Wrong(f"asked for {amount} lines, got {newlines - 1}")
    return received


def _left(until: float) -> float:
    left = until - time.perf_counter()
    if left <= 0:
        raise socket.timeout
    return left


# The clients of a proxy. This process is the target as well: the proxy connects to `listener`.


class Way(NamedTuple):
    """The two ends of a connection, either through a proxy or straight to the target."""

    near: socket.socket
    far: socket.socket


def way(port: int, listener: socket.socket) -> Way:
    """Connect to `port`; return this connection and the one that the target accepts for it."""
    near = connect(port)
    far, _ = listener.accept()
    return Way(near, far)


def through(port: int, listener: int, connections: int, amount: int, warm: int) -> dict[str, Any]:
    """Send `amount` bytes in all from the target to the clients, as fast as possible."""
    with socket.socket(fileno=listener) as target:
        ways = [way(port, target) for _ in range(connections)]
    pattern = _pattern()
    _pass(ways, pattern, warm, 1)
    mark()
    since = time.perf_counter()
    received = _pass(ways, pattern, amount, SPARING)
    seconds = time.perf_counter() - since
    mark()
    return {"bytes": received, "seconds": seconds}


def _pattern() -> bytes:
    """Return PERIOD random bytes, always the same, then their first LARGE bytes once more.

    So a piece of up to LARGE bytes can be taken from any place."""
    once = random.Random(PERIOD).randbytes(PERIOD)
    return once + once[:LARGE]


def _pass(ways: list[Way], pattern: bytes, amount: int, sparing: int) -> int:
    """Send `amount` bytes and count them at the other end; return how many came.

    One read in `sparing` is compared with what was sent. Raises Wrong if a byte differs."""
    goal = amount // len(ways)
    data = memoryview(pattern)
    buffer = memoryview(bytearray(LARGE))
    poll = poller()
    senders = {each.far.fileno(): each.far for each in ways}
    receivers = {each.near.fileno(): each.near for each in ways}
    sent = dict.fromkeys(senders, 0)
    received = dict.fromkeys(receivers, 0)
    reads = 0
    for sockets, events in ((senders, WRITE), (receivers, READ)):
        for fd, sock in sockets.items():
            sock.setblocking(False)
            poll.register(fd, events)
    while receivers:
        for fd, _ in poll.poll():
            if fd in senders:
                at = sent[fd] % PERIOD
                sent[fd] += senders[fd].send(data[at : at + min(LARGE, goal - sent[fd])])
                if sent[fd] == goal:
                    poll.unregister(fd)
                    del senders[fd]
                continue
            reads += 1
            compared = not reads % sparing
            got = receivers[fd].recv_into(buffer, 0, 0 if compared else DISCARD)
            if not got:
                raise Wrong(f"the stream ended after {received[fd]} of {goal} bytes")
            if compared and not pattern.startswith(buffer[:got], received[fd] % PERIOD):
                raise Wrong(f"the bytes after the first {received[fd]} are not what was sent")
            received[fd] += got
            if received[fd] >= goal:
                poll.unregister(fd)
                del receivers[fd]
    return sum(received.values())


def through_echo(port: int, listener: int, amount: int, warm: int) -> dict[str, Any]:
    """Send messages there and back, one at a time: some through the proxy, then some without."""
    with socket.socket(fileno=listener) as target:
        ways = way(port, target), way(target.getsockname()[1], target)
    for each in ways:
        _turn(each, warm)
    mark()
    found: tuple[list[float], list[float]] = ([], [])
    while len(found[0]) < amount:
        for latencies, each in zip(found, ways):
            latencies += _turn(each, min(TURN, amount - len(latencies)))
    mark()
    latencies, direct = found
    return {
        "bytes": amount * len(MESSAGE),
        "seconds": sum(latencies),
        "latencies": quantiles(latencies),
        "direct": quantiles(direct),
    }


def _turn(each: Way, amount: int) -> list[float]:
    clock = time.perf_counter
    latencies = []
    for _ in range(amount):
        since = clock()
        each.near.send(MESSAGE)
        _receive_message(each.far)
        each.far.send(MESSAGE)
        _receive_message(each.near)
        latencies.append(clock() - since)
    return latencies


def through_churn(port: int, listener: int, amount: int, warm: int, batch: int) -> dict[str, Any]:
    """Churn through a proxy."""
    with socket.socket(fileno=listener) as target:
        return _churn(port, target, amount, warm, batch)


GENERATORS = {
    f.__name__: f
    for f in (
        lines,
        chunks,
        upload,
        echo,
        back,
        back_until_stopped,
        churn,
        idle,
        stalled,
        greedy,
        through,
        through_echo,
        through_churn,
    )
}


def main() -> None:
    global SECURE
    name, numbers, lifetime = sys.argv[1:]
    if name.startswith(TLS):
        name = name.removeprefix(TLS)
        SECURE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        SECURE.check_hostname = False
        SECURE.verify_mode = ssl.CERT_NONE
    signal.alarm(int(lifetime))
    try:
        print("done", json.dumps(GENERATORS[name](**json.loads(numbers))), flush=True)
    except (Wrong, OSError) as error:
        print("failed", error or type(error).__name__, flush=True)


if __name__ == "__main__":
    main()
