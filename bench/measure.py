"""Processes: servers, proxies and load generators, with their cores, CPU time, memory and ends.

CPU time is read from outside, from the clock that Linux keeps for each process, in nanoseconds. So
the measurement runs no code in a server. A system without this clock reports the CPU time of a
server only when the server has ended. Of this time, the part before the server was ready is
subtracted. The warm-up then counts too, and the memory of a workload is the server's peak.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import network
from bench.engines import BASE, PROXY, Engine, minireactor_source, programs, serving

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
TRIAL = b"hello\n"  # each proxy passes this on before it is measured


class RunFailed(Exception):
    """Why a run does not count: one line."""


class Session:
    """What all runs share: a folder, an environment, a network, cores, and the living children."""

    def __init__(self, timeout: float, net: network.Network = network.LOOPBACK) -> None:
        self.timeout = timeout  # seconds, of one run
        self.network = net
        self.children: set[Child] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = self.folder = Path(self._folder.name)
        self.numbers = itertools.count()
        self.complaints: list[str] = []  # what children have written to stderr
        source = (ROOT / "bench" / "engines" / "twisted_style.py").read_text()
        (folder / "minireactor_style.py").write_text(minireactor_source(source))
        self.environment = {
            **os.environ,
            # Modules are compiled once, into our own folder, whatever the user's settings are.
            "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
            "BENCH_HOST": net.host,
            "BENCH_SOURCES": net.sources,
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.server_cores, self.load_cores = split_cores()
        self.descriptors = raise_descriptor_limit()

    def environment_of(self, root: Path) -> dict[str, str]:
        """Return the environment of a child that imports `minireactor` and `bench` from `root`."""
        return {**self.environment, "PYTHONPATH": os.pathsep.join([str(root), str(self.folder)])}

    def root_of(self, engine: Engine) -> Path:
        """Return the folder from which the engine's servers import their packages.

        An engine from another checkout has that checkout's `minireactor`, but this `bench`. So
        both run the same programs, even if the other checkout does not have them yet."""
        if not engine.checkout:
            return ROOT
        root = self.folder / engine.name
        if not root.exists():
            root.mkdir()
            (root / BASE).symlink_to(Path(engine.checkout) / BASE)
            (root / "bench").symlink_to(ROOT / "bench")
        return root

    def connect(self, port: int) -> socket.socket:
        """Return a connection from the clients' namespace to a server."""
        with network.inside(self.network.clients):
            return socket.create_connection((self.network.host, port), self.timeout)

    def close(self) -> None:
        with signals.deferred():
            for child in list(self.children):
                child.end()
            self._folder.cleanup()


