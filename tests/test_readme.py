"""What the README claims, held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from support import connect

from minireactor import protocol
from minireactor.core import flow
from minireactor.testing import StrictPushProducer, StringTransport

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RULES = "M1 M2 M3 P1 P2 P3 P4 U1 U2 E1 E2 E3 E4 E5 E6 E7 E8 C1 C2 R1 R2 R3 R4 B1 B2 B3 B4"
RULES += " T1 T2 T3 T4 T5 T6"


def block(marker, language):
    """The fenced block of that language behind the marker."""
    return re.search(f"{marker}.*?```{language}\n(.*?)```", README, re.DOTALL)[1]


def drawing():
    """The table of flow.py as a Mermaid diagram: rows that do anything, one arrow each."""
    lines = ["stateDiagram-v2", f"    [*] --> {flow.NONE}"]
    for (state, event), (following, call) in flow.TRANSITIONS.items():
        if call or following != state:
            arrow = f"    {state} --> {following}: {event}"
            lines.append(f"{arrow} / {call}" if call else arrow)
    return "\n".join(lines) + "\n"


def test_the_diagram_is_the_table_of_flow():
    assert block("the table of flow.py, drawn", "mermaid") == drawing()


@pytest.mark.parametrize("rule", RULES.split())
def test_each_rule_names_a_test_that_there_is(rule):
    row = re.search(rf"^\| {rule} \|.*\| `(\w+\.py)::(\w+)` \|$", README, re.MULTILINE)
    assert row is not None
    source = (ROOT / "tests" / row[1]).read_text(encoding="utf-8")
    assert f"def {row[2]}(" in source
    assert f"test_{rule}_" in row[2]


def test_each_file_it_links_to_is_there():
    links = re.findall(r"\]\(([\w./]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_server_of_your_own_is_short_and_runs(monkeypatch, reactor, closing):
    source = block("A server of your own", "python")
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


def test_the_pieces_in_between_join_a_producer_and_a_transport():
    source = next(
        code for code in re.findall("```python\n(.*?)```", README, re.S) if "pipe(" in code
    )
    transport = StringTransport()
    scope = {"transport": transport, "producer": StrictPushProducer(None)}
    exec(compile(source, "README.md", "exec"), scope)
    scope["first"].write(b"x" * 5000)
    scope["first"].unregisterProducer()
    assert zlib.decompress(transport.value()) == b"x" * 5000
    assert transport.disconnecting


def test_the_names_to_port_from_twisted_are_there():
    for module, names in re.findall(r"`from minireactor\.(\w+) import (\w+)`", README):
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
