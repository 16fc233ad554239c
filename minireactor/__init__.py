"""minireactor: the reactor you can read, run and watch.

    from minireactor import reactor             # the default reactor, made at its first use
    from minireactor.protocol import Factory, Protocol

Importing the package opens no descriptor and starts nothing; `Reactor()` makes further reactors.
"""

from __future__ import annotations

# What `typing` has under this name; loading that takes longer than all the rest of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minireactor.internet import Reactor as Reactor

    reactor: Reactor

__version__ = "0.2.0"
__all__ = ["Reactor", "__version__", "reactor"]


def __getattr__(name: str) -> Any:
    # Both names are looked up late: a reactor owns descriptors, and importing must own none.
    if name not in ("reactor", "Reactor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from minireactor.internet import Reactor

    found = globals()[name] = Reactor() if name == "reactor" else Reactor
    return found