class Child:
    """A process that prints lines, and that can be answered on its stdin."""

    def __init__(
        self,
        session: Session,
        command: Sequence[str],
        cores: set[int],
        namespace: int | None,
        inherited: Sequence[int] = (),
        root: Path = ROOT,
    ) -> None:
        self.session = session
        self.deadline = time.monotonic() + session.timeout
        self.ended: Any = None  # its resource usage, when it has ended
        self._stderr = session.folder / f"stderr-{next(session.numbers)}"
        self._text = b""
        started_in = network.inside(namespace)
        with signals.deferred(), _running_on(cores), started_in, self._stderr.open("wb") as stderr:
            # Ctrl-C does not reach a child in a session of its own. end() kills the session.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=root,
                env=session.environment_of(root),
                start_new_session=True,
                pass_fds=inherited,
            )
            session.children.add(self)

    def line(self) -> str:
        """Return the next line of the child's output. Raises RunFailed if none comes in time."""
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
        """Write a line to the child's stdin. Raises RunFailed if the child has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except OSError:
            raise RunFailed("a process ended too early") from None

    def end(self) -> None:
        """Kill the child and what the child has forked, and wait for its end. Idempotent."""
        with signals.deferred():
            self._end()

    def _end(self) -> None:
        if self.ended is None:
            # Popen.kill() would reap a child that has ended, and lose its resource usage.
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except PermissionError:
                pass  # macOS raises this for a group in which all have ended
            _, self.process.returncode, self.ended = os.wait4(self.process.pid, 0)
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except OSError:
                    pass
            self.session.children.discard(self)
            text = self._stderr.read_text(errors="replace").strip()
            if text:
                self.session.complaints.append(text)
            self._stderr.unlink()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Server(Child):
    """A server that is ready, on `port`."""

    target: socket.socket | None = None  # a proxy's target: a load accepts from this socket

    def __init__(self, session: Session, engine: Engine, app: str, numbers: dict[str, int]) -> None:
        interpreter = shutil.which(engine.interpreter) if engine.interpreter else sys.executable
        start = engine.proxy if app == PROXY else engine.server
        pairs = [f"{name}={number}" for name, number in numbers.items()]
        pairs.append(f"lifetime={int(session.timeout) + 5}")
        super().__init__(
            session,
            [str(interpreter), "-c", start, app, *pairs],
            session.server_cores,
            session.network.server,
            root=session.root_of(engine),
        )
        try:
            _, port, cpu, peak = self.line().split()
        except BaseException:
            self.end()
            raise
        self.port = int(port)
        self._ready_cpu, self._ready_peak = float(cpu), int(peak)

    def result(self) -> list[float]:
        """Return the numbers that the server has measured itself, once it prints them."""
        return [float(number) for number in self.line().split()[1:]]

    def lateness(self) -> float:
        """Return the maximum lateness of the server's timer, in seconds; see `Lateness`."""
        self.process.send_signal(signal.SIGUSR1)
        return self.result()[0]

    def pids(self) -> list[int]:
        """Return the processes that serve."""
        return [self.process.pid]

    def cpu(self) -> float | None:
        """Return the server's CPU seconds until now, user and system; None without a clock.

        Waits up to 0.05 s until the server sleeps. The server's work after the last byte belongs to
        the workload. Besides, the clock of a running process is only as new as the last tick."""
        until = time.monotonic() + 0.05
        while any(map(_runs, self.pids())) and time.monotonic() < until:
            time.sleep(0.0005)
        return self._clock()

    def _clock(self) -> float | None:
        return cpu_clock(self.process.pid)

    def cpu_between(self, before: float | None, after: float | None) -> float:
        """Return the CPU seconds between two results of cpu(). Ends the server if one is None."""
        if before is not None and after is not None:
            return after - before
        self.end()
        return float(self.ended.ru_utime + self.ended.ru_stime) - self._ready_cpu

    def memory(self) -> tuple[int, int]:
        """Return the resident bytes now, and their peak until now."""
        found = [sizes for pid in self.pids() if (sizes := _memory(pid))]
        if not found:
            return self._ready_peak, self._ready_peak
        return sum(now for now, _ in found), sum(peak for _, peak in found)

    def peak(self) -> int:
        """Return the peak of the server's resident bytes. Ends the server if there is no /proc."""
        if Path("/proc/self/status").exists():
            return self.memory()[1]
        self.end()
        return int(self.ended.ru_maxrss)

    def _end(self) -> None:
        super()._end()
        if self.target is not None:
            self.target.close()


class Command(Server):
    """A proxy that is a program of its own, with all processes that it forks.

    The command `timeout` starts the program, and ends it if we cannot. Figures leave out `timeout`
    itself."""

    def __init__(self, session: Session, engine: Engine, port: int, target: int) -> None:
        assert engine.command is not None
        lifetime = str(int(session.timeout) + 5)
        program, *arguments = engine.command(session.folder, port, target)
        command = ["timeout", "--foreground", "--signal=KILL", lifetime]
        command += [str(programs.found(program)), *arguments]
        Child.__init__(self, session, command, session.server_cores, session.network.server)
        self.port = port
        self._ready_cpu, self._ready_peak = 0.0, 0

    def pids(self) -> list[int]:
        """Return all processes of its session but `timeout`; parents mostly before children."""
        leader = self.process.pid
        return [pid for pid in pids_of_session(leader) if pid != leader]

    def _clock(self) -> float | None:
        # A parent's times include its children that have ended: read the parent last.
        total = 0.0
        for pid in reversed(self.pids()):
            total += (cpu_clock(pid) or 0.0) + _cpu_of_ended_children(pid)
        return total


def proxy(session: Session, engine: Engine) -> Server:
    """Start the engine as a proxy; return it when it has passed on a message to its target.

    Raises RunFailed if it does not."""
    target = socket.create_server((HOST, 0), backlog=serving.BACKLOG)
    target_port = target.getsockname()[1]
    try:
        with _reserved_port() as port:
            if engine.command is not None:
                server: Server = Command(session, engine, port, target_port)
            else:
                numbers = {"port": port, "target": target_port}
                server = Server(session, engine, PROXY, numbers)
            server.target = target
            try:
                _try_out(server, target)
            except BaseException:
                server.end()
                raise
            return server
    except BaseException:
        target.close()
        raise


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserve a free port: inside the `with` block, the kernel gives it to no other socket.

    A socket with SO_REUSEADDR can still be bound to the port by its number."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, 0))
        yield sock.getsockname()[1]


