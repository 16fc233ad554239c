"""The lessons, and what is in their files."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

LANGUAGES = ("en", "zh")
# In an exercise, all from this line on is the check.
CHECK_LINE = "# ---- The check: the fault is above this line ----\n"

_PACKAGE = "minireactor.lessons"
_extracted: list[TemporaryDirectory[str]] = []  # removed when the process ends


class Block(NamedTuple):
    """A fenced part of a text: the program's lines ("python", "javascript"), its output ("text")
    or that of the exercise ("fault")."""

    kind: str
    lines: list[str]


class Lesson:
    """One lesson: its folder."""

    def __init__(self, folder: Path) -> None:
        self.number = int(folder.name[:2])
        self.program = folder / "program.py"
        self.exercise = folder / "exercise.py"
        self.solution = folder / "solution.py"
        self._folder = folder

    def text(self, language: str) -> str:
        return read(self._folder / f"text.{language}.md")

    def title(self, language: str) -> str:
        """The first line of the text, without its mark and number."""
        return self.text(language).split("\n", 1)[0].partition(". ")[2]

    def summary(self, language: str) -> str:
        """The first paragraph of the text, one sentence."""
        return self.text(language).split("\n\n", 2)[1]

    def sources(self) -> list[Path]:
        """Where the lines come from that the text quotes."""
        others = {self.program, self.exercise, self.solution}
        found = [*self._folder.glob("*.py"), *self._folder.glob("*.js")]
        return [self.program, *sorted(path for path in found if path not in others)]


def lessons() -> list[Lesson]:
    """All of them, in order."""
    return [Lesson(folder) for folder in sorted(_folder().glob("[0-9][0-9]_*"))]


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Return the folder of the lessons; a copy of it if the package is in a zip file.

    Lessons are programs that another process runs, so they have to be files."""
    found = files(_PACKAGE)
    if isinstance(found, Path):
        return found
    _extracted.append(TemporaryDirectory(prefix="minireactor-lessons-"))
    folder = Path(_extracted[-1].name)
    _copy(found, folder)
    return folder


def _copy(source: Any, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            _copy(entry, target / entry.name)
        else:
            (target / entry.name).write_bytes(entry.read_bytes())


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """The fenced parts of a text, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(kind, body.splitlines()) for kind, body in found]


def check_of(source: str) -> str | None:
    """The part of an exercise that checks it; None if there is none."""
    _, line, check = source.partition(CHECK_LINE)
    return check.strip() if line else None
