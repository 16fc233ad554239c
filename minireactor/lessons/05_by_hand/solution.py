"""The fault repaired: first the state, then the call, since the call can come back (rule P4)."""

import sys

HIGH, LOW = 64 * 1024, 16 * 1024


class Connection:
    """A write buffer with two marks. `sock.send` takes what fits, or raises BlockingIOError."""

    def __init__(self, sock, producer):
        self.sock = sock
        self.producer = producer
        self.pending = b""
        self.paused = False

    def write(self, data):
        self.pending += data
        if len(self.pending) > HIGH and not self.paused:
            self.paused = True
            self.producer.pauseProducing()

    def flush(self):
        """To be called when the socket is writable."""
        try:
            sent = self.sock.send(self.pending)
        except BlockingIOError:
            return
        self.pending = self.pending[sent:]
        if len(self.pending) <= LOW and self.paused:
            self.paused = False
            self.producer.resumeProducing()


# ---- The check: the fault is above this line ----

RECORD, RECORDS = 1024, 4096


class Kernel:
    """A socket that has as much room as the check gives it."""

    room, taken = 0, bytearray()

    def send(self, data):
        if not self.room:
            raise BlockingIOError
        count = min(self.room, len(data))
        self.room -= count
        self.taken += data[:count]
        return count


class Source:
    """Writes numbered records until it is told to pause. It resumes only after a pause."""

    made, resumes, paused = 0, 0, True

    def pauseProducing(self):
        if self.paused:
            sys.exit("fault: pauseProducing() was called twice, with no resume in between")
        self.paused = True

    def resumeProducing(self):
        if not self.paused:
            sys.exit("fault: resumeProducing() was called, and the producer was not paused")
        self.paused = False
        self.resumes += 1
        while self.made < RECORDS and not self.paused:
            connection.write(b"%1023d\n" % self.made)
            self.made += 1
            if len(connection.pending) > HIGH + RECORD:
                held = len(connection.pending)
                sys.exit(f"fault: {held:,} bytes are pending, and nobody says pause")


def flush(room):
    """Give the kernel room, and return whether the producer was resumed."""
    kernel.room, resumes = room, source.resumes
    connection.flush()
    return source.resumes > resumes


kernel, source = Kernel(), Source()
connection = Connection(kernel, source)
source.resumeProducing()
while source.made < RECORDS:
    if flush(len(connection.pending) - LOW - 1):
        sys.exit(f"fault: resumed while {LOW + 1:,} bytes are pending; the low mark is {LOW:,}")
    if not flush(1):
        sys.exit(f"fault: {LOW:,} bytes are pending, the low mark, and nobody says resume")
while connection.pending:
    flush(65536)
if kernel.taken != b"".join(b"%1023d\n" % number for number in range(RECORDS)):
    sys.exit(f"fault: {RECORDS * RECORD:,} bytes were written, and others have been sent")
print(f"right: {source.resumes - 1} pauses, and never more than one record above the high mark")
