"""Streams for coroutines: `await reader.readline()`, `await writer.drain()`.

    async def echo(reader, writer):
        async for line in reader:
            writer.write(line)
            await writer.drain()

    reactor.listenTCP(8000, StreamFactory(echo))  # one coroutine for each connection
    reader, writer = await connect(clientFromString(reactor, "tcp:example.com:80"))

This is flow control by producers and consumers, in another form:

- The coroutine is a push producer of what it writes. `drain()` waits from pauseProducing() until
  resumeProducing(). A coroutine that does not wait there waits at its next read instead.
- The transport is a push producer of what the coroutine reads. The reader pauses the transport
  above `high` bytes that wait to be read, and resumes the transport at `low` bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core import flow
from minireactor.defer import CancelledError, Deferred, ensureDeferred
from minireactor.defer.coroutine import Task, Wait, running_task
from minireactor.endpoints import connectProtocol
from minireactor.error import ConnectionClosed, ConnectionDone
from minireactor.failure import Failure
from minireactor.protocol import Factory, Protocol, connectionDone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    Handler = Callable[["StreamReader", "StreamWriter"], Coroutine[Any, Any, object]]


class _Waiting:
    """Coroutines that wait for an event."""

    def __init__(self) -> None:
        self._all: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """Return a Deferred that wake() fires. Cancelling the Deferred removes it."""
        deferred: Deferred[None] = Deferred(self._forget)
        self._all.append(deferred)
        return deferred

    def _forget(self, deferred: Deferred[None]) -> None:
        if deferred in self._all:
            self._all.remove(deferred)

    def wake(self) -> None:
        waiting, self._all = self._all, []
        for deferred in waiting:
            if not deferred.called:  # a coroutine that was woken before may have cancelled it
                deferred.callback(None)


class StreamReader:
    """The bytes from the peer, in order.

    Bytes leave the buffer only when a read returns them. So cancelling a read loses no byte. After
    the end of the connection, reads return all buffered bytes first. Then they return b"" if the
    peer has ended the stream in good order, and raise the error otherwise.
    """

    def __init__(self, transport: Any, high: int, low: int) -> None:
        self._transport = transport
        self._high, self._low = flow.checked_marks(high, low)
        # One piece from the transport is returned without a copy. A second piece is appended to a
        # bytearray. The first `_start` bytes have been read already.
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self._searched = 0  # `_buffer[_start:_searched]` holds no newline
        self._is_paused = False
        self._end: BaseException | None = None  # why no more bytes come
        self._more = Wait()

    async def read(self, n: int) -> bytes:
        """Return 1 to `n` bytes, or b"" at the end of the stream. Raises ValueError if n < 1."""
        if n < 1:
            raise ValueError(f"read({n!r}): give the largest number of bytes, at least 1")
        task = running_task()
        if task is not None and task.paused_by:
            await _until_flowing(task)
        while not self._buffer and self._end is None:
            await self._more
        return self._take(self._start + n)

    async def readline(self) -> bytes:
        """Return the next line with its newline. The last line may lack it; b"" is the end.

        Raises ValueError for a line of more than `high` bytes, whose bytes stay readable."""
        task = running_task()
        if task is not None and task.paused_by:
            await _until_flowing(task)
        while True:
            at = self._buffer.find(b"\n", self._searched)
            if at >= 0:
                return self._take(at + 1)
            self._searched = len(self._buffer)
            if self._searched - self._start > self._high:
                raise ValueError(f"a line is longer than {self._high} bytes; read() can take it")
            if self._end is not None:
                return self._take(self._searched)
            await self._more

    def __aiter__(self) -> StreamReader:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def _take(self, end: int) -> bytes:
        """Return the bytes of the buffer up to `end`, and free them."""
        buffer, start = self._buffer, self._start
        if end < len(buffer):
            data = bytes(buffer[start:end])
            self._start = self._searched = end
        elif buffer:
            data = bytes(buffer[start:] if start else buffer)
            self._buffer = b""
            self._start = self._searched = 0
        elif isinstance(self._end, ConnectionDone):
            return b""
        else:
            assert self._end is not None
            raise self._end
        if self._is_paused and len(self._buffer) - self._start <= self._low:
            self._is_paused = False
            self._transport.resumeProducing()
        return data

    def feed(self, data: bytes) -> None:
        """Buffer bytes from the transport, and wake the coroutine that waits."""
        if not self._buffer:
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
            self._buffer += data
        if len(self._buffer) - self._start > self._high and not self._is_paused:
            self._is_paused = True
            self._transport.pauseProducing()
        self._more.wake()

    def finish(self, error: BaseException) -> None:
        """End the stream. ConnectionDone is the end in good order."""
        self._end = self._end or error
        self._more.wake()


class StreamWriter:
    """The bytes to the peer. It is the transport's push producer, on behalf of coroutines."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._is_paused = False
        self._end: BaseException | None = None  # why the connection has ended
        self._flowing = _Waiting()
        self._closed = _Waiting()
        self._paused_tasks: set[Task] = set()
        transport.registerProducer(self, True)

    def write(self, data: Any) -> None:
        """Queue bytes, as `transport.write()` does.

        Above the high mark, the calling coroutine is paused: its next read waits. So a coroutine
        that sends much before it reads the answers needs a second coroutine that reads."""
        self.transport.write(data)
        if self._is_paused:
            task = running_task()
            if task is not None:
                task.paused_by.add(self)
                self._paused_tasks.add(task)

    async def drain(self) -> None:
        """Wait until pending has fallen to the low mark, if it has been above the high mark.

        Raises the error that has ended the connection."""
        while self._is_paused:
            await self._flowing.wait()
        if self._end is not None:
            raise self._end

    async def until_flowing(self) -> None:
        """Wait like drain(), but also return at the end of the connection."""
        while self._is_paused:
            await self._flowing.wait()

    def write_eof(self) -> None:
        """End the stream to the peer after the pending bytes; reading goes on."""
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()

    def close(self) -> None:
        """Close the connection after the pending bytes."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    async def wait_closed(self) -> None:
        """Wait for the end of the connection, in good order or not."""
        if self._end is None:
            await self._closed.wait()

    # As a producer.

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        for task in self._paused_tasks:
            task.paused_by.discard(self)
        self._paused_tasks.clear()
        self._flowing.wake()

    def stopProducing(self) -> None:
        """Do nothing: finish() follows."""

    def finish(self, error: BaseException) -> None:
        """Note the end of the connection."""
        self._end = error
        self.resumeProducing()
        self._closed.wake()


async def _until_flowing(task: Task) -> None:
    """Wait until no writer pauses the task any more."""
    while task.paused_by:
        await next(iter(task.paused_by)).until_flowing()


class StreamProtocol(Protocol):
    """A protocol with a reader and a writer, which may run `await handler(reader, writer)`.

    The connection is closed when the coroutine returns, and aborted when it raises an exception.
    The exception is logged, unless it is the end of the connection or of the task.

    high, low: the marks of the reader, in bytes.
    task: the Deferred of the coroutine. Cancelling it ends the coroutine and the connection.
    """

    reader: StreamReader
    writer: StreamWriter
    task: Deferred[Any] | None = None

    def __init__(
        self, handler: Handler | None = None, high: int = flow.HIGH, low: int = flow.LOW
    ) -> None:
        self._handler = handler
        self._marks = high, low

    def connectionMade(self) -> None:
        self.reader = StreamReader(self.transport, *self._marks)
        self.writer = StreamWriter(self.transport)
        self.dataReceived = self.reader.feed  # type: ignore[method-assign]
        if self._handler is not None:
            self.task = ensureDeferred(self._handler(self.reader, self.writer))
            self.task.addCallbacks(self._returned, self._failed)

    def _returned(self, result: object) -> None:
        self.writer.close()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(ConnectionClosed, CancelledError):
            log.err(failure, f"in the coroutine of {self.transport!r}")
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        self.reader.finish(ConnectionDone())

    def writeConnectionLost(self) -> None:
        """Do nothing: the program itself has ended the stream to the peer."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reader.finish(reason.value)
        self.writer.finish(reason.value)


class StreamFactory(Factory):
    """Runs `await handler(reader, writer)` for each connection: see StreamProtocol."""

    def __init__(self, handler: Handler, high: int = flow.HIGH, low: int = flow.LOW) -> None:
        flow.checked_marks(high, low)
        self._arguments = handler, high, low

    def buildProtocol(self, addr: Any) -> StreamProtocol:
        protocol = StreamProtocol(*self._arguments)
        protocol.factory = self
        return protocol


async def connect(endpoint: Any) -> tuple[StreamReader, StreamWriter]:
    """Connect with a client endpoint, and return the reader and the writer."""
    protocol = await connectProtocol(endpoint, StreamProtocol())
    return protocol.reader, protocol.writer
