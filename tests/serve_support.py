"""What the tests of the command and its server share: a real process, and their own time."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from support import PATIENCE

ROOT = str(Path(__file__).resolve().parent.parent)


class Command:
    """`python -m minireactor ...` in a process of its own, in directory `cwd`."""

    def __init__(self, *arguments, cwd):
        environment = {**os.environ, "PYTHONPATH": ROOT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minireactor", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=environment,
        )
        self._unread = {self._process.stdout: b"", self._process.stderr: b""}
        self.port = None

    @property
    def pid(self):
        return self._process.pid

    def lines_until_quiet(self, seconds):
        """How many lines it prints before it is silent for so long."""
        stream = self._process.stdout
        count = 0
        while select.select([stream], [], [], seconds)[0]:
            data = stream.read(1 << 20)
            assert data, f"ended: {self.end()}"
            count += data.count(b"\n")
        return count

    def line(self):
        """The next line of its standard output."""
        return self._line(self._process.stdout)

    def error_line(self):
        return self._line(self._process.stderr)

    def line_with(self, text):
        """The next such line; those before it are dropped."""
        while True:
            line = self.line()
            if text in line:
                return line

    def _line(self, stream):
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._unread[stream]:
            ready, _, _ = select.select([stream], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no line within {PATIENCE} s, only {self._unread[stream]!r}"
            data = stream.read(65536)
            assert data, f"ended after {self._unread[stream]!r}: {self.end()}"
            self._unread[stream] += data
        line, _, self._unread[stream] = self._unread[stream].partition(b"\n")
        return line.decode()

    def listening(self):
        """Wait until it says that it listens, and note the port."""
        line = self.line()
        self.port = int(re.search(r":(\d+)(?:,|$)", line)[1])
        return line

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def terminate(self):
        self._process.send_signal(signal.SIGTERM)

    def wait_until_it_refuses(self):
        """That is, until it has taken notice of a signal."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.connect().close()
            except OSError:
                return
        raise AssertionError("still accepts connections")

    def end(self):
        """(exit status, the rest of its standard output, the rest of its standard error)"""
        output, errors = self._process.communicate(timeout=PATIENCE)
        streams = self._process.stdout, self._process.stderr
        unread = [self._unread[stream] for stream in streams]
        self._unread = dict.fromkeys(streams, b"")
        return (
            self._process.returncode,
            (unread[0] + output).decode(),
            (unread[1] + errors).decode(),
        )

    def close_stdout(self):
        self._process.stdout.close()

    def end_without_output(self):
        """(exit status, the rest of its standard error), after `close_stdout`"""
        with self._process.stderr as stream:
            errors = stream.read()
        return self._process.wait(timeout=PATIENCE), errors.decode()

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


class FakeTime:
    """A reactor's `seconds`, which only `advance` moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


def read_line(sock):
    """A line that a plain blocking socket receives, without reading further."""
    line = b""
    while not line.endswith(b"\n"):
        data = sock.recv(1)
        assert data, f"the stream ended after {line!r}"
        line += data
    return line


def read_all(sock):
    """All that a plain blocking socket receives until the end of the stream."""
    received = bytearray()
    while True:
        data = sock.recv(1 << 20)
        if not data:
            return bytes(received)
        received += data
