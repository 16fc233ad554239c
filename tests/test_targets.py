"""The file of targets: what it may hold, and what is said about a bad one."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from minireactor.proxy.targets import (
    MAX_BYTES,
    MAX_TARGETS,
    Target,
    names,
    parse_place,
    parse_targets,
    read_targets,
)


def parsed(text, given=()):
    """Return (place, weight, backup) of each target."""
    data = text if isinstance(text, bytes) else text.encode()
    return [(each.place, each.weight, each.backup) for each in parse_targets(data, "f", given)]


def complaint(text, given=()):
    """Return what is said about a bad file."""
    with pytest.raises(ValueError) as caught:
        parsed(text, given)
    return str(caught.value)


# Good files.


def test_a_target_a_line_with_its_options():
    text = "10.0.0.1:80\n[::1]:81 weight=3\nunix:/run/x.sock backup weight=256\n8080\n"
    assert parsed(text) == [
        (("10.0.0.1", 80), 1, False),
        (("::1", 81), 3, False),
        (("unix:/run/x.sock", 0), 256, True),
        (("127.0.0.1", 8080), 1, False),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a:1 weight=2",
        "\n\n  a:1\tweight=2  \r\n\r\n",
        "# a comment\na:1 weight=2 # the large one\n#b:2\n",
        "a:1 weight=2 #backup\n",
        "\ufeffa:1 weight=2",
    ],
)
def test_space_comments_and_line_ends_do_not_matter(text):
    assert parsed(text) == [(("a", 1), 2, False)]


def test_a_path_may_have_a_hash_in_it():
    assert parsed("unix:/run/a#b") == [(("unix:/run/a#b", 0), 1, False)]


def test_the_targets_of_the_command_line_come_first():
    assert parsed("b:2", [Target(("a", 1))]) == [(("a", 1), 1, False), (("b", 2), 1, False)]


def test_a_file_without_a_target_is_enough_if_others_are_given():
    assert parsed("# nothing yet", [Target(("a", 1))]) == [(("a", 1), 1, False)]


# Bad files: the message names the file, the line, the value and the fix.


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "f has no target; write one a line, such as 10.0.0.1:80"),
        ("# a:1\n\n", "f has no target; write one a line, such as 10.0.0.1:80"),
        (
            "a:1\nhttp://b:2",
            "f, line 2: 'http://b:2' is not valid: give PORT, HOST:PORT or [IPV6]:PORT, "
            "such as example.internal:80",
        ),
        ("a:0", "f, line 1: 'a:0' is not valid: give PORT, HOST:PORT or [IPV6]:PORT, "
         "such as example.internal:80"),
        ("a\0:1", r"f, line 1: 'a\x00:1' is not valid: give PORT, HOST:PORT or [IPV6]:PORT, "
         "such as example.internal:80"),
        ("[unix:@a]:1", "f, line 1: '[unix:@a]:1' is not valid: give PORT, HOST:PORT or "
         "[IPV6]:PORT, such as example.internal:80"),
        ("unix:", "f, line 1: 'unix:' is not valid: give a path too, such as unix:/run/x.sock"),
        ("a:1 down", "f, line 1: 'down' is no option; write weight=N, backup, or a # comment"),
        ("a:1 b:2", "f, line 1: 'b:2' is no option; write weight=N, backup, or a # comment"),
        ("a:1 backup=1", "f, line 1: 'backup=1' is no option; write weight=N, backup, or a # "
         "comment"),
        ("a:1 weight=0", "f, line 1: 'weight=0' is not valid: give a weight from 1 to 256, such "
         "as weight=2"),
        ("a:1 weight", "f, line 1: 'weight' is not valid: give a weight from 1 to 256, such as "
         "weight=2"),
        ("a:1 weight=257", "f, line 1: 'weight=257' is not valid: give a weight from 1 to 256, "
         "such as weight=2"),
        ("a:1 weight=2 weight=3", "f, line 1: 'weight=3': weight is given twice; remove one"),
        ("a:1 backup backup", "f, line 1: 'backup': backup is given twice; remove one"),
        ("a:1\nb:1\nA:1", "f, line 3: A:1 is given in line 1 already; remove one"),
        (b"a:1\n\xff\xfe:1", r"f, line 2: b'\xff\xfe:1' is not UTF-8; write plain text"),
        ("a:1\n\x1b[2Jb:1:2", r"f, line 2: '\x1b[2Jb:1:2' is not valid: give PORT, HOST:PORT or "
         "[IPV6]:PORT, such as example.internal:80"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_the_place_and_the_fix(text, message):
    assert complaint(text) == message


def test_a_long_word_is_cut_in_the_message():
    assert len(complaint("a:1 " + "x" * 100_000)) < 200


def test_a_target_of_the_command_line_is_refused_in_the_file():
    message = complaint("b:2\na:1", [Target(("a", 1))])
    assert message == "f, line 2: a:1 is given as an argument already; remove one"


def test_two_paths_that_differ_in_case_are_two_targets():
    assert len(parsed("unix:/a\nunix:/A")) == 2


def test_a_file_with_too_many_targets_is_refused():
    lines = "".join(f"a:{number}\n" for number in range(1, MAX_TARGETS + 2))
    assert complaint(lines) == f"f, line {MAX_TARGETS + 1}: more than {MAX_TARGETS} targets; " + (
        "remove some"
    )


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"\n" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match=f"has more than {MAX_BYTES} bytes; give a file of"):
        read_targets(str(path))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read '.*list': No such file"):
        read_targets(str(tmp_path / "list"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_a_fifo_without_a_writer_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="is no regular file; give a file of targets"):
        read_targets(str(tmp_path / "fifo"))


# Files that hold anything.

GOOD = b"""# the web servers
10.0.0.1:80 weight=3
[2001:db8::1]:80
example.internal:8080 backup # a spare
unix:/run/app.sock
unix:@name weight=12 backup
"""
PIECES = [
    *GOOD.split(), b" ", b"\n", b"\r", b"#", b"=", b":", b"[", b"]", b"\0", b"\xff", b"weight=",
    b"backup", "\u0663\u2003\x85".encode(), b"unix:", b"9" * 5000, b"\x1b[0m", b"@",
]  # fmt: skip


def mutated(chance):
    """Return GOOD with some bytes changed, left out, repeated, or replaced by other pieces."""
    data = bytearray(GOOD)
    for _ in range(chance.randrange(1, 6)):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        kind = chance.randrange(4)
        if kind == 0:
            data[at:at] = chance.choice(PIECES)
        elif kind == 1:
            del data[at : min(end, at + 10)]
        elif kind == 2:
            data[at:at] = data[at : min(end, at + 40)]
        elif at < len(data):
            data[at] = chance.randrange(256)
    return bytes(data)


def check_mutated(seeds):
    refused = 0
    for seed in seeds:
        data = mutated(random.Random(seed))
        try:
            targets = parse_targets(data, "f")
        except ValueError as error:
            refused += 1
            message = str(error)
            assert message.startswith("f") and ("; " in message or ": give " in message), seed
            assert message.isprintable() and len(message) < 400, seed
        else:
            assert targets, seed
            for target in targets:
                assert parse_place(str(target)) == target.place, seed
    return refused


def test_a_mutated_file_is_read_or_refused_with_a_reason():
    assert 200 < check_mutated(range(1000)) < 1000


@pytest.mark.slow
@pytest.mark.newest
def test_a_hundred_thousand_mutated_files_are_read_or_refused_with_a_reason():
    check_mutated(range(1000, 101_000))


# The README.

README = Path(__file__).parent.parent / "minireactor" / "proxy" / "README.md"


def section():
    text = README.read_text(encoding="utf-8")
    return text.partition("## Targets\n")[2].partition("\n## ")[0]


def test_the_list_in_the_readme_is_a_list_of_targets():
    listed = re.search(r"\$ cat targets\n((?:    .+\n)+)", section())[1]
    assert parsed(listed) == [
        (("127.0.0.1", 8001), 2, False),
        (("127.0.0.1", 8002), 1, False),
        (("127.0.0.1", 8009), 1, True),
    ]


def test_the_complaint_in_the_readme_is_true():
    with pytest.raises(ValueError) as caught:
        parse_targets(b"a:1\na:2\na:3\na:4 wieght=3", "'targets'")
    line = f"    minireactor: the old list of targets stays in use: {caught.value}\n"
    assert line in section()


def test_the_program_in_the_readme_runs(reactor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").write_text("10.0.0.3:80\n")
    names = {"reactor": reactor}
    program = re.search("```python\n(.*?)```", section(), re.DOTALL)[1]
    exec(program.replace("8080", "0"), names)
    assert [row["target"] for row in names["relay"].target_rows()] == ["10.0.0.3:80"]
    names["relay"].stop(0)


# Names in messages.


def test_a_message_names_only_the_first_of_many_targets():
    targets = [Target(("a", number)) for number in range(1, 8)]
    assert names(targets[:2]) == "a:1, a:2"
    assert names(targets) == "a:1, a:2, a:3, a:4, a:5 and 2 more"
