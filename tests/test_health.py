"""The probes of targets: when the proxy connects to them itself, and what it learns."""

from __future__ import annotations

import errno
import logging

import pytest
from proxy_support import listening, unused_number
from support import connect, drain, pump

from minireactor.error import ConnectError, ConnectionDone, ConnectionRefusedError
from minireactor.failure import Failure
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.proxy.balance import (
    BALANCES,
    EARLY_ENDS,
    EARLY_SECONDS,
    FIRST,
    SLOW_SECONDS,
    Balancer,
)
from minireactor.proxy.health import FIRST_BACKOFF, JITTER, MAX_BACKOFF, Health
from minireactor.proxy.relay import Relay
from minireactor.proxy.targets import DOWN, UP, Target
from minireactor.serve.apps import Echo
from minireactor.serve.proxy_header import header_v2, local_v2
from minireactor.testing import Network
from minireactor.view.monitor import Monitor

A, B = ("a", 80), ("b", 80)


class Connector:
    """A connector of which the test decides how its attempt ends."""

    def __init__(self, place, factory):
        self.place = place
        self.factory = factory
        self.is_over = False

    def disconnect(self):
        self.is_over = True

    def refuse(self):
        self.fail(ConnectionRefusedError())

    def fail(self, error):
        self.factory.clientConnectionFailed(self, Failure(error))

    def connect(self):
        """Let the attempt succeed; return the protocol of the connection."""
        protocol = self.factory.buildProtocol(None)
        protocol.handshakeCompleted()
        return protocol

    def lose(self):
        self.factory.clientConnectionLost(self, Failure(ConnectionDone()))


class World:
    """Health of the targets A and B, with the connectors that it has asked for."""

    def __init__(self, clock, check=None, chance=lambda: 0.5):
        self.clock = clock
        self.seconds = clock.seconds
        self.connectors = []
        self.times = []
        self.changes = []
        self.balancer = Balancer([A, B], FIRST, clock.seconds)
        self.health = Health(self, self.balancer, self._connect, self._note, check, chance)
        self.health.start()

    def call_later_internal(self, delay, f):
        return self.clock.callLater(delay, f)

    def _connect(self, place, factory):
        self.times.append(self.clock.seconds())
        self.connectors.append(Connector(place, factory))
        return self.connectors[-1]

    def _note(self, target):
        self.changes.append((target.place, target.state))

    def fail(self, place=A):
        """Let a client's attempt fail."""
        if self.balancer.failed(place, "client", "refused"):
            self.health.changed(self.balancer.find(place))

    def join(self):
        """Let the target A take a client."""
        if self.balancer.joined(A, "client"):
            self.health.changed(self.balancer.find(A))

    def advance(self, seconds):
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)

    def probe(self):
        """Let a client's attempt fail, and time pass until the probe. Return its connector."""
        self.fail()
        self.advance(FIRST_BACKOFF + 0.1)
        (connector,) = self.connectors
        return connector

    def run(self, seconds, end=Connector.refuse):
        """Let time pass; each probe ends at once. Return the pauses between the probes."""
        self.times[:] = [self.seconds()]
        for _ in range(round(seconds * 20)):
            before = len(self.connectors)
            self.clock.advance(0.05)
            for connector in self.connectors[before:]:
                end(connector)
        return [round(after - before) for before, after in zip(self.times, self.times[1:])]


@pytest.fixture
def world(clock):
    return World(clock)


# When there is a probe.


def test_targets_that_are_up_are_not_probed_without_a_check(world):
    world.advance(1000)
    assert world.connectors == []


def test_a_target_that_is_down_is_probed_at_longer_and_longer_intervals(world):
    world.fail()
    assert world.run(130) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert {each.place for each in world.connectors} == {A}


@pytest.mark.parametrize("chance, factor", [(0.0, 1 - JITTER), (1.0, 1 + JITTER)])
def test_the_pauses_differ_by_chance(clock, chance, factor):
    world = World(clock, chance=lambda: chance)
    world.fail()
    world.advance(FIRST_BACKOFF * factor - 0.1)
    assert world.connectors == []
    world.advance(0.2)
    assert len(world.connectors) == 1


def test_there_is_one_probe_of_a_target_at_a_time(world):
    world.probe()
    world.join()
    world.fail()
    world.advance(1000)
    assert len(world.connectors) == 1


def test_a_target_that_fails_again_soon_goes_on_with_its_pause(world):
    world.fail()
    assert world.run(8) == [1, 2, 4]
    world.join()
    world.advance(1)
    world.fail()
    assert world.run(20) == [16]


