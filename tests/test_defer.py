"""Deferred: callbacks, errbacks and chains."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from minireactor.defer import AlreadyCalledError, Deferred, fail, succeed
from minireactor.failure import Failure, NoCurrentExceptionError


def explode(result: object) -> None:
    raise ValueError("boom")


def record(into: list[Any]) -> Any:
    """Return a callback that records its result and returns None."""
    return into.append


def errors_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    for _ in range(3):
        gc.collect()
    return [entry for entry in caplog.records if entry.levelno == logging.ERROR]


def test_a_new_deferred_has_no_result() -> None:
    deferred: Deferred[int] = Deferred()
    assert deferred.called is False
    assert not hasattr(deferred, "result")


def test_callback_sets_called_and_result() -> None:
    deferred: Deferred[int] = Deferred()
    deferred.callback(1)
    assert (deferred.called, deferred.result) == (True, 1)


def test_callbacks_wait_for_the_result() -> None:
    seen: list[int] = []
    deferred: Deferred[int] = Deferred()
    deferred.addCallback(record(seen))
    assert seen == []
    deferred.callback(1)
    assert seen == [1]


def test_a_callback_added_late_runs_on_the_spot() -> None:
    seen: list[int] = []
    succeed(1).addCallback(record(seen))
    assert seen == [1]


def test_each_callback_gets_what_the_one_before_returned() -> None:
    deferred = succeed(1).addCallback(lambda n: n + 1).addCallback(lambda n: n * 10)
    assert deferred.result == 20


def test_the_add_methods_return_the_deferred() -> None:
    deferred = succeed(1)
    assert deferred.addCallback(id) is deferred
    assert deferred.addErrback(id) is deferred
    assert deferred.addBoth(id) is deferred
    assert deferred.addCallbacks(id, id) is deferred


def test_arguments_follow_the_result() -> None:
    deferred = succeed(1).addCallback(lambda *a, **k: (a, k), 2, three=3)
    assert deferred.result == ((1, 2), {"three": 3})


def test_arguments_for_an_errback() -> None:
    deferred = fail(ValueError()).addErrback(lambda f, *a, **k: (a, k), 2, three=3)
    assert deferred.result == ((2,), {"three": 3})


def test_addBoth_takes_a_value_and_a_failure() -> None:
    error = ValueError()
    assert succeed(1).addBoth(lambda r, x: (r, x), 2).result == (1, 2)
    assert fail(error).addBoth(lambda f, x: (f.value, x), 2).result == (error, 2)


def test_addCallbacks_keeps_the_arguments_of_the_two_apart() -> None:
    def note(result: object, *args: object, **kwargs: object) -> object:
        return args, kwargs

    def step(deferred: Deferred[Any]) -> object:
        return deferred.addCallbacks(note, note, (1,), {"a": 1}, (2,), {"b": 2}).result

    assert step(succeed(0)) == ((1,), {"a": 1})
    assert step(fail(ValueError())) == ((2,), {"b": 2})


def test_a_value_passes_errbacks_by() -> None:
    assert succeed(1).addErrback(explode).result == 1


def test_a_failure_passes_callbacks_by() -> None:
    error = ValueError()
    deferred = fail(error).addCallback(explode)
    assert deferred.result.value is error
    deferred.addErrback(lambda _: None)


def test_an_errback_that_returns_a_value_handles_the_failure() -> None:
    assert fail(ValueError()).addErrback(lambda f: 3).addCallback(lambda n: n + 1).result == 4


def test_an_errback_that_returns_its_failure_passes_it_on() -> None:
    seen: list[Failure] = []
    failure = Failure(ValueError())
    fail(failure).addErrback(lambda f: f).addErrback(record(seen))
    assert seen == [failure]


def test_an_errback_added_with_a_callback_is_not_for_that_callback() -> None:
    seen: list[object] = []
    deferred = succeed(1).addCallbacks(explode, record(seen))
    assert seen == []
    deferred.addErrback(lambda _: None)


def test_a_callback_that_raises_turns_into_a_failure() -> None:
    seen: list[Failure] = []
    succeed(1).addCallback(explode).addErrback(record(seen))
    assert seen[0].type is ValueError
    assert "in explode" in seen[0].getTraceback()


def test_a_callback_that_returns_a_failure_fails() -> None:
    failure = Failure(ValueError())
    seen: list[Failure] = []
    succeed(1).addCallback(lambda _: failure).addErrback(record(seen))
    assert seen == [failure]


def test_a_trap_that_does_not_fit_goes_on_to_the_next_errback() -> None:
    seen: list[Failure] = []
    error = ValueError()
    fail(error).addErrback(lambda f: f.trap(KeyError)).addErrback(record(seen))
    assert seen[0].value is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_B3_an_interrupt_goes_through(kind: type[BaseException]) -> None:
    def interrupt(result: object) -> None:
        raise kind

    with pytest.raises(kind):
        succeed(1).addCallback(interrupt)


def test_a_failure_whose_errback_ends_the_program_is_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def end(failure: Failure) -> None:
        raise SystemExit("the end")

    with pytest.raises(SystemExit):
        fail(ValueError()).addErrback(end)
    assert errors_logged(caplog) == []


class OwnError(BaseException):
    """An exception class of a program that is not an Exception."""


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError, OwnError])
def test_B3_a_callback_that_raises_any_other_class_fails_the_deferred(
    kind: type[BaseException],
) -> None:
    """Twisted's Deferred catches them too."""

    def fail_so(result: object) -> None:
        raise kind

    seen: list[Failure] = []
    succeed(1).addCallback(fail_so).addErrback(record(seen))
    assert [failure.type for failure in seen] == [kind]


