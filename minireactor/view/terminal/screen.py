"""The picture of `--watch`: a function from the samples of a monitor to lines of text.

    draw(samples, (80, 24), Options(title="serve echo")) -> ["...", ...]

This module does not use a terminal. No line is longer than the width. Colours, if wanted, are the
only escape sequences in a line; other unprintable characters of a sample are escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

from minireactor.view.output import visible
from minireactor.view.ranking import BUSIEST
from minireactor.view.targets import how_many_up
from minireactor.view.terminal.targets import target_lines
from minireactor.view.terminal.text import Part, cut, fit, render, width_of

INTERVAL = 0.25  # seconds between two samples; the heading of the sparklines assumes it
ENDED_SECONDS = 3.0  # how long an ended connection keeps its line, if there is room
RATE_SECONDS = 1.0  # the time over which rates are measured
HISTORY = 41  # samples that a picture can use
BAR_SCALE = 1.5  # a full bar is this many high marks

_BLOCKS = " ▏▎▍▌▋▊▉"
_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.:-=+*#"


class Options:
    """What to draw beside the samples.

    title: what is watched. hint: shown while there is no connection.
    order: the name of the rows' order. notes: lines for the bottom of the picture, the latest last.
    colours, unicode: whether to use them. frozen, stopping: whether to show these states.
    """

    __slots__ = ("colours", "frozen", "hint", "notes", "order", "stopping", "title", "unicode")

    def __init__(
        self, title: str, hint: str = "", *, colours: bool = False, unicode: bool = True
    ) -> None:
        self.title = title
        self.hint = hint
        self.order = BUSIEST
        self.notes: Sequence[str] = ()
        self.colours = colours
        self.unicode = unicode
        self.frozen = False
        self.stopping = False


def draw(samples: Sequence[dict[str, Any]], size: tuple[int, int], options: Options) -> list[str]:
    """Return the lines of a picture.

    samples: one or more, the latest last; only the last HISTORY of them are used.
    size: (columns, lines), the largest size of the picture."""
    width, height = size
    now = samples[-1]
    above: list[list[Part]] = [_summary(samples, width)]
    if height >= 4:
        above.insert(0, _title(now, options, width))
    if height >= 10:
        above += target_lines(now.get("targets", ()), width, height // 4)
    below: list[list[Part]] = [_footer(options)] if height >= 6 else []
    notes = [[(note, "")] for note in options.notes[-(height // 5) :]] if height >= 10 else []
    room = height - len(above) - len(below) - len(notes)
    body = _body(samples, width, room, options)
    empty: list[list[Part]] = [[] for _ in range(room - len(body))]
    lines = [*above, *body, *empty, *notes, *below][:height]
    return [render(line, width, options.colours, options.unicode) for line in lines]


def plain(samples: Sequence[dict[str, Any]]) -> str:
    """Return the summary and the busiest connection in one line, for output without a terminal."""
    now = samples[-1]
    parts = _summary(samples, sys.maxsize, ", ")
    summary = "".join(text for text, _ in parts)
    line = f"{now['time']:.0f} s: {summary}, lag {now['lag'] * 1000:.1f} ms"
    if "targets" in now:
        line += f", {how_many_up(now['targets'])}"
    busiest = next((row for row in now["connections"] if row["state"] != "closed"), None)
    if busiest is None:
        return line
    return (
        f"{line}; busiest {visible(busiest['peer'])}: {_state(busiest)}, "
        f"pending {amount(busiest['pending'])}"
    )


def amount(number: float) -> str:
    """Return a number in at most five characters: 999, 1.0K, 64.0K, 128K. K is 1,024."""
    value, units = float(number), "KMGTPE"
    unit = ""
    while value >= 999.5 and units:
        value, unit, units = value / 1024, units[0], units[1:]
    return f"{value:.1f}{unit}" if unit and value < 99.95 else f"{value:.0f}{unit}"


# The lines above and below the rows.


def _title(now: dict[str, Any], options: Options, width: int) -> list[Part]:
    seconds = int(now["time"])
    clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    memory = "" if now["memory"] is None else f"{amount(now['memory'])} memory"
    lag = f"lag {now['lag'] * 1000:.1f} ms"
    room = width - width_of(visible(options.title)) - 2
    facts = fit([(0, memory, ""), (1, lag, ""), (2, clock, "")], room)
    gap = room - sum(len(text) for text, _ in facts)
    if gap < 0:
        return [(options.title, "title")]
    return [(options.title, "title"), (" " * (gap + 2), ""), *facts]


def _summary(samples: Sequence[dict[str, Any]], width: int, gap: str = "  ") -> list[Part]:
    """Return the totals of all connections, as many of them as fit into `width` columns."""
    now = samples[-1]
    totals = now["totals"]
    paused = totals["paused_now"]
    before = samples[-1 - _samples_back(samples, RATE_SECONDS)]
    passed = now["time"] - before["time"]
    rate = ""
    if passed > 0:
        moved = sum(totals[way] - before["totals"][way] for way in ("in", "out"))
        rate = f" ({amount(moved / passed)}/s)"
    fields = [
        (6, f"open {totals['open']} of {totals['connections']}", ""),
        (5, f"paused {paused}", "paused" if paused else ""),
        (2, f"in {amount(totals['in'])}", ""),
        (3, f"out {amount(totals['out'])}{rate}", ""),
        (1, f"pauses {totals['pauses']}", ""),
        (4, f"highest pending {amount(totals['highest_pending'])}", ""),
        (0, _kernel_limit(now["connections"]), ""),
    ]
    return fit(fields, width, gap)


def _footer(options: Options) -> list[Part]:
    if options.stopping:
        return [("stopping: transfers may finish; ", "warn"), ("q", "key"), (" ends them now", "")]
    freeze = " go on  " if options.frozen else " freeze  "
    return [
        *([("FROZEN  ", "warn")] if options.frozen else []),
        *(("q", "key"), (" quit  ", ""), ("f", "key"), (freeze, "")),
        *(("s", "key"), (f" order: {options.order}", "")),
    ]


# The rows.


def _body(
    samples: Sequence[dict[str, Any]], width: int, room: int, options: Options
) -> list[list[Part]]:
    now = samples[-1]
    rows = [row for row in now["connections"] if row["state"] != "closed"]
    ended = _recently_ended(samples)
    if not rows and not ended:
        return [[], [(options.hint, "")]][: max(0, room)]
    columns = _columns([*rows, *ended], width)
    gap = _gap(width)
    lines = [_heading(columns, (rows or ended)[0], gap)] if room >= 3 else []
    room -= len(lines)
    rest = now["rest"]
    if rest is not None or len(rows) > room:
        room = max(0, room - 1)
        rest = _add_to_rest(rest, rows[room:])
        rows = rows[:room]
    rows += ended[: room - len(rows)]
    histories = _histories(samples, {row["id"] for row in rows})
    for row in rows:
        cells = _row(row, columns, samples, histories[row["id"]], options)
        lines.append([part for cell in cells for part in (*cell, (gap, ""))])
    if rest is not None:
        sums = [
            (3, f"and {rest['count']} more: pending {amount(rest['pending'])}", "heading"),
            (1, f"in {amount(rest['in'])}", "heading"),
            (2, f"out {amount(rest['out'])}", "heading"),
            (0, f"pauses {rest['pauses']}", "heading"),
        ]
        lines.append(fit(sums, width, ", "))
    return lines


def _add_to_rest(rest: dict[str, int] | None, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the sums over the connections that have no line: `rest`, and these rows."""
    names = ("pending", "in", "out", "pauses")
    total = dict(rest) if rest is not None else dict.fromkeys(("count", *names), 0)
    total["count"] += len(rows)
    for name in names:
        total[name] += sum(row[name] for row in rows)
    return total


