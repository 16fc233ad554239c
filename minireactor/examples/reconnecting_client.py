"""Print the lines of a server, and connect again whenever the connection ends.

... reconnecting_client HOST PORT ENDS [SECONDS]

Stops after ENDS connections. SECONDS is the first delay; each failure makes the delay longer.
"""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.protocol import ReconnectingClientFactory
from minireactor.task import react


class Client(LineReceiver):
    delimiter = b"\n"

    def connectionMade(self):
        print("connected", flush=True)
        self.factory.resetDelay()

    def lineReceived(self, line):
        print("the server says:", line.decode(), flush=True)


class Clients(ReconnectingClientFactory):
    protocol = Client
    noisy = False

    def __init__(self, ends, seconds):
        self.ends = ends
        self.initialDelay = self.delay = seconds
        self.done = Deferred()

    def clientConnectionLost(self, connector, reason):
        print("the connection has ended:", reason.type.__name__, flush=True)
        self.ends -= 1
        if self.ends:
            super().clientConnectionLost(connector, reason)
        else:
            self.stopTrying()
            self.done.callback(None)


def main(reactor, host, port, ends, seconds="1"):
    clients = Clients(int(ends), float(seconds))
    reactor.connectTCP(host, int(port), clients)
    return clients.done


if __name__ == "__main__":
    react(main, sys.argv[1:])
