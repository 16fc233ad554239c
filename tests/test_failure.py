"""Failure: an exception as a value."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import weakref

import pytest

from minireactor.error import ConnectionClosed, ConnectionDone, ConnectionLost
from minireactor.failure import Failure, NoCurrentExceptionError


class Held:
    """An object that a frame keeps alive."""


def explode(text: str = "boom") -> None:
    raise ValueError(text)


def failure_of_a_raised_error() -> Failure:
    try:
        explode()
    except ValueError:
        return Failure()
    raise AssertionError("unreachable")


def collect() -> None:
    for _ in range(3):
        gc.collect()


def test_Failure_wraps_the_exception_that_is_being_handled() -> None:
    try:
        explode()
    except ValueError as error:
        failure = Failure()
        assert failure.value is error
        assert failure.type is ValueError
        assert failure.tb is error.__traceback__ is not None


def test_Failure_wraps_an_exception_that_was_never_raised() -> None:
    done = ConnectionDone()
    failure = Failure(done)
    assert (failure.value, failure.type, failure.tb) == (done, ConnectionDone, None)


def test_Failure_of_a_raised_exception_takes_its_traceback() -> None:
    with pytest.raises(ValueError) as caught:
        explode()
    assert Failure(caught.value).tb is caught.value.__traceback__


def test_Failure_takes_type_and_traceback() -> None:
    tb = failure_of_a_raised_error().tb
    failure = Failure(ValueError("x"), Exception, tb)
    assert (failure.type, failure.tb) == (Exception, tb)


def test_Failure_outside_an_except_block_is_an_error_that_names_the_fix() -> None:
    with pytest.raises(NoCurrentExceptionError, match=r"Failure\(exc\)"):
        Failure()


def test_Failure_of_something_else_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match="'text' is not an exception"):
        Failure("text")  # type: ignore[arg-type]


def test_Failure_has_no_dict() -> None:
    assert not hasattr(Failure(ConnectionDone()), "__dict__")


def test_making_a_failure_formats_nothing() -> None:
    class Loud(Exception):
        def __str__(self) -> str:
            raise AssertionError("formatted")

    assert Failure(Loud()).type is Loud


def test_importing_failure_does_not_import_traceback() -> None:
    code = "import sys; import minireactor.failure; print('traceback' in sys.modules)"
    run = subprocess.run([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, check=True)
    assert run.stdout.strip() == b"False"


def test_check_returns_the_first_type_that_fits() -> None:
    failure = Failure(ConnectionLost())
    assert failure.check(ConnectionDone, ConnectionClosed, ConnectionLost) is ConnectionClosed


def test_check_returns_None_when_nothing_fits() -> None:
    assert Failure(ConnectionLost()).check(ConnectionDone, "builtins.ValueError") is None


def test_check_takes_the_dotted_name_of_the_class_or_of_a_base() -> None:
    failure = Failure(ConnectionLost())
    assert failure.check("minireactor.error.ConnectionLost") == "minireactor.error.ConnectionLost"
    assert failure.check("builtins.Exception") == "builtins.Exception"


def test_check_does_not_take_a_bare_name() -> None:
    assert Failure(ValueError()).check("ValueError") is None


def test_trap_returns_the_type_that_fits() -> None:
    assert Failure(ConnectionLost()).trap(ConnectionDone, ConnectionLost) is ConnectionLost


def test_trap_raises_the_exception_itself_when_nothing_fits() -> None:
    failure = Failure(ConnectionLost())
    with pytest.raises(ConnectionLost) as caught:
        failure.trap(ConnectionDone)
    assert caught.value is failure.value


def test_raiseException_keeps_the_frames_of_the_first_raise() -> None:
    failure = failure_of_a_raised_error()
    with pytest.raises(ValueError) as caught:
        failure.raiseException()
    assert caught.traceback[-1].name == "explode"


def test_getTracebackObject_is_the_traceback() -> None:
    failure = failure_of_a_raised_error()
    assert failure.getTracebackObject() is failure.tb


def test_getErrorMessage_is_the_text_of_the_exception() -> None:
    assert Failure(ValueError("the text")).getErrorMessage() == "the text"


def test_getErrorMessage_survives_an_exception_that_cannot_be_printed() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "__str__" in Failure(Unprintable()).getErrorMessage()


def test_str_is_dotted_name_and_message() -> None:
    assert str(Failure(ValueError("boom"))) == "builtins.ValueError: boom"


def test_repr_shows_that_it_is_a_failure() -> None:
    assert repr(Failure(ValueError("boom"))) == "<Failure builtins.ValueError: boom>"


def test_getTraceback_shows_frames_and_message() -> None:
    text = failure_of_a_raised_error().getTraceback()
    assert "in explode" in text and "raise ValueError(text)" in text
    assert text.endswith("ValueError: boom\n")


def test_getTraceback_shows_what_led_to_the_exception() -> None:
    error = ConnectionLost("late")
    error.__cause__ = failure_of_a_raised_error().value
    assert "ValueError: boom" in Failure(error).getTraceback()


def test_getTraceback_without_frames() -> None:
    assert Failure(ValueError("boom")).getTraceback().endswith("ValueError: boom\n")


@pytest.mark.parametrize("detail", ["default", "verbose"])
def test_getTraceback_takes_the_arguments_of_twisted(detail: str) -> None:
    text = failure_of_a_raised_error().getTraceback(elideFrameworkCode=1, detail=detail)
    assert "in explode" in text


def test_getTraceback_refuses_an_unknown_detail() -> None:
    with pytest.raises(ValueError, match="'short'.*'brief'"):
        Failure(ValueError()).getTraceback(detail="short")


def test_getBriefTraceback_is_one_line_a_frame() -> None:
    lines = failure_of_a_raised_error().getBriefTraceback().splitlines()
    assert lines[0] == "builtins.ValueError: boom"
    assert [line.rpartition(":")[2] for line in lines[1:]] == [
        "failure_of_a_raised_error",
        "explode",
    ]


def test_printTraceback_writes_to_the_file() -> None:
    failure, file = failure_of_a_raised_error(), io.StringIO()
    failure.printTraceback(file)
    assert file.getvalue() == failure.getTraceback()


def test_printTraceback_without_a_file_writes_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failure = failure_of_a_raised_error()
    failure.printTraceback()
    assert capsys.readouterr() == ("", failure.getTraceback())


def test_printBriefTraceback_writes_to_the_file() -> None:
    failure, file = failure_of_a_raised_error(), io.StringIO()
    failure.printBriefTraceback(file)
    assert file.getvalue() == failure.getBriefTraceback()


def test_cleanFailure_lets_go_of_every_frame() -> None:
    def hold() -> weakref.ref[Held]:
        held = Held()
        watch = weakref.ref(held)
        explode()
        return watch

    def failing() -> tuple[Failure, weakref.ref[Held]]:
        try:
            hold()
        except ValueError as error:
            tb = error.__traceback__
            assert tb is not None and tb.tb_next is not None
            return Failure(), tb.tb_next.tb_frame.f_locals["watch"]
        raise AssertionError("unreachable")

    failure, watch = failing()
    assert watch() is not None
    failure.cleanFailure()
    collect()
    assert watch() is None
    assert failure.tb is failure.value.__traceback__ is None


def test_cleanFailure_lets_go_of_the_frames_of_causes_and_contexts() -> None:
    cause, context = failure_of_a_raised_error().value, failure_of_a_raised_error().value
    outer = ConnectionLost()
    outer.__cause__, outer.__context__ = cause, context
    Failure(outer).cleanFailure()
    assert cause.__traceback__ is context.__traceback__ is None


def test_cleanFailure_ends_on_a_circle_of_causes() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    failure = Failure(first)
    failure.cleanFailure()
    assert failure.tb is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_cleanFailure_lets_go_of_the_frames_of_a_group() -> None:
    member = failure_of_a_raised_error().value
    group = eval("ExceptionGroup")("several", [member])
    Failure(group).cleanFailure()
    assert member.__traceback__ is None


def test_cleanFailure_keeps_the_text() -> None:
    failure = failure_of_a_raised_error()
    before = failure.getTraceback(), failure.getBriefTraceback()
    failure.cleanFailure()
    assert (failure.getTraceback(), failure.getBriefTraceback()) == before


def test_cleanFailure_twice_is_harmless() -> None:
    failure = failure_of_a_raised_error()
    before = failure.getTraceback()
    failure.cleanFailure()
    failure.cleanFailure()
    assert failure.getTraceback() == before
