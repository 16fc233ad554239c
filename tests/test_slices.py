"""Walks over many connections, in slices."""

from __future__ import annotations

import logging

import pytest
from support import Recorder

from minireactor.core.slices import SLICE_ENDINGS, SLICE_SECONDS, Walk


class Turns:
    """A reactor whose walks the test continues, on a clock that a visit moves."""

    def __init__(self):
        self.now = 0.0
        self.waiting = []

    def seconds(self):
        return self.now

    def call_later_internal(self, delay, f):
        assert delay == 0
        self.waiting.append(f)
        return self

    def active(self):
        return bool(self.waiting)

    def cancel(self):
        self.waiting.clear()

    def turn(self):
        self.waiting.pop()()


@pytest.fixture
def turns():
    return Turns()


def test_a_slice_ends_with_its_time_and_the_next_one_goes_on(turns):
    visited, finished = [], []

    def visit(number):
        visited.append(number)
        turns.now += SLICE_SECONDS / 100
        return False

    Walk(turns, range(350), visit, lambda: finished.append(True)).start()
    sizes = [len(visited)]
    while turns.waiting:
        turns.turn()
        sizes.append(len(visited) - sum(sizes))

    assert visited == list(range(350))
    assert sizes == [100, 100, 100, 50]
    assert finished == [True]


def test_a_slice_ends_no_more_connections_than_the_loop_closes_in_a_moment(turns):
    visited = []

    def end(number):
        visited.append(number)
        return number % 2 == 0

    Walk(turns, range(10 * SLICE_ENDINGS), end).start()
    assert len(visited) == 2 * SLICE_ENDINGS - 1
    turns.turn()
    assert len(visited) == 4 * SLICE_ENDINGS - 1


def test_few_are_visited_at_once(turns):
    visited, finished = [], []
    Walk(turns, "abc", lambda one: bool(visited.append(one)), lambda: finished.append(True)).start()
    assert (visited, finished, turns.waiting) == (["a", "b", "c"], [True], [])


def test_a_walk_that_is_cancelled_visits_nobody_and_does_not_finish(turns):
    visited, finished = [], []

    def end(number):
        visited.append(number)
        return True

    walk = Walk(turns, range(100), end, lambda: finished.append(True))
    walk.start()
    walk.cancel()
    walk.cancel()
    assert (len(visited), finished, turns.waiting) == (SLICE_ENDINGS, [], [])


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_a_visit_that_raises_ends_one_connection_and_the_walk_goes_on(wire, caplog, error):
    first, second = Recorder(), Recorder()
    connections = [wire.connect(protocol)[0] for protocol in (first, second)]
    visited = []

    def visit(connection):
        visited.append(connection)
        if connection is connections[0]:
            raise error("this one")
        return False

    with caplog.at_level(logging.ERROR):
        Walk(wire.reactor, connections, visit).start()
    wire.run()

    assert visited == connections
    assert first.reason.check(error)
    assert second.calls == ["made"]
    assert "in a walk over all connections" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_B3_an_end_of_the_program_goes_through(wire, error):
    transport, _ = wire.connect(Recorder())

    def visit(connection):
        raise error

    with pytest.raises(error):
        Walk(wire.reactor, [transport], visit).start()