def test_a_target_that_was_up_for_long_begins_with_a_short_pause(world):
    world.fail()
    world.run(8)
    world.join()
    world.advance(MAX_BACKOFF + 0.1)
    world.fail()
    assert world.run(8) == [1, 2, 4]


def test_all_targets_are_checked_with_a_check(clock):
    world = World(clock, check=5.0)
    world.run(21, end=lambda connector: (connector.connect(), connector.factory.health.ended(
        connector.factory, None)))  # fmt: skip
    places = [each.place for each in world.connectors]
    assert places.count(A) == places.count(B) == 5
    assert world.changes == []


def test_a_check_finds_a_target_that_fails(clock):
    world = World(clock, check=5.0)
    world.run(2)
    assert world.changes == [(A, DOWN), (B, DOWN)]


def test_a_target_that_is_down_is_probed_at_least_as_often_as_checked(clock):
    world = World(clock, check=5.0)
    assert max(world.run(60)) <= 5


def test_a_tiny_check_makes_no_busy_loop(clock):
    world = World(clock, check=1e-9)
    world.run(1)
    assert 10 < len(world.connectors) <= 22


def test_a_target_that_leads_back_is_not_probed(world):
    world.balancer.find(A).leads_back = True
    world.fail()
    world.advance(1000)
    assert world.connectors == []


# What a probe finds.


def test_a_target_that_keeps_the_connection_is_up_again(world):
    connector = world.probe()
    connector.connect()
    world.advance(EARLY_SECONDS - 0.1)
    assert world.changes == [] and not connector.is_over
    world.advance(0.2)
    assert world.changes == [(A, UP)]
    assert connector.is_over
    world.advance(1000)
    assert world.connectors == [connector]


def test_a_target_that_sends_a_byte_is_up_at_once(world):
    world.probe().connect().dataReceived(b"220 welcome")
    assert world.changes == [(A, UP)]


def test_a_target_that_ends_the_connection_at_once_stays_down(world):
    connector = world.probe()
    connector.connect()
    connector.lose()
    target = world.balancer.find(A)
    assert (target.state, target.failures) == (DOWN, 2)
    assert "ended the connection of a probe at once" in target.reason


def test_what_is_our_own_fault_is_not_the_targets(clock):
    world = World(clock, check=5.0)
    world.run(10, end=lambda each: each.fail(ConnectError(errno.EMFILE, "Too many open files")))
    assert len(world.connectors) > 2
    assert [target.failures for target in world.balancer.all()] == [0, 0]


def test_a_probe_without_an_answer_makes_clients_avoid_the_target(clock):
    world = World(clock, check=5.0, chance=lambda: 0.0)
    world.advance(0.1)
    assert next(world.balancer.places()) == A
    world.connectors[1].connect()
    world.advance(SLOW_SECONDS)
    assert next(world.balancer.places()) == B


# When there is no answer.


def test_a_target_without_an_answer_is_down_if_another_one_is_usable(world):
    world.balancer.began(A, "client")
    world.health.expect_answer(world.balancer.find(A))
    world.advance(SLOW_SECONDS - 0.1)
    assert world.changes == []
    world.advance(0.2)
    assert world.changes == [(A, DOWN)]
    assert world.balancer.find(A).reason == "it has not answered for 1.5 s"
    world.advance(FIRST_BACKOFF)
    assert [each.place for each in world.connectors] == [A]


def test_a_target_without_an_answer_is_not_down_if_no_other_one_is_usable(world):
    world.balancer.failed(B, "client", "refused")
    world.balancer.began(A, "client")
    world.health.expect_answer(world.balancer.find(A))
    world.advance(10 * SLOW_SECONDS)
    assert world.changes == []
    world.balancer.passed(B)
    world.advance(SLOW_SECONDS)
    assert world.changes == [(A, DOWN)]


def test_a_target_that_answers_in_time_is_looked_at_no_longer(world):
    world.balancer.began(A, "client")
    world.health.expect_answer(world.balancer.find(A))
    world.advance(1)
    world.balancer.joined(A, "client")
    world.advance(SLOW_SECONDS)
    assert world.changes == []
    assert world.clock.calls == []


# The end.


