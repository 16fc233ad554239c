"""The producers of the demo's server: one for each connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from minireactor.core.timers import cancel_if_active
from minireactor.protocol import Factory, Protocol
from minireactor.view.web.demo_sockets import KIB, limit_sending

if TYPE_CHECKING:
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection

MADE = 768 * KIB  # bytes a second that a producer makes at first
PIECE = 16 * KIB  # bytes that a pull producer writes for each call
# Seconds between two writes of a push producer. Each write is a chunk of its own in the buffer, so
# the memory of a chunk returns to the system when flow control is switched on again.
STEP = 0.0125
LETTER = b"."  # streams consist of it; some systems keep no copy in memory of a run of zeros


class Settings:
    """The settings of all producers. `has_room` returns whether unpaused producers may go on."""

    def __init__(self, has_room: Callable[[], bool]) -> None:
        self.has_room = has_room
        self.reset()

    def reset(self) -> None:
        """Set everything as it is at the start."""
        self.flow = True  # False: no producer is registered, so none is paused
        self.kind = "push"  # or "pull"
        self.made = MADE  # bytes a second
        self.delay = 0.0  # seconds that a push producer needs to start again


class Source:
    """The producer of one connection: makes `settings.made` bytes a second while it may.

    A push producer writes until it is paused. After resumeProducing() it needs `settings.delay`
    seconds to start. A pull producer writes one piece for each call. Without flow control the
    source is not registered, and writes without end."""

    def __init__(self, reactor: Reactor, settings: Settings, transport: Connection) -> None:
        self._reactor = reactor
        self._settings = settings
        self._transport = transport
        self._timer: Any = None
        self._began = 0.0  # the time up to which bytes have been made

    def begin(self) -> None:
        """Follow the settings from now on."""
        self._stop_timer()
        self._transport.unregisterProducer()
        self._go_on_in(0.0)
        if self._settings.flow:
            # Last: this call may ask a pull producer at once, or pause a push producer.
            self._transport.registerProducer(self, self._settings.kind == "push")

    def pauseProducing(self) -> None:
        self._stop_timer()

    def resumeProducing(self) -> None:
        self._go_on_in(self._settings.delay)

    def stopProducing(self) -> None:
        self._stop_timer()

    def _go_on_in(self, seconds: float) -> None:
        self._stop_timer()
        settings = self._settings
        if settings.kind == "pull" and settings.flow:
            seconds += PIECE / settings.made
            self._timer = self._reactor.callLater(seconds, self._write_piece)
        else:
            self._began = self._reactor.seconds() + seconds
            self._timer = self._reactor.callLater(seconds + STEP, self._write)

    def _write_piece(self) -> None:
        self._transport.write(LETTER * PIECE)

    def _write(self) -> None:
        if not self._settings.flow and not self._settings.has_room():
            return
        now = self._reactor.seconds()
        # A late timer makes up for its delay, but without one great leap.
        count = int(min(now - self._began, 10 * STEP) * self._settings.made)
        self._began = now
        self._timer = self._reactor.callLater(STEP, self._write)
        self._transport.write(LETTER * count)  # last: this may pause us

    def _stop_timer(self) -> None:
        cancel_if_active(self._timer)


class Stream(Protocol):
    """A connection of the server, with a Source from its first moment to its last."""

    source: Source

    def __init__(self, factory: Streams) -> None:
        self._streams = factory

    def connectionMade(self) -> None:
        streams = self._streams
        limit_sending(self.transport.getHandle())
        self.source = Source(streams.reactor, streams.settings, self.transport)
        streams.open.add(self)
        streams.on_made(self.transport)
        self.source.begin()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._streams.open.discard(self)
        self.source.stopProducing()


class Streams(Factory):
    """The streams of the server. `open` has those that are connected.

    on_made: called with the transport of each new stream, before anything is written."""

    noisy = False

    def __init__(
        self, reactor: Reactor, settings: Settings, on_made: Callable[[Connection], object]
    ) -> None:
        self.reactor = reactor
        self.settings = settings
        self.on_made = on_made
        self.open: set[Stream] = set()

    def buildProtocol(self, addr: Any) -> Stream:
        return Stream(self)
