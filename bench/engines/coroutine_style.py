"""The servers as coroutines on minireactor's own streams."""

from __future__ import annotations

import time

from bench.engines import serving
from bench.engines.coroutine_apps import (
    back,
    echo,
    integers,
    lines,
    numbered,
    push,
    send_back,
    sink,
)
from minireactor import reactor
from minireactor.coroutines import StreamFactory
from minireactor.task import deferLater


async def tick(fired):
    """Call `fired()` in each PERIOD."""
    while True:
        await deferLater(reactor, serving.PERIOD)
        fired()


def greedy():
    """Serve random integers, and note the lateness of a timer."""
    from minireactor.defer import ensureDeferred

    reactor.callWhenRunning(lambda: ensureDeferred(tick(serving.Lateness().fired)))
    return integers()


def timer(firings):
    """Send back what comes in, and note the lateness of a timer from the first connection on."""
    from minireactor.defer import ensureDeferred

    lateness = []
    due = None

    def fired():
        nonlocal due
        now = time.monotonic()
        lateness.append(now - due)
        due = now + serving.PERIOD
        if len(lateness) == serving.SKIPPED + firings:
            serving.result(*lateness[serving.SKIPPED :])

    async def serve(reader, writer):
        nonlocal due
        if due is None:
            due = time.monotonic() + serving.PERIOD
            ensureDeferred(tick(fired))
        await send_back(reader, writer)

    return serve


def main():
    name, numbers = serving.arguments()
    app = {f.__name__: f for f in (integers, lines, greedy, push, numbered, sink, back, timer)}
    app["echo"] = echo
    serve = app[name](**numbers)

    async def with_marks(reader, writer):
        writer.transport.setWriteBufferLimits(serving.HIGH, serving.LOW)
        await serve(reader, writer)

    factory = StreamFactory(with_marks)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, backlog=serving.BACKLOG, interface=serving.HOST)
    reactor.callWhenRunning(serving.ready, port.getHost().port)
    reactor.run()
