"""The apps that are built into `minireactor serve`. Each is another kind of producer:

    random   a push producer: it writes until it is paused
    echo     the connection itself is the producer: reading pauses while the peer does not read
    discard  no producer: nothing is written
    chargen  a pull producer: it writes when it is asked to
    file     no producer either: pending bytes stay in the file until they are sent. A file without
             a true size, as in /proc, is read by a pull producer

For a peer that does not read, each app buffers little more than the high watermark, even if the
peer has requested much more.
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
from minireactor.log import WARN_SECONDS, logger
from minireactor.protocol import Factory, Protocol
from minireactor.transports.closing import Lingering
from minireactor.transports.sendfile import has_true_size

if TYPE_CHECKING:
    from minireactor.defer import Deferred
    from minireactor.failure import Failure
    from minireactor.transports.connection import Connection

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
RECLAIMED = 64  # lingering sockets that are closed when no descriptor is left to open a file
# If the path names a device, open() must not wait for it or make it our controlling terminal.
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):  # flags that this system has
    _OPEN_FLAGS |= getattr(os, _flag, 0)

LARGEST = 10000  # the largest integer that is sent; the smallest is 0
MAX_INTEGERS = 10**18  # for one request: more than anybody can wait for
# Lines of one write, 8.2 KB. The write buffer keeps a chunk of this size as it is. Smaller chunks
# would go into a bytearray, which takes up to an eighth more memory than its bytes. Eight writes
# are just above the default high mark. For 1,000 paused clients: 84 MB with 200 lines a write, 69
# MB with 1,400.
BATCH = 1400


class BadRequest(ValueError):
    """A client's line is not a request; the message says in one line why."""


def parse_request(line: bytes) -> int:
    """Return how many integers `line` requests.

    Raises BadRequest unless the line is a number from 0 to MAX_INTEGERS in decimal digits."""
    text = line.strip()
    if not text:
        raise BadRequest("the line is empty")
    if text.isdigit():
        # Count the digits first: Python takes long to convert thousands of them, or refuses.
        digits = text.lstrip(b"0") or b"0"
        if len(digits) <= len(str(MAX_INTEGERS)) and int(digits) <= MAX_INTEGERS:
            return int(digits)
        raise BadRequest(f"{_quoted(text)} is too large")
    if text[:1] == b"-" and text[1:].isdigit():
        raise BadRequest(f"{_quoted(text)} is negative")
    raise BadRequest(f"{_quoted(text)} is not a number in decimal digits")


def _quoted(text: bytes) -> str:
    """Return `text` quoted, short, in ASCII, without control characters: safe to send and print."""
    shown = repr(text[:20])[1:]
    return shown if len(text) <= 20 else f"{shown}... ({len(text)} bytes)"


class RandomIntegers:
    """A push producer: writes `count` integers, one a line, then closes the connection."""

    def __init__(
        self, consumer: Connection, count: int, generator: random.Random, lines: list[bytes]
    ) -> None:
        self.paused = False
        self._consumer = consumer
        self._left = count
        self._choices = generator.choices
        self._lines = lines

    def begin(self) -> None:
        """Schedule the first batch, and later the next ones; other connections get their turns.

        Filling a buffer takes milliseconds, and a thousand requests may come at the same time.
        Benchmark `greedy`: a new client waits 5 s if each request fills a buffer at once."""
        self._consumer.reactor.call_in_turn(self._write_first, first=True)

    def _write_first(self) -> None:
        if not self.paused:
            self._write_batch()
            self._consumer.reactor.call_in_turn(self._write_more)

    def pauseProducing(self) -> None:
        """Set a flag, which the loop in `_write_more` checks: its own write() calls this method."""
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
    """Asks how many integers the client wants, sends them, and closes the connection.

    A bad request is answered with the reason, and with the question again. While integers are
    being sent, further input is dropped. A client may shut its write side after its request. The
    request then needs no newline.
    """

    delimiter = b"\n"  # people type this; parse_request() strips the b"\r" that programs add
    question = b"how many random integers do you want?\r\n"

    def connectionMade(self) -> None:
        # A peer may send bad requests and read no answers. The answers must not fill our memory, so
        # reading pauses while more of them than the high mark are pending.
        self.transport.registerProducer(self.transport, True)
        self.transport.write(self.question)

    def lineReceived(self, line: bytes) -> None:
        try:
            count = parse_request(line)
        except BadRequest as error:
            self._send_error(error)
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
        """Drop what comes after the request."""

    def lineLengthExceeded(self, line: bytes) -> None:
        self._send_error(f"the line is longer than {self.MAX_LENGTH} bytes")
        self._close()

    def readConnectionLost(self) -> None:
        if not self.line_mode:
            return
        last = self.clearLineBuffer()
        try:
            count = parse_request(last)
        except BadRequest as error:
            if last:
                self._send_error(error)
            self._close()
        else:
            self._stream(count)

    def writeConnectionLost(self) -> None:
        """Do nothing. Having this method makes the protocol half-closeable."""

    def _send_error(self, why: object) -> None:
        self.transport.write(
            f"error: {why}; send a number from 0 to {MAX_INTEGERS}\r\n".encode("ascii")
        )

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
        """Return the source of random numbers for one connection."""
        return self._shared if self._seed is None else random.Random(self._seed)


