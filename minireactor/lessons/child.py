"""Run a learner's program in a child process: with its output as it comes, and with limits.

The child writes a traceback of all its threads when its time is over, so that a person can see in
which line a program hangs. The child has a session of its own: Ctrl-C reaches only the process that
waits, and `run` then ends the child and all that the child has started.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Callable, NamedTuple, Optional

LIMIT = 20.0  # seconds; the program of a lesson takes two, on a busy machine perhaps five
SLOW = 3.0  # seconds after which a person wants to know that something still happens
MAX_OUTPUT = 1 << 20  # bytes; nobody reads more, and a print in an endless loop makes much more
_GRACE = 2.0  # seconds for a child that is late to write its traceback
_ROOT = str(Path(__file__).parent.parent.parent)  # from where the program imports minireactor
_START = "from minireactor.lessons.child import main; main()"
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


class Frame(NamedTuple):
    """One line of the traceback of a program that was stopped."""

    file: str
    line: int
    function: str


class Ended(NamedTuple):
    """How a program has ended.

    status: its exit status, or None if it was stopped.
    lines: all lines of its output.
    reason: why it was stopped: "time", "output" (it printed too much) or "unheard" (`on_line`
        returned False). Empty if it ended by itself.
    frames: where its threads stood when its time was over, the main thread first, and of each
        thread the innermost call first.
    """

    status: Optional[int]
    lines: list[str]
    reason: str = ""
    frames: tuple[Frame, ...] = ()

    def stood_in(self, path: Path) -> Frame | None:
        """Return the innermost frame whose code is in the file `path`, or None."""
        wanted = os.path.realpath(path)
        return next((each for each in self.frames if os.path.realpath(each.file) == wanted), None)


def run(
    path: Path,
    arguments: Sequence[str] = (),
    *,
    on_line: Callable[[str], bool] = lambda line: True,
    on_slow: Callable[[], object] = lambda: None,
    limit: float | None = None,
    memory: int = 0,
) -> Ended:
    """Run a Python program to its end, and return how it ended.

    on_line: called with each line of its output, standard error included. If it returns False,
        nobody listens any more, and the program is stopped.
    on_slow: called once if the program still runs after SLOW seconds.
    limit: seconds after which the program is stopped. The default is LIMIT.
    memory: bytes of data, where the system can limit it. 0 is no limit.
    """
    limit = LIMIT if limit is None else limit
    with tempfile.TemporaryDirectory(prefix="minireactor-learn-") as folder:
        dump = Path(folder, "traceback")
        command = [sys.executable, "-c", _START, str(dump), str(limit), str(memory), str(path)]
        lines: list[str] = []
        with _started([*command, *arguments]) as process:
            try:
                reason = _listen(process, lines, on_line, on_slow, limit + _GRACE)
                if not reason:
                    process.wait()
            finally:
                stop(process)
        frames = _frames(dump)
    if frames and not reason:  # the child itself has noticed that its time is over
        reason = "time"
    return Ended(None if reason else process.returncode, lines, reason, frames)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the child, and where the system can all that the child has started."""
    # Not once it has been waited for: its number may belong to another process by then.
    if process.returncode is None:
        with contextlib.suppress(OSError):  # it has ended by itself just now
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


def _listen(
    process: subprocess.Popen[bytes],
    lines: list[str],
    on_line: Callable[[str], bool],
    on_slow: Callable[[], object],
    limit: float,
) -> str:
    """Collect the output until it ends. Return why the program has to be stopped, or ""."""
    assert process.stdout is not None
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=[process.stdout, chunks], daemon=True).start()
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    began = time.monotonic()
    slow: float | None = SLOW
    rest = ""
    size = 0
    while True:
        passed = time.monotonic() - began
        if slow is not None and passed >= slow:
            slow = None
            on_slow()
        if passed >= limit:
            return "time"
        try:
            chunk = chunks.get(timeout=min(limit, slow or limit) - passed)
        except queue.Empty:
            continue
        size += len(chunk)
        *whole, rest = (rest + decode(chunk, not chunk)).split("\n")
        if not chunk and rest:
            whole.append(rest)
        for line in whole:
            lines.append(line.rstrip("\r"))
            if not on_line(lines[-1]):
                return "unheard"
        if not chunk:
            return ""
        if size > MAX_OUTPUT:
            return "output"


def _read(stream: IO[bytes], chunks: queue.SimpleQueue[bytes]) -> None:
    """Put what can be read into the queue, and b"" at the end."""
    size = 0
    chunk = b"-"
    while chunk and size <= MAX_OUTPUT:
        try:
            chunk = os.read(stream.fileno(), 1 << 16)
        except (OSError, ValueError):  # the stream has been closed
            chunk = b""
        size += len(chunk)
        chunks.put(chunk)


def _frames(dump: Path) -> tuple[Frame, ...]:
    """Return the frames of all threads. The main thread comes last in the dump, and first here."""
    threads: list[list[Frame]] = []
    try:
        text = dump.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the child never got so far
        return ()
    for line in text.splitlines():
        found = _FRAME.match(line)
        if found:
            threads[-1].append(Frame(found[1], int(found[2]), found[3]))
        elif "(most recent call first" in line:
            threads.append([])
    return tuple(frame for frames in reversed(threads) for frame in frames)


# --- In the child -------------------------------------------------------------------------------


def main() -> None:
    """Run the program that the arguments name, as `python PROGRAM` does."""
    dump, limit, memory, path, *arguments = sys.argv[1:]
    sys.argv[:] = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    if memory != "0" and sys.implementation.name != "pypy":  # PyPy crashes at the limit
        _limit_memory(int(memory))
    with contextlib.suppress(AttributeError, RuntimeError):  # an interpreter that cannot
        import faulthandler

        # The descriptor stays open: threads may go on when the main thread has ended.
        descriptor = os.open(dump, os.O_WRONLY | os.O_CREAT)
        faulthandler.dump_traceback_later(float(limit), exit=True, file=descriptor)
    _execute(path)


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        # Not RLIMIT_AS, which also counts what malloc only reserves: 64 MiB for each thread.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def _execute(path: str) -> None:
    """Run the file as the main module. Print a traceback without the frames of this file."""
    module: Any = ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__
    sys.modules["__main__"] = module
    try:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        if isinstance(error, SyntaxError) and error.filename == path:
            trace = None
        traceback.print_exception(type(error), error, trace)
        sys.exit(1)
