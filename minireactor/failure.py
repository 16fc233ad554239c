"""Failure: an exception as a value, to be handed to a callback instead of being raised."""

from __future__ import annotations

import builtins
import reprlib
import sys
from typing import IO, TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from traceback import TracebackException
    from types import TracebackType

    # Named out here: inside the class, `type` is an attribute.
    _ExceptionType = type[BaseException]

_Wanted = TypeVar("_Wanted", bound="_ExceptionType | str")

# Python 3.10 and older have no such thing, and nothing is an instance of ().
_GROUP = getattr(builtins, "BaseExceptionGroup", ())


_short = reprlib.Repr()
_short.maxother = _short.maxstring = 120  # characters: enough for a connection with IPv6 addresses


def safe_repr(obj: object) -> str:
    """Return a short repr of `obj`, for messages: never raises because `obj.__repr__` does."""
    try:
        return _short.repr(obj)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # reprlib itself sees to Exception
        return f"<{type(obj).__name__} whose __repr__ raised an exception>"


class NoCurrentExceptionError(Exception):
    """`Failure()` was called with nothing to wrap."""


class Failure:
    """An exception with its type and its traceback.

    `Failure()` inside an `except` block wraps the exception that is being handled;
    `Failure(exc)` wraps one that need not have been raised. Attributes: `value` (the exception),
    `type` (its class), `tb` (its traceback, or None).

    Raises NoCurrentExceptionError outside an `except` block without an exception to wrap, and
    TypeError for a value that is not an exception.
    """

    # One is made for every connection that ends, so making it is a few references and no text.
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
        """The first of `errorTypes` that the exception is an instance of, or None.

        Each is an exception class, or the dotted name of one, as in "builtins.ValueError".
        """
        for wanted in errorTypes:
            if isinstance(wanted, str):
                if any(_dotted_name(cls) == wanted for cls in self.type.__mro__):
                    return wanted
            elif issubclass(self.type, wanted):
                return wanted
        return None

    def trap(self, *errorTypes: _Wanted) -> _Wanted:
        """Like `check`, but raises the exception when none of `errorTypes` fits."""
        found = self.check(*errorTypes)
        if found is None:
            self.raiseException()
        return found

    def raiseException(self) -> NoReturn:
        """Raise the exception, with the traceback it came with."""
        raise self.value.with_traceback(self.tb)

    def getTracebackObject(self) -> TracebackType | None:
        """The traceback object; None if the exception was never raised, or after cleanFailure."""
        return self.tb

    def cleanFailure(self) -> None:
        """Let go of every frame, so that no local variable of theirs is kept alive.

        Covers the exceptions that led to this one too. `getTraceback` gives the same text as
        before.
        """
        errors = _with_causes(self.value)
        if self.tb is not None or any(error.__traceback__ is not None for error in errors):
            self._summary = self._summary or self._summarise()
        self.tb = None
        for error in errors:
            error.__traceback__ = None

    def getErrorMessage(self) -> str:
        """The exception's own text, without its type."""
        try:
            return str(self.value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return "<its __str__ raised an exception>"

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        """The traceback as text, ending in a newline.

        `detail`: "default" or "verbose" for what the interpreter prints, with the exceptions
        that led to this one; "brief" for one line that names the exception and one
        `file:line:function` for each frame. `elideFrameworkCode` changes nothing.
        """
        if detail not in ("default", "verbose", "brief"):
            raise ValueError(f"detail={detail!r}; use 'default', 'verbose' or 'brief'")
        summary = self._summary or self._summarise()
        if detail != "brief":
            return "".join(summary.format())
        lines = [str(self), *(f"{at.filename}:{at.lineno}:{at.name}" for at in summary.stack)]
        return "\n".join(lines) + "\n"

    def getBriefTraceback(self) -> str:
        """`getTraceback(detail="brief")`."""
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
        """`printTraceback(file, detail="brief")`."""
        self.printTraceback(file, elideFrameworkCode, "brief")

    def _summarise(self) -> TracebackException:
        # Imported here because most failures are never printed. The summary holds names and
        # line numbers but no frame; source lines are read when it is formatted.
        from traceback import TracebackException

        return TracebackException(self.type, self.value, self.tb, lookup_lines=False)


def _with_causes(value: BaseException) -> list[BaseException]:
    """`value` and every exception that it refers to, each once."""
    found: dict[int, BaseException] = {}
    todo: list[BaseException | None] = [value]
    while todo:
        error = todo.pop()
        # By identity, for an exception may define an equality of its own.
        if error is not None and id(error) not in found:
            found[id(error)] = error
            todo += (error.__cause__, error.__context__)
            if isinstance(error, _GROUP):
                todo += error.exceptions
    return list(found.values())


def _dotted_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
