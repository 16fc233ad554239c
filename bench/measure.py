"""Processes: servers and load generators, their cores, their CPU and memory, their ends.

CPU is read from outside, by the clock that Linux keeps of each process, to the nanosecond: nothing
runs in a server for it. Where there is no such clock, the server's whole CPU is taken from its end,
less what it had used when it was ready; then warm-up counts, and a work's memory is its peak.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.engines import BASE, Engine, minireactor_source

ROOT = Path(__file__).resolve().parent.parent
SPARE_DESCRIPTORS = 200


class RunFailed(Exception):
    """A run that does not count, and why: one line."""


class Session:
    """What all runs share: a folder, an environment, cores, and the children that are alive."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds, of one run
        self.children: set[Child] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = self.folder = Path(self._folder.name)
        self.numbers = itertools.count()
        self.complaints: list[str] = []  # what children have said on stderr
        source = (ROOT / "bench" / "engines" / "twisted_style.py").read_text()
        (folder / "minireactor_style.py").write_text(minireactor_source(source))
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
            # Compiled once, into a place of our own, whatever the user's settings are.
            "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.server_cores, self.load_cores = split_cores()
        self.descriptors = raise_descriptor_limit()

    def close(self) -> None:
        with signals.held():
            for child in list(self.children):
                child.end()
            self._folder.cleanup()


