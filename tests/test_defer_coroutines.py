"""Deferreds that are awaited, cancelled, timed out and gathered."""

from __future__ import annotations

import gc
import logging

import pytest

from minireactor import defer
from minireactor.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    FirstError,
    ensureDeferred,
    execute,
    fail,
    gatherResults,
    inlineCallbacks,
    maybeDeferred,
    returnValue,
    succeed,
)
from minireactor.failure import Failure


def result_of(deferred):
    """Return the result of a Deferred, or the exception that it has failed with."""
    seen = []
    deferred.addBoth(seen.append)
    (result,) = seen
    return result.value if isinstance(result, Failure) else result


def logged(caplog):
    gc.collect()
    return [entry for entry in caplog.records if entry.levelno == logging.ERROR]


# Awaiting.


def test_a_coroutine_gets_the_results_of_what_it_awaits():
    first, second = Deferred(), Deferred()

    async def add():
        return await first + await second

    task = ensureDeferred(add())
    first.callback(1)
    assert not task.called
    second.callback(2)
    assert result_of(task) == 3
    assert first.result is None


def test_a_coroutine_gets_a_failure_as_its_exception_with_the_traceback():
    async def handle():
        try:
            await execute(int, "x")
        except ValueError as error:
            return error

    assert "invalid literal" in str(result_of(ensureDeferred(handle())))


def test_an_exception_of_a_coroutine_is_the_failure_of_its_deferred():
    async def explode():
        await succeed(None)
        raise KeyError("gone")

    assert isinstance(result_of(ensureDeferred(explode())), KeyError)


@pytest.mark.slow
def test_awaiting_100_000_fired_deferreds_needs_no_recursion():
    async def count():
        total = 0
        for _ in range(100_000):
            total += await succeed(1)
        return total

    assert result_of(ensureDeferred(count())) == 100_000


def test_ensureDeferred_takes_a_deferred_and_nothing_else_but_coroutines():
    deferred = succeed(1)
    assert ensureDeferred(deferred) is deferred
    with pytest.raises(defer.NotACoroutineError, match="call the function"):
        ensureDeferred(result_of)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_B3_an_interrupt_goes_through_a_coroutine(kind):
    async def interrupt():
        raise kind

    with pytest.raises(kind):
        ensureDeferred(interrupt())


def test_inlineCallbacks_drives_a_generator():
    waiting = Deferred()

    @inlineCallbacks
    def add(n):
        plain = yield n
        return plain + (yield waiting)

    deferred = add(1)
    waiting.callback(2)
    assert result_of(deferred) == 3


def test_returnValue_ends_a_generator():
    @inlineCallbacks
    def early():
        yield succeed(None)
        returnValue("early")

    assert result_of(early()) == "early"


def test_inlineCallbacks_refuses_a_function_without_yield():
    with pytest.raises(TypeError, match="a function with a yield"):
        inlineCallbacks(lambda: 1)()


@pytest.mark.parametrize(
    "function",
    [lambda: 7, lambda: succeed(7), lambda: ensureDeferred(succeed(7))],
    ids=["value", "deferred", "same"],
)
def test_maybeDeferred_makes_a_deferred_of_any_result(function):
    assert result_of(maybeDeferred(function)) == 7


def test_maybeDeferred_runs_a_coroutine_and_takes_failures():
    async def seven():
        return 7

    error = ValueError()
    assert result_of(maybeDeferred(seven)) == 7
    assert result_of(maybeDeferred(lambda: Failure(error))) is error
    assert isinstance(result_of(maybeDeferred(int, "x")), ValueError)


def test_execute_makes_a_deferred_of_a_result_or_an_exception():
    assert result_of(execute(int, "7")) == 7
    assert isinstance(result_of(execute(int, "x")), ValueError)


# Cancelling.


def test_cancel_calls_the_canceller_and_fails_with_CancelledError():
    cancelled = []
    deferred = Deferred(cancelled.append)
    deferred.cancel()
    assert cancelled == [deferred]
    assert isinstance(result_of(deferred), CancelledError)


def test_a_canceller_may_give_the_result():
    deferred = Deferred(lambda d: d.callback("stopped"))
    deferred.cancel()
    assert result_of(deferred) == "stopped"


def test_cancel_without_a_canceller_ignores_one_late_result():
    deferred = Deferred()
    deferred.cancel()
    assert isinstance(result_of(deferred), CancelledError)
    deferred.callback("late")
    with pytest.raises(defer.AlreadyCalledError):
        deferred.callback("later")


def test_cancel_reaches_the_deferred_that_the_chain_waits_for():
    inner = Deferred()
    outer = succeed(None).addCallback(lambda _: inner)
    outer.cancel()
    assert isinstance(result_of(outer), CancelledError)
    assert inner.called


def test_cancel_after_the_result_does_nothing():
    deferred = succeed(1)
    deferred.cancel()
    assert result_of(deferred) == 1


def test_cancelling_a_task_cancels_what_it_waits_for():
    cancelled = []
    waiting = Deferred(cancelled.append)

    async def wait():
        await waiting

    task = ensureDeferred(wait())
    task.cancel()
    assert cancelled == [waiting]
    assert isinstance(result_of(task), CancelledError)


