"""The debug mode: it watches how a program uses the reactor, and logs a warning for each fault.

    MINIREACTOR_DEBUG=1 python3 program.py
    Reactor(debug=True)

install() gives a reactor a class of its own, derived from the class that it has. Each connection
that this reactor attaches gets such a class too, see `checks`. Without the debug mode no object
is changed, so it costs nothing then.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core import flow
from minireactor.core.loop import MAX_POLL_SECONDS, Loop
from minireactor.core.poller import READ
from minireactor.core.system import SYSTEM
from minireactor.debugging.checks import begin_checks
from minireactor.debugging.warnings import Warnings, file_of, is_ours, place_of
from minireactor.defer import Deferred
from minireactor.failure import safe_repr
from minireactor.transports.connection import Connection

if TYPE_CHECKING:
    from minireactor.core.handler import Handler
    from minireactor.core.timers import DelayedCall

# A callback that runs for longer is reported. Every other connection waits in the meantime.
SLOW_SECONDS = 0.1
SLOW_VARIABLE = "MINIREACTOR_SLOW"  # environment variable: another number of seconds
# Descriptors that are checked after each loop iteration, in turn. One check takes a microsecond.
CHECKED_DESCRIPTORS = 20

_TIMED = 1 << 20  # a bit that no poller reports
# The methods of a protocol that input leads to, the program's own ones first.
_INPUT = ("lineReceived", "stringReceived", "dataReceived")


def install(reactor: Loop) -> None:
    """Put a reactor, which has not run yet, into the debug mode. Idempotent.

    From now on, every Deferred of the process keeps where it was made."""
    if isinstance(reactor, DebugLoop):
        return
    own = type(reactor)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__}
    reactor.__class__ = type(own.__name__, (DebugLoop, own), names)
    assert isinstance(reactor, DebugLoop)
    reactor.begin_checks()
    Deferred.debug = True


class DebugLoop(Loop):
    """What the debug mode adds to the class of a reactor.

    warnings: where the warnings go.
    slow: a callback that runs for this many seconds or longer is reported."""

    def begin_checks(self) -> None:
        self.warnings = Warnings()
        self.slow = self._slow_seconds()
        self._thread = 0  # the id of the thread that runs an iteration, if one does
        self._slow_calls = 0
        self._identities: dict[Handler, tuple[int, int]] = {}  # of the handlers' descriptors
        self._to_check: list[Handler] = []

    def _slow_seconds(self) -> float:
        text = os.environ.get(SLOW_VARIABLE, "")
        try:
            seconds = float(text or SLOW_SECONDS)
        except ValueError:
            seconds = 0.0
        if seconds > 0:
            return seconds
        why = f"{text!r} is not valid: give seconds, more than 0; {SLOW_SECONDS:g} is used"
        self.warnings.warn(SLOW_VARIABLE, "", why)
        return SLOW_SECONDS

    # Slow callbacks: rule T5.

    def timed(self, find: Callable[[], Any], call: Callable[..., Any], *args: Any) -> None:
        """Call `call(*args)`. Warn if the call is slow, and name what `find()` returns.

        Of nested calls only the innermost is reported."""
        before, began = self._slow_calls, time.monotonic()
        try:
            call(*args)
        finally:
            seconds = time.monotonic() - began
            if seconds >= self.slow and self._slow_calls == before:
                self._slow_calls += 1
                try:
                    place = place_of(find())
                except Exception:  # from an attribute of the application's object
                    place = place_of(call)
                why = f"a callback took {seconds:.2f} s, and all others waited: {place}"
                self.warnings.warn("T5", place, why)

    def guard(self, handler: Handler, call: Callable[..., Any], *args: Any) -> None:
        self.timed(lambda: _application_code(call, args), super().guard, handler, call, *args)

    def _call(self, f: Callable[..., Any], args: Any, kw: Any) -> None:
        self.timed(lambda: f, super()._call, f, args, kw)

    def _dispatch_all(self, ready: list[tuple[int, int]], now: float, until: float) -> None:
        # With this bit, no event is READ alone. So all events go through _dispatch().
        super()._dispatch_all([(fd, events | _TIMED) for fd, events in ready], now, until)

    def _dispatch(self, handler: Handler, events: int) -> None:
        events &= ~_TIMED
        protocol = getattr(handler, "protocol", None)  # None after the end

        def find() -> Any:
            return _input_code(handler, protocol)

        if events == READ and handler.reading:
            self.timed(find, handler.doRead)
        else:
            self.timed(find, super()._dispatch, handler, events)

    # Calls from another thread: rule B4.

    def check_thread(self, what: str) -> None:
        """Warn if this thread is not the one that runs the loop at the moment."""
        if self._thread not in (0, threading.get_ident()):
            name = threading.current_thread().name
            self.warnings.warn_here(
                "B4", f"{what} from the thread {name}; use callFromThread() for it"
            )

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> DelayedCall:
        self.check_thread("callLater()")
        return super().callLater(delay, f, *a, **k)

    def call_soon(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        self.check_thread("a call of the reactor")
        super().call_soon(f, *a, **k)

    def attach(self, handler: Handler) -> None:
        self.check_thread("a new connection or port")
        if not handler.internal:
            self._identify(handler)
        if isinstance(handler, Connection):
            begin_checks(handler, self)
        super().attach(handler)

    def detach(self, handler: Handler) -> None:
        self._identities.pop(handler, None)
        super().detach(handler)

    # Descriptors that were closed behind the reactor's back.

    def tick(self, timeout: float = MAX_POLL_SECONDS) -> None:
        self._thread = threading.get_ident()
        try:
            super().tick(timeout)
        finally:
            self._thread = 0
        self._check_descriptors()

    def _identify(self, handler: Handler) -> None:
        """Remember which file the descriptor of a handler is. Virtual sockets have none."""
        if self.system is SYSTEM:
            try:
                found = os.fstat(handler.fd)
            except OSError:
                return
            self._identities[handler] = (found.st_dev, found.st_ino)

    def _check_descriptors(self) -> None:
        if not self._to_check:
            self._to_check = list(self._identities)
        for _ in range(min(CHECKED_DESCRIPTORS, len(self._to_check))):
            handler = self._to_check.pop()
            before = self._identities.get(handler)
            if before is None:
                continue
            try:
                found = os.fstat(handler.fd)
                is_open = (found.st_dev, found.st_ino) == before
            except OSError:
                is_open = False
            if not is_open:
                del self._identities[handler]
                target = safe_repr(handler.target())
                why = f"{handler.fd}, of {target}, was closed by other code than the reactor"
                self.warnings.warn("descriptor", target, why)


def _application_code(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return the function of the application that a guarded call leads to, as far as is known."""
    if call is flow.call:
        return getattr(args[0], args[1], call)
    if getattr(call, "__name__", "") == "makeConnection":
        return getattr(getattr(call, "__self__", None), "connectionMade", call)
    return call


def _input_code(handler: Handler, protocol: Any) -> Any:
    """Return the function of the application that an event of a handler leads to."""
    if isinstance(handler, Connection):
        found = [getattr(protocol, name, None) for name in _INPUT]
        own = [each for each in found if each is not None and not is_ours(file_of(each))]
        return own[0] if own else found[-1] or handler.doRead
    factory = getattr(handler, "factory", None)
    if factory is not None:
        return factory.buildProtocol
    name = "doRead" if handler.reading else "doWrite"
    return getattr(handler.target(), name, handler.doRead)
