"""Do the lessons still say what is true? Run everything, and compare each text with it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from minireactor.lessons.catalogue import LANGUAGES, Lesson, blocks, check_of, read
from minireactor.lessons.runner import LIMIT, Run, run

MOST_LINES = 80  # of a program: more than one can look over is no lesson
_CODE = ("python", "javascript")
_KINDS = (*_CODE, "text", "fault")


def faults(lesson: Lesson) -> list[str]:
    """What is wrong with a lesson, each in one line."""
    program, exercise, solution = map(run, (lesson.program, lesson.exercise, lesson.solution))
    return [
        *_of_program(lesson, program),
        *_of_exercise(lesson, exercise, solution),
        *_of_texts(lesson, program.lines, exercise.lines),
    ]


def _of_program(lesson: Lesson, ran: Run) -> Iterator[str]:
    count = read(lesson.program).count("\n")
    if count > MOST_LINES:
        yield f"program.py has {count} lines; {MOST_LINES} is the most"
    if ran.status != 0 or any("Traceback" in line for line in ran.lines):
        yield f"program.py {_ending(ran)}"


def _of_exercise(lesson: Lesson, exercise: Run, solution: Run) -> Iterator[str]:
    if exercise.status != 1 or not _last(exercise).startswith("fault: "):
        yield f"exercise.py does not report its fault: it {_ending(exercise)}"
    if not is_right(solution):
        yield f"solution.py {_ending(solution)}"
    checks = {check_of(read(path)) for path in (lesson.exercise, lesson.solution)}
    if len(checks) > 1 or None in checks:
        yield "exercise.py and solution.py are not checked by the same lines"


def is_right(ran: Run) -> bool:
    """Whether an exercise has passed its check."""
    return ran.status == 0 and _last(ran).startswith("right: ")


def _last(ran: Run) -> str:
    return ran.lines[-1] if ran.lines else ""


def _ending(ran: Run) -> str:
    how = f"runs on after {LIMIT:.0f} s" if ran.status is None else f"ends with {ran.status}"
    return f"{how}, its last line being {_last(ran)!r}"


def _of_texts(lesson: Lesson, output: list[str], fault: list[str]) -> Iterator[str]:
    quoted = [blocks(lesson.text(language)) for language in LANGUAGES]
    if any(each != quoted[0] for each in quoted):
        yield f"the texts in {' and '.join(LANGUAGES)} do not quote the same"
    for language in LANGUAGES:
        if not lesson.text(language).startswith(f"# {lesson.number}. "):
            yield f"text.{language}.md does not begin with '# {lesson.number}. ' and its title"
    kinds = {block.kind for block in quoted[0]}
    for kind in {"text", "fault"} - kinds:
        yield f"the texts have no block of {kind!r}"
    for kind in kinds.difference(_KINDS):
        yield f"the texts have a block of {kind!r}, which nothing checks; use one of {_KINDS}"
    for block in quoted[0]:
        if block.kind in _CODE:
            yield from unknown_code(block.lines, lesson.sources())
        elif block.kind in _KINDS:
            yield from unknown_output(block.lines, output if block.kind == "text" else fault)


def unknown_code(quoted: list[str], sources: list[Path]) -> Iterator[str]:
    """Parts of a quotation that are not in any of the sources, line for line. A line of dots
    stands for lines that are left out."""
    texts = [read(path).splitlines() for path in sources]
    for part in re.split(r"^\s*\.\.\.$", "\n".join(quoted), flags=re.MULTILINE):
        lines = part.strip("\n").splitlines()
        wanted = _dedented(lines)
        if not any(
            wanted == _dedented(text[start : start + len(lines)])
            for text in texts
            for start in range(len(text))
        ):
            yield f"a text quotes code that is in none of its files: {lines[0].strip()!r}..."


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines))


def unknown_output(quoted: list[str], output: list[str]) -> Iterator[str]:
    """Quoted lines that the output does not have, in that order. Numbers may be others; lines
    about what is not installed here, and so is left out, are not missed."""
    left_out: set[str] = set()
    for line in output:
        if line.startswith("left out"):
            left_out.update(line.partition(": ")[2].split(", "))
    following = iter(list(map(masked, output)))
    for line in quoted:
        if line.strip() in ("", "...") or line.split()[0] in left_out:
            continue
        if masked(line) not in following:
            yield f"a text quotes output that does not come, at least not there: {line.strip()!r}"
            return


def masked(line: str) -> str:
    """The line without what may differ from run to run: numbers, and blanks that align them."""
    return " ".join(re.sub(r"\d[\d,.]*", "#", line).split())
