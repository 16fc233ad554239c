"""Random conversations through a proxy, several at a time: each byte and each end arrives in order.

A conversation has two ends. Each end sends data in writes of any size, pauses, half-closes before
or after the other end, or resets the connection at any point. The other end must receive all of
the data and then the end of the stream. If the connection is reset, the other end must receive the
beginning of the data and then the reset: never an end of the stream after half of the bytes.

A failure prints the seed and the number of the conversation. To repeat a run, or to run more:

    MINIREACTOR_CONVERSATIONS=10000 MINIREACTOR_SEED=12345 python -m pytest -m '' \
        tests/test_proxy_walk.py
"""

from __future__ import annotations

import os
import random
import socket
import time

import pytest
from proxy_support import MODES, RecordingProxyFactory, listening
from support import PATIENCE, iterations, open_descriptors, pump, reset

if "splice" in MODES:
    from minireactor.transports import splice

CONVERSATIONS = 400
RANGES = [(0, 0), (1, 1), (0, 200), (0, 200), (0, 20_000), (0, 20_000), (0, 300_000)]
SELDOM = [(0, 8 * 1024 * 1024)]
# Marks and rate of each of those that go on at a time.
SLOTS = [
    ((64 * 1024, 16 * 1024), None),
    ((64 * 1024, 16 * 1024), None),
    ((1, 0), None),
    ((1000, 0), None),
    ((5000, 4999), None),
    ((300_000, 100), None),
    ((64 * 1024, 16 * 1024), 40_000_000),
    ((2000, 100), 40_000_000),
]

_SOURCE = random.Random(0).randbytes(1_000_003) if hasattr(random.Random, "randbytes") else None
BLOCK = memoryview((_SOURCE or os.urandom(1_000_003)) * 2)
PERIOD = len(BLOCK) // 2
LARGEST_PIECE = 256 * 1024


