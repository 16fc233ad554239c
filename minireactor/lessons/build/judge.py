"""Judge a learner's file: `judge.py FILE STEP PATIENCE RESULTS`, in a child process.

Writes one JSON object a line to RESULTS: {"check": n} before a check, {"passed": n} after it, then
{"done": true}, or {"wrong": {...}} at the first fault. So whoever reads RESULTS also knows in
which check the process has ended."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import IO, Any

from minireactor.lessons.build import (
    ending_checks,
    loop_checks,
    mark_checks,
    pull_checks,
    push_checks,
    reading_checks,
    timer_checks,
)
from minireactor.lessons.build.instruments import clock, count_wake_ups
from minireactor.lessons.build.report import Text, Wrong, describe, place, place_of
from minireactor.lessons.build.trial import Check, Trial

CHECKS: Sequence[Check] = (
    *loop_checks.CHECKS,
    *timer_checks.CHECKS,
    *ending_checks.CHECKS,
    *reading_checks.CHECKS,
    *pull_checks.CHECKS,
    *push_checks.CHECKS,
    *mark_checks.CHECKS,
)
STACK = 2 << 20  # bytes of each thread; the default of 8 MiB would count as memory in use


def main() -> None:
    path, step, patience, results = sys.argv[1:]
    threading.stack_size(STACK)
    with open(results, "a", encoding="utf-8") as file:
        try:
            _judge(path, int(step), float(patience), file)
            _put(file, done=True)
        except Wrong as wrong:
            _put(file, wrong=wrong.__dict__)
        except MemoryError:
            seen = ("it uses more memory than a check may", "使用的内存超过了检查的上限")
            _put(file, wrong=Wrong("", seen, ("less than 1 GiB", "少于 1 GiB")).__dict__)
        sys.stdout.flush()
        file.flush()
        # The reactors' threads still wait. They end with the process.
        os._exit(0)


def _put(file: IO[str], **what: Any) -> None:
    file.write(json.dumps(what) + "\n")
    file.flush()


def _judge(path: str, step: int, patience: float, file: IO[str]) -> None:
    count_wake_ups()
    clock.install()
    module = load(path, patience)
    for number, check in enumerate(CHECKS):
        if not check.step <= step <= check.last:
            continue
        _put(file, check=number)
        trial = Trial(module, check, patience)
        try:
            trial.start()
            check.run(trial)
        except OSError as error:
            trial.wrong(
                (f"the client's socket: {describe(error)}", f"客户端的套接字：{describe(error)}"),
                ("the connection stays open", "连接保持打开"),
            )
        finally:
            trial.close()
        _put(file, passed=number)


def load(path: str, patience: float) -> ModuleType:
    """Import the learner's file in a thread. Raises Wrong if that fails or does not end."""
    real = os.path.realpath(path)
    module = ModuleType("reactor")
    module.__file__ = real
    sys.modules["reactor"] = module
    sys.path.insert(0, os.path.dirname(real))
    errors: list[BaseException] = []

    def execute() -> None:
        try:
            with open(real, "rb") as file:
                source = file.read()
            exec(compile(source, real, "exec", dont_inherit=True), vars(module))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    thread.join(patience)
    expected = (
        "the file can be imported: classes, and nothing that runs",
        "文件可以导入：只有类，没有立即运行的代码",
    )
    if thread.is_alive():
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None and frame.f_code.co_filename != real:
            frame = frame.f_back
        where = place(real, frame.f_lineno) if frame else None
        raise Wrong("", ("importing it does not end", "导入没有结束"), expected, where)
    if errors:
        _import_failed(errors[0], real, expected)
    if not isinstance(getattr(module, "Reactor", None), type):
        raise Wrong("", ("there is no class Reactor", "没有 Reactor 类"), ("class Reactor",) * 2)
    return module


def _import_failed(error: BaseException, real: str, expected: Text) -> None:
    where = place_of(error.__traceback__, real)
    if isinstance(error, SyntaxError) and error.filename == real:
        where = place(real, error.lineno or 1)
    if isinstance(error, SystemExit):
        seen = (
            f"importing it ends the program: {describe(error)}",
            f"导入时结束了程序：{describe(error)}",
        )
    else:
        seen = (f"importing it raised {describe(error)}", f"导入时抛出 {describe(error)}")
    raise Wrong("", seen, expected, where)


if __name__ == "__main__":
    main()
