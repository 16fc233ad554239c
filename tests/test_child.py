"""A learner's program runs in a child process, and whatever it does ends within its limits."""

from __future__ import annotations

import os
import sys

import pytest

from minireactor.lessons import child
from minireactor.lessons.child import run

# What Python prints last if there is no line to read. PyPy gives no reason.
NO_LINE = "EOFError" + ("" if sys.implementation.name == "pypy" else ": EOF when reading a line")


@pytest.fixture
def program(tmp_path):
    """program(source) -> the path of a file with that source."""

    def program(source):
        path = tmp_path / "program.py"
        path.write_text(source, encoding="utf-8")
        return path

    return program


def test_a_program_gets_its_arguments_and_is_the_main_module(program):
    path = program(
        "import sys, __main__\nx = 1\nprint(sys.argv, __name__, __main__.x, sys.path[0])"
    )
    ended = run(path, ["one", "two words"])
    assert ended.lines == [f"{[str(path), 'one', 'two words']} __main__ 1 {path.parent}"]
    assert (ended.status, ended.reason) == (0, "")


@pytest.mark.parametrize(
    "source, status, last",
    [
        ("import sys; sys.exit('fault: 1')", 1, "fault: 1"),
        ("import sys; sys.exit(7)", 7, None),
        ("input()", 1, NO_LINE),
        ("x = (", 1, None),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("print('no line end', end='')", 0, "no line end"),
        ("print('水位线')", 0, "水位线"),
    ],
)
def test_its_status_and_output_are_those_of_python(program, source, status, last):
    ended = run(program(source))
    assert ended.status == status
    if last:
        assert ended.lines[-1] == last


@pytest.mark.parametrize("source", ["def f():\n    1 / 0\nf()", "x = (\n"])
def test_a_traceback_shows_no_frame_of_ours(program, source):
    shown = "\n".join(run(program(source)).lines)
    assert "program.py" in shown
    assert "child.py" not in shown
    assert "<string>" not in shown


@pytest.mark.slow
def test_a_program_that_hangs_is_stopped_and_shows_where_its_main_thread_stood(program):
    path = program(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=[99], daemon=True).start()\n"
        "def spin():\n    while True:\n        pass\n"
        "print('before')\nspin()\n"
    )
    ended = run(path, limit=0.5)
    assert (ended.status, ended.lines, ended.reason) == (None, ["before"], "time")
    frame = ended.stood_in(path)
    assert frame.line in (4, 5)
    assert frame.function.startswith("spin")
    assert ended.stood_in(path.parent / "another.py") is None


@pytest.mark.slow
def test_a_program_that_closes_its_output_and_hangs_is_stopped(program):
    ended = run(program("import os, time\nos.close(1); os.close(2)\ntime.sleep(99)\n"), limit=0.5)
    assert ended.reason == "time"
    assert ended.frames[0].line == 3


@pytest.mark.slow
def test_a_person_who_waits_is_told_once(program, monkeypatch):
    monkeypatch.setattr(child, "SLOW", 0.05)
    slow = []
    run(program("import time\ntime.sleep(99)"), limit=0.5, on_slow=lambda: slow.append(1))
    assert slow == [1]


@pytest.mark.parametrize("source", ["while True:\n    print('x' * 99)", "print('x' * 2_000_000)"])
def test_a_program_that_prints_without_end_is_stopped(program, source):
    ended = run(program(source))
    assert (ended.status, ended.reason) == (None, "output")
    assert sum(map(len, ended.lines)) <= child.MAX_OUTPUT + 65536


def test_a_program_is_stopped_when_nobody_listens(program):
    path = program("import time\nprint('input', flush=True)\ntime.sleep(99)\n")
    assert run(path, on_line=lambda line: False) == (None, ["input"], "unheard", ())


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or sys.implementation.name == "pypy",
    reason="only Linux limits memory so, and PyPy crashes at the limit",
)
def test_memory_is_limited(program):
    ended = run(program("x = bytearray(2_000_000_000)"), memory=1_000_000_000)
    assert (ended.status, ended.lines[-1]) == (1, "MemoryError")


def test_nothing_is_left_behind(program, tmp_path, monkeypatch):
    monkeypatch.setattr(child.tempfile, "tempdir", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()

    def interrupt(line):
        raise KeyboardInterrupt

    path = program("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(99)\n")
    seen = []
    with pytest.raises(KeyboardInterrupt):
        run(path, on_line=lambda line: seen.append(int(line)) or interrupt(line))
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)
    assert os.listdir(tmp_path / "empty") == []
