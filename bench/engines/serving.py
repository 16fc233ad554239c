"""What all servers share: their arguments, their marks, and the few lines they say.

A server is started as `SERVER APP key=number ...`. It listens on a free port of 127.0.0.1 and says
`ready PORT CPU-SECONDS PEAK-BYTES`; the workloads that a server measures by itself end with a line
`result NUMBER ...`. Then it waits to be killed. Nothing here runs while a workload is being
counted, and little is imported, because the start of a server is one of the workloads.
"""

from __future__ import annotations

import os
import signal
import sys
import time

HOST = os.environ.get("BENCH_HOST", "127.0.0.1")  # where servers listen
SOURCES = os.environ.get("BENCH_SOURCES", "127.0.0")  # the clients' addresses begin with this
HIGH = 64 * 1024  # bytes; the marks of every connection that streams, on every engine
LOW = 16 * 1024
BACKLOG = 1024  # connections that may wait to be accepted, on every engine
CHUNK = bytes(64 * 1024)  # one write of the bulk workloads
LINE = b"4711\r\n"
GREETING = b"how many random integers do you want?\r\n"
SETTLING = 1024 * 1024  # bytes; more than any engine reads at a time
PERIOD = 0.010  # seconds; of the timer whose lateness is measured
SKIPPED = 20  # its first firings, while the load gets going


def arguments() -> tuple[str, dict[str, int]]:
    """The application to serve, and its numbers. From here on this process has a last hour."""
    _settle_malloc()
    app, *pairs = sys.argv[1:]
    numbers = {name: int(number) for name, number in (pair.split("=") for pair in pairs)}
    signal.alarm(numbers.pop("lifetime"))  # should whoever started it be unable to end it
    return app, numbers


def _settle_malloc() -> None:
    """Free one large block.

    glibc maps a block above some size anew each time, and raises that size when it sees one freed.
    Whether that has happened by the time a server is up is an accident of its start; but it is a
    factor of four for asyncio's small messages, which are read into 256 KiB. A program that has
    lived for a while has freed such a block, and so has every server here."""
    block = bytes(SETTLING)
    del block


def ready(port: int) -> None:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    print("ready", port, time.process_time(), peak, flush=True)


def result(*numbers: float) -> None:
    print("result", *numbers, flush=True)


class Lateness:
    """How late a timer of PERIOD has been at most. SIGUSR1 has the process say so, as a result.

    A signal is handled in the middle of a long callback, too. So a timer that is overdue and has
    not fired yet counts as late by then."""

    def __init__(self) -> None:
        self.due = time.monotonic() + PERIOD
        self.worst = 0.0
        signal.signal(signal.SIGUSR1, self._say)

    def fired(self) -> None:
        """Note that the timer fires now. It is due again in PERIOD."""
        now = time.monotonic()
        self.worst = max(self.worst, now - self.due)
        self.due = now + PERIOD

    def _say(self, number: int, frame: object) -> None:
        result(max(self.worst, time.monotonic() - self.due))


def delays(count: int) -> list[float]:
    """`count` delays in seconds, spread over half a second, in no order but always the same."""
    return [(i * 7919 % count) / count * 0.5 for i in range(count)]
