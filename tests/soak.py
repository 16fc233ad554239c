"""Mixed clients against every server of the command, for as long as you like.

    python tests/soak.py --seconds 480

`serve random`, `serve echo` and `serve file` run in processes of their own, each also behind a
`proxy` and a `proxy --copy`. Clients of all kinds talk to them at the same time: those that read as
fast as they can, slow ones, those that shut their write side early, those that vanish and those
that reset the connection. Some more live in processes that are stopped and go on again.

Each conversation that is meant to complete must be right to the byte, up to the end of the stream.
When all have gone, each server must hold the sockets that it began with and no more than a few MiB
over what it had after a quarter of the time, and must have logged no traceback. Prints a summary,
and a line for each fault; the exit status is 1 if there is any. Needs /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any, Callable

Place = tuple[str, str, int]  # app, way, port

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

SEED = 7  # of `serve random`
MAX_INTEGERS = 300_000  # for one client: some 1.7 MB
FILE_SIZE = 1_500_000  # bytes
MAX_ECHO = 1_000_000  # bytes
QUESTION = b"how many random integers do you want?\r\n"

# How often each kind of client comes. The first three are to complete.
KINDS = {"fast": 6, "half": 3, "slow": 2, "vanishing": 3, "resetting": 3}
COMPLETE = ("fast", "half", "slow")
SLOW_READ, SLOW_SECONDS = 40_000, 0.01  # bytes at a time, and seconds in between
STALL_SECONDS = 30.0  # without a byte, after which a conversation has failed
SETTLE_SECONDS = 15.0  # for a server to close what lingers
STOPPED_CLIENTS = 3  # processes; each is stopped about half of the time
GROWTH = 6 << 20  # bytes that a server may hold more at the end than after a quarter of the time


class Expected:
    """The bytes that the servers have to send."""

    def __init__(self) -> None:
        lines = [b"%d\r\n" % number for number in range(10_001)]
        integers = random.Random(SEED).choices(lines, k=MAX_INTEGERS)
        self.integers = b"".join(integers)
        self.ends = [0]  # of the first n integers, in bytes
        for line in integers:
            self.ends.append(self.ends[-1] + len(line))
        self.block = random.Random(SEED).getrandbits(8 * FILE_SIZE).to_bytes(FILE_SIZE, "big")


class Conversation:
    """One client: what it sends, what it has to receive, and how it behaves."""

    def __init__(self, expected: Expected, place: Place, kind: str, rng: random.Random) -> None:
        self.app, self.way, number = place
        self.kind = kind
        size = rng.choice([rng.randrange(1, 3000), rng.randrange(1, 100_000), 1 << 30])
        self.head, self.to_send = b"", memoryview(b"")
        if self.app == "random":
            count = min(size, rng.randrange(1, MAX_INTEGERS))
            # The end of its input serves as the end of the line, too.
            self.to_send = memoryview(b"%d" % count + (b"" if kind == "half" else b"\r\n"))
            self.head = QUESTION
            self.body = memoryview(expected.integers)[: expected.ends[count]]
        elif self.app == "echo":
            start = rng.randrange(FILE_SIZE - MAX_ECHO)
            size = min(size, rng.randrange(1, MAX_ECHO))
            self.body = self.to_send = memoryview(expected.block)[start : start + size]
        else:
            self.body = memoryview(expected.block)
        self.length = len(self.head) + len(self.body)
        # Where it leaves, if it does.
        self.leaves_at = rng.randrange(self.length) if kind not in COMPLETE else None
        self.received = 0
        self.not_before = 0.0
        self.moved = time.monotonic()
        self.ended = False
        self.fault: str | None = None
        self.sock = socket.socket()
        self.sock.setblocking(False)
        if kind == "slow":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        self.sock.connect_ex(("127.0.0.1", number))
        self.connected = False

    def __str__(self) -> str:
        return (
            f"{self.kind} client of {self.app} {self.way}, {self.received} of {self.length} bytes"
        )

    def wants(self, now: float) -> int:
        write = selectors.EVENT_WRITE if self.to_send or not self.connected else 0
        return write | (selectors.EVENT_READ if self.connected and now >= self.not_before else 0)

    def act(self, events: int, now: float) -> None:
        self.moved = now
        try:
            if events & selectors.EVENT_WRITE:
                self._send()
            if events & selectors.EVENT_READ:
                self._receive(now)
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(error.strerror)

    def _send(self) -> None:
        if not self.connected:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.end(os.strerror(code))
                return
            self.connected = True
        if self.to_send:
            self.to_send = self.to_send[self.sock.send(self.to_send[:65536]) :]
        if not self.to_send and self.kind == "half":
            self.sock.shutdown(socket.SHUT_WR)

    def _receive(self, now: float) -> None:
        if self.kind == "slow":
            self.not_before = now + SLOW_SECONDS
        data = self.sock.recv(SLOW_READ if self.kind == "slow" else 1 << 18)
        if not data:
            self.end(None if self.received == self.length else "the stream ended early")
            return
        if not self._is_right(data):
            self.end("other bytes than expected")
            return
        self.received += len(data)
        if self.leaves_at is not None and self.received > self.leaves_at:
            if self.kind == "resetting":
                linger = struct.pack("ii", 1, 0)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.end(None)
        elif self.received == self.length and self.app == "echo" and self.kind != "half":
            self.end(None)  # an echo has no other end than ours

    def _is_right(self, data: bytes) -> bool:
        start, head = self.received, len(self.head)
        in_head = self.head[start : start + len(data)]
        rest = data[len(in_head) :]
        start = max(0, start - head)
        return data[: len(in_head)] == in_head and rest == self.body[start : start + len(rest)]

    def end(self, fault: str | None) -> None:
        self.ended = True
        self.fault = fault


class Crowd:
    """`count` conversations at a time, with any of `places`: (app, way, port)."""

    def __init__(self, places: list[Place], count: int, seed: int) -> None:
        self.expected = Expected()
        self.places = places
        self.count = count
        self.rng = random.Random(seed)
        self.kinds = [kind for kind, often in KINDS.items() for _ in range(often)]
        self.completed: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.bytes = 0
        self.faults: list[str] = []

    def run(self, seconds: float, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        """Begin conversations for `seconds`, and wait until all of them have ended."""
        talks: dict[Conversation, int] = {}  # and what each is registered for
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            while True:
                now = time.monotonic()
                meanwhile(now)
                while now < until and len(talks) < self.count:
                    kind = self.rng.choice(self.kinds)
                    place = self.rng.choice(self.places)
                    talks[Conversation(self.expected, place, kind, self.rng)] = 0
                if not talks:
                    return
                for talk, before in list(talks.items()):
                    if now - talk.moved > STALL_SECONDS:
                        talk.end("stalled")
                    wanted = 0 if talk.ended else talk.wants(now)
                    if wanted and before:
                        if wanted != before:
                            selector.modify(talk.sock, wanted, talk)
                    elif wanted:
                        selector.register(talk.sock, wanted, talk)
                    elif before:
                        selector.unregister(talk.sock)
                    talks[talk] = wanted
                    if talk.ended:
                        del talks[talk]
                        self._close(talk)
                for key, events in selector.select(SLOW_SECONDS / 2):
                    key.data.act(events, time.monotonic())

    def _close(self, talk: Conversation) -> None:
        talk.sock.close()
        self.bytes += talk.received
        if talk.fault:
            self.faults.append(f"{talk}: {talk.fault}")
        elif talk.leaves_at is None:
            self.completed[f"{talk.app} {talk.way}"] += 1
        else:
            self.left[talk.kind] += 1


class StoppedClients:
    """Crowds in processes of their own, which are stopped and go on at random."""

    def __init__(self, places: list[Place], seconds: float, rng: random.Random) -> None:
        self.rng = rng
        self.stops = 0
        self.turn = 0.0
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, __file__, "--seconds", str(seconds), "--seed", str(number)),
                    *("--clients", "4", "--of", json.dumps(places)),
                ],
                stdout=subprocess.PIPE,
            )
            for number in range(STOPPED_CLIENTS)
        ]
        self.stopped: set[int] = set()

    def step(self, now: float) -> None:
        """Stop one of the processes, or let it go on."""
        if now < self.turn:
            return
        self.turn = now + self.rng.uniform(0.05, 0.6)
        number = self.rng.randrange(len(self.processes))
        if number in self.stopped:
            self.stopped.remove(number)
            self.processes[number].send_signal(signal.SIGCONT)
        else:
            self.stopped.add(number)
            self.stops += 1
            self.processes[number].send_signal(signal.SIGSTOP)

    def results(self) -> list[Any]:
        """Let all processes go on to their end, and return the results."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
        patience = 2 * STALL_SECONDS
        return [json.loads(process.communicate(timeout=patience)[0]) for process in self.processes]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