def test_stop_ends_all_probes(world):
    world.fail(B)
    world.fail(A)
    world.advance(FIRST_BACKOFF + 0.1)
    world.connectors[0].connect()
    world.health.stop()
    assert [each.is_over for each in world.connectors] == [True, True]
    assert world.clock.calls == []
    world.connectors[0].lose()
    world.connectors[1].refuse()
    world.join()
    world.fail(A)
    world.health.expect_answer(world.balancer.find(A))
    assert world.clock.calls == []
    assert not any(target.attempts for target in world.balancer.all())


def test_the_probe_of_a_target_that_is_removed_ends_and_the_target_is_forgotten(world):
    connector = world.probe()
    world.balancer.set_targets([Target(B)])
    world.health.update()
    assert connector.is_over
    assert [target.place for target in world.balancer.all()] == [B]
    world.advance(SLOW_SECONDS + 0.1)
    assert world.clock.calls == []


def test_a_target_that_comes_back_while_it_is_down_is_probed_again(world):
    world.balancer.joined(A, "client")
    world.fail(A)
    for targets in ([B], [A, B]):
        world.balancer.set_targets(map(Target, targets))
        world.health.update()
    assert world.run(4) == [1, 2]


# In a simulated network: a black hole.


class Waiting:
    """Notes how long each client waits for its target's first byte."""

    def __init__(self, network):
        self.network = network
        self.seconds = []

    def come(self):
        began = self.network.seconds()
        waiting = self

        class Client(Protocol):
            def connectionMade(self):
                self.transport.write(b"x")

            def dataReceived(self, data):
                waiting.seconds.append(waiting.network.seconds() - began)
                self.transport.loseConnection()

        self.network.host("client").connectTCP("proxy", 80, ClientFactory.forProtocol(Client))


def black_hole_run(seed, balance, seconds=60):
    """Return how long each client has waited, one every 0.2 s, beside a target without power."""
    network = Network(seed)
    for name in ("hole", "good"):
        network.host(name).listenTCP(80, Factory.forProtocol(Echo))
    places = [("hole", 80), ("good", 80)]
    relay = Relay(
        network.host("proxy"), places, balance=balance, timeout=10, chance=network.chance.random
    )
    relay.listen("0.0.0.0", 80)
    waiting = Waiting(network)
    network.vanish("hole")
    for number in range(seconds * 5):
        network.do(number / 5, waiting.come)
    network.run(seconds + 20)
    network.come_back("hole").listenTCP(80, Factory.forProtocol(Echo))
    network.run(MAX_BACKOFF * (1 + JITTER) + 10 + EARLY_SECONDS)
    states = [row["state"] for row in relay.target_rows()]
    relay.health.stop()
    network.finish()
    network.close()
    return waiting.seconds, states


@pytest.mark.parametrize(
    "balance", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in BALANCES[1:])]
)
def test_no_client_waits_long_for_a_black_hole_and_it_is_used_when_it_is_back(balance):
    waits, states = black_hole_run(1, balance)
    assert len(waits) == 300
    assert max(waits) < SLOW_SECONDS + 0.1
    assert len([wait for wait in waits if wait > 0.1]) <= 5 * SLOW_SECONDS + 1
    assert states == [UP, UP]


def test_a_client_that_waits_for_a_black_hole_moves_on_when_another_target_comes_up():
    network = Network(1)
    for name in ("hole", "good"):
        network.host(name)
    places = [("good", 80), ("hole", 80)]
    relay = Relay(network.host("proxy"), places, timeout=100, chance=network.chance.random)
    relay.listen("0.0.0.0", 80)
    network.vanish("hole")
    waiting = Waiting(network)
    network.do(0, waiting.come)
    network.run(2)
    network.host("good").listenTCP(80, Factory.forProtocol(Echo))
    network.run(MAX_BACKOFF)
    relay.health.stop()
    network.finish()
    network.close()
    assert len(waiting.seconds) == 1
    assert waiting.seconds[0] < 2 + 2 * (1 + JITTER) * FIRST_BACKOFF + EARLY_SECONDS


@pytest.mark.slow
def test_one_seed_gives_the_same_run():
    assert black_hole_run(7, FIRST, 20) == black_hole_run(7, FIRST, 20)


# With real sockets.


class Closer(Protocol):
    """Ends each connection at once."""

    def connectionMade(self):
        self.transport.loseConnection()


class Resetter(Protocol):
    def connectionMade(self):
        self.transport.abortConnection()


def serve(reactor, protocol):
    """Return the place of a server in the test's own reactor."""
    port = reactor.listenTCP(0, Factory.forProtocol(protocol), interface="127.0.0.1")
    return "127.0.0.1", port.getHost().port


