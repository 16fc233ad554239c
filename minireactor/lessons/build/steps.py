"""The steps, what is in their folders, and the verdict on a file."""

from __future__ import annotations

import json
import re
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from minireactor.lessons import child
from minireactor.lessons.catalogue import LANGUAGES, blocks
from minireactor.lessons.child import Ended
from minireactor.lessons.page import columns

LIMIT = 60.0  # seconds for all checks; a right answer takes five
PATIENCE = 2.0  # seconds that a check waits for what should come at once
MEMORY = 1 << 30  # bytes
WIDTH = 76  # columns of a code block: a page indents it by 4
_PACKAGE = "minireactor.lessons.build"
_PROGRAM = f"from {_PACKAGE}.judge import main\nmain()\n"


class Step:
    """One step of the course, read from its folder."""

    def __init__(self, folder: Any) -> None:
        self.number = int(folder.name[:2])
        self._folder = folder

    def _read(self, name: str) -> str:
        text: str = self._folder.joinpath(name).read_text(encoding="utf-8")
        return text

    def whole_text(self, language: str) -> str:
        return self._read(f"text.{language}.md")

    def title(self, language: str) -> str:
        """Return the first line of the text, without its mark and number."""
        return self.whole_text(language).split("\n", 1)[0].partition(". ")[2]

    def text(self, language: str) -> str:
        """Return the text without its last section, the hints."""
        return self.whole_text(language).rpartition("\n## ")[0]

    def hints(self, language: str) -> list[str]:
        """Return the hints, from the vaguest to the clearest."""
        section = self.whole_text(language).rpartition("\n## ")[2]
        return re.findall(r"^- (.*)$", section, re.MULTILINE)

    def solution(self) -> str:
        return self._read("solution.py")


def steps() -> list[Step]:
    """Return all steps, in order."""
    folders = [each for each in files(_PACKAGE).iterdir() if re.match("(0[1-9]|1)", each.name)]
    return [Step(folder) for folder in sorted(folders, key=lambda folder: folder.name)]


def start() -> str:
    """Return the file with which a learner begins."""
    return files(_PACKAGE).joinpath("00_start").joinpath("reactor.py").read_text(encoding="utf-8")


class Fault(NamedTuple):
    """What is wrong with a file. Each text is (English, Chinese). Line 0 means "not known"."""

    rule: str
    seen: tuple[str, str]
    expected: tuple[str, str]
    line: int = 0
    code: str = ""


class Verdict(NamedTuple):
    """The result of judging a file.

    passed: the numbers of the checks that passed, in `judge.CHECKS`.
    failed: the number of the check that failed, None if all passed or none was begun.
    fault: why the file is not right; None if it is.
    ended: how the child process ended, with what the file has printed.
    """

    passed: list[int]
    failed: Optional[int]
    fault: Optional[Fault]
    ended: Ended


def judge(
    path: Path,
    step: int,
    *,
    on_slow: Callable[[], object] = lambda: None,
    patience: float = PATIENCE,
    limit: float = LIMIT,
) -> Verdict:
    """Judge the file `path` by all checks up to `step`, in a child process."""
    with tempfile.TemporaryDirectory(prefix="minireactor-build-") as folder:
        program, results = Path(folder, "judge.py"), Path(folder, "results")
        program.write_text(_PROGRAM, encoding="utf-8")
        results.touch()
        arguments = [str(path.absolute()), str(step), str(patience), str(results)]
        ended = child.run(program, arguments, on_slow=on_slow, limit=limit, memory=MEMORY)
        # The last line may be cut off in the middle.
        lines = results.read_text(encoding="utf-8").split("\n")[:-1]
    passed: list[int] = []
    failed: int | None = None
    fault: Fault | None = None
    done = False
    for line in lines:
        entry = json.loads(line)
        if "check" in entry:
            failed = entry["check"]
        elif "passed" in entry:
            passed.append(entry["passed"])
            failed = None
        elif "done" in entry:
            done = True
        else:
            fault = _fault(entry["wrong"])
    if fault is None and not done:
        fault = _stopped(path, ended, limit)
    return Verdict(passed, failed, fault, ended)


def _fault(wrong: dict[str, Any]) -> Fault:
    line, code = wrong["where"] or (0, "")
    return Fault(wrong["rule"], tuple(wrong["seen"]), tuple(wrong["expected"]), line, code)


def _stopped(path: Path, ended: Ended, limit: float) -> Fault:
    """Return the fault of a file whose checks have not come to their end."""
    if ended.reason == "output":
        most = child.MAX_OUTPUT
        return Fault(
            "",
            (f"it has printed more than {most:,} bytes", f"打印了超过 {most:,} 字节"),
            ("at most a few lines for you to read", "最多打印几行给自己看"),
        )
    if ended.reason == "time":
        frame = ended.stood_in(path)
        return Fault(
            "",
            (f"it was still running after {limit:g} s", f"过了 {limit:g} 秒还在运行"),
            ("an end of all checks within a few seconds", "几秒之内完成所有检查"),
            frame.line if frame else 0,
            _line_of(path, frame.line) if frame else "",
        )
    last = ended.lines[-1] if ended.lines else ""
    status = ended.status
    return Fault(
        "",
        (
            f"the process ended in the middle of a check, with status {status}: {last}",
            f"进程在检查中途结束，状态 {status}：{last}",
        ),
        ("no os._exit(), and less than 1 GiB of memory", "没有 os._exit()，内存少于 1 GiB"),
    )


def _line_of(path: Path, number: int) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[number - 1].strip() if number <= len(lines) else ""


# --- Checking the steps themselves


def faults(step: Step) -> list[str]:
    """Return what is wrong with a step, each in one line."""
    found = []
    with tempfile.TemporaryDirectory(prefix="minireactor-build-") as folder:
        path = Path(folder, "reactor.py")
        path.write_text(step.solution(), encoding="utf-8")
        fault = judge(path, step.number, patience=10 * PATIENCE).fault
    if fault is not None:
        found.append(f"solution.py: {fault.rule} {fault.seen[0]}; expected: {fault.expected[0]}")
    quoted = [blocks(step.text(language)) for language in LANGUAGES]
    if any(each != quoted[0] for each in quoted):
        found.append(f"the texts in {' and '.join(LANGUAGES)} do not quote the same code")
    if len({len(step.hints(language)) for language in LANGUAGES}) > 1:
        found.append(f"the texts in {' and '.join(LANGUAGES)} do not have the same number of hints")
    solution = [line.strip() for line in step.solution().splitlines()]
    for block in quoted[0]:
        for line in block.lines:
            if line.strip() not in ("", "...", *solution):
                found.append(f"a text quotes code that is not in solution.py: {line.strip()!r}")
            if columns(line) > WIDTH:
                found.append(f"a quoted line has more than {WIDTH} columns: {line.strip()!r}")
    return found
