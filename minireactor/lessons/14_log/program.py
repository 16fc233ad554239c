"""A server logs into a pipe that nobody reads for a while: once it waits, once it does not."""

import os
import threading
import time
from functools import partial

from minireactor import reactor
from minireactor.view.output import Writer

LINES, LINE = 20_000, b"%31d\n"
STALL = 0.5  # seconds for which nobody reads the log


class Experiment:
    """Logs 20,000 lines, and measures for how long the loop serves nobody meanwhile."""

    def __init__(self, name, put, close, readable):
        self.name, self.put, self.close = name, put, close
        self.longest, self.beat, self.logged = 0.0, time.monotonic(), 0
        self.text = bytearray()
        self.reader = threading.Thread(target=self.read, args=[readable])
        self.reader.start()
        self.work()

    def work(self):
        now = time.monotonic()
        self.longest, self.beat = max(self.longest, now - self.beat), now
        for _ in range(100):  # as if for a hundred requests
            self.put(LINE % self.logged)
            self.logged += 1
        if self.logged < LINES:
            reactor.callLater(0, self.work)
        else:
            reactor.callInThread(self.end)

    def end(self):
        self.close()
        self.reader.join()
        reactor.callFromThread(self.report)

    def read(self, readable):
        """Whoever reads the log: scrolls back in `less` for a while, then goes on."""
        time.sleep(STALL)
        while data := os.read(readable, 65536):
            self.text += data
        os.close(readable)

    def report(self):
        lines = bytes(self.text).splitlines()
        dropped = sum(int(line.split()[1].replace(b",", b"")) for line in lines if b"drop" in line)
        numbered = sum(line.strip().isdigit() for line in lines)
        print(f"{self.name:13}{self.longest * 1000:12,.0f} ms", end="")
        print(f"{numbered:14,}{dropped:14,}")
        results.append((self.longest, numbered + dropped))
        following.pop(0)() if following else reactor.stop()


def plain():
    readable, writable = os.pipe()
    put = partial(os.write, writable)
    Experiment("os.write()", put, partial(os.close, writable), readable)


def queued():
    readable, writable = os.pipe()
    writer = Writer(lambda: writable)
    Experiment("Writer.put()", writer.put, partial(writer.close, 5), readable)


results, following = [], [plain, queued]
print(f"{'':13}{'longest stop':>15}{'lines read':>14}{'lines dropped':>14}")
reactor.callWhenRunning(following.pop(0))
reactor.run()
(waited, _), (quick, told) = results
assert waited > quick and told == LINES
