"""Arithmetic of the results, and their text: tables, JSON, the block of bench/README.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.engines import BASE, CHECKOUT_MARK, COPYING, PROXY, SERVER
from bench.workloads import COLUMNS, KINDS, WORKLOADS, Workload

MARKS = "<!-- bench on {}: begin -->", "<!-- bench on {}: end -->"  # of a network's block
UNDECIDED = "~"  # before a ratio whose rounds disagree
GREY, PLAIN = "\x1b[90m", "\x1b[m"


class Spread(NamedTuple):
    """The median, the minimum and the maximum of some rounds."""

    median: float
    low: float
    high: float

    @property
    def undecided(self) -> bool:
        """Whether the rounds disagree: the minimum and the maximum, as shown, include 1."""
        return self.low < self.high and round(self.low, 2) <= 1 <= round(self.high, 2)


def spread(values: Iterable[float]) -> Spread:
    """Return the spread of the values. Raises ValueError if there are none."""
    values = list(values)
    if not values:
        raise ValueError("no round has a figure")
    return Spread(statistics.median(values), min(values), max(values))


class Row(NamedTuple):
    """One row of a summary: the ratios of `base` to each peer in one workload."""

    label: str
    workload: Workload
    base: str


class Section(NamedTuple):
    """One table of a summary: the workloads of one role and one kind, and the peers in them."""

    role: str
    kind: str
    workloads: list[Workload]
    peers: list[str]

    @property
    def title(self) -> str:
        what = "minireactor" if self.role == SERVER else "minireactor's proxy"
        return f"{self.kind}, {what} to"

    def rows(self) -> list[Row]:
        """Return a row for each workload. A proxy's row is followed by one with --copy."""
        rows = []
        for workload in self.workloads:
            rows.append(Row(workload.name, workload, BASE))
            if COPYING in self.peers:
                rows.append(Row(f"{workload.name}, --copy", workload, COPYING))
        return rows


class Results(NamedTuple):
    """A header, and runs: {"round", "workload", "engine"} with "figures" or with "error"."""

    header: dict[str, Any]
    runs: list[dict[str, Any]]

    def engines(self) -> list[str]:
        return list(self.header["engines"])

    def title(self, engine: str) -> str:
        return str(self.header["engines"][engine]["title"])

    def peers(self) -> list[str]:
        """Return the engines with which minireactor is compared; none if it did not run."""
        engines = self.engines()
        return [name for name in engines if name != BASE] if BASE in engines else []

    def workloads(self) -> list[Workload]:
        names = {run["workload"] for run in self.runs}
        return [workload for workload in WORKLOADS if workload.name in names]

    def sections(self) -> list[Section]:
        """Return the tables of the summary, without empty ones."""
        found = []
        for role in (SERVER, PROXY):
            for kind in KINDS:
                workloads = [w for w in self.workloads() if w.role == role and w.kind == kind]
                names = {workload.name for workload in workloads}
                busy = {run["engine"] for run in self.runs if run["workload"] in names}
                peers = [peer for peer in self.peers() if peer in busy]
                found += [Section(role, kind, workloads, peers)] if workloads else []
        return found

    def by_round(self, workload: str, engine: str, figure: str = "main") -> dict[int, float]:
        return {
            run["round"]: run["figures"][figure]
            for run in self.runs
            if run["workload"] == workload and run["engine"] == engine
            if figure in run.get("figures", ())
        }

    def figure(self, workload: str, engine: str, figure: str = "main") -> Spread | None:
        values = self.by_round(workload, engine, figure).values()
        return spread(values) if values else None

    def ratio(self, workload: str, peer: str, base: str = BASE) -> Spread | None:
        """Return the ratio of the main figures, `base` to `peer`; None if no round has both."""
        values = self.ratios(workload, peer, base)
        return spread(values) if values and peer != base else None

    def ratios(self, workload: str, peer: str, base: str = BASE) -> list[float]:
        """Return the ratios of the rounds that both have, in order."""
        ours, theirs = self.by_round(workload, base), self.by_round(workload, peer)
        return [ours[n] / theirs[n] for n in sorted(ours) if theirs.get(n, 0) > 0]

    def failures(self) -> list[str]:
        return [
            f"{run['workload']}, {run['engine']}, round {run['round']}: {run['error']}"
            for run in self.runs
            if "error" in run
        ]


