"""What happened, on one standard logger named "minireactor".

No handler is added and no level is set: that is the program's choice, for instance with
`logging.basicConfig(level=logging.INFO)`. Without one, Python prints errors to standard error.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Callable

from minireactor.failure import Failure, safe_repr

logger = logging.getLogger("minireactor")


def _guarded(call: Callable[..., Any]) -> Callable[..., None]:
    """Return `call` as a function that never raises what filters and handlers raise.

    A log that fails must not end the loop. What went wrong with it is written to standard error,
    where `logging` reports the failures of its own handlers."""

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
                pass  # there is no standard error, or it cannot be written to

    return guarded


# All records go through handle(), whichever method of the logger made them.
logger.handle = _guarded(logger.handle)  # type: ignore[method-assign]
_error = _guarded(logger.error)  # and a record factory may raise as well


def msg(*parts: object, **ignored: object) -> None:
    """Log `parts`, joined by blanks, at level INFO. Keywords are taken and not used."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(" ".join(map(str, parts)))


def err(failure_or_exception: object = None, why: str | None = None) -> None:
    """Log one ERROR record with the exception in its `exc_info`; `why` is the message.

    Takes a Failure, an exception, or nothing for the exception that is being handled
    (NoCurrentExceptionError if there is none). Anything else is logged by its repr.
    Returns None, so that `addErrback(log.err)` also settles the failure.
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
