"""`minireactor learn build`: the steps hold, natural wrong answers are refused, and how it speaks.

`build_answers.txt` has the wrong answers, each as a patch of its step's solution:

    === STEP NAME [RULE] part of what is seen
    lines with " " (stays), "-" (goes) or "+" (comes); "@@" stands between two places
"""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from serve_support import Command
from support import RecordingClientFactory, drain, pump

import minireactor
from minireactor.cli.commands import main
from minireactor.engine import Engine, load
from minireactor.error import ConnectError
from minireactor.lessons import child
from minireactor.lessons.build import command
from minireactor.lessons.build import steps as build_steps
from minireactor.lessons.build.judge import CHECKS
from minireactor.lessons.build.steps import faults, judge, start, steps
from minireactor.lessons.catalogue import LANGUAGES
from minireactor.lessons.page import columns
from minireactor.serve.apps import RandomFactory
from minireactor.serve.server import Server

STEPS = steps()
TINY = Path(minireactor.__file__).parent / "tiny.py"
# Wrong answers that are refused at once, and so are tried by default.
LONG = [pytest.mark.slow, pytest.mark.newest]
QUICK = {"1-one-client", "1-empty-data", "1-lost-twice", "3-nothing-deleted"}


class Answer(NamedTuple):
    step: int
    name: str
    rule: str
    seen: str
    patch: str

    def __str__(self):
        return f"{self.step}-{self.name}"

    def source(self):
        """Return the solution of the step with the patch."""
        source = "\n" + STEPS[self.step - 1].solution()
        for place in self.patch.split("\n@@\n"):
            lines = place.split("\n")
            old, new = (
                "\n".join(["", *(line[1:] for line in lines if line[:1] != sign), ""])
                for sign in "+-"
            )
            assert source.count(old) == 1, f"{self}: not once in the solution:\n{old}"
            source = source.replace(old, new)
        return source[1:]


def answers():
    text = Path(__file__).with_name("build_answers.txt").read_text(encoding="utf-8")
    found = re.findall(r"^=== (\d+) (\S+) \[(\w*)\] (.*)\n((?:(?!===).*\n)*)", text, re.MULTILINE)
    return [Answer(int(step), *rest, patch.rstrip("\n")) for step, *rest, patch in found]


ANSWERS = answers()


@pytest.fixture
def english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")


@pytest.fixture
def folder(tmp_path, monkeypatch, english):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def learner(folder):
    """learner(step, source) -> the path of a reactor.py at that step."""

    def learner(step, source, hints=0):
        mine = folder / "my-reactor"
        mine.mkdir(exist_ok=True)
        (mine / "reactor.py").write_text(source, encoding="utf-8")
        (mine / ".progress").write_text(json.dumps({"step": step, "hints": hints}))
        return mine / "reactor.py"

    return learner


# --- The steps


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.number)
def test_a_solution_passes_all_checks_up_to_its_step(step):
    assert faults(step) == []


@pytest.mark.slow
def test_the_first_step_holds_what_it_says():
    assert faults(STEPS[0]) == []


def test_there_are_twelve_steps_and_each_has_a_text_and_hints_in_both_languages():
    assert [step.number for step in STEPS] == list(range(1, 13))
    for step in STEPS:
        for language in LANGUAGES:
            assert step.whole_text(language).startswith(
                f"# {step.number}. {step.title(language)}\n"
            )
            assert len(step.hints(language)) >= 3
            assert not step.text(language).count(step.hints(language)[0])
        assert step.whole_text("en").isascii()


def test_each_step_changes_little_and_has_checks_of_its_own():
    before = start()
    for step in STEPS:
        old, new = before.splitlines(), step.solution().splitlines()
        assert 0 < len(set(new) - set(old)) <= 45
        assert sum(check.step == step.number for check in CHECKS) >= 4
        before = step.solution()


def test_every_check_is_named_in_both_languages_within_a_line():
    for check in CHECKS:
        assert check.title[0].isascii()
        assert not check.title[1].isascii()
        assert max(map(columns, check.title)) <= 73


