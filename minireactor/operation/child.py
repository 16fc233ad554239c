"""Start another process of the same command, and notice when it is ready, has failed or has ended.

The process that starts the other one:

    command = same_command(arguments)
    child = Child(reactor, command, {"127.0.0.1:8080": sockets}, on_ready=..., on_failed=...)

The process that has been started, once it serves:

    parent().ready()

Both ends share a pair of connected sockets. The child has the number of its descriptor in a
variable of the environment. The kernel closes the child's end when the child ends, and the loop of
the parent notices that. So nothing here needs SIGCHLD, whose handler may belong to the application.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Callable

from minireactor.core.handler import Handler
from minireactor.operation.handover import passing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

    from minireactor.core.loop import Loop

READY_SECONDS = 30.0  # how long a child may take to start
# Seconds between two checks whether a child has ended. A child that has forked keeps the sockets
# connected through its own child, so the sockets alone do not tell.
CHECK_SECONDS = 1.0
FIRST_CHECK = 0.005  # seconds; the first check after the child's end of the sockets was closed

_INTERRUPT = {signal.SIGINT}
_VARIABLE = "MINIREACTOR_PARENT"  # the descriptor of the child's end
_READY = b"READY"
_ERROR = b"ERROR "
_MAX_LINE = 4096  # bytes of what a child says before it is ready


def same_command(argv: Sequence[str]) -> list[str]:
    """Return a command line that starts this program again, with the arguments `argv`.

    The program is started as this process was: as a script, as a zipapp, or with `-m`. A process
    that runs the command as a part of another program starts it with `-m`."""
    # The same options -X, -W, -I and the like.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    is_own_process = list(argv) == sys.argv[1:]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # A package that `-m` has started is "package.__main__". A zipapp or a folder is "__main__".
    if not is_own_process:
        program = ["-m", "minireactor"]
    elif spec is None or spec.name == "__main__":
        program = [os.path.abspath(sys.argv[0])]
    else:
        program = ["-m", spec.name.rpartition(".")[0] or spec.name]
    return [sys.executable, *flags, *program, *argv]


class Child(Handler):
    """A process that this one has started. Grammar of the calls:

    (on_ready on_ended) | on_failed

    command: the command line, see same_command().
    places: the listening sockets that the child gets; see handover.passing().
    variables: further variables for its environment.
    descriptors: further descriptors for the child.
    cwd: its current directory; None for that of this process.
    seconds: how long the child may take until it is ready. After that, it is killed.
    on_ready: called once the child says that it is ready.
    on_failed: called with the reason, a text, if the child was not ready before it ended.
    on_ended: called with the exit status of a child that was ready, -N after signal N.

    All calls come from the loop, after the child has been reaped. Raises OSError if the system
    cannot start the process."""

    __slots__ = (
        "_deadline",
        "_delay",
        "_error",
        "_on_ended",
        "_on_failed",
        "_on_ready",
        "_process",
        "_reactor",
        "_received",
        "_socket",
        "_timer",
        "is_ready",
    )

    internal = True

    def __init__(
        self,
        reactor: Loop,
        command: Sequence[str],
        places: Mapping[str, Sequence[socket.socket]] | None = None,
        *,
        variables: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
        cwd: str | None = None,
        seconds: float = READY_SECONDS,
        on_ready: Callable[[], object],
        on_failed: Callable[[str], object],
        on_ended: Callable[[int], object] = lambda status: None,
    ) -> None:
        passed, inherited = passing(places) if places else ({}, ())
        own, theirs = socket.socketpair()
        environment = {**os.environ, **passed, **(variables or {}), _VARIABLE: str(theirs.fileno())}
        try:
            with theirs, _without_interrupts():
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    pass_fds=(*inherited, *descriptors, theirs.fileno()),
                    cwd=cwd,
                )
        except BaseException:
            own.close()
            raise
        own.setblocking(False)
        super().__init__(own.fileno())
        self.is_ready = False
        self._reactor = reactor
        self._socket = own
        self._received = b""
        self._error = ""
        self._on_ready, self._on_failed, self._on_ended = on_ready, on_failed, on_ended
        self._delay = CHECK_SECONDS
        self._deadline = reactor.call_later_internal(
            seconds, functools.partial(self.kill, f"it was not ready within {seconds:g} s")
        )
        self._timer = reactor.call_later_internal(self._delay, self._check)
        self.reading = True
        reactor.attach(self)
        reactor.update_interest(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send_signal(self, number: int) -> None:
        """Send a signal to the process. Does nothing once the process has ended."""
        self._process.send_signal(number)

    def doRead(self) -> None:
        if not self._receive():
            # The process has probably ended: check soon.
            self._disconnect()
            self._delay = FIRST_CHECK
            self._timer.reset(self._delay)

    def _receive(self) -> bool:
        """Handle what the process has said. Return whether its end of the sockets is still open."""
        try:
            data = self._socket.recv(_MAX_LINE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, rest = (self._received + data).split(b"\n")
        self._received = rest[:_MAX_LINE]
        for line in lines:
            if line.startswith(_ERROR):
                self._error = line[len(_ERROR) :].decode("utf-8", "replace")
            elif line == _READY and not self._error and not self.is_ready:
                self.is_ready = True
                self._deadline.cancel()
                self._on_ready()
        return bool(data)

    def _check(self) -> None:
        """Reap the process if it has ended."""
        status = self._process.poll()
        is_connected = self._socket.fileno() != -1
        if status is None:
            if not is_connected:
                self._delay = min(self._delay * 2, CHECK_SECONDS)
            self._timer = self._reactor.call_later_internal(self._delay, self._check)
            return
        if is_connected:
            self._receive()  # a last line
            self._disconnect()
        if self.is_ready:
            self._on_ended(status)
            return
        if self._deadline.active():
            self._deadline.cancel()
        self._on_failed(self._error or f"it {how_it_ended(status)}")

    def kill(self, reason: str) -> None:
        """End the process at once. If it was not ready, on_failed gets the reason."""
        self._error = self._error or reason
        self._process.kill()

    def _disconnect(self) -> None:
        self._reactor.detach(self)
        self._socket.close()

    def close(self) -> None:
        """Close this end of the sockets, because the loop closes. The process goes on."""
        self._socket.close()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT for a while. A child that is started meanwhile begins with SIGINT blocked.

    Otherwise Ctrl-C on the terminal would end a child that is still loading with a traceback. The
    child lets SIGINT in when it makes its `Parent`: it has a handler then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(status: int) -> str:
    """Return how a process has ended, such as "was ended by SIGKILL"; -N stands for signal N."""
    if status >= 0:
        return f"has ended with status {status}"
    with contextlib.suppress(ValueError):  # a signal without a name
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


class Parent:
    """The process that has started this one, and waits until this one is ready.

    environ: the environment. Its variable about the parent is removed. Without that variable, or if
        it is not valid, nobody waits, and the methods do nothing.

    socket: connected with the parent, or None. End of input there means that the parent has ended.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self.socket: socket.socket | None = None
        number = environ.pop(_VARIABLE, "")
        with contextlib.suppress(ValueError, OSError, OverflowError):
            fd = int(number)
            os.set_inheritable(fd, False)
            self.socket = socket.socket(fileno=fd)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)  # see _without_interrupts()

    def ready(self) -> None:
        """Notify the parent that this process serves."""
        self._send(_READY)

    def failed(self, reason: str) -> None:
        """Notify the parent why this process cannot serve and is about to end."""
        text = " ".join(reason.split()).encode("utf-8", "backslashreplace")
        self._send(_ERROR + text[: _MAX_LINE - len(_ERROR) - 1])

    def _send(self, line: bytes) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):  # the parent has ended
                self.socket.sendall(line + b"\n")


@functools.cache
def parent() -> Parent:
    """Return the parent of this process, always the same object.

    The first call removes the variable from os.environ, so call it before any application code."""
    return Parent(os.environ)