class Echo(Protocol):
    """Sends back what comes in, as fast as the peer reads."""

    def connectionMade(self) -> None:
        # The protocol writes what it reads. So the connection is its own producer: a full write
        # buffer pauses reading.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing. Having this method makes the protocol half-closeable.

        A peer that has shut its write side still gets all of its bytes back."""


class Discard(Protocol):
    """Reads, and drops all input."""


def _rotation() -> bytes:
    """Return the pattern of RFC 864: lines of 72 characters, each starting one character later.

    The characters are the 95 printable ones of ASCII, in a ring."""
    ring = bytes(range(ord(" "), ord("~") + 1))
    return b"".join((ring + ring)[start : start + 72] + b"\r\n" for start in range(len(ring)))


class Chargen(Protocol):
    """Sends an endless stream of characters; the protocol itself is the pull producer."""

    # Four times the pattern, 28 KB. All connections share this one object, and writing an object
    # as large as this copies nothing.
    block = _rotation() * 4

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Write one block more. While the connection is being closed, end the stream instead."""
        if self.transport.disconnecting:
            self.transport.unregisterProducer()
        else:
            self.transport.write(self.block)

    def stopProducing(self) -> None:
        """Do nothing: the connection has ended, and resumeProducing() is not called again."""

    def readConnectionLost(self) -> None:
        """Do nothing: a peer that has shut its write side may still want to read."""

    def writeConnectionLost(self) -> None:
        """Do nothing. Having this method makes the protocol half-closeable."""


class SendFile(Protocol):
    """Sends a file, and closes the connection. What comes in is dropped."""

    def connectionMade(self) -> None:
        try:
            file = self._open()
        except OSError as error:
            self._fail(error)
            return
        try:
            if has_true_size(file.fileno()):
                # No errback is needed: connectionLost gets the same reason.
                sending: Deferred[Any] = self.transport.sendFile(file)
            else:
                # The kernel generates such a file in memory. Reading 16 KiB of it, once for each
                # flush, never waits for a disk.
                sending = FileSender().beginFileTransfer(file, self.transport)
                sending.addErrback(self._read_failed)
        except (OSError, ValueError) as error:
            file.close()
            self._fail(error)
            return
        sending.addBoth(lambda _: file.close())
        self.transport.loseConnection()

    def _open(self) -> BinaryIO:
        """Return the open file. If no descriptor is left, close lingering sockets to free some."""
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
            self._fail(failure.value)

    def _fail(self, error: BaseException) -> None:
        """Log the error and reset the connection.

        After an orderly end, the peer would take an empty or partial file for the complete one."""
        self.factory.warn(
            self.transport.reactor.seconds(), getattr(error, "strerror", None) or error
        )
        self.transport.abortConnection()


class FileFactory(Factory):
    """Sends the file at `path` to each client, with its content at that time.

    Raises OSError if there is no such file when the factory is made, or it cannot be read."""

    protocol = SendFile

    def __init__(self, path: str) -> None:
        self.path = path
        self._warned = -math.inf
        self._unreported = 0
        with self.open() as file:
            if file.read(1) is None:
                raise BlockingIOError(errno.EAGAIN, "it has nothing to read now", path)

    def warn(self, now: float, why: object) -> None:
        """Log why a client does not get the file; at most one warning in WARN_SECONDS."""
        if now - self._warned < WARN_SECONDS:
            self._unreported += 1
            return
        also = f" ({self._unreported:,} more clients since the last warning)"
        logger.warning("cannot send %s: %s%s", self.path, why, also if self._unreported else "")
        self._warned, self._unreported = now, 0

    def open(self) -> BinaryIO:
        """Open the file for one connection. Raises OSError, also if it is not a regular file."""
        fd = os.open(self.path, _OPEN_FLAGS)
        # Refuse a pipe, for example: reading from it would wait for another program.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no regular file", self.path)
        return os.fdopen(fd, "rb")
