"""Standard input as a producer and standard output as a consumer, without O_NONBLOCK.

A thread reads the input and another writes the output, both with blocking calls. So a descriptor
may be anything: epoll refuses regular files, and the shell that shares a descriptor would find
O_NONBLOCK set. Either thread may block for ever, and no end of the process waits for it.
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
    from minireactor.internet import Reactor

CHUNK = flow.HIGH  # bytes a read: with one chunk, at most twice the high mark is pending

OnEnd = Callable[[Any], object]  # called with the OSError that has ended it, or None


class Input:
    """A push producer of what a descriptor gives, read by a thread of its own.

    The thread reads a chunk only when it is asked, and has one chunk in hand at most. `on_end` is
    called after the consumer was told of the end."""

    def __init__(self, reactor: Reactor, fd: int, on_end: OnEnd) -> None:
        self._reactor = reactor
        self._fd = fd
        self._on_end = on_end
        self._consumer: Any = None
        self._paused = False
        self._asked = False  # the thread reads, or what it has read is on its way
        self._held = b""  # arrived while paused
        self._requests = threading.Semaphore(0)
        _start("minireactor-input", self._read)

    def feed(self, consumer: Any) -> None:
        """Begin to read, for `consumer`."""
        self._consumer = consumer
        consumer.registerProducer(self, True)
        self._go_on()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        self._consumer = None
        self._held = b""
        self._requests.release()  # to end the thread, unless it reads

    def _go_on(self) -> None:
        """Pass on what is held, then ask for more, as far as the consumer takes it."""
        if self._held and not self._paused:
            data, self._held = self._held, b""
            self._consumer.write(data)
        if not (self._paused or self._asked or self._consumer is None):
            self._asked = True
            self._requests.release()

    def _arrived(self, data: bytes, error: OSError | None) -> None:
        self._asked = False
        consumer = self._consumer
        if consumer is None:
            return
        if data:
            self._held = data
            self._go_on()
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
    """A consumer whose bytes a thread of its own writes to a descriptor, in order.

    Nothing is dropped: the producer is paused and resumed at the usual two marks. `on_end` is
    called when all is written and the producer has finished, or when writing has failed."""

    def __init__(self, reactor: Reactor, fd: int, on_end: OnEnd) -> None:
        self._reactor = reactor
        self._fd = fd
        self._on_end = on_end
        self._flow = flow.FlowControl()
        self._pending = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()  # None: the end
        _start("minireactor-output", self._write)

    def registerProducer(self, producer: flow.Producer, streaming: bool) -> None:
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
    # Who blocks these two gets EIO from a terminal in place of a stop of the whole process.
    blocked = signal.valid_signals() - {signal.SIGTTIN, signal.SIGTTOU}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        start_daemon(name, f)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _retry(call: Callable[..., Any], fd: int, what: Any, ready: Any) -> Any:
    """Return `call(fd, what)`, also if another program has made the descriptor non-blocking."""
    while True:
        try:
            return call(fd, what)
        except BlockingIOError:
            select.select(*ready)
