"""Log messages and errors to one standard logger, named "minireactor".

This module adds no handler and sets no level. The program does so, for instance with
`logging.basicConfig(level=logging.INFO)`. If there is no handler, Python prints errors to standard
error.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Callable

from minireactor.failure import Failure, safe_repr

logger = logging.getLogger("minireactor")
WARN_SECONDS = 10.0  # between two warnings of one kind, for those that peers can cause at will


def _guarded(call: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that calls `call` and suppresses the exceptions of filters and handlers.

    A failure of the log must not end the loop. The failure is written to standard error, where
    `logging` reports failures of its own handlers."""

    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            call(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            try:
                sys.stderr.write(f"minireactor: logging failed: {safe_repr(error)}\n")
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                pass  # standard error is missing, or cannot be written to

    return guarded


# Every method of the logger passes its record to handle().
logger.handle = _guarded(logger.handle)  # type: ignore[method-assign]
_error = _guarded(logger.error)  # a record factory may raise before handle()


def msg(*parts: object, **ignored: object) -> None:
    """Log `parts`, joined by spaces, at level INFO. Keyword arguments have no effect."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(" ".join(map(str, parts)))


def err(failure_or_exception: object = None, why: str | None = None) -> None:
    """Log an exception as one ERROR record, with `why` as its message.

    The exception stands in the record's `exc_info`. Takes a Failure or an exception. Without an
    argument, takes the exception that is being handled. Logs the repr of any other object. Returns
    None, so `addErrback(log.err)` also marks the failure as handled.

    Raises NoCurrentExceptionError if there is no argument and no exception is being handled.
    """
    subject = failure_or_exception
    if subject is None or isinstance(subject, BaseException):
        subject = Failure(subject)
    if isinstance(subject, Failure):
        exc_info = (subject.type, subject.value, subject.tb)
        _error(why or "Unhandled error", exc_info=exc_info)
    elif why:
        _error("%s: %r", why, subject)
    else:
        _error("%r", subject)