def test_cancelling_a_task_reaches_the_innermost_task_and_each_can_clean_up():
    order = []

    async def inner():
        try:
            await Deferred()
        finally:
            order.append("inner")

    async def outer():
        try:
            await ensureDeferred(inner())
        finally:
            order.append("outer")

    task = ensureDeferred(outer())
    task.cancel()
    assert order == ["inner", "outer"]
    assert isinstance(result_of(task), CancelledError)


def test_a_task_may_go_on_after_it_was_cancelled():
    async def stubborn():
        try:
            await Deferred()
        except CancelledError:
            return "cleaned up"

    task = ensureDeferred(stubborn())
    task.cancel()
    assert result_of(task) == "cleaned up"


def test_a_task_that_cancels_itself_ends_at_its_next_wait():
    tasks = []
    started = Deferred()

    async def suicidal():
        await started
        tasks[0].cancel()
        await succeed(None)
        await Deferred()

    tasks.append(ensureDeferred(suicidal()))
    started.callback(None)
    assert isinstance(result_of(tasks[0]), CancelledError)


# Time limits.


def test_addTimeout_cancels_and_fails_with_TimeoutError(clock):
    deferred = Deferred().addTimeout(5, clock)
    clock.advance(4.9)
    assert not deferred.called
    clock.advance(0.1)
    assert isinstance(result_of(deferred), defer.TimeoutError)
    assert clock.getDelayedCalls() == []


def test_addTimeout_leaves_no_delayed_call_after_a_result(clock):
    deferred = Deferred().addTimeout(5, clock)
    deferred.callback(1)
    assert clock.getDelayedCalls() == []
    assert result_of(deferred) == 1


def test_addTimeout_calls_onTimeoutCancel_with_the_result(clock):
    deferred = Deferred().addTimeout(5, clock, lambda result, seconds: (result.type, seconds))
    clock.advance(5)
    assert result_of(deferred) == (CancelledError, 5)


def test_addTimeout_ends_a_task(clock):
    async def wait():
        await Deferred()

    task = ensureDeferred(wait()).addTimeout(1, clock)
    clock.advance(1)
    assert isinstance(result_of(task), defer.TimeoutError)


# Many at once.


def test_gatherResults_keeps_the_order():
    first, second = Deferred(), Deferred()
    both = gatherResults([first, second])
    second.callback(2)
    first.callback(1)
    assert result_of(both) == [1, 2]
    assert result_of(gatherResults([])) == []


def test_gatherResults_fails_with_the_first_failure():
    both = gatherResults([Deferred(), execute(int, "x")], consumeErrors=True)
    error = result_of(both)
    assert isinstance(error, FirstError)
    assert (error.index, error.subFailure.type) == (1, ValueError)


def test_DeferredList_waits_for_all_and_tells_success_from_failure():
    error = ValueError()
    first, second = DeferredList([succeed(1), fail(error)], consumeErrors=True).result
    assert first == (True, 1)
    assert (second[0], second[1].value) == (False, error)


def test_DeferredList_can_end_with_the_first_value():
    assert result_of(DeferredList([Deferred(), succeed(7)], fireOnOneCallback=True)) == (7, 1)


def test_cancelling_a_DeferredList_cancels_all():
    waiting = [Deferred(), Deferred()]
    together = DeferredList(waiting, consumeErrors=True)
    together.cancel()
    assert all(deferred.called for deferred in waiting)
    assert [success for success, _ in result_of(together)] == [False, False]


def test_DeferredList_of_a_coroutine_says_what_to_do():
    with pytest.raises(TypeError, match="ensureDeferred"):
        DeferredList([5])


def test_chainDeferred_gives_the_result_to_another():
    first, second = Deferred(), Deferred()
    first.chainDeferred(second)
    first.callback(1)
    assert result_of(second) == 1


# Failures that nobody handles.


def test_an_unhandled_failure_of_a_task_is_logged_once(caplog):
    async def explode():
        await succeed(None)
        raise ValueError("boom")

    ensureDeferred(explode())
    gc.collect()  # since Python 3.12, the coroutine's frame refers to its caller's: a cycle
    assert len([e for e in caplog.records if e.levelno == logging.ERROR]) == 1
    (entry,) = logged(caplog)
    assert entry.exc_info[0] is ValueError
    assert "in explode" in caplog.text


def test_a_failure_that_a_coroutine_handles_is_not_logged(caplog):
    async def handle():
        try:
            await execute(int, "x")
        except ValueError:
            pass

    ensureDeferred(handle())
    assert logged(caplog) == []


def test_debug_mode_logs_where_the_deferred_was_made(caplog, monkeypatch):
    monkeypatch.setattr(Deferred, "debug", True)

    def made_here():
        return fail(ValueError())

    made_here()
    (entry,) = logged(caplog)
    assert f"{__file__}:" in entry.message and "in made_here" in entry.message


def test_without_debug_mode_a_deferred_keeps_no_place(monkeypatch):
    monkeypatch.setattr(Deferred, "debug", False)
    assert Deferred()._made == ""