def first_line(results: Results) -> str:
    """Return what was compared, where and how; no verdict."""
    head = results.header
    versions = [f"{each['title']} {each['version']}".strip() for each in head["engines"].values()]
    rounds = head["rounds"]
    return "; ".join(
        [
            head["machine"] + ("" if head["pinned"] else " (not pinned)"),
            head["python"],
            ", ".join(versions),
            head["network"] + (f" (MTU {head['mtu']:,})" if head["mtu"] else ""),
            f"marks {head['high'] // 1024} and {head['low'] // 1024} KiB"
            + (" (Twisted has only the high one)" if "twisted" in head["engines"] else ""),
            f"{rounds} round{'s' * (rounds != 1)}"
            + (", quick" if head["quick"] else "")
            + (", stopped when its time was over" if head["unfinished"] else ""),
        ]
    )


def notes(results: Results) -> list[str]:
    """Return the sentences that a reader of the ratios needs."""
    found = [
        "A ratio is the median of the rounds, with their minimum and maximum in brackets. Lower "
        "is better: 0.50 is half."
    ]
    if results.header["rounds"] > 1:
        found.append(
            f"With {UNDECIDED}, the ratios of the rounds lie on both sides of 1: no difference "
            "was found."
        )
    else:
        found.append("One round has no spread: repeat it before you believe a small difference.")
    engines = results.header["engines"].values()
    off = [each["title"] for each in engines if not each["nodelay"]]
    if off:
        found.append(
            f"TCP_NODELAY is off in {' and '.join(off)} by default, and on in "
            "the others. Where it is off, the kernel may keep a small write back until earlier "
            "ones are acknowledged."
        )
    return found


def number(value: float) -> str:
    """Format a figure with three significant digits, or more if it is 1,000 or larger."""
    if value != value:
        return "-"
    size = abs(value)
    for limit, form in ((0.0005, "0"), (1, "{:.3f}"), (10, "{:.2f}"), (100, "{:.1f}")):
        if size < limit:
            return form.format(value)
    return f"{value:,.0f}"


def ratio(value: Spread | None) -> str:
    """Format a ratio with its spread, if it has one."""
    if value is None:
        return "-"
    median, low, high = (f"{each:.2f}" for each in value)
    mark = UNDECIDED if value.undecided else ""
    return f"{mark}{median}" + (f" ({low}-{high})" if low != high else "")


def aligned(rows: Sequence[Sequence[str]], grey: bool = False) -> list[str]:
    """Return a line for each row: the first column to the left, the others to the right.

    If `grey`, undecided ratios are shown in grey, by the terminal's escape sequences."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        for text, width in zip(row[1:], widths[1:]):
            cell = text.rjust(width)
            cells.append(f"{GREY}{cell}{PLAIN}" if grey and text.startswith(UNDECIDED) else cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def workload_tables(results: Results, workload: Workload) -> list[list[list[str]]]:
    """Return tables of CPU, latency and memory, without empty ones; the main figure's is first."""
    kinds = sorted(KINDS, key=lambda kind: kind != workload.kind)
    tables = (_table(results, workload, kind) for kind in kinds)
    return [table for table in tables if len(table[0]) > 1]


def _table(results: Results, workload: Workload, kind: str) -> list[list[str]]:
    """Return headings, then a row for each engine that does the workload."""
    is_main = kind == workload.kind
    columns = [
        column
        for column in workload.columns
        if (COLUMNS[column].kind or workload.kind) == kind
        and any(results.figure(workload.name, e, column) for e in results.engines())
    ]
    with_ratios = is_main and bool(results.peers())
    heads = [kind]
    if is_main:
        heads += [workload.unit_in(results.header["quick"]), "min", "max"]
    if with_ratios:
        heads += ["ratio", "min", "max"]
    for column in columns:
        heads.append(heading(workload, column))
        heads += ["min", "max"] if COLUMNS[column].spread else []
    rows = [heads]
    for engine in results.engines():
        main = results.figure(workload.name, engine)
        if main is None:
            if is_main and workload.is_done_by(engine):
                why = "failed" if _has_failed(results, workload, engine) else "not run"
                rows.append([results.title(engine), why] + [""] * (len(heads) - 2))
            continue
        row = [results.title(engine)]
        if is_main:
            row += map(number, main)
        if with_ratios:
            row += _ratio_cells(results.ratio(workload.name, engine))
        for column in columns:
            row += _cells(results.figure(workload.name, engine, column), column)
        rows.append(row)
    return rows


def _has_failed(results: Results, workload: Workload, engine: str) -> bool:
    return any(run["workload"] == workload.name and run["engine"] == engine for run in results.runs)


