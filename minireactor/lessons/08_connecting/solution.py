"""The fault repaired: between two attempts there is a pause, and the loop serves others."""

import sys
import time

from minireactor import reactor
from minireactor.protocol import ClientFactory, Factory, Protocol


class Patient(ClientFactory):
    """Connects again whenever that fails, a little later each time."""

    delay = 0.05

    def clientConnectionFailed(self, connector, reason):
        reactor.callLater(self.delay, connector.connect)
        self.delay = min(2 * self.delay, 0.5)


# ---- The check: the fault is above this line ----

AWAY, MOST = 1.0, 60  # seconds without a server, and attempts that are too many in that time


class Watched(Patient):
    """Counts the attempts, and notes when one succeeds."""

    attempts = 0
    connected = False

    def startedConnecting(self, connector):
        self.attempts += 1
        if self.attempts > MOST:
            end()
        super().startedConnecting(connector)

    def buildProtocol(self, address):
        self.connected = True
        end()
        return Protocol()


def beat():
    """Note the longest time for which nobody else was served."""
    now = time.monotonic()
    beats.append(now)
    reactor.callLater(0.01, beat)


def end():
    if not ended:
        ended.append(True)
        reactor.stop()


def come_back():
    reactor.listenTCP(port, Factory.forProtocol(Protocol), interface="127.0.0.1")


listening = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
port = listening.getHost().port
listening.stopListening()
beats, ended, factory = [], [], Watched()
reactor.callWhenRunning(beat)
reactor.callLater(AWAY, come_back)
reactor.callLater(3 * AWAY, end)
reactor.callWhenRunning(reactor.connectTCP, "127.0.0.1", port, factory)
reactor.run()
beats.append(time.monotonic())
longest = max(after - before for before, after in zip(beats, beats[1:]))
if factory.attempts > MOST:
    sys.exit(f"fault: {MOST} attempts to connect in {beats[-1] - beats[0]:.1f} s, and none waits")
if longest > AWAY / 4:
    sys.exit(f"fault: between two attempts nobody else was served, once for {longest:.1f} s")
if not factory.connected and factory.attempts == 1:
    sys.exit("fault: the server is back, and nobody tries again")
if not factory.connected:
    sys.exit(f"fault: the server has been back for {2 * AWAY:.0f} s, and is not connected to")
print(f"right: connected after {factory.attempts} attempts")
