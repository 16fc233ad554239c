"""The ports and connectors of an Engine, which are the factories of the small reactor."""

from __future__ import annotations

from typing import Any

from minireactor import error, log
from minireactor.core import flow
from minireactor.core.timers import cancel_if_active
from minireactor.engine.transport import Bridge, as_failure
from minireactor.failure import Failure, safe_repr
from minireactor.protocol import Protocol


class Limited:
    """The watermarks of future connections of a port or a connector."""

    marks = (flow.HIGH, flow.LOW)

    def __init__(self, engine: Any, factory: Any) -> None:
        self.reactor = engine
        self.factory = factory

    def setWriteBufferLimits(self, high: int = flow.HIGH, low: int | None = None) -> None:
        self.marks = flow.checked_marks(high, low)

    def setUnsentLimit(self, limit: int | None) -> None:
        """Do nothing: a small reactor leaves the kernel's buffers alone."""

    def built(self, address: Any) -> Any:
        """Return the factory's next protocol; None if it rejects the peer, or raises."""
        try:
            return self.factory.buildProtocol(address)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            log.err(None, f"in buildProtocol() of {safe_repr(self.factory)}")
            return None

    def doStart(self) -> None:
        """Do nothing, if the small reactor calls it: the Engine notifies the program's factory."""

    doStop = doStart


class Listening(Limited):
    """The port that an Engine returns, and the factory that it gives to the small reactor."""

    is_open = False

    def opened(self, port: Any) -> None:
        self._port = port
        self.getHost = port.getHost
        self.is_open = True
        self.factory.doStart()

    def stopListening(self) -> None:
        """Close the port. The factory is notified once."""
        self._port.stopListening()
        if self.is_open:
            self.is_open = False
            self.factory.doStop()

    def getHandle(self) -> Any:
        return self._port.socket

    def sockets(self) -> list[Any]:
        return [self._port.socket]

    def buildProtocol(self, address: Any) -> Any:
        protocol = self.built(address)
        return Bridge(self, protocol) if protocol is not None else Rejecting()


class Connecting(Limited):
    """The connector that an Engine returns, and the factory that it gives to the small reactor."""

    state = "disconnected"
    _bridge: Any = None
    _timer: Any = None

    def connect(self, inner: Any, host: Any, port: Any, timeout: float | None) -> None:
        self.state = "connecting"
        self.factory.doStart()
        self.factory.startedConnecting(self)
        if timeout is not None:
            late = Failure(error.TimeoutError())
            self._timer = self.reactor.callLater(timeout, self._failed, late)
        if hasattr(inner, "connectTCP"):
            self.reactor.attempt(inner.connectTCP, host, port, self)
        else:
            reason = error.ConnectError(string="this reactor has no connectTCP()")
            self.reactor.callLater(0, self._failed, Failure(reason))

    def startedConnecting(self, connector: Any) -> None:
        """Do nothing: the program's factory has been notified."""

    def buildProtocol(self, address: Any) -> Any:
        if self.state != "connecting":
            return Rejecting()
        self._end("connected")
        protocol = self.built(address)
        self._bridge = Rejecting() if protocol is None else Bridge(self, protocol, self._lost)
        return self._bridge

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self._failed(as_failure(reason))

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        """Do nothing: _lost() is called."""

    def _failed(self, reason: Failure) -> None:
        if self.state == "connecting":
            self._end("disconnected")
            self.reactor.call_soon(self.factory.clientConnectionFailed, self, reason)
            self.reactor.call_soon(self.factory.doStop)

    def _lost(self, reason: Failure) -> None:
        self.state = "disconnected"
        self.reactor.call_soon(self.factory.clientConnectionLost, self, reason)
        self.reactor.call_soon(self.factory.doStop)

    def _end(self, state: str) -> None:
        self.state = state
        cancel_if_active(self._timer)

    def disconnect(self) -> None:
        if self.state == "connecting":
            self._failed(Failure(error.UserError()))
        elif self._bridge is not None:
            self._bridge.transport.loseConnection()

    stopConnecting = disconnect


class Rejecting(Protocol):
    """Closes a connection that nobody wants."""

    def connectionMade(self) -> None:
        self.transport.loseConnection()
