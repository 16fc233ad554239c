"""What the READMEs claim, held against the code."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import reading_order
from serve_support import Command, read_all
from support import connect

from minireactor import __version__, protocol
from minireactor.core import flow
from minireactor.lessons.catalogue import lessons
from minireactor.testing import StrictPushProducer, StringTransport

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "bench/README.md", "tests/README.md"]
READMES += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("minireactor/**/README.md")]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in READMES}
README = TEXTS["README.md"]
CORE = TEXTS["minireactor/core/README.md"]
CHANGES = (ROOT / "minireactor" / "CHANGELOG.md").read_text(encoding="utf-8")
RULES = "M1 M2 M3 P1 P2 P3 P4 U1 U2 E1 E2 E3 E4 E5 E6 E7 E8 C1 C2 R1 R2 R3 R4 B1 B2 B3 B4"
RULES += " T1 T2 T3 T4 T5 T6"


def block(text, marker, language):
    """Return the fenced block of that language behind the marker."""
    return re.search(f"{marker}.*?```{language}\n(.*?)```", text, re.DOTALL)[1]


def drawing():
    """Return the table of flow.py as a Mermaid diagram: an arrow for each row with an effect."""
    lines = ["stateDiagram-v2", f"    [*] --> {flow.NONE}"]
    for (state, event), (following, call) in flow.TRANSITIONS.items():
        if call or following != state:
            arrow = f"    {state} --> {following}: {event}"
            lines.append(f"{arrow} / {call}" if call else arrow)
    return "\n".join(lines) + "\n"


def test_the_diagram_is_the_table_of_flow():
    assert block(CORE, "the table of flow.py, drawn", "mermaid") == drawing()


@pytest.mark.parametrize("rule", RULES.split())
def test_each_rule_names_a_test_that_there_is(rule):
    row = re.search(rf"^\| {rule} \|.*\| `(\w+\.py)::(\w+)` \|$", CORE, re.MULTILINE)
    assert row is not None
    source = (ROOT / "tests" / row[1]).read_text(encoding="utf-8")
    assert f"def {row[2]}(" in source
    assert f"test_{rule}_" in row[2]


def links_of(name):
    """Return what a README links to below the root, as paths from there."""
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", TEXTS[name])
    return [Path(os.path.normpath(Path(name).parent / link)) for link in links]


@pytest.mark.parametrize("name", READMES)
def test_each_file_it_links_to_is_there(name):
    assert [link for link in links_of(name) if not (ROOT / link).exists()] == []


def test_each_readme_is_reached_from_the_first():
    reached, to_follow = set(), ["README.md"]
    while to_follow:
        name = to_follow.pop()
        reached.add(name)
        # A link to a folder shows the README of that folder.
        targets = {
            each.as_posix() for link in links_of(name) for each in (link, link / "README.md")
        }
        to_follow += targets & TEXTS.keys() - reached
    assert reached == set(READMES)


def test_the_list_of_changes_begins_with_this_version():
    assert re.search(r"^## (.+)$", CHANGES, re.MULTILINE)[1] == __version__


def test_each_new_path_in_the_list_of_changes_is_there():
    section = CHANGES.partition("### Modules that moved")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`.+) \| (`.+) \|$", section, re.MULTILINE)
    moved = [[re.findall(r"`([\w.]+)`", cell) for cell in row] for row in rows]
    for old, new in moved:
        if len(new) == 1 < len(old):  # a folder
            new = [f"{new[0]}.{name}" for name in old]
        assert len(old) == len(new) > 0
        assert [name for name in new if not is_module(name)] == []
    assert len(moved) > 5


def is_module(name):
    try:
        return importlib.util.find_spec(f"minireactor.{name}") is not None
    except ModuleNotFoundError:
        return False


def test_the_first_screen_is_enough_to_start_the_demo():
    screen = README.splitlines()[:24]
    assert "    python3 -m minireactor demo" in screen
    assert any("Python 3.9" in line for line in screen)


def test_the_first_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_the_line_counts_of_the_reading_order_are_true():
    assert len(reading_order.STEP.findall(README)) >= 5
    assert reading_order.TOTAL.search(README) and reading_order.HEART.search(README)
    wrong = "python3 tests/reading_order.py writes the true counts"
    assert reading_order.with_true_counts(README) == README, wrong


@pytest.mark.parametrize(
    "right, wrong", [(r"^\| 1 \| ", "| 1 | 9"), (r"/loop\.py\) ", "/loop.py) 9")]
)
def test_a_count_that_is_wrong_is_noticed(right, wrong):
    wrong = re.sub(right, wrong, README, flags=re.MULTILINE)
    assert wrong != README
    assert reading_order.with_true_counts(wrong) == README


def test_the_list_of_lessons_is_that_of_learn():
    found = re.findall(r"\| (\d+)\. ([^|]+?) \| \d+ (?=\|)", README)
    titles = [(str(lesson.number), lesson.title("en")) for lesson in lessons()]
    assert sorted(found, key=lambda row: int(row[0])) == titles


def test_the_answers_of_the_session_are_those_of_serve(closing):
    # given the server of the session, and what its client is shown to receive
    answers = re.search(r"connect 1234\n((?:    [^$\n].*\n)+)", README)[1].replace("    ", "")
    server = closing(Command("serve", "--seed", "1", "--port", "0", cwd=ROOT))
    server.listening()

    # when its client sends what the session sends
    with server.connect() as client:
        client.sendall(b"3\n")
        client.shutdown(socket.SHUT_WR)
        received = read_all(client)

    # then
    assert received.decode().replace("\r\n", "\n") == answers


def test_the_figures_it_names_are_those_of_the_benchmarks():
    text = TEXTS["bench/README.md"].partition("<!-- bench on loopback: end -->")[0]
    ratios = {}
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [row.strip("|").split("|") for row in table.splitlines()]
        heads, _, *rows = ([cell.strip() for cell in line] for line in lines)
        ratios.update({(row[0], peer): ratio for row in rows for peer, ratio in zip(heads, row)})
    found = re.findall(r"(\d\.\d\d) of (\w+)'s.*? in `([\w-]+)`", README)
    assert len(found) >= 4
    # A cell has the median, and the spread behind it.
    assert [(r, p, w) for r, p, w in found if ratios[w, p].split()[0] != r] == []


def test_the_server_of_your_own_is_short_and_runs(monkeypatch, reactor, closing):
    source = block(README, "A server of your own", "python")
    assert len(source.strip().splitlines()) <= 20
    ports = []
    listen = reactor.listenTCP
    source = source.replace("from minireactor import reactor\n", "").replace("8000", "0")
    monkeypatch.setattr(reactor, "listenTCP", lambda *a, **k: ports.append(listen(*a, **k)))
    monkeypatch.setattr(reactor, "run", lambda: None)
    exec(compile(source, "README.md", "exec"), {"reactor": reactor})
    client = closing(connect(ports[0]))
    client.sendall(b"hello\nworld\n")
    answer = b""
    client.setblocking(False)
    while len(answer) < 12:
        reactor.iterate(0.1)
        try:
            answer += client.recv(100)
        except BlockingIOError:
            continue
    assert answer == b"HELLO\nWORLD\n"


def test_the_stages_in_the_readme_join_a_producer_and_a_transport():
    source = block(TEXTS["minireactor/streams/README.md"], "chains stages", "python")
    transport = StringTransport()
    scope = {"transport": transport, "producer": StrictPushProducer(None)}
    exec(compile(source, "streams/README.md", "exec"), scope)
    scope["first"].write(b"x" * 5000)
    scope["first"].unregisterProducer()
    assert zlib.decompress(transport.value()) == b"x" * 5000
    assert transport.disconnecting


def test_the_names_to_port_from_twisted_are_there():
    rows = re.findall(r"`from minireactor\.(\w+) import (\w+)`", TEXTS["minireactor/README.md"])
    assert rows
    for module, names in rows:
        code = f"from minireactor.{module} import {names}"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert protocol.Factory and protocol.Protocol


def test_the_options_it_speaks_of_are_in_the_help():
    help_text = subprocess.run(
        [sys.executable, "-m", "minireactor", "serve", "--help"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    words = "random echo discard chargen module:name --high --grace -v --watch --metrics --record"
    for word in words.split():
        assert word in help_text
