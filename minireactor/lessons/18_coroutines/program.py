"""Coroutines made by hand: a future, a task, and a drain() that waits from pause to resume."""

import contextlib
import select
import socket

from minireactor.protocol import Factory, Protocol
from minireactor.tiny import Reactor

RECORD, TOTAL = bytes(16 * 1024), 32 * 1024 * 1024


class Future:  # something that has not happened yet, for one task to await
    def __await__(self):
        yield self  # to the task that runs this coroutine


class Task:  # runs a coroutine from one await to the next
    def __init__(self, coroutine):
        self.coroutine = coroutine
        self.step()

    def step(self):
        try:
            future = self.coroutine.send(None)  # until it waits
        except StopIteration:
            return
        future.wake = self.step


class Writer(Protocol):
    paused, pauses = False, 0

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        writers.append(self)

    def pauseProducing(self):
        self.paused = True
        self.pauses += 1

    def resumeProducing(self):
        self.paused = False
        self.waiting.wake()

    async def drain(self):
        if self.paused:
            self.waiting = Future()
            await self.waiting


async def serve(writer):
    global made
    while made < TOTAL:
        made += len(RECORD)
        writer.transport.write(RECORD)
        await writer.drain()
    writer.transport.unregisterProducer()
    writer.transport.loseConnection()


writers, made, read, reactor = [], 0, 0, Reactor()
port = reactor.listenTCP(0, Factory.forProtocol(Writer), interface="127.0.0.1")
client = socket.create_connection(("127.0.0.1", port.getHost().port))
while not writers:
    reactor.iterate(0.01)
task, transport = Task(serve(writers[0])), writers[0].transport
while select.select([], [transport.socket], [], 0.2)[1]:  # for as long as there is room
    reactor.iterate()
print(f"the client reads nothing: {made:,} bytes of {TOTAL:,} were made")
print(f"{transport.pending:,} are pending, and it waits in {task.coroutine.cr_await.__name__}()")
client.setblocking(False)
while read < TOTAL:
    reactor.iterate()
    with contextlib.suppress(BlockingIOError):  # nothing there yet
        read += len(client.recv(1024 * 1024))
print(f"the client has read {read:,}, after {writers[0].pauses} pauses")
assert task.coroutine.cr_frame is None  # the coroutine has ended
client.close()
