"""Send back what each client sends: python -m minireactor.examples.echo_server [ENDPOINT]"""

import sys

from minireactor.defer import Deferred
from minireactor.endpoints import serverFromString
from minireactor.protocol import Factory, Protocol
from minireactor.task import react


class Echo(Protocol):
    def connectionMade(self):
        # The connection reads only while its own answers flow: a peer that does not read is not
        # read from either.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.transport.write(data)

    def connectionLost(self, reason):
        print("the end of a client", flush=True)


async def main(reactor, where="tcp:8000:interface=127.0.0.1"):
    port = await serverFromString(reactor, where).listen(Factory.forProtocol(Echo))
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until the reactor is stopped


if __name__ == "__main__":
    react(main, sys.argv[1:])
