"""A sample program for Twisted runs here, unchanged but for its imports.

If Twisted is installed, the same file runs on Twisted too. The calls that reach its producer and
the bytes that reach its client are compared.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COUNT = 100_000  # integers: some 590 KB, nine times the high mark
PAUSE, RESUME, STOP = "pauseProducing", "resumeProducing", "stopProducing"

needs_twisted = pytest.mark.skipif(
    importlib.util.find_spec("twisted") is None,
    reason="Twisted is not installed: nothing to compare",
)


class Run:
    """The calls in their order, and the bytes that the client received after the greeting."""

    def __init__(self, engine, low, count=COUNT, most=None):
        command = [sys.executable, str(HERE / "seed_driver.py"), engine, str(low)]
        environment = dict(os.environ, PYTHONPATH=str(HERE.parent))
        with subprocess.Popen(
            [*command, str(HERE / "seed_program.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        ) as server:
            try:
                port = json.loads(server.stdout.readline())["port"]
                self.received = self._ask(port, count, most)
                rest, _ = server.communicate(timeout=30)
            finally:
                server.kill()
        self.calls = [json.loads(line)["call"] for line in rest.splitlines()]

    @staticmethod
    def _ask(port, count, most):
        client = socket.create_connection(("127.0.0.1", port), timeout=30)
        with client, client.makefile("rb") as stream:
            assert stream.readline() == b"how many random integers do you want?\r\n"
            client.sendall(b"%d\r\n" % count)
            return stream.read() if most is None else stream.read(most)


@pytest.mark.parametrize("low", [0, 16 * 1024])
def test_the_program_streams_every_integer_and_pauses_on_the_way(low):
    run = Run("minireactor", low)
    assert run.received.count(b"\r\n") == COUNT and run.received.endswith(b"\r\n")
    producer_calls, end = run.calls[:-1], run.calls[-1]
    # The program starts its producer itself; from then on pause and resume alternate.
    assert producer_calls[0::2] == [RESUME] * len(producer_calls[0::2])
    assert producer_calls[1::2] == [PAUSE] * len(producer_calls[1::2])
    assert producer_calls.count(PAUSE) >= len(run.received) // (64 * 1024 + 8)
    assert end == "connectionLost"


def test_a_client_that_leaves_stops_the_producer_once():
    run = Run("minireactor", 0, count=10_000_000, most=100_000)
    assert run.calls[-2:] == [STOP, "connectionLost"]
    assert run.calls.count(STOP) == 1


@pytest.mark.slow
@needs_twisted
@pytest.mark.parametrize("count", [1000, COUNT])
def test_with_a_low_mark_of_zero_the_log_is_twisteds_to_the_call(count):
    # A low mark of zero is what Twisted does (M2), and this program pauses when it is asked to, so
    # that pausing once per crossing (P2) and again for every write come to the same.
    ours, theirs = Run("minireactor", 0, count), Run("twisted", 0, count)
    assert ours.calls == theirs.calls
    assert ours.received == theirs.received


@pytest.mark.slow
@needs_twisted
def test_with_the_default_low_mark_the_bytes_are_twisteds_and_resumes_come_sooner():
    # M2: resumed while up to 16 KiB are still pending, it can only fill up sooner.
    ours, theirs = Run("minireactor", 16 * 1024), Run("twisted", 0)
    assert ours.received == theirs.received
    assert ours.calls.count(PAUSE) >= theirs.calls.count(PAUSE)
