"""The rules of a connection on other transports than TCP: UNIX sockets and pipes."""

from __future__ import annotations

import inspect
import os
import socket

import pytest
from support import OneFactory, Recorder, iterations, pump

pytest.register_assert_rewrite("engine_rules")

import engine_rules  # noqa: E402

from minireactor import Reactor  # noqa: E402
from minireactor.error import ConnectionAborted  # noqa: E402
from minireactor.stdio import StandardIO  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets here"),
    pytest.mark.usefixtures("no_stdio_thread_is_left"),
]

# Not on these transports: the kernel has no reset for them.
TCP_ONLY = {"test_E6_abort_drops_what_is_pending_and_resets_the_peer"}
# Not through a thread, which needs a moment.
SOCKETS_ONLY = {
    "test_T1_input_comes_before_a_timer_that_fell_due_while_the_loop_was_busy",
    "test_B2_write_never_sends_on_the_spot",
}

RULES = {
    name: test
    for name, test in vars(engine_rules).items()
    if name.startswith("test_") and "opened" in inspect.signature(test).parameters
}
globals().update({name: test for name, test in RULES.items() if name not in TCP_ONLY})


class PipePeer:
    """The other ends of the two pipes of a StandardIO, with the methods of a plain socket.

    A reset means that the reader goes, and the writer stays."""

    def __init__(self, reading, writing):
        self._reading, self._writing = reading, writing
        self._is_reset = False

    def recv(self, size):
        return os.read(self._reading, size)

    def sendall(self, data):
        while data:
            data = data[os.write(self._writing, data) :]

    def setblocking(self, flag):
        os.set_blocking(self._reading, flag)

    def settimeout(self, seconds):
        os.set_blocking(self._reading, True)

    def setsockopt(self, level, name, value):
        self._is_reset = name == socket.SO_LINGER

    def shutdown(self, how):
        self._end("_writing")

    def close(self):
        self._end("_reading")
        if not self._is_reset:
            self._end("_writing")
        self._is_reset = False

    def _end(self, name):
        fd = getattr(self, name)
        setattr(self, name, -1)
        if fd != -1:
            os.close(fd)


@pytest.fixture
def reactor():
    own = Reactor()
    yield own
    own.close()


@pytest.fixture(params=["unix", "pipes"])
def opened(request, reactor, closing, tmp_path, monkeypatch):
    """Call it with a protocol or nothing: (transport, protocol, the peer's plain socket)."""
    if request.param == "pipes" and request.node.originalname in SOCKETS_ONLY:
        pytest.skip("a thread takes part")

    def open_unix(protocol):
        monkeypatch.chdir(tmp_path)
        port = reactor.listenUNIX("x.sock", OneFactory(protocol))
        client = closing(socket.socket(socket.AF_UNIX))
        client.connect("x.sock")
        pump(reactor, lambda: protocol.transport is not None, "the connection")
        port.stopListening()
        return client

    def open_pipes(protocol):
        (stdin, to_write), (to_read, stdout) = os.pipe(), os.pipe()
        client = closing(PipePeer(to_read, to_write))
        StandardIO(protocol, stdin, stdout, reactor)
        return client

    def open_one(protocol=None):
        protocol = Recorder() if protocol is None else protocol
        client = (open_unix if request.param == "unix" else open_pipes)(protocol)
        return protocol.transport, protocol, client

    return open_one


def test_the_rules_are_there():
    assert len(RULES) > 30
    assert set(RULES) > TCP_ONLY and set(RULES) > SOCKETS_ONLY


def test_E6_abort_drops_what_is_pending(reactor, opened):
    transport, protocol, client = opened()
    engine_rules.stall(reactor, transport)
    transport.abortConnection()
    assert "lost" not in protocol.calls
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    assert protocol.reason.check(ConnectionAborted)
    client.settimeout(5)
    received = 0
    try:
        while data := client.recv(1 << 20):
            received += len(data)
    except ConnectionResetError:
        pass
    assert received < engine_rules.MUCH


def test_R2_a_paused_connection_that_writes_learns_that_its_peer_has_gone(reactor, opened):
    transport, protocol, client = opened()
    transport.pauseProducing()
    client.close()
    iterations(reactor)
    transport.write(b"anybody there?")
    pump(reactor, lambda: "lost" in protocol.calls, "the news")


def test_nothing_is_left_behind(reactor, opened):
    transport, protocol, client = opened()
    transport.write(b"." * 1000)
    transport.loseConnection()
    assert engine_rules.drain(reactor, client) == b"." * 1000
    client.close()
    pump(reactor, lambda: "lost" in protocol.calls, "the end")
    iterations(reactor)
    assert reactor.getReaders() == reactor.getWriters() == reactor.getDelayedCalls() == []
    assert transport.protocol is None and transport.fileno() == -1
