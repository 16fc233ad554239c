"""A long random walk over a transport's public interface, held against an independent model.

The model is written from the rules and knows nothing of the table or the buffer. It consists of
plain numbers, and goes one iteration of the loop at a time. After every step, the transport, the
kernel's end, the protocol and the producer must agree with the model. A failure prints the seed
and the last steps. To repeat a run:

    MINIREACTOR_SEED=12345 python -m pytest -m '' tests/test_random_walk.py
"""

from __future__ import annotations

import errno
import os
import random

import pytest
from support import HalfCloseable, Recorder

STEPS = 200_000
MARKS = [(100, 20), (1, 0), (50, 49), (5000, 0), (20_000, 10_000)]
ACTIONS = {  # and how often each is taken
    "write": 30,
    "register": 6,
    "unregister": 3,
    "room": 25,
    "limits": 3,
    "pause": 4,
    "resume": 6,
    "input": 6,
    "eof": 0.3,
    "lose": 1,
    "half": 0.7,
    "abort": 0.5,
    "reset": 0.3,
    "nothing": 5,
}
SIZES = [0, 1, 2, 7, 30, 99, 100, 101, 500, 8192, 30_000]


class Producer:
    """A strict producer: any breach of the contract raises, and is recorded.

    A script says what the producer does when it is called. The model reads the same script."""

    def __init__(self, streaming, script):
        self.streaming = streaming
        self.script = script
        self.transport = None
        self.calls = []
        self.paused = False
        self.stopped = False
        self.breaches = []

    def _called(self, name, allowed):
        self.calls.append(name)
        if self.stopped or not allowed:
            self.breaches.append(self.calls[-5:])

    def pauseProducing(self):
        self._called("pause", self.streaming and not self.paused)
        self.paused = True
        if self.script.on_pause == "abort":
            self.transport.abortConnection()
        elif self.script.on_pause == "lose":
            self.transport.loseConnection()

    def resumeProducing(self):
        self._called("resume", self.paused if self.streaming else True)
        self.paused = False
        for size in self.script.on_resume.pop(0) if self.script.on_resume else ():
            if self.paused:
                break
            self.transport.write(b"r" * size)
        if self.script.unregisters and not self.script.on_resume:
            self.transport.unregisterProducer()

    def stopProducing(self):
        self._called("stop", True)
        self.stopped = True
        # The connection takes nothing any more; nor may it fall over what comes all the same.
        self.transport.unregisterProducer()
        self.transport.write(b"s" * 10)
        self.transport.loseWriteConnection()


ANSWERS = [None] * 20 + SIZES * 2 + ["lose", "half"]


class Answering:
    """A mix-in for protocols: a seed decides what it does with input, as in the model."""

    def dataReceived(self, data):
        super().dataReceived(data)
        answer = self.answers.choice(ANSWERS)
        if answer == "lose":
            self.transport.loseConnection()
        elif answer == "half":
            self.transport.loseWriteConnection()
        elif answer is not None:
            self.transport.write(b"a" * answer)


class AnsweringRecorder(Answering, Recorder):
    pass


class AnsweringHalfCloseable(Answering, HalfCloseable):
    pass


class Script:
    def __init__(self, rng):
        self.on_pause = rng.choice([None] * 30 + ["abort", "lose"])
        self.on_resume = [
            [rng.choice(SIZES) for _ in range(rng.randrange(4))] for _ in range(rng.randrange(6))
        ]
        self.unregisters = rng.random() < 0.5

    def copy(self):
        twin = object.__new__(Script)
        twin.on_pause = self.on_pause
        twin.on_resume = [list(sizes) for sizes in self.on_resume]
        twin.unregisters = self.unregisters
        return twin


