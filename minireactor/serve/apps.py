"""The servers that `minireactor serve` has built in. Ways of being a good producer:

    random   a push producer: it writes until it is told to pause
    echo     its own input is the producer: a peer that does not read is not read from either
    discard  no producer at all: nothing is written
    chargen  a pull producer: it writes when it is asked
    file     none either: what is pending stays in the file until it is sent; a file without a
             true size, as in /proc, is read by a pull producer

None of them keeps more than the high mark and a little for a peer that does not read, however
much that peer has asked for.
"""

from __future__ import annotations

import errno
import math
import os
import random
import stat
from typing import TYPE_CHECKING, Any, BinaryIO

from minireactor.basic import FileSender, LineReceiver
from minireactor.error import ConnectionLost
from minireactor.log import logger
from minireactor.protocol import Factory, Protocol
from minireactor.transports.closing import Lingering
from minireactor.transports.sendfile import has_true_size

if TYPE_CHECKING:
    from minireactor.defer import Deferred
    from minireactor.failure import Failure

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
RECLAIMED = 64  # lingering sockets that are closed when a file finds no descriptor
WARNING_SECONDS = 10.0  # between two warnings about one file, however many clients ask for it
# A device that is no file after all is not waited for, and does not become our terminal.
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):  # those that this system has
    _OPEN_FLAGS |= getattr(os, _flag, 0)

LARGEST = 10000  # integers are 0 to this one
MOST = 10**18  # integers for one request: more than anybody can wait for
# Lines a write, 8.2 KB together: just enough for the write buffer to keep them as they are instead
# of gathering them in a bytearray, which takes up to an eighth more than it holds. Eight of them
# are just above the usual high mark. A thousand paused clients cost 69 MB; with 200 lines, 84 MB.
BATCH = 1400


class BadRequest(ValueError):
    """What a client has sent is no request; says in one line what is wrong with it."""


def parse_request(line: bytes) -> int:
    """How many integers `line` asks for: decimal digits, 0 to MOST. BadRequest."""
    text = line.strip()
    if not text:
        raise BadRequest("the line is empty")
    if text.isdigit():
        # Their number is looked at first: Python takes long, or refuses, to read thousands.
        digits = text.lstrip(b"0") or b"0"
        if len(digits) <= len(str(MOST)) and int(digits) <= MOST:
            return int(digits)
        raise BadRequest(f"{_quoted(text)} is too large")
    if text[:1] == b"-" and text[1:].isdigit():
        raise BadRequest(f"{_quoted(text)} is negative")
    raise BadRequest(f"{_quoted(text)} is not a number in decimal digits")


def _quoted(text: bytes) -> str:
    """Safe to send back and to print: ASCII, no control characters, and short."""
    shown = repr(text[:20])[1:]
    return shown if len(text) <= 20 else f"{shown}... ({len(text)} bytes)"


class RandomIntegers:
    """A push producer of `count` integers, one a line; closes the connection after the last."""

    def __init__(self, consumer: Any, count: int, generator: Any, lines: list[bytes]) -> None:
        self.paused = False
        self._consumer = consumer
        self._left = count
        self._choices = generator.choices
        self._lines = lines

    def begin(self) -> None:
        """Write one batch soon, and go on when our turn comes.

        A full buffer takes milliseconds, and a thousand requests may come at the same time.
        Benchmark `greedy`: a newcomer waits 5 s if each request is answered with a full buffer."""
        self._consumer.reactor.call_in_turn(self._write_first, first=True)

    def _write_first(self) -> None:
        if not self.paused:
            self._write_batch()
            self._consumer.reactor.call_in_turn(self._write_more)

    def pauseProducing(self) -> None:
        """Called from within our own write() below: all it can do is to leave word."""
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self._write_more()

    def _write_more(self) -> None:
        while self._left and not self.paused:
            self._write_batch()

    def _write_batch(self) -> None:
        count = min(self._left, BATCH)
        self._left -= count
        if count:
            self._consumer.write(b"".join(self._choices(self._lines, k=count)))
        if not self._left:
            self._consumer.unregisterProducer()
            self._consumer.loseConnection()

    def stopProducing(self) -> None:
        self._left = 0
        self.paused = True


