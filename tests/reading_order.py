"""Count the lines of the README's reading order; run as a program, write them into README.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
# A step: its number, its count, and what to read: links to files or folders, each with its count.
STEP = re.compile(r"^\| (\d+) \| ([\d,]+) \| (.*) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([\w./]+)\)(?: \d(?:[\d,]*\d)?)?")
HEART = re.compile(r"heart: ([\d,]+) lines")
HEART_STEPS = ("1", "2", "3")
TOTAL = re.compile(r"([\d,]+) lines in all")


def lines_in(place: Path) -> int:
    """Return the number of lines of a file, or of all Python files directly in a folder."""
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def places_of_step(text: str) -> list[Path]:
    """Return the files and folders that the text of a step links to."""
    return [ROOT / link for link in LINK.findall(text)]


def lines_of_step(text: str) -> int:
    """Return the number of lines of all that the text of a step links to."""
    return sum(map(lines_in, places_of_step(text)))


def with_true_counts(readme: str) -> str:
    """Return the README with the counts of each file and each step, and the total, as they are."""

    def counted(step: re.Match[str]) -> str:
        text = LINK.sub(lambda link: f"]({link[1]}) {lines_in(ROOT / link[1]):,}", step[3])
        return f"| {step[1]} | {lines_of_step(text):,} | {text} |"

    counts = {step[1]: lines_of_step(step[3]) for step in STEP.finditer(readme)}
    heart = sum(counts.get(step, 0) for step in HEART_STEPS)
    readme = HEART.sub(f"heart: {heart:,} lines", STEP.sub(counted, readme))
    return TOTAL.sub(f"{sum(counts.values()):,} lines in all", readme)


if __name__ == "__main__":
    README.write_text(with_true_counts(README.read_text(encoding="utf-8")), encoding="utf-8")