class Server:
    """A command in a process of its own, on a free port. Its output goes to files."""

    def __init__(self, folder: str, name: str, *arguments: str) -> None:
        self.name = name
        self.output, self.errors = (os.path.join(folder, name + end) for end in (".out", ".err"))
        with open(self.output, "wb") as output, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "minireactor", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=ROOT,
            )
        self.port = 0
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self.port:
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", self._read(self.output))
            self.port = int(found[1]) if found else 0
            assert time.monotonic() < deadline, f"{name} does not listen: {self._read(self.errors)}"
            time.sleep(0.01)
        self.sockets_at_start = self.sockets()
        self.early = 0

    @staticmethod
    def _read(path: str) -> str:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def resident(self) -> int:
        """Return the resident memory, in bytes."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def sockets(self) -> int:
        """Return how many sockets the server has open. Pipes do not count: spare ones vary."""
        count = 0
        for number in os.listdir(f"/proc/{self.process.pid}/fd"):
            try:
                target = os.readlink(f"/proc/{self.process.pid}/fd/{number}")
            except FileNotFoundError:
                continue
            count += target.startswith("socket:")
        return count

    def wait_until_closed(self, deadline: float) -> bool:
        """Wait until as many sockets are open as at the start. Return whether it came to that."""
        while self.sockets() != self.sockets_at_start:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def end(self) -> list[str]:
        """Interrupt the server, and return the faults of its end."""
        self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(SETTLE_SECONDS)
        except subprocess.TimeoutExpired:
            return [f"{self.name}: does not end"]
        faults = [] if status == 0 else [f"{self.name}: exit status {status}"]
        errors = self._read(self.errors)
        if "Traceback" in errors:
            faults.append(f"{self.name}: {errors[errors.index('Traceback') :][:2000]}")
        return faults

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def soak(seconds: float, clients: int = 60, seed: int = 1) -> tuple[list[str], str]:
    """Run the soak, and return (faults, summary)."""
    faults: list[str] = []
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "file")
        with open(path, "wb") as file:
            file.write(Expected().block)

        def start(name: str, *arguments: str) -> Server:
            server = Server(folder, name, *arguments)
            stack.callback(server.close)
            return server

        servers: list[Server] = []
        places: list[Place] = []
        for app, *more in (["random", "--seed", str(SEED)], ["echo"], ["file", path]):
            server = start(app, "serve", app, *more, "--port", "0")
            target = str(server.port)
            spliced = start(f"{app}-proxy", "proxy", "0", target)
            copied = start(f"{app}-copy", "proxy", "0", target, "--copy")
            for way, one in (("itself", server), ("spliced", spliced), ("copied", copied)):
                servers.append(one)
                places.append((app, way, one.port))

        crowd = Crowd(places, clients, seed)
        stopped = StoppedClients(places, seconds, rng)
        stack.callback(stopped.close)
        crowd.run(seconds / 4, stopped.step)
        for server in servers:
            server.early = server.resident()
        crowd.run(seconds * 3 / 4, stopped.step)
        for completed, left, count, more_faults in stopped.results():
            crowd.completed.update(completed)
            crowd.left.update(left)
            crowd.bytes += count
            crowd.faults += [f"stopped now and then: {fault}" for fault in more_faults]
        faults += crowd.faults
        for place in places:
            if not crowd.completed[f"{place[0]} {place[1]}"]:
                faults.append(f"nothing completed with {place[0]} {place[1]}")
        deadline = time.monotonic() + SETTLE_SECONDS
        for server in servers:
            if not server.wait_until_closed(deadline):
                faults.append(f"{server.name}: {server.sockets()} sockets left")
            grown = server.resident() - server.early
            if grown > GROWTH:
                faults.append(f"{server.name}: {grown >> 10} KiB more memory")
        for server in reversed(servers):  # the proxies first
            faults += server.end()
        completed = sum(crowd.completed.values())
        summary = (
            f"{completed} conversations completed, {sum(crowd.left.values())} left in the middle, "
            f"{stopped.stops} stops, {crowd.bytes >> 20} MiB, {len(faults)} faults; memory "
            + ", ".join(f"{s.name} {s.early >> 20}" for s in servers)
            + " MiB"
        )
    return faults, summary


def main() -> int:
    parser = argparse.ArgumentParser(description="Run mixed clients against every server.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--clients", type=int, default=60, help="at a time (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the clients (default: 1)")
    parser.add_argument("--of", type=json.loads, help=argparse.SUPPRESS)  # a process to be stopped
    options = parser.parse_args()
    if options.of:
        crowd = Crowd(options.of, options.clients, options.seed)
        crowd.run(options.seconds)
        print(json.dumps([crowd.completed, crowd.left, crowd.bytes, crowd.faults]))
        return 0
    faults, summary = soak(options.seconds, options.clients, options.seed)
    print(summary)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
