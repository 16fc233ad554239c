"""Many connections: nothing of them remains after their end, and idle ones cost little."""

from __future__ import annotations

import errno
import gc
import os
import platform
import socket

import pytest
from serve_support import Command, read_line
from support import Recorder, connect, iterations, pump, reset

from minireactor.protocol import Factory
from minireactor.transports.connection import Connection

ROUNDS, CROWD = 200, 50  # 10,000 connections
STALLED = 1000
QUESTION = b"how many random integers do you want?\r\n"

needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="no /proc to read memory and CPU time from"
)


class Served(Recorder):
    alive = 0

    def connectionMade(self):
        Served.alive += 1
        super().connectionMade()

    def dataReceived(self, data):
        super().dataReceived(data)
        self.transport.write(data)
        if data == b"close":
            self.transport.loseConnection()
        elif data == b"abort":
            self.transport.abortConnection()
        elif data == b"fail":
            raise ValueError("as asked")

    def connectionLost(self, reason):
        Served.alive -= 1
        super().connectionLost(reason)


def descriptors():
    return sorted(os.listdir("/dev/fd"))


def objects():
    gc.collect()
    return sum(isinstance(thing, (Connection, Served)) for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no /dev/fd to count descriptors in")
def test_ten_thousand_connections_leave_nothing_behind(reactor, caplog):
    caplog.set_level("CRITICAL", "minireactor")
    port = reactor.listenTCP(0, Factory.forProtocol(Served), backlog=CROWD, interface="127.0.0.1")
    iterations(reactor)
    before = (descriptors(), objects())
    for round_number in range(ROUNDS):
        clients = [connect(port) for _ in range(CROWD)]
        for number, client in enumerate(clients):
            client.sendall((b"stay", b"close", b"abort", b"fail", b"close")[number % 5])
        pump(reactor, lambda: Served.alive == CROWD // 5, "four in five to go")
        for number, client in enumerate(clients):
            if (number + round_number) % 2:
                reset(client)
            else:
                client.close()
        pump(reactor, lambda: Served.alive == 0, "the rest to go")
    pump(reactor, lambda: len(descriptors()) == len(before[0]), "lingering sockets to close")
    assert (descriptors(), objects()) == before
    assert reactor.getDelayedCalls() == []
    assert reactor.getReaders() == [port] and reactor.getWriters() == []
    assert not reactor._timers.heap or reactor._timers._dead == len(reactor._timers.heap)


def test_a_connection_to_a_port_that_is_gone_is_refused(reactor):
    port = reactor.listenTCP(0, Factory.forProtocol(Served), interface="127.0.0.1")
    number = port.getHost().port
    port.stopListening()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", number)) == errno.ECONNREFUSED


@pytest.fixture
def serve(tmp_path, closing):
    """`serve(*arguments)`: return a Command that listens. It ends with the test."""

    def serve(*arguments):
        server = closing(Command("serve", "--port", "0", *arguments, cwd=tmp_path))
        server.listening()
        return server

    return serve


@pytest.fixture
def many_descriptors():
    """Raise the limit of descriptors for this test; return how many connections that allows."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield STALLED if before[1] < 0 else min(STALLED, before[1] - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def resident(pid):
    """Return the resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def ask(client, count):
    """Ask for `count` integers, and return them."""
    assert read_line(client) == QUESTION
    client.sendall(b"%d\r\n" % count)
    return [int(read_line(client)) for _ in range(count)]


# Serves random integers with small send buffers in the kernel. They fill up sooner than the usual
# ones, which take 2.5 MB a connection and are not what is tested.
SMALL_BUFFERS = """
import socket
from minireactor.serve.apps import RandomFactory, ServeRandom

class Narrow(ServeRandom):
    def connectionMade(self):
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().connectionMade()

class Server(RandomFactory):
    protocol = Narrow
"""


@pytest.mark.slow
@needs_proc
def test_a_thousand_clients_that_never_read_cost_little_memory_and_no_cpu(
    serve, closing, tmp_path, many_descriptors
):
    (tmp_path / "narrow.py").write_text(SMALL_BUFFERS)
    server = serve("-v", "narrow:Server")
    ask(closing(server.connect()), 3)
    before = resident(server.pid)
    for _ in range(many_descriptors):
        client = closing(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"1000000000\r\n")
    # The server logs a line for each connection and each pause. No more lines: all are paused.
    assert server.lines_until_quiet(0.5) >= 2 * many_descriptors
    bound = many_descriptors * (64 + 8) * 1024
    # The heap of a tracing garbage collector is several times as large as its live objects.
    slack = 5 if platform.python_implementation() == "PyPy" else 1
    assert resident(server.pid) - before < bound * slack
    assert len(ask(closing(server.connect()), 10)) == 10
    server.lines_until_quiet(0.2)
    ticks = cpu_ticks(server.pid)
    assert server.lines_until_quiet(1.0) == 0
    assert cpu_ticks(server.pid) - ticks <= 1


def wake_ups(pid):
    """Return how often a process has gone to sleep so far, and so has woken up."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt"))


@pytest.mark.slow
@needs_proc
def test_an_idle_server_sleeps(serve, closing):
    server = serve()
    ask(closing(server.connect()), 1)
    assert read_line(closing(server.connect())) == QUESTION
    assert server.lines_until_quiet(0.2) == 0
    before = wake_ups(server.pid)
    assert server.lines_until_quiet(2.0) == 0
    assert wake_ups(server.pid) - before <= 1


@pytest.mark.slow
@needs_proc
def test_without_descriptors_established_connections_are_served_and_others_rejected(serve, closing):
    resource = pytest.importorskip("resource")
    server = serve()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (64, 64))
    inside = []
    while True:
        client = closing(server.connect())
        try:
            assert read_line(client) == QUESTION
        except (AssertionError, ConnectionResetError):
            break  # rejected
        inside.append(client)
    assert 40 < len(inside) < 64
    assert "no descriptor left" in server.error_line()
    inside[0].sendall(b"3\r\n")
    assert [b"\r\n" in read_line(inside[0]) for _ in range(3)] == [True] * 3
    assert inside[0].recv(1) == b""
    inside[0].close()
    ticks = cpu_ticks(server.pid)
    assert server.lines_until_quiet(0.5) == 0
    assert cpu_ticks(server.pid) - ticks <= 1
    assert len(ask(closing(server.connect()), 2)) == 2
