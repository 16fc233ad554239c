"""Talk to a chat server from a terminal, or from a pipe: ... stdio_chat ENDPOINT"""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.endpoints import clientFromString, connectProtocol
from minireactor.stdio import StandardIO
from minireactor.task import react


class Side(LineReceiver):
    """The terminal, or the server: what one side says, the other side is told."""

    delimiter = b"\n"
    other = None

    def __init__(self):
        self.ended = Deferred()

    def lineReceived(self, line):
        self.other.sendLine(line)

    def connectionLost(self, reason):
        self.ended.callback(None)


async def main(reactor, where):
    server, terminal = Side(), Side()
    server.other, terminal.other = terminal, server
    await connectProtocol(clientFromString(reactor, where), server)
    StandardIO(terminal, reactor=reactor)
    # Each side is the producer of what the other side writes.
    server.transport.registerProducer(terminal.transport, True)
    terminal.transport.registerProducer(server.transport, True)
    await terminal.ended
    server.transport.unregisterProducer()
    server.transport.loseConnection()
    await server.ended


if __name__ == "__main__":
    react(main, sys.argv[1:])
