"""What all servers share: their arguments, their marks, and the few lines that they print.

A server is started as `SERVER APP key=number ...`. It listens on a free port of HOST and prints
`ready PORT CPU-SECONDS PEAK-BYTES`. If the server measures a workload itself, it then prints
`result NUMBER ...`. It runs until it is killed.

Nothing here runs while a workload is counted. Little is imported, because the start of a server is
a workload too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

HOST = os.environ.get("BENCH_HOST", "127.0.0.1")  # servers listen on this address
SOURCES = os.environ.get("BENCH_SOURCES", "127.0.0")  # the clients' addresses begin with this
HIGH = 64 * 1024  # bytes; the high and low mark of each connection that streams, on each engine
LOW = 16 * 1024
BACKLOG = 1024  # connections that may wait to be accepted, on each engine
CHUNK = bytes(64 * 1024)  # one write of the bulk workloads
TLS = "tls_"  # before the name of an application that speaks TLS
LINE = b"4711\r\n"
GREETING = b"how many random integers do you want?\r\n"
BLOCK = 1024 * 1024  # bytes; more than any engine reads at a time
PERIOD = 0.010  # seconds, of the timer whose lateness is measured
SKIPPED = 20  # first firings of that timer, while the load starts


def arguments() -> tuple[str, dict[str, int]]:
    """Return the application to serve, and its numbers. Limit the life of this process."""
    _settle_malloc()
    app, *pairs = sys.argv[1:]
    numbers = {name: int(number) for name, number in (pair.split("=") for pair in pairs)}
    signal.alarm(numbers.pop("lifetime"))  # in case nobody kills this process
    return app, numbers


def _settle_malloc() -> None:
    """Free one large block.

    glibc maps each block above some size anew, and raises that size when such a block is freed.
    Whether a server frees one at its start is an accident. Until it does, small messages on asyncio
    cost four times as much, because asyncio reads into 256 KiB. A program that has run for a while
    has freed such a block, and so has each server here."""
    block = bytes(BLOCK)
    del block


def tls_context(reactor: object = None) -> Any:
    """Return a context for TLS, with a new certificate: of pyOpenSSL for Twisted, else of `ssl`."""
    import ssl
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        what = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=bench"
        command = ["openssl", *what.split(), "-keyout", key, "-out", cert]
        subprocess.run(command, check=True, capture_output=True)
        if type(reactor).__module__.startswith("twisted."):
            from twisted.internet.ssl import PrivateCertificate

            with open(cert, encoding="ascii") as first, open(key, encoding="ascii") as second:
                return PrivateCertificate.loadPEM(first.read() + second.read()).options()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return context


def ready(port: int) -> None:
    """Print that the server listens, and what it has used so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    print("ready", port, time.process_time(), peak, flush=True)


def result(*numbers: float) -> None:
    """Print what the server has measured itself."""
    print("result", *numbers, flush=True)


class Lateness:
    """The maximum lateness of a timer of PERIOD, in seconds. SIGUSR1 prints it as a result.

    A signal is handled in the middle of a long callback, too. So a timer that is overdue then
    counts as late although it has not fired yet."""

    def __init__(self) -> None:
        self.due = time.monotonic() + PERIOD
        self.worst = 0.0
        signal.signal(signal.SIGUSR1, self._print)

    def fired(self) -> None:
        """Note that the timer fires now, and is due again in PERIOD."""
        now = time.monotonic()
        self.worst = max(self.worst, now - self.due)
        self.due = now + PERIOD

    def _print(self, number: int, frame: object) -> None:
        result(max(self.worst, time.monotonic() - self.due))


def delays(count: int) -> list[float]:
    """Return `count` delays up to half a second, in an irregular order that never changes."""
    return [(i * 7919 % count) / count * 0.5 for i in range(count)]
