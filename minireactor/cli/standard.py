"""Standard input as a producer and standard output as a consumer, without O_NONBLOCK.

One thread reads the input, another writes the output, both with blocking calls. So each descriptor
may be of any kind: epoll refuses regular files. O_NONBLOCK would also be set for the shell, which
shares the descriptors. Either thread may block for ever; the process ends without waiting for it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core import flow
from minireactor.core.threads import start_daemon

if TYPE_CHECKING:
    from minireactor.interfaces import IConsumer, IProducer
    from minireactor.internet import Reactor

CHUNK = flow.HIGH  # bytes of one read, so that at most twice the high mark is pending

OnEnd = Callable[[Any], object]  # called with the OSError that caused the end, or None


class Input:
    """A push producer of the bytes that a thread reads from a descriptor.

    The thread reads one chunk for each request. There is one request at a time, so at most one
    chunk waits. `on_end` is called after the producer has unregistered."""

    def __init__(self, reactor: Reactor, fd: int, on_end: OnEnd) -> None:
        self._reactor = reactor
        self._fd = fd
        self._on_end = on_end
        self._consumer: IConsumer | None = None
        self._paused = False
        self._has_request = False  # the thread reads, or its chunk has not arrived yet
        self._chunk = b""  # arrived while paused
        self._requests = threading.Semaphore(0)
        _start("minireactor-input", self._read)

    def feed(self, consumer: IConsumer) -> None:
        """Begin to read, for `consumer`."""
        self._consumer = consumer
        consumer.registerProducer(self, True)
        self._continue()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._continue()

    def stopProducing(self) -> None:
        self._consumer = None
        self._chunk = b""
        self._requests.release()  # ends the thread if it waits for a request

    def _continue(self) -> None:
        """Write the buffered chunk, then request another one, unless the consumer has paused us."""
        if self._consumer is not None and self._chunk and not self._paused:
            data, self._chunk = self._chunk, b""
            self._consumer.write(data)
        if not (self._paused or self._has_request or self._consumer is None):
            self._has_request = True
            self._requests.release()

    def _arrived(self, data: bytes, error: OSError | None) -> None:
        self._has_request = False
        consumer = self._consumer
        if consumer is None:
            return
        if data:
            self._chunk = data
            self._continue()
            return
        self._consumer = None
        consumer.unregisterProducer()
        self._on_end(error)

    def _read(self) -> None:
        while True:
            self._requests.acquire()
            if self._consumer is None:
                return
            data, error = b"", None
            try:
                data = _retry(os.read, self._fd, CHUNK, ([self._fd], [], []))
            except OSError as caught:
                error = caught
            self._reactor.callFromThread(self._arrived, data, error)
            if not data:
                return


class Output:
    """A consumer whose bytes a thread writes to a descriptor, in order.

    No bytes are dropped: the producer is paused and resumed at the default marks. `on_end` is
    called when the producer has unregistered and all bytes are written, or if writing fails."""

    def __init__(self, reactor: Reactor, fd: int, on_end: OnEnd) -> None:
        self._reactor = reactor
        self._fd = fd
        self._on_end = on_end
        self._flow = flow.FlowControl()
        self._pending = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()  # None: the end
        _start("minireactor-output", self._write)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._call(self._flow.register(producer, streaming))

    def unregisterProducer(self) -> None:
        if self._flow.producer is not None:
            self._flow.fire(flow.UNREGISTERED)
            self._queue.put(None)

    def write(self, data: bytes) -> None:
        if self._flow.state is not flow.CLOSED:
            self._pending += len(data)
            self._queue.put(data)
            if self._pending > self._flow.high:
                self._call(self._flow.fire(flow.ABOVE))

    def _written(self, count: int) -> None:
        self._pending -= count
        if self._pending <= self._flow.low and self._flow.state is flow.PAUSED:
            self._call(self._flow.fire(flow.BELOW))

    def _ended(self, error: OSError | None) -> None:
        self._call(self._flow.fire(flow.ENDED))
        self._on_end(error)

    def _call(self, call: flow.ProducerCall) -> None:
        if call is not None:
            flow.call(*call)

    def _write(self) -> None:
        error = None
        try:
            while True:
                data = self._queue.get()
                if data is None:
                    break
                rest = memoryview(data)
                while rest:
                    rest = rest[_retry(os.write, self._fd, rest, ([], [self._fd], [])) :]
                self._reactor.callFromThread(self._written, len(data))
        except OSError as caught:
            error = caught
        self._reactor.callFromThread(self._ended, error)


def _start(name: str, f: Callable[[], None]) -> None:
    """Start a thread that leaves the signals to the main thread, where they wake the loop."""
    if not hasattr(signal, "pthread_sigmask"):
        start_daemon(name, f)
        return
    # These two signals stop a background process that uses its terminal. A thread that blocks them
    # would get EIO instead.
    blocked = signal.valid_signals() - {signal.SIGTTIN, signal.SIGTTOU}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        start_daemon(name, f)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _retry(call: Callable[..., Any], fd: int, what: Any, ready: Any) -> Any:
    """Return `call(fd, what)`, even if another program has made the descriptor non-blocking."""
    while True:
        try:
            return call(fd, what)
        except BlockingIOError:
            select.select(*ready)
