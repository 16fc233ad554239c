"""The library in a simulated network: many seeds, and faults that are planted in the library.

python -m pytest -m '' tests/test_simulation.py            # a million steps
MINIREACTOR_SEED=417 python -m pytest tests/test_simulation.py -k conversations
"""

from __future__ import annotations

import itertools
import re

import pytest
from simulated import conversations_in

from minireactor.core import flow
from minireactor.core.buffer import WriteBuffer
from minireactor.core.loop import Loop
from minireactor.protocol import ClientFactory, Protocol
from minireactor.proxy import legs
from minireactor.proxy.factory import ProxyFactory
from minireactor.proxy.legs import CAN_SPLICE, Leg
from minireactor.testing import Network, SimulationError, simulate
from minireactor.transports.closing import Lingering
from minireactor.transports.connection import Connection
from minireactor.transports.port import Port
from minireactor.transports.sockets import Endpoint

STEPS = 15_000  # of the usual run
BLOCKS = 10  # of a long run, of which each has BLOCK_STEPS: a million together
BLOCK_STEPS = 100_000
BLOCK_SEEDS = 10_000

MAX_STEPS = 10_000  # within which each planted fault must be found
SEEDS = range(100_000, 100_200)  # other seeds than the long runs have


def run_for(steps, seeds, scenario):
    """Run a scenario with one seed after the other, for at least so many steps."""
    done = 0
    for seed in seeds:
        if done >= steps:
            return
        done += simulate(scenario, [seed])
    raise AssertionError(f"only {done} steps in all seeds")


def test_conversations_through_two_proxies_keep_all_rules(tmp_path):
    run_for(STEPS, range(BLOCK_SEEDS), conversations_in(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not CAN_SPLICE, reason="this system has no splice()")
def test_conversations_through_proxies_that_splice_keep_all_rules(tmp_path, monkeypatch):
    splices = []
    original = legs.splice_from
    monkeypatch.setattr(legs, "splice_from", lambda sock: splices.append(sock) or original(sock))
    run_for(STEPS, range(BLOCK_SEEDS), conversations_in(tmp_path, splice=True))
    assert len(splices) > 10


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, BLOCKS + 1))
def test_a_million_steps_of_conversations_keep_all_rules(block, tmp_path):
    seeds = range(block * BLOCK_SEEDS, (block + 1) * BLOCK_SEEDS)
    run_for(BLOCK_STEPS, seeds, conversations_in(tmp_path))


# Ends in every order: each side half-closes, closes or aborts, or a link resets its connection.


class Side(Protocol):
    """One side of a conversation through a proxy. It ends nothing by itself."""

    def __init__(self, sides, size):
        self.sides, self.size = sides, size
        self.got = 0
        self.saw_end = False

    def connectionMade(self):
        self.sides.append(self)
        self.transport.write(bytes(self.size))

    def dataReceived(self, data):
        self.got += len(data)

    def readConnectionLost(self):
        self.saw_end = True

    def writeConnectionLost(self):
        pass


class Sides(ClientFactory):
    """Makes the sides of one conversation."""

    noisy = False

    def __init__(self, sides, size):
        self.arguments = sides, size

    def buildProtocol(self, addr):
        return Side(*self.arguments)


HALF, LOSE, ABORT, RESET = ENDS = (
    lambda network, side: side.transport.loseWriteConnection(),
    lambda network, side: side.transport.loseConnection(),
    lambda network, side: side.transport.abortConnection(),
    lambda network, side: network.reset(side.transport),
)
EVENTS = [(end, which) for end in range(len(ENDS)) for which in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 100_000])
def test_ends_in_every_order_leave_nothing_and_pass_no_part_for_a_whole(size):
    ended = 0
    for number, order in enumerate(itertools.permutations(EVENTS, 2)):
        network = Network(seed=number)
        network.links(bandwidth=1e6)
        splitting = network.chance.choice([0.0, 0.4])
        network.faults.set(short_send=splitting, short_read=splitting, again=splitting / 2)
        sides = []
        network.host("server").listenTCP(80, Sides(sides, size))
        network.host("proxy").listenTCP(80, ProxyFactory("server", 80))
        network.host("client").connectTCP("proxy", 80, Sides(sides, size))
        delay = network.chance.choice([0.002, 0.05, 0.4])
        network.run(delay)
        for end, which in order:
            if which < len(sides):
                network.do(0.0, ENDS[end], network, sides[which])
            network.run(delay)
        network.run(2.0)
        for side in sides:  # what is still open ends now
            side.transport.loseConnection()
        network.finish()
        network.close()
        assert all(side.got == size for side in sides if side.saw_end)
        ended += sum(side.saw_end for side in sides)
    assert ended > 10


