"""Find the fault: this log never makes the loop wait, and it fills the memory instead."""

import os
import sys
import threading
from collections import deque

LIMIT = 64 * 1024  # bytes that may wait for a slow reader


class Log:
    """Lines for a descriptor: put() queues them, and a thread writes them.

    A line "<number> dropped" stands for the lines that there was no room for."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.lines = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def put(self, line):
        with self.changed:
            self.lines.append(line)
            self.changed.notify()

    def run(self):
        while True:
            with self.changed:
                while not self.lines and not self.closed:
                    self.changed.wait()
                if not self.lines:
                    break
                line = self.lines.popleft()
            os.write(self.descriptor, line)

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join(2)


# ---- The check: the fault is above this line ----

LINES = 100_000


def within(seconds, call):
    """Return whether the call returns within that time."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def put_all():
    for number in range(LINES):
        log.put(b"%63d\n" % number)


def read_all():
    while data := os.read(readable, 65536):
        text.extend(data)


readable, writable = os.pipe()
log, text = Log(writable), bytearray()
if not within(5, put_all):
    sys.exit("fault: put() waits for a slow reader, and with it the whole loop")
held = sum(map(len, log.lines))
if held > LIMIT + 64:
    sys.exit(f"fault: {held:,} bytes wait for a reader that reads nothing; {LIMIT:,} may")
reader = threading.Thread(target=read_all, daemon=True)
reader.start()
log.close()
os.close(writable)
reader.join(2)
lines = bytes(text).splitlines()
kept = [int(line) for line in lines if line.strip().isdigit()]
dropped = sum(int(line.split()[0]) for line in lines if line.endswith(b" dropped"))
if kept != sorted(kept) or len(kept) < LIMIT // 64 // 2:
    sys.exit(f"fault: {len(kept):,} lines have come, of which {LIMIT // 64:,} had room")
if len(kept) + dropped != LINES:
    lost = LINES - len(kept) - dropped
    sys.exit(f"fault: {lost:,} lines are lost, and the log does not say so")
print(f"right: {len(kept):,} lines, and word of {dropped:,} others; nobody had to wait")