class ServeRandom(LineReceiver):
    """Asks how many integers are wanted, sends them, closes.

    What is no request gets a line that says why, and the question again. Once the integers are on
    their way, all further input is dropped. A client may shut its write side after its request,
    which then needs no newline.
    """

    delimiter = b"\n"  # and a b"\r" before it is stripped: people type one, programs send both
    question = b"how many random integers do you want?\r\n"

    def connectionMade(self) -> None:
        # A peer that sends bad requests and reads no answers must not fill our memory with them:
        # while answers wait above the high mark, its input waits too.
        self.transport.registerProducer(self.transport, True)
        self.transport.write(self.question)

    def lineReceived(self, line: bytes) -> None:
        try:
            count = parse_request(line)
        except BadRequest as error:
            self._refuse(error)
            self.transport.write(self.question)
        else:
            self._stream(count)

    def _stream(self, count: int) -> None:
        self.setRawMode()
        self.transport.unregisterProducer()
        factory = self.factory
        producer = RandomIntegers(self.transport, count, factory.generator(), factory.lines)
        self.transport.registerProducer(producer, True)
        producer.begin()

    def rawDataReceived(self, data: bytes) -> None:
        """The request has been made; the rest is dropped."""

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(f"the line is longer than {self.MAX_LENGTH} bytes")
        self._close()

    def readConnectionLost(self) -> None:
        if not self.line_mode:
            return
        last = self.clearLineBuffer()
        try:
            count = parse_request(last)
        except BadRequest as error:
            if last:
                self._refuse(error)
            self._close()
        else:
            self._stream(count)

    def writeConnectionLost(self) -> None:
        """Only its presence counts: it makes the protocol half-closeable."""

    def _refuse(self, why: object) -> None:
        self.transport.write(f"error: {why}; send a number from 0 to {MOST}\r\n".encode("ascii"))

    def _close(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class RandomFactory(Factory):
    """Serves random integers; with a `seed`, the same ones to every client."""

    protocol = ServeRandom

    def __init__(self, seed: int | None = None) -> None:
        self.lines = [b"%d\r\n" % number for number in range(LARGEST + 1)]
        self._seed = seed
        self._shared = random.Random()

    def generator(self) -> random.Random:
        """For one connection."""
        return self._shared if self._seed is None else random.Random(self._seed)


class Echo(Protocol):
    """Sends back what comes in, as fast as it is taken back."""

    def connectionMade(self) -> None:
        # What we read is what we write: so our writing side governs our reading side.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Only its presence counts: a peer that has sent its end still gets all of its bytes."""


class Discard(Protocol):
    """Reads, and forgets."""


def _rotation() -> bytes:
    """RFC 864's pattern: lines of 72 of the 95 printable characters, each one step further."""
    ring = bytes(range(ord(" "), ord("~") + 1))
    return b"".join((ring + ring)[start : start + 72] + b"\r\n" for start in range(len(ring)))


class Chargen(Protocol):
    """An endless stream of characters. The protocol itself is the pull producer."""

    # Four turns of the pattern, 28 KB: as one large object that every connection shares, a write
    # of it copies nothing.
    block = _rotation() * 4

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Asked for more, unless the server is leaving: a stream without end has to be ended."""
        if self.transport.disconnecting:
            self.transport.unregisterProducer()
        else:
            self.transport.write(self.block)

    def stopProducing(self) -> None:
        """The connection is gone; nobody will ask again."""

    def readConnectionLost(self) -> None:
        """A peer that has no more to say may still want to listen."""

    def writeConnectionLost(self) -> None:
        """Only its presence counts."""


class SendFile(Protocol):
    """Sends a file, and closes. What comes in is dropped."""

    def connectionMade(self) -> None:
        try:
            file = self._open()
        except OSError as error:
            self._refuse(error)
            return
        try:
            if has_true_size(file.fileno()):
                # If it fails, the connection has ended for that reason, and tells it.
                sending: Deferred[Any] = self.transport.sendFile(file)
            else:
                # The kernel makes such a file up in memory: to read 16 KiB of it, once for each
                # flush, waits for no disk.
                sending = FileSender().beginFileTransfer(file, self.transport)
                sending.addErrback(self._read_failed)
        except (OSError, ValueError) as error:
            file.close()
            self._refuse(error)
            return
        sending.addBoth(lambda _: file.close())
        self.transport.loseConnection()

    def _open(self) -> BinaryIO:
        """Return the open file; if no descriptor is left, lingering sockets give up theirs."""
        try:
            return self.factory.open()  # type: ignore[no-any-return]
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            if not Lingering.reclaim(self.transport.reactor, RECLAIMED):
                raise
        return self.factory.open()  # type: ignore[no-any-return]

    def _read_failed(self, failure: Failure) -> None:
        if not failure.check(ConnectionLost):
            self._refuse(failure.value)

    def _refuse(self, error: Any) -> None:
        """Reset the connection: its peer must not take nothing, or a part, for the whole."""
        self.factory.warn(
            self.transport.reactor.seconds(), getattr(error, "strerror", None) or error
        )
        self.transport.abortConnection()


class FileFactory(Factory):
    """Sends the file at `path`, as it is by then, to each client.

    Raises OSError if there is none now, or if it cannot be read."""

    protocol = SendFile

    def __init__(self, path: str) -> None:
        self.path = path
        self._warned = -math.inf
        self._unreported = 0
        with self.open() as file:
            if file.read(1) is None:
                raise BlockingIOError(errno.EAGAIN, "it has nothing to read now", path)

    def warn(self, now: float, why: object) -> None:
        """Log why a client does not get the file, at most once in WARNING_SECONDS."""
        if now - self._warned < WARNING_SECONDS:
            self._unreported += 1
            return
        also = f" ({self._unreported:,} more clients since the last warning)"
        logger.warning("cannot send %s: %s%s", self.path, why, also if self._unreported else "")
        self._warned, self._unreported = now, 0

    def open(self) -> BinaryIO:
        """Open the file for one connection. Raises OSError, also if it is no regular file."""
        # A pipe, for one, would have us wait for somebody to write to it.
        fd = os.open(self.path, _OPEN_FLAGS)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no regular file", self.path)
        return os.fdopen(fd, "rb")
