"""A process that another one starts: how the parent learns whether it is ready, or has ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
from support import PATIENCE, pump

import minireactor
from minireactor.operation import child as child_module
from minireactor.operation.child import Child, Parent, parent, same_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows passes no descriptors")

ROOT = Path(minireactor.__file__).parent.parent
SERVES = "from minireactor.operation.child import parent; import sys; parent().ready();"
FAILS = "from minireactor.operation.child import parent; parent()"


class Calls(list):
    """What a Child has called, and the child itself."""

    child = None


@pytest.fixture
def start(reactor, monkeypatch):
    """start(program, *arguments, **options) starts a program of Python; returns its Calls."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    every = []

    def start(program, *arguments, **options):
        calls = Calls()
        every.append(calls)
        calls.child = Child(
            reactor,
            [sys.executable, "-c", program, *map(str, arguments)],
            on_ready=lambda: calls.append("ready"),
            on_failed=lambda reason: calls.append(f"failed: {reason}"),
            on_ended=lambda status: calls.append(f"ended: {status}"),
            **options,
        )
        return calls

    yield start
    for calls in every:
        calls.child.send_signal(signal.SIGKILL)
        pump(reactor, lambda calls=calls: calls and calls[-1].startswith(("failed", "ended")))


def test_a_child_that_serves_is_ready_and_its_end_is_noticed(reactor, start):
    calls = start(f"{SERVES} import time; time.sleep(60)")
    pump(reactor, lambda: calls)
    assert calls == ["ready"]
    calls.child.send_signal(signal.SIGTERM)
    pump(reactor, lambda: len(calls) == 2)
    assert calls == ["ready", f"ended: {-signal.SIGTERM}"]
    assert reactor.handlers()[1:] == []  # the first one is the waker


def test_a_child_that_ends_right_after_it_was_ready_is_both(reactor, start):
    calls = start(f"{SERVES} sys.exit(3)")
    pump(reactor, lambda: len(calls) == 2)
    assert calls == ["ready", "ended: 3"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit(3)", "it has ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL"),
        (f"{FAILS}.failed('no\\nport'); 1 / 0", "no port"),
        (f"{FAILS}.failed('a'); parent().ready()", "a"),
    ],
    ids=["status", "signal", "says why", "error first"],
)
def test_a_child_that_ends_before_it_is_ready_has_failed(
    reactor, start, program, reason, monkeypatch
):
    with open(os.devnull, "w") as null:  # for the traceback
        monkeypatch.setattr(child_module.subprocess, "Popen", popen_with(stderr=null))
        calls = start(program)
    pump(reactor, lambda: calls)
    assert calls == [f"failed: {reason}"]


def popen_with(popen=subprocess.Popen, **more):
    return lambda *args, **options: popen(*args, **options, **more)


def test_a_child_that_is_not_ready_in_time_is_killed(reactor, start):
    calls = start("import time; time.sleep(60)", seconds=0.01)
    pump(reactor, lambda: calls)
    assert calls == ["failed: it was not ready within 0.01 s"]
    with pytest.raises(ProcessLookupError):
        os.kill(calls.child.pid, 0)


def test_the_end_is_noticed_although_a_fork_keeps_the_sockets_open(reactor, start, monkeypatch):
    monkeypatch.setattr(child_module, "CHECK_SECONDS", 0.02)
    near, far = socket.socketpair()
    with near:
        with far:
            program = f"{SERVES} import os; os.fork() or os.read(int(sys.argv[1]), 1)"
            calls = start(program, far.fileno(), descriptors=[far.fileno()])
        pump(reactor, lambda: len(calls) == 2)
        assert calls == ["ready", "ended: 0"]


