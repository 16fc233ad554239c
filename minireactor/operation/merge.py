"""One sample out of the samples of several processes: pure functions and sums, without I/O.

`monitor` describes a sample. A worker adds "key" to each row: what its order compares.
"""

from __future__ import annotations

from typing import Any

from minireactor.view.monitor import add_rejected
from minireactor.view.ranking import NEWEST_FIRST, OLDEST_FIRST
from minireactor.view.targets import merge as merge_targets

Sample = dict[str, Any]

_SUMS = ("connections", "open", "in", "out", "pauses", "paused", "paused_now")
_REST = ("pending", "in", "out", "pauses")


def empty_totals() -> dict[str, Any]:
    """Return the totals of a process that has no connection yet."""
    return {**dict.fromkeys(_SUMS, 0), "highest_pending": 0}


def add_totals(totals: dict[str, Any], more: dict[str, Any]) -> None:
    """Add `more` to `totals`. The highest pending is the higher one."""
    for name in _SUMS:
        totals[name] += more[name]
    totals["paused"] = round(totals["paused"], 6)
    totals["highest_pending"] = max(totals["highest_pending"], more["highest_pending"])
    add_rejected(totals, more.get("rejected", {}))


def ended_totals(totals: dict[str, Any]) -> dict[str, Any]:
    """Return what the totals of a process are once it has ended: it has no open connection."""
    return {**totals, "open": 0, "paused_now": 0}


def merge(samples: list[Sample], ended: dict[str, Any], limit: int, order: str) -> Sample:
    """Return one sample of all processes, without "type" and "time".

    samples: their rows have ids that are unique. ended: the totals of processes that have ended.
    limit, order: the number and the order of the rows, as for a Monitor."""
    totals = dict(ended)
    rest: dict[str, int] = dict.fromkeys(("count", *_REST), 0)
    for sample in samples:
        add_totals(totals, sample["totals"])
        for name, value in (sample["rest"] or {}).items():
            rest[name] += value
    rows = [row for sample in samples for row in sample["connections"]]
    closed = [row for row in rows if row["state"] == "closed"]
    rows = sorted((row for row in rows if row["state"] != "closed"), key=_key_of(order))
    for row in rows[limit:]:
        rest["count"] += 1
        for name in _REST:
            rest[name] += row[name]
    shown = [*rows[:limit], *closed][:limit]
    memory = [sample["memory"] for sample in samples if sample["memory"] is not None]
    merged = {
        "lag": max((sample["lag"] for sample in samples), default=0.0),
        "memory": sum(memory) if memory else None,
        "totals": totals,
        "connections": [{name: row[name] for name in row if name != "key"} for row in shown],
        "rest": rest if rest["count"] else None,
    }
    if any("targets" in sample for sample in samples):
        merged["targets"] = merge_targets(samples)
    return merged


def _key_of(order: str) -> Any:
    # The ids of two processes are comparable only after they have been made unique.
    if order == NEWEST_FIRST:
        return lambda row: -row["id"]
    if order == OLDEST_FIRST:
        return lambda row: row["id"]
    return lambda row: (row["key"], row["id"])
