"""`minireactor learn`: list the lessons, show and run one, check an exercise, check them all."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Callable

from minireactor.lessons import check
from minireactor.lessons.catalogue import Lesson, check_of, lessons, read
from minireactor.lessons.page import page, wrapped
from minireactor.lessons.runner import LIMIT, run
from minireactor.view.output import UsageError, visible

# Takes text for standard output; whether anybody still reads that.
Say = Callable[[str], bool]

_WIDEST = 80  # columns; longer lines are hard to read
_AT_A_TIME = 4  # lessons that are checked: much of what they do is to wait

_PHRASES = {
    "en": {
        "list": "The lessons. Each is a text, a program that runs, and an exercise.",
        "begin": "Begin with: {learn} 1",
        "runs": "The program runs",
        "next": "Now you",
        "program": "the whole program",
        "exercise": "a program with a fault in it: find it",
        "try": "is it right now?",
        "solution": "where the fault was",
        "right": "That was it. Compare it with: {learn} {number} --solution",
        "wrong": "Not yet.",
        "endless": "It was still running after {limit:.0f} s, and has been stopped.",
    },
    "zh": {
        "list": "课程目录。每一课都有一篇讲解、一个能运行的程序和一道练习。",
        "begin": "从这里开始：{learn} 1",
        "runs": "运行程序",
        "next": "轮到你了",
        "program": "完整的程序",
        "exercise": "一个有毛病的程序：把毛病找出来",
        "try": "改对了吗？",
        "solution": "毛病在哪里",
        "right": "对了，就是它。可以对照一下：{learn} {number} --solution",
        "wrong": "还不对。",
        "endless": "过了 {limit:.0f} 秒它还在运行，已被终止。",
    },
}


def learn(options: Namespace, say: Say) -> int:
    """Do what the options ask for; the exit status. UsageError."""
    language = _language(options.lang)
    if options.check:
        return _check_all(_chosen(options.lesson), language, say)
    if options.lesson is None:
        if options.part or options.attempt:
            part = options.part or "try FILE"
            raise UsageError(f"minireactor learn: of which lesson? Say: learn 5 --{part}")
        return _list(language, say)
    (lesson,) = _chosen(options.lesson)
    if options.part:
        say(read(getattr(lesson, options.part)))
        return 0
    if options.attempt:
        return _try(lesson, Path(options.attempt), language, say)
    return _show(lesson, language, say)


def _language(asked: str | None) -> str:
    """The one asked for; else that of the environment, if there are texts in it and they can be
    shown; else English. UsageError."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    shown = _can_be_written("zh", encoding)
    if asked == "zh" and not shown:
        raise UsageError(
            f"minireactor learn: the output's encoding, {encoding!r}, has no Chinese; "
            "set PYTHONIOENCODING=utf-8, or say --lang en"
        )
    return asked or ("zh" if shown and _environment_is_chinese() else "en")


def _can_be_written(language: str, encoding: str) -> bool:
    try:
        _PHRASES[language]["list"].encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _environment_is_chinese() -> bool:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if os.environ.get(name):
            return os.environ[name].lower().startswith("zh")
    return False


def _chosen(number: int | None) -> list[Lesson]:
    every = lessons()
    if number is None:
        return every
    chosen = [lesson for lesson in every if lesson.number == number]
    if not chosen:
        raise UsageError(
            f"minireactor learn: there is no lesson {number}; there are 1 to {every[-1].number}"
        )
    return chosen


def _list(language: str, say: Say) -> int:
    width = _width()
    phrases = _PHRASES[language]
    say(f"{phrases['list']}\n\n")
    for lesson in lessons():
        say(f"{lesson.number:2}  {lesson.title(language)}\n")
        for line in wrapped(lesson.summary(language), width - 4):
            say(f"    {line}\n")
    say(f"\n{phrases['begin'].format(learn=_command())}\n")
    return 0


def _show(lesson: Lesson, language: str, say: Say) -> int:
    phrases = _PHRASES[language]
    if not say(page(lesson.text(language), _width())):
        return 0
    say(page(f"\n## {phrases['runs']}\n\n", _width()))
    ran = run(lesson.program, lambda line: say("    " + visible(line, keep="\t") + "\n"))
    heard = say(page(f"\n## {phrases['next']}\n\n", _width()))
    learn = f"{_command()} {lesson.number}"
    calls = {
        "program": f"{learn} --program",
        "exercise": f"{learn} --exercise > mine.py",
        "try": f"{learn} --try mine.py",
        "solution": f"{learn} --solution",
    }
    widest = max(map(len, calls.values()))
    for name, call in calls.items():
        say(f"    {call:{widest}}  {phrases[name]}\n")
    return 0 if ran.status == 0 or not heard else 1


def _try(lesson: Lesson, path: Path, language: str, say: Say) -> int:
    try:
        source = read(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"minireactor learn: cannot read {str(path)!r}: {why}") from error
    if check_of(source) != check_of(read(lesson.exercise)):
        raise UsageError(
            f"minireactor learn: {str(path)!r} does not end in the check of lesson "
            f"{lesson.number}, unchanged; begin with: {_command()} {lesson.number} --exercise"
        )
    ran = run(path, lambda line: say(visible(line, keep="\t") + "\n"))
    right = check.is_right(ran)
    result = "right" if right else "endless" if ran.status is None else "wrong"
    phrase = _PHRASES[language][result]
    say(f"{phrase.format(learn=_command(), number=lesson.number, limit=LIMIT)}\n")
    return 0 if right else 1


def _check_all(chosen: list[Lesson], language: str, say: Say) -> int:
    from concurrent.futures import ThreadPoolExecutor

    status = 0
    pool = ThreadPoolExecutor(_AT_A_TIME)
    try:
        for lesson, found in zip(chosen, pool.map(check.faults, chosen)):
            say(f"{lesson.number:2}  {'FAULT' if found else 'ok':5}  {lesson.title(language)}\n")
            for fault in found:
                say(f"    {visible(fault)}\n")
                status = 1
    finally:
        pool.shutdown(cancel_futures=True)
    return status


def _width() -> int:
    return min(_WIDEST, shutil.get_terminal_size().columns)


def _command() -> str:
    """How this was called, for somebody who is to call it again."""
    module = Path(sys.argv[0]).name == "__main__.py"
    return "python3 -m minireactor learn" if module else "minireactor learn"