def test_a_child_has_the_given_sockets_and_variables_and_nothing_else(reactor, start, tmp_path):
    out = tmp_path / "found"
    program = """
import json, os, socket, sys
names = ("MINIREACTOR_PARENT", "MINIREACTOR_SOCKETS", "MORE")
before = [name in os.environ for name in names]
from minireactor.operation.child import parent
from minireactor.operation.handover import Inherited
inherited = Inherited(os.environ)
(taken,) = inherited.take("here")
parent()
open_ones = []
for fd in range(3, 64):
    try:
        is_passed_on = os.get_inheritable(fd)
    except OSError:
        continue
    open_ones.append(is_passed_on)
after = [name in os.environ for name in names]
with open(sys.argv[1], "w") as file:
    json.dump([before, after, taken.getsockname()[1], open_ones, os.getcwd()], file)
parent().ready()
"""
    with socket.create_server(("127.0.0.1", 0)) as sock, open(os.devnull) as leak:
        os.set_inheritable(leak.fileno(), True)
        calls = start(
            program, out, places={"here": [sock]}, variables={"MORE": "1"}, cwd=str(tmp_path)
        )
        pump(reactor, lambda: len(calls) == 2)
        number = sock.getsockname()[1]
    assert calls == ["ready", "ended: 0"]
    before, after, port, open_ones, folder = json.loads(out.read_text())
    assert before == [True, True, True]
    assert after == [False, False, True]
    assert port == number
    assert open_ones == [False, False]  # the listening socket, and the one to the parent
    assert os.path.samefile(folder, tmp_path)


def test_a_child_is_not_interrupted_before_it_has_its_handler(reactor, start, tmp_path):
    calls = start(
        "import signal, sys; from minireactor.operation.child import parent\n"
        "mask = lambda: signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        f"print(mask(), parent() and mask(), file=open({str(tmp_path / 'masks')!r}, 'w'))"
    )
    pump(reactor, lambda: calls)
    assert (tmp_path / "masks").read_text() == "True False\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_command_that_cannot_be_started_raises_and_leaves_no_descriptor(reactor):
    reactor.open()
    before = set(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match="no-such-program"):
        Child(reactor, ["/no-such-program"], on_ready=list, on_failed=list)
    assert set(os.listdir("/dev/fd")) == before


def test_without_a_parent_nobody_is_notified():
    for environ in ({}, {"MINIREACTOR_PARENT": "x"}, {"MINIREACTOR_PARENT": "-1"}):
        nobody = Parent(environ)
        nobody.ready()
        nobody.failed("why")
        assert nobody.socket is None
        assert environ == {}


def test_a_parent_that_has_ended_does_not_disturb(closing):
    near, far = socket.socketpair()
    found = Parent({"MINIREACTOR_PARENT": str(os.dup(far.fileno()))})
    near.close()
    far.close()
    found.ready()
    found.failed("why")
    found.socket.close()


def test_the_parent_is_the_same_object_each_time():
    assert parent() is parent()


PRINT_COMMAND = """
import sys
from minireactor.operation.child import same_command
if "again" in sys.argv:
    print(sys.flags.optimize, sys.argv[1:])
else:
    import subprocess
    command = same_command([*sys.argv[1:]])
    sys.exit(subprocess.call([*command, "again"]))
"""


@pytest.mark.parametrize("way", ["script", "module", "zipapp", "folder"])
def test_the_same_command_runs_the_program_as_it_was_started(way, tmp_path):
    package = tmp_path / "source" / "minireactor_again"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(PRINT_COMMAND)
    zipapp.create_archive(package, tmp_path / "again.pyz")
    ways = {
        "script": ["source/minireactor_again/__main__.py"],
        "module": ["-m", "minireactor_again"],
        "zipapp": ["again.pyz"],
        "folder": ["source/minireactor_again"],
    }
    done = subprocess.run(
        [sys.executable, "-O", *ways[way], "serve", "a b"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'source'}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("1 ['serve', 'a b', 'again']\n", "")


def test_a_command_within_another_program_is_started_as_a_module():
    command = same_command(["serve", "echo"])  # this program is pytest
    assert command[0] == sys.executable
    assert command[-4:] == ["-m", "minireactor", "serve", "echo"]
