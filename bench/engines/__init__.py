"""The engines: how each is started, and what it needs. The modules here are the servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.engines import programs

# Twisted's names in the import lines of a program, and minireactor's names for the same.
SUBSTITUTIONS = (
    ("from zope.interface import", "from minireactor.interfaces import"),
    ("twisted.internet", "minireactor"),
    ("twisted.protocols", "minireactor"),
)
BASE = "minireactor"  # the ratios are this engine's figures to those of each other engine
COPYING = "minireactor-copy"  # as a proxy, this engine has rows of ratios too
CHECKOUT_MARK = "@"  # before the folder in the name of an engine from another checkout
SERVER, PROXY = "server", "proxy"  # the roles of an engine


class Engine(NamedTuple):
    """A server, a proxy, or both."""

    name: str
    title: str
    server: str = ""  # the Python code that runs the server
    package: str = ""  # must be installed; its version is shown
    interpreter: str = ""  # the command, unless it is this interpreter
    proxy: str = ""  # the Python code that runs the proxy
    program: str = ""  # a proxy that is a command of its own, ...
    command: Callable[[Path, int, int], list[str]] | None = None  # ... and its arguments
    version: str = ""  # the command's option that prints its version
    checkout: str = ""  # the folder with another minireactor package, which it imports instead
    nodelay: bool = True  # whether its connections have TCP_NODELAY on, as it makes them

    def is_a(self, role: str) -> bool:
        return bool(self.server if role == SERVER else self.proxy or self.program)


ENGINES: Sequence[Engine] = (
    # The Twisted program below, with its import lines changed. As a proxy, `minireactor proxy`.
    Engine(
        BASE,
        "minireactor",
        "import minireactor_style as server; server.main()",
        "minireactor",
        proxy="import bench.engines.proxies as proxy; proxy.minireactor()",
    ),
    Engine(
        COPYING,
        "minireactor --copy",
        package="minireactor",
        proxy="import bench.engines.proxies as proxy; proxy.minireactor('--copy')",
    ),
    # The default reactor. As a proxy, twisted.protocols.portforward.
    Engine(
        "twisted",
        "Twisted",
        "import bench.engines.twisted_style as server; server.main()",
        "twisted",
        proxy="import bench.engines.proxies as proxy; proxy.twisted()",
        nodelay=False,
    ),
    Engine(
        "asyncio",
        "asyncio",
        "import bench.engines.asyncio_style as server; server.main()",
    ),
    Engine(
        "uvloop",
        "uvloop",
        "import bench.engines.asyncio_style as server; server.main_uvloop()",
        "uvloop",
    ),
    Engine(
        "streams",
        "asyncio streams",
        "import bench.engines.streams_style as server; server.main()",
        proxy="import bench.engines.proxies as proxy; proxy.streams()",
    ),
    Engine(
        "coroutines",
        "minireactor coroutines",
        "import bench.engines.coroutine_style as server; server.main()",
        "minireactor",
    ),
    Engine("raw", "raw", "import bench.engines.raw_style as server; server.main()"),
    # The same server as minireactor's.
    Engine(
        "pypy",
        "minireactor on PyPy",
        "import minireactor_style as server; server.main()",
        "minireactor",
        "pypy3",
    ),
    # A process for each connection; the figures count all processes.
    Engine(
        "socat",
        "socat",
        program="socat",
        command=programs.socat,
        version="-V",
        nodelay=False,
    ),
    Engine(
        "haproxy",
        "HAProxy",
        program="haproxy",
        command=programs.haproxy,
        version="-v",
    ),
    Engine(
        "haproxy-tuned",
        "tuned HAProxy",
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
        checkout=str(folder),
    )


def minireactor_source(twisted_source: str) -> str:
    """Return the source of the Twisted servers, changed to import minireactor."""
    for theirs, ours in SUBSTITUTIONS:
        twisted_source = twisted_source.replace(theirs, ours)
    return twisted_source