def test_results_and_functions_whose_repr_raises_can_be_reported() -> None:
    class Rude:
        def __call__(self, result: object) -> None:
            pass

        def __repr__(self) -> str:
            raise SyntaxError

    deferred = succeed(Rude())
    assert "Rude" in repr(deferred)
    with pytest.raises(AlreadyCalledError, match="Rude"):
        deferred.callback(Rude())
    with pytest.raises(TypeError, match="not callable"):
        deferred.addCallbacks(Rude(), 5)  # type: ignore[arg-type]


def test_a_second_result_is_an_error_that_names_it() -> None:
    deferred = succeed(1)
    with pytest.raises(AlreadyCalledError, match="'again'"):
        deferred.callback("again")  # type: ignore[arg-type]
    with pytest.raises(AlreadyCalledError):
        deferred.errback(ValueError())
    assert deferred.result == 1


def test_callback_with_a_deferred_is_an_error() -> None:
    deferred: Deferred[Any] = Deferred()
    with pytest.raises(TypeError, match="from a callback"):
        deferred.callback(succeed(1))
    assert deferred.called is False


def test_callback_with_a_failure_goes_to_the_errbacks() -> None:
    seen: list[Failure] = []
    failure = Failure(ValueError())
    deferred: Deferred[int] = Deferred()
    deferred.addErrback(record(seen)).callback(failure)
    assert seen == [failure]


def test_errback_takes_an_exception() -> None:
    seen: list[Failure] = []
    error = ValueError()
    deferred: Deferred[int] = Deferred()
    deferred.addErrback(record(seen)).errback(error)
    assert seen[0].value is error


def test_errback_without_argument_takes_what_is_being_handled() -> None:
    seen: list[Failure] = []
    deferred: Deferred[int] = Deferred()
    deferred.addErrback(record(seen))
    try:
        raise ValueError("boom")
    except ValueError as error:
        deferred.errback()
        assert seen[0].value is error


def test_errback_with_nothing_to_report_is_an_error() -> None:
    deferred: Deferred[int] = Deferred()
    with pytest.raises(NoCurrentExceptionError):
        deferred.errback()
    assert deferred.called is False


@pytest.mark.parametrize("pair", [(None, None), (5, None), (id, 5)])
def test_adding_what_cannot_be_called_is_an_error_at_once(pair: Any) -> None:
    with pytest.raises(TypeError, match="not callable"):
        Deferred[int]().addCallbacks(*pair)


def test_a_callback_may_add_a_callback_which_runs_after_it() -> None:
    order: list[str] = []
    deferred: Deferred[int] = Deferred()

    def first(result: int) -> None:
        deferred.addCallback(lambda _: order.append("added"))
        order.append("first")

    deferred.addCallback(first)
    deferred.callback(1)
    assert order == ["first", "added"]


def test_chain_waits_for_a_deferred_that_a_callback_returned() -> None:
    seen: list[object] = []
    inner: Deferred[str] = Deferred()
    outer = succeed(1).addCallback(lambda _: inner).addCallback(record(seen))
    assert seen == [] and outer.result is inner
    inner.callback("later")
    assert seen == ["later"]


