"""The shape of the package: imports point one way, the core stays small, importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minireactor

PACKAGE = Path(minireactor.__file__).parent

# Lowest first: a module imports only from those before it.
# fmt: off
ORDER = [
    "output", "address", "queues", "error", "failure", "log", "interfaces", "flow", "source",
    "buffer", "limits", "timers", "backlog", "triggers", "poller", "fork", "handler", "waker",
    "loop", "descriptors", "defer", "factory", "protocol", "linger", "endpoint", "sendfile", "tcp",
    "threads", "resolver", "connector", "port", "internet", "slices", "__init__",
    "basic", "streams", "testing",
    "keepalive", "apps", "serve", "splice", "hops", "proxy", "balance", "relay", "options",
    "lessons", "lessons.catalogue", "lessons.page", "lessons.runner", "lessons.check",
    "lessons.command",
    "view", "view.tap", "view.http", "view.metrics", "view.record", "view.trace", "view.screen",
    "view.terminal", "view.watch", "view.dashboard", "view.replay", "view.demo",
    "view.command", "cli", "__main__",
]
# fmt: on

# Each costs more time to load than the whole package does.
SLOW = {"asyncio", "concurrent", "dataclasses", "inspect", "typing_extensions", "unittest"}

FILES = {path.stem: path for path in PACKAGE.glob("*.py")}
for package in ("lessons", "view"):
    FILES.update((f"{package}.{path.stem}", path) for path in PACKAGE.glob(f"{package}/*.py"))
    FILES[package] = FILES.pop(f"{package}.__init__")
MODULES = sorted(FILES)


def source(module):
    return FILES[module].read_text(encoding="utf-8")


class Imports(ast.NodeVisitor):
    """What a module imports: `all`, and `eager` when it is loaded itself. Not what only type
    checkers are to see."""

    def __init__(self, module):
        self.all = set()
        self.eager = set()
        self._depth = 0
        self.visit(ast.parse(source(module)))

    def _found(self, name):
        self.all.add(name)
        if not self._depth:
            self.eager.add(name)

    def visit_Import(self, node):
        for alias in node.names:
            self._found(alias.name)

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"line {node.lineno}: import by the full name, from minireactor..."
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            self._found(name if name.partition(".")[2] in MODULES else node.module)

    def visit_If(self, node):
        if "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef


def own(names):
    """Which of our modules these names are."""
    found = {name.partition(".")[2] for name in names if name.startswith("minireactor.")}
    return found | ({"__init__"} if "minireactor" in names else set())


def in_fresh_interpreter(code):
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_has_its_place_in_the_order():
    missing = set(MODULES) - set(ORDER)
    assert not missing, f"put {', '.join(sorted(missing))} into ORDER, above all that it imports"
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_ones(module):
    assert module in ORDER, f"put {module} into ORDER, above all that it imports"
    lower = ORDER[: ORDER.index(module)]
    upward = own(Imports(module).all) - set(lower)
    assert not upward, f"{module} imports {', '.join(sorted(upward))}, which stand above it"


@pytest.mark.skipif(
    not hasattr(sys, "stdlib_module_names"), reason="this interpreter does not list its library"
)
@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_but_the_standard_library(module):
    foreign = {name.split(".")[0] for name in Imports(module).all} - {"minireactor"}
    assert foreign <= sys.stdlib_module_names


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("cli", "__main__")])
def test_a_module_imports_nothing_slow_before_it_needs_it(module):
    assert {name.split(".")[0] for name in Imports(module).eager}.isdisjoint(SLOW)


def test_only_the_command_knows_of_the_lessons():
    others = [name for name in MODULES if not name.startswith("lessons")]
    knowing = {name for name in others if any("lessons" in each for each in own(Imports(name).all))}
    assert knowing == {"cli"}


def test_no_module_is_called_reactor():
    # Importing it would overwrite the attribute of the package that is the reactor.
    assert "reactor" not in MODULES


OPEN_DESCRIPTORS = """
import os

def descriptors():
    found = set()
    for number in range(256):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.add(number)
    return found

"""


@pytest.mark.parametrize("module", ["minireactor", "every module"])
def test_importing_opens_no_descriptor_and_starts_no_thread(module):
    names = ["minireactor"]
    if module == "every module":
        names += [f"minireactor.{name}" for name in MODULES if not name.startswith("__")]
    code = (
        OPEN_DESCRIPTORS
        + "import threading\nbefore = descriptors()\n"
        + "".join(f"import {name}\n" for name in names)
        + "print(sorted(descriptors() - before), threading.active_count())"
    )
    assert in_fresh_interpreter(code) == "[] 1"


def test_the_default_reactor_is_made_at_first_use_and_opens_nothing_by_itself():
    code = OPEN_DESCRIPTORS + (
        "import minireactor, minireactor.internet\n"
        "before = descriptors()\n"
        "made = 'reactor' in vars(minireactor)\n"
        "from minireactor import reactor\n"
        "print(made, reactor is minireactor.reactor, sorted(descriptors() - before))"
    )
    assert in_fresh_interpreter(code) == "False True []"


def test_importing_leaves_the_logging_of_the_program_alone():
    code = (
        "import logging\nimport minireactor.internet\n"
        "logger = logging.getLogger('minireactor')\n"
        "print(logger.handlers, logging.getLogger().handlers, logger.level)"
    )
    assert in_fresh_interpreter(code) == "[] [] 0"
