"""Send lines to an echo server and print its answers: ... echo_client ENDPOINT LINE..."""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.endpoints import clientFromString, connectProtocol
from minireactor.task import react


class Client(LineReceiver):
    """ask() sends a line and returns a Deferred of the answer."""

    answer = None

    def ask(self, line):
        self.answer = Deferred()
        self.sendLine(line)
        return self.answer

    def lineReceived(self, line):
        answer, self.answer = self.answer, None
        answer.callback(line)

    def connectionLost(self, reason):
        if self.answer is not None:
            self.answer.errback(reason)


async def main(reactor, where="tcp:127.0.0.1:8000", *lines):
    client = await connectProtocol(clientFromString(reactor, where), Client())
    for line in lines:
        print((await client.ask(line.encode())).decode())
    client.transport.loseConnection()


if __name__ == "__main__":
    react(main, sys.argv[1:])
