"""A simulated network by itself: time, links, faults on command and by rate, checks, seeds."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import minireactor
from minireactor.core import waker
from minireactor.error import (
    CannotListenError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.serve.apps import Echo
from minireactor.serve.server import Server
from minireactor.simulation.chance import Chance
from minireactor.testing import Network, SimulationError, simulate


class Recorder(Protocol):
    """Notes what comes, when, and the end."""

    def __init__(self, send=b""):
        self.send = send
        self.data = bytearray()
        self.times = []
        self.made_at = self.lost_at = None
        self.reason = None

    def connectionMade(self):
        self.made_at = self.transport.reactor.seconds()
        self.transport.write(self.send)

    def dataReceived(self, data):
        self.data += data
        self.times.append(self.transport.reactor.seconds())

    def connectionLost(self, reason):
        self.reason = reason.value
        self.lost_at = self.transport.reactor.seconds()


class Noting(ClientFactory):
    """Connects one Recorder, and notes why it could not."""

    noisy = False

    def __init__(self, send=b""):
        self.protocol = Recorder(send)
        self.failure = None
        self.failed_at = None

    def buildProtocol(self, addr):
        return self.protocol

    def clientConnectionFailed(self, connector, reason):
        self.failure = reason.value
        self.failed_at = connector.reactor.seconds()


@pytest.fixture
def network():
    network = Network(seed=1)
    yield network
    network.close()


def echo(network, name="server", port=80, **limits):
    server = Server(network.host(name), Factory.forProtocol(Echo), **limits)
    server.listen("0.0.0.0", port)
    return server


def call(network, host="client", to="server", port=80, send=b"", timeout=30):
    """Connect a Recorder, and return the factory."""
    factory = Noting(send)
    network.host(host).connectTCP(to, port, factory, timeout)
    return factory


# Time and links.


def test_a_name_leads_to_a_host_and_bytes_take_the_delay_of_the_link(network):
    network.links(delay=0.1)
    echo(network)
    client = call(network, send=b"hello").protocol
    network.run(5)
    assert client.data == b"hello"
    # A look-up of at most 5 ms, the SYN and its answer; then the bytes, both ways.
    assert client.made_at == pytest.approx(0.2, abs=0.01)
    assert client.times[0] - client.made_at == pytest.approx(0.2, abs=0.001)


def test_a_link_carries_its_bandwidth_for_all_connections_together(network):
    network.link("client", "server", bandwidth=100_000)

    class Generous(Protocol):
        def connectionMade(self):
            self.transport.write(bytes(500_000))
            self.transport.loseConnection()

    network.host("server").listenTCP(80, Factory.forProtocol(Generous))
    clients = [call(network).protocol for _ in range(2)]
    network.finish()
    assert [len(client.data) for client in clients] == [500_000] * 2
    assert max(client.lost_at for client in clients) == pytest.approx(10, rel=0.02)


def test_run_takes_no_real_time_and_opens_no_descriptor(network):
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    echo(network, idle_timeout=3600)
    client = call(network, send=b"x").protocol
    network.run(10_000)
    assert client.lost_at == pytest.approx(3600, rel=0.3)
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) == before


def test_a_host_runs_until_its_program_stops(network):
    host = network.host("a")
    fired = []
    host.addSystemEventTrigger("before", "shutdown", fired.append, "before")
    host.callLater(3, host.stop)
    host.run()
    assert (fired, network.time) == (["before"], pytest.approx(3, abs=1e-3))


def test_run_cannot_be_nested(network):
    errors = []

    def nested():
        with pytest.raises(RuntimeError, match="cannot be nested") as caught:
            network.run(1)
        errors.append(caught.value)

    network.host("a").callLater(0, nested)
    network.run(1)
    assert len(errors) == 1


def test_threads_are_only_simulated(network):
    host, results = network.host("a"), []
    host.callInThread(lambda: host.callFromThread(results.append, host.seconds()))
    network.run(1)
    assert len(results) == 1


# Seeds.


def trace_of(seed):
    """Return a number for all that clients have seen, and when."""
    network = Network(seed)
    network.links(jitter=0.01, bandwidth=1e6)
    network.faults.set(short_send=0.2, short_read=0.2, again=0.2, partition=0.5)
    echo(network)
    clients = [call(network, send=bytes(50_000)).protocol for _ in range(3)]
    network.run(10)
    network.close()
    return zlib.crc32(repr([each.times for each in clients]).encode())


def test_a_seed_gives_the_same_run_on_every_version_of_python():
    assert trace_of(1) == 3238278152
    assert trace_of(2) != trace_of(1)


def test_chance_draws_the_same_on_every_version_of_python():
    chance = Chance(7)
    items = list(range(5))
    chance.shuffle(items)
    drawn = [chance.below(100), chance.happens(0.5), chance.choice("abc"), items]
    assert drawn == [53, True, "a", [2, 3, 4, 0, 1]]


def test_a_failure_names_its_seed_and_a_shortened_run_that_repeats_it(monkeypatch):
    def scenario(network):
        echo(network)
        clients = []
        for _ in range(20):
            network.do(network.chance.between(0, 5), lambda: clients.append(call(network)))
        network.run(6)
        for each in clients:
            if each.protocol.transport is not None:
                each.protocol.transport.loseConnection()
        network.run(6)
        assert len(clients) < 3, "three clients are too many"

    with pytest.raises(SimulationError, match="three clients are too many") as caught:
        simulate(scenario, seeds=[3])
    repeat = str(caught.value).splitlines()[-1]
    assert repeat.startswith("Repeat: MINIREACTOR_SEED=3:")
    steps = int(repeat.rpartition(":")[2])
    assert 3 <= steps < 80

    monkeypatch.setenv("MINIREACTOR_SEED", f"3:{steps}")
    with pytest.raises(SimulationError, match="three clients"):
        simulate(scenario, seeds=0)
    monkeypatch.setenv("MINIREACTOR_SEED", f"3:{steps - 1}")
    simulate(scenario, seeds=0)


def test_an_impossible_seed_is_named(monkeypatch):
    monkeypatch.setenv("MINIREACTOR_SEED", "x")
    with pytest.raises(ValueError, match="MINIREACTOR_SEED='x' is not a seed"):
        simulate(lambda network: None)


def test_simulate_seeds_the_module_random_and_restores_its_state():
    state, drawn = random.getstate(), []
    simulate(lambda network: drawn.append(random.random()), seeds=[5])
    simulate(lambda network: drawn.append(random.random()), seeds=[5])
    assert drawn[0] == drawn[1]
    assert random.getstate() == state


# Faults on command.


def test_a_frozen_host_answers_after_it_thaws(network):
    echo(network)
    client = call(network, send=b"x").protocol
    network.run(1)
    network.freeze("server")
    client.transport.write(b"y")
    network.run(5)
    assert client.data == b"x"
    network.thaw("server")
    network.run(1)
    assert client.data == b"xy"


def test_a_partition_holds_everything_and_loses_nothing(network):
    echo(network)
    client = call(network, send=b"x").protocol
    network.run(1)
    network.partition("client", "server")
    client.transport.write(b"y")
    network.run(100)
    assert (client.data, client.reason) == (b"x", None)
    network.heal("client", "server")
    network.run(1)
    assert client.data == b"xy"


def test_a_vanished_host_sends_no_reset_and_data_for_it_times_out(network):
    echo(network)
    client = call(network, send=b"x").protocol
    idle = call(network).protocol
    network.run(1)
    network.vanish("server")
    client.transport.write(b"y")
    network.run(900)
    assert client.reason is None
    network.run(100)
    assert isinstance(client.reason, ConnectionLost)
    assert idle.reason is None


def test_a_host_that_comes_back_knows_no_connection(network):
    echo(network)
    client = call(network, send=b"x").protocol
    network.run(1)
    network.vanish("server")
    network.run(5)
    network.come_back("server")
    echo(network)
    client.transport.write(b"y")
    again = call(network, send=b"z").protocol
    network.run(2)
    assert isinstance(client.reason, ConnectionLost)
    assert again.data == b"z"


def test_a_reset_reaches_both_ends(network):
    server = echo(network)
    client = call(network, send=b"x").protocol
    network.run(1)
    network.reset(client.transport)
    network.run(1)
    assert isinstance(client.reason, ConnectionLost)
    assert not server.connections


def test_a_host_without_descriptors_turns_clients_away(network):
    server = echo(network)
    clients = [call(network) for _ in range(10)]
    network.run(0)
    network.host("server").limit_descriptors(len(network.host("server").system.open) + 3)
    network.run(5)
    assert len(server.connections) == 3
    assert sum(isinstance(each.protocol.reason, ConnectionDone) for each in clients) == 7


# What no host, no port and no name gives.


def test_a_port_without_a_listener_refuses(network):
    network.host("server")
    factory = call(network)
    network.run(1)
    assert isinstance(factory.failure, ConnectionRefusedError)


def test_an_address_without_a_host_never_answers(network):
    factory = call(network, to=Network.DEAD_ADDRESS, timeout=7)
    network.run(10)
    assert isinstance(factory.failure, TimeoutError)
    assert factory.failed_at == pytest.approx(7, abs=0.01)


def test_an_unknown_name_is_not_found(network):
    factory = call(network, to="nowhere")
    network.run(1)
    assert isinstance(factory.failure, DNSLookupError)


def test_a_port_number_can_be_taken_once(network):
    echo(network)
    with pytest.raises(CannotListenError):
        network.host("server").listenTCP(80, Factory.forProtocol(Echo))


def test_a_dead_address_first_delays_the_connection_by_the_stagger(network):
    echo(network)
    network.faults.dead_address = 1.0
    client = call(network).protocol
    network.run(2)
    assert client.made_at == pytest.approx(0.25, abs=0.05)


def test_a_slow_lookup_takes_its_time_and_a_failed_one_fails(network):
    echo(network)
    network.faults.slow_lookup = 1.0
    client = call(network).protocol
    network.run(30)
    assert client.made_at == pytest.approx(20, abs=0.1)
    network.faults.set(slow_lookup=0, failed_lookup=1)
    factory = call(network)
    network.run(1)
    assert isinstance(factory.failure, DNSLookupError)


@pytest.mark.parametrize(
    "fault", ["short_send", "short_read", "again", "abort_accept", "no_buffers", "no_descriptors"]
)
def test_a_fault_that_comes_at_every_second_chance_costs_time_and_no_byte(network, fault):
    echo(network)
    network.faults.set(**{fault: 0.5})
    clients = [call(network, send=bytes(range(256)) * 100) for _ in range(5)]
    network.run(60)
    served = [each.protocol for each in clients if not (each.failure or each.protocol.reason)]
    assert served
    assert all(each.data == each.send for each in served)


def test_a_fault_needs_a_known_name_and_a_rate(network):
    with pytest.raises(TypeError, match="'slow' is not a fault"):
        network.faults.set(slow=1)
    with pytest.raises(ValueError, match="reset=2 is not a rate"):
        network.faults.set(reset=2)


# Checks: what a program does wrong.


def serve(network, protocol):
    network.host("server").listenTCP(80, Factory.forProtocol(protocol))


def test_an_exception_of_a_callback_is_a_failure(network):
    class Broken(Protocol):
        def dataReceived(self, data):
            raise LookupError("lost")

    serve(network, Broken)
    call(network, send=b"x")
    with pytest.raises(SimulationError, match=r"logged: .*LookupError\('lost'\)"):
        network.run(1)


def test_a_producer_that_goes_on_while_paused_is_a_failure(network):
    class Deaf(Protocol):
        def connectionMade(self):
            self.transport.registerProducer(self, True)
            for _ in range(100):
                self.transport.write(bytes(10_000))

        def pauseProducing(self):
            pass

        resumeProducing = stopProducing = pauseProducing

    serve(network, Deaf)
    call(network)
    with pytest.raises(SimulationError, match="memory: [0-9]+ bytes written while paused"):
        network.run(1)


def test_a_connection_that_nobody_ends_is_left_over(network):
    serve(network, Protocol)
    call(network)
    network.run(1)
    with pytest.raises(SimulationError, match="left over: 2 connections"):
        network.finish()


def test_open_connections_may_be_expected(network):
    serve(network, Protocol)
    call(network)
    network.run(1)
    network.finish(open_connections=2)


def test_an_endless_chain_of_calls_is_a_spin(network):
    host = network.host("a")

    def again():
        host.call_soon(again)

    host.callWhenRunning(again)
    with pytest.raises(SimulationError, match="spin"):
        network.run(1)


def test_testing_loads_the_network_only_when_it_is_used():
    code = (
        "import sys, minireactor.testing\n"
        "print(any('simulation' in name for name in sys.modules))\n"
        "minireactor.testing.Network\n"
        "print(any('simulation' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_testing_has_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'Netwerk'"):
        __import__("minireactor.testing").testing.Netwerk  # noqa: B018


# The example of the documentation.

README = Path(minireactor.__file__).parent / "simulation" / "README.md"


def example():
    """Return the names that the example defines, without running its last line."""
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    program, _, last = code.rstrip().rpartition("\n")
    assert last == "simulate(one_piece, seeds=1000)"
    names = {"__name__": "example"}
    exec(program, names)
    return names


def test_the_example_of_the_readme_fails_as_it_says():
    text = README.read_text(encoding="utf-8")
    expected = re.search(r"```\n(AssertionError.*?)\n```", text, re.DOTALL)[1]
    seed = int(re.search(r"seed (\d+)", expected)[1])
    with pytest.raises(SimulationError) as caught:
        simulate(example()["one_piece"], seeds=[seed])
    assert str(caught.value) == expected


@pytest.mark.slow
def test_one_seed_in_a_thousand_shows_the_fault_of_the_example():
    scenario = example()["one_piece"]
    failures = 0
    for seed in range(2000):
        try:
            simulate(scenario, seeds=[seed])
        except SimulationError:
            failures += 1
    assert failures == 2


def test_a_fork_of_the_process_changes_nothing_in_a_simulation(network, monkeypatch):
    monkeypatch.setattr(waker, "_forked", True)
    server = echo(network)
    client = call(network, send=b"x").protocol
    network.run(1)
    server.ports[0].stopListening()
    client.transport.abortConnection()
    network.finish()
    assert not network.host("server").listeners