# What the last solution has and tiny takes from elsewhere, or does at greater length.
OWN = {
    "def run(self):",
    "HIGH, LOW = (64 * 1024, 16 * 1024)",
    "low = high // 4 if low is None else low",
    "if not 0 <= low < high:",
    "raise ValueError(f'high={high!r} and low={low!r} will not do: 0 <= low < high')",
    "self.high, self.low = (high, low)",
    "self.socket = socket.create_server((host, port), backlog=backlog)",
}


def code(source):
    """Return the statements of each function, without annotations: {(class, name): lines}."""
    found = {}
    for outer in ast.parse(source).body:
        if isinstance(outer, ast.ClassDef):
            for inner in outer.body[ast.get_docstring(outer) is not None :]:
                name = getattr(inner, "name", "body")
                found.setdefault((outer.name, name), []).extend(lines_of(inner))
    return found


def lines_of(node):
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef):
            each.returns = None
            for argument in ast.walk(each.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
            if ast.get_docstring(each) is not None:
                each.body = each.body[1:] or [ast.Pass()]
    shown = re.sub(r"^(\s*self\.\w+): .* = ", r"\1 = ", ast.unparse(node), flags=re.MULTILINE)
    # Python 3.9 writes other brackets around tuples.
    return [re.sub("[()]", "", line).strip() for line in shown.splitlines()]


@pytest.mark.skipif(not TINY.exists(), reason="there is no tiny.py")
def test_the_last_solution_is_a_part_of_tiny():
    own = {re.sub("[()]", "", line) for line in OWN}
    whole = code(TINY.read_text(encoding="utf-8"))
    for name, lines in code(STEPS[-1].solution()).items():
        rest = iter(whole[name])
        missing = [line for line in lines if line not in own and line not in rest]
        assert missing == [], f"{'.'.join(name)} of the last step has lines that tiny has not"


# --- Wrong answers


def test_each_step_has_four_natural_wrong_answers():
    for step in STEPS:
        assert sum(answer.step == step.number for answer in ANSWERS) >= 4
    assert len({str(answer) for answer in ANSWERS}) == len(ANSWERS)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory, request):
    """verdict(answer) -> the Verdict. The slow ones of this run are judged at the same time."""
    pool = ThreadPoolExecutor(3)
    futures = {}

    def judged(answer):
        path = tmp_path_factory.mktemp("answer") / "reactor.py"
        path.write_text(answer.source(), encoding="utf-8")
        return judge(path, answer.step, patience=1.0)

    def verdict(answer):
        if str(answer) in QUICK:
            return judged(answer)
        if not futures:
            for item in request.session.items:
                each = getattr(item, "callspec", item).__dict__.get("params", {}).get("answer")
                if each is not None and str(each) not in QUICK:
                    futures[str(each)] = pool.submit(judged, each)
        return futures[str(answer)].result()

    yield verdict
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "answer",
    [pytest.param(answer, marks=[] if str(answer) in QUICK else LONG) for answer in ANSWERS],
    ids=str,
)
def test_a_natural_wrong_answer_is_refused_and_what_was_seen_is_named(answer, verdicts):
    fault = verdicts(answer).fault
    assert fault is not None, "accepted"
    assert (fault.rule, answer.seen in fault.seen[0]) == (answer.rule, True), fault
    assert all(fault.seen) and all(fault.expected)
    assert not fault.seen[1].isascii()


@pytest.mark.slow
@pytest.mark.parametrize(("timeout", "spins"), [("delay", False), ("0", True)])
def test_a_loop_on_select_itself_is_seen_to_spin(timeout, spins, tmp_path):
    waits = (
        f"fds = select.select(list(self._selector.get_map()), [], [], {timeout})[0]\n"
        "        ready = [(self._selector.get_map()[fd], READ) for fd in fds]\n"
    )
    source = STEPS[1].solution().replace("ready = self._selector.select(delay)\n", waits)
    path = tmp_path / "reactor.py"
    path.write_text(f"import select\n{source}")
    fault = judge(path, 2).fault
    assert (fault is not None and "the loop woke up" in fault.seen[0]) == spins, fault