class Plan:
    """What one end is to do."""

    def __init__(self, rng):
        low, high = rng.choice(SELDOM if rng.random() < 0.01 else RANGES)
        self.size = rng.randint(low, high)
        self.first = rng.randrange(PERIOD)  # where in BLOCK its bytes begin
        self.waits_for_the_end = False  # half-closes only after the other end has
        self.reset_after = None  # bytes sent and received
        self.piece = rng.choice([1, 10, 1000, 5000, 65536, LARGEST_PIECE])
        # Some hundred pieces are enough to tear it.
        self.piece = max(self.piece, self.size // 300)
        self.laziness = rng.choice([0, 0, 0, 0.3, 0.9])
        self.buffers = rng.choice([None, None, 150_000])

    def __repr__(self):
        return str(vars(self))


def plans(rng):
    client, target = Plan(rng), Plan(rng)
    order = rng.random()
    if order < 0.6:
        rng.choice([client, target]).waits_for_the_end = True
    if rng.random() < 0.25:
        all_bytes = client.size + target.size
        rng.choice([client, target]).reset_after = rng.randint(0, all_bytes + all_bytes // 10)
    return client, target


class End:
    """One end: a plain socket that follows its plan, a little at a time."""

    def __init__(self, sock, plan, peer, rng):
        sock.setblocking(False)
        self.sock = sock
        self.plan = plan
        self.peer = peer  # the other end's plan
        self.rng = rng
        self.sent = 0
        self.received = 0
        self.has_half_closed = False
        self.outcome = None  # how the stream from the other end has ended: "end" or "reset"
        self.has_reset = False
        self.is_over = False

    def step(self):
        """Take a step. Return whether anything has happened, None if the end did not look."""
        if self.is_over:
            return False
        if self.rng.random() < self.plan.laziness:
            return None
        limit = self.plan.reset_after
        if limit is not None and self.sent + self.received >= limit:
            reset(self.sock)
            self.has_reset = self.is_over = True
            return True
        try:
            moved = self._send() | self._receive()
        except (ConnectionResetError, BrokenPipeError):
            self.outcome = "reset"
        if self.outcome == "reset" or (self.has_half_closed and self.outcome):
            self.sock.close()
            self.is_over = moved = True
        return moved

    def _send(self):
        plan = self.plan
        if self.sent < plan.size:
            count = min(self.rng.randint(1, plan.piece), plan.size - self.sent)
            start = (plan.first + self.sent) % PERIOD
            try:
                self.sent += self.sock.send(BLOCK[start : start + count])
            except BlockingIOError:
                return False
            return True
        if self.has_half_closed or (plan.waits_for_the_end and self.outcome is None):
            return False
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # reset; what came before it may still be there to be read
            if self.outcome is None:
                return False
            self.outcome = "reset"
        self.has_half_closed = True
        return True

    def _receive(self):
        if self.outcome is not None:
            return False
        try:
            data = self.sock.recv(self.rng.randint(1, max(self.plan.piece, self.peer.size // 300)))
        except BlockingIOError:
            return False
        start = (self.peer.first + self.received) % PERIOD
        assert data == BLOCK[start : start + len(data)], f"wrong bytes after {self.received}"
        self.received += len(data)
        assert self.received <= self.peer.size, "more bytes than were sent"
        if not data:
            self.outcome = "end"
        return True


class Slot:
    """One conversation after the other through one port."""

    def __init__(self, reactor, closing, mode, marks, rate):
        self.listener = closing(listening())
        self.listener.setblocking(False)
        number = self.listener.getsockname()[1]
        options = {"high": marks[0], "low": marks[1], "rate": rate, **MODES[mode][0]}
        self.factory = RecordingProxyFactory("127.0.0.1", number, **options)
        self.port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.port.setWriteBufferLimits(*marks)
        self.name = None

    def start(self, name):
        self.name = name
        rng = random.Random(name)
        self.plans = plans(rng)
        self.rng = rng
        sock = socket.socket()
        self.factory.calls.clear()
        self._set_buffers(sock, self.plans[0])
        sock.connect(("127.0.0.1", self.port.getHost().port))
        self.client = End(sock, *self.plans, rng)
        self.target = None
        self.moved = time.monotonic()

    @staticmethod
    def _set_buffers(sock, plan):
        if plan.buffers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, plan.buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.buffers)

    def step(self):
        if self.target is None:
            self._accept()
        steps = [end.step() for end in (self.client, self.target) if end is not None]
        now = time.monotonic()
        if True in steps:
            self.moved = now
        assert now - self.moved < PATIENCE, "nothing moves"
        return steps != [False] * len(steps)

    def _accept(self):
        if "connected" not in self.factory.calls:
            return
        try:
            sock, address = self.listener.accept()
        except BlockingIOError:
            return
        if address[1] != self.factory.proxy.target.getHost().port:
            # Of a client that was reset before it was joined, and an attempt that was given up.
            sock.close()
            return
        self._set_buffers(sock, self.plans[1])
        self.target = End(sock, *self.plans[::-1], self.rng)

    def is_over(self):
        if not self.client.is_over or "ended" not in self.factory.calls:
            return False
        if self.target is None:
            return "connected" not in self.factory.calls
        return self.target.is_over

    def check(self):
        """Assert that each end got what was sent to it, and no reset without a cause."""
        ends = [self.client, self.target]
        if self.target is None:
            assert self.client.has_reset, "no target"
            return
        for own, other in (ends, ends[::-1]):
            if own.has_reset:
                continue
            if own.outcome == "end":
                assert own.received == own.peer.size, "an early end"
            if own.outcome == "reset":
                assert other.has_reset, "a reset that nobody sent"
            elif other.has_reset:
                assert other.has_half_closed, "a reset was lost"

    def state(self):
        ends = [end for end in (self.client, self.target) if end is not None]
        text = [
            (e.sent, e.received, e.outcome, e.has_half_closed, e.has_reset, e.is_over) for e in ends
        ]
        return f"{text}, {self.plans}, {self.factory.calls}"


@pytest.mark.slow
def test_random_conversations(reactor, closing, mode):
    seed = int(os.environ.get("MINIREACTOR_SEED", random.randrange(10**6)))
    left = range(int(os.environ.get("MINIREACTOR_CONVERSATIONS", CONVERSATIONS)))
    numbers = iter(left)
    slots = [Slot(reactor, closing, mode, *options) for options in SLOTS]
    iterations(reactor)
    if mode == "splice":
        splice.close_spare_pipes()  # of other tests
    before = open_descriptors()
    busy = set()
    over = 0
    while True:
        for slot in set(slots) - busy:
            number = next(numbers, None)
            if number is not None:
                slot.start(f"{seed}/{number}")
                busy.add(slot)
        if not busy:
            break
        waiting = True
        for slot in sorted(busy, key=slots.index):
            try:
                waiting &= not slot.step()
                if slot.is_over():
                    slot.check()
                    busy.discard(slot)
                    over += 1
            except AssertionError as error:
                name, number = slot.name.split("/")
                raise AssertionError(
                    f"MINIREACTOR_SEED={name}, conversation {number}: {error}; {slot.state()}"
                ) from error
        reactor.iterate(0.001 if waiting else 0)
    assert over == len(left)
    if mode == "splice":
        splice.close_spare_pipes()
    pump(reactor, lambda: open_descriptors() == before, "lingering sockets to close")
    assert set(reactor.getReaders()) == {slot.port for slot in slots}
    assert reactor.getWriters() == reactor.getDelayedCalls() == []
    assert [slot.factory.alive for slot in slots] == [0] * len(slots)
