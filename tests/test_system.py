"""The seam between a reactor and the operating system: where its sockets come from."""

from __future__ import annotations

import errno
import os

import pytest
from support import pump

from minireactor import Reactor
from minireactor.core.system import System
from minireactor.error import CannotListenError
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.transports.kernel import receive_queue, send_queue


class Noting(System):
    """A System that notes which of its methods are called."""

    def __init__(self):
        self.asked = []

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if callable(value):
            self.asked.append(name)
        return value


class Exhausted(System):
    """A System that has no socket left but those of the waker."""

    def connecting_socket(self, family, kind, proto):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    listening_socket = connecting_socket


class Talk(Protocol):
    """Says one word, and closes."""

    def connectionMade(self):
        self.transport.write(b"word")
        self.transport.loseConnection()


class Failing(ClientFactory):
    protocol = Talk
    reason = None

    def clientConnectionFailed(self, connector, reason):
        self.reason = reason


@pytest.fixture
def on():
    reactors = []

    def on(system):
        reactors.append(Reactor(system=system))
        return reactors[-1]

    yield on
    for reactor in reactors:
        reactor.close()


def test_every_socket_and_descriptor_of_a_reactor_comes_from_its_system(on):
    system = Noting()
    reactor = on(system)
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    ended = []
    reactor.add_observer(lambda event, *rest: event == "connectionLost" and ended.append(event))
    reactor.connectTCP("127.0.0.1", port.getHost().port, ClientFactory.forProtocol(Talk))
    pump(reactor, lambda: len(ended) == 2)
    port.stopListening()
    assert set(system.asked) == {
        "socketpair",
        "local_addresses",
        "listening_socket",
        "open_spare",
        "connecting_socket",
        "moved",
        "close_spare",
    }


def test_a_system_without_sockets_fails_ports_and_attempts(on):
    reactor = on(Exhausted())
    with pytest.raises(CannotListenError):
        reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    factory = Failing()
    reactor.connectTCP("127.0.0.1", 9, factory)
    pump(reactor, lambda: factory.reason is not None)
    assert factory.reason.value.osError == errno.EMFILE


def test_a_socket_that_is_not_the_kernels_says_how_long_its_queues_are():
    class Own:
        def send_queue(self):
            return 3

        def receive_queue(self):
            return 4

    assert (send_queue(Own()), receive_queue(Own())) == (3, 4)