def test_what_is_said_fits_and_names_the_line(learner, capsys):
    source = STEPS[2].solution().replace("        del self._buffer[:sent]\n", "")
    learner(3, source)
    assert main(["learn", "build", "check"]) == 1
    output = capsys.readouterr().out
    assert re.search(r"^Step 1: A blocking server +not yet$", output, re.MULTILINE)
    # The client reads as many bytes as b"SECOND" has. The loop may have sent the first answer once
    # more by then, or not: it sends it again together with the second one.
    assert re.search(r"^    seen:     the client got b'FIRST[FS]'$", output, re.MULTILINE)
    assert re.search(r"^    expected: the client gets b'SECOND'$", output, re.MULTILINE)
    assert max(map(columns, output.splitlines())) <= 80


# --- Files that are no answers at all


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, seen, line",
    [
        ("x = (\n", "importing it raised SyntaxError", 1),
        ("import nonsense_of_mine\n", "ModuleNotFoundError: No module named 'nonsense_of_mine'", 1),
        ("x = 1\nprint(undefined)\n", "NameError: name 'undefined' is not defined", 2),
        ("import sys\nsys.exit(3)\n", "importing it ends the program: SystemExit: 3", 2),
        ("x = 1\nwhile True:\n    x += 1\n", "importing it does not end", (2, 3)),
        ("x = 1\n", "there is no class Reactor", 0),
        ("", "there is no class Reactor", 0),
        ("class Reactor:\n    pass\n", "AttributeError", 0),
        (
            "import os\nos._exit(0)\n",
            "the process ended in the middle of a check, with status 0",
            0,
        ),
        ("while True:\n    print('x' * 9999)\n", "it has printed more than 1,048,576 bytes", 0),
        ("class Reactor:\n    def __init__(self):\n        1 / 0\n", "ZeroDivisionError", 3),
        ("\xff".encode("latin-1") * 2, "importing it raised SyntaxError", 1),
    ],
)
def test_a_file_that_cannot_be_judged_gets_one_clear_message(source, seen, line, tmp_path):
    path = tmp_path / "reactor.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    fault = judge(path, 1, patience=0.3).fault
    assert seen in fault.seen[0]
    assert fault.line in (line if isinstance(line, tuple) else (line,))


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or sys.implementation.name == "pypy",
    reason="only Linux limits memory so, and PyPy starts no thread within the limit",
)
def test_a_file_that_takes_huge_memory_gets_one_clear_message(tmp_path, monkeypatch):
    path = tmp_path / "reactor.py"
    monkeypatch.setattr(build_steps, "MEMORY", 200 << 20)
    path.write_text("x = bytearray(300 << 20)\n")
    assert "MemoryError" in judge(path, 1).fault.seen[0]


@pytest.mark.slow
def test_a_check_that_hangs_shows_where_it_stood(tmp_path):
    path = tmp_path / "reactor.py"
    path.write_text("import time\n\ntime.sleep(99)\n")
    fault = judge(path, 1, patience=99, limit=0.5).fault
    assert "it was still running after 0.5 s" in fault.seen[0]
    assert (fault.line, fault.code) == (3, "time.sleep(99)")


def test_a_person_who_waits_is_told(learner, monkeypatch, capsys):
    monkeypatch.setattr(child, "SLOW", 0.0)
    learner(1, "x = 1\n")
    main(["learn", "build", "check"])
    assert capsys.readouterr().out.startswith("Still checking ...\n")


