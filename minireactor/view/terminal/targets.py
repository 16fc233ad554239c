"""The lines of `--watch` about the targets of a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.view.targets import how_many_up, worst_first
from minireactor.view.terminal.text import Part, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

_STYLES = {"up": "flowing", "down": "warn", "draining": "closing"}


def target_lines(rows: Sequence[dict[str, Any]], width: int, room: int) -> list[list[Part]]:
    """Return a line for each target, at most `room` lines of at most `width` columns.

    If there are more targets, those that are not up come first, and the last line counts all."""
    if len(rows) <= room:
        return [_line(row, width) for row in rows]
    shown = worst_first(rows)[: max(0, room - 1)]
    return [*(_line(row, width) for row in shown), [(how_many_up(rows), "heading")]][:room]


def _line(row: dict[str, Any], width: int) -> list[Part]:
    state = row["state"]
    seconds = row["connect"]
    fields = [
        (6, row["target"], ""),
        (5, f"{state}, backup" if row["backup"] else state, _STYLES[state]),
        (4, f"clients {row['clients']}", ""),
        (3, f"failures {row['failures']}", ""),
        (1, "" if seconds is None else f"connect {seconds * 1000:.1f} ms", ""),
        (2, "" if state == "up" else row["reason"], ""),
    ]
    return fit(fields, width, "  ")
