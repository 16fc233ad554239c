"""Let everybody talk who connects, for instance with netcat: ... chat_server [ENDPOINT]"""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.endpoints import serverFromString
from minireactor.protocol import Factory
from minireactor.task import react


class Chat(LineReceiver):
    delimiter = b"\n"
    name = None
    is_slow = False

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        self.sendLine(b"your name?")

    def lineReceived(self, line):
        line = line.rstrip(b"\r")
        if self.name is not None:
            self.tell_others(self.name + b": " + line)
        elif line in self.factory.members or not line:
            self.sendLine(b"that name is taken, another one?")
        else:
            self.name = line
            self.tell_others(self.name + b" has come")
            self.factory.members[line] = self
            self.sendLine(b"welcome, " + line)

    def connectionLost(self, reason):
        if self.name is not None:
            del self.factory.members[self.name]
            self.tell_others(self.name + b" has gone")

    def tell_others(self, text):
        for member in self.factory.members.values():
            # A chat waits for nobody. What is said while a peer does not read passes this peer by.
            if member is not self and not member.is_slow:
                member.sendLine(text)

    def pauseProducing(self):
        self.is_slow = True

    def resumeProducing(self):
        self.is_slow = False

    def stopProducing(self):
        self.is_slow = True


async def main(reactor, where="tcp:8001:interface=127.0.0.1"):
    factory = Factory.forProtocol(Chat)
    factory.members = {}
    port = await serverFromString(reactor, where).listen(factory)
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until the reactor is stopped


if __name__ == "__main__":
    react(main, sys.argv[1:])
