"""Arithmetic of the results, and their text: tables, JSON, the block of bench/README.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.engines import BASE, CHECKOUT_MARK, COPYING, PROXY, SERVER
from bench.workloads import COLUMNS, WORKLOADS, Workload

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


class Spread(NamedTuple):
    """The median of some rounds, the least and the most."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """ValueError without values."""
    values = list(values)
    if not values:
        raise ValueError("no round has a figure")
    return Spread(statistics.median(values), min(values), max(values))


class Section(NamedTuple):
    """The workloads of one role, and who else has done any of them."""

    role: str
    workloads: list[Workload]
    peers: list[str]

    def rows(self) -> list[tuple[str, Workload, str]]:
        """Of a summary: what to call it, the workload, and whose ratios to the peers it shows."""
        rows = []
        for workload in self.workloads:
            rows.append((workload.name, workload, BASE))
            if COPYING in self.peers:
                rows.append((f"{workload.name}, --copy", workload, COPYING))
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
        """Those with which minireactor can be compared."""
        engines = self.engines()
        return [name for name in engines if name != BASE] if BASE in engines else []

    def workloads(self) -> list[Workload]:
        names = {run["workload"] for run in self.runs}
        return [workload for workload in WORKLOADS if workload.name in names]

    def sections(self) -> list[Section]:
        """Those that have workloads."""
        found = []
        for role in (SERVER, PROXY):
            workloads = [workload for workload in self.workloads() if workload.role == role]
            names = {workload.name for workload in workloads}
            busy = {run["engine"] for run in self.runs if run["workload"] in names}
            peers = [peer for peer in self.peers() if peer in busy]
            found += [Section(role, workloads, peers)] if workloads else []
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
        """minireactor's main figure over the peer's, of the rounds that both have."""
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
    """What was compared, where and how; no verdict."""
    head = results.header
    versions = [f"{each['title']} {each['version']}".strip() for each in head["engines"].values()]
    rounds = head["rounds"]
    return "; ".join(
        [
            head["machine"] + ("" if head["pinned"] else " (not pinned)"),
            head["python"],
            ", ".join(versions),
            f"marks {head['high'] // 1024} and {head['low'] // 1024} KiB"
            + (" (Twisted has only the high one)" if "twisted" in head["engines"] else ""),
            f"{rounds} round{'s' * (rounds != 1)}"
            + (", quick" if head["quick"] else "")
            + (", stopped when its time was over" if head["unfinished"] else ""),
        ]
    )


def number(value: float) -> str:
    """Three digits that mean something."""
    if value != value:
        return "-"
    size = abs(value)
    for limit, form in ((0.0005, "0"), (1, "{:.3f}"), (10, "{:.2f}"), (100, "{:.1f}")):
        if size < limit:
            return form.format(value)
    return f"{value:,.0f}"


def ratio(value: Spread | None) -> str:
    return "-" if value is None else f"{value.median:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(text.rjust(width) for text, width in zip(row[1:], widths[1:])),
            ]
        ).rstrip()
        for row in rows
    ]


def workload_table(results: Results, workload: Workload) -> list[list[str]]:
    """Headings, then a row for each engine."""
    columns = [
        c
        for c in workload.columns
        if any(results.figure(workload.name, e, c) for e in results.engines())
    ]
    with_ratios = bool(results.peers())
    rows = [["", workload.unit, "least", "most"]]
    rows[0] += ["ratio", "least", "most"] if with_ratios else []
    rows[0] += [heading(workload, column) for column in columns]
    for engine in results.engines():
        main = results.figure(workload.name, engine)
        if main is None:
            if not workload.is_done_by(engine):
                continue
            failed = any(
                run["workload"] == workload.name and run["engine"] == engine for run in results.runs
            )
            said = "failed" if failed else "not run"
            rows.append([results.title(engine), said] + [""] * (len(rows[0]) - 2))
            continue
        row = [results.title(engine), *map(number, main)]
        if with_ratios:
            versus = results.ratio(workload.name, engine)
            row += ["", "", ""] if versus is None else [f"{value:.2f}" for value in versus]
        row += [shown(results, workload, engine, column) for column in columns]
        rows.append(row)
    return rows


def heading(workload: Workload, column: str) -> str:
    if column == "rate":
        return "MB/s" if workload.unit.endswith("GB") or workload.name == "timer" else "per second"
    return COLUMNS[column][0]


def shown(results: Results, workload: Workload, engine: str, column: str) -> str:
    value = results.figure(workload.name, engine, column)
    return "" if value is None else COLUMNS[column][1].format(value.median)


def summary(results: Results, section: Section) -> list[list[str]]:
    """Headings, then a row of ratios for each workload."""
    what = "minireactor" if section.role == SERVER else "minireactor's proxy"
    return [
        [f"{what} to", *map(results.title, section.peers)],
        *(
            [label, *(ratio(results.ratio(workload.name, peer, base)) for peer in section.peers)]
            for label, workload, base in section.rows()
        ),
    ]


def before_and_after(results: Results, before: str) -> list[list[str]]:
    """Headings, then a row for each workload: what it costs now, and cost in another checkout.

    The costs are medians. The quartiles of the ratios taken round by round tell how far to trust
    them: of a difference that is real, all three are on one side of 1."""
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


def text(results: Results) -> str:
    lines = [first_line(results), ""]
    for workload in results.workloads():
        lines += [
            f"{workload.name}: {workload.title}",
            *aligned(workload_table(results, workload)),
            "",
        ]
    for peer in results.peers():
        if CHECKOUT_MARK in peer:
            lines += [*aligned(before_and_after(results, peer)), ""]
    if results.peers():
        lines += [
            "Ratios of the first figure, minireactor's to the peer's, median of the rounds; lower "
            "is better, 0.50 is half:",
        ]
        for section in results.sections():
            lines += [*aligned(summary(results, section)), ""]
    for engine, reason in results.header["absent"].items():
        lines.append(f"{engine} was left out: {reason}")
    for failure in results.failures():
        lines.append(f"FAILED: {failure}")
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """The first line and the summaries."""
    lines = [first_line(results) + "."]
    for section in results.sections():
        heads, *rows = summary(results, section)
        lines += [
            "",
            "| " + " | ".join(heads) + " |",
            "|-|" + "-:|" * (len(heads) - 1),
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
    return "\n".join(lines)


def block(text: str) -> tuple[str, str]:
    """What comes before and after the README's block. ValueError without it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the readme has no block from {BEGIN} to {END}")
    return before, after


def with_summary(text: str, results: Results) -> str:
    before, after = block(text)
    return f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}"


def as_json(results: Results) -> str:
    """Every figure of every run, and what was made of them."""
    return json.dumps(
        {
            "first line": first_line(results),
            "header": results.header,
            "units": {workload.name: workload.unit for workload in results.workloads()},
            "ratios": {
                label: {
                    peer: found._asdict()
                    for peer in section.peers
                    if (found := results.ratio(workload.name, peer, base))
                }
                for section in results.sections()
                for label, workload, base in section.rows()
            },
            "runs": results.runs,
        },
        indent=1,
    )


def load(path: Path) -> Results:
    """What `as_json` has written. OSError, ValueError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Results(found["header"], found["runs"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{str(path)!r} was not written by --json") from None
