"""Notify systemd of the life of a service: sd_notify(3), without its library.

    notifier = Notifier(os.environ)
    notifier.start(reactor, lambda: "3 connections")
    notifier.ready()

A notification is one datagram. Without systemd, nothing is sent. Sending never waits and never
fails: a notification that finds no room is sent later.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from minireactor.core.loop import Loop
    from minireactor.core.timers import DelayedCall

STATUS_SECONDS = 10.0  # between two notifications about the state of the service
RETRY_SECONDS = 1.0  # after a notification that has found no room
MAX_WAITING = 100  # notifications that wait for room; of more, the oldest are dropped


class Notifier:
    """Sends the notifications of this process.

    environ: the environment. The variables of systemd are removed, because they are not meant for
        child processes."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._path = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "") or str(os.getpid())
        is_watched = microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        self._watchdog = microseconds if is_watched and watched == str(os.getpid()) else ""
        # systemd recommends half of its time limit.
        self._alive_seconds = int(self._watchdog) / 2e6 if self._watchdog else None
        self._socket: socket.socket | None = None
        self._reactor: Loop | None = None
        self._status: Callable[[], str] = str
        self._last_status = ""
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._timers: dict[Callable[[], object], DelayedCall] = {}
        # A path, or the name of an abstract socket. Others, such as "vsock:2:1", are not for us.
        if self._path[:1] in ("/", "@") and hasattr(socket, "AF_UNIX"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def variables(self) -> dict[str, str]:
        """Return the variables with which a successor notifies systemd in place of this process."""
        if self._socket is None:
            return {}
        watchdog = {"WATCHDOG_USEC": self._watchdog} if self._watchdog else {}
        return {"NOTIFY_SOCKET": self._path, **watchdog}

    def start(self, reactor: Loop, status: Callable[[], str]) -> None:
        """Begin to notify systemd now and then: that the loop runs, and what `status` returns."""
        if self._socket is None:
            return
        self._reactor, self._status = reactor, status
        self._repeat(self._send_status, STATUS_SECONDS)
        if self._alive_seconds is not None:
            self._repeat(lambda: self.send("WATCHDOG=1"), self._alive_seconds)

    def _repeat(self, call: Callable[[], object], seconds: float) -> None:
        def again() -> None:
            call()
            self._repeat(call, seconds)

        if self._reactor is not None:
            self._timers[call] = self._reactor.call_later_internal(seconds, again)

    def ready(self) -> None:
        """Notify systemd that this process serves."""
        self._last_status = self._status()
        self.send("READY=1", f"STATUS={self._last_status}")

    def reloading(self) -> None:
        """Notify systemd that this process reads its files again. ready() ends that."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Notify systemd that this process is about to end."""
        self.send("STOPPING=1", "STATUS=draining")
        self._last_status = "draining"

    def replaced(self, pid: int) -> None:
        """Notify systemd that process `pid` is the service now. Nothing else is sent after that."""
        # The successor has its own clock: without the last line, its first WATCHDOG=1 could come
        # almost a whole WATCHDOG_USEC after ours.
        alive = ["WATCHDOG=1"] if self._watchdog else []
        self.send(f"MAINPID={pid}", "READY=1", *alive)
        self.close()

    def _send_status(self) -> None:
        status = self._status()
        if status != self._last_status:
            self._last_status = status
            self.send(f"STATUS={status}")

    def send(self, *lines: str) -> None:
        """Send one notification. Does nothing without systemd."""
        if self._socket is not None:
            self._waiting.append("\n".join(lines).encode())
            self._send_waiting()

    def _send_waiting(self) -> None:
        address = f"\0{self._path[1:]}" if self._path.startswith("@") else self._path
        while self._waiting and self._socket is not None:
            try:
                self._socket.sendto(self._waiting[0], address)
            except BlockingIOError:
                if self._reactor is not None:
                    self._later()
                return
            except OSError:  # nobody listens any more
                pass
            self._waiting.popleft()

    def _later(self) -> None:
        retry = self._timers.get(self._send_waiting)
        if self._reactor is not None and (retry is None or not retry.active()):
            self._timers[self._send_waiting] = self._reactor.call_later_internal(
                RETRY_SECONDS, self._send_waiting
            )

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
