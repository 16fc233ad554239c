"""The lessons hold what they claim, and `minireactor learn` shows them as they are."""

from __future__ import annotations

import ast
import os
import re
import select
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from serve_support import ROOT, Command, read_all
from support import PATIENCE

import minireactor
from bench.ladder import STEPS
from minireactor.cli.commands import main
from minireactor.lessons import check, child, command
from minireactor.lessons.catalogue import CHECK_LINE, LANGUAGES, Lesson, blocks, lessons
from minireactor.lessons.page import columns, page, sections
from minireactor.lessons.phrases import PHRASES

LESSONS = lessons()

TEXT = """\
# 7. A tiny lesson

It counts.

```python
for number in range(3):
    print("number", number)
```

Which numbers come?

```text
number 0
number 1
```

The exercise is wrong:

```fault
fault: 41 is not 42
```
"""

PROGRAM = """\
'It counts.'
for number in range(3):
    print("number", number)
print("that is all")
"""

EXERCISE = f"""\
'It is wrong.'
import sys

answer = 41


{CHECK_LINE}

if answer != 42:
    sys.exit(f"fault: {{answer}} is not 42")
print("right: 42")
"""

TRANSLATIONS = """\
It counts.
它在数数。
It is wrong.
它不对。
fault: {} is not 42
错误：{} 不是 42
right: 42
正确：42
"""


class Tiny:
    """A lesson that runs quickly, and that a test can spoil."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        for language in LANGUAGES:
            fault = {"en": "fault: 41 is not 42", "zh": "错误：41 不是 42"}[language]
            self.write(f"text.{language}.md", TEXT.replace("fault: 41 is not 42", fault))
        self.write("zh.txt", TRANSLATIONS)
        self.write("program.py", PROGRAM)
        self.write("exercise.py", EXERCISE)
        self.write("solution.py", EXERCISE.replace("answer = 41", "answer = 42"))

    def write(self, name, text):
        (self.folder / name).write_text(text, encoding="utf-8")

    def spoil(self, name, old, new):
        before = (self.folder / name).read_text(encoding="utf-8")
        assert old in before
        self.write(name, before.replace(old, new))

    def faults(self):
        return check.faults(Lesson(self.folder))


_ran = {}


def run_once(path):
    """Run a program like child.run(), unless a program with the same text has been run before."""
    source = path.read_text(encoding="utf-8")
    if source not in _ran:
        _ran[source] = child.run(path)
    return _ran[source]


@pytest.fixture
def tiny(tmp_path):
    return Tiny(tmp_path / "07_tiny")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(check, "run", run_once)


@pytest.fixture(autouse=True)
def state(tmp_path_factory, monkeypatch):
    """The folder in which the progress of this test's learner is kept."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture
def english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")


@pytest.fixture
def shell(tmp_path):
    """shell(*arguments) starts `learn` in an empty directory. It ends with the test."""
    running = []

    def shell(*arguments):
        running.append(Command("learn", *arguments, cwd=tmp_path))
        return running[-1]

    yield shell
    for process in running:
        process.close()


# The lessons themselves.