def converse(reactor, relay, count, closing):
    """Let clients come one after the other; return how many got an answer."""
    answers = 0
    for _ in range(count):
        client = closing(connect(relay.ports[0]))
        client.sendall(b"x")
        client.setblocking(False)
        answer = []

        def look(client=client, answer=answer):
            try:
                answer.append(client.recv(1))
            except BlockingIOError:
                return False
            except ConnectionError:
                answer.append(b"")
            return True

        pump(reactor, look, "an answer or the end")
        answers += bool(answer[0])
        client.close()
    return answers


@pytest.mark.parametrize("protocol", [Closer, Resetter])
@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_accepts_and_closes_gets_no_further_clients(
    timed, time, closing, balance, protocol, caplog
):
    relay = Relay(timed, [serve(timed, protocol), serve(timed, Echo)], balance=balance)
    relay.listen("127.0.0.1", 0)
    assert converse(timed, relay, 40, closing) == 40 - EARLY_ENDS
    assert [row["state"] for row in relay.target_rows()] == [DOWN, UP]
    for _ in range(3):  # probes find the same
        failures = relay.target_rows()[0]["failures"]
        time.advance(MAX_BACKOFF * (1 + JITTER))
        pump(timed, lambda: relay.target_rows()[0]["failures"] > failures, "a probe")  # noqa: B023
        assert converse(timed, relay, 5, closing) == 5
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warning.endswith("is down: it has ended 3 connections at once, without a byte")


def test_a_server_that_reads_a_message_and_ends_stays_usable(timed, time, closing):
    class Collector(Protocol):
        """Takes one message, and answers nothing."""

        def dataReceived(self, data):
            messages.append(data)
            self.transport.loseConnection()

    messages = []
    relay = Relay(timed, [serve(timed, Collector), serve(timed, Collector)])
    relay.listen("127.0.0.1", 0)
    converse(timed, relay, 20, closing)
    assert messages == [b"x"] * 20
    assert [row["state"] for row in relay.target_rows()] == [DOWN, DOWN]
    for _ in range(3):  # the probe begins, connects, and has held its connection
        time.advance(EARLY_SECONDS * (1 + JITTER))
        for _ in range(20):
            timed.iterate(0.001)
    assert [row["state"] for row in relay.target_rows()] == [UP, UP]


def test_a_client_that_ends_first_does_not_count_against_the_target(timed, closing):
    relay = Relay(timed, [serve(timed, Protocol)])
    relay.listen("127.0.0.1", 0)
    for number in range(2 * EARLY_ENDS):
        client = closing(connect(relay.ports[0]))
        pump(timed, lambda: relay.target_rows()[0]["clients"] == 1, "the target")
        client.close()
        pump(timed, lambda: not relay.connections, "the end")
        assert relay.balancer.all()[0].early_ends == 0, number


def test_a_target_that_ends_later_does_not_count(timed, time, closing):
    listener = closing(listening())
    relay = Relay(timed, [listener.getsockname()])
    relay.listen("127.0.0.1", 0)
    for _ in range(EARLY_ENDS):
        client = closing(connect(relay.ports[0]))
        pump(timed, lambda: relay.target_rows()[0]["clients"] == 1, "the target")
        time.advance(EARLY_SECONDS)
        listener.accept()[0].close()
        drain(timed, client)
        client.close()
        pump(timed, lambda: not relay.connections, "the end")
    assert relay.target_rows()[0]["failures"] == 0


def test_a_target_that_comes_back_is_used_again_without_a_client_that_tries(
    timed, time, closing, caplog
):
    caplog.set_level(logging.WARNING, "minireactor")
    number = unused_number()
    relay = Relay(timed, [("127.0.0.1", number), serve(timed, Echo)])
    relay.listen("127.0.0.1", 0)
    assert converse(timed, relay, 1, closing) == 1
    timed.listenTCP(number, Factory.forProtocol(Echo), interface="127.0.0.1")
    for _ in range(3):
        time.advance(EARLY_SECONDS * (1 + JITTER))
        for _ in range(20):
            timed.iterate(0.001)
    assert [row["state"] for row in relay.target_rows()] == [UP, UP]
    assert relay.totals().connections == 1
    assert caplog.records[-1].getMessage() == f"target 127.0.0.1:{number} is up again"


def test_views_show_no_probe(timed, time):
    monitor = Monitor(timed)
    relay = Relay(timed, [serve(timed, Protocol)], check=1.0)
    relay.listen("127.0.0.1", 0)
    time.advance(1)
    pump(timed, lambda: relay.target_rows()[0]["connect"] is not None, "the probe")
    # The server of this test is watched, the proxy is not.
    assert [row["label"] for row in monitor.sample()["connections"]] == ["Protocol"]
    monitor.close()


