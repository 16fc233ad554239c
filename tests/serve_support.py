"""Helpers for tests of commands: a real process, and time that only the test moves."""

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
    """`python -m minireactor ...` in a process of its own, in directory `cwd`.

    own_group: whether it gets a process group of its own, like a command of a terminal."""

    def __init__(self, *arguments, cwd, stdout=subprocess.PIPE, own_group=False):
        environment = {**os.environ, "PYTHONPATH": ROOT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minireactor", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=environment,
            start_new_session=own_group,
        )
        self._unread = {self._process.stdout: b"", self._process.stderr: b""}
        self.port = None

    @property
    def pid(self):
        return self._process.pid

    def lines_until_quiet(self, seconds):
        """Return how many lines the command prints before it is silent for `seconds`."""
        stream = self._process.stdout
        count = 0
        while select.select([stream], [], [], seconds)[0]:
            data = stream.read(1 << 20)
            assert data, f"ended: {self.end()}"
            count += data.count(b"\n")
        return count

    def line(self):
        """Return the next line of standard output."""
        return self._line(self._process.stdout)

    def error_line(self):
        return self._line(self._process.stderr)

    def line_with(self, text):
        """Return the next line of standard output that has `text`. Drop the lines before it."""
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
        """Return the line that says where the command listens, and keep its port."""
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
        """Wait until the server accepts no connection, as it does after a signal."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.connect().close()
            except OSError:
                return
        raise AssertionError("still accepts connections")

    def end(self):
        """Return (exit status, rest of standard output, rest of standard error) at the end."""
        output, errors = self._process.communicate(timeout=PATIENCE)
        streams = self._process.stdout, self._process.stderr
        unread = [self._unread[stream] for stream in streams]
        self._unread = dict.fromkeys(streams, b"")
        return (
            self._process.returncode,
            (unread[0] + output).decode(),
            (unread[1] + errors).decode(),
        )

    def wait(self):
        """Return the exit status at the end. Other processes may still have its output."""
        return self._process.wait(timeout=PATIENCE)

    def close_stdout(self):
        self._process.stdout.close()

    def end_without_output(self):
        """Return (exit status, rest of standard error) at the end, after close_stdout()."""
        with self._process.stderr as stream:
            errors = stream.read()
        return self._process.wait(timeout=PATIENCE), errors.decode()

    def close(self):
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.stderr.close()


class FakeTime:
    """A function for a reactor's `seconds`: time that only advance() moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


def read_line(sock):
    """Return the next line from a plain blocking socket, and read nothing after it."""
    line = b""
    while not line.endswith(b"\n"):
        data = sock.recv(1)
        assert data, f"the stream ended after {line!r}"
        line += data
    return line


def read_all(sock):
    """Return what a plain blocking socket receives until the end of the stream."""
    received = bytearray()
    while True:
        data = sock.recv(1 << 20)
        if not data:
            return bytes(received)
        received += data
