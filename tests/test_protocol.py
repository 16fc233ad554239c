"""Protocols and factories, and the factory that reconnects."""

from __future__ import annotations

import logging
import random

import pytest

from minireactor import protocol as module
from minireactor.address import IPv4Address
from minireactor.error import ConnectionDone, ConnectionRefusedError, NotConnectingError
from minireactor.failure import Failure
from minireactor.protocol import (
    BaseProtocol,
    ClientFactory,
    Factory,
    Protocol,
    ReconnectingClientFactory,
    ServerFactory,
)
from minireactor.testing import Clock, StringTransport

ADDRESS = IPv4Address("TCP", "192.0.2.1", 4321)
REFUSED = Failure(ConnectionRefusedError())
DONE = Failure(ConnectionDone())


# --- Protocol


@pytest.mark.parametrize("kind", [BaseProtocol, Protocol])
def test_makeConnection_sets_the_transport_and_then_calls_connectionMade(kind):
    seen = []

    class Watching(kind):
        def connectionMade(self):
            seen.append((self.transport, self.connected))

    protocol, transport = Watching(), StringTransport()
    assert (protocol.transport, protocol.connected) == (None, 0)
    protocol.makeConnection(transport)
    assert seen == [(transport, 1)]


def test_a_plain_protocol_takes_every_call_of_the_grammar():
    protocol, transport = Protocol(), StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b"x")
    protocol.connectionLost(DONE)
    protocol.connectionLost()
    assert (transport.value(), transport.disconnecting, protocol.factory) == (b"", False, None)


def test_a_plain_protocol_is_not_half_closeable():
    assert not hasattr(Protocol, "readConnectionLost")
    assert not hasattr(Protocol, "writeConnectionLost")


def test_logPrefix_is_the_name_of_the_class():
    class Chat(Protocol):
        pass

    class ChatFactory(Factory):
        pass

    assert (Chat().logPrefix(), ChatFactory().logPrefix()) == ("Chat", "ChatFactory")


# --- Factory


class Life(Factory):
    """`calls` has what happened to it."""

    def __init__(self):
        self.calls = []

    def startFactory(self):
        self.calls.append("start")

    def stopFactory(self):
        self.calls.append("stop")


def test_buildProtocol_makes_one_and_sets_its_factory():
    class Own(Factory):
        protocol = Protocol

    factory = Own()
    built = factory.buildProtocol(ADDRESS)
    assert (type(built), built.factory) == (Protocol, factory)
    assert built is not factory.buildProtocol(ADDRESS)


def test_buildProtocol_without_a_protocol_says_what_to_do():
    class Bare(Factory):
        pass

    with pytest.raises(NotImplementedError, match=r"set Bare\.protocol or override buildProtocol"):
        Bare().buildProtocol(ADDRESS)


def test_forProtocol_makes_a_factory_of_the_class_with_the_arguments():
    class Named(ClientFactory):
        def __init__(self, name, size=0):
            self.name, self.size = name, size

    factory = Named.forProtocol(Protocol, "x", size=3)
    assert (type(factory), factory.name, factory.size) == (Named, "x", 3)
    assert type(factory.buildProtocol(ADDRESS)) is Protocol


def test_a_factory_starts_with_its_first_port_and_stops_with_its_last():
    factory = Life()
    ports = []
    for step in (factory.doStart, factory.doStart, factory.doStop, factory.doStop):
        step()
        ports.append((factory.numPorts, list(factory.calls)))
    assert ports == [(1, ["start"]), (2, ["start"]), (1, ["start"]), (0, ["start", "stop"])]


def test_a_factory_starts_and_stops_once_for_each_period_of_use():
    factory = Life()
    for _ in range(2):
        factory.doStart()
        factory.doStop()
    assert factory.calls == ["start", "stop", "start", "stop"]


def test_a_stop_too_many_changes_nothing():
    factory = Life()
    factory.doStop()
    factory.doStart()
    assert (factory.numPorts, factory.calls) == (1, ["start"])