def test_a_probe_sends_a_header_of_our_own_if_clients_are_sent_with_one(timed, time):
    class Reader(Protocol):
        def dataReceived(self, data):
            received.append(data)

    def own(source, destination):
        return f"{source.host} {destination.port}\n".encode()

    received = []
    place = serve(timed, Reader)
    for header in (own, header_v2):
        relay = Relay(timed, [place], header=header, check=1.0)
        relay.listen("127.0.0.1", 0)
        time.advance(1)
        pump(timed, lambda: received, "the header")
        relay.stop(0)
        assert received.pop() == {own: b"127.0.0.1 %d\n" % place[1], header_v2: local_v2()}[header]


def test_a_probe_speaks_TLS_where_clients_are_connected_with_TLS(timed, time, certificates):
    from minireactor.transports.tls_start import SecureConnector

    plain, echo = serve(timed, Closer), Factory.forProtocol(Echo)
    port = timed.listenSSL(0, echo, certificates.server(), interface="127.0.0.1")
    good = "127.0.0.1", port.getHost().port
    tls = SecureConnector(certificates.client(), "localhost")
    relay = Relay(timed, [plain, good], target_tls=tls, check=1.0)
    relay.listen("127.0.0.1", 0)
    time.advance(1)
    pump(timed, lambda: relay.target_rows()[0]["failures"], "the plain target")
    pump(timed, lambda: relay.target_rows()[1]["connect"] is not None, "the handshake")
    relay.stop(0)
    assert [row["state"] for row in relay.target_rows()] == [DOWN, UP]


def let_pass(time, reactor, seconds):
    """Let time pass in steps, with the reactor running."""
    for _ in range(round(seconds * 2)):
        time.advance(0.5)
        for _ in range(3):
            reactor.iterate(0)


def test_a_server_that_stops_probes_no_longer(timed, time):
    relay = Relay(timed, [serve(timed, Closer), serve(timed, Echo)], check=1.0)
    relay.listen("127.0.0.1", 0)
    let_pass(time, timed, 3)
    before = [row["failures"] for row in relay.target_rows()]
    assert before[0] and not before[1]
    relay.stop(0)
    let_pass(time, timed, 10)
    assert [row["failures"] for row in relay.target_rows()] == before


def test_a_new_target_is_checked_and_an_old_one_no_longer(timed, time):
    old, new = serve(timed, Closer), serve(timed, Echo)
    relay = Relay(timed, [old, new], check=1.0)
    relay.listen("127.0.0.1", 0)
    relay.set_targets([Target(new), Target(serve(timed, Closer))])
    let_pass(time, timed, 3)
    (first, second) = relay.target_rows()
    assert (first["state"], second["state"]) == (UP, DOWN)
    assert first["connect"] is not None


def test_a_target_that_is_the_proxy_itself_is_probed_only_until_a_client_finds_it(
    timed, time, closing
):
    number = unused_number()
    relay = Relay(timed, [("127.0.0.1", number), serve(timed, Echo)], check=1.0)
    relay.listen("127.0.0.1", number)
    assert converse(timed, relay, 3, closing) == 3
    let_pass(time, timed, 5)
    failures = relay.target_rows()[0]["failures"]
    connections = relay.totals().connections
    let_pass(time, timed, 20)
    assert relay.target_rows()[0]["state"] == DOWN
    assert relay.target_rows()[0]["failures"] == failures
    assert relay.totals().connections == connections


def test_a_removed_target_keeps_its_clients(timed, closing):
    relay = Relay(timed, [serve(timed, Echo)])
    relay.listen("127.0.0.1", 0)
    client = closing(connect(relay.ports[0]))
    pump(timed, lambda: relay.target_rows()[0]["clients"] == 1, "the target")
    changes = relay.set_targets([Target(serve(timed, Echo))])
    assert (len(changes.added), len(changes.removed)) == (1, 1)
    assert sorted(row["state"] for row in relay.target_rows()) == ["draining", UP]
    client.sendall(b"x")
    client.setblocking(True)
    for _ in range(50):
        timed.iterate(0.001)
    assert client.recv(1) == b"x"
    assert converse(timed, relay, 3, closing) == 3
    client.close()
    pump(timed, lambda: len(relay.target_rows()) == 1, "the end of the drain")