@pytest.mark.slow
def test_every_program_exercise_and_solution_runs_and_every_quotation_is_true(english, capsys):
    status = main(["learn", "--check"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0, "\n".join(lines)
    named = [*(f"{n:2}" for n in range(1, 21)), *(f"build {n:2}" for n in range(1, 13))]
    assert [line.split("  ok  ")[0] for line in lines] == named


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_a_text_is_an_explanation_that_quotes_its_program(lesson):
    quoted = [block.kind for block in blocks(lesson.text("en"))]
    assert set(quoted) & {"python", "javascript"}
    assert quoted.count("fault") == 1
    unfenced = re.compile("^```.*?^```$", re.DOTALL | re.MULTILINE)
    words = unfenced.sub("", lesson.text("en")).split()
    characters = re.findall("[\u4e00-\u9fff]", unfenced.sub("", lesson.text("zh")))
    assert 300 <= len(words) <= 900
    assert 300 <= len(characters) <= 1200
    assert lesson.text("en").isascii()  # so that every terminal can show it


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_what_a_learner_saves_is_an_exercise_that_ends_in_its_check(lesson, capsys):
    assert main(["learn", str(lesson.number), "--exercise"]) == 0
    assert capsys.readouterr().out.count(CHECK_LINE) == 1


POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_no_lesson_needs_a_module_that_windows_lacks(lesson):
    for path in lesson.program.parent.glob("*.py"):
        # An import within try is not at the top.
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            assert not POSIX_ONLY & {*names, getattr(node, "module", None)}, path


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_each_program_runs_without_those_modules(lesson, tmp_path):
    path = tmp_path / "without.py"
    path.write_text(
        f"import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(POSIX_ONLY)}))\n"
        f"sys.path.insert(0, {str(lesson.program.parent)!r})\n"
        f"runpy.run_path({str(lesson.program)!r}, run_name='__main__')\n"
    )
    ran = child.run(path)
    assert ran.status == 0, "\n".join(ran.lines)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_ladder_of_the_lesson_is_the_one_that_was_measured(language):
    readme = (Path(ROOT) / "bench" / "ladder" / "README.md").read_text(encoding="utf-8")
    workloads, *rows = re.findall(r"^\| (.+) \|$", readme, re.MULTILINE)
    cells = {row.split(" | ")[0]: row.split(" | ")[1:] for row in rows}
    names = workloads.split(" | ")[1:]
    text = next(each for each in LESSONS if each.name == "ladder").text(language)
    rungs = re.findall(r"^(\d+)\. \*(.+?)\*(.+)$", text, re.MULTILINE)
    assert [int(number) for number, *_ in rungs] == list(range(1, len(STEPS)))
    for step, (number, title, rest) in zip(STEPS[1:], rungs):
        assert language != "en" or title.lower() == step.title.lower()
        measured = dict(zip(names, cells[f"{number}. {step.title}"]))
        figures = re.findall(r"`([a-z0-9-]+)` (\d\.\d\d)", rest)
        assert figures
        for workload, figure in figures:
            assert measured[workload] == figure, f"{step.name}: {workload}"


# What the check notices.


@pytest.mark.slow
def test_a_lesson_without_a_fault_has_none(tiny):
    assert tiny.faults() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, said",
    [
        ("program.py", "range(3)", "range(4)", "quotes code that is in none of its files"),
        ("program.py", '"number",', '"count",', "quotes output that does not come"),
        ("program.py", "print(", "assert not 'so'; print(", "program.py ends with 1"),
        ("program.py", 'print("that', "print('Traceback'); print(\"that", "program.py ends with 0"),
        ("program.py", "for", "\n" * 80 + "for", "program.py has 84 lines; 80 is the most"),
        (
            "program.py",
            '"that is',
            '"x" * 77, "that is',
            "program.py prints 89 columns, 76 is the most",
        ),
        ("exercise.py", "= 41", "= 42", "exercise.py does not report its fault"),
        ("exercise.py", "is not 42", "is not it", "quotes output that does not come"),
        (
            "exercise.py",
            "is not 42",
            "is not it",
            "zh.txt does not translate 'fault: {} is not it'",
        ),
        ("exercise.py", "It is wrong", "So", "zh.txt does not translate 'So.'"),
        ("zh.txt", "right: 42", "right: 43", "zh.txt translates 'right: 43', which nothing prints"),
        ("zh.txt", "错误：{} 不是", "错误：{} {} 不是", "zh.txt has a value too many"),
        ("text.zh.md", "错误", "fault", "quotes output that does not come"),
        ("text.zh.md", "come?", "come.", "text.zh.md asks no question before the output"),
        ("exercise.py", "sys.exit", "sys.exit(2) or (", "exercise.py does not report its fault"),
        ("solution.py", "answer = 42", "answer = 43", "solution.py ends with 1"),
        ("solution.py", "answer = 42", "sys.exit()", "solution.py ends with 0, its last line"),
        ("solution.py", "!= 42", "!= 42.0", "not checked by the same lines"),
        ("text.zh.md", "number 1\n", "", "the texts in en and zh do not quote the same"),
        ("text.zh.md", "# 7. ", "# 8. ", "text.zh.md does not begin with '# 7. '"),
    ],
)
def test_a_spoilt_lesson_is_noticed(name, old, new, said, tiny, quick):
    tiny.spoil(name, old, new)
    assert any(said in fault for fault in tiny.faults())


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("```python", "```sh", "a block of 'sh', which nothing checks"),
        ("```fault", "```text", "the texts have 0 blocks of 'fault'; one is right"),
        ("```fault", "```text", "the texts have 2 blocks of 'text'; one is right"),
        ("number 0\n", "number 0" + " " * 70 + "\n", "a text quotes 78 columns, 76 is the most"),
        ("It counts.", "```text\n```", "text.en.md has two blocks with nothing between them"),
        ('    print("number", number)\n', "", "quotes what is not Python by itself: 'for "),
        ("number 0\nnumber 1", "number 1\nthat is all\nnumber 0", "at least not there: 'number 0'"),
        ('    print("number", number)\n', '    print("number")\n', "quotes code that is in none"),
        ('    print("number", number)\n', 'print("number", number)\n', "quotes code that is in"),
    ],
)
def test_texts_that_quote_wrongly_are_noticed(old, new, said, tiny, quick):
    for language in LANGUAGES:
        tiny.spoil(f"text.{language}.md", old, new)
    assert any(said in fault for fault in tiny.faults())