class Model:
    """The rules, in numbers."""

    def __init__(self, half_closeable, answers):
        self.answers = answers
        self.high, self.low = 65536, 16384
        self.pending = self.sent = self.room = self.read = 0
        self.inbox = []
        self.half_closeable = half_closeable
        self.lose = self.half = self.aborted = self.write_shut = self.read_shut = False
        self.lost = self.reset = False
        self.reading = True
        self.flush_asked = self.waits_writable = self.turn_asked = self.drop_asked = False
        self.calls = ["made"]
        self.script = None  # of the producer, if there is one
        self.push = self.paused = False
        self.produced = []

    # the producer

    def register(self, script, push):
        self.produced = []
        if self.lost or self.write_shut:
            self.produced.append("stop")
            return
        self.script, self.push, self.paused = script, push, False
        if not push:
            self._resume()

    def unregister(self):
        self.script = None
        self._maybe_ask()

    def _maybe_ask(self):
        if (self.lose or self.half) and not (self.lost or self.aborted or self.waits_writable):
            self.flush_asked = True

    def _above(self):
        if self.script is not None and self.push and not self.paused:
            self.paused = True
            self.produced.append("pause")
            if self.script.on_pause == "abort":
                self.abort()
            elif self.script.on_pause == "lose":
                self.lose_connection()

    def _resume(self):
        script = self.script
        self.paused = False
        self.produced.append("resume")
        for size in script.on_resume.pop(0) if script.on_resume else ():
            if self.paused:
                break
            self.write(size)
        if script.unregisters and not script.on_resume:
            self.unregister()

    # the application

    def write(self, size):
        if self.lost or self.aborted or self.write_shut:
            return
        self.pending += size
        if size and not self.waits_writable:
            self.flush_asked = True
        if self.pending > self.high:
            self._above()

    def limits(self, high, low):
        self.high, self.low = high, low
        if self.pending > high:
            self._above()
        elif 0 < self.pending <= low:
            self.flush_asked, self.waits_writable = True, False

    def lose_connection(self):
        if not (self.lost or self.aborted or self.lose):
            self.lose, self.reading = True, False
            self.drop_asked = self.waits_writable
            self._maybe_ask()

    def lose_write(self):
        if not (self.lost or self.aborted or self.lose or self.write_shut):
            self.half = True
            self._maybe_ask()

    def abort(self):
        if not (self.lost or self.aborted):
            self.aborted, self.reading = True, False
            self.pending = 0
            self.flush_asked = self.waits_writable = False

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        if not (self.lost or self.aborted or self.lose):
            self.reading = True

    # one iteration of the loop

    def step(self):
        if self.drop_asked:
            self.drop_asked = False
            self._begin_to_drop()
        if self.aborted:
            self._end()
        if self.flush_asked and not self.lost:
            self.flush_asked = False
            self._flush()
        if self.turn_asked:
            self.turn_asked = False
            if self._waits_for_room() and self.pending <= self.low and not self.aborted:
                self._resume()
        readable = (bool(self.inbox) or self.reset) and not self.read_shut
        writable = self.waits_writable and (self.room > 0 or self.reset)
        received = readable and self.reading and not self.lost
        if received:
            self._receive()
        if writable and self.waits_writable and not (self.lost or self.aborted):
            self._flush()
        # What came before the reset is read first, as long as anything is to be read.
        reads_on = received and self.reading and not self.read_shut
        if self.reset and not self.aborted and not reads_on:
            self._end()

    def _begin_to_drop(self):
        # C1: the peer may write before it reads, and the close waits for the peer.
        if self.lose and not (self.lost or self.aborted or self.write_shut or self.read_shut):
            self.reading = True

    def _flush(self):
        before = self.pending
        if before:
            if self.reset:
                self._end()
                return
            sent = min(before, self.room)
            self.room -= sent
            self.sent += sent
            self.pending -= sent
        self.waits_writable = self.pending > 0
        if self.waits_writable:
            self._begin_to_drop()
        if before and self.pending <= self.low and self._waits_for_room():
            self.turn_asked = True
        if self.lost or self.aborted or self.pending or self.script is not None:
            return
        if self.lose:
            self._end()
        elif self.half:
            if self.reset:
                self._end()
                return
            self.half, self.write_shut = False, True
            if self.half_closeable:
                self.calls.append("write lost")
            if self.read_shut:
                self._end()

    def _waits_for_room(self):
        return self.script is not None and (self.paused or not self.push)

    def _receive(self):
        if not self.inbox:
            self._end()
            return
        chunk = self.inbox[0]
        if self.lose:
            if chunk:
                self.inbox.pop(0)
            self.read_shut = not chunk
            return
        if chunk:
            self.read += chunk
            self.calls.append("data")
            self.inbox.pop(0)
            self._answer(self.answers.choice(ANSWERS))
            return
        self.read_shut = True
        if self.half_closeable:
            self.calls.append("read lost")
            if not self.write_shut:
                return
        self._end()

    def _answer(self, answer):
        flush_comes_anyway = self.flush_asked or self.waits_writable or self.write_shut
        if answer == "lose":
            self.lose_connection()
        elif answer == "half":
            self.lose_write()
        elif answer is not None:
            self.write(answer)
        if not (flush_comes_anyway or self.lost or self.aborted):
            self.flush_asked = False
            self._flush()

    def _end(self):
        if self.lost:
            return
        self.lost, self.reading = True, False
        self.pending = 0
        self.flush_asked = self.waits_writable = False
        if self.script is not None:
            self.script = None
            self.produced.append("stop")
        self.calls.append("lost")


