"""Count the lines of the README's reading order; run as a program, write them into README.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
# A step: its number, its count, and what to read, with links to files or folders.
STEP = re.compile(r"^\| (\d+) \| ([\d,]+) \| (.*) \|$", re.MULTILINE)
TOTAL = re.compile(r"([\d,]+) lines in all")


def lines_in(place: Path) -> int:
    """Return the number of lines of a file, or of all Python files directly in a folder."""
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def lines_of_step(text: str) -> int:
    """Return the number of lines of all that the text of a step links to."""
    return sum(lines_in(ROOT / link) for link in re.findall(r"\]\(([\w./]+)\)", text))


def with_true_counts(readme: str) -> str:
    """Return the README with the count of each step, and the total, as they are."""
    total = sum(lines_of_step(step[3]) for step in STEP.finditer(readme))
    readme = STEP.sub(
        lambda step: f"| {step[1]} | {lines_of_step(step[3]):,} | {step[3]} |", readme
    )
    return TOTAL.sub(f"{total:,} lines in all", readme)


if __name__ == "__main__":
    README.write_text(with_true_counts(README.read_text(encoding="utf-8")), encoding="utf-8")
