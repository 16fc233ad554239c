"""Helpers for tests of transports: running a reactor, recording protocols, plain sockets."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time

import pytest

from minireactor.core.poller import EpollPoller, SelectorPoller, default_poller
from minireactor.protocol import ClientFactory, Factory, Protocol

PATIENCE = 10.0  # seconds after which a wait has failed

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def pump(reactor, until, what="the condition"):
    """Run iterations until `until()` is true. Raises AssertionError after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain for {what}"
        reactor.iterate(0.005)


def iterations(reactor, count=10):
    """Run `count` iterations: enough for what should happen, or should not happen at all."""
    for _ in range(count):
        reactor.iterate(0)


def next_timer(reactor):
    """Return the seconds until the next timer, internal ones included; None without a timer."""
    return reactor._timers.timeout(reactor.seconds())


class Recorder(Protocol):
    """Records the received bytes, and the names of its calls in order."""

    def __init__(self):
        self.calls = []
        self.received = bytearray()
        self.reason = None

    def connectionMade(self):
        self.calls.append("made")

    def dataReceived(self, data):
        self.calls.append("data")
        self.received += data

    def connectionLost(self, reason):
        self.calls.append("lost")
        self.reason = reason


class HalfCloseable(Recorder):
    def readConnectionLost(self):
        self.calls.append("read lost")

    def writeConnectionLost(self):
        self.calls.append("write lost")


class RecordingClientFactory(ClientFactory):
    """Builds `protocol`, or a Recorder. Records the names of its calls, and the last reason."""

    def __init__(self, protocol=None):
        self.calls = []
        self.reason = None
        self.connection = None
        self._protocol = protocol

    def startFactory(self):
        self.calls.append("startFactory")

    def stopFactory(self):
        self.calls.append("stopFactory")

    def startedConnecting(self, connector):
        self.calls.append("started")

    def buildProtocol(self, addr):
        self.calls.append("build")
        self.connection = self._protocol if self._protocol is not None else Recorder()
        return self.connection

    def clientConnectionFailed(self, connector, reason):
        self.calls.append("failed")
        self.reason = reason

    def clientConnectionLost(self, connector, reason):
        self.calls.append("lost")
        self.reason = reason


class OneFactory(Factory):
    """Builds the given protocols one after the other, then Recorders."""

    noisy = False

    def __init__(self, *protocols):
        self.waiting = list(protocols)
        self.built = []

    def buildProtocol(self, addr):
        protocol = self.waiting.pop(0) if self.waiting else Recorder()
        protocol.factory = self
        self.built.append(protocol)
        return protocol


def connect(port, **options):
    """Return a plain blocking socket, connected to a Port. The caller closes the socket."""
    client = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=PATIENCE)
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    return client


def served(reactor, protocol=None):
    """Return (protocol, client): of a connection that a Port accepted, and its plain peer."""
    protocol = protocol if protocol is not None else Recorder()
    port = reactor.listenTCP(0, OneFactory(protocol), interface="127.0.0.1")
    client = connect(port)
    pump(reactor, lambda: protocol.transport is not None, "the connection")
    port.stopListening()
    return protocol, client


def reset(sock):
    """Close a plain socket with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def drain(reactor, client):
    """Run the reactor and return what the client receives until the end of the stream."""
    client.setblocking(False)
    received = bytearray()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            data = client.recv(1 << 20)
        except BlockingIOError:
            reactor.iterate(0.001)
            continue
        if not data:
            return bytes(received)
        received += data
    raise AssertionError(f"no end of the stream after {len(received)} bytes")


def receive(reactor, client, count):
    """Run the reactor and return the next `count` bytes that the client receives."""
    client.setblocking(False)
    received = bytearray()

    def enough():
        try:
            received.extend(client.recv(count - len(received)))
        except BlockingIOError:
            pass
        return len(received) >= count

    pump(reactor, enough, f"{count} bytes")
    return bytes(received)


IS_PYPY = sys.implementation.name == "pypy"
GROWTH = 8.0  # allowed growth of the cost of four times the work: linear is 4, quadratic 16


def assert_linear(work, count):
    """Compare the CPU time of `work(4 * count)` with that of `work(count)`, the best of three.

    Choose `count` so large that a quadratic algorithm would spend most of its time on what grows.
    Raises AssertionError if the cost has grown by more than GROWTH."""
    if IS_PYPY:
        pytest.skip("PyPy's compiler and collector make the cost of the same work differ")
    few = min(_cost(work, count) for _ in range(3))
    for _ in range(3):
        many = _cost(work, 4 * count)
        if many < GROWTH * few:
            return
    raise AssertionError(f"{4 * count} cost {many:.4f} s and {count} {few:.4f} s of CPU time")


def _cost(work, size):
    gc.disable()  # the collector's cost depends on the objects that other tests have left
    try:
        began = time.process_time()
        work(size)
        return time.process_time() - began
    finally:
        gc.enable()


@contextlib.contextmanager
def forked():
    """Fork a child that inherits all open descriptors and sleeps until the end of the block."""
    child = os.fork()
    if child == 0:
        time.sleep(6 * PATIENCE)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# For the tests of the loop.


def open_descriptors():
    """Return the open descriptors of this process."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return {int(name) for name in os.listdir(folder) if is_open(int(name))}


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Watched:
    """Wraps a poller: `timeouts` has the timeout of each poll, `returned` has each event.

    With a `clock`, poll() does not wait. It advances the clock by its timeout instead."""

    def __init__(self, poller=None, clock=None):
        self._poller = poller if poller is not None else default_poller()
        self._clock = clock
        self.timeouts = []
        self.returned = []
        self.watch = self._poller.watch
        self.forget = self._poller.forget
        self.close = self._poller.close

    def poll(self, timeout, most):
        self.timeouts.append(timeout)
        ready = self._poller.poll(timeout if self._clock is None else 0, most)
        if self._clock is not None and not ready:
            self._clock.advance(timeout)
        self.returned += ready
        return ready


def pollers():
    """Return (name, function that makes it) for each kind of poller that this system has."""
    kinds = {"select": selectors.SelectSelector}
    if hasattr(selectors, "PollSelector"):
        kinds["poll"] = selectors.PollSelector
    if hasattr(selectors, "KqueueSelector"):
        kinds["kqueue"] = selectors.KqueueSelector
    makers = {name: lambda kind=kind: SelectorPoller(kind()) for name, kind in kinds.items()}
    if hasattr(select, "epoll"):
        makers["epoll"] = EpollPoller
    return makers.items()


def python(code, *arguments, **options):
    """Start a child that runs `code`, with text pipes. The child can import minireactor."""
    environment = {**os.environ, "PYTHONPATH": _ROOT, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **{"stdin": subprocess.PIPE, **options},
    )


@contextlib.contextmanager
def killed(process):
    """Kill a Popen object at the end of the block, also if a test fails, and close its pipes."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def output(code, *arguments):
    """Return what a child that runs `code` prints. Raises AssertionError if the child fails."""
    with python(code, *arguments) as child:
        try:
            out, err = child.communicate(timeout=6 * PATIENCE)
        finally:
            child.kill()
    assert child.returncode == 0, err
    return out