def test_a_factory_that_cannot_start_is_not_in_use():
    class Broken(Life):
        def startFactory(self):
            raise OSError("no such file")

    factory = Broken()
    with pytest.raises(OSError, match="no such file"):
        factory.doStart()
    factory.doStop()
    assert (factory.numPorts, factory.calls) == (0, [])


@pytest.mark.parametrize("noisy", [True, False])
def test_a_noisy_factory_logs_its_start_and_its_stop(caplog, noisy):
    caplog.set_level(logging.DEBUG, "minireactor")
    factory = Life()
    factory.noisy = noisy
    factory.doStart()
    factory.doStop()
    words = [record.getMessage().split()[0] for record in caplog.records]
    assert words == (["starting", "stopping"] if noisy else [])


@pytest.mark.parametrize("kind", [Factory, ServerFactory, ClientFactory, ReconnectingClientFactory])
def test_a_factory_class_can_be_subscribed(kind):
    class Chat(Protocol):
        pass

    class ChatFactory(kind[Chat]):
        protocol = Chat

    assert issubclass(ChatFactory, kind)
    assert type(ChatFactory().buildProtocol(ADDRESS)) is Chat
    assert kind[Chat].__args__ == (Chat,)
    assert isinstance(kind[Chat](), kind)


def test_a_client_factory_takes_every_call_of_the_grammar():
    factory, connector = ClientFactory(), object()
    factory.startedConnecting(connector)
    factory.clientConnectionFailed(connector, REFUSED)
    factory.clientConnectionLost(connector, DONE)
    assert factory.numPorts == 0


# --- ReconnectingClientFactory


class Connector:
    """Counts; `connect()` and `stopConnecting()` behave as the real one's in what they refuse."""

    def __init__(self, clock=None):
        self.reactor = clock
        self.state = "disconnected"
        self.attempts = 0
        self.stopped = 0

    def connect(self):
        self.attempts += 1

    def stopConnecting(self):
        if self.state != "connecting":
            raise NotConnectingError()
        self.state = "disconnected"
        self.stopped += 1


@pytest.fixture
def patient():
    """(factory, connector, clock), without jitter, so that waits are known."""
    factory, clock = ReconnectingClientFactory(), Clock()
    factory.clock, factory.jitter = clock, None
    return factory, Connector(), clock


def waits_of(factory, connector, clock, count):
    """How long it waits before each of the next attempts, each of which fails."""
    waits = []
    for _ in range(count):
        factory.clientConnectionFailed(connector, REFUSED)
        (call,) = clock.getDelayedCalls()
        waits.append(call.getTime() - clock.seconds())
        clock.advance(waits[-1])
    return waits


@pytest.mark.parametrize("ending", ["clientConnectionFailed", "clientConnectionLost"])
def test_a_reconnecting_factory_tries_again_after_a_failure_and_after_a_loss(patient, ending):
    factory, connector, clock = patient
    getattr(factory, ending)(connector, REFUSED)
    assert connector.attempts == 0
    clock.advance(factory.delay)
    assert (connector.attempts, clock.getDelayedCalls()) == (1, [])


def test_each_wait_is_the_factor_times_the_one_before(patient):
    factory, connector, clock = patient
    factory.factor = 2
    assert waits_of(factory, connector, clock, 5) == [2, 4, 8, 16, 32]
    assert (connector.attempts, factory.retries) == (5, 5)


def test_waits_grow_to_maxDelay_at_most(patient):
    factory, connector, clock = patient
    factory.factor, factory.maxDelay = 10, 500
    assert waits_of(factory, connector, clock, 5) == [10, 100, 500, 500, 500]


def test_jitter_spreads_the_waits_around_what_they_would_be(patient, monkeypatch):
    factory, connector, clock = patient
    asked = []

    def normal(mean, deviation):
        asked.append((mean, deviation))
        return mean + deviation

    monkeypatch.setattr(random, "normalvariate", normal)
    factory.factor, factory.jitter = 2, 0.5
    assert waits_of(factory, connector, clock, 2) == [3, 9]
    assert asked == [(2, 1), (6, 3)]


