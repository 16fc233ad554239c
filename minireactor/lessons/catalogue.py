"""The lessons, and what their files contain."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

LANGUAGES = ("en", "zh")
# In an exercise, all from this line on is the check.
CHECK_LINE = "# ---- The check: the fault is above this line ----\n"

_RESULTS = ("seen: ", "fault: ", "right: ")  # how the lines of a check begin
_PACKAGE = "minireactor.lessons"
_extracted: list[TemporaryDirectory[str]] = []  # removed when the process ends


class Block(NamedTuple):
    """A fenced part of a text.

    kind: "python" or "javascript" for lines of the program, "text" for lines of the program's
        output, "fault" for lines of the exercise's output."""

    kind: str
    lines: list[str]


class Lesson:
    """One lesson: its folder.

    number: the place in the course. name: the rest of the folder's name, which stays when the
        number changes."""

    def __init__(self, folder: Path) -> None:
        self.number = int(folder.name[:2])
        self.name = folder.name[3:]
        self.program = folder / "program.py"
        self.exercise = folder / "exercise.py"
        self.solution = folder / "solution.py"
        self._folder = folder

    def text(self, language: str) -> str:
        """Return the text of the lesson in one of LANGUAGES."""
        return read(self._folder / f"text.{language}.md")

    def title(self, language: str) -> str:
        """Return the first line of the text, without its mark and number."""
        return self.text(language).split("\n", 1)[0].partition(". ")[2]

    def summary(self, language: str) -> str:
        """Return the first paragraph of the text, one sentence."""
        return self.text(language).split("\n\n", 2)[1]

    def programs(self) -> list[Path]:
        """Return the files that have a translated first line."""
        return [self.program, self.exercise, self.solution]

    def sources(self) -> list[Path]:
        """Return the files whose lines the text may quote: the program, and its further files."""
        others = self.programs()
        found = [*self._folder.glob("*.py"), *self._folder.glob("*.js")]
        return [self.program, *sorted(path for path in found if path not in others)]

    def task(self, language: str) -> str:
        """Return the first line of the exercise: what the learner is to find."""
        return self.translated(_docstring(read(self.exercise)), language)

    def part(self, name: str, language: str) -> str:
        """Return the source of "program", "exercise" or "solution", its first line translated."""
        source = read(getattr(self, name))
        docstring = _docstring(source)
        return source.replace(docstring, self.translated(docstring, language), 1)

    def translations(self) -> list[tuple[str, str]]:
        """Return the lines that a learner meets in the programs: (English, Chinese) each.

        These are the first line of each program, and what the check can print. A pair of braces
        stands for what differs from run to run."""
        lines = [line for line in read(self._folder / "zh.txt").splitlines() if line]
        return list(zip(lines[::2], lines[1::2]))

    def translated(self, line: str, language: str) -> str:
        """Return a line of the exercise in `language`, or the line itself if it is unknown."""
        for english, chinese in self.translations() if language == "zh" else ():
            pattern = re.escape(english).replace(r"\{\}", "(.*?)")
            if found := re.fullmatch(pattern, line):
                for value in found.groups():
                    chinese = chinese.replace("{}", self.translated(value, language), 1)
                return chinese
        return line


def lessons() -> list[Lesson]:
    """Return all lessons, in order."""
    return [Lesson(folder) for folder in sorted(_folder().glob("[0-9][0-9]_*"))]


def glossary() -> str:
    """Return the text of the glossary and the reading list, English and Chinese side by side."""
    return read(_folder() / "glossary.md")


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Return the folder of the lessons, or a copy of the folder if the package is in a zip file.

    Another process runs the lessons' programs, so they have to be files."""
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
    """Return the text of a file. Raises OSError, or ValueError if the file is not UTF-8."""
    return path.read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the fenced parts of a text, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(kind, body.splitlines()) for kind, body in found]


def around_output(text: str) -> tuple[str, str]:
    """Return what stands before and behind the program's output in a text."""
    before, _, rest = text.partition("```text\n")
    return before, rest.partition("```\n")[2]


def check_of(source: str) -> str | None:
    """Return the part of an exercise that checks the exercise; None if there is none."""
    _, line, check = source.partition(CHECK_LINE)
    return check.strip() if line else None


def messages(check: str) -> list[str]:
    """Return what a check can print as its result, with braces for what differs."""
    found = []
    nodes: list[ast.AST] = [ast.parse(check)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.JoinedStr):
            parts = [n.value if isinstance(n, ast.Constant) else "{}" for n in node.values]
            found.append("".join(map(str, parts)))
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        nodes.extend(ast.iter_child_nodes(node))
    return [text for text in found if text.startswith(_RESULTS)]


def _docstring(source: str) -> str:
    return ast.get_docstring(ast.parse(source)) or ""
