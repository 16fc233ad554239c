"""The cost of watching: of a sample, and of a picture of `--watch`.

Guards that watching 1,000 connections takes a few percent of a processor. A picture is drawn four
times a second: 10 ms for a sample and its picture would be four percent.
"""

from __future__ import annotations

import pytest

from minireactor.view.monitor import Monitor
from minireactor.view.terminal.screen import HISTORY, Options, draw

SIZE = 120, 50


@pytest.fixture
def crowd(connect_idle, reactor, descriptors):
    """`crowd(count)`: return a Monitor of that many connections, each with pending bytes."""

    def gather(count):
        descriptors(count + 100)
        for number in range(count):
            connect_idle().write(b"x" * (number + 1))
        return Monitor(reactor)

    return gather


@pytest.mark.benchmark(group="view: a sample")
@pytest.mark.parametrize("count", [1, 100, 1000])
def test_sample(crowd, measure, count):
    monitor = crowd(count)
    measure(monitor.sample, 1, "sample")
    for _ in range(20):  # one sample reads only some of many connections
        sample = monitor.sample()
    assert sample["totals"]["open"] == count
    assert len(sample["connections"]) == min(count, monitor.limit)


@pytest.mark.benchmark(group="view: a picture")
@pytest.mark.parametrize("count", [1, 100, 1000])
def test_picture(crowd, measure, count):
    monitor = crowd(count)
    samples = [monitor.sample() for _ in range(HISTORY)]
    options = Options("bench", colours=True)
    measure(lambda: draw(samples, SIZE, options), 1, "picture")
    assert sum("192.0.2.1" in line for line in draw(samples, SIZE, options)) == min(count, 45)