def _try_out(server: Server, target: socket.socket) -> None:
    """Wait until the proxy listens, and have it pass on a message in both directions."""
    output = server.process.stdout
    assert output is not None
    while True:
        try:
            near = socket.create_connection((HOST, server.port))
            break
        except ConnectionRefusedError:
            if time.monotonic() > server.deadline:
                raise RunFailed(f"no answer within {server.session.timeout:.0f} s") from None
            if _readable(output.fileno(), 0.005):
                raise RunFailed("a process ended too early") from None
    with near:
        try:
            near.settimeout(server.session.timeout)
            target.settimeout(server.session.timeout)
            far, _ = target.accept()
            target.settimeout(None)
            with far:
                far.settimeout(server.session.timeout)
                for sender, receiver in ((near, far), (far, near)):
                    sender.sendall(TRIAL)
                    if receiver.recv(64) != TRIAL:
                        raise RunFailed("the proxy passes on other bytes than it receives")
        except OSError as error:
            raise RunFailed(f"the proxy does not work: {error}") from None


class Load(Child):
    """A load generator, which works in parts and waits before each of them."""

    def __init__(
        self, session: Session, name: str, numbers: dict[str, Any], server: Server
    ) -> None:
        numbers = {"port": server.port, **numbers}
        inherited = []
        if server.target is not None:
            inherited.append(server.target.fileno())
            numbers["listener"] = server.target.fileno()
        command = [sys.executable, "-m", "bench.load", name, json.dumps(numbers)]
        command.append(str(int(session.timeout) + 5))
        super().__init__(session, command, session.load_cores, session.network.clients, inherited)

    def await_mark(self) -> None:
        """Wait for the generator's pause before its next part. Raises RunFailed if it failed."""
        line = self.line()
        if line != "mark":
            raise RunFailed(line.partition(" ")[2] or line)

    def outcome(self) -> dict[str, Any]:
        """Return what the generator has measured. Raises RunFailed if it has failed."""
        word, _, rest = self.line().partition(" ")
        if word != "done":
            raise RunFailed(rest or word)
        found: dict[str, Any] = json.loads(rest)
        return found


def cpu_clock(pid: int) -> float | None:
    """Return the CPU seconds of a process with all its threads; None without such a clock.

    The clock is the one of clock_getcpuclockid(3), on Linux."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, see proc(5); [] if it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _runs(pid: int) -> bool:
    return _stat(pid)[:1] == ["R"]


def pids_of_session(leader: int) -> list[int]:
    """Return all processes of a session; parents mostly before children."""
    everyone = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return sorted(pid for pid in everyone if _session_of(pid) == leader)


def _session_of(pid: int) -> int:
    return int((_stat(pid) or [0] * 4)[3])


def _cpu_of_ended_children(pid: int) -> float:
    ticks = _stat(pid)[13:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> tuple[int, int] | None:
    """Return the resident bytes now, and their peak; None if the process has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        return int(sizes["VmRSS"].split()[0]) * 1024, int(sizes["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def _readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def split_cores() -> tuple[set[int], set[int]]:
    """Return one core for servers, the others for load; both empty where nothing can be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else (set(), set())


@contextmanager
def _running_on(cores: set[int]) -> Iterator[None]:
    """Move this process to these cores: a child that starts inside the block inherits them."""
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
    """Raise the limit as far as the system allows, for children too; return the limit."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        wanted = soft
    return wanted


class _Signals:
    """Turn SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt, but not while a child starts or ends.

    An exception between fork() and the entry in `children` would leave the child running."""

    def __init__(self) -> None:
        self.depth = 0
        self.due = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Handle the signals inside the `with` block, and give them back at its end."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.depth:
            self.due = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
        if self.due and not self.depth:
            self.due = False
            raise KeyboardInterrupt


signals = _Signals()


def installed(engine: Engine) -> str | None:
    """Return why this engine cannot run here, or None if it can."""
    if engine.name == "raw" and not hasattr(select, "epoll"):
        return "needs epoll"
    if engine.interpreter:
        return None if shutil.which(engine.interpreter) else f"no {engine.interpreter} here"
    for program in ("timeout", engine.program) if engine.program else ():
        if not programs.found(program):
            return f"no {program} here"
    if engine.program and not Path("/proc/self/stat").exists():
        return "needs /proc"
    if engine.package and importlib.util.find_spec(engine.package) is None:
        return "not installed"
    return None


def version(engine: Engine) -> str:
    """Return the version to show beside the engine's name: "" if it is part of Python."""
    if engine.interpreter:
        command = [
            str(shutil.which(engine.interpreter)),
            "-c",
            "import sys; print('.'.join(map(str, sys.pypy_version_info[:3])))",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip()
    if engine.program:
        done = subprocess.run(
            [str(programs.found(engine.program)), engine.version],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        found = re.search(r"version (\d+(?:\.\d+)*)", done.stdout)
        return found[1] if found else ""
    if engine.package == BASE:
        import minireactor

        return minireactor.__version__ if engine.name == BASE else ""
    return importlib.metadata.version(engine.package) if engine.package else ""


def machine() -> str:
    """Return the processor, cores and system: nothing that tells whose machine it is."""
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
