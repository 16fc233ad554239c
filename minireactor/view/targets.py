"""The targets of a proxy in the views: where a monitor gets them from, and how they are shown.

A target is a row of a sample: see `monitor`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.internet import Reactor

    Row = dict[str, Any]

# What returns the rows of the targets to which a reactor connects its clients.
sources: weakref.WeakKeyDictionary[Reactor, Callable[[], list[Row]]] = weakref.WeakKeyDictionary()

STATES = ("down", "draining", "up")  # the worst first

# (name, type, help, key of the row or function from a row to the value)
_METRICS: tuple[tuple[str, str, str, Callable[[Row], Any]], ...] = (
    (
        "target_up",
        "gauge",
        "1 if clients are connected to the target, 0 if it is down or draining.",
        lambda row: int(row["state"] == "up"),
    ),
    ("target_clients", "gauge", "Clients joined to the target.", lambda row: row["clients"]),
    (
        "target_failures_total",
        "counter",
        "Attempts to connect that have failed, of clients and of probes.",
        lambda row: row["failures"],
    ),
    (
        "target_connect_seconds",
        "gauge",
        "Duration of the last attempt to connect that succeeded.",
        lambda row: row["connect"],
    ),
)


def exposition(rows: list[Row]) -> list[str]:
    """Return lines in the text format of Prometheus about targets."""
    lines = []
    for name, kind, what, value_in in _METRICS:
        values = [(row["target"], value_in(row)) for row in rows]
        known = [(target, value) for target, value in values if value is not None]
        if known:
            lines += [f"# HELP minireactor_{name} {what}", f"# TYPE minireactor_{name} {kind}"]
        lines += [
            f'minireactor_{name}{{target="{_escaped(target)}"}} {value}' for target, value in known
        ]
    return lines


def _escaped(label: str) -> str:
    """Return the value of a label in the text format of Prometheus."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def merge(samples: list[dict[str, Any]]) -> list[Row]:
    """Return one row for each target in the samples of several processes.

    Clients and failures are sums. The state is the worst one, because it needs attention."""
    merged: dict[str, Row] = {}
    for sample in samples:
        for row in sample.get("targets", ()):
            known = merged.get(row["target"])
            if known is None:
                merged[row["target"]] = dict(row)
                continue
            known["clients"] += row["clients"]
            known["failures"] += row["failures"]
            known["state"] = min(known["state"], row["state"], key=STATES.index)
            known["reason"] = known["reason"] or row["reason"]
            times = [each["connect"] for each in (known, row) if each["connect"] is not None]
            known["connect"] = max(times, default=None)
    return list(merged.values())


def how_many_up(rows: Sequence[Row]) -> str:
    """Return how many targets are up, as text: "targets 2 of 3 up"."""
    return f"targets {sum(row['state'] == 'up' for row in rows)} of {len(rows)} up"


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with those first that need attention."""
    return sorted(rows, key=lambda row: STATES.index(row["state"]))
