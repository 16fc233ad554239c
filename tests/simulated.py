"""A world for simulations: clients, two proxies and a server, with all that can happen to them.

client - proxy - proxy - server. Every draw comes from the network's seed. Each conversation knows
which bytes it must get. It checks them as they come, and fails if a stream that has ended in order
is not complete.
"""

from __future__ import annotations

import random

from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.proxy.balance import BALANCES
from minireactor.proxy.factory import ProxyFactory
from minireactor.proxy.relay import Relay
from minireactor.serve.apps import Chargen, Echo, FileFactory, RandomFactory, ServeRandom
from minireactor.serve.server import Server
from minireactor.testing import StrictPullProducer, StrictPushProducer

NOISE = random.Random(1).randbytes(1 << 20) if hasattr(random.Random, "randbytes") else b""
NOISE = NOISE or bytes(random.Random(1).getrandbits(8) for _ in range(1 << 20))
LAST_SECONDS = 60.0  # when a conversation is aborted that has not ended
SEED = 5  # of the app `random`
ID_BYTES = 4  # what a client of the app `sink` sends first

ECHO, SINK, RANDOM, CHARGEN, FILE = APPS = ("echo", "sink", "random", "chargen", "file")
# How a client ends: half-closes, closes or aborts; "cut": a connection is reset, any one.
ENDS = ("half", "half", "half", "lose", "none", "abort", "cut", "cut")
QUICK_ENDS = ("half", "lose", "abort", "cut", "cut")
QUICK_APPS = (ECHO, SINK, FILE)  # no endless stream
PORTS = {app: 7000 + number for number, app in enumerate(APPS)}


def integers(count):
    """Return what the app `random` sends for a request of `count` integers."""
    factory = RandomFactory(SEED)
    lines = factory.generator().choices(factory.lines, k=count)
    return ServeRandom.question + b"".join(lines)


INTEGERS = integers(12_000)


class Sink(Protocol):
    """The app that checks what a client sends: its number, then the client's payload."""

    def connectionMade(self):
        self.got = bytearray()
        self.plan = None
        self.has_all = False

    def dataReceived(self, data):
        self.got += data
        if len(self.got) >= ID_BYTES:
            number = int.from_bytes(self.got[:ID_BYTES], "big")
            payload = self.factory.world.conversations[number].payload
            assert payload[: len(self.got)] == self.got, "the server gets other bytes"

    def readConnectionLost(self):
        self.has_all = True
        if len(self.got) >= ID_BYTES:
            number = int.from_bytes(self.got[:ID_BYTES], "big")
            talk = self.factory.world.conversations[number]
            self.factory.world.check_complete("the server", self.got, talk.payload)
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


