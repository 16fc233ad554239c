"""The ladder: from `minireactor/tiny.py` to the core's speed, one change at a time.

Each step is a patch of a few lines. The patches are applied to `tiny` in order, in a scratch
folder. `python -m bench --ladder` measures each step against the one before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
TINY = FOLDER.parent.parent / "minireactor" / "tiny.py"


class Step(NamedTuple):
    """One change: its file, what it does in a few words, and the workloads that may show it."""

    name: str
    title: str
    workloads: tuple[str, ...]

    def patch(self) -> str:
        """Return the text of the patch; empty for the first step, which is `tiny` itself."""
        path = FOLDER / f"{self.name}.patch"
        return path.read_text(encoding="utf-8") if path.exists() else ""


STEPS = (
    Step("0-tiny", "tiny as it is", ()),
    Step("1-flush", "flush once before sleeping", ("echo-100", "lines")),
    Step("2-interest", "register write interest only for leftovers", ("echo-100", "lines")),
    Step("3-nodelay", "let TCP send at once", ("stream-back", "echo-100")),
    Step("4-answer", "answer inside the read", ("echo-100", "stream-back")),
    Step("5-dispatch", "dispatch straight to the object", ("echo-100", "echo-1000")),
    Step("6-epoll", "epoll without key objects", ("echo-100", "echo-1000")),
    Step("7-reads", "adaptive reads", ("echo-100", "bulk-in", "stream-back")),
    Step("8-chunks", "chunks that are never copied", ("bulk-out-push", "stream-back")),
    Step("9-share", "bounded shares, and turns for producers", ("greedy",)),
    Step("10-accepts", "accept more than one connection at a time", ("churn", "greedy")),
)


class PatchError(Exception):
    """A patch does not fit the source any more."""


def sources() -> list[str]:
    """Return the source of `tiny` after each of the STEPS. Raises PatchError."""
    found = [TINY.read_text(encoding="utf-8")]
    for step in STEPS[1:]:
        found.append(applied(found[-1], step))
    return found


def applied(source: str, step: Step) -> str:
    """Return `source` with the step's patch. Each hunk has to fit in exactly one place."""
    for before, after in _hunks(step.patch()):
        count = source.count(before)
        if count != 1:
            start = before.strip().splitlines()[0].strip()
            raise PatchError(f"{step.name}.patch fits in {count} places: {start!r}")
        source = source.replace(before, after)
    return source


def _hunks(patch: str) -> list[tuple[str, str]]:
    """Return what each hunk of a unified diff takes away, and what it puts there."""
    hunks = []
    for text in patch.split("\n@@ ")[1:]:
        lines = text.splitlines(keepends=True)[1:]
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        hunks.append((before, after))
    return hunks
