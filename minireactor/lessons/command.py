"""`minireactor learn`: list the lessons, show and run one, check an exercise, check them all."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable

from minireactor.lessons import check, child, progress
from minireactor.lessons.catalogue import (
    Lesson,
    around_output,
    check_of,
    glossary,
    lessons,
    read,
)
from minireactor.lessons.page import page, sections, wrapped
from minireactor.lessons.phrases import PHRASES
from minireactor.view.output import UsageError, visible

# Takes text for standard output. Returns whether anybody still reads standard output.
Say = Callable[[str], bool]

_WIDEST = 80  # columns; longer lines are hard to read
_AT_A_TIME = 4  # lessons that are checked: a lesson's programs spend much of their time waiting


def learn(options: Namespace, say: Say) -> int:
    """Do what the options ask for. Return the exit status.

    Raises UsageError if the options name no lesson, or a file that cannot be used."""
    learner = _Learner(options.lang, say)
    if options.check:
        return learner.check_all(learner.chosen(options.lesson), options.lesson is None)
    if options.glossary:
        return learner.terms()
    if options.lesson is None:
        part = options.part or ("try FILE" if options.attempt else None)
        if part:
            raise learner.error("which", part=part)
        return learner.contents()
    (lesson,) = learner.chosen(options.lesson)
    if options.part == "start":
        return learner.start(lesson)
    if options.part:
        say(lesson.part(options.part, learner.language))
        return 0
    if options.attempt:
        return learner.attempt(lesson, options.attempt)
    return learner.show(lesson)


class _Learner:
    """Speaks to a person in one language, on a terminal or into a pipe.

    On a terminal, headings are bold, and the text stops before each heading."""

    def __init__(self, language: str | None, say: Say) -> None:
        self.language = _language(language)
        self._say = say
        self._on_terminal = _is_terminal(sys.stdout)
        self._waits = self._on_terminal and _is_terminal(sys.stdin)
        # Before Python 3.11, a terminal without a size has 0 columns.
        self._width = min(_WIDEST, shutil.get_terminal_size().columns or _WIDEST)

    def error(self, name: str, **values: Any) -> UsageError:
        return UsageError(f"minireactor learn: {self._phrase(name, **values)}")

    def chosen(self, number: int | None) -> list[Lesson]:
        """Return the lesson with that number, or all without a number. Raises UsageError."""
        every = lessons()
        chosen = [lesson for lesson in every if number in (None, lesson.number)]
        if not chosen:
            raise self.error("no lesson", number=number, last=every[-1].number)
        return chosen

    def contents(self) -> int:
        """Print the titles and summaries, the learner's progress, and where to go on."""
        done = progress.progress()
        every = lessons()
        self._line(self._phrase("list") + "\n")
        for lesson in every:
            state = done.get(lesson.name)
            mark = f"  {self._phrase(state)}" if state else ""
            self._line(f"{lesson.number:2}  {lesson.title(self.language)}{mark}")
            for line in wrapped(lesson.summary(self.language), self._width - 4):
                self._line(f"    {line}")
        self._line()
        missing = [each.number for each in every if done.get(each.name) != progress.RIGHT]
        if done and missing:
            self._line(self._phrase("go on", number=missing[0]))
        else:
            self._line(self._phrase("begin"))
        self._line(self._phrase("build"))
        self._line(self._phrase("glossary"))
        if done:
            self._line(self._phrase("progress", path=visible(str(progress.path()))))
        chinese = _can_be_written(PHRASES["en"]["other"])
        self._line(self._phrase("other" if chinese else "other in ascii"))
        return 0

    def terms(self) -> int:
        """Print the terms in both languages, and the reading list."""
        text = glossary()
        if not _can_be_written(text):
            raise self.error("no chinese", encoding=_encoding())
        self._read(text)
        return 0

    def show(self, lesson: Lesson) -> int:
        """Print the text, and in the middle run the program, after the learner's guess."""
        before, after = around_output(lesson.text(self.language))
        if not self._read(before) or not self._pause("run"):
            return 0
        ran = child.run(
            lesson.program,
            on_line=lambda line: self._say("    " + visible(line, keep="\t") + "\n"),
        )
        if ran.reason == "unheard" or not self._read(after):
            return 0
        progress.note(lesson, progress.READ)
        self._now_you(lesson)
        return 0 if ran.status == 0 else 1

    def _now_you(self, lesson: Lesson) -> None:
        file = _exercise_file(lesson)
        call = f"{_command()} {lesson.number}"
        self._print(f"\n## {self._phrase('now you')}\n\n")
        for name, options in (
            ("start", "--start"),
            ("try", f"--try {file}"),
            ("solution", "--solution"),
            ("program", "--program"),
        ):
            self._line(f"    {call} {options}")
            self._line(f"        {self._phrase(name, file=file)}")
        self._next(lesson)

    def _next(self, lesson: Lesson) -> None:
        """Name the lesson that follows."""
        later = [each for each in lessons() if each.number > lesson.number]
        self._line()
        if later:
            title = later[0].title(self.language)
            self._line(self._phrase("next", number=later[0].number, title=title))
        else:
            self._line(self._phrase("last"))

    def start(self, lesson: Lesson) -> int:
        """Write the exercise into a file of its own, unless that exists. Raises UsageError."""
        file = _exercise_file(lesson)
        source = lesson.part("exercise", self.language)
        try:
            with open(file, "x", encoding="utf-8", newline="\n") as target:
                target.write(source)
        except FileExistsError as error:
            raise self.error("exists", file=file, number=lesson.number) from error
        except OSError as error:
            raise self.error("cannot write", file=file, why=error.strerror) from error
        task = lesson.task(self.language)
        self._print(self._phrase("started", file=file, task=task) + "\n")
        self._line(self._phrase("try it", file=file, number=lesson.number))
        return 0

    def attempt(self, lesson: Lesson, name: str) -> int:
        """Run the learner's program, and say whether it is right. Raises UsageError."""
        path = Path(name)
        try:
            source = read(path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else self._phrase("not utf-8")
            raise self.error("cannot read", file=name, why=why) from error
        if check_of(source) != check_of(read(lesson.exercise)):
            raise self.error("no check", file=name, number=lesson.number)
        ran = child.run(
            path,
            on_line=lambda line: self._say(
                visible(lesson.translated(line, self.language), keep="\t") + "\n"
            ),
            on_slow=lambda: self._line(self._phrase("slow", limit=child.LIMIT)),
        )
        if check.is_right(ran):
            progress.note(lesson, progress.RIGHT)
            self._line(self._phrase("solved", number=lesson.number))
            self._next(lesson)
            return 0
        self._say_why_wrong(ran, path, source)
        return 1

    def _say_why_wrong(self, ran: child.Ended, path: Path, source: str) -> None:
        if ran.reason == "output":
            self._line(self._phrase("flood"))
        elif ran.reason != "time":
            self._line(self._phrase("wrong"))
        else:
            self._line(self._phrase("endless", limit=child.LIMIT))
            frame = ran.stood_in(path)
            if frame:
                phrase = self._phrase("stood", line=frame.line, function=frame.function)
                self._line(phrase)
                self._line(f"    {visible(source.splitlines()[frame.line - 1].strip())}")

    def check_all(self, chosen: list[Lesson], build: bool) -> int:
        """Check the lessons themselves, and all steps of `learn build` if `build`.

        Return 1 if anything is wrong with one of them."""
        from concurrent.futures import ThreadPoolExecutor

        from minireactor.lessons.build import steps

        status = 0
        pool = ThreadPoolExecutor(_AT_A_TIME)
        try:
            work: list[tuple[Any, str, Any]] = [
                (lesson, f"{lesson.number:2}", pool.submit(check.faults, lesson))
                for lesson in chosen
            ]
            work += [
                (step, f"build {step.number:2}", pool.submit(steps.faults, step))
                for step in (steps.steps() if build else ())
            ]
            for part, label, result in work:
                found = result.result()
                verdict = "FAULT" if found else "ok"
                self._line(f"{label}  {verdict:5}  {part.title(self.language)}")
                for fault in found:
                    self._line(f"    {visible(fault)}")
                    status = 1
        finally:
            pool.shutdown(cancel_futures=True)
        return status

    # Printing.

    def _phrase(self, name: str, **values: Any) -> str:
        return PHRASES[self.language][name].format(learn=_command(), **values)

    def _line(self, text: str = "") -> bool:
        return self._say(f"{text}\n")

    def _print(self, text: str) -> bool:
        return self._say(page(text, self._width, bold=self._on_terminal and _knows_bold()))

    def _read(self, text: str) -> bool:
        """Print a text, with a stop before each heading. Return False if the reader has left."""
        first, *others = sections(text)
        return self._print(first) and all(
            self._pause("more") and self._print(each) for each in others
        )

    def _pause(self, prompt: str) -> bool:
        """Wait for Enter on a terminal. Return False if the reader wants to leave."""
        if not self._waits:
            return True
        self._say(self._phrase(prompt))
        answer = sys.stdin.readline()
        return answer.endswith("\n") and answer.strip().lower() != "q"


def _language(asked: str | None) -> str:
    """Return the language asked for, or that of the environment if it can be shown, or English.

    Raises UsageError if Chinese is asked for and cannot be shown."""
    shown = _can_be_written(PHRASES["zh"]["list"])
    if asked == "zh" and not shown:
        text = PHRASES["en"]["no chinese"].format(encoding=_encoding())
        raise UsageError(f"minireactor learn: {text}")
    return asked or ("zh" if shown and _environment_is_chinese() else "en")


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _can_be_written(text: str) -> bool:
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def _environment_is_chinese() -> bool:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if os.environ.get(name):
            return os.environ[name].lower().startswith("zh")
    return False


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _knows_bold() -> bool:
    return os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb"


def _exercise_file(lesson: Lesson) -> str:
    return f"lesson{lesson.number}.py"


def _command() -> str:
    """Return how this program was called, for a person who is to call it again."""
    module = Path(sys.argv[0]).name == "__main__.py"
    return "python3 -m minireactor learn" if module else "minireactor learn"
