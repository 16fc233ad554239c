"""What happened, on one standard logger named "minireactor".

No handler is added and no level is set: that is the program's choice, for instance with
`logging.basicConfig(level=logging.INFO)`. Without one, Python prints errors to standard error.
"""

from __future__ import annotations

import logging

from minireactor.failure import Failure

logger = logging.getLogger("minireactor")


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
        logger.error(why or "Unhandled error", exc_info=exc_info)
    elif why:
        logger.error("%s: %r", why, subject)
    else:
        logger.error("%r", subject)