def _ratio_cells(found: Spread | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    mark = UNDECIDED if found.undecided else ""
    return [f"{mark}{found.median:.2f}", f"{found.low:.2f}", f"{found.high:.2f}"]


def _cells(found: Spread | None, column: str) -> list[str]:
    count = 3 if COLUMNS[column].spread else 1
    if found is None:
        return [""] * count
    return [COLUMNS[column].form.format(value) for value in found[:count]]


def heading(workload: Workload, column: str) -> str:
    if column == "rate":
        return "MB/s" if workload.unit.endswith("GB") or workload.name == "timer" else "per second"
    return COLUMNS[column].heading


def summary(results: Results, section: Section) -> list[list[str]]:
    """Return headings, then a row of ratios for each row of the section."""
    return [
        [section.title, *map(results.title, section.peers)],
        *(
            [
                row.label,
                *(ratio(results.ratio(row.workload.name, p, row.base)) for p in section.peers),
            ]
            for row in section.rows()
        ),
    ]


def before_and_after(results: Results, before: str) -> list[list[str]]:
    """Return headings, then a row for each workload: its cost now and in another checkout.

    The costs are medians. The quartiles of the ratios, taken round by round, show how far to
    trust them: if a difference is real, all three are on one side of 1."""
    rows = [[f"after / before ({before})", "after", "before", "25 %", "50 %", "75 %"]]
    for workload in results.workloads():
        now, then = results.figure(workload.name, BASE), results.figure(workload.name, before)
        ratios = results.ratios(workload.name, before)
        if now is None or then is None or not ratios:
            continue
        # quantiles() takes two values or more.
        quarters = statistics.quantiles(
            (ratios * 2)[: max(2, len(ratios))], n=4, method="inclusive"
        )
        row = [workload.name, number(now.median), number(then.median)]
        rows.append(row + [f"{each:.3f}" for each in quarters])
    return rows


def text(results: Results, grey: bool = False) -> str:
    """Return everything for a terminal; if `grey`, undecided ratios are in grey."""
    lines = [first_line(results), ""]
    for workload in results.workloads():
        lines.append(f"{workload.name}: {workload.title}")
        for table in workload_tables(results, workload):
            lines += aligned(table, grey)
        lines.append("")
    for peer in results.peers():
        if CHECKOUT_MARK in peer:
            lines += [*aligned(before_and_after(results, peer)), ""]
    if results.peers():
        for section in results.sections():
            lines += [*aligned(summary(results, section), grey), ""]
        lines += [*notes(results), ""]
    for engine, reason in results.header["absent"].items():
        lines.append(f"{engine} was left out: {reason}")
    for failure in results.failures():
        lines.append(f"FAILED: {failure}")
    return "\n".join(lines).rstrip("\n")


def markdown(results: Results) -> str:
    """Return the first line, the summaries and the notes."""
    lines = [first_line(results) + "."]
    for section in results.sections():
        heads, *rows = summary(results, section)
        lines += [
            "",
            "| " + " | ".join(heads) + " |",
            "|-|" + "-:|" * (len(heads) - 1),
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
    return "\n".join([*lines, "", *notes(results)])


def block(text: str, network: str) -> tuple[str, str]:
    """Return the README's text up to the network's block, and from its end on.

    Raises ValueError if there is no block."""
    begin, end = (mark.format(network) for mark in MARKS)
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"the readme has no block from {begin} to {end}")
    return before + begin, end + after


def with_summary(text: str, results: Results) -> str:
    """Return the README's text with the block of this network replaced by these results."""
    before, after = block(text, results.header["network"])
    return f"{before}\n{markdown(results)}\n{after}"


def as_json(results: Results) -> str:
    """Return every figure of every run, and the ratios, as JSON."""
    quick = results.header["quick"]
    return json.dumps(
        {
            "first line": first_line(results),
            "header": results.header,
            "units": {w.name: w.unit_in(quick) for w in results.workloads()},
            "ratios": {
                row.label: {
                    peer: found._asdict()
                    for peer in section.peers
                    if (found := results.ratio(row.workload.name, peer, row.base))
                }
                for section in results.sections()
                for row in section.rows()
            },
            "runs": results.runs,
        },
        indent=1,
    )


def load(path: Path) -> Results:
    """Return the results that as_json() has written to a file.

    Raises OSError if the file cannot be read, ValueError if it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        results = Results(found["header"], found["runs"])
        first_line(results), results.workloads()
        return results
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{str(path)!r} was not written by --json of this version") from None