def test_what_the_file_prints_is_shown_but_no_more_than_ten_lines(learner, capsys):
    learner(1, "for n in range(99):\n    print('line', n, '\\x1b[31m')\n")
    assert main(["learn", "build", "check"]) == 1
    output = capsys.readouterr().out
    assert output.count("  | line") == 10
    assert "  | line 98 \\x1b[31m\n" in output
    assert "89" in output


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(learner, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    write = "import os, time\nopen('pid', 'w').write(f'{os.getpid()}\\n')\n"
    path = learner(1, f"{write}time.sleep(99)\n")
    process = Command("learn", "build", "check", cwd=tmp_path)
    try:
        deadline = time.monotonic() + 10
        while not (tmp_path / "pid").exists() or "\n" not in (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.interrupt()
        assert process.end() == (130, "", "")
    finally:
        process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert os.listdir(tmp_path / "temporary") == []
    assert path.exists()


# --- The folder


def test_it_starts_a_folder_and_prints_the_first_step(folder, capsys):
    assert main(["learn", "build"]) == 0
    output = capsys.readouterr().out
    assert (folder / "my-reactor" / "reactor.py").read_text(encoding="utf-8") == start()
    assert "1. A blocking server\n====" in output
    assert "learn build check\n        is it right?\n" in output
    assert "send() may take" not in output  # a hint
    assert max(map(columns, output.splitlines())) <= 80


def test_it_never_overwrites_a_file(folder, capsys):
    (folder / "mine").mkdir()
    (folder / "mine" / "reactor.py").write_text("precious\n")
    assert main(["learn", "build", "mine"]) == 0
    assert (folder / "mine" / "reactor.py").read_text() == "precious\n"
    assert "is there already, and stays as it is" in capsys.readouterr().out


def test_within_the_folder_no_name_is_needed(learner, monkeypatch, capsys):
    monkeypatch.chdir(learner(2, STEPS[0].solution()).parent)
    assert main(["learn", "build", "check", "--hint"]) == 0
    assert "Hint 1 of 3 for step 2" in capsys.readouterr().out
    assert main(["learn", "build"]) == 0
    assert "2. Many clients, one thread\n" in capsys.readouterr().out


@pytest.mark.slow
def test_progress_is_kept_and_the_next_step_is_named(learner, capsys):
    path = learner(1, STEPS[0].solution(), hints=2)
    assert main(["learn", "build", "check"]) == 0
    assert json.loads((path.parent / ".progress").read_text()) == {"step": 2, "hints": 0}
    output = capsys.readouterr().out
    assert "Step 1 is right. The next one is step 2: Many clients, one thread" in output


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000),
        *(b'{"step": 99, "hints": 0}', b'{"step": "2", "hints": 0}', b'{"step": 1}'),
        b'{"step": true, "hints": 0}',
    ],
    ids=range(10),
)
def test_damaged_progress_begins_anew(damage, learner, capsys):
    path = learner(1, "x = 1\n")
    (path.parent / ".progress").write_bytes(damage)
    assert main(["learn", "build", "check", "--hint"]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith("Hint 1 of 3 for step 1")
    assert errors == ""


def test_damaged_progress_is_reported(learner, capsys):
    path = learner(3, "x = 1\n")
    (path.parent / ".progress").write_bytes(b"{")
    assert main(["learn", "build", "check"]) == 1
    output, errors = capsys.readouterr()
    assert "is damaged: your file is judged from step 1 on" in output
    assert errors == ""


@pytest.mark.slow
def test_damaged_progress_is_found_again(learner, capsys):
    path = learner(1, STEPS[2].solution())
    (path.parent / ".progress").write_bytes(b"\xff")
    assert main(["learn", "build", "check"]) == 1
    assert json.loads((path.parent / ".progress").read_text())["step"] == 4


def test_hints_come_one_after_the_other(learner, capsys):
    learner(3, STEPS[2].solution())
    for number, hint in enumerate(STEPS[2].hints("en"), 1):
        assert main(["learn", "build", "check", "--hint"]) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"Hint {number} of 3 for step 3:\n")
        assert " ".join(output.split()).endswith(hint)
    assert main(["learn", "build", "check", "--hint"]) == 0
    assert "no further hint" in capsys.readouterr().out


