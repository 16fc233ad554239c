"""Find the fault: a writer for one coroutine. As soon as two use it, one sleeps for ever."""

import sys


class Future:
    """Something that has not happened yet. One task may wait for it."""

    wake = None

    def __await__(self):
        yield self  # to the task that runs this coroutine


class Writer:
    """The producer of a transport, for coroutines: each write(), then await drain()."""

    def __init__(self, transport):
        self.transport = transport
        self.paused = False
        self.waiting = None

    def write(self, data):
        self.transport.write(data)

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        self.waiting.wake()

    async def drain(self):
        if self.paused:
            self.waiting = Future()
            await self.waiting


# ---- The check: the fault is above this line ----

HIGH, LOW, RECORD, RECORDS, TASKS = 64 * 1024, 16 * 1024, 1024, 500, 4


class Task:
    """Runs a coroutine from one await to the next."""

    def __init__(self, coroutine):
        self.coroutine = coroutine
        self.step()

    def step(self):
        try:
            future = self.coroutine.send(None)
        except StopIteration:
            return
        if not hasattr(future, "wake"):
            sys.exit(f"fault: a task cannot wait for {type(future).__name__}, which wakes nobody")
        future.wake = self.step


class Transport:
    """Counts what is pending, and calls its producer at the two marks."""

    pending, paused, producer = 0, False, None

    def write(self, data):
        self.pending += len(data)
        if self.pending > HIGH + RECORD:
            sys.exit(f"fault: {self.pending:,} bytes are pending: one more wrote while paused")
        if self.pending > HIGH and not self.paused:
            self.paused = True
            self.producer.pauseProducing()

    def flush(self):
        self.pending = max(0, self.pending - 8 * RECORD)
        if self.pending <= LOW and self.paused:
            self.paused = False
            self.producer.resumeProducing()


async def work(name):
    for _ in range(RECORDS):
        await writer.drain()
        writer.write(bytes(RECORD))
        written[name] += 1


transport, written = Transport(), [0] * TASKS
writer = transport.producer = Writer(transport)
tasks = [Task(work(name)) for name in range(TASKS)]
while transport.pending:
    transport.flush()
for count in written:
    if count < RECORDS:
        sys.exit(f"fault: one coroutine has written {count} of {RECORDS}, and nobody wakes it")
try:
    writer.paused = False
    writer.drain().send(None)
except StopIteration:
    pass
else:
    sys.exit("fault: drain() waits although nothing is paused")
print(f"right: {TASKS} coroutines have written {sum(written):,} records through two marks")
