"""Download a file by HTTP with a progress line: ... download ENDPOINT PATH FILE

The answer must have a Content-Length, as for a file it has on every server.
"""

import sys

from minireactor.basic import LineReceiver
from minireactor.defer import Deferred
from minireactor.endpoints import clientFromString, connectProtocol
from minireactor.task import LoopingCall, react


class Download(LineReceiver):
    """Requests `path`, and writes the body to `file`. `done` fires at the end."""

    status = None
    length = None
    received = 0

    def __init__(self, path, file):
        self.path = path
        self.file = file
        self.done = Deferred()

    def connectionMade(self):
        self.sendLine(b"GET " + self.path.encode() + b" HTTP/1.0")
        self.sendLine(b"")

    def lineReceived(self, line):
        if self.status is None:
            self.status = line.decode("latin-1")
            if line.split()[1:2] != [b"200"]:
                self.finish(RuntimeError(f"the server says: {self.status}"))
        elif line:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                self.length = int(value)
        else:
            self.setRawMode()

    def rawDataReceived(self, data):
        self.file.write(data)
        self.received += len(data)
        if self.received == self.length:
            self.finish(None)

    def finish(self, result):
        if not self.done.called:
            self.done.callback(result) if result is None else self.done.errback(result)
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.finish(RuntimeError(f"{self.received} of {self.length} bytes have come"))

    def show(self, end=""):
        percent = 100 * self.received // self.length if self.length else 0
        print(f"\r{self.received} bytes, {percent} %", end=end, flush=True)


async def main(reactor, where, path, name):
    with open(name, "wb") as file:
        download = Download(path, file)
        progress = LoopingCall(download.show)
        progress.clock = reactor
        await connectProtocol(clientFromString(reactor, where), download)
        progress.start(0.2)
        try:
            await download.done
        except RuntimeError as error:
            raise SystemExit(f"no download: {error}") from None
        finally:
            progress.stop()
    download.show(end="\n")


if __name__ == "__main__":
    react(main, sys.argv[1:])
