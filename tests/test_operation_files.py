"""The example files of `minireactor/operation`: they can be read, and name options that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest
from serve_support import Command
from support import PATIENCE

import minireactor
from minireactor.cli import options

FOLDER = Path(minireactor.__file__).parent / "operation"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is missing")
def test_haproxy_accepts_its_configuration_without_a_warning():
    command = ["haproxy", "-c", "-f", str(FOLDER / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout.strip()) == (0, "Configuration file is valid")
    assert done.stderr == ""


# What the README tells an operator to watch.


@pytest.fixture
def watched():
    """The lines of the table in the README, as pairs of the first column's parts."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What to watch")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    return [part for each in first for part in re.findall(r"`minireactor_\w+`|\"[^\"]+\"", each)]


def test_the_lines_of_the_log_that_the_readme_names_are_written(watched):
    sources = [path.read_text(encoding="utf-8") for path in FOLDER.parent.rglob("*.py")]
    lines = [part.strip('"') for part in watched if part.startswith('"')]
    assert len(lines) > 4
    assert [line for line in lines if not any(line in source for source in sources)] == []


@pytest.mark.slow
def test_the_figures_that_the_readme_names_are_served(watched, tmp_path):
    command = Command(*["proxy", "0", "1", "--workers", "2", "--metrics", "0"], cwd=tmp_path)
    try:
        port = int(re.search(r":(\d+)/metrics", command.line_with("metrics"))[1])
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            served = set(re.findall(r"^minireactor_\w+", answer.read().decode(), re.MULTILINE))
    finally:
        command.close()
    figures = {part.strip("`") for part in watched if part.startswith("`")}
    assert len(figures) > 5
    assert figures - served == set()


# A reader of the YAML that the manifest uses.


def documents(text):
    """Return the documents of a file: mappings, lists, and text as it stands.

    Knows blocks of mappings and lists, lists in brackets and comments. Raises ValueError for all
    else, such as a tab, a key that comes twice, or a wrong indentation."""
    found = []
    for part in re.split(r"^---$", text, flags=re.MULTILINE):
        lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in part.splitlines()]
        lines = [line for line in lines if line]
        found.append(_block(lines, 0))
        if lines:
            raise ValueError(f"wrong indentation: {lines[0]!r}")
    return found


def _indentation(line):
    return len(line) - len(line.lstrip(" "))


def _block(lines, indentation):
    """Take a mapping or a list with this indentation off the lines, and return it."""
    items, mapping = [], {}
    while lines and _indentation(lines[0]) == indentation:
        line = lines.pop(0).strip(" ")
        if line.startswith("- "):
            if re.match(r"- [\w-]+:( |$)", line):  # a mapping that begins on this line
                lines.insert(0, " " * (indentation + 2) + line[2:])
                items.append(_block(lines, indentation + 2))
            else:
                items.append(_scalar(line[2:]))
            continue
        match = re.fullmatch(r"([A-Za-z]+):(?: (.+))?", line)
        if match is None or match[1] in mapping:
            raise ValueError(f"not a new key and a value: {line!r}")
        deeper = _indentation(lines[0]) if lines else 0
        if match[2]:
            mapping[match[1]] = _scalar(match[2])
        elif deeper > indentation:
            mapping[match[1]] = _block(lines, deeper)
        else:
            raise ValueError(f"no value: {line!r}")
    if bool(items) == bool(mapping):
        raise ValueError("neither a mapping nor a list")
    return items or mapping


def _scalar(text):
    if text.startswith("["):
        return json.loads(text)
    if not re.fullmatch(r"[\w./=:-]+", text) or text.endswith(":"):
        raise ValueError(f"not plain text: {text!r}")
    return text


@pytest.mark.parametrize(
    "text",
    ["a: b\na: c", "a:\n\tb: c", "a: b\n  c: d", "a:\nb: c", "a: {b: c}", "- a\nb: c", "a", "- a:"],
)
def test_the_reader_is_strict(text):
    with pytest.raises(ValueError):
        documents(text)


def test_the_reader_knows_mappings_and_lists():
    text = 'a: b # c\nd:\n  - e: f\n    g: ["h"]\n  - i\n---\nj:\n  k: 1\n'
    assert documents(text) == [{"a": "b", "d": [{"e": "f", "g": ["h"]}, "i"]}, {"j": {"k": "1"}}]


# The manifest.


@pytest.fixture
def manifest():
    """The Deployment, the Service, the container, and the options of its command."""
    deployment, service = documents((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python3", "-m", "minireactor"]
    return deployment["spec"], service["spec"], container, options.parse(container["args"])


def test_the_manifest_is_what_another_reader_reads():
    yaml = pytest.importorskip("yaml")
    text = (FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")
    assert list(yaml.load_all(text, Loader=yaml.BaseLoader)) == documents(text)


def test_the_service_leads_to_the_port_that_the_command_listens_on(manifest):
    deployment, service, container, options = manifest
    ports = {port["name"]: int(port["containerPort"]) for port in container["ports"]}
    labels = deployment["template"]["metadata"]["labels"]

    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    assert ports == {"clients": options.port, "metrics": options.metrics[1]}
    assert service["ports"][0]["targetPort"] == "clients"
    assert options.host == options.metrics[0] == "0.0.0.0"


def test_the_manifest_leaves_enough_time_to_drain(manifest):
    deployment, _, container, options = manifest
    seconds = int(deployment["template"]["spec"]["terminationGracePeriodSeconds"])
    assert seconds > options.drain_delay + options.grace
    probe = container["readinessProbe"]
    assert options.drain_delay > 2 * int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@pytest.mark.slow
def test_the_probes_ask_for_paths_that_the_command_serves(manifest, tmp_path):
    _, _, container, _ = manifest
    free = {"--port=7000": "--port=0", "--metrics=0.0.0.0:9100": "--metrics=127.0.0.1:0"}
    arguments = [free.pop(each, each) for each in container["args"]]
    assert not free
    command = Command(*arguments, cwd=tmp_path)
    try:
        command.listening()
        port = int(re.search(r":(\d+)/metrics", command.line())[1])
        for name in ("readinessProbe", "livenessProbe"):
            get = container[name]["httpGet"]
            assert get["port"] == "metrics"
            with urlopen(f"http://127.0.0.1:{port}{get['path']}", timeout=PATIENCE) as answer:
                assert answer.status == 200
    finally:
        command.close()


def test_the_container_has_no_rights(manifest):
    deployment, _, container, _ = manifest
    assert deployment["template"]["spec"]["securityContext"]["runAsNonRoot"] == "true"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": "false",
        "readOnlyRootFilesystem": "true",
        "capabilities": {"drop": ["ALL"]},
    }
