"""The example units of systemd: they parse, and their command line is one of ours."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import minireactor
from minireactor.cli.options import parse

FOLDER = Path(minireactor.__file__).parent / "operation"
ANALYZE = shutil.which("systemd-analyze")


def unit(name):
    """Return the sections of a unit. Raises an exception if a line is no line of a unit."""
    parser = configparser.RawConfigParser(delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string((FOLDER / name).read_text())
    return parser


def command():
    """Return the options of the service's command line."""
    program, *arguments = shlex.split(unit("minireactor.service")["Service"]["ExecStart"])
    assert program.endswith("/minireactor")
    return parse(arguments)


def test_the_service_serves_the_socket_that_its_socket_unit_names():
    name = unit("minireactor.socket")["Socket"]["FileDescriptorName"]
    assert command().place == (f"systemd:{name}", 0)


def test_the_service_notifies_and_is_restarted_by_its_signal():
    service = unit("minireactor.service")["Service"]
    assert service["Type"] == "notify"
    assert shlex.split(service["ExecReload"])[1:] == ["-USR2", "$MAINPID"]


def test_systemd_waits_for_the_end_that_the_options_ask_for():
    options = command()
    timeout = float(unit("minireactor.service")["Service"]["TimeoutStopSec"])
    assert options.drain_delay + options.grace < timeout


@pytest.mark.skipif(ANALYZE is None, reason="no program systemd-analyze")
def test_systemd_knows_each_line_of_the_units():
    files = [str(FOLDER / f"minireactor.{kind}") for kind in ("service", "socket")]
    done = subprocess.run([ANALYZE, "verify", *files], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "minireactor" in line]
    missing = "/usr/local/bin/minireactor is not executable"
    assert [line for line in lines if missing not in line] == []