@pytest.mark.slow
def test_a_program_that_does_not_end_is_stopped_and_noticed(tiny, monkeypatch):
    monkeypatch.setattr(child, "LIMIT", 0.5)
    tiny.spoil("program.py", 'print("that is all")', "while True: pass")

    assert any("program.py runs on after" in fault for fault in tiny.faults())


@pytest.mark.slow
def test_a_spoilt_lesson_makes_the_exit_status_1(tiny, monkeypatch, english, capsys):
    monkeypatch.setattr(command, "lessons", lambda: [Lesson(tiny.folder)])
    tiny.spoil("solution.py", "answer = 42", "answer = 43")

    assert main(["learn", "7", "--check"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " 7  FAULT  A tiny lesson"
    assert lines[1].startswith("    solution.py ends with 1")


def test_numbers_and_alignment_may_differ_but_nothing_else():
    output = ["", "held   1,024 bytes, 3.5 ms", "ended"]
    assert not list(check.unknown_output(["held 66,000  bytes, 12 ms"], output))
    assert not list(check.unknown_output(["...", "ended"], output))
    assert list(check.unknown_output(["held 66,000 bytes, 12 s"], output))
    assert list(check.unknown_output(["ended", "held 1 bytes, 1 ms"], output))


def test_what_is_left_out_here_is_not_missed():
    output = ["one 1", "left out, because not installed: two, three"]
    assert not list(check.unknown_output(["one 1", "two 2", "three 3"], output))
    assert list(check.unknown_output(["one 1", "four 4"], output))


def test_code_may_be_quoted_with_lines_left_out_but_only_where_dots_are(tiny):
    tiny.write("peer.py", "def f():\n    one()\n    two()\n    three()\n")
    sources = Lesson(tiny.folder).sources()
    assert not list(check.unknown_code(["def f():", "    one()", "...", "three()"], sources))
    assert list(check.unknown_code(["def f():", "    one()", "    three()"], sources))


# Pages.


def test_a_page_wraps_paragraphs_underlines_headings_and_leaves_blocks_alone():
    text = "# A title\n\none two **three** four\n\n- five six seven\n10. eight nine ten\n"
    text += "\n```text\nas  it is, uncut\n```\n"
    assert page(text, 14).splitlines() == [
        "A title",
        "=======",
        "",
        "one two three",
        "four",
        "",
        "- five six",
        "  seven",
        "10. eight nine",
        "    ten",
        "",
        "    as  it is, uncut",
    ]


def test_chinese_takes_two_columns_and_no_line_begins_with_a_comma():
    assert page("## 水位线\n", 80).splitlines() == ["水位线", "------"]
    assert page("推式生产者，拉式", 10).splitlines() == ["推式生产", "者，拉式"]
    assert page("水（位）线", 6).splitlines() == ["水", "（位）", "线"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_of_a_text_is_lost_on_its_page(language):
    for lesson in LESSONS:
        text = lesson.text(language)
        shown = page(text, 60)
        bare = re.compile(r"[\s*#=-]|```\w*")
        assert bare.sub("", shown) == bare.sub("", text)
        unquoted = [line for line in shown.splitlines() if not line.startswith("    ")]
        assert max(map(columns, unquoted)) <= 60


def test_a_terminal_gets_headings_and_emphasis_in_bold():
    bold = page("# A title\n\none *two three* `four`\n", 80, bold=True)
    assert bold.splitlines()[0] == "\x1b[1mA title\x1b[0m"
    assert bold.splitlines()[3] == "one \x1b[1mtwo three\x1b[0m `four`"


def test_bold_takes_no_columns():
    text = "one **two three four** five six seven eight\n"
    bare = page(text, 20).splitlines()
    bold = page(text, 20, bold=True).splitlines()
    assert [re.sub("\x1b.[01]m", "", line) for line in bold] == bare


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sections_of_a_text_are_the_text(language):
    for lesson in LESSONS:
        text = lesson.text(language)
        assert "".join(sections(text)) == text
        assert all(part.startswith("#") for part in sections(text))


@pytest.mark.parametrize("name", PHRASES["en"])
def test_each_phrase_has_the_same_values_in_both_languages(name):
    english, chinese = (set(re.findall(r"{(\w+)", PHRASES[lang][name])) for lang in LANGUAGES)
    assert english == chinese


# The command.


def test_without_a_number_it_lists_the_lessons(english, capsys):
    assert main(["learn"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    for lesson in LESSONS:
        assert f"{lesson.number:2}  {lesson.title('en')}\n" in output
    assert output.count("\n    ") >= len(LESSONS)


@pytest.mark.parametrize(
    "environment, title",
    [
        ({"LANG": "zh_CN.UTF-8"}, "水位线与推式生产者"),
        ({"LC_ALL": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, "水位线与推式生产者"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "Marks and the push producer"),
        ({"LANG": "de_DE.UTF-8"}, "Marks and the push producer"),
        ({}, "Marks and the push producer"),
    ],
)
def test_the_language_is_that_of_the_environment(environment, title, monkeypatch, capsys):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["learn"]) == 0
    assert f" 6  {title}\n" in capsys.readouterr().out


def test_the_language_asked_for_comes_first(monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["learn", "--lang", "en"]) == 0
    assert "Marks and the push producer" in capsys.readouterr().out


@pytest.mark.parametrize("language, heading", [("en", "What you see"), ("zh", "运行结果")])
def test_a_number_shows_the_text_and_in_the_middle_what_the_program_prints(
    language, heading, capsys
):
    assert main(["learn", "2", "--lang", language]) == 0
    text, _, rest = capsys.readouterr().out.partition(heading)
    assert text.startswith(f"2. {LESSONS[1].title(language)}\n==")
    output = "    50 clients are connected, and one of them says nothing\n"
    assert output not in text
    question, _, explanation = rest.partition(output)
    assert question.rstrip()[-1] in "?？"
    assert "BlockingIOError" in explanation
    assert "learn 2 --start" in explanation
    assert "--try lesson2.py" in explanation
    assert f"learn 3, {LESSONS[2].title(language)}" in explanation.replace("，", ", ")
    assert "\x1b" not in rest


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_line_of_a_lesson_is_wider_than_80_columns(language, capsys):
    assert main(["learn", "10", "--lang", language]) == 0
    assert max(map(columns, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("part", ["program", "exercise", "solution"])
def test_a_part_is_printed_as_it_is(part, english, capsys):
    assert main(["learn", "6", f"--{part}"]) == 0
    assert capsys.readouterr().out == getattr(LESSONS[5], part).read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_exercise_is_tried_until_it_is_right(english, tmp_path, capsys):
    mine = tmp_path / "mine.py"
    main(["learn", "2", "--exercise"])
    mine.write_text(capsys.readouterr().out, encoding="utf-8")

    assert main(["learn", "2", "--try", str(mine)]) == 1
    output = capsys.readouterr().out
    assert output.startswith("fault: the loop woke up 100 times")
    assert output.endswith("Not yet.\n")

    main(["learn", "2", "--solution"])
    mine.write_text(capsys.readouterr().out, encoding="utf-8")

    assert main(["learn", "2", "--try", str(mine)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("right: ")
    assert "learn 2 --solution" in output


def test_an_exercise_that_ends_before_its_check_is_not_right(english, tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("import sys\nsys.exit()\n" + LESSONS[1].exercise.read_text(encoding="utf-8"))
    assert main(["learn", "2", "--try", str(mine)]) == 1
    assert capsys.readouterr().out == "Not yet.\n"


@pytest.mark.slow
def test_an_exercise_that_hangs_is_stopped_and_where_it_stood_is_named(
    english, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(child, "SLOW", 0.2)
    monkeypatch.setattr(child, "LIMIT", 1.0)
    mine = tmp_path / "mine.py"
    endless = "def wait():\n    while True:\n        pass\n\nwait()\n"
    mine.write_text(endless + LESSONS[1].exercise.read_text(encoding="utf-8"))

    assert main(["learn", "2", "--try", str(mine)]) == 1

    slow, endless, stood, line = capsys.readouterr().out.splitlines()
    assert slow == "(It still runs. After 1 s it will be stopped.)"
    assert endless == "It was still running after 1 s, and has been stopped."
    assert stood in ("It stood in line 2, in wait:", "It stood in line 3, in wait:")
    assert line in ("    while True:", "    pass")


def test_a_chinese_learner_gets_task_first_line_and_fault_in_chinese(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["learn", "2", "--start", "--lang", "zh"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("lesson2.py 已经写好。找 bug：客户端一走")
    source = (tmp_path / "lesson2.py").read_text(encoding="utf-8")
    assert source.startswith('"""找 bug：客户端一走')

    assert main(["learn", "2", "--try", "lesson2.py", "--lang", "zh"]) == 1

    assert capsys.readouterr().out == "错误：为了一个已经走掉的客户端，循环醒了 100 次\n还不对。\n"


def test_start_writes_the_exercise_as_utf_8_and_never_overwrites(
    english, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["learn", "5", "--start"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("lesson5.py is there. Find the fault: ")
    assert output.endswith("learn 5 --try lesson5.py\n")
    assert (tmp_path / "lesson5.py").read_bytes() == LESSONS[4].exercise.read_bytes()

    (tmp_path / "lesson5.py").write_text("what I have written", encoding="utf-8")
    assert main(["learn", "5", "--start"]) == 2

    assert (tmp_path / "lesson5.py").read_text(encoding="utf-8") == "what I have written"
    errors = capsys.readouterr().err
    assert "'lesson5.py' is there already, and stays as it is; try it with: " in errors
    assert errors.count("\n") == 1


def test_start_says_why_it_cannot_write(english, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["learn", "5", "--start"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("cannot write 'lesson5.py': No such file or directory\n")
    assert error.count("\n") == 1


# Progress.


def solve(number, tmp_path):
    main(["learn", str(number), "--solution"])
    mine = tmp_path / "mine.py"
    mine.write_bytes(LESSONS[number - 1].solution.read_bytes())
    return main(["learn", str(number), "--try", str(mine)])


def listed(capsys):
    capsys.readouterr()
    assert main(["learn"]) == 0
    return capsys.readouterr().out


def test_a_new_learner_is_sent_to_lesson_1(english, capsys):
    output = listed(capsys)
    assert "learn 1\n" in output
    assert "(read)" not in output
    assert "Your progress" not in output


@pytest.mark.slow
def test_what_is_read_and_solved_is_marked_and_the_next_one_named(english, tmp_path, state, capsys):
    assert main(["learn", "2"]) == 0
    assert " 2  A selector loop in 40 lines  (read)\n" in listed(capsys)

    assert solve(2, tmp_path) == 0
    assert "Next: " in capsys.readouterr().out
    output = listed(capsys)
    assert " 2  A selector loop in 40 lines  (done)\n" in output
    assert "Go on with: " in output
    assert "learn 1\n" in output

    (file,) = state.rglob("*.txt")
    assert f"Your progress is in {file}. To begin anew, delete the file.\n" in output
    file.unlink()
    assert "(done)" not in listed(capsys)


@pytest.mark.slow
def test_reading_a_solved_lesson_again_leaves_it_solved(english, tmp_path, capsys):
    assert solve(2, tmp_path) == 0
    assert main(["learn", "2"]) == 0
    assert "in 40 lines  (done)\n" in listed(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("state_home", ["a-file", "a-file/below"])
def test_progress_that_cannot_be_kept_is_no_failure(
    state_home, english, tmp_path, monkeypatch, capsys
):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / state_home))
    assert solve(2, tmp_path) == 0
    assert "(done)" not in listed(capsys)


def test_a_progress_file_that_is_not_text_counts_as_no_progress(english, state, capsys):
    (state / "minireactor").mkdir()
    (state / "minireactor" / "lessons.txt").write_bytes(b"\xff\xfe blocking right")
    assert "(done)" not in listed(capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "language, encoding, said",
    [
        ("en", "utf-8", "中文：{} --lang zh\n"),
        ("en", "ascii", "In Chinese: {} --lang zh\n"),
        ("zh", "utf-8", "English: {} --lang en\n"),
    ],
)
def test_the_list_names_the_other_language_last(language, encoding, said, monkeypatch, shell):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    status, output, errors = shell("--lang", language).end()
    assert (status, errors) == (0, "")
    assert output.endswith("\n" + said.format("python3 -m minireactor learn"))


@pytest.mark.parametrize(
    "encoding, said",
    [("utf-8", "中文: --lang zh"), ("ascii", "in Chinese: --lang zh")],
)
def test_the_list_of_commands_names_the_way_to_the_chinese_lessons(encoding, said):
    done = subprocess.run(
        [sys.executable, "-m", "minireactor", "--help"],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"},
    )
    assert done.returncode == 0
    assert said in done.stdout.decode(encoding)


def test_no_line_of_the_help_is_wider_than_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["learn", "--help"]) == 0
    assert max(map(columns, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.slow
def test_the_last_lesson_sends_the_learner_on_to_a_reactor_of_ones_own(english, tmp_path, capsys):
    assert solve(len(LESSONS), tmp_path) == 0
    assert capsys.readouterr().out.endswith("learn build\n")


def test_the_glossary_has_both_languages_and_the_lesson_of_each_term(capsys):
    assert main(["learn", "--glossary"]) == 0
    output = capsys.readouterr().out
    assert "back-pressure / 背压" in output
    assert max(map(columns, output.splitlines())) <= 80
    terms, _, books = output.partition("What to read next")
    numbers = re.findall(r"\((\d+(?:, \d+)*)\)$", terms, re.MULTILINE)
    assert len(numbers) == terms.count("\n- ") >= 20
    assert "Stevens" in books


# On a terminal.


@pytest.fixture
def terminal(tmp_path):
    """terminal(*arguments) -> the descriptor of a terminal on which `learn` runs."""
    started = []

    def start(*arguments):
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "minireactor", "learn", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        )
        os.close(theirs)
        started.append((ours, process))
        return ours

    yield start
    for ours, process in started:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(descriptor, text):
    """Read what a terminal shows until it shows `text`, or to its end."""
    shown = b""
    deadline = time.monotonic() + PATIENCE
    while text.encode() not in shown:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, shown
        try:
            shown += os.read(descriptor, 4096)
        except OSError:  # Linux: the program has ended
            break
    return shown.decode().replace("\r", "")


@pytest.mark.slow
def test_on_a_terminal_it_asks_waits_runs_and_stops_at_each_heading(terminal):
    window = terminal("2")
    page = read_until(window, "q ends: ")
    assert "\x1b[1m2. A selector loop in 40 lines\x1b[0m\n=====" in page
    assert "What you see" not in page

    os.write(window, b"\n")
    page = read_until(window, "q ends: ")
    assert "\x1b[1mWhat you see\x1b[0m\n----" in page
    assert page.endswith("?\n\n-- Make a guess. Then Enter runs the program, q ends: ")

    os.write(window, b"\n")
    page = read_until(window, "q ends: ")
    assert page.index("49 requests are answered") < page.index("Fifty clients")
    assert "\x1b[1mnever wait\x1b[0m" in page

    os.write(window, b"q\n")
    assert "The end is an event" not in read_until(window, "never shown")


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("99", "there is no lesson 99; there are 1 to 20"),
        ("0", "there is no lesson 0"),
        ("-1", "there is no lesson -1"),
        ("five", "argument N: 'five' is not valid: give the number of a lesson"),
        ("5 6", "unrecognized arguments: 6"),
        ("5 --lang fr", "argument --lang: invalid choice: 'fr'"),
        ("--program", "of which lesson? Say: learn 5 --program"),
        ("--start", "of which lesson? Say: learn 5 --start"),
        ("--try mine.py", "of which lesson? Say: learn 5 --try FILE"),
        ("5 --program --solution", "not allowed with argument"),
        ("99 --check", "there is no lesson 99"),
        ("5 --try", "argument --try: expected one argument"),
        ("6 --try no-such-file", "cannot read 'no-such-file': No such file"),
        ("6 --try .", "cannot read '.': "),
        ("6 --try unrelated.py", "'unrelated.py' does not end in the check of lesson 6, unchanged"),
        ("6 --try another.py", "'another.py' does not end in the check of lesson 6, unchanged"),
        ("6 --try binary.py", "cannot read 'binary.py': it is not text in UTF-8"),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line_with_status_2(
    arguments, named, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unrelated.py").write_text("print('right: of course')\n")
    (tmp_path / "another.py").write_text(LESSONS[0].exercise.read_text(encoding="utf-8"))
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")

    assert main(["learn", *arguments.split()]) == 2

    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("minireactor")
    assert errors.count("\n") == 1
    assert named in errors


@pytest.mark.slow
def test_ctrl_c_ends_it_and_the_program_that_it_runs(shell, tmp_path):
    exercise = LESSONS[1].exercise.read_text(encoding="utf-8")
    endless = "import os, time\nprint(os.getpid())\ntime.sleep(99)\n"
    (tmp_path / "mine.py").write_text(endless + exercise, encoding="utf-8")
    process = shell("2", "--try", "mine.py")
    pid = int(process.line())

    process.interrupt()

    assert process.end() == (130, "", "")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_reader_that_has_seen_enough_gets_no_complaint(shell):
    process = shell("1")
    process.line()
    process.close_stdout()
    assert process.end_without_output() == (0, "")


@pytest.mark.slow
def test_where_chinese_cannot_be_written_it_is_refused_and_the_way_out_named(monkeypatch, shell):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    status, output, errors = shell("--lang", "zh").end()
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert "'ascii', has no Chinese; set PYTHONIOENCODING=utf-8, or say --lang en" in errors


def test_where_chinese_cannot_be_written_a_chinese_environment_gets_english(monkeypatch, shell):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    status, output, errors = shell().end()
    assert (status, errors) == (0, "")
    assert " 6  Marks and the push producer\n" in output


def test_a_program_sees_the_package_that_runs_it(tmp_path):
    path = tmp_path / "program.py"
    path.write_text("import minireactor, sys\nprint(minireactor.__file__, sys.executable)\n")
    package = os.path.dirname(os.path.dirname(os.path.dirname(child.__file__)))
    expected = os.path.join(package, "minireactor", "__init__.py")
    assert child.run(path).lines == [f"{expected} {sys.executable}"]


def test_what_a_program_has_started_is_stopped_with_it(tmp_path, closing):
    listener = closing(socket.create_server(("127.0.0.1", 0)))
    code = (
        "import socket, time; "
        f"connection = socket.create_connection({listener.getsockname()}); "
        "print('connected', flush=True); time.sleep(99)"
    )
    path = tmp_path / "program.py"
    path.write_text(f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {code!r}])\n")

    ended = child.run(path, on_line=lambda line: False)
    assert (ended.status, ended.lines) == (None, ["connected"])

    grandchild = closing(listener.accept()[0])
    grandchild.settimeout(PATIENCE)
    assert read_all(grandchild) == b""


# Without folders.


@pytest.mark.slow
def test_in_a_zip_file_the_lessons_are_there_and_run(tmp_path):
    package = Path(minireactor.__file__).parent
    archive = tmp_path / "minireactor.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", "from minireactor.cli import main\nraise SystemExit(main())\n")
        for path in package.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                file.write(path, path.relative_to(package.parent))

    def learn(*arguments):
        done = subprocess.run(
            [sys.executable, str(archive), "learn", *arguments],
            cwd=tmp_path,
            capture_output=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            text=True,
            timeout=3 * PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert learn().count("\n 2  ") == 1
    assert learn("2", "--exercise") == LESSONS[1].exercise.read_text(encoding="utf-8")
    assert "requests are answered" in learn("2", "--lang", "en")
    assert os.listdir(tmp_path) == [archive.name]
