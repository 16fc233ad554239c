"""Do the lessons still say what is true? Run everything, and compare each text with the output."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from minireactor.lessons.catalogue import (
    LANGUAGES,
    Block,
    Lesson,
    around_output,
    blocks,
    check_of,
    messages,
    read,
)
from minireactor.lessons.child import LIMIT, Ended, run
from minireactor.lessons.page import MAX_BLOCK, columns

MAX_LINES = 80  # of a program: nobody overlooks more
_CODE = ("python", "javascript")
_KINDS = (*_CODE, "text", "fault")


def faults(lesson: Lesson) -> list[str]:
    """Return what is wrong with a lesson, each in one line."""
    program, exercise, solution = map(run, (lesson.program, lesson.exercise, lesson.solution))
    return [
        *_of_program(lesson, program),
        *_of_exercise(lesson, exercise, solution),
        *_of_translations(lesson),
        *_of_texts(lesson, program.lines, exercise.lines),
    ]


def _of_program(lesson: Lesson, ran: Ended) -> Iterator[str]:
    count = read(lesson.program).count("\n")
    if count > MAX_LINES:
        yield f"program.py has {count} lines; {MAX_LINES} is the most"
    if ran.status != 0 or any("Traceback" in line for line in ran.lines):
        yield f"program.py {_ending(ran)}"
    yield from _too_wide("program.py prints", ran.lines)


def _of_exercise(lesson: Lesson, exercise: Ended, solution: Ended) -> Iterator[str]:
    if exercise.status != 1 or not _last(exercise).startswith("fault: "):
        yield f"exercise.py does not report its fault: it {_ending(exercise)}"
    if not is_right(solution):
        yield f"solution.py {_ending(solution)}"
    checks = {check_of(read(path)) for path in (lesson.exercise, lesson.solution)}
    if len(checks) > 1 or None in checks:
        yield "exercise.py and solution.py are not checked by the same lines"


def is_right(ran: Ended) -> bool:
    """Return whether an exercise has passed its check."""
    return ran.status == 0 and _last(ran).startswith("right: ")


def _last(ran: Ended) -> str:
    return ran.lines[-1] if ran.lines else ""


def _ending(ran: Ended) -> str:
    how = f"runs on after {LIMIT:.0f} s" if ran.status is None else f"ends with {ran.status}"
    return f"{how}, its last line being {_last(ran)!r}"


def _of_translations(lesson: Lesson) -> Iterator[str]:
    source = read(lesson.exercise)
    try:
        wanted = {
            *messages(check_of(source) or ""),
            *(ast.get_docstring(ast.parse(read(path))) or "" for path in lesson.programs()),
        }
    except SyntaxError:
        return  # the program has already been reported: it does not run
    translated = {english for english, _ in lesson.translations()}
    for text in sorted(wanted - translated):
        yield f"zh.txt does not translate {text!r}"
    for text in sorted(text for text in translated - wanted if f'"{text}"' not in source):
        yield f"zh.txt translates {text!r}, which nothing prints"
    for english, chinese in lesson.translations():
        if english.count("{}") != chinese.count("{}"):
            yield f"zh.txt has a value too many or too few in {chinese!r}"


def _of_texts(lesson: Lesson, output: list[str], fault: list[str]) -> Iterator[str]:
    quoted = [blocks(lesson.text(language)) for language in LANGUAGES]
    same = [[block for block in each if block.kind != "fault"] for each in quoted]
    if any(each != same[0] for each in same):
        yield f"the texts in {' and '.join(LANGUAGES)} do not quote the same"
    for language in LANGUAGES:
        yield from _of_text(lesson, language)
    kinds = [block.kind for block in quoted[0]]
    for kind in ("text", "fault"):
        if kinds.count(kind) != 1:
            yield f"the texts have {kinds.count(kind)} blocks of {kind!r}; one is right"
    for kind in sorted(set(kinds).difference(_KINDS)):
        yield f"the texts have a block of {kind!r}, which nothing checks; use one of {_KINDS}"
    for language, each in zip(LANGUAGES, quoted):
        shown = [lesson.translated(line, language) for line in fault]
        for block in each:
            yield from _of_block(lesson, block, output, shown)


def _of_text(lesson: Lesson, language: str) -> Iterator[str]:
    text = lesson.text(language)
    name = f"text.{language}.md"
    if not text.startswith(f"# {lesson.number}. "):
        yield f"{name} does not begin with '# {lesson.number}. ' and its title"
    if not around_output(text)[0].rstrip().endswith(("?", "？")):
        yield f"{name} asks no question before the output: a learner is to guess first"
    if re.search(r"^```\n\n```\w", text, re.MULTILINE):
        yield f"{name} has two blocks with nothing between them"


def _of_block(lesson: Lesson, block: Block, output: list[str], fault: list[str]) -> Iterator[str]:
    yield from _too_wide("a text quotes", block.lines)
    if block.kind == "python":
        yield from broken_code(block.lines)
    if block.kind in _CODE:
        yield from unknown_code(block.lines, lesson.sources())
    elif block.kind in _KINDS:
        yield from unknown_output(block.lines, output if block.kind == "text" else fault)


def _too_wide(who: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if columns(line) > MAX_BLOCK:
            yield f"{who} {columns(line)} columns, {MAX_BLOCK} is the most: {line!r}"


def broken_code(quoted: list[str]) -> Iterator[str]:
    """Yield a fault if a quotation is not code by itself, such as `except` without `try`."""
    try:
        ast.parse(_dedented(quoted))
    except SyntaxError:
        yield f"a text quotes what is not Python by itself: {quoted[0].strip()!r}..."


def unknown_code(quoted: list[str], sources: list[Path]) -> Iterator[str]:
    """Yield each part of a quotation that is not in any of the sources, line for line.

    A line of dots stands for lines that are left out."""
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
    """Yield the first quoted line that does not come in the output, in the order of the quotation.

    Numbers may differ. Lines about a library that is not installed here are not missed."""
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
    """Return the line without what may differ between runs: numbers, and blanks between columns."""
    return " ".join(re.sub(r"\d[\d,.]*", "#", line).split())
