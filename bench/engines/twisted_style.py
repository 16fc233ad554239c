"""The servers as a Twisted program. minireactor's servers are this file with its imports changed.

Each application imports in its own function what no other application needs. So the start of one
application does not pay for another.
"""

from __future__ import annotations

import time

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from bench.engines import serving


def integers(line=None):
    """Write each line with one call: random integers unless a line is given."""
    import random

    from twisted.internet import interfaces
    from twisted.protocols.basic import LineReceiver
    from zope.interface import implementer

    @implementer(interfaces.IPushProducer)
    class Integers:
        def __init__(self, proto, count):
            self._proto = proto
            self._goal = count
            self._produced = 0
            self._paused = False

        def pauseProducing(self):
            self._paused = True

        def resumeProducing(self):
            self._paused = False
            while not self._paused and self._produced < self._goal:
                number = random.randint(0, 10000)
                self._proto.transport.write(b"%d\r\n" % (number))
                self._produced += 1
            if self._produced == self._goal:
                self._proto.transport.unregisterProducer()
                self._proto.transport.loseConnection()

        def stopProducing(self):
            pass

    class Lines(Integers):
        def resumeProducing(self):
            self._paused = False
            while not self._paused and self._produced < self._goal:
                self._proto.transport.write(line)
                self._produced += 1
            if self._produced == self._goal:
                self._proto.transport.unregisterProducer()
                self._proto.transport.loseConnection()

    kind = Integers if line is None else Lines

    class Serve(LineReceiver):
        def connectionMade(self):
            self.transport.bufferSize = serving.HIGH
            self.transport.write(serving.GREETING)

        def lineReceived(self, line):
            producer = kind(self, int(line))
            self.transport.registerProducer(producer, True)
            producer.resumeProducing()

    return Serve


def lines():
    return integers(serving.LINE)


def greedy():
    """Serve random integers, and note the lateness of a timer."""
    lateness = None

    def start():
        nonlocal lateness
        lateness = serving.Lateness()
        reactor.callLater(serving.PERIOD, fire)

    def fire():
        lateness.fired()
        reactor.callLater(serving.PERIOD, fire)

    reactor.callWhenRunning(start)
    return integers()


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


def echo():
    return Echo


class Pushed:
    """A push producer that writes `count` chunks and then closes the connection."""

    def __init__(self, transport, count):
        self.transport = transport
        self.left = count
        self.paused = False

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(serving.CHUNK)
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self):
        self.left = 0


class Push(Protocol):
    producer = Pushed

    def connectionMade(self):
        self.transport.bufferSize = serving.HIGH

    def dataReceived(self, data):
        producer = self.producer(self.transport, int(data))
        self.transport.registerProducer(producer, True)
        producer.resumeProducing()


def push():
    return Push


def numbered(length):
    """Push lines. Each is a new object, as in a real program."""

    class Numbered(Pushed):
        def resumeProducing(self):
            self.paused = False
            while self.left and not self.paused:
                self.left -= 1
                self.transport.write(b"%0*d\r\n" % (length - 2, self.left))
            if not self.left:
                self.transport.unregisterProducer()
                self.transport.loseConnection()

    class PushNumbered(Push):
        producer = Numbered

    return PushNumbered


class Pulled:
    """A pull producer that writes `count` chunks and then closes the connection."""

    def __init__(self, transport, count):
        self.transport = transport
        self.left = count

    def resumeProducing(self):
        self.left -= 1
        self.transport.write(serving.CHUNK)
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self):
        self.left = 0


class Pull(Protocol):
    def connectionMade(self):
        self.transport.bufferSize = serving.HIGH

    def dataReceived(self, data):
        self.transport.registerProducer(Pulled(self.transport, int(data)), False)


def pull():
    return Pull


def sink(unit):
    """Count what comes in, and answer after each `unit` bytes."""

    class Sink(Protocol):
        def connectionMade(self):
            self.left = unit

        def dataReceived(self, data):
            self.left -= len(data)
            while self.left <= 0:
                self.left += unit
                self.transport.write(b"+")

    return Sink


class Back(Protocol):
    """Sends back what it receives, and does not read while pending is above the high mark."""

    def connectionMade(self):
        self.transport.bufferSize = serving.HIGH
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.transport.write(data)


def back():
    return Back


def timer(firings):
    """Send back what comes in, and note the lateness of a timer from the first connection on."""
    lateness = []

    def fire(due):
        now = time.monotonic()
        lateness.append(now - due)
        if len(lateness) == serving.SKIPPED + firings:
            serving.result(*lateness[serving.SKIPPED :])
        reactor.callLater(serving.PERIOD, fire, now + serving.PERIOD)

    class Timed(Back):
        started = False

        def connectionMade(self):
            Back.connectionMade(self)
            if not Timed.started:
                Timed.started = True
                reactor.callLater(serving.PERIOD, fire, time.monotonic() + serving.PERIOD)

    return Timed


def timers(count):
    """Add `count` delayed calls, cancel every other one, and wait for the rest.

    A tenth as many are added first, to warm up. The result is the CPU seconds and the number of
    calls that were made."""
    state = {"left": 0, "fired": 0, "since": 0.0}

    def start(amount, then):
        state.update(left=amount - amount // 2, fired=0, since=time.process_time())
        calls = [reactor.callLater(delay, fire, then) for delay in serving.delays(amount)]
        for call in calls[1::2]:
            call.cancel()

    def fire(then):
        state["fired"] += 1
        state["left"] -= 1
        if not state["left"]:
            then(time.process_time() - state["since"])

    def warm(cpu):
        reactor.callLater(0, start, count, done)

    def done(cpu):
        reactor.callLater(0.05, lambda: serving.result(cpu, state["fired"]))

    reactor.callWhenRunning(start, count // 10, warm)
    return Echo


def main():
    name, numbers = serving.arguments()
    app = {
        f.__name__: f
        for f in (integers, lines, greedy, echo, push, numbered, pull, sink, back, timer, timers)
    }[name.removeprefix(serving.TLS)]
    factory = Factory.forProtocol(app(**numbers))
    factory.noisy = False
    where = {"backlog": serving.BACKLOG, "interface": serving.HOST}
    if name.startswith(serving.TLS):
        port = reactor.listenSSL(0, factory, serving.tls_context(reactor), **where)
    else:
        port = reactor.listenTCP(0, factory, **where)
    reactor.callWhenRunning(serving.ready, port.getHost().port)
    reactor.run()
