"""The rows of a proxy's targets: how they are added up, ordered and counted.

A target is a row of a sample: see `monitor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = dict[str, Any]

STATES = ("down", "draining", "up")  # the worst first


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