def test_chain_goes_on_at_once_with_a_result_that_is_there() -> None:
    inner = succeed("now")
    assert succeed(1).addCallback(lambda _: inner).result == "now"
    assert inner.result is None


def test_chain_takes_the_failure_over() -> None:
    seen: list[Failure] = []
    inner: Deferred[str] = Deferred()
    succeed(1).addCallback(lambda _: inner).addErrback(record(seen))
    error = ValueError()
    inner.errback(error)
    assert seen[0].value is error
    assert inner.result is None


def test_chain_leaves_no_failure_to_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    succeed(1).addCallback(lambda _: fail(ValueError())).addErrback(lambda _: None)
    assert errors_logged(caplog) == []


def test_chain_leaves_None_to_the_later_callbacks_of_the_inner_one() -> None:
    order: list[object] = []
    inner: Deferred[str] = Deferred()
    succeed(1).addCallback(lambda _: inner).addCallback(lambda r: order.append(("outer", r)))
    inner.addCallback(lambda r: order.append(("inner", r)))
    inner.callback("later")
    assert order == [("outer", "later"), ("inner", None)]


def test_chain_through_a_deferred_that_is_waiting_itself() -> None:
    innermost: Deferred[str] = Deferred()
    middle = succeed(1).addCallback(lambda _: innermost)
    outer = succeed(1).addCallback(lambda _: middle)
    innermost.callback("deep")
    assert (outer.result, middle.result, innermost.result) == ("deep", None, None)


def test_chain_to_a_deferred_from_inside_its_own_callback() -> None:
    inner: Deferred[str] = Deferred()
    outers: list[Deferred[Any]] = []

    def start_an_outer_one(result: str) -> str:
        outers.append(succeed(1).addCallback(lambda _: inner))
        return result + "!"

    inner.addCallback(start_an_outer_one)
    inner.callback("done")
    assert outers[0].result == "done!"


def test_chain_of_a_callback_to_its_own_deferred_is_a_failure() -> None:
    seen: list[Failure] = []
    deferred: Deferred[int] = Deferred()
    deferred.addCallback(lambda _: deferred).addErrback(record(seen))
    deferred.callback(1)
    assert seen[0].check(RuntimeError)


@pytest.mark.slow
def test_chain_of_100_000_fired_deferreds_needs_no_recursion() -> None:
    deferred: Deferred[int] = Deferred()
    for _ in range(100_000):
        deferred.addCallback(lambda n: succeed(n + 1))
    deferred.callback(0)
    assert deferred.result == 100_000


@pytest.mark.slow
def test_chain_of_100_000_waiting_deferreds_needs_no_recursion() -> None:
    first: Deferred[int] = Deferred()
    last: Deferred[int] = first
    for _ in range(100_000):
        last = succeed(0).addCallback(lambda _, awaited: awaited, last)
    first.callback(7)
    assert last.result == 7


def test_an_unhandled_failure_is_logged_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    succeed(1).addCallback(explode)
    (entry,) = errors_logged(caplog)
    assert entry.exc_info is not None and entry.exc_info[0] is ValueError
    assert "in explode" in caplog.text


def test_an_unhandled_failure_of_a_chain_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    succeed(1).addCallback(lambda _: fail(ValueError()))
    assert len(errors_logged(caplog)) == 1


def test_a_handled_failure_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    fail(ValueError()).addErrback(lambda _: None)
    assert errors_logged(caplog) == []


def test_a_failure_that_is_not_garbage_yet_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    deferred = fail(ValueError())
    assert errors_logged(caplog) == []
    deferred.addErrback(lambda _: None)


def test_repr_names_the_state() -> None:
    deferred: Deferred[int] = Deferred()
    assert "no result yet" in repr(deferred)
    deferred.callback(17)
    assert "result 17" in repr(deferred)


def test_Deferred_can_be_subscripted_in_annotations() -> None:
    assert isinstance(Deferred[None](), Deferred)


def test_succeed_and_fail_have_been_called() -> None:
    assert (succeed(1).called, succeed(1).result) == (True, 1)
    failure = Failure(ValueError())
    failed = fail(failure)
    assert (failed.called, failed.result) == (True, failure)
    failed.addErrback(lambda _: None)


def test_fail_without_argument_takes_what_is_being_handled() -> None:
    seen: list[Failure] = []
    try:
        raise ValueError("boom")
    except ValueError as error:
        fail().addErrback(record(seen))
        assert seen[0].value is error
