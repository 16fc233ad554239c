"""Proxies that are commands of their own: how each is started.

Each function takes a folder for configuration files, and two ports of 127.0.0.1: the one to listen
on and the target's. Each returns the command; `found` looks up its program.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.engines import serving

# Without a limit, HAProxy makes tables for as many connections as it may have descriptors.
MAX_CONNECTIONS = 400
TUNING = (
    "tune.bufsize 262144",
    "tune.pipesize 1048576",
    "option splice-request",
    "option splice-response",
)


def found(program: str) -> str | None:
    """Return the path of a program, or None. Debian has servers in /usr/sbin, often not in PATH."""
    return shutil.which(program) or shutil.which(program, path=os.defpath + ":/usr/sbin")


def socat(folder: Path, port: int, target: int) -> list[str]:
    listening = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog={serving.BACKLOG}"
    return ["socat", listening, f"TCP:127.0.0.1:{target}"]


def haproxy(folder: Path, port: int, target: int, tuning: tuple[str, ...] = ()) -> list[str]:
    own = [line for line in tuning if line.startswith("tune.")]
    options = [line for line in tuning if line not in own]
    lines = [
        "global",
        "nbthread 1",
        f"maxconn {MAX_CONNECTIONS}",
        *own,
        "defaults",
        "mode tcp",
        "timeout connect 10s",
        "timeout client 60s",
        "timeout server 60s",
        *options,
        "listen proxy",
        f"bind 127.0.0.1:{port} backlog {serving.BACKLOG}",
        f"server target 127.0.0.1:{target}",
    ]
    path = folder / f"haproxy-{port}.cfg"
    path.write_text("\n".join(lines) + "\n")
    return ["haproxy", "-db", "-f", str(path)]


def haproxy_tuned(folder: Path, port: int, target: int) -> list[str]:
    return haproxy(folder, port, target, TUNING)
