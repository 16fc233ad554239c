"""Replace a process by a successor, so that no client is refused and no connection is cut off.

The successor is a process of the same command. It inherits the listening sockets and says that it
is ready. Both processes accept from the same queues until the old one stops accepting. The queues
live as long as one process has the sockets, so a client that waits there is served.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Callable

from minireactor.operation.child import READY_SECONDS, Child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.core.loop import Loop
    from minireactor.operation.listening import Listening


class Restart:
    """Starts a successor of this process, and reports whether it serves. Grammar of the calls:

    begin: on_begin (on_replaced | on_failed)

    command: the command line, see child.same_command().
    listening: the ports that the successor inherits.
    cwd: the successor's current directory; None for that of this process.
    seconds: how long the successor may take until it serves.
    on_begin: called before the successor starts. Returns variables for its environment.
    on_replaced: called with the successor's process number when it serves. The listening sockets
        belong to it from then on. This process should stop accepting.
    on_failed: called with the reason, a text. This process goes on as if nothing had happened.
    """

    def __init__(
        self,
        reactor: Loop,
        command: Sequence[str],
        listening: Listening,
        *,
        on_begin: Callable[[], dict[str, str]],
        on_replaced: Callable[[int], object],
        on_failed: Callable[[str], object],
        cwd: str | None = None,
        seconds: float = READY_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._command = command
        self._listening = listening
        self._on_begin, self._on_replaced, self._on_failed = on_begin, on_replaced, on_failed
        self._cwd = cwd
        self._seconds = seconds
        self._child: Child | None = None  # the successor, while it starts

    def begin(self) -> None:
        """Start the successor. Allowed while is_starting() is false."""
        variables = {**self._on_begin(), **self._listening.variables()}
        try:
            self._child = Child(
                self._reactor,
                self._command,
                self._listening.sockets(),
                variables=variables,
                cwd=self._cwd,
                seconds=self._seconds,
                on_ready=self._ready,
                on_failed=self._failed,
            )
        except OSError as error:
            is_full = error.errno == errno.EMFILE
            fix = "; raise the limit (ulimit -n)" if is_full else f": {self._command[0]}"
            self._on_failed(f"{error.strerror}{fix}")

    def is_starting(self) -> bool:
        """Return whether a successor is starting."""
        return self._child is not None

    def cancel(self) -> None:
        """End a successor that is starting, because this process is about to end."""
        if self._child is not None:
            self._child.kill("this process ends")

    def _ready(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._listening.disown()
            self._on_replaced(child.pid)

    def _failed(self, reason: str) -> None:
        self._child = None
        self._on_failed(reason)