class Child:
    """One process, that says lines on its output and may be answered on its input."""

    def __init__(self, session: Session, command: Sequence[str], cores: set[int]) -> None:
        self.session = session
        self.deadline = time.monotonic() + session.timeout
        self.ended: Any = None  # what the system says it has used in all
        self._said_wrong = session.folder / f"stderr-{next(session.numbers)}"
        self._text = b""
        with signals.held(), _running_on(cores), self._said_wrong.open("wb") as stderr:
            # In a session of its own: Ctrl-C reaches us alone, and we end it.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env=session.environment,
                start_new_session=True,
            )
            session.children.add(self)

    def line(self) -> str:
        """The next line that it says. RunFailed when none comes in time, or ever."""
        output = self.process.stdout
        assert output is not None
        while b"\n" not in self._text:
            left = self.deadline - time.monotonic()
            if left <= 0 or not _readable(output.fileno(), left):
                raise RunFailed(f"no answer within {self.session.timeout:.0f} s")
            data = os.read(output.fileno(), 1 << 20)
            if not data:
                raise RunFailed("a process ended too early")
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def answer(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except OSError:
            raise RunFailed("a process ended too early") from None

    def end(self) -> None:
        with signals.held():
            self._end()

    def _end(self) -> None:
        if self.ended is None:
            # Popen.kill() would collect a child that has ended already, and what it has used.
            os.kill(self.process.pid, signal.SIGKILL)
            _, self.process.returncode, self.ended = os.wait4(self.process.pid, 0)
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except OSError:
                    pass
            self.session.children.discard(self)
            text = self._said_wrong.read_text(errors="replace").strip()
            if text:
                self.session.complaints.append(text)
            self._said_wrong.unlink()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Server(Child):
    """A server that is ready, on `port`."""

    def __init__(self, session: Session, engine: Engine, app: str, numbers: dict[str, int]) -> None:
        interpreter = shutil.which(engine.interpreter) if engine.interpreter else sys.executable
        pairs = [f"{name}={number}" for name, number in numbers.items()]
        pairs.append(f"lifetime={int(session.timeout) + 5}")
        command = [str(interpreter), "-c", engine.start, app, *pairs]
        super().__init__(session, command, session.server_cores)
        try:
            said = self.line().split()
        except BaseException:
            self.end()
            raise
        self.port = int(said[1])
        self._ready_cpu, self._ready_peak = float(said[2]), int(said[3])

    def result(self) -> list[float]:
        return [float(number) for number in self.line().split()[1:]]

    def cpu(self) -> float | None:
        """Seconds, user and system, until now; None where only the end will tell.

        Waits for a moment until the server sleeps: what it does after the last byte belongs to the
        work, and the clock of a process that is running is as old as the last tick."""
        patience = time.monotonic() + 0.05
        while _runs(self.process.pid) and time.monotonic() < patience:
            time.sleep(0.0005)
        return cpu_clock(self.process.pid)

    def cpu_between(self, before: float | None, after: float | None) -> float:
        if before is not None and after is not None:
            return after - before
        self.end()
        return float(self.ended.ru_utime + self.ended.ru_stime) - self._ready_cpu

    def memory(self) -> tuple[int, int]:
        """Bytes resident now, and at the most until now."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return self._ready_peak, self._ready_peak
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        return int(sizes["VmRSS"].split()[0]) * 1024, int(sizes["VmHWM"].split()[0]) * 1024

    def peak(self) -> int:
        if Path("/proc/self/status").exists():
            return self.memory()[1]
        self.end()
        return int(self.ended.ru_maxrss)


class Load(Child):
    """A load generator, which works in parts: it waits before each of them."""

    def __init__(self, session: Session, name: str, numbers: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "bench.load", name, json.dumps(numbers)]
        command.append(str(int(session.timeout) + 5))
        super().__init__(session, command, session.load_cores)

    def at_mark(self) -> None:
        said = self.line()
        if said != "mark":
            raise RunFailed(said.partition(" ")[2] or said)

    def outcome(self) -> dict[str, Any]:
        said, _, rest = self.line().partition(" ")
        if said != "done":
            raise RunFailed(rest or said)
        found: dict[str, Any] = json.loads(rest)
        return found


def cpu_clock(pid: int) -> float | None:
    """The CPU seconds of a process, all threads of it, by clock_getcpuclockid(3); Linux only."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
    except OSError:
        return False


def _readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def split_cores() -> tuple[set[int], set[int]]:
    """One core for servers and the others for load; both empty where nothing can be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else (set(), set())


@contextmanager
def _running_on(cores: set[int]) -> Iterator[None]:
    """Be on these cores for a moment, so that a child that is started here inherits them."""
    if not cores:
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def raise_descriptor_limit() -> int:
    """As far as the system allows, for children as well; how far that is."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        wanted = soft
    return wanted


class _Signals:
    """SIGINT, SIGTERM and SIGHUP as KeyboardInterrupt, which is held back while a child is being
    started or ended: between fork and our knowing of it, nobody would end it."""

    def __init__(self) -> None:
        self.depth = 0
        self.due = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.depth:
            self.due = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
        if self.due and not self.depth:
            self.due = False
            raise KeyboardInterrupt


signals = _Signals()


# What is here.


def installed(engine: Engine) -> str | None:
    """Why this engine cannot run, or None."""
    if engine.name == "raw" and not hasattr(select, "epoll"):
        return "needs epoll"
    if engine.interpreter:
        return None if shutil.which(engine.interpreter) else f"no {engine.interpreter} here"
    if engine.package and importlib.util.find_spec(engine.package) is None:
        return "not installed"
    return None


def version(engine: Engine) -> str:
    """What to show beside its name: empty for what is part of Python."""
    if engine.interpreter:
        command = [
            str(shutil.which(engine.interpreter)),
            "-c",
            "import sys; print('.'.join(map(str, sys.pypy_version_info[:3])))",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip()
    if engine.name == BASE:
        import minireactor

        return minireactor.__version__
    return importlib.metadata.version(engine.package) if engine.package else ""


def machine() -> str:
    """The processor, cores and system: nothing that tells whose machine it is."""
    cores = os.cpu_count() or 1
    named = "cores" if cores > 1 else "core"
    return f"{_processor()}, {cores} {named}, {platform.system()} {_release()}"


def _release() -> str:
    return ".".join(platform.release().split("-")[0].split(".")[:2])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.machine() or "unknown processor"


def python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
