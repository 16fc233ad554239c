"""Lines of a terminal: the styles of their parts, and the columns that a text takes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from minireactor.view.output import visible

Part = tuple[str, str]  # (text, style)
Field = tuple[int, str, str]  # (importance, text, style)

_STYLES = {
    "": "",
    "title": "1",
    "heading": "2",
    "ended": "2",
    "key": "7",
    "mark": "1",
    "low": "32",
    "middle": "33",
    "high": "31",
    "spark": "36",
    "warn": "1;31",
    "flowing": "32",
    "paused": "1;31",
    "pull": "36",
    "open": "",
    "closing": "35",
    "ending": "35",
    "closed": "2",
}


def render(parts: Iterable[Part], width: int, colours: bool, unicode: bool) -> str:
    """Return a line of the terminal, cut to `width` columns.

    colours: whether to use escape sequences for the styles; adjacent parts of one style share a
    sequence. unicode: whether the terminal shows characters other than ASCII."""
    text, style, line = "", "", ""

    def flush() -> str:
        code = _STYLES[style] if colours else ""
        return f"\x1b[{code}m{text}\x1b[0m" if code and text else text

    for part, its_style in parts:
        part = cut(visible(part) if unicode else _ascii(part), width)
        width -= width_of(part)
        if its_style != style:
            line += flush()
            text, style = "", its_style
        text += part
    return (line + flush()).rstrip(" ")


def fit(fields: Sequence[Field], width: int, gap: str = "  ") -> list[Part]:
    """Return the parts of a line of fields, with `gap` between them, in at most `width` columns.

    Whole fields are left out, the least important first: a number that is cut is a wrong number.
    The most important field stays in any case."""
    left = [field for field in fields if field[1]]
    while len(left) > 1 and width_of(gap.join(visible(text) for _, text, _ in left)) > width:
        left.remove(min(left))
    parts = [part for _, text, style in left for part in ((gap, ""), (text, style))]
    return parts[1:]


def _ascii(text: str) -> str:
    return visible(text).encode("ascii", "replace").decode()


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of_character(character) for character in text)


def _width_of_character(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return as much of the beginning of `text` as fits into `width` columns."""
    while width_of(text) > width:
        text = text[: max(0, width)] if len(text) > width else text[:-1]
    return text
