"""The ratios of all workloads as one picture (SVG), self-contained, for light and dark themes.

The picture has a fixed width, and a background of its own: a README may have any colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from bench.report import Results, Row, Section, Spread

TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
# Colours that show on white and on black, and shapes for readers who see the colours as one.
MARKS = {
    "twisted": ("#3b82f6", "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z"),
    "asyncio": ("#e08600", "M-4.5,-4.5h9v9h-9z"),
    "uvloop": ("#12a150", "M0,-5.5L5.5,4.5H-5.5z"),
    "streams": ("#a855f7", "M0,-6L6,0L0,6L-6,0z"),
    "raw": ("#a16207", "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
    "pypy": ("#e11d74", "M0,5.5L5.5,-4.5H-5.5z"),
    "minireactor-copy": ("#d9480f", "M-6,-2.5h12v5h-12z"),
    "socat": ("#a16207", "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
    "haproxy": ("#12a150", "M0,-5.5L5.5,4.5H-5.5z"),
    "haproxy-tuned": ("#e11d74", "M0,5.5L5.5,-4.5H-5.5z"),
}
GREY = "#9aa4af"  # of ratios whose rounds disagree
FALLBACK_MARK = ("#a16207", "M-4,-4h8v8h-8z")


class Scale(NamedTuple):
    """A logarithmic axis of ratios, from one tick to another."""

    ticks: Sequence[float]

    def at(self, value: float) -> float:
        """Return the place of a value, from 0 to 1; a value beyond an end is placed at that end."""
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        return min(1.0, max(0.0, (math.log(value) - low) / (high - low)))


def scale_of(ratios: Sequence[Spread]) -> Scale:
    """Return a scale that shows all medians within TICKS, with 1 never at its edge."""
    low = min([0.4, *(each.median for each in ratios)])
    high = max([1.2, *(each.median for each in ratios)])
    first = max([i for i, tick in enumerate(TICKS) if tick <= low], default=0)
    last = min([i for i, tick in enumerate(TICKS) if tick >= high], default=len(TICKS) - 1)
    return Scale(TICKS[first : last + 1])


def _all_ratios(results: Results, section: Section) -> list[Spread]:
    found = (
        results.ratio(row.workload.name, peer, row.base)
        for row in section.rows()
        for peer in section.peers
    )
    return [each for each in found if each is not None]


def _mark(peer: str, x: str, y: float, title: str = "", undecided: bool = False) -> str:
    colour, path = MARKS.get(peer, FALLBACK_MARK)
    look = f'fill="{GREY}" class="undecided"' if undecided else f'fill="{colour}" class="mark"'
    tooltip = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<svg x="{x}" y="{y:g}" overflow="visible"><path d="{path}" {look}>{tooltip}</path></svg>'
    )


def _ratio_row(
    results: Results,
    peers: Sequence[str],
    row: Row,
    scale: Scale,
    x: Callable[[float], str],
    middle: float,
) -> list[str]:
    """Return the marks of one row, each with its spread, a little apart in height."""
    parts = []
    for i, peer in enumerate(peers):
        found = results.ratio(row.workload.name, peer, row.base)
        if found is None:
            continue
        y = middle + (i - (len(peers) - 1) / 2) * 2.4
        colour = MARKS.get(peer, FALLBACK_MARK)[0]
        look = f'stroke="{GREY}" class="undecided"' if found.undecided else f'stroke="{colour}"'
        title = (
            f"{row.label}, minireactor to {results.title(peer)}: {found.median:.2f} "
            f"({found.low:.2f} to {found.high:.2f})"
        )
        parts.append(
            f'<line x1="{x(scale.at(found.low))}" x2="{x(scale.at(found.high))}" y1="{y:g}" '
            f'y2="{y:g}" {look} stroke-width="2" opacity="0.45"/>'
        )
        parts.append(_mark(peer, x(scale.at(found.median)), y, title, found.undecided))
    return parts


def _tick(value: float) -> str:
    return f"{value:g}"


_PICTURE_STYLE = """
.ground{fill:#ffffff;stroke:#d8dee4}.text{fill:#1f2328}.quiet{fill:#59636e}
.grid{stroke:#e3e7eb}.one{stroke:#1f2328}.mark{stroke:#ffffff;stroke-width:1}
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.title{font-size:16px;font-weight:600}.kind{font-weight:600}.small{font-size:12px}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117;stroke:#30363d}.text{fill:#e6edf3}.quiet{fill:#9198a1}
.grid{stroke:#262c34}.one{stroke:#e6edf3}.mark{stroke:#0d1117}}
"""


def chart(results: Results) -> str:
    """Return the ratios of all workloads to all peers as one SVG, with a chart for each section."""
    width, left, right, row_height = 880, 160, 34, 30
    above, legend, below = 62, 44, 36
    sections = results.sections()
    rows = sum(len(section.rows()) for section in sections)
    height = above + (legend + below) * len(sections) + row_height * rows + 12

    def x(part: float) -> str:
        return f"{left + part * (width - left - right):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="minireactor\'s cost as a ratio to its peers\'">',
        f"<style>{_PICTURE_STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>',
        '<text class="title text" x="24" y="34">What minireactor costs, as a ratio to each peer'
        "</text>",
        '<text class="quiet" x="24" y="56">Left of 1 it needs less than the peer, right of it '
        "more. Medians, with the spread of the rounds; grey where that reaches both sides.</text>",
    ]
    y = above
    for section in sections:
        parts.append(f'<text class="kind text" x="24" y="{y + 21.5}">{escape(section.kind)}</text>')
        at = 100.0
        for peer in section.peers:
            parts.append(_mark(peer, f"{at:g}", y + 17))
            parts.append(
                f'<text class="text" x="{at + 11:g}" y="{y + 21.5}">'
                f"{escape(results.title(peer))}</text>"
            )
            at += 38 + 7.2 * len(results.title(peer))
        scale = scale_of(_all_ratios(results, section))
        top = y + legend
        y = top + row_height * len(section.rows())
        parts += _grid(scale, x, top, y)
        for i, row in enumerate(section.rows()):
            middle = top + row_height * (i + 0.5)
            parts.append(
                f'<text class="text" x="{left - 14}" y="{middle + 4.5:g}" text-anchor="end">'
                f"{escape(row.label)}</text>"
            )
            parts += _ratio_row(results, section.peers, row, scale, x, middle)
        y += below
    head = results.header
    parts.append(
        f'<text class="quiet small" x="24" y="{height - 11}">'
        f"{escape(head['machine'])}; {escape(head['python'])}</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _grid(scale: Scale, x: Callable[[float], str], top: float, bottom: float) -> list[str]:
    parts = []
    for tick in scale.ticks:
        where = x(scale.at(tick))
        kind = "one" if tick == 1 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{where}" x2="{where}" y1="{top:g}" y2="{bottom:g}"/>'
        )
        parts.append(
            f'<text class="quiet small" x="{where}" y="{bottom + 17:g}" text-anchor="middle">'
            f"{_tick(tick)}</text>"
        )
    return parts
