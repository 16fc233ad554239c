"""`minireactor learn build`: start a reactor of one's own, judge it, hint, show a solution."""

from __future__ import annotations

import difflib
import json
import shutil
from argparse import Namespace
from importlib.resources import files
from pathlib import Path
from typing import Any, Callable, NamedTuple

from minireactor.lessons.build.judge import CHECKS
from minireactor.lessons.build.steps import Fault, Step, Verdict, judge, start, steps
from minireactor.lessons.catalogue import LANGUAGES
from minireactor.lessons.command import _command, _language
from minireactor.lessons.page import columns, page, wrapped
from minireactor.view.output import UsageError, visible

# Writes text to standard output, and returns whether anybody still reads it.
Say = Callable[[str], bool]

FOLDER = "my-reactor"  # where a learner's file goes if no other folder is named
FILE = "reactor.py"
PROGRESS = ".progress"
MAX_PRINTED = 10  # lines that a learner's file has printed, and that are shown
_WIDEST = 80  # columns
_LABEL = 10  # columns of the labels of a fault

_PHRASES = {
    "en": {
        "started": "{file} is yours: write your reactor in it.",
        "found": "{file} is there already, and stays as it is.",
        "then": "Write this in {file}. Then run:",
        "checks": "is it right?",
        "hints": "a hint, and the next one each time",
        "diffs": "one solution, as a difference from your file",
        "slow": "Still checking ...",
        "lost": "{file} is damaged: your file is judged from step 1 on.",
        "ok": "ok",
        "not yet": "not yet",
        "step": "Step {number}: {title}",
        "printed": "Your file has printed:",
        "more": "... {count:,} lines before these",
        "seen": "seen:",
        "expected": "expected:",
        "where": "where:",
        "line": "line {line}: {code}",
        "next": "Step {number} is right. The next one is step {after}: {title}",
        "read": "read it",
        "all": "All {number} steps are right. This is your reactor. Look at its saw-tooth:",
        "reference": "What else a reactor needs is in `tiny.py`, with the same names: connecting, "
        "and joining two connections for a proxy. Read it here:",
        "hint": "Hint {number} of {count} for step {step}:",
        "no hint": "There is no further hint for step {step}. A solution:",
        "same": "Your file is the same as this solution of step {step}.",
    },
    "zh": {
        "started": "{file} 是你的了：把你的 reactor 写在里面。",
        "found": "{file} 已经存在，保持原样。",
        "then": "写在 {file} 里，然后运行：",
        "checks": "写对了吗？",
        "hints": "给一条提示，每次给下一条",
        "diffs": "一种解法，以和你的文件的差异显示",
        "slow": "还在检查……",
        "lost": "{file} 已损坏：从第 1 步开始重新检查。",
        "ok": "通过",
        "not yet": "还不对",
        "step": "第 {number} 步：{title}",
        "printed": "你的文件打印了：",
        "more": "……之前还有 {count:,} 行",
        "seen": "看到：",
        "expected": "应为：",
        "where": "位置：",
        "line": "第 {line} 行：{code}",
        "next": "第 {number} 步对了。接下来是第 {after} 步：{title}",
        "read": "阅读这一步",
        "all": "全部 {number} 步都对了。这就是你自己的 reactor。看看它的锯齿：",
        "reference": "一个 reactor 还需要什么，见 `tiny.py`，名字都一样："
        "主动连接，把两个连接接成代理。文件在这里：",
        "hint": "第 {step} 步的提示 {number}/{count}：",
        "no hint": "第 {step} 步没有更多提示了。看一种解法：",
        "same": "你的文件和第 {step} 步的这种解法相同。",
    },
}


def build(options: Namespace, say: Say) -> int:
    """Start the folder, or show the current step again; return the exit status.

    Raises UsageError if the folder cannot be written."""
    learner = _Learner(Path(options.folder or _default()), options.lang, say)
    learner.begin()
    return 0


