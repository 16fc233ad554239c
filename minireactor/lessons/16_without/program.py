"""A ticker, one subscriber that keeps up and one that stalls: pausing is not always the answer."""

import contextlib
import socket

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

TICKS = 5000
TICK = 4096  # bytes


class Subscription(Protocol):
    """The ticker's end of a connection. It makes no bytes, and is told to pause all the same."""

    paused, missed = False, b""  # missed: the newest of the ticks that came while paused

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        subscriptions.append(self)

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        self.transport.write(self.missed)
        self.missed = b""

    stopProducing = pauseProducing


def publish(tick, policy):
    if policy == "wait" and any(each.paused for each in subscriptions):
        return  # for the one that is paused: nobody gets this tick
    for each in subscriptions:
        if policy == "newest" and each.paused:
            each.missed = tick
        else:
            each.transport.write(tick)


class Subscriber:  # the other end, on a plain socket
    def __init__(self):
        self.socket = socket.create_connection((host.host, host.port))
        self.socket.setblocking(False)
        self.got = bytearray()

    def read(self):
        with contextlib.suppress(BlockingIOError):  # nothing there yet
            self.got += self.socket.recv(1024 * 1024)


def experiment(policy):
    subscriptions.clear()
    subscribers = quick, stalled = Subscriber(), Subscriber()
    while len(subscriptions) < 2:
        reactor.iterate(0.01)
    for number in range(1, TICKS + 1):
        publish(b"%4095d\n" % number, policy)
        if number % 8 == 0:
            reactor.iterate()
            quick.read()
    held = subscriptions[1].transport.pending
    pairs = [(each, each.transport, end) for each, end in zip(subscriptions, subscribers)]
    while any(a.paused or t.pending or t.bytes_out > len(b.got) for a, t, b in pairs):
        reactor.iterate()
        quick.read()
        stalled.read()  # at last
    got, few, last = len(quick.got) // TICK, len(stalled.got) // TICK, int(stalled.got[-TICK:])
    print(f"{policy:8}{got:14,}{few:16,}{last:15,}{held:19,}")
    return got == TICKS, last == TICKS, held < 128 * 1024


subscriptions = []
host = reactor.listenTCP(0, Factory.forProtocol(Subscription), interface="127.0.0.1").getHost()
print("policy   quick one got   other one got   last of them   bytes held for it")
assert experiment("wait") == (False, False, True)
assert experiment("keep") == (True, True, False)
assert experiment("newest") == (True, True, True)
