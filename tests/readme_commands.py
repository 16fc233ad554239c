"""Find the commands of a README, and run them as they stand.

    python tests/readme_commands.py README.md

runs the commands of a README in their order, in a scratch folder that looks like a checkout. Ports
are those of the README. So the program runs itself again, in a network namespace of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 30.0  # until a command that should end, or a server that should listen, has failed
GRACE = 10.0  # seconds that a server may take to end after Ctrl-C
TIME_WAIT = "06"  # in /proc/net/tcp

# A network of its own, and processes that end with the first of them.
NAMESPACE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]

# What is not run: a pattern, and the reason.
NOT_RUN = {
    r"pip install": "needs a package index; .ci/run installs, test_packaging.py installs a wheel",
    r"python -m pytest( -m (slow|''))?$": "is the suite that runs this",
    r"^(ruff|mypy) ": "is a step of .ci/run",
    r"-m pytest bench": "takes a minute; the micro-benchmarks are no tests",
    r"-m bench\b(?! --list)": "takes minutes; test_bench.py measures in small",
    r"learn( \w+)? --check": "takes minutes; test_lessons.py does the same",
    r"learn build check": "judges what the reader has written; test_build.py runs it",
    r"--engine my-reactor": "runs what the reader has written; test_engine.py runs tiny",
    r"MINIREACTOR_DEBUG=1 python3 program\.py": "program.py is the reader's own",
}
FIRST = r"(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?(?:python3?|pip|printf|pytest|ruff|mypy|minireactor)\b"
# A command in a block of its own, or in a sentence. One in a sentence has to name the program.
COMMAND = re.compile(
    rf"^ {{4}}(?:\$ )?({FIRST} .*)$"
    r"|(?<!`)`((?:(?:\.venv/bin/)?python3? (?:-m |\w+\.py)|pip install )[^`]*)`",
    re.MULTILINE,
)
# A use of the command that a sentence names without `python3 -m minireactor`.
SUBCOMMANDS = ("serve", "proxy", "connect", "demo", "learn", "replay", "trace")
USE = re.compile(rf"`((?:minireactor )?(?:{'|'.join(SUBCOMMANDS)})(?: [^`]*)?)`")
PLACEHOLDER = re.compile(r"\b(?:FILE|FOLDER|NAMES?|NN?|PATH|LISTEN|TARGET|PORT)\b")
SAVE_AS = re.compile(r"Save this as `(\w+\.py)`.*?```python\n(.*?)```", re.DOTALL)


def commands_of(text: str) -> list[str]:
    """Return the commands of a README that a person can copy, in their order."""
    found = [match[1] or match[2] for match in COMMAND.finditer(text)]
    return [command.strip() for command in found if not PLACEHOLDER.search(command)]


def uses_of(text: str) -> list[list[str]]:
    """Return the words behind `minireactor` of each use, also of those with placeholders."""
    parts = [part for match in COMMAND.finditer(text) for part in (match[1] or match[2]).split("|")]
    found = [part.partition("-m minireactor ")[2] for part in parts]
    found += [match[1].replace("minireactor ", "", 1) for match in USE.finditer(text)]
    return [words for words in (shlex.split(part.partition(">")[0]) for part in found) if words]


def reason_not_to_run(command: str) -> str | None:
    """Return why a command is not run, None if it is run."""
    return next((why for what, why in NOT_RUN.items() if re.search(what, command)), None)


def is_lasting(command: str) -> bool:
    """Return whether a command goes on until Ctrl-C."""
    last = command.rpartition("|")[2]
    if "--stall" in last or re.match(r"\s*python3? \w+\.py$", last):
        return True
    return re.search(r"minireactor( (serve|proxy|demo|replay)|\.\S+_server)\b", last) is not None


def sockets() -> set[str]:
    """Return the two addresses of each TCP socket of this network, but of those in TIME_WAIT."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != TIME_WAIT:
                found.add(" ".join(fields[1:3]))
    return found


class Reader:
    """A person who types the commands of one README, in the scratch folder `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lasting: list[tuple[str, subprocess.Popen[bytes]]] = []
        for name in ("minireactor", "tests", "bench", "pyproject.toml", "README.md", ".ci"):
            if (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, module in (("python3", ""), ("python", ""), ("minireactor", " -m minireactor")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
            program.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):  # nobody looks at the browser of `demo`
            self.environment.pop(name, None)

    def run(self, command: str) -> None:
        """Run a command to its end, or until it has a socket if it goes on. SystemExit if not."""
        exercise = re.search(r"learn (\d+) .*--try (\S+)", command)
        if exercise:  # the README says: repair it
            self.run(f"python3 -m minireactor learn {exercise[1]} --solution > {exercise[2]}")
        before = sockets()
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )
        if not is_lasting(command):
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
            if status:
                sys.exit(f"ended with {status}: {command}")
            return
        self.lasting.append((command, process))
        deadline = time.monotonic() + SECONDS
        while not sockets() - before:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"has no socket: {command}")
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Press Ctrl-C in each terminal, the last first. SystemExit if a command takes it ill."""
        while self.lasting:
            command, process = self.lasting[-1]
            os.killpg(process.pid, signal.SIGINT)
            status = process.wait(GRACE)
            self.lasting.pop()
            if status not in (0, 130, -signal.SIGINT):
                sys.exit(f"ended with {status} after Ctrl-C: {command}")

    def close(self) -> None:
        """Kill what is left."""
        for _, process in self.lasting:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run_all(name: str) -> None:
    """Run the commands of a README, and print each. Needs a network of its own."""
    text = (ROOT / name).read_text(encoding="utf-8")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        for program, source in SAVE_AS.findall(text):
            (Path(folder) / program).write_text(source, encoding="utf-8")
        try:
            for command in commands_of(text):
                if reason_not_to_run(command) is None:
                    print(command, flush=True)
                    reader.run(command)
            reader.interrupt()
        finally:
            reader.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        run_all(sys.argv[2])
    else:
        program = [sys.executable, __file__, "--here", *sys.argv[1:]]
        os.execvp(NAMESPACE[0], [*NAMESPACE, *program])
