"""The Engine: a Reactor whose work a small reactor does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable

from minireactor import error
from minireactor.engine.loading import TINY, EngineError, located
from minireactor.engine.ports import Connecting, Listening
from minireactor.internet import Reactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from minireactor.core.handler import Handler

REACTOR = ("listenTCP", "callLater", "run", "stop")
PORT = ("getHost", "stopListening", "socket")
BEAT = 0.02  # seconds between two looks at calls of signal handlers, and at readers


class Engine(Reactor):
    """A reactor whose loop, ports and connections are those of a small reactor.

    make: makes the small reactor.
    file: the file that defines it, for messages."""

    def __init__(self, make: Callable[[], Any], file: str = TINY) -> None:
        try:
            self._inner = make()
        except Exception as reason:
            raise EngineError(located(reason, file)) from reason
        super().__init__(seconds=getattr(self._inner, "seconds", time.monotonic))
        self._file = file
        self.check("Reactor", self._inner, REACTOR)
        self._readers: list[Any] = []
        self._reason: EngineError | None = None

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run the small reactor until stop(). Raises EngineError if it fails."""
        self._started = True
        self.fireSystemEvent("startup")
        self.attempt(self._beat)
        try:
            self.attempt(self._inner.run)
        finally:
            self._started = self.running = False
        if self._reason is not None:
            raise self._reason

    def stop(self) -> None:
        if not self._started or self._stopping:
            raise error.ReactorNotRunning("call stop() once, while run() is active")
        self._stopping = True
        self.fireSystemEvent("shutdown")  # ends with crash()

    def crash(self) -> None:
        self._inner.stop()

    def fail(self, reason: EngineError) -> None:
        """End run() with this exception."""
        self._reason = self._reason or reason
        self._inner.stop()

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call of the small reactor. Raises EngineError if it raises."""
        try:
            return call(*args, **kwargs)
        except (error.CannotListenError, EngineError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as reason:
            raise EngineError(located(reason, self._file)) from reason

    def check(self, what: str, found: Any, names: Iterable[str]) -> None:
        """Raises EngineError if an object of the small reactor lacks one of these names."""
        missing = [name for name in names if not hasattr(found, name)]
        if missing:
            raise EngineError(f"{self._file}: a {what} lacks {', '.join(missing)}")

    def guard(self, handler: Any, call: Callable[..., Any], *args: Any) -> None:
        super().guard(handler, call, *args)

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        if not delay >= 0:
            raise ValueError(f"{delay!r} will not do: give a delay of 0 seconds or more")
        return self._inner.callLater(delay, lambda: self._call(f, a, k))

    def call_later_internal(self, delay: float, f: Callable[..., Any]) -> Any:
        return self.callLater(delay, f)

    def call_soon(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        self.callLater(0, f, *a, **k)

    def call_in_turn(self, f: Callable[[], Any], first: bool = False) -> None:
        self.callLater(0, f)

    def iterate(self, delay: float = 0) -> None:
        """Run one iteration, if the small reactor has iterate()."""
        self._look()
        self._inner.iterate(delay)

    def close(self) -> None:
        """Close all connections, if the small reactor has close()."""
        self._inner.close()

    def _beat(self) -> None:
        self._look()
        self.callLater(BEAT / 5 if self._readers else BEAT, self._beat)

    def _look(self) -> None:
        # A small reactor has neither a waker nor addReader().
        self._run_soon()
        for reader in list(self._readers):
            self._call(reader.doRead, (), {})

    def addReader(self, reader: Any) -> None:
        """Call `reader.doRead()` often; it has to expect that there is nothing to read."""
        if reader not in self._readers:
            self._readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        listening = Listening(self, factory)
        try:
            inner = self.attempt(self._inner.listenTCP, port, listening, interface=interface)
        except EngineError as reason:
            if isinstance(reason.__cause__, OSError):
                raise error.CannotListenError(interface, port, reason.__cause__) from reason
            raise
        self.check("port", inner, PORT)
        listening.opened(inner)
        return listening

    def connectTCP(
        self,
        host: Any,
        port: Any,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: Any = None,
    ) -> Any:
        connecting = Connecting(self, factory)
        connecting.connect(self._inner, host, port, timeout)
        return connecting

    def listenUNIX(self, *rest: Any, **more: Any) -> Any:
        raise EngineError("a small reactor has no UNIX sockets; give HOST:PORT, or --engine core")

    connectUNIX = listenUNIX

    def application_handlers(self) -> list[Handler]:
        return []
