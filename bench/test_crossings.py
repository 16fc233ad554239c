"""State crossings: pending goes over the high mark and comes back to the low one.

Guards `minireactor.core.flow`, and that a connection without a crossing pays nothing for those that
have one. The group "crossing" is read from its first line on: each adds something to the one
before.
"""

from __future__ import annotations

import pytest

from minireactor.core import flow

MANY = 1000
CONNECTIONS = 100


class Producer:
    """Counts what it is told."""

    def __init__(self):
        self.pauses = 0
        self.resumes = 0

    def pauseProducing(self):
        self.pauses += 1

    def resumeProducing(self):
        self.resumes += 1

    def stopProducing(self):
        pass


@pytest.mark.benchmark(group="crossing: the table alone")
def test_table(measure):
    """Pause and resume through `FlowControl.fire`, with the calls on the producer."""
    control = flow.FlowControl()
    producer = Producer()
    control.register(producer, True)

    def work():
        for _ in range(MANY):
            flow.call(*control.fire(flow.ABOVE))
            flow.call(*control.fire(flow.BELOW))

    measure(work, MANY, "pause and resume")

    assert control.state is flow.FLOWING
    assert producer.pauses == producer.resumes >= MANY


@pytest.mark.benchmark(group="crossing: the table alone")
def test_table_without_crossing(measure):
    """The events of a connection that nothing follows from: below the mark, again and again."""
    control = flow.FlowControl()
    control.register(Producer(), True)
    calls = set()

    def work():
        for _ in range(MANY):
            calls.add(control.fire(flow.BELOW))

    measure(work, MANY, "event")

    assert calls == {None}


def round_of(connect, reactor, measure, marks, producer, streaming):
    """Two bytes written and sent on each of 100 connections; the producers."""
    links = [connect() for _ in range(CONNECTIONS)]
    producers = []
    for link in links:
        link.transport.setWriteBufferLimits(*marks)
        if producer is not None:
            producers.append(producer())
            link.transport.registerProducer(producers[-1], streaming)
    writes = [link.transport.write for link in links]

    def setup():
        for link in links:
            link.settle()

    def work():
        for write in writes:
            write(b"ab")
        reactor.iterate()

    measure(work, CONNECTIONS, "write and send", setup)

    assert [link.settle() for link in links] == [2] * CONNECTIONS
    return producers


@pytest.mark.benchmark(group="crossing")
def test_no_producer(measure, connect, reactor):
    """Two bytes written and sent: what the others add to."""
    round_of(connect, reactor, measure, (1024, 0), None, True)


@pytest.mark.benchmark(group="crossing")
def test_flowing(measure, connect, reactor):
    """The same with a push producer that need not be paused."""
    producers = round_of(connect, reactor, measure, (1024, 0), Producer, True)

    assert not any(producer.pauses or producer.resumes for producer in producers)


@pytest.mark.benchmark(group="crossing")
def test_pull(measure, connect, reactor):
    """The same with a pull producer, which is asked for more after each send."""
    producers = round_of(connect, reactor, measure, (1024, 0), Producer, False)

    assert all(producer.resumes for producer in producers)


@pytest.mark.benchmark(group="crossing")
def test_paused_and_resumed(measure, connect, reactor):
    """The same with a push producer that is paused by the write and resumed by the send."""
    producers = round_of(connect, reactor, measure, (1, 0), Producer, True)

    assert all(producer.pauses == producer.resumes > 0 for producer in producers)
