"""What a server tells the views of its reactor. The views ask here, and know no server.

A command makes the entries. Without an entry, the views show connections only.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minireactor.internet import Reactor

# The counts of rejected clients, by the option that did not allow them. The server changes them.
rejected_counts: weakref.WeakKeyDictionary[Reactor, Mapping[str, int]] = weakref.WeakKeyDictionary()

# Returns the rows of a proxy's targets: see `monitor`.
target_rows: weakref.WeakKeyDictionary[Reactor, Callable[[], list[dict[str, Any]]]] = (
    weakref.WeakKeyDictionary()
)

# Makes the monitors of the parent of workers, with the arguments of Monitor.
monitor_makers: weakref.WeakKeyDictionary[Reactor, Callable[..., Any]] = weakref.WeakKeyDictionary()