def test_however_large_the_jitter_no_wait_is_negative_or_nothing(patient, monkeypatch):
    factory, connector, clock = patient
    monkeypatch.setattr(random, "normalvariate", random.Random(1).normalvariate)
    factory.jitter = 3.0
    waits = waits_of(factory, connector, clock, 200)
    assert min(waits) > 0


@pytest.mark.parametrize("jitter", [0.119626565582, 3.0])
def test_no_jitter_makes_a_wait_longer_than_maxDelay(patient, monkeypatch, jitter):
    factory, connector, clock = patient
    monkeypatch.setattr(random, "normalvariate", random.Random(1).normalvariate)
    factory.jitter, factory.maxDelay = jitter, 50
    waits = []
    for _ in range(200):
        waits_of(factory, connector, clock, 1)
        waits.append(factory.delay)
    assert max(waits) <= 50
    if jitter < 1:  # and they are not all as long, so that not all clients come back at one time
        assert waits.count(50) < 10


def test_waits_are_not_the_same_for_everybody_by_default():
    waits = set()
    for _ in range(5):
        factory = ReconnectingClientFactory()
        factory.clock = clock = Clock()
        waits.update(waits_of(factory, Connector(), clock, 1))
    assert len(waits) > 1


def test_maxRetries_bounds_the_attempts(patient):
    factory, connector, clock = patient
    factory.maxRetries = 3
    waits_of(factory, connector, clock, 3)
    factory.clientConnectionFailed(connector, REFUSED)
    assert (connector.attempts, clock.getDelayedCalls()) == (3, [])


def test_resetDelay_starts_from_the_shortest_wait_again(patient):
    factory, connector, clock = patient
    factory.factor, factory.maxRetries = 2, 3
    waits_of(factory, connector, clock, 3)
    factory.resetDelay()
    assert (factory.delay, factory.retries) == (factory.initialDelay, 0)
    assert waits_of(factory, connector, clock, 3) == [2, 4, 8]


def test_resetDelay_takes_back_a_stopTrying(patient):
    factory, connector, clock = patient
    factory.stopTrying()
    factory.resetDelay()
    assert len(waits_of(factory, connector, clock, 1)) == 1


def test_stopTrying_cancels_the_wait(patient):
    factory, connector, clock = patient
    factory.clientConnectionLost(connector, DONE)
    factory.stopTrying()
    assert clock.getDelayedCalls() == []
    clock.advance(1e6)
    assert connector.attempts == 0


def test_stopTrying_cancels_the_wait_also_after_a_resetDelay(patient):
    factory, connector, clock = patient
    factory.clientConnectionLost(connector, DONE)
    factory.resetDelay()
    factory.stopTrying()
    assert clock.getDelayedCalls() == []


def test_a_retry_while_a_wait_is_pending_begins_no_other(patient):
    factory, connector, clock = patient
    factory.clientConnectionFailed(connector, REFUSED)
    (call,) = clock.getDelayedCalls()
    factory.retry()
    factory.retry(connector)
    assert clock.getDelayedCalls() == [call]
    assert factory.retries == 1
    clock.advance(factory.delay)
    assert connector.attempts == 1


def test_stopTrying_cancels_the_waits_of_all_connectors(patient):
    factory, connector, clock = patient
    other = Connector()
    for each in (connector, other):
        factory.clientConnectionFailed(each, REFUSED)
    assert len(clock.getDelayedCalls()) == 2
    factory.stopTrying()
    assert clock.getDelayedCalls() == []
    clock.advance(1e6)
    assert connector.attempts == other.attempts == 0


def test_two_connectors_of_one_factory_both_come_back(patient):
    factory, connector, clock = patient
    other = Connector()
    for each in (connector, other):
        factory.clientConnectionFailed(each, REFUSED)
    clock.advance(1e6)
    assert connector.attempts == other.attempts == 1


