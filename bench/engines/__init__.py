"""The engines: how each is started, and whether it is here. Its servers are in the modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Twisted's names, and what an import line of a minireactor program has instead.
SUBSTITUTIONS = (
    ("from zope.interface import", "from minireactor.interfaces import"),
    ("twisted.internet", "minireactor"),
    ("twisted.protocols", "minireactor"),
)
BASE = "minireactor"  # whose ratio to each of the others is reported


class Engine(NamedTuple):
    name: str
    title: str
    start: str  # what the server's interpreter executes
    package: str = ""  # whose version is shown; without it, the engine cannot run
    interpreter: str = ""  # the command, unless it is this interpreter
    about: str = ""


ENGINES: Sequence[Engine] = (
    Engine(
        BASE,
        "minireactor",
        "import minireactor_style as server; server.main()",
        "minireactor",
        about="The Twisted program below, its import lines changed.",
    ),
    Engine(
        "twisted",
        "Twisted",
        "import bench.engines.twisted_style as server; server.main()",
        "twisted",
        about="Its default reactor.",
    ),
    Engine(
        "asyncio",
        "asyncio",
        "import bench.engines.asyncio_style as server; server.main()",
        about="Protocols, with pause_writing() and resume_writing().",
    ),
    Engine(
        "uvloop",
        "uvloop",
        "import bench.engines.asyncio_style as server; server.main_uvloop()",
        "uvloop",
        about="The same protocols.",
    ),
    Engine(
        "streams",
        "asyncio streams",
        "import bench.engines.streams_style as server; server.main()",
        about="Coroutines, with drain() after each write.",
    ),
    Engine(
        "raw",
        "raw",
        "import bench.engines.raw_style as server; server.main()",
        about="A bare loop over epoll with no abstraction at all: the ceiling.",
    ),
    Engine(
        "pypy",
        "minireactor on PyPy",
        "import minireactor_style as server; server.main()",
        "minireactor",
        "pypy3",
        "The same server as minireactor's, by an interpreter that compiles while it runs.",
    ),
)


def minireactor_source(twisted_source: str) -> str:
    """The Twisted servers' source, for minireactor."""
    for theirs, ours in SUBSTITUTIONS:
        twisted_source = twisted_source.replace(theirs, ours)
    return twisted_source
