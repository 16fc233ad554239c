"""The log: one standard logger."""

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


def test_err_returns_None_so_that_it_handles_a_failure() -> None:
    results: list[object] = [log.err(ValueError())]  # type: ignore[func-returns-value]
    assert results == [None]


class Broken(logging.Handler):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def emit(self, record):
        raise self.error("the log server has gone")

    filter = emit  # of every record, before anything else


@pytest.mark.parametrize("error", [OSError, GeneratorExit])
@pytest.mark.parametrize("how", ["handler", "filter", "handler of the root"])
def test_B3_a_log_that_raises_does_not_end_the_loop(reactor, capsys, how, error):
    broken = Broken(error)
    place = logging.getLogger() if how.endswith("root") else log.logger
    add, remove = (
        (place.addFilter, place.removeFilter)
        if how == "filter"
        else (place.addHandler, place.removeHandler)
    )
    called = []
    reactor.callFromThread(lambda: 1 / 0)
    reactor.callFromThread(called.append, "next")
    add(broken)
    try:
        reactor.iterate()
        log.logger.debug("and every other method of the logger")
        log.logger.warning("likewise")
    finally:
        remove(broken)
    assert called == ["next"]
    assert "logging failed" in capsys.readouterr().err


def test_B3_a_log_that_fails_without_a_standard_error_is_silent(reactor, monkeypatch):
    broken = Broken(OSError)
    log.logger.addHandler(broken)
    monkeypatch.setattr(sys, "stderr", None)
    try:
        log.err(ValueError("nobody sees it"))
    finally:
        log.logger.removeHandler(broken)


def test_B3_a_standard_error_that_raises_does_not_end_the_loop(reactor, monkeypatch):
    class BrokenStream:
        def write(self, text):
            raise GeneratorExit

    broken = Broken(GeneratorExit)
    log.logger.addHandler(broken)
    monkeypatch.setattr(sys, "stderr", BrokenStream())
    called = []
    reactor.callFromThread(lambda: 1 / 0)
    reactor.callFromThread(called.append, "next")
    try:
        reactor.iterate()
    finally:
        log.logger.removeHandler(broken)
    assert called == ["next"]


def test_ctrl_c_in_a_log_handler_goes_through():
    broken = Broken(KeyboardInterrupt)
    log.logger.addHandler(broken)
    try:
        with pytest.raises(KeyboardInterrupt):
            log.err(ValueError())
    finally:
        log.logger.removeHandler(broken)