def test_a_wait_that_a_program_has_cancelled_is_not_cancelled_again(patient):
    factory, connector, clock = patient
    factory.clientConnectionFailed(connector, REFUSED)
    for call in clock.getDelayedCalls():
        call.cancel()
    factory.retry()
    assert len(clock.getDelayedCalls()) == 1
    for call in clock.getDelayedCalls():
        call.cancel()
    factory.stopTrying()


def test_a_connector_that_a_program_connects_meanwhile_is_left_alone(patient):
    factory, connector, clock = patient
    factory.clientConnectionFailed(connector, REFUSED)
    connector.state = "connecting"
    clock.advance(1e6)
    assert connector.attempts == 0
    connector.state = "disconnected"
    factory.clientConnectionFailed(connector, REFUSED)
    clock.advance(1e6)
    assert connector.attempts == 1


def test_stopTrying_stops_the_very_first_attempt(patient):
    factory, connector, _ = patient
    connector.state = "connecting"
    factory.startedConnecting(connector)
    factory.stopTrying()
    assert connector.stopped == 1


def test_stopTrying_stops_a_later_attempt_and_its_failure_starts_no_other(patient):
    factory, connector, clock = patient
    waits_of(factory, connector, clock, 1)
    connector.state = "connecting"
    factory.stopTrying()
    factory.clientConnectionFailed(connector, REFUSED)
    assert (connector.stopped, clock.getDelayedCalls()) == (1, [])


def test_stopTrying_leaves_a_connection_alone_and_its_loss_starts_no_attempt(patient):
    factory, connector, clock = patient
    factory.startedConnecting(connector)
    connector.state = "connected"
    factory.stopTrying()
    factory.clientConnectionLost(connector, DONE)
    assert (factory.continueTrying, connector.stopped, connector.attempts) == (0, 0, 0)
    assert clock.getDelayedCalls() == []


def test_stopTrying_asks_only_what_every_connector_can_answer(patient):
    factory, _, clock = patient

    class Fake:
        """What a test of a client may have: no state, and a failure from within the call."""

        def stopConnecting(self):
            factory.clientConnectionFailed(self, REFUSED)

    factory.connector = Fake()
    factory.stopTrying()
    assert clock.getDelayedCalls() == []


def test_stopTrying_before_any_attempt_changes_nothing_else(patient):
    factory, _, clock = patient
    factory.stopTrying()
    assert (factory.continueTrying, clock.getDelayedCalls()) == (0, [])


def test_stopTrying_twice_is_harmless(patient):
    factory, connector, clock = patient
    factory.clientConnectionLost(connector, DONE)
    factory.stopTrying()
    factory.stopTrying()
    assert clock.getDelayedCalls() == []


def test_retry_takes_the_connector_of_the_last_attempt(patient):
    factory, connector, clock = patient
    factory.startedConnecting(connector)
    factory.retry()
    clock.advance(factory.delay)
    assert connector.attempts == 1


def test_retry_without_any_connector_is_a_ValueError(patient):
    factory, _, clock = patient
    with pytest.raises(ValueError, match="no connector to retry"):
        factory.retry()
    assert clock.getDelayedCalls() == []


def test_without_a_clock_it_takes_the_reactor_of_the_connector():
    factory, clock = ReconnectingClientFactory(), Clock()
    connector = Connector(clock)
    factory.clientConnectionFailed(connector, REFUSED)
    assert len(clock.getDelayedCalls()) == 1


def test_two_factories_share_nothing(patient):
    factory, connector, clock = patient
    other = ReconnectingClientFactory()
    waits_of(factory, connector, clock, 3)
    assert (other.delay, other.retries, other.connector) == (other.initialDelay, 0, None)


def test_the_default_reason_is_ConnectionDone():
    assert module.connectionDone.check(ConnectionDone) is ConnectionDone
