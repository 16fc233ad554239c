"""A text as a page for a terminal: wrapped, with its headings underlined, its blocks indented."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_BLOCK = 76  # columns of a line in a block, which is indented and never wrapped
_INDENT = "    "
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_ESCAPES = re.compile("\x1b\\[[0-9]*m")
# What a line is cut between: words with the blanks before them, and single wide characters. An
# opening bracket keeps the next character, a closing one or a comma stays with the last.
_WIDE = "\u2e80-\u9fff\uff00-\uff60"
_OPENING = "（《「“"
_CLOSING = "，。、；：？！）》」”…"
_PIECE = re.compile(
    rf"\s*[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}{_CLOSING}]+)[{_CLOSING}]*|\s*\S"
)
_ITEM = re.compile(r"- |\d+\. ")
_EMPHASIS = re.compile(r"(\*\*?)(\S(?:.*?\S)?)\1")


def page(text: str, width: int, bold: bool = False) -> str:
    """Return the page of a lesson's text, no wider than `width` except for the blocks.

    bold: print headings and emphasis in bold, for a terminal."""
    return "\n".join(_lines(text, width, bold)) + "\n"


def sections(text: str) -> list[str]:
    """Return the parts of a text, each beginning at a heading. Joined, they are the text."""
    found = [""]
    fenced = False
    for line in text.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced and found[-1]:
            found.append("")
        found[-1] += line
    return found


def _lines(text: str, width: int, bold: bool) -> Iterator[str]:
    on, off = (_BOLD, _PLAIN) if bold else ("", "")
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            yield f"{_INDENT}{line}".rstrip()
        elif line.startswith("#"):
            mark, _, heading = line.partition(" ")
            underline = ("=" if mark == "#" else "-") * min(columns(heading), width)
            yield from (f"{on}{part}{off}" for part in wrapped(heading, width))
            yield underline
        else:
            item = _ITEM.match(line)
            hang = " " * len(item[0]) if item else ""
            yield from wrapped(_EMPHASIS.sub(rf"{on}\2{off}", line), width, hang)


def wrapped(line: str, width: int, hang: str = "") -> list[str]:
    """Return the line in lines of `width` columns, all but the first indented by `hang`."""
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
    """Return how many columns of a terminal a text takes."""
    shown = _ESCAPES.sub("", text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in shown)