def _recently_ended(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of connections that ended within ENDED_SECONDS, the latest first."""
    found = []
    for sample in reversed(samples):
        if samples[-1]["time"] - sample["time"] > ENDED_SECONDS:
            break
        found += [row for row in reversed(sample["connections"]) if row["state"] == "closed"]
    return found


def _columns(rows: list[dict[str, Any]], width: int) -> dict[str, int]:
    """Return {name: width} of the columns that fit. The least important ones are dropped first."""
    wanted = {
        "id": max(len(str(row["id"])) for row in rows),
        "peer": min(25, max(4, *(width_of(visible(row["peer"])) for row in rows))),
        "label": min(25, max(5, *(width_of(visible(row["label"])) for row in rows))),
        "state": 7,
        "bar": 12,
        "pending": 7,
        "kernel": 6,
        "spark": 8,
        "rate": 6,
        "pauses": 6,
    }
    if len({row["label"] for row in rows}) == 1:
        del wanted["label"]
    gap = len(_gap(width))
    left = width - sum(wanted.values()) - gap * (len(wanted) - 1)
    for name in ("id", "spark", "pauses", "label", "kernel", "rate", "pending", "bar", "state"):
        if left < 0 and name in wanted:
            left += wanted.pop(name) + gap
    for name, most in (("bar", 22), ("spark", 20), ("bar", 34), ("spark", HISTORY - 1)):
        if name in wanted:
            more = max(0, min(most - wanted[name], left))
            wanted[name] += more
            left -= more
    return wanted


def _gap(width: int) -> str:
    """Return the space between two columns."""
    return "  " if width >= 100 else " "


_HEADINGS = {
    "id": "#",
    "peer": "PEER",
    "label": "LABEL",
    "state": "STATE",
    "pending": "PENDING",
    "kernel": "KERNEL",
    "rate": "RATE/s",
    "pauses": "PAUSES",
}
_RIGHT = ("id", "pending", "kernel", "rate", "pauses")


def _heading(columns: dict[str, int], row: dict[str, Any], gap: str) -> list[Part]:
    cells = []
    for name, width in columns.items():
        if name == "bar":
            low, high = _mark_cells(row, width - 2)
            text = f"{'low':>{low + 3}}" if low + 3 < high else ""
            cells.append(f"{f'{text:<{high}}high':<{width}}"[:width])
        elif name == "spark":
            cells.append(_cell(name, f"LAST {width * INTERVAL:.0f} s", width))
        else:
            cells.append(_cell(name, _HEADINGS[name], width))
    return [(gap.join(cells), "heading")]


def _cell(name: str, text: str, width: int) -> str:
    text = cut(visible(text), width)
    space = " " * (width - width_of(text))
    return space + text if name in _RIGHT else text + space


def _row(
    row: dict[str, Any],
    columns: dict[str, int],
    samples: Sequence[dict[str, Any]],
    history: list[int | None],
    options: Options,
) -> list[list[Part]]:
    cells: list[list[Part]] = []
    state = _state(row)
    ended = "ended" if state == "closed" else ""
    for name, width in columns.items():
        if name == "bar":
            cells.append(_bar(row, width - 2, options.unicode))
        elif name == "spark":
            cells.append([(_spark(history[-width - 1 :], width, options.unicode), "spark")])
        elif name == "state":
            cells.append([(_cell(name, state, width), state)])
        else:
            value = _rate(history, samples) if name == "rate" else _value(name, row)
            cells.append([(_cell(name, value, width), ended)])
    return cells


def _kernel_limit(rows: list[dict[str, Any]]) -> str:
    """Return the kernel's limit for unsent bytes as text, or "" without a limit.

    A peer that reads fast has no limit. The text shows the highest limit of the rows."""
    limits = [row["unsent"] for row in rows if row.get("unsent")]
    return f"kernel limit {amount(max(limits))}" if limits else ""


def _state(row: dict[str, Any]) -> str:
    """Return the producer's state if the connection is open and has a producer, else its own."""
    if row["state"] != "open" or row["producer"] in ("none", "closed"):
        return str(row["state"])
    return str(row["producer"])


def _value(name: str, row: dict[str, Any]) -> str:
    if name == "pending":
        return amount(row["pending"])
    if name == "kernel":
        return "-" if row["sendq"] is None else amount(row["sendq"])
    return str(row[name])


def _bar(row: dict[str, Any], width: int, unicode: bool) -> list[Part]:
    """Return the bar: pending, compared with both marks, which are drawn over it."""
    low, high = _mark_cells(row, width)
    filled = row["pending"] / (row["high"] * BAR_SCALE) * width
    parts: list[Part] = [("[", "")]
    for cell in range(width):
        style = "low" if cell < low else "middle" if cell < high else "high"
        if cell in (low, high):
            text, style = ("┊│" if unicode else ":|")[cell == high], "mark"
        elif cell == width - 1 and filled > width:
            text = "»" if unicode else ">"
        elif cell < int(filled):
            text = "█" if unicode else "#"
        elif cell == int(filled):
            text = _BLOCKS[int((filled - cell) * 8)] if unicode else " "
        else:
            text = " "
        parts.append((text, style))
    return [*parts, ("]", "")]


def _mark_cells(row: dict[str, Any], width: int) -> tuple[int, int]:
    """Return the cells of the low and the high mark in a bar, which always differ."""
    high = int(width / BAR_SCALE)
    return min(int(row["low"] / (row["high"] * BAR_SCALE) * width), high - 1), high


# Rates and histories.


def _samples_back(samples: Sequence[dict[str, Any]], seconds: float) -> int:
    """Return how many samples to go back in order to span `seconds`: one or more, if possible."""
    count = 0
    for sample in islice(reversed(samples), 1, None):
        if count and samples[-1]["time"] - sample["time"] > seconds * 1.05:  # samples come late
            break
        count += 1
    return count


def _histories(samples: Sequence[dict[str, Any]], ids: set[int]) -> dict[int, list[int | None]]:
    """Return {id: bytes moved until each of the last samples} for these connections.

    None stands for a sample without a row of the connection, 0 for one before its arrival."""
    found: dict[int, list[int | None]] = {number: [] for number in ids}
    for sample in samples[-HISTORY:]:
        moved = {row["id"]: row["in"] + row["out"] for row in sample["connections"]}
        for number, history in found.items():
            is_later = number > sample["totals"]["connections"]
            history.append(0 if is_later else moved.get(number))
    return found


def _spark(history: list[int | None], width: int, unicode: bool) -> str:
    """Return a sparkline: the bytes moved between samples, relative to the largest number.

    It is blank until the connection has moved its first byte."""
    moved = [
        after - before if after and before is not None else None
        for before, after in zip(history, history[1:])
    ]
    largest = max((number for number in moved if number is not None), default=0)
    levels = _LEVELS if unicode else _ASCII_LEVELS
    text = ""
    for number in moved:
        # Rounded up: only a zero gets the lowest level.
        level = -(-number * (len(levels) - 1) // largest) if number else 0
        text += " " if number is None else levels[level]
    return f"{text:>{width}}"


def _rate(history: list[int | None], samples: Sequence[dict[str, Any]]) -> str:
    """Return the bytes per second, in and out together, as text; "-" if they are not known."""
    known = 0
    for moved in islice(reversed(history), 1 + _samples_back(samples, RATE_SECONDS)):
        if moved is None:
            break
        known += 1
    if known < 2:
        return "-"
    passed = samples[-1]["time"] - samples[-known]["time"]
    return amount((history[-1] - history[-known]) / max(passed, 1e-6))  # type: ignore[operator]
