"""minireactor: the reactor you can read, run and watch.

    from minireactor import reactor             # the default reactor, made at its first use
    from minireactor.protocol import Factory, Protocol

Importing the package opens no descriptor and starts nothing; `Reactor()` makes further reactors.
"""

from __future__ import annotations

# As in `typing`. Importing `typing` would take longer than the rest of this package's import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minireactor.internet import Reactor as Reactor

    reactor: Reactor

__version__ = "0.3.0"
__all__ = ["Reactor", "__version__", "reactor"]


def __getattr__(name: str) -> Any:
    # Both names are set at first use: a reactor opens descriptors, and an import must open none.
    if name not in ("reactor", "Reactor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from minireactor.internet import Reactor

    found = globals()[name] = Reactor() if name == "reactor" else Reactor
    return found
