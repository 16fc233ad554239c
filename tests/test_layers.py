"""The layers: imports point downwards, no import goes in a circle, importing does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import reading_order

import minireactor

PACKAGE = Path(minireactor.__file__).parent

# Lowest first: a module imports from its own folder, and from those of lower levels.
LEVELS = [
    {"address", "defer", "error", "failure", "interfaces", "log"},
    {"core"},
    {"protocol", "tiny", "transports"},
    {
        "__init__",
        "basic",
        "coroutines",
        "debugging",
        "endpoints",
        "engine",
        "internet",
        "simulation",
        "stdio",
        "streams",
        "task",
        "testing",
    },
    {"serve"},
    {"proxy"},
    {"lessons", "view"},
    {"operation"},
    {"__main__", "cli"},
]

MAX_LINES = 450  # of a file, so that it can be read in one sitting
# The contract is one text. It is looked up by rule, not read from the first line to the last.
LONG = {"interfaces.py"}

# Each costs more time to load than the whole package does.
SLOW = {"asyncio", "concurrent", "dataclasses", "inspect", "typing_extensions", "unittest"}


def name_of(path):
    """Return the dotted name of a module below the package, or of a folder for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)


# The programs of the lessons, and the examples, are for people to read.
FILES = {
    name_of(path): path
    for path in PACKAGE.rglob("*.py")
    if not re.search(r"lessons/(build/)?[0-9]|examples/", path.as_posix())
}
MODULES = sorted(FILES)


def source(module):
    return FILES[module].read_text(encoding="utf-8")


class Imports(ast.NodeVisitor):
    """The imports of a module: `all`, type checkers' included, and `eager`, made when it loads."""

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
        # What only type checkers import is read by people as well.
        for_type_checkers = "TYPE_CHECKING" in ast.dump(node.test)
        self._depth += for_type_checkers
        self.generic_visit(node)
        self._depth -= for_type_checkers

    def visit_FunctionDef(self, node):
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef


def own(names):
    """Return which of these names are modules of ours."""
    found = {name.partition(".")[2] for name in names if name.startswith("minireactor.")}
    return found | ({"__init__"} if "minireactor" in names else set())


def in_fresh_interpreter(code):
    """Run code in a new interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def level_of(module):
    """Return the level of a module. Raises KeyError if its folder is on no level."""
    top = module.partition(".")[0]
    for number, folders in enumerate(LEVELS):
        if top in folders:
            return number
    raise KeyError(f"put {top!r} on one of the LEVELS, above all that it imports")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_level_and_lower_ones(module):
    level = level_of(module)
    upward = {name for name in own(Imports(module).all) if level_of(name) > level}
    assert not upward, f"{module} imports {', '.join(sorted(upward))}, which stand above it"


def test_no_imports_go_in_a_circle():
    imports = {module: own(Imports(module).all) & set(MODULES) for module in MODULES}
    # What imports nothing that is left is taken away, again and again.
    while True:
        done = {module for module, names in imports.items() if not names & set(imports)}
        if not done:
            break
        imports = {module: names for module, names in imports.items() if module not in done}
    assert imports == {}


@pytest.mark.skipif(
    not hasattr(sys, "stdlib_module_names"), reason="this interpreter does not list its library"
)
@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_but_the_standard_library(module):
    foreign = {name.split(".")[0] for name in Imports(module).all} - {"minireactor"}
    assert foreign <= sys.stdlib_module_names


@pytest.mark.parametrize("module", [name for name in MODULES if level_of(name) < level_of("cli")])
def test_a_module_imports_nothing_slow_before_it_needs_it(module):
    assert {name.split(".")[0] for name in Imports(module).eager}.isdisjoint(SLOW)


# What the heart of the reading order imports from outside core and transports: two to read.
TO_READ = {"error", "failure"}
# Three whose names say enough: a line of the log, an address, a result that is not there yet.
NAMED_ONLY = {"log", "address", "defer"}


def outside(module, *folders):
    """Return the modules of ours that a module imports from other folders than these."""
    names = own(Imports(module).all)
    return {name for name in names if name.partition(".")[0] not in folders}


@pytest.mark.parametrize("module", [name for name in MODULES if level_of(name) == level_of("core")])
def test_reading_the_core_needs_nothing_outside_but_error_and_failure(module):
    assert outside(module, "core") <= TO_READ | {"log"}


def test_reading_the_heart_needs_nothing_outside_but_error_and_failure():
    readme = reading_order.README.read_text(encoding="utf-8")
    steps = {step[1]: step[3] for step in reading_order.STEP.finditer(readme)}
    files = [
        file for n in reading_order.HEART_STEPS for file in reading_order.places_of_step(steps[n])
    ]
    modules = [name_of(file) for file in files]
    assert {"core.loop", "core.flow", "transports.connection"} <= set(modules)
    needed = {each for name in modules for each in outside(name, "core", "transports")}
    assert needed <= TO_READ | NAMED_ONLY


@pytest.mark.slow
def test_only_the_command_knows_of_the_lessons():
    others = [name for name in MODULES if not name.startswith("lessons")]
    knowing = {name for name in others if any("lessons" in each for each in own(Imports(name).all))}
    assert {name.partition(".")[0] for name in knowing} == {"cli"}


def test_no_file_is_too_long_to_read_in_one_sitting():
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.*")
        if path.suffix in (".py", ".js", ".css")
    }
    assert {"core/loop.py", "view/web/page/texts.js"} <= set(lengths)
    too_long = {name: count for name, count in lengths.items() if count > MAX_LINES}
    assert set(too_long) == LONG, f"more than {MAX_LINES} lines: split by what the parts do"


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


@pytest.mark.slow
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
