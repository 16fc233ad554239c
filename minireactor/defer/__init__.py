"""Results that come later: Deferred, its helpers, and coroutines that await a Deferred.

| module | what it holds |
|-|-|
| `deferred` | Deferred, `succeed`, `fail`, `execute` |
| `coroutine` | `ensureDeferred`, `inlineCallbacks`, `returnValue`, `maybeDeferred` |
| `gather` | `DeferredList`, `gatherResults` |

A program imports all names from here. The last two modules are loaded at their first use: the
reactor needs neither of them.
"""

from __future__ import annotations

from minireactor.defer.deferred import (
    AlreadyCalledError,
    CancelledError,
    Deferred,
    TimeoutError,
    execute,
    fail,
    succeed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minireactor.defer.coroutine import (
        NotACoroutineError,
        ensureDeferred,
        inlineCallbacks,
        maybeDeferred,
        returnValue,
    )
    from minireactor.defer.gather import DeferredList, FirstError, gatherResults

__all__ = [
    "AlreadyCalledError",
    "CancelledError",
    "Deferred",
    "DeferredList",
    "FirstError",
    "NotACoroutineError",
    "TimeoutError",
    "ensureDeferred",
    "execute",
    "fail",
    "gatherResults",
    "inlineCallbacks",
    "maybeDeferred",
    "returnValue",
    "succeed",
]

_GATHER = ("DeferredList", "FirstError", "gatherResults")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "gather" if name in _GATHER else "coroutine"
    found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return found
