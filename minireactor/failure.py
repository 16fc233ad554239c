"""Failure: an exception as a value, which is passed to a callback instead of being raised."""

from __future__ import annotations

import builtins
import reprlib
import sys
from typing import IO, TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from traceback import TracebackException
    from types import TracebackType

    # Defined outside the class, because `type` is an attribute inside it.
    _ExceptionType = type[BaseException]

_Wanted = TypeVar("_Wanted", bound="_ExceptionType | str")

# Python 3.10 and older have no exception groups. No object is an instance of ().
_GROUP = getattr(builtins, "BaseExceptionGroup", ())


_short = reprlib.Repr()
_short.maxother = _short.maxstring = 120  # characters: enough for a connection with IPv6 addresses


def safe_repr(obj: object) -> str:
    """Return a short repr of `obj` for messages, even if `obj.__repr__` raises an exception."""
    try:
        return _short.repr(obj)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # reprlib itself handles Exception
        return f"<{type(obj).__name__} whose __repr__ raised an exception>"


class NoCurrentExceptionError(Exception):
    """`Failure()` was called while no exception was being handled."""


class Failure:
    """An exception with its type and its traceback.

    `Failure()` inside an `except` block wraps the exception that is being handled. `Failure(exc)`
    wraps `exc`, which need not have been raised. Attributes: `value` (the exception), `type` (its
    class), `tb` (its traceback, or None).

    Raises NoCurrentExceptionError if there is no argument and no exception is being handled. Raises
    TypeError if `exc_value` is not an exception.
    """

    # Each connection makes a Failure when it ends. So the constructor only keeps references, and
    # formats no text.
    __slots__ = ("_summary", "tb", "type", "value")

    def __init__(
        self,
        exc_value: BaseException | None = None,
        exc_type: _ExceptionType | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        if exc_value is None:
            exc_value = sys.exc_info()[1]
            if exc_value is None:
                raise NoCurrentExceptionError(
                    "no exception is being handled; call Failure() inside an except block, "
                    "or pass one: Failure(exc)"
                )
        elif not isinstance(exc_value, BaseException):
            raise TypeError(f"{exc_value!r} is not an exception; pass an instance: Failure(exc)")
        self.value = exc_value
        self.type: _ExceptionType = exc_type or exc_value.__class__
        self.tb = exc_tb or exc_value.__traceback__
        self._summary: TracebackException | None = None

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__} {self}>"

    def __str__(self) -> str:
        return f"{_dotted_name(self.type)}: {self.getErrorMessage()}"

    def check(self, *errorTypes: _Wanted) -> _Wanted | None:
        """Return the first of `errorTypes` that the exception is an instance of, or None.

        Each type is an exception class or its dotted name, such as "builtins.ValueError".
        """
        for wanted in errorTypes:
            if wanted is self.type:  # before all else: most connections end with ConnectionDone
                return wanted
            if isinstance(wanted, str):
                if any(_dotted_name(cls) == wanted for cls in self.type.__mro__):
                    return wanted
            elif issubclass(self.type, wanted):
                return wanted
        return None

    def trap(self, *errorTypes: _Wanted) -> _Wanted:
        """Return the first matching type, like `check`. Raises the exception if none matches."""
        found = self.check(*errorTypes)
        if found is None:
            self.raiseException()
        return found

    def raiseException(self) -> NoReturn:
        """Raise the exception with its original traceback."""
        raise self.value.with_traceback(self.tb)

    def getTracebackObject(self) -> TracebackType | None:
        """Return the traceback; None if the exception was never raised, or after cleanFailure."""
        return self.tb

    def cleanFailure(self) -> None:
        """Release all stack frames, so that their local variables can be freed.

        This includes the frames of the exceptions that led to this one. `getTraceback` returns the
        same text as before.
        """
        errors = _with_causes(self.value)
        if self.tb is not None or any(error.__traceback__ is not None for error in errors):
            self._summary = self._summary or self._summarise()
        self.tb = None
        for error in errors:
            error.__traceback__ = None

    def getErrorMessage(self) -> str:
        """Return the text of the exception, without its type."""
        try:
            return str(self.value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return "<its __str__ raised an exception>"

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        """Return the traceback as text that ends in a newline.

        detail: "default" or "verbose" for the text that the interpreter prints, including the
            exceptions that led to this one. "brief" for one line with the exception, then one line
            `file:line:function` for each frame.
        elideFrameworkCode: has no effect.

        Raises ValueError if `detail` is any other value.
        """
        if detail not in ("default", "verbose", "brief"):
            raise ValueError(f"detail={detail!r}; use 'default', 'verbose' or 'brief'")
        summary = self._summary or self._summarise()
        if detail != "brief":
            return "".join(summary.format())
        lines = [str(self), *(f"{at.filename}:{at.lineno}:{at.name}" for at in summary.stack)]
        return "\n".join(lines) + "\n"

    def getBriefTraceback(self) -> str:
        """Return `getTraceback(detail="brief")`."""
        return self.getTraceback(detail="brief")

    def printTraceback(
        self,
        file: IO[str] | None = None,
        elideFrameworkCode: int = 0,
        detail: str = "default",
    ) -> None:
        """Write `getTraceback()` to `file`, or to standard error."""
        text = self.getTraceback(elideFrameworkCode, detail)
        print(text, end="", file=sys.stderr if file is None else file)

    def printBriefTraceback(self, file: IO[str] | None = None, elideFrameworkCode: int = 0) -> None:
        """Write `getBriefTraceback()` to `file`, or to standard error."""
        self.printTraceback(file, elideFrameworkCode, "brief")

    def _summarise(self) -> TracebackException:
        # Imported here because most failures are never printed. The summary keeps names and line
        # numbers but no frames. Source lines are read when the summary is formatted.
        from traceback import TracebackException

        return TracebackException(self.type, self.value, self.tb, lookup_lines=False)


def _with_causes(value: BaseException) -> list[BaseException]:
    """Return `value` and every exception that led to it, each once."""
    found: dict[int, BaseException] = {}
    todo: list[BaseException | None] = [value]
    while todo:
        error = todo.pop()
        # Compare by identity: an exception class may define its own equality.
        if error is not None and id(error) not in found:
            found[id(error)] = error
            todo += (error.__cause__, error.__context__)
            if isinstance(error, _GROUP):
                todo += error.exceptions
    return list(found.values())


def _dotted_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
