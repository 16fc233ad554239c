"""Every command of every README: it runs as it stands, or the reason why not is given."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import readme_commands
from readme_commands import NOT_RUN, ROOT, commands_of, reason_not_to_run, uses_of
from test_readme import READMES, TEXTS

from minireactor.cli import main

SAMPLE = """
`python3 -m minireactor serve echo` is a server. `minireactor trace FILE` converts.

    $ printf 'a\\n' | python3 -m minireactor connect 1234 --stall
    printed by the server
    .venv/bin/python -m bench --quick
"""


def has_namespaces():
    """Return whether this machine lets us have a network of our own."""
    if not (shutil.which("unshare") and shutil.which("ip") and shutil.which("bash")):
        return False
    done = subprocess.run([*readme_commands.NAMESPACE, "true"], capture_output=True)
    return done.returncode == 0


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.setattr(readme_commands, "sockets", set)  # those of this machine do not matter
    reader = readme_commands.Reader(tmp_path)
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def bench_help():
    """What `python -m bench --help` says."""
    pytest.importorskip("resource")  # which the benchmarks need
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout


def help_of(name, capsys):
    assert main([name, "--help"]) == 0
    return capsys.readouterr().out


def test_commands_are_found_in_blocks_and_in_sentences():
    assert commands_of(SAMPLE) == [
        "python3 -m minireactor serve echo",
        "printf 'a\\n' | python3 -m minireactor connect 1234 --stall",
        ".venv/bin/python -m bench --quick",
    ]


def test_uses_are_found_in_commands_and_in_sentences():
    expected = [["serve", "echo"], ["connect", "1234", "--stall"], ["trace", "FILE"]]
    assert uses_of(SAMPLE) == expected


@pytest.mark.parametrize(
    "command, lasting",
    [
        ("python3 -m minireactor serve", True),
        ("printf '1\\n' | python3 -m minireactor connect 1234 --stall", True),
        ("printf '1\\n' | python3 -m minireactor connect 1234", False),
        ("python3 shout.py", True),
        ("python3 -m minireactor learn 1", False),
        ("python3 -m minireactor.examples.echo_server", True),
        ("python3 -m minireactor.examples.two_styles", False),
    ],
)
def test_a_command_that_goes_on_until_ctrl_c_is_known(command, lasting):
    assert readme_commands.is_lasting(command) is lasting


def test_a_command_that_fails_is_noticed(reader):
    with pytest.raises(SystemExit, match="ended with 3: python3 -c 'exit"):
        reader.run("python3 -c 'exit(3)' | true")


def test_a_server_that_does_not_start_is_noticed(reader):
    with pytest.raises(SystemExit, match=r"has no socket: python3 none\.py"):
        reader.run("python3 none.py")


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_each_reason_not_to_run_is_needed(pattern):
    commands = [command for text in TEXTS.values() for command in commands_of(text)]
    assert any(re.search(pattern, command) for command in commands)


def test_the_linters_have_the_versions_that_ci_installs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    versions = re.findall(r"^(RUFF|MYPY)=(.+)$", script, re.MULTILINE)
    assert len(versions) == 2
    for name, version in versions:
        assert f"{name.lower()}=={version} " in TEXTS["tests/README.md"].replace("\n", " ")


@pytest.mark.parametrize("name", READMES)
def test_each_use_names_a_command_and_options_that_there_are(name, capsys):
    for command, *words in uses_of(TEXTS[name]):
        found = help_of(command, capsys)
        for option in (word for word in words if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", found), f"{command} {option}"


@pytest.mark.parametrize("name", READMES)
def test_each_option_in_a_sentence_is_one_of_a_command(name, capsys, bench_help):
    helps = [bench_help, *(help_of(each, capsys) for each in readme_commands.SUBCOMMANDS)]
    for option in re.findall(r"(?<!`)`(--[a-z0-9-]+)[^`]*`", TEXTS[name]):
        assert any(re.search(rf"(?<![\w-]){option}(?![\w-])", found) for found in helps), option


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="no unshare, ip and bash for a network of its own")
@pytest.mark.parametrize(
    "name", [n for n in READMES if any(not reason_not_to_run(c) for c in commands_of(TEXTS[n]))]
)
def test_the_commands_of_a_readme_run_as_they_stand(name):
    done = subprocess.run(
        [sys.executable, "tests/readme_commands.py", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = [command for command in commands_of(TEXTS[name]) if not reason_not_to_run(command)]
    assert done.stdout.splitlines() == run
