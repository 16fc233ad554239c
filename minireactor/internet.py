"""The reactor: the loop, with TCP, threads and other people's descriptors."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core.descriptors import DescriptorSet
from minireactor.core.handler import Handler
from minireactor.core.loop import MAX_POLL_SECONDS, Loop
from minireactor.core.poller import READ, WRITE
from minireactor.core.threads import ThreadPool
from minireactor.core.triggers import SystemEvent
from minireactor.error import (
    ReactorAlreadyRunning,
    ReactorNotRestartable,
    ReactorNotRunning,
)
from minireactor.transports.connector import Connector
from minireactor.transports.port import Port
from minireactor.transports.resolver import Resolver

if TYPE_CHECKING:
    from minireactor.core.poller import Poller

MOST_THREADS = 10
SETTLE_SECONDS = 1.0  # how long a reactor that stops waits for bytes that are still on their way


class Reactor(Loop):
    """A Loop that listens and connects. See `interfaces.IReactorTCP` and its kin."""

    def __init__(
        self, poller: Poller | None = None, *, resolver: Any = None, **injected: Any
    ) -> None:
        super().__init__(poller, **injected)
        self.resolver = resolver or Resolver(self)  # what has a resolve() like a Resolver's will do
        self.running = False
        self._started = False  # inside run()
        self._stopping = False  # stop() was called
        self._shutdown_due = False  # ... and the triggers have not been fired yet
        self._ended = False  # for good
        self._undo_signals: Callable[[], None] = _nothing
        self._events = {
            "startup": SystemEvent("startup", self._now_running),
            "shutdown": SystemEvent("shutdown", self._end),
        }
        self._descriptors = DescriptorSet(self)
        self._threads = ThreadPool(MOST_THREADS, "minireactor")

    def callWhenRunning(self, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        """Call it now if the loop runs, else when it starts, in order."""
        if self.running:
            return f(*a, **k)
        return self.addSystemEventTrigger("after", "startup", f, *a, **k)

    def addSystemEventTrigger(
        self, phase: str, eventType: str, f: Callable[..., Any], *a: Any, **k: Any
    ) -> tuple[Any, ...]:
        """Call `f` in that phase, "before", "during" or "after", of "startup", "shutdown" or an
        event of your own. What removeSystemEventTrigger() takes. KeyError, TypeError."""
        event = self._events.get(eventType) or SystemEvent(eventType)
        trigger = event.add(phase, f, a, k)
        self._events[eventType] = event
        return trigger

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """TypeError, ValueError or KeyError for what is not, or no longer, a trigger."""
        if not isinstance(triggerID, tuple) or len(triggerID) != 5:
            raise TypeError(f"{triggerID!r} does not come from addSystemEventTrigger()")
        self._events[triggerID[0]].remove(triggerID)

    def fireSystemEvent(self, eventType: str) -> None:
        event = self._events.get(eventType)
        if event is not None:
            event.fire()

    # The life of the loop.

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run until `stop()` or `crash()`. ReactorAlreadyRunning, ReactorNotRestartable.

        With `installSignalHandlers`, in the main thread, SIGINT and SIGTERM stop it, unless the
        program has handlers of its own for them."""
        if self._started:
            raise ReactorAlreadyRunning("run() cannot be nested")
        if self._ended:
            raise ReactorNotRestartable("it has been stopped; make a new Reactor()")
        on_signal = self._on_signal if installSignalHandlers else None
        self._undo_signals = self.open().take_signals(on_signal)
        self._started = True
        try:
            self.fireSystemEvent("startup")
            while self._started:
                if self._shutdown_due:
                    self._shut_down()
                else:
                    self._tick_on()
            if self._ended:
                self.settle()
        finally:
            self._started = self.running = False
            self._undo_signals()
            if self._ended:
                self.close()

    def _tick_on(self) -> None:
        """Run iterations until stop() or crash(), or until a signal handler raises an exception.

        Python calls a program's signal handlers between any two steps, mostly while the loop waits.
        What they raise is logged."""
        try:
            while self._started and not self._shutdown_due:
                self.tick()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Events that were left out are reported again. Raises if the poller itself has failed.
            self._poller.poll(0.0, 1)
            log.err(error, "between two callbacks, in a signal handler most likely")

    def settle(self) -> None:
        """Let lingering sockets deliver their last bytes, for SETTLE_SECONDS at most."""
        until = time.monotonic() + SETTLE_SECONDS  # the kernel's time, whatever a test injects
        while time.monotonic() < until:
            if not any(handler.has_unacked_data() for handler in self.handlers()):
                return
            ready = self._poller.poll(0.05, len(self._handlers))
            self._dispatch_all(ready, self.seconds(), math.inf)

    def iterate(self, delay: float = 0) -> None:
        """Run one loop iteration, which waits at most `delay` seconds for events."""
        self.open()
        self.tick(max(0.0, min(delay, MAX_POLL_SECONDS)))

    def stop(self) -> None:
        """End `run()`: after this pass the "shutdown" triggers fire, then connections are lost.
        Delayed calls that are left are not made. ReactorNotRunning."""
        if not self._started or self._stopping:
            raise ReactorNotRunning("stop() is for between run() and stop()")
        self._stopping = self._shutdown_due = True
        self.call_soon(_nothing)  # so that this pass does not sleep

    def crash(self) -> None:
        """End `run()` after this pass, without triggers. It may run again."""
        self._started = self.running = False
        self.call_soon(_nothing)  # so that this pass does not sleep

    def _now_running(self) -> None:
        self.running = self._started

    def _shut_down(self) -> None:
        # Outside of any pass: nothing that is due comes after the connections are lost. What was
        # asked for, or written, before stop() comes first.
        self._shutdown_due = False
        self._run_soon()
        self._flush()
        self.fireSystemEvent("shutdown")

    def _end(self) -> None:
        self._ended = True
        self.crash()
        self.disconnect_all()

    def attach(self, handler: Handler) -> None:
        other = self.handler_of(handler.fd)
        if other is not None:
            # It was closed behind our back, and its number is taken again.
            self.disarm(other)
            self._descriptors.end_soon(other)
        super().attach(handler)

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self._undo_signals()  # what is sent to the child concerns the child

    def _on_signal(self, number: int, frame: Any) -> None:
        self.callFromThread(self._stop_unless_stopping)

    def _stop_unless_stopping(self) -> None:
        if self._started and not self._stopping:
            self.stop()

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        """Listen on a port number (0: any free one) of `interface`: an address or a name, or of
        all IPv4 addresses if that is empty.

        Of a name, each address is listened on that this machine has. To look a name up may take a
        while, unlike an address. Raises CannotListenError, or TypeError if `port` is no int."""
        listening = Port(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str | bytes,
        port: int | str,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> Connector:
        """Connect to a host, name or number, and a port, number or service name.

        Of several addresses, the first that answers is taken. Gives up after `timeout` seconds.
        Every failure comes as clientConnectionFailed."""
        connector = Connector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def addReader(self, reader: Any) -> None:
        """Call `reader.doRead()` whenever its descriptor is readable, until it is removed."""
        self._descriptors.change(reader, reading=True)

    def addWriter(self, writer: Any) -> None:
        """Call `writer.doWrite()` whenever its descriptor is writable, until it is removed."""
        self._descriptors.change(writer, writing=True)

    def removeReader(self, reader: Any) -> None:
        self._descriptors.change(reader, reading=False)

    def removeWriter(self, writer: Any) -> None:
        self._descriptors.change(writer, writing=False)

    def removeAll(self) -> list[Any]:
        """Remove all readers and writers, and return them."""
        return self._descriptors.remove_all()

    def getReaders(self) -> list[Any]:
        return [handler.owner() for handler in self.shown() if handler.wanted() & READ]

    def getWriters(self) -> list[Any]:
        return [handler.owner() for handler in self.shown() if handler.wanted() & WRITE]

    def callInThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in another thread, of which there are 10 at most. What `f` raises is
        logged. To come back, `f` uses callFromThread().

        The threads are daemons: a process that ends does not wait for them."""
        self._threads.call(f, a, k)

    def close(self) -> None:
        super().close()
        self._threads.close()


def _nothing() -> None:
    pass