class Walk:
    """One connection and its model, side by side."""

    def __init__(self, wire, rng):
        self.wire, self.rng = wire, rng
        half = rng.random() < 0.5
        self.protocol = AnsweringHalfCloseable() if half else AnsweringRecorder()
        seed = rng.random()
        self.protocol.answers = random.Random(seed)
        self.transport, self.sock = wire.connect(self.protocol)
        self.model = Model(half, random.Random(seed))
        self.producer = None
        self.steps = []

    def act(self):
        rng, model, transport, sock = self.rng, self.model, self.transport, self.sock
        action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        argument = None
        if action == "write":
            argument = rng.choice(SIZES)
            model.write(argument)
            data = b"w" * argument
            if rng.random() < 0.2:
                transport.writeSequence([data[:5], bytearray(data[5:])])
            else:
                transport.write(rng.choice([bytes, bytearray, memoryview])(data))
        elif action == "register" and transport.producer is None:
            argument = rng.random() < 0.6
            script = Script(rng)
            self.producer = Producer(argument, script)
            self.producer.transport = transport
            model.register(script.copy(), argument)
            transport.registerProducer(self.producer, argument)
        elif action == "unregister":
            model.unregister()
            transport.unregisterProducer()
        elif action == "room":
            argument = rng.choice([1, 10, 80, 100, 1000, 10_000, 100_000])
            sock.room += argument
            model.room += argument
        elif action == "limits":
            argument = rng.choice(MARKS)
            model.limits(*argument)
            transport.setWriteBufferLimits(*argument)
        elif action == "pause":
            model.pause_reading()
            transport.pauseProducing()
        elif action == "resume":
            model.resume_reading()
            transport.resumeProducing()
        elif action in ("input", "eof") and b"" not in sock.inbox:
            argument = rng.randrange(1, 4000) if action == "input" else 0
            sock.inbox.append(b"i" * argument)
            model.inbox.append(argument)
        elif action == "lose":
            model.lose_connection()
            transport.loseConnection()
        elif action == "half":
            model.lose_write()
            transport.loseWriteConnection()
        elif action == "abort":
            model.abort()
            transport.abortConnection()
        elif action == "reset":
            sock.error = errno.ECONNRESET
            model.reset = True
        self.steps.append((action, argument))
        self.agree()
        model.step()
        self.wire.run(1)
        self.agree()

    def agree(self):
        model, transport, sock = self.model, self.transport, self.sock
        assert transport.pending == model.pending
        assert len(sock.taken) == transport.bytes_out == model.sent
        assert sock.room == model.room
        assert (sock.shut, sock.closed) == (model.write_shut, model.lost)
        assert transport.reading == model.reading
        assert self.protocol.calls == model.calls
        assert transport.bytes_in == model.read
        assert transport.disconnected == model.lost
        if self.producer is not None:
            assert self.producer.calls == model.produced
            assert not self.producer.breaches
            assert (transport.producer is None) == (model.script is None)


@pytest.mark.slow
def test_a_random_walk_finds_no_difference_from_the_model(wire):
    seed = int(os.environ.get("MINIREACTOR_SEED") or random.SystemRandom().randrange(10**9))
    rng = random.Random(seed)
    walk = Walk(wire, rng)
    ended = 0
    for step in range(STEPS):
        try:
            walk.act()
        except AssertionError as error:
            raise AssertionError(
                f"MINIREACTOR_SEED={seed}, step {step}, after {walk.steps[-12:]}: {error}"
            ) from error
        if walk.model.lost and rng.random() < 0.1:
            walk = Walk(wire, rng)
            ended += 1
    assert ended > STEPS / 1000
    assert not wire.reactor.getReaders() or walk.transport.reading
