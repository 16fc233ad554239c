"""`python -m bench --ladder`: measure each step against the one before it; a table and a chart."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from bench import measure, page
from bench.engines import BASE, ENGINES, Engine
from bench.ladder import STEPS, sources
from bench.report import Spread, number, spread
from bench.workloads import WORKLOADS, Workload

ROUNDS, QUICK_ROUNDS = 5, 3
TIMEOUT = 180.0  # seconds, of one run
GOALS = (BASE, "twisted")  # engines that stand beside the ladder, if installed


class Ladder(NamedTuple):
    """What was measured: a header, and for each round {workload: {engine: cost}}."""

    header: dict[str, Any]
    rounds: list[dict[str, dict[str, float]]]

    def workloads(self) -> list[Workload]:
        names = {name for each in self.rounds for name in each}
        return [workload for workload in WORKLOADS if workload.name in names]

    def cost(self, workload: str, engine: str) -> Spread | None:
        """Return the cost in the unit of the workload, None if the engine has not done it."""
        values = [r[workload][engine] for r in self.rounds if engine in r.get(workload, {})]
        return spread(values) if values else None

    def ratio(self, workload: str, engine: str, before: str) -> Spread | None:
        """Return the cost as a ratio to that of `before` in the same round."""
        both = [r[workload] for r in self.rounds if {engine, before} <= set(r.get(workload, {}))]
        return spread([each[engine] / each[before] for each in both]) if both else None


def engines_of(session: measure.Session) -> list[Engine]:
    """Return an engine for each step, then the GOALS. Writes the patched files."""
    found = []
    for step, source in zip(STEPS, sources()):
        path = session.folder / f"tiny_{step.name.replace('-', '_')}.py"
        path.write_text(source, encoding="utf-8")
        start = f"import bench.ladder.server as server; server.main({str(path)!r})"
        found.append(Engine(step.name, step.title, start))
    goals = [engine for engine in ENGINES if engine.name in GOALS]
    return found + [engine for engine in goals if not measure.installed(engine)]


def workloads_of(chosen: Sequence[Workload]) -> list[Workload]:
    """Return those of `chosen` that a step names; all of these if none is chosen by name."""
    named = {name for step in STEPS for name in step.workloads}
    return [workload for workload in chosen if workload.name in named]


def climb(workloads: Sequence[Workload], quick: bool, rounds: int | None) -> Ladder:
    """Measure all steps on all workloads, round after round."""
    session = measure.Session(TIMEOUT)
    ladder = Ladder({"machine": measure.machine(), "python": measure.python()}, [])
    begun = time.monotonic()
    try:
        engines = engines_of(session)
        ladder.header["titles"] = {engine.name: engine.title for engine in engines}
        for count in range(rounds or (QUICK_ROUNDS if quick else ROUNDS)):
            found: dict[str, dict[str, float]] = {}
            ladder.rounds.append(found)
            for workload in workloads:
                costs = found[workload.name] = {}
                # Every other round goes backwards: what slows the machine down favours no step.
                for engine in engines if count % 2 == 0 else reversed(engines):
                    what = f"round {count + 1}: {workload.name}, {engine.title}"
                    try:
                        costs[engine.name] = workload.run(session, engine, quick)["main"]
                        outcome = f"{number(costs[engine.name])} {workload.unit_in(quick)}"
                    except measure.RunFailed as error:
                        outcome = f"FAILED: {error}"
                    for complaint in session.complaints:
                        outcome += f" ({complaint.splitlines()[-1]})"
                        costs.pop(engine.name, None)
                    session.complaints.clear()
                    print(f"{what}: {outcome}", file=sys.stderr, flush=True)
    finally:
        session.close()
    ladder.header["seconds"] = round(time.monotonic() - begun)
    return ladder


def summary(ladder: Ladder) -> str:
    """Return one Markdown table: what each step costs on each workload, as a ratio."""
    workloads = ladder.workloads()
    first, last = STEPS[0].name, STEPS[-1].name
    rows = [(_title(ladder, name), name, before) for name, before in _pairs(ladder) if before]
    rows.append(("**all steps, to tiny**", last, first))
    goals = [goal for goal in GOALS if goal in ladder.header["titles"]]
    rows += [(f"{_title(ladder, goal)}, to tiny", goal, first) for goal in goals]
    lines = [
        f"| cost, to the step before | {' | '.join(workload.name for workload in workloads)} |",
        f"|-|{'-:|' * len(workloads)}",
    ]
    for title, name, before in rows:
        ratios = [ladder.ratio(workload.name, name, before) for workload in workloads]
        shown = ["-" if each is None else f"{each.median:.2f}" for each in ratios]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


def text(ladder: Ladder) -> str:
    """Return the summary, then a Markdown table for each workload."""
    head = ladder.header
    about = f"{head['machine']}; {head['python']}; {len(ladder.rounds)} rounds, {head['seconds']} s"
    parts = [about, summary(ladder)]
    for workload in ladder.workloads():
        lines = [
            f"### {workload.name}: {workload.title}",
            "",
            f"| step | {workload.unit} | to the step before | to tiny |",
            "|-|-:|-:|-:|",
        ]
        for name, before in _pairs(ladder):
            cost = ladder.cost(workload.name, name)
            if cost is None:
                continue
            to_before = ladder.ratio(workload.name, name, before) if before else None
            to_first = ladder.ratio(workload.name, name, STEPS[0].name) if name != before else None
            lines.append(
                f"| {_title(ladder, name)} | {number(cost.median)} | {_ratio(to_before)} | "
                f"{_ratio(to_first)} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _pairs(ladder: Ladder) -> Iterator[tuple[str, str]]:
    """Yield each engine with the step before it; "" for the first step and for the goals."""
    before = ""
    for step in STEPS:
        yield step.name, before
        before = step.name
    for goal in GOALS:
        if goal in ladder.header["titles"]:
            yield goal, ""


def _title(ladder: Ladder, name: str) -> str:
    digit = name.partition("-")[0]
    title = ladder.header["titles"][name]
    return f"{digit}. {title}" if digit.isdigit() and digit != "0" else title


def _ratio(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def chart(ladder: Ladder) -> str:
    """Return a picture (SVG): for each workload, the cost after each step, as bars."""
    row, bar, left, width, top = 19, 13, 330, 880, 62
    workloads = ladder.workloads()
    names = [name for name, _ in _pairs(ladder)]
    block = 34 + row * len(names) + 14
    height = top + block * len(workloads) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="The cost of tiny after each step">',
        f"<style>{page._PICTURE_STYLE}.bar{{fill:#3b82f6}}.goal{{fill:#7d8794}}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>',
        '<text class="title text" x="24" y="34">From tiny to the core, one change at a time</text>',
        '<text class="quiet" x="24" y="56">Shorter is better. Each step contains those before '
        "it. Medians; the number behind a bar is the cost.</text>",
    ]
    y = float(top)
    for workload in workloads:
        costs = {name: ladder.cost(workload.name, name) for name in names}
        most = max(each.median for each in costs.values() if each is not None)
        parts.append(
            f'<text class="text" x="24" y="{y + 26:g}" font-weight="600">'
            f"{escape(workload.name)}: {escape(workload.unit)}</text>"
        )
        y += 34
        for name in names:
            cost = costs[name]
            middle = y + row / 2
            parts.append(
                f'<text class="text small" x="{left - 10}" y="{middle + 4:g}" text-anchor="end">'
                f"{escape(_title(ladder, name))}</text>"
            )
            if cost is not None:
                length = max(1.0, (width - left - 110) * cost.median / most)
                kind = "goal" if name in GOALS else "bar"
                parts.append(
                    f'<rect class="{kind}" x="{left}" y="{middle - bar / 2:g}" '
                    f'width="{length:.1f}" height="{bar}" rx="2"/>'
                )
                parts.append(
                    f'<text class="quiet small" x="{left + length + 8:.1f}" y="{middle + 4:g}">'
                    f"{number(cost.median)}</text>"
                )
            y += row
        y += 14
    parts.append(
        f'<text class="quiet small" x="24" y="{height - 11}">'
        f"{escape(ladder.header['machine'])}; {escape(ladder.header['python'])}</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def as_json(ladder: Ladder) -> str:
    return json.dumps(ladder._asdict(), indent=1)


def load(path: Path) -> Ladder:
    """Return what --json has written. Raises ValueError if the file is something else."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or set(found) != {"header", "rounds"}:
        raise ValueError(f"{str(path)!r} is not a ladder's --json")
    return Ladder(**found)


def main(given: Any, workloads: Sequence[Workload]) -> int:
    """Run the command with its options. Return the exit status."""
    ladder = load(Path(given.earlier)) if given.earlier else None
    if ladder is None:
        try:
            with measure.signals.taken():
                ladder = climb(workloads_of(workloads), given.quick, given.rounds)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
    print(text(ladder))
    writers: tuple[tuple[str | None, Callable[[Ladder], str]], ...] = (
        (given.json, as_json),
        (given.chart, chart),
    )
    for path, content in writers:
        if path:
            Path(path).write_text(content(ladder), encoding="utf-8")
    complete = all(len(r[w]) == len(ladder.header["titles"]) for r in ladder.rounds for w in r)
    return 0 if complete else 1
