"""Store values under keys, by lines: SET key value, GET key, DEL key, KEYS, QUIT.

... key_value [ENDPOINT]
"""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.endpoints import serverFromString
from minireactor.protocol import Factory
from minireactor.task import react


class Store(LineReceiver):
    MAX_LENGTH = 4096

    def lineReceived(self, line):
        command, *words = line.split(None, 2)[:3] or [b""]
        handler = getattr(self, "do_" + command.decode("latin-1").upper(), None)
        try:
            self.sendLine(b"unknown command" if handler is None else handler(*words))
        except TypeError:
            self.sendLine(b"wrong number of words")

    def lineLengthExceeded(self, line):
        self.sendLine(b"the line is too long")
        self.transport.loseConnection()

    def do_SET(self, key, value):
        self.factory.values[key] = value
        return b"ok"

    def do_GET(self, key):
        return self.factory.values.get(key, b"not found")

    def do_DEL(self, key):
        return b"not found" if self.factory.values.pop(key, None) is None else b"ok"

    def do_KEYS(self):
        return b" ".join(sorted(self.factory.values))

    def do_QUIT(self):
        self.transport.loseConnection()
        return b"bye"


async def main(reactor, where="tcp:8002:interface=127.0.0.1"):
    factory = Factory.forProtocol(Store)
    factory.values = {}
    port = await serverFromString(reactor, where).listen(factory)
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until the reactor is stopped


if __name__ == "__main__":
    react(main, sys.argv[1:])