def test_a_solution_is_shown_as_a_difference(learner, capsys):
    learner(4, STEPS[2].solution())
    assert main(["learn", "build", "check", "--diff"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"--- {os.path.join('my-reactor', 'reactor.py')}"
    assert "+        self._update()" in lines
    learner(4, STEPS[3].solution())
    assert main(["learn", "build", "check", "--diff"]) == 0
    assert "the same as this solution of step 4" in capsys.readouterr().out


@pytest.mark.slow
def test_at_the_end_the_demo_is_named(learner, capsys):
    learner(12, STEPS[11].solution())
    assert main(["learn", "build", "check"]) == 0
    output = capsys.readouterr().out
    assert "All 12 steps are right" in output
    assert f"demo --engine {os.path.join('my-reactor', 'reactor.py')}\n" in output
    assert Path(output.splitlines()[-1].strip()).samefile(TINY)
    assert main(["learn", "build", "check"]) == 0
    assert main(["learn", "build"]) == 0


def test_it_speaks_chinese(learner, capsys):
    learner(2, "x = (\n")
    assert main(["learn", "build", "--lang", "zh"]) == 0
    assert main(["learn", "build", "check", "--lang", "zh"]) == 1
    assert main(["learn", "build", "check", "--lang", "zh", "--hint"]) == 0
    assert main(["learn", "build", "check", "--lang", "zh", "--diff"]) == 0
    output = capsys.readouterr().out
    for part in ("2. 许多客户端，一个线程", "看到：", "应为：", "第 2 步的提示 1/3："):
        assert part in output
    text = output.partition("--- ")[0]
    assert max(map(columns, text.splitlines())) <= 80


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_page_is_wider_than_80_columns(language, learner, capsys):
    for step in STEPS:
        learner(step.number, start())
        assert main(["learn", "build", "--lang", language]) == 0
        for line in capsys.readouterr().out.splitlines():
            assert columns(line) <= 80


def test_printed_calls_ask_for_the_language_that_the_environment_does_not_name(folder, capsys):
    assert main(["learn", "build", "--lang", "zh"]) == 0
    calls = re.findall(r" learn build (check.*)", capsys.readouterr().out)
    assert calls == ["check --lang zh", "check --lang zh --hint", "check --lang zh --diff"]
    assert main(["learn", "build", "--lang", "en"]) == 0
    assert "--lang" not in capsys.readouterr().out


def test_printed_calls_quote_a_folder_with_a_blank(folder, capsys):
    assert main(["learn", "build", "my reactor"]) == 0
    assert 'learn build check "my reactor" --hint\n' in capsys.readouterr().out


def test_both_languages_have_the_same_phrases():
    assert command._PHRASES["en"].keys() == command._PHRASES["zh"].keys()


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("check", "no 'my-reactor"),
        ("check nowhere", "no 'nowhere"),
        ("check --hint --diff", "not allowed with argument"),
        ("check one two", "unrecognized arguments: two"),
        ("a-file", "cannot write 'a-file"),
        ("--lang fr", "invalid choice: 'fr'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_status_2(arguments, named, folder, capsys):
    (folder / "a-file").write_text("")
    assert main(["learn", "build", *arguments.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("minireactor learn build")
    assert errors.count("\n") == 1
    assert named in errors


@pytest.mark.slow
def test_in_a_shell_without_utf_8_the_file_is_utf_8(folder):
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    root = Path(minireactor.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "minireactor", "learn", "build"],
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "my-reactor" / "reactor.py").read_bytes() == start().encode()


# --- The reactor of the last step, under the servers and the demo


@pytest.fixture
def own_engine(tmp_path):
    path = tmp_path / "reactor.py"
    path.write_text(STEPS[-1].solution(), encoding="utf-8")
    engine = Engine(load(str(path)), str(path))
    yield engine
    engine.close()


def test_the_last_solution_serves_and_is_paused_and_resumed(own_engine, closing):
    server = Server(own_engine, RandomFactory(1))
    port = server.listen("127.0.0.1", 0).port
    client = closing(socket.create_connection(("127.0.0.1", port)))
    client.sendall(b"500000\n")
    pump(own_engine, lambda: server.paused, "a pause")
    assert drain(own_engine, client).count(b"\r\n") == 500_001
    client.close()
    pump(own_engine, lambda: not server.connections, "the end")


def test_a_reactor_without_connect_fails_each_attempt_and_goes_on(own_engine):
    factory = RecordingClientFactory()
    own_engine.connectTCP("127.0.0.1", 1, factory)
    pump(own_engine, lambda: "failed" in factory.calls, "the failure")
    assert factory.reason.check(ConnectError)
    assert "has no connectTCP()" in factory.reason.getErrorMessage()
