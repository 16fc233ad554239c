"""A text as a page for a terminal: wrapped, with its headings underlined, its blocks indented."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_INDENT = "    "
# What a line is cut between: words with the blanks before them, and single wide characters, of
# which an opening bracket keeps the next one and a closing one or a comma stays with the last.
_WIDE = "\u2e80-\u9fff\uff00-\uff60"
_OPENING = "（《「“"
_CLOSING = "，。、；：？！）》」”…"
_PIECE = re.compile(
    rf"\s*[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}{_CLOSING}]+)[{_CLOSING}]*|\s*\S"
)
_EMPHASIS = re.compile(r"(\*\*?)(\S(?:.*?\S)?)\1")


def page(text: str, width: int) -> str:
    """The page of a lesson's text, no wider than `width` but for what is in its blocks."""
    return "\n".join(_lines(text, width)) + "\n"


def _lines(text: str, width: int) -> Iterator[str]:
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            yield f"{_INDENT}{line}".rstrip()
        elif line.startswith("#"):
            mark, _, heading = line.partition(" ")
            yield from (heading, ("=" if mark == "#" else "-") * columns(heading))
        else:
            hang = "  " if line.startswith("- ") else ""
            yield from wrapped(_EMPHASIS.sub(r"\2", line), width, hang)


def wrapped(line: str, width: int, hang: str = "") -> list[str]:
    """The line in lines of `width` columns, the second and further ones indented by `hang`."""
    done = []
    current = ""
    for piece in _PIECE.findall(line):
        if current.strip() and columns(current + piece) > width:
            done.append(current)
            current = hang + piece.lstrip()
        else:
            current += piece
    return [*done, current]


def columns(text: str) -> int:
    """How many columns of a terminal it takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
