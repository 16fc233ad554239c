"""Triggers: the phases of a system event."""

from __future__ import annotations

import logging

import pytest

from minireactor.core.triggers import SystemEvent
from minireactor.defer import Deferred, succeed


class Waits:
    """An object with addBoth, which an event waits for."""

    def __init__(self):
        self.callbacks = []

    def addBoth(self, callback):
        self.callbacks.append(callback)

    def fire(self, result=None):
        for callback in self.callbacks:
            callback(result)


@pytest.fixture
def order():
    return []


@pytest.fixture
def event(order):
    """An event named "dawn". Its own part records "own"."""
    return SystemEvent("dawn", lambda: order.append("own"))


def add(event, phase, f, *args, **kw):
    return event.add(phase, f, args, kw)


def errors(caplog):
    return [record for record in caplog.records if record.levelno == logging.ERROR]


def test_the_phases_come_in_order_and_the_own_part_first_in_during(event, order):
    for phase in ("after", "during", "before"):
        add(event, phase, order.append, phase)
    event.fire()
    assert order == ["before", "own", "during", "after"]


def test_triggers_of_a_phase_come_in_the_order_they_were_added(event, order):
    for number in range(5):
        add(event, "during", order.append, number)
    event.fire()
    assert order == ["own", 0, 1, 2, 3, 4]


def test_triggers_get_their_arguments(event):
    seen = []
    add(event, "before", lambda *args, **kw: seen.append((args, kw)), 1, two=2)
    event.fire()
    assert seen == [((1,), {"two": 2})]


def test_triggers_are_one_shot(event, order):
    add(event, "before", order.append, "before")
    add(event, "after", order.append, "after")
    event.fire()
    event.fire()
    assert order == ["before", "own", "after", "own"]


def test_an_event_without_triggers_does_its_own_part(event, order):
    event.fire()
    assert order == ["own"]


def test_an_event_needs_no_own_part(order):
    event = SystemEvent("dusk")
    add(event, "during", order.append, "during")
    event.fire()
    assert order == ["during"]


@pytest.mark.parametrize("phase", ["before", "during", "after"])
def test_a_trigger_that_raises_is_logged_and_stops_no_other(event, order, caplog, phase):
    add(event, phase, lambda: 1 / 0)
    for each in ("before", "during", "after"):
        add(event, each, order.append, each)
    event.fire()
    assert order == ["before", "own", "during", "after"]
    (record,) = errors(caplog)
    assert record.exc_info[0] is ZeroDivisionError
    assert f"trigger {phase} dawn" in record.getMessage()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_B3_ctrl_c_in_a_trigger_goes_through(event, error):
    def interrupt():
        raise error

    add(event, "during", interrupt)
    with pytest.raises(error):
        event.fire()


def test_a_trigger_added_by_one_of_the_same_phase_comes_too(event, order):
    add(event, "before", lambda: add(event, "before", order.append, "added"))
    event.fire()
    assert order == ["added", "own"]


# --- Waiting


def test_the_rest_waits_for_what_a_before_trigger_returned(event, order):
    waits = Waits()
    add(event, "before", lambda: waits)
    add(event, "before", order.append, "other before")
    add(event, "during", order.append, "during")
    event.fire()
    assert order == ["other before"]
    waits.fire()
    assert order == ["other before", "own", "during"]


def test_the_rest_waits_for_all_of_them(event, order):
    first, second = Waits(), Waits()
    add(event, "before", lambda: first)
    add(event, "before", lambda: second)
    event.fire()
    second.fire()
    assert order == []
    first.fire()
    assert order == ["own"]


@pytest.mark.parametrize("outcome", ["fine", ValueError("boom")])
def test_a_deferred_is_waited_for_whatever_comes_of_it(event, order, outcome):
    deferred = Deferred()
    add(event, "before", lambda: deferred)
    event.fire()
    assert order == []
    if isinstance(outcome, Exception):
        deferred.errback(outcome)
        deferred.addErrback(lambda failure: None)
    else:
        deferred.callback(outcome)
    assert order == ["own"]


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_a_result_that_cannot_be_waited_for_is_logged(event, order, caplog, error):
    class Broken:
        def addBoth(self, callback):
            raise error("in addBoth")

    waits = Waits()
    add(event, "before", Broken)
    add(event, "before", lambda: waits)
    add(event, "after", order.append, "after")
    event.fire()
    assert order == []
    waits.fire()
    assert order == ["own", "after"]
    assert [record.exc_info[0] for record in caplog.records] == [error]


def test_a_deferred_keeps_its_result(event):
    deferred = Deferred()
    add(event, "before", lambda: deferred)
    event.fire()
    deferred.callback("result")
    assert deferred.result == "result"


def test_a_deferred_that_has_fired_already_holds_up_nothing(event, order):
    add(event, "before", lambda: succeed(None))
    add(event, "before", order.append, "second before")
    event.fire()
    assert order == ["second before", "own"]


@pytest.mark.parametrize("phase", ["during", "after"])
def test_only_before_is_waited_for(event, order, phase):
    add(event, phase, Waits)
    add(event, "after", order.append, "last")
    event.fire()
    assert order == ["own", "last"]


# --- Adding and removing


def test_a_removed_trigger_does_not_come(event, order):
    removed = add(event, "before", order.append, "removed")
    add(event, "before", order.append, "kept")
    event.remove(removed)
    event.fire()
    assert order == ["kept", "own"]


def test_of_two_equal_triggers_the_one_that_is_given_is_removed(event, order):
    add(event, "before", order.append, "twice")
    add(event, "before", order.append, "between")
    second = add(event, "before", order.append, "twice")
    event.remove(second)
    event.fire()
    assert order == ["twice", "between", "own"]


def test_arguments_that_cannot_be_compared_are_no_obstacle_to_removal(event, order):
    class Array:
        def __eq__(self, other):
            raise ValueError("ambiguous")

        __hash__ = None

    add(event, "before", order.append, Array())
    removed = add(event, "before", order.append, Array())
    event.remove(removed)
    event.fire()
    assert len(order) == 2


def test_removing_twice_is_a_ValueError(event):
    trigger = add(event, "before", print)
    event.remove(trigger)
    with pytest.raises(ValueError, match="is not, or no longer, a trigger"):
        event.remove(trigger)


def test_removing_what_has_fired_is_a_ValueError(event):
    trigger = add(event, "after", lambda: None)
    event.fire()
    with pytest.raises(ValueError, match="no longer"):
        event.remove(trigger)


def test_an_unknown_phase_is_a_KeyError_that_names_the_three(event):
    with pytest.raises(KeyError, match="'lunch' is no phase.*before, during, after"):
        add(event, "lunch", print)
    with pytest.raises(KeyError, match="lunch"):
        event.remove(("dawn", "lunch", print, (), {}))


def test_a_trigger_has_to_be_callable(event):
    with pytest.raises(TypeError, match="callable, not 'oops'"):
        add(event, "before", "oops")