# The faults. Each is planted alone, in place of a method of the library.


def lost_pause(self, event, original):
    """Do not pause a producer above the high mark."""
    if event is not flow.ABOVE:
        original(self, event)


def lost_resume(self, original):
    """Forget the turn of a producer after its second pause."""
    if self.pauses != 2:
        original(self)


def double_resume(self, call, original):
    """Resume a producer twice."""
    original(self, call)
    if call is not None and call[1] is flow.RESUME:
        original(self, call)


def early_resume(self, original):
    """Resume a producer whenever something has been sent."""
    original(self)
    if self.pending and self._flow.state is flow.PAUSED:
        self._call_producer((self._flow.producer, flow.RESUME))


def dropped_tail(self, original):
    """Close without what the kernel has not taken."""
    if self._state.finishes and len(self._buffer):
        self._buffer.clear()
    original(self)


def repeated_byte(self, count, original):
    """Send the last byte of a full send again."""
    return original(self, count - 1 if count > 1 and len(self) > count else count)


def early_close(self, reason, original):
    """Let a proxy report a reset stream as a complete one."""
    from minireactor.error import ConnectionDone
    from minireactor.failure import Failure

    original(self, Failure(ConnectionDone()))


def lost_half_close(self, original):
    """Let a proxy keep the end of a stream for itself."""


def plain_close(self, reset, linger, original):
    """Close a socket without a look at what is unread."""
    original(self, reset, False)


def leak(self, original):
    """Forget to close a lingering socket."""
    if self._timer.active():
        self._timer.cancel()


def spin(self, handler, original):
    """Never give up an interest, so that a paused socket is reported for ever."""
    if handler.registered is None or handler.interest() & ~handler.registered:
        original(self, handler)


def deaf_reader(self, original):
    """Forget to read again after a pause."""
    self.reading = self._state.reads


def eager_reader(self, original):
    """Go on reading while paused."""


def second_end(self, reason, original):
    """Report the end of a connection twice."""
    original(self, reason)
    self.reactor.notify("connectionLost", self, reason)


def unstopped_producer(self, event, original):
    """Do not stop the producer of a lost connection."""
    return None if event is flow.ENDED else original(self, event)


def starved_newcomer(self, listener, original):
    """Accept nobody while a connection has a producer."""
    others = (each for each in self.reactor.handlers() if isinstance(each, Connection))
    if not any(each.producer for each in others):
        original(self, listener)


FAULTS = {
    lost_pause: (Connection, "_signal", "P2"),
    lost_resume: (Connection, "_resume_in_turn", "waits in vain"),
    double_resume: (Connection, "_call_producer", "P3"),
    early_resume: (Connection, "doWrite", "P3"),
    dropped_tail: (Connection, "_end_of_writing", "E5|E7|bytes"),
    repeated_byte: (WriteBuffer, "advance", "B1"),
    early_close: (Leg, "connectionLost", "clean end"),
    lost_half_close: (Leg, "readConnectionLost", "left over|E5|E7|waits|clean"),
    plain_close: (Endpoint, "close_socket", "C1"),
    leak: (Lingering, "close", "leak"),
    spin: (Loop, "update_interest", "spin|T5"),
    deaf_reader: (Connection, "resumeProducing", "left over|T5|waits|clean"),
    eager_reader: (Connection, "pauseProducing", "R1|memory|logged"),
    second_end: (Connection, "_close", "E8"),
    unstopped_producer: (flow.FlowControl, "fire", "E3"),
    starved_newcomer: (Port, "accept_from", "T5|spin"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_within_ten_thousand_steps(fault, monkeypatch, tmp_path):
    owner, name, message = FAULTS[fault]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kw: fault(*args, **kw, original=original))
    scenario = conversations_in(tmp_path, limits=False, conversations=5, quick=True)
    steps = 0
    for seed in SEEDS:
        try:
            steps += simulate(scenario, [seed], shrink=False)
        except SimulationError as error:
            steps += error.step
            assert re.search(message, error.message), error.message
            break
        assert steps <= MAX_STEPS, "not found"
