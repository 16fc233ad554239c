"""The page (HTML) and the picture (SVG) of the results: self-contained, on light and on dark.

The charts of the page place everything in per cent and write in pixels, so that they fill any width
and stay legible on a telephone. The picture for the README has a fixed width, and a ground of its
own, because it may be shown on any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from bench.engines import BASE, ENGINES, PROXY, SERVER, SUBSTITUTIONS
from bench.load import SPARING
from bench.report import (
    Results,
    Section,
    Spread,
    first_line,
    heading,
    number,
    ratio,
    shown,
    summary,
)
from bench.works import Work

TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
MOST_OF_SECOND = 3.0  # a bar so many times as long as the second longest is drawn broken
BROKEN_AT = 1.3  # times the second longest

# A colour that shows on white and on black, and a shape, for whom colours are alike.
MARKS = {
    "twisted": ("#3b82f6", "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z"),
    "asyncio": ("#e08600", "M-4.5,-4.5h9v9h-9z"),
    "uvloop": ("#12a150", "M0,-5.5L5.5,4.5H-5.5z"),
    "streams": ("#a855f7", "M0,-6L6,0L0,6L-6,0z"),
    "raw": ("#7d8794", "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
    "pypy": ("#e11d74", "M0,5.5L5.5,-4.5H-5.5z"),
    "minireactor-copy": ("#d9480f", "M-6,-2.5h12v5h-12z"),
    "socat": ("#7d8794", "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
    "haproxy": ("#12a150", "M0,-5.5L5.5,4.5H-5.5z"),
    "haproxy-tuned": ("#e11d74", "M0,5.5L5.5,-4.5H-5.5z"),
}
ROLES = {SERVER: "As servers", PROXY: "As proxies"}
FALLBACK_MARK = ("#7d8794", "M-4,-4h8v8h-8z")


class Scale(NamedTuple):
    """A logarithmic axis of ratios, from one tick to another."""

    ticks: Sequence[float]

    def at(self, value: float) -> float:
        """From 0 to 1; what is beyond an end is at that end."""
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        return min(1.0, max(0.0, (math.log(value) - low) / (high - low)))


def scale_of(ratios: Sequence[Spread]) -> Scale:
    """Wide enough for all medians, within reason; and 1 is never at its edge."""
    low = min([0.4, *(each.median for each in ratios)])
    high = max([1.2, *(each.median for each in ratios)])
    first = max([i for i, tick in enumerate(TICKS) if tick <= low], default=0)
    last = min([i for i, tick in enumerate(TICKS) if tick >= high], default=len(TICKS) - 1)
    return Scale(TICKS[first : last + 1])


def _all_ratios(results: Results, section: Section) -> list[Spread]:
    found = (results.ratio(w.name, p) for w in section.works for p in section.peers)
    return [each for each in found if each is not None]


def _mark(peer: str, x: str, y: float, title: str = "") -> str:
    colour, path = MARKS.get(peer, FALLBACK_MARK)
    told = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<svg x="{x}" y="{y:g}" overflow="visible">'
        f'<path d="{path}" fill="{colour}" class="mark">{told}</path></svg>'
    )


def _ratio_row(
    results: Results,
    peers: Sequence[str],
    work: Work,
    scale: Scale,
    x: Callable[[float], str],
    middle: float,
) -> list[str]:
    """The marks of one work, each with its spread, a little apart in height."""
    parts = []
    for i, peer in enumerate(peers):
        found = results.ratio(work.name, peer)
        if found is None:
            continue
        y = middle + (i - (len(peers) - 1) / 2) * 2.4
        colour = MARKS.get(peer, FALLBACK_MARK)[0]
        title = (
            f"{work.name}, minireactor to {results.title(peer)}: {found.median:.2f} "
            f"({found.low:.2f} to {found.high:.2f})"
        )
        parts.append(
            f'<line x1="{x(scale.at(found.low))}" x2="{x(scale.at(found.high))}" y1="{y:g}" '
            f'y2="{y:g}" stroke="{colour}" stroke-width="2" opacity="0.45"/>'
        )
        parts.append(_mark(peer, x(scale.at(found.median)), y, title))
    return parts


def _tick(value: float) -> str:
    return f"{value:g}"


# The picture.

_PICTURE_STYLE = """
.ground{fill:#ffffff;stroke:#d8dee4}.text{fill:#1f2328}.quiet{fill:#59636e}
.grid{stroke:#e3e7eb}.one{stroke:#1f2328}.mark{stroke:#ffffff;stroke-width:1}
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.title{font-size:16px;font-weight:600}.small{font-size:12px}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117;stroke:#30363d}.text{fill:#e6edf3}.quiet{fill:#9198a1}
.grid{stroke:#262c34}.one{stroke:#e6edf3}.mark{stroke:#0d1117}}
"""


def chart(results: Results) -> str:
    """The ratios of all works to all peers, as one SVG picture: a chart for each section."""
    width, left, right, row = 880, 132, 34, 30
    above, legend, below = 62, 44, 36
    sections = results.sections()
    rows = sum(len(section.works) for section in sections)
    height = above + (legend + below) * len(sections) + row * rows + 12

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
        "more. Medians, with the spread of the rounds.</text>",
    ]
    y = above
    for section in sections:
        at = 30.0
        for peer in section.peers:
            parts.append(_mark(peer, f"{at:g}", y + 17))
            parts.append(
                f'<text class="text" x="{at + 11:g}" y="{y + 21.5}">'
                f"{escape(results.title(peer))}</text>"
            )
            at += 38 + 7.2 * len(results.title(peer))
        scale = scale_of(_all_ratios(results, section))
        top = y + legend
        y = top + row * len(section.works)
        parts += _grid(scale, x, top, y)
        for i, work in enumerate(section.works):
            middle = top + row * (i + 0.5)
            parts.append(
                f'<text class="text" x="{left - 14}" y="{middle + 4.5:g}" text-anchor="end">'
                f"{escape(work.name)}</text>"
            )
            parts += _ratio_row(results, section.peers, work, scale, x, middle)
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


# The page.

_STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#ffffff;--text:#1b1f24;--quiet:#5b6570;
--line:#dfe3e8;--bar:#b9c3ce;--raw:#dde3e9;--accent:#d9480f;--one:#1b1f24}
@media (prefers-color-scheme:dark){:root{--ground:#0e1116;--card:#161b22;--text:#e7ebf0;
--quiet:#98a2ad;--line:#2b323b;--bar:#4a5563;--raw:#323a45;--accent:#ff7b3d;--one:#e7ebf0}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 20px 72px}
h1{font-size:clamp(1.7rem,5vw,2.5rem);line-height:1.15;margin:0 0 12px;letter-spacing:-.02em}
h2{font-size:1.35rem;margin:56px 0 12px;letter-spacing:-.01em}
h3{font-size:1.06rem;margin:0 0 2px}h3.role{margin:24px 0 8px}
p{margin:0 0 12px;max-width:70ch}
.first{color:var(--quiet);font-size:.92rem;overflow-wrap:anywhere}
.unit,.quiet{color:var(--quiet);font-size:.88rem}
.works{display:grid;grid-template-columns:minmax(0,1fr);gap:20px}
@media (min-width:860px){.works{grid-template-columns:repeat(2,minmax(0,1fr))}}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;
min-width:0}
.card p{font-size:.93rem;margin:10px 0 0}
.card .why{color:var(--quiet)}
svg{display:block;width:100%;overflow:visible;font:13px/1 system-ui,-apple-system,"Segoe UI",
Roboto,Helvetica,Arial,sans-serif;font-variant-numeric:tabular-nums}
svg svg{width:auto}
svg text{fill:var(--text);stroke:var(--card);stroke-width:3px;paint-order:stroke}
svg .quiet{fill:var(--quiet);font-size:12px}svg .ours{font-weight:650}
.mark{stroke:var(--card);stroke-width:1}.grid{stroke:var(--line)}.one{stroke:var(--one)}
.bar{fill:var(--bar)}.bar.base{fill:var(--accent)}.bar.raw{fill:var(--raw)}
.whisker{stroke:var(--text);stroke-width:1.5;opacity:.75}.break{fill:var(--card)}
.legend{display:flex;flex-wrap:wrap;gap:6px 18px;margin:0 0 16px;padding:0;list-style:none;
font-size:.9rem}
.legend svg{display:inline-block;width:12px;height:12px;vertical-align:-1px;margin-right:6px}
.wide{overflow-x:auto;margin-top:14px;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{color:var(--quiet);font-weight:500}tbody th{font-weight:500}
tr.base th,tr.base td{font-weight:650}
details{margin-top:14px}summary{cursor:pointer;color:var(--quiet);font-size:.88rem}
code,pre{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;
overflow-x:auto}
li{margin:0 0 6px;max-width:74ch}ul.how{padding-left:20px}
.failed{color:var(--accent)}
"""


def html(results: Results) -> str:
    """One page, that needs nothing but itself."""
    quick = results.header["quick"]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        '<meta name="color-scheme" content="light dark"/>',
        "<title>minireactor beside its peers</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body><main>",
        "<h1>minireactor beside its peers</h1>",
        f'<p class="first">{escape(first_line(results))}.</p>',
        '<p class="quiet">A quick run: small amounts, so that the last digit means little.</p>'
        if quick
        else "",
        *_failures(results),
        *_overview(results),
        "<h2>Work by work</h2>",
        '<div class="works">',
        *(_card(results, work) for work in results.works()),
        "</div>",
        *_method(results),
        "</main></body>",
        "</html>",
        "",
    ]
    return "\n".join(part for part in parts if part)


def _failures(results: Results) -> list[str]:
    return [f'<p class="failed">Failed: {escape(text)}</p>' for text in results.failures()]


def _overview(results: Results) -> list[str]:
    if not results.peers():
        return []
    parts = [
        "<h2>Ratios</h2>",
        "<p>What minireactor costs for a work, divided by what the peer costs for the same work in "
        "the same round: left of 1 it needs less, at 0.5 half. Each mark is the median of the "
        "rounds; the line behind it goes from the least to the most. Lower is better.</p>",
    ]
    for section in results.sections():
        items = [
            f'<li><svg viewBox="-6 -6 12 12" aria-hidden="true">{_mark(peer, "0", 0)}</svg>'
            f"{escape(results.title(peer))}</li>"
            for peer in section.peers
        ]
        heads, *rows = summary(results, section)
        parts += [
            f'<h3 class="role">{ROLES[section.role]}</h3>',
            '<div class="card">',
            f'<ul class="legend">{"".join(items)}</ul>',
            _ratio_chart(results, section),
            "</div>",
            "<details><summary>The same in figures</summary>",
            '<div class="wide">',
            _table(heads, rows, ()),
            "</div></details>",
        ]
    return parts


def _ratio_chart(results: Results, section: Section) -> str:
    """A line of text for each work, and its marks under it."""
    row, top = 50, 6
    works = section.works
    scale = scale_of(_all_ratios(results, section))
    bottom = top + row * len(works)

    def x(part: float) -> str:
        return f"{2 + part * 96:.2f}%"

    parts = [
        f'<svg height="{bottom + 26}" role="img" aria-label="Ratios of minireactor to its peers">'
    ]
    parts += _grid(scale, x, top, bottom)
    for i, work in enumerate(works):
        y = top + row * i
        parts.append(f'<text x="0" y="{y + 13}">{escape(work.name)}</text>')
        parts += _ratio_row(results, section.peers, work, scale, x, y + 31)
    return "".join([*parts, "</svg>"])


def _card(results: Results, work: Work) -> str:
    headings = ["", work.unit, *(heading(work, column) for column in work.columns)]
    if results.peers():
        headings.insert(2, "ratio")
    rows = []
    for engine in results.engines():
        main = results.figure(work.name, engine)
        if main is None:
            continue
        row = [results.title(engine), number(main.median)]
        if results.peers():
            row.append("" if engine == BASE else ratio(results.ratio(work.name, engine)))
        row += [shown(results, work, engine, column) for column in work.columns]
        rows.append(row)
    return "\n".join(
        [
            f'<section class="card" id="{work.name}">',
            f"<h3>{escape(work.title)}</h3>",
            f'<div class="unit">{escape(work.unit)}; lower is better</div>',
            _bars(results, work),
            f"<p>{escape(work.measured)}</p>",
            f'<p class="why">The {work.role}: {escape(work.server)} {escape(work.why)}</p>',
            "<details><summary>All figures</summary>",
            '<div class="wide">',
            _table(headings, rows, (results.header["engines"].get(BASE, {}).get("title"),)),
            "</div></details>",
            "</section>",
        ]
    )


def _bars(results: Results, work: Work) -> str:
    """A bar for each engine: the median, with the spread, and the ratio beside it."""
    found = [
        (engine, figure)
        for engine in results.engines()
        if (figure := results.figure(work.name, engine)) is not None
    ]
    end, broken = longest([figure for _, figure in found])
    row = 40
    parts = [
        f'<svg height="{row * len(found) + 6}" role="img" '
        f'aria-label="{escape(work.title)}, {escape(work.unit)}">'
    ]
    for i, (engine, figure) in enumerate(found):
        y = row * i + 6
        kind = "base" if engine == BASE else engine
        against = results.ratio(work.name, engine)
        told = f"{number(figure.median)}"
        beside = f" ({against.median:.2f})" if against else ""
        long = figure.median > broken
        width = 100.0 if long else max(0.0, figure.median / end * 100)
        ours = ' class="ours"' if engine == BASE else ""
        parts += [
            f'<text x="0" y="{y + 14}"{ours}>{escape(results.title(engine))}</text>',
            f'<text x="100%" y="{y + 14}" text-anchor="end"{ours}>{told}'
            f'<tspan class="quiet">{beside}</tspan></text>',
            f'<rect class="bar {kind}" x="0" y="{y + 20}" width="{width:.2f}%" height="11" rx="2">'
            f"<title>{escape(results.title(engine))}: {number(figure.median)} "
            f"({number(figure.low)} to {number(figure.high)}) {escape(work.unit)}</title></rect>",
        ]
        if long:
            parts.append(
                f'<svg x="88%" y="{y + 17}" overflow="visible">'
                '<path class="break" d="M4,0h5l-6,17h-5z"/></svg>'
            )
        elif figure.high > figure.low:
            parts.append(
                f'<line class="whisker" x1="{max(0.0, figure.low / end * 100):.2f}%" '
                f'x2="{min(100.0, figure.high / end * 100):.2f}%" '
                f'y1="{y + 25.5}" y2="{y + 25.5}"/>'
            )
    return "".join([*parts, "</svg>"])


def longest(figures: Sequence[Spread]) -> tuple[float, float]:
    """The value at the end of the bars, and the value beyond which a bar is drawn broken."""
    medians = sorted(figure.median for figure in figures)
    top = max([figure.high for figure in figures], default=1.0) or 1.0
    if len(medians) > 1 and medians[-1] > MOST_OF_SECOND * medians[-2] > 0:
        end = max(BROKEN_AT * medians[-2], max(f.high for f in figures if f.median <= medians[-2]))
        return end, end
    return top, top


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[str | None]) -> str:
    parts = ["<table><thead><tr>", *(f"<th>{escape(text)}</th>" for text in heads)]
    parts.append("</tr></thead><tbody>")
    for first, *others in rows:
        kind = ' class="base"' if first in bold else ""
        parts.append(f'<tr{kind}><th scope="row">{escape(first)}</th>')
        parts += [f"<td>{escape(text)}</td>" for text in others]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table>"])


def _method(results: Results) -> list[str]:
    head = results.header
    changed = [f"{theirs} -> {ours}" for theirs, ours in SUBSTITUTIONS]
    engines = [
        f"<li><strong>{escape(engine.title)}</strong>: {escape(engine.about)}</li>"
        for engine in ENGINES
        if engine.name in head["engines"]
    ]
    absent = [
        f"<li><strong>{escape(name)}</strong> was left out: {escape(reason)}.</li>"
        for name, reason in head["absent"].items()
    ]
    pinned = (
        "The server has one core to itself, the load the others."
        if head["pinned"]
        else "This machine did not let servers and load be kept on different cores."
    )
    return [
        "<h2>How it was measured</h2>",
        '<ul class="how">',
        "<li>Each engine serves each work in a process of its own; the clients are other "
        f"processes. {pinned} The engines take turns, round after round, so that whatever else the "
        "machine does hits all alike.</li>",
        "<li>The main figure is mostly the server's CPU time, user and system, as the system "
        "counts it, for the counted part only: a warm-up goes before it. Unlike time on the wall "
        "it holds on machines that are shared. Throughput and latency are the clients', which are "
        "written in Python, and may be what limits.</li>",
        "<li>A ratio is taken within a round, and the median of those is shown; so ratios need "
        "not be the quotients of the medians.</li>",
        "<li>In the works of a proxy it is the proxy that is measured. Its clients and its target "
        "are one process, so that nobody but the proxy has to wake up between them; what socat "
        "forks counts as socat. What a warm-up passes on is compared byte by byte, and then one "
        f"read in {SPARING}: the load only counts the others, so as not to be what limits.</li>",
        "<li>Every byte is counted at the client. A run that loses one fails, and so does one "
        "whose server logs an error.</li>",
        f"<li>The marks are {head['high'] // 1024} and {head['low'] // 1024} KiB wherever data "
        "streams. Twisted has only the high one, and resumes at zero; the proxies in C have "
        "buffers of a fixed size instead. Up to "
        f"{head['backlog']:,} connections may wait to be accepted, everywhere.</li>",
        "<li>Sockets are as each engine makes them: minireactor, asyncio, uvloop and HAProxy "
        "switch TCP_NODELAY on; Twisted, raw and socat leave it off. All connections are on the "
        "loopback interface.</li>",
        "<li>The C library maps large blocks of memory anew each time, until it has seen one "
        "freed. Whether a server has freed one when it comes up is an accident, and a factor of "
        "four for asyncio's small messages, which it reads into 256 KiB; so each server frees one "
        "first.</li>",
        "<li>PyPy compiles while it runs: its figures contain that, the more the shorter a work "
        "is.</li>",
        "</ul>",
        "<h2>The engines</h2>",
        f'<ul class="how">{"".join(engines)}{"".join(absent)}</ul>',
        "<p>The servers of minireactor and of Twisted are one file, in which these words are "
        "replaced:</p>",
        f"<pre>{escape(chr(10).join(changed))}</pre>",
        "<h2>Repeat it</h2>",
        "<pre>pip install '.[bench]'\npython -m bench --html page.html</pre>",
    ]
