"""State crossings: pending rises above the high mark and falls back to the low mark.

Guards `minireactor.core.flow`, and that connections without a crossing pay nothing for crossings.
Read the group "crossing" from its first line on: each benchmark adds something to the one before.
"""

from __future__ import annotations

import pytest

from minireactor.core import flow

MANY = 1000
CONNECTIONS = 100


class Producer:
    """Counts its pauses and resumes."""

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
    """An event that changes nothing: below the mark, again and again."""
    control = flow.FlowControl()
    control.register(Producer(), True)
    calls = set()

    def work():
        for _ in range(MANY):
            calls.add(control.fire(flow.BELOW))

    measure(work, MANY, "event")

    assert calls == {None}


def round_of(connect, reactor, measure, marks, producer, streaming):
    """Measure two bytes written and sent on each of 100 connections; return the producers."""
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
            link.drain()

    def work():
        for write in writes:
            write(b"ab")
        reactor.iterate()

    measure(work, CONNECTIONS, "write and send", setup)

    assert [link.drain() for link in links] == [2] * CONNECTIONS
    return producers


@pytest.mark.benchmark(group="crossing")
def test_no_producer(measure, connect, reactor):
    """Two bytes written and sent: the base of the other benchmarks of this group."""
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