class Conversation(Protocol):
    """One client: writes its payload in one way of several, ends it, and reads at its own pace."""

    def __init__(self, world, number, app):
        self.world, self.number, self.app = world, number, app
        chance = world.chance
        self.size = chance.choice(world.sizes)
        self.start = chance.below(len(NOISE) - self.size)
        self.payload = NOISE[self.start : self.start + self.size]
        self.wanted = self.payload if app == ECHO else b""
        if app == SINK:
            self.payload = number.to_bytes(ID_BYTES, "big") + self.payload
        elif app == RANDOM:
            lines = 12_000 if world.quick else chance.choice([0, 1, 300, 12_000])
            self.payload = b"%d\r\n" % lines
            cut = INTEGERS.split(b"\n", lines + 1)
            self.wanted = (
                INTEGERS[: len(INTEGERS) - len(cut[-1])] if len(cut) > lines + 1 else INTEGERS
            )
        elif app == CHARGEN:
            self.payload = b""
            self.wanted = Chargen.block * 40
        elif app == FILE:
            self.payload = b""
            self.wanted = world.file_bytes
        self.writer = chance.choice(["all", "push", "pull"])
        self.end = chance.choice(QUICK_ENDS if world.quick else ENDS)
        self.pace = chance.choice(["fast", "fast", "slow", "stalled", "turns"])
        self.delay = chance.choice([0.0001, 0.01, 0.3])
        self.got = 0
        self.lost = None
        self.has_ended = False  # we have

    def connectionMade(self):
        transport, chance = self.transport, self.world.chance
        reactor = transport.reactor
        self.last = reactor.callLater(LAST_SECONDS, transport.abortConnection)
        if chance.below(2):
            transport.setWriteBufferLimits(chance.choice([1000, 20_000, 300_000]))
        if self.pace == "stalled":
            transport.pauseProducing()
            if chance.below(2):
                reactor.callLater(chance.between(0, 20), transport.resumeProducing)
        if self.end in ("abort", "cut"):
            longest = chance.choice([0.05, 0.2] if self.world.quick else [0.003, 0.05, 3.0])
            reactor.callLater(chance.between(0, longest), self.break_off)
        if self.writer == "all" or not self.payload:
            transport.write(self.payload)
            self.finish()
            return
        size = chance.choice([100, 5000, 70_000])
        size = max(size, len(self.payload) // 200)
        chunks = [self.payload[at : at + size] for at in range(0, len(self.payload), size)]
        kind = StrictPushProducer if self.writer == "push" else StrictPullProducer
        on = {}
        if chance.below(20) == 0:  # rule E6
            self.has_ended = True
            on["pauseProducing"] = transport.abortConnection
        self.producer = kind(transport, chunks, on)
        unregister = self.producer.unregister
        self.producer.unregister = lambda: (unregister(), self.finish())
        self.producer.start()

    def finish(self):
        """End our direction, or the conversation, now that all is written."""
        if self.end == "half":
            self.transport.loseWriteConnection()
        elif self.end == "lose":
            self.has_ended = True
            self.transport.loseConnection()

    def break_off(self):
        if self.end == "abort":
            self.has_ended = True
            self.transport.abortConnection()
        elif not self.lost:
            # Whose connection is reset: this client's, or any other one, perhaps of a proxy.
            network = self.world.network
            network.reset(self.world.chance.choice(list(network.checker.open)))

    def dataReceived(self, data):
        count = len(data)
        assert self.wanted[self.got : self.got + count] == data, f"{self.app}: other bytes"
        self.got += count
        if self.pace == "slow" and self.transport.reading:
            self.transport.pauseProducing()
            self.transport.reactor.callLater(self.delay, self.transport.resumeProducing)
        elif self.pace == "turns" and self.world.chance.below(8) == 0:
            self.transport.setWriteBufferLimits(self.world.chance.choice([500, 9000, 100_000]))
        elif self.pace == "turns" and self.world.chance.below(4) == 0:
            self.transport.pauseProducing()
            self.transport.resumeProducing()
        if self.app == CHARGEN and self.got > 300_000:
            self.has_ended = True
            self.transport.loseConnection()

    def readConnectionLost(self):
        if not self.has_ended and self.app != CHARGEN and self.end in ("half", "none"):
            self.world.check_complete(self.app, self.got, self.wanted)
        self.has_ended = True
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass

    def connectionLost(self, reason):
        assert self.lost is None, "a second connectionLost()"
        self.lost = reason.value
        if self.last.active():
            self.last.cancel()


class Caller(ClientFactory):
    """Makes one conversation."""

    noisy = False

    def __init__(self, world, number, app):
        self.talk = Conversation(world, number, app)

    def buildProtocol(self, addr):
        return self.talk


class World:
    """The hosts, and `conversations` at random times. With `limits`, streams may end early.

    folder: where the file of the app `file` is written.
    splice: the proxies splice bulk data, of which much arrives at a time.
    quick: no slow links and no small streams, so that few steps show much."""

    def __init__(
        self,
        network,
        folder,
        conversations=12,
        limits=None,
        faults=True,
        quick=False,
        splice=False,
    ):
        self.network = network
        self.chance = chance = network.chance
        self.conversations = []
        self.limits = chance.below(4) == 0 if limits is None else limits
        self.quick = quick
        self.splice = splice
        self.sizes = [3000, 60_000] if quick else [0, 1, 50, 3000, 40_000, 200_000, 600_000]
        if splice:
            self.sizes = [50, 900_000]
        self.file_bytes = NOISE[: chance.choice([60_000] if quick else [1, 5000, 300_000])]
        path = folder / f"{len(self.file_bytes)} bytes"
        if not path.exists():
            path.write_bytes(self.file_bytes)
        network.links(
            bandwidth=1e8 if splice else chance.choice([1e6, 1e7] if quick else [30e3, 1e6, 1e8]),
            delay=chance.choice([0.0, 0.001] if quick else [0.0, 0.001, 0.08]),
            jitter=chance.choice([0.0, 0.002] if quick else [0.0, 0.002, 0.1]),
            send_buffer=chance.choice([64_000, 500_000] if splice else [8_000, 64_000, 500_000]),
            receive_buffer=300_000 if splice else chance.choice([4_000, 64_000, 300_000]),
        )
        costs = [3e-4, 2e-3] if splice else [1e-6, 2e-5, 3e-4]  # slow hosts get much at a time
        self.server, self.near, self.far = [
            network.host(name, chance.choice(costs)) for name in ("server", "near", "far")
        ]
        self.clients = [network.host(name) for name in ("a", "b")]
        self.near.system.has_splice = self.far.system.has_splice = splice
        self.servers = []
        self._serve(str(path))
        for host, target in ((self.far, "server"), (self.near, "far")):
            for app in APPS:
                self._proxy(host, target, PORTS[app])
        if self.limits:
            self._draw_accidents()
        if faults:
            self._draw_faults()
        for number in range(conversations):
            app = chance.choice(QUICK_APPS if quick else APPS)
            network.do(chance.between(0, 2 if quick else 8), self._call, number, app)

    def _drawn_limits(self):
        chance = self.chance
        if not self.limits:
            return {}
        return {
            "idle_timeout": chance.choice([None, 5, 30]),
            "stall_timeout": chance.choice([None, 5, 30]),
            "max_connections": chance.choice([None, 2, 50]),
        }

    def _marks(self):
        return self.chance.choice([(65_536, 16_384), (3000, 0), (200_000, 199_999)])

    def _serve(self, path):
        sink = Factory.forProtocol(Sink)
        sink.world = self
        factories = {
            ECHO: Factory.forProtocol(Echo),
            SINK: sink,
            RANDOM: RandomFactory(SEED),
            CHARGEN: Factory.forProtocol(Chargen),
            FILE: FileFactory(path),
        }
        for app, factory in factories.items():
            server = Server(self.server, factory, **self._drawn_limits())
            server.listen("0.0.0.0", PORTS[app], *self._marks())
            self.servers.append(server)

    def _proxy(self, host, target, port):
        chance = self.chance
        rate = None if self.splice else chance.choice([None, None, 100_000.0])
        if chance.below(2):
            places = [(target, port)]
            if chance.below(3) == 0:  # one that refuses, and one that does not exist
                places = [("server", 9), ("nowhere", port), (target, port)]
            balance = chance.choice(BALANCES)
            options = {"check": chance.choice([None, 2.0]), **self._drawn_limits()}
            options.update(rate=rate, balance=balance, timeout=5, chance=chance.random)
            relay = Relay(host, places, **options)
            self.network.at(10.0, relay.health.stop)  # or its probes go on while the network ends
            relay.listen("0.0.0.0", port, *self._marks())
            self.servers.append(relay)
        else:
            host.listenTCP(port, ProxyFactory(target, port, rate=rate))

    def _draw_accidents(self):
        """Let servers stop, hosts run out of descriptors, and the server lose its power."""
        chance, network = self.chance, self.network
        for server in self.servers:
            if chance.below(4) == 0:
                grace = chance.choice([0, 0.5, 20])
                network.do(chance.between(0, 10), server.stop, grace)
        if chance.below(3) == 0:
            host = chance.choice([self.near, self.far, self.server])
            limit = len(host.system.open) + chance.choice([0, 2, 10])
            network.do(chance.between(0, 5), host.limit_descriptors, limit)
        if chance.below(3) == 0:
            network.do(chance.between(0, 10), network.vanish, "server")

    def _draw_faults(self):
        chance, faults = self.chance, self.network.faults
        often = 0.05 if self.quick else 0.3
        rates = {name: chance.choice([0, 0, 0.02, often]) for name in ("short_send", "short_read")}
        rates["again"] = chance.choice([0, 0.05, often])
        rates["reset"] = chance.choice([0, 0, 0, 0.002])
        for name in ("abort_accept", "no_buffers", "no_descriptors", "failed_lookup"):
            rates[name] = chance.choice([0, 0, 0, 0.1])
        for name in ("slow_lookup", "dead_address"):
            rates[name] = chance.choice([0, 0, 0.2])
        for name in ("freeze", "partition"):
            rates[name] = chance.choice([0, 0, 0.5])
        faults.set(**rates)

    def _call(self, number, app):
        caller = Caller(self, len(self.conversations), app)
        self.conversations.append(caller.talk)
        host = self.chance.choice(self.clients)
        host.connectTCP("near", PORTS[app], caller)

    def check_complete(self, who, got, wanted):
        """Check a stream that has ended in order: it is complete, or the client was turned away."""
        count = got if isinstance(got, int) else len(got)
        if count and not self.limits:
            assert count == len(wanted), f"{who}: {count} of {len(wanted)} bytes, and a clean end"


def conversations_in(folder, **options):
    """Return a scenario for simulate(): a world whose files are in `folder`."""

    def scenario(network):
        World(network, folder, **options)
        network.run(10)

    return scenario
