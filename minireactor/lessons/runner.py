"""Running a program in a process of its own, with its output as it comes and a limit of time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, NamedTuple

LIMIT = 20.0  # seconds; a lesson's program takes two, on a busy machine perhaps five
_ROOT = str(Path(__file__).parent.parent.parent)  # from where the program imports minireactor


class Run(NamedTuple):
    """How it ended: its exit status, None if it had to be stopped; all lines of its output."""

    status: int | None
    lines: list[str]


def run(path: Path, on_line: Callable[[str], bool] = lambda line: True) -> Run:
    """Run a Python program to its end, and call `on_line` with each line that it prints, to
    standard error too. When that returns False, nobody listens any more, and the program ends.

    It has a session of its own: a Ctrl-C is for whoever waits here, and what it has started ends
    with it."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    lines: list[str] = []
    stopped = threading.Event()
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:

        def stop() -> None:
            # Not once it has been waited for: its number may be somebody else's by then.
            if process.returncode is None:
                stopped.set()
                with contextlib.suppress(OSError):  # it has ended by itself just now
                    os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(LIMIT, stop)
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip("\n"))
                if not on_line(lines[-1]):
                    break
            else:
                process.wait()
        finally:
            timer.cancel()
            stop()
    return Run(None if stopped.is_set() else process.returncode, lines)
