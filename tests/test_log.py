"""minireactor.log: one standard logger."""

from __future__ import annotations

import logging
import sys

import pytest

from minireactor import log
from minireactor.failure import Failure, NoCurrentExceptionError


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="minireactor")


def test_the_logger_is_named_after_the_package() -> None:
    assert log.logger is logging.getLogger("minireactor")


def test_the_library_adds_no_handler() -> None:
    assert log.logger.handlers == []


def test_msg_logs_its_parts_at_info(caplog: pytest.LogCaptureFixture) -> None:
    log.msg("port", 80, "is open", system="ignored")
    assert caplog.record_tuples == [("minireactor", logging.INFO, "port 80 is open")]


def test_msg_does_not_interpret_percent_signs(caplog: pytest.LogCaptureFixture) -> None:
    log.msg("100%s")
    assert caplog.messages == ["100%s"]


def test_msg_makes_no_text_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    caplog.set_level(logging.WARNING, logger="minireactor")
    log.msg(Unprintable())
    assert caplog.records == []


def test_err_logs_one_record_for_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        failure = Failure()
    log.err(failure, "while testing")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "while testing")
    assert record.exc_info == (ValueError, failure.value, failure.tb)


def test_err_logs_one_record_for_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("boom")
    log.err(error)
    (record,) = caplog.records
    assert record.exc_info == (ValueError, error, None)


def test_err_without_arguments_logs_what_is_being_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        expected = sys.exc_info()
        log.err()
    (record,) = caplog.records
    assert record.exc_info == expected
    assert "ValueError: boom" in caplog.text


def test_err_without_reason_still_has_a_message(caplog: pytest.LogCaptureFixture) -> None:
    log.err(ValueError("boom"))
    assert caplog.messages[0]


def test_err_does_not_interpret_percent_signs(caplog: pytest.LogCaptureFixture) -> None:
    log.err(ValueError("boom"), "at 100%s")
    assert caplog.messages == ["at 100%s"]


def test_err_with_nothing_to_log_is_an_error() -> None:
    with pytest.raises(NoCurrentExceptionError):
        log.err()


@pytest.mark.parametrize(("why", "message"), [(None, "'odd'"), ("reading", "reading: 'odd'")])
def test_err_logs_the_repr_of_anything_else(
    why: str | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    log.err("odd", why)
    assert caplog.record_tuples == [("minireactor", logging.ERROR, message)]


def test_err_returns_None_so_that_it_settles_a_deferred() -> None:
    settled: list[object] = [log.err(ValueError())]  # type: ignore[func-returns-value]
    assert settled == [None]
