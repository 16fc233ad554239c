"""The clients that a server has rejected, in the totals of a sample and in the metrics.

The totals have {"rejected": {"--deny": 3}}: how many clients each option did not allow.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minireactor.internet import Reactor

# The counts of the server that runs on a reactor, by option. The server changes them.
counts: weakref.WeakKeyDictionary[Reactor, Mapping[str, int]] = weakref.WeakKeyDictionary()


def add_rejected(totals: dict[str, Any], more: Mapping[str, int]) -> None:
    """Add counts by option to those in `totals`, which has no counts before the first client."""
    rejected = Counter(totals.get("rejected", {}))
    rejected.update(more)
    if rejected:
        totals["rejected"] = dict(rejected)


def exposition(totals: dict[str, Any]) -> list[str]:
    """Return lines in the text format of Prometheus, none if no client was rejected."""
    rejected = totals.get("rejected", {})
    if not rejected:
        return []
    name = "minireactor_rejected_total"
    return [
        f"# HELP {name} Clients closed at once, by the option that did not allow them.",
        f"# TYPE {name} counter",
        *(f'{name}{{option="{option}"}} {rejected[option]}' for option in sorted(rejected)),
    ]