def check(options: Namespace, say: Say) -> int:
    """Judge the file, give a hint or show a solution; return the exit status.

    Raises UsageError if there is no file, or if it cannot be read."""
    learner = _Learner(Path(options.folder or _default()), options.lang, say)
    if not learner.file.is_file():
        folder = _quoted(Path(options.folder)) if options.folder else ""
        call = f"{_command()} build {folder}".strip()
        raise UsageError(f"minireactor learn build: no {str(learner.file)!r}; begin with: {call}")
    if options.hint:
        return learner.hint()
    if options.diff:
        return learner.diff()
    return learner.check()


def _default() -> str:
    """Return the current directory if it has been started, else the usual folder."""
    return "." if Path(FILE).is_file() and Path(PROGRESS).is_file() else FOLDER


def _quoted(path: Path) -> str:
    """Return a path as a person types it into a shell."""
    return f'"{path}"' if " " in str(path) else str(path)


def _is_temporary(verdict: Verdict, step: int) -> bool:
    """Return whether `step` is the last one in which the failed check is made."""
    return verdict.failed is not None and CHECKS[verdict.failed].last == step


class _Progress(NamedTuple):
    """The current step, 13 when all are right, and how many of its hints were given."""

    step: int = 1
    hints: int = 0


class _Learner:
    """A learner's folder, and the language to speak."""

    def __init__(self, folder: Path, language: str | None, say: Say) -> None:
        self.file = folder / FILE
        self._folder = folder
        self._path = folder / PROGRESS
        self._language = _language(language)
        self._phrases = _PHRASES[self._language]
        # A printed call must go on in this language, too.
        self._option = "" if self._language == _language(None) else f" --lang {self._language}"
        self._tell = say
        self._steps = steps()
        self._lost = False  # the file of the progress is damaged
        self._progress = self._load()

    def begin(self) -> None:
        found = self.file.exists()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not found:
                # Mode "x" fails if the file exists by now. So no file is ever overwritten.
                with open(self.file, "x", encoding="utf-8", newline="\n") as file:
                    file.write(start())
            if not self._path.exists():
                self._save(_Progress())
        except OSError as error:
            raise UsageError(
                f"minireactor learn build: cannot write {str(self.file)!r}: {error.strerror}"
            ) from error
        if self._progress.step > len(self._steps):
            self._finished()
            return
        step = self._current()
        self._say("found" if found else "started", file=str(self.file))
        self._tell("\n" + page(step.text(self._language), self._width()) + "\n")
        self._say("then", file=str(self.file))
        self._calls(("check", "checks"), ("check --hint", "hints"), ("check --diff", "diffs"))

    def check(self) -> int:
        if self._lost:
            self._say("lost", file=str(self._path))
        while True:
            number = min(self._progress.step, len(self._steps))
            verdict = judge(self.file, number, on_slow=lambda: self._say("slow"))
            if verdict.fault is not None and self._lost and _is_temporary(verdict, number):
                self._save(_Progress(number + 1))
                continue
            if verdict.fault is not None:
                self._not_yet(number, verdict, verdict.fault)
                return 1
            if self._progress.step <= number:
                self._save(_Progress(number + 1))
            if not self._lost or number == len(self._steps):
                break
        self._printed(verdict)
        for step in self._steps[:number]:
            self._result(step, "ok")
        self._tell("\n")
        if number == len(self._steps):
            self._finished()
        else:
            title = self._current().title(self._language)
            self._say("next", number=number, after=number + 1, title=title)
            self._calls(("", "read"))
        return 0

    def hint(self) -> int:
        step = self._current()
        hints = step.hints(self._language)
        given = self._progress.hints
        if given >= len(hints):
            self._say("no hint", step=step.number)
            self._calls(("check --diff", "diffs"))
            return 0
        self._save(self._progress._replace(hints=given + 1))
        self._say("hint", number=given + 1, count=len(hints), step=step.number)
        self._wrapped(hints[given], "    ", "    ")
        return 0

    def diff(self) -> int:
        step = self._current()
        try:
            mine = self.file.read_bytes().decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise UsageError(
                f"minireactor learn build: cannot read {str(self.file)!r}: {error.strerror}"
            ) from error
        name = self._phrases["step"].format(number=step.number, title=step.title(self._language))
        solution = step.solution().splitlines()
        lines = list(difflib.unified_diff(mine, solution, str(self.file), name, lineterm=""))
        for line in lines:
            self._tell(visible(line, keep="\t") + "\n")
        if not lines:
            self._say("same", step=step.number)
        return 0

    # --- The progress

    def _current(self) -> Step:
        return self._steps[min(self._progress.step, len(self._steps)) - 1]

    def _load(self) -> _Progress:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return _Progress()
        except (OSError, ValueError):
            self._lost = True
            return _Progress()
        try:
            stored = json.loads(text)
            progress = _Progress(stored["step"], stored["hints"])
            if not (type(progress.step) is type(progress.hints) is int):
                raise ValueError
            if not (0 < progress.step <= len(self._steps) + 1 and progress.hints >= 0):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            self._lost = True
            return _Progress()
        return progress

    def _save(self, progress: _Progress) -> None:
        self._progress = progress
        try:
            self._path.write_text(json.dumps(progress._asdict()) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"minireactor learn build: cannot write {str(self._path)!r}: {error.strerror}"
            ) from error

    # --- The output

    def _say(self, phrase: str, **values: Any) -> None:
        self._wrapped(self._phrases[phrase].format(**values))

    def _wrapped(self, text: str, first: str = "", hang: str = "") -> None:
        for line in wrapped(first + visible(text), self._width(), hang):
            self._tell(line + "\n")

    def _width(self) -> int:
        return min(_WIDEST, shutil.get_terminal_size().columns)

    def _calls(self, *calls: tuple[str, str]) -> None:
        folder = "" if str(self._folder) == _default() else f" {_quoted(self._folder)}"
        for call, phrase in calls:
            words, dash, option = call.partition(" --")
            name = " ".join(filter(None, [_command(), "build", words]))
            self._tell(f"    {name}{folder}{self._option}{dash}{option}\n")
            self._tell(f"        {self._phrases[phrase]}\n")

    def _result(self, step: Step, result: str) -> None:
        title = self._phrases["step"].format(number=step.number, title=step.title(self._language))
        blanks = " " * max(2, 60 - columns(title))
        self._tell(f"{title}{blanks}{self._phrases[result]}\n")

    def _not_yet(self, current: int, verdict: Verdict, fault: Fault) -> None:
        failed = None if verdict.failed is None else CHECKS[verdict.failed]
        number = failed.step if failed else current
        self._printed(verdict)
        for step in self._steps[: number - 1]:
            if failed:
                self._result(step, "ok")
        self._result(self._steps[number - 1], "not yet")
        index = LANGUAGES.index(self._language)
        for passed in verdict.passed:
            if failed and CHECKS[passed].step == number:
                self._check_line("+", CHECKS[passed].rule, CHECKS[passed].title[index])
        if failed:
            self._check_line("-", failed.rule, failed.title[index])
        self._tell("\n")
        self._labelled("seen", fault.seen[index])
        self._labelled("expected", fault.expected[index])
        if fault.line:
            self._labelled("where", self._phrases["line"].format(line=fault.line, code=fault.code))
        self._tell("\n")
        self._calls(("check --hint", "hints"), ("check --diff", "diffs"))

    def _check_line(self, mark: str, rule: str, title: str) -> None:
        self._wrapped(f"{rule:3}{title}", f"  {mark} ", " " * 7)

    def _labelled(self, label: str, text: str) -> None:
        name = self._phrases[label]
        first = name + " " * (_LABEL - columns(name))
        self._wrapped(text, f"    {first}", " " * (4 + _LABEL))

    def _printed(self, verdict: Verdict) -> None:
        lines = verdict.ended.lines
        if not lines:
            return
        self._say("printed")
        # The last lines: a traceback ends with the exception.
        if len(lines) > MAX_PRINTED:
            self._say("more", count=len(lines) - MAX_PRINTED)
        for line in lines[-MAX_PRINTED:]:
            self._tell(f"  | {visible(line[:200], keep=chr(9))}\n")
        self._tell("\n")

    def _finished(self) -> None:
        self._say("all", number=len(self._steps))
        demo = f"{_command().rpartition(' ')[0]} demo --engine {_quoted(self.file)}"
        self._tell(f"    {demo}\n")
        self._say("reference")
        self._tell(f"    {files('minireactor').joinpath('tiny.py')}\n")
