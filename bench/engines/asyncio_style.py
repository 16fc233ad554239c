"""The servers as asyncio protocols, with pause_writing() and resume_writing(); also on uvloop."""

from __future__ import annotations

import asyncio
import time

from bench.engines import serving


class Streaming(asyncio.Protocol):
    """A protocol with marks: writes while it is not paused, and closes when all is written."""

    loop = None
    paused = False

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(serving.HIGH, serving.LOW)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.produce()

    def produce(self):
        pass

    def finish(self):
        # Not at once: if asyncio closes a transport within resume_writing() and has nothing left
        # to send, it ends the connection twice and logs an AttributeError.
        self.loop.call_soon(self.transport.close)


def integers(loop, line=None):
    import random

    class Integers(Streaming):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(serving.GREETING)
            self.received = b""
            self.goal = self.produced = 0

        def data_received(self, data):
            self.received += data
            if b"\n" in self.received:
                self.goal = int(self.received)
                self.produce()

        def produce(self):
            while not self.paused and self.produced < self.goal:
                number = random.randint(0, 10000)
                self.transport.write(b"%d\r\n" % (number))
                self.produced += 1
            if self.produced == self.goal:
                self.finish()

    class Lines(Integers):
        def produce(self):
            while not self.paused and self.produced < self.goal:
                self.transport.write(line)
                self.produced += 1
            if self.produced == self.goal:
                self.finish()

    Streaming.loop = loop
    return Integers if line is None else Lines


def lines(loop):
    return integers(loop, serving.LINE)


def start_noting(loop):
    """Start the timer whose lateness is noted."""
    lateness = serving.Lateness()

    def fire():
        lateness.fired()
        loop.call_later(serving.PERIOD, fire)

    loop.call_later(serving.PERIOD, fire)


def greedy(loop):
    loop.call_soon(start_noting, loop)
    return integers(loop)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


def echo(loop):
    return Echo


class Push(Streaming):
    left = 0

    def data_received(self, data):
        self.left = int(data)
        self.produce()

    def produce(self):
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(serving.CHUNK)
        if not self.left:
            self.finish()


def push(loop):
    Streaming.loop = loop
    return Push


def numbered(loop, length):
    class Numbered(Push):
        def produce(self):
            while self.left and not self.paused:
                self.left -= 1
                self.transport.write(b"%0*d\r\n" % (length - 2, self.left))
            if not self.left:
                self.finish()

    Streaming.loop = loop
    return Numbered


def pull(loop):
    """Write one chunk in each loop iteration, unless paused: asyncio has no pull producers."""

    class Pull(Push):
        def produce(self):
            if self.left:
                self.left -= 1
                self.transport.write(serving.CHUNK)
            if not self.left:
                self.finish()
            elif not self.paused:
                loop.call_soon(self.produce)

    Streaming.loop = loop
    return Pull


def sink(loop, unit):
    class Sink(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.left = unit

        def data_received(self, data):
            self.left -= len(data)
            while self.left <= 0:
                self.left += unit
                self.transport.write(b"+")

    return Sink


class Back(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(serving.HIGH, serving.LOW)

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


def back(loop):
    return Back


def ticking(loop, firings):
    """Return a function whose first call starts the timer whose lateness is noted."""
    lateness = []
    started = []

    def fire(due):
        now = time.monotonic()
        lateness.append(now - due)
        if len(lateness) == serving.SKIPPED + firings:
            serving.result(*lateness[serving.SKIPPED :])
        loop.call_later(serving.PERIOD, fire, now + serving.PERIOD)

    def start():
        if not started:
            started.append(True)
            loop.call_later(serving.PERIOD, fire, time.monotonic() + serving.PERIOD)

    return start


def timer(loop, firings):
    start = ticking(loop, firings)

    class Timed(Back):
        def connection_made(self, transport):
            super().connection_made(transport)
            start()

    return Timed


def timers(loop, count):
    state = {"left": 0, "fired": 0, "since": 0.0}

    def start(amount, then):
        state.update(left=amount - amount // 2, fired=0, since=time.process_time())
        calls = [loop.call_later(delay, fire, then) for delay in serving.delays(amount)]
        for call in calls[1::2]:
            call.cancel()

    def fire(then):
        state["fired"] += 1
        state["left"] -= 1
        if not state["left"]:
            then(time.process_time() - state["since"])

    def warm(cpu):
        loop.call_later(0, start, count, done)

    def done(cpu):
        loop.call_later(0.05, lambda: serving.result(cpu, state["fired"]))

    loop.call_soon(start, count // 10, warm)
    return Echo


def run(new_event_loop):
    name, numbers = serving.arguments()
    context = serving.tls_context() if name.startswith(serving.TLS) else None
    app = {
        f.__name__: f
        for f in (integers, lines, greedy, echo, push, numbered, pull, sink, back, timer, timers)
    }[name.removeprefix(serving.TLS)]
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    listening = loop.create_server(
        app(loop, **numbers), serving.HOST, 0, backlog=serving.BACKLOG, ssl=context
    )
    server = loop.run_until_complete(listening)
    serving.ready(server.sockets[0].getsockname()[1])
    loop.run_forever()


def main():
    run(asyncio.new_event_loop)


def main_uvloop():
    import uvloop

    run(uvloop.new_event_loop)
