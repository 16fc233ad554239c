"""Many connections: what is left over when they have gone, and what they cost while they stay."""

from __future__ import annotations

import errno
import gc
import os
import socket

import pytest
from support import Recorder, connect, passes, pump, reset

from minireactor import tcp
from minireactor.protocol import Factory

ROUNDS, CROWD = 200, 50  # 10,000 connections


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
    return sum(isinstance(thing, (tcp.Connection, Served)) for thing in gc.get_objects())


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no /dev/fd to count descriptors in")
def test_ten_thousand_connections_leave_nothing_over(reactor, caplog):
    caplog.set_level("CRITICAL", "minireactor")
    port = reactor.listenTCP(0, Factory.forProtocol(Served), backlog=CROWD, interface="127.0.0.1")
    passes(reactor)
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
    assert not reactor._timers._heap or reactor._timers._dead == len(reactor._timers._heap)


def test_a_connection_to_a_port_that_is_gone_is_refused(reactor):
    port = reactor.listenTCP(0, Factory.forProtocol(Served), interface="127.0.0.1")
    number = port.getHost().port
    port.stopListening()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", number)) == errno.ECONNREFUSED
