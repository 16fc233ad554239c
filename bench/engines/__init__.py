"""The engines: how each is started, and whether it is here. Its servers are in the modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.engines import programs

# Twisted's names, and what an import line of a minireactor program has instead.
SUBSTITUTIONS = (
    ("from zope.interface import", "from minireactor.interfaces import"),
    ("twisted.internet", "minireactor"),
    ("twisted.protocols", "minireactor"),
)
BASE = "minireactor"  # whose ratio to each of the others is reported
COPYING = "minireactor-copy"  # and, among the proxies, this one's
CHECKOUT_MARK = "@"  # stands before the folder in the name of an engine from another checkout
SERVER, PROXY = "server", "proxy"  # what an engine may be


class Engine(NamedTuple):
    name: str
    title: str
    server: str = ""  # what the interpreter executes, to be a server
    package: str = ""  # whose version is shown; without it, the engine cannot run
    interpreter: str = ""  # the command, unless it is this interpreter
    about: str = ""
    proxy: str = ""  # what the interpreter executes, to be a proxy
    program: str = ""  # a proxy that is a command of its own, ...
    command: Callable[[Path, int, int], list[str]] | None = None  # ... and what starts it
    version: str = ""  # the option with which it tells its version
    checkout: str = ""  # the folder with another minireactor package, which it imports instead

    def is_a(self, role: str) -> bool:
        return bool(self.server if role == SERVER else self.proxy or self.program)


ENGINES: Sequence[Engine] = (
    Engine(
        BASE,
        "minireactor",
        "import minireactor_style as server; server.main()",
        "minireactor",
        about="The Twisted program below, its import lines changed. As a proxy, its command.",
        proxy="import bench.engines.proxies as proxy; proxy.minireactor()",
    ),
    Engine(
        COPYING,
        "minireactor --copy",
        package="minireactor",
        about="The proxy, told to move no byte by splice(2).",
        proxy="import bench.engines.proxies as proxy; proxy.minireactor('--copy')",
    ),
    Engine(
        "twisted",
        "Twisted",
        "import bench.engines.twisted_style as server; server.main()",
        "twisted",
        about="Its default reactor. As a proxy, twisted.protocols.portforward.",
        proxy="import bench.engines.proxies as proxy; proxy.twisted()",
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
        proxy="import bench.engines.proxies as proxy; proxy.streams()",
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
    Engine(
        "socat",
        "socat",
        about="A proxy in C: a process for each connection, all of which count.",
        program="socat",
        command=programs.socat,
        version="-V",
    ),
    Engine(
        "haproxy",
        "HAProxy",
        about="A proxy in C: TCP mode, one thread, nothing set beyond timeouts and a limit.",
        program="haproxy",
        command=programs.haproxy,
        version="-v",
    ),
    Engine(
        "haproxy-tuned",
        "tuned HAProxy",
        about=f"The same with {', '.join(programs.TUNING)}.",
        program="haproxy",
        command=programs.haproxy_tuned,
        version="-v",
    ),
)


def from_checkout(folder: Path) -> Engine:
    """Return the engine that runs the minireactor package in `folder`, another checkout.

    Raises ValueError if `folder` has no such package."""
    folder = folder.resolve()
    if not (folder / BASE / "__init__.py").is_file():
        raise ValueError(f"{str(folder)!r} has no package {BASE!r}; name a checkout's folder")
    base = ENGINES[0]
    return base._replace(
        name=f"{BASE}{CHECKOUT_MARK}{folder.name}",
        title=f"{base.title} in {folder.name}",
        about="The same programs with the package of another checkout.",
        checkout=str(folder),
    )


def minireactor_source(twisted_source: str) -> str:
    """The Twisted servers' source, for minireactor."""
    for theirs, ours in SUBSTITUTIONS:
        twisted_source = twisted_source.replace(theirs, ours)
    return twisted_source
