"""The wheel and the source distribution: built, installed into an empty environment, and used."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from readme_commands import SUBCOMMANDS
from support import PATIENCE

from minireactor import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "minireactor"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows is not tested"),
    pytest.mark.skipif(importlib.util.find_spec("flit_core") is None, reason="flit_core builds it"),
    pytest.mark.skipif(importlib.util.find_spec("ensurepip") is None, reason="no pip to install"),
]


def run(*command, **options):
    """Return what a command prints. An AssertionError shows its errors if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, folder):
    """Build a "wheel" or an "sdist" of this checkout; return its path."""
    code = f"from flit_core import buildapi; print(buildapi.build_{kind}({str(folder)!r}))"
    return folder / run(sys.executable, "-c", code, cwd=ROOT).split()[-1]


class Installed:
    """An environment with nothing but pip and minireactor, in `folder`."""

    def __init__(self, kind, folder):
        self.folder = folder
        self.environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
        self.archive = build(kind, folder)
        run(sys.executable, "-m", "venv", folder / "venv", env=self.environment)
        # pip builds a source distribution before it installs it: by our flit_core, no network.
        backend = Path(importlib.util.find_spec("flit_core").origin).parent
        shutil.copytree(backend, folder / "backend" / "flit_core")
        options = ["--quiet", "--no-index", "--no-build-isolation", "--no-cache-dir"]
        environment = {**self.environment, "PYTHONPATH": str(folder / "backend")}
        install = [self.program("python"), "-m", "pip", "install", *options, self.archive]
        run(*install, env=environment)

    def program(self, name):
        return str(self.folder / "venv" / "bin" / name)

    def run(self, name, *arguments, **options):
        """Return what an installed program prints, far from the checkout."""
        command = [self.program(name), *arguments]
        return run(*command, cwd=self.folder, env=self.environment, **options)


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request, tmp_path_factory):
    return Installed(request.param, tmp_path_factory.mktemp(request.param))


def files_in(package):
    """Return the files of a package, but for what Python has compiled."""
    found = (path for path in package.rglob("*") if path.is_file())
    return {path.relative_to(package) for path in found if path.suffix != ".pyc"}


def test_every_file_of_the_package_is_installed(installed):
    where = installed.run("python", "-c", "import minireactor; print(minireactor.__file__)")
    package = Path(where.strip()).parent
    assert installed.folder in package.parents
    assert files_in(package) == files_in(PACKAGE)


def test_the_version_is_that_of_the_package(installed):
    assert installed.run("minireactor", "--version") == f"minireactor {__version__}\n"
    assert f"-{__version__}" in installed.archive.name


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_each_command_has_its_help(installed, command):
    usage = installed.run("minireactor", command, "--help")
    assert usage.startswith(f"usage: minireactor {command} ")


def test_a_client_gets_what_it_asks_the_server_for(installed):
    command = [installed.program("minireactor"), "serve", "--port", "0", "--seed", "1"]
    server = subprocess.Popen(
        command, cwd=installed.folder, env=installed.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        port = re.search(r":(\d+),", server.stdout.readline())[1]
        answer = installed.run("minireactor", "connect", port, input="3\n", timeout=PATIENCE)
    finally:
        server.kill()
        server.communicate()
    assert answer.splitlines()[1:] == ["1343", "8475", "7638"]


def test_a_lesson_runs(installed):
    assert installed.run("minireactor", "learn", "1", "--program").startswith('"""')
    assert len(installed.run("minireactor", "learn", "1", "--lang", "en")) > 2000


def test_the_source_distribution_holds_tests_and_benchmarks(tmp_path):
    archive = build("sdist", tmp_path)
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for folder in ("tests", "bench", ".ci"):
        paths = {f"{folder}/{path.as_posix()}" for path in files_in(ROOT / folder)}
        assert paths - names == set()
    assert {"README.md", "pyproject.toml"} <= names
