"""`--watch`: what the connections do, in the terminal, as it happens.

    watch = open_watch(reactor, "serve: echo on 127.0.0.1:1234", on_quit=reactor.stop)
    try:
        reactor.run()
    finally:
        watch.close()

On a terminal it takes the whole screen and gives it back in the end, whatever that is: an error, a
signal, Ctrl-Z. Elsewhere, as in a pipe, it prints a line each second.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.view.monitor import Monitor
from minireactor.view.ranking import ORDERS
from minireactor.view.terminal import screen
from minireactor.view.terminal.screen import HISTORY, INTERVAL, Options
from minireactor.view.terminal.terminal import Capture, Terminal, find_terminal

if TYPE_CHECKING:
    from minireactor.internet import Reactor
    from minireactor.transports.tcp import Connection

    Label = Callable[[Connection], str]

LINE_SECONDS = 1.0


def open_watch(
    reactor: Reactor,
    title: str,
    *,
    hint: str = "",
    label: Label | None = None,
    on_quit: Callable[[], object],
    is_stopping: Callable[[], bool] = lambda: False,
) -> Lines | Screen:
    """Show `reactor` from now on, until it is closed.

    title: what it is. hint: what to say while there is no connection. label: as for a Monitor.
    on_quit: called for each `q`. is_stopping: asked whether the end has begun."""
    fd = find_terminal()
    if fd is None:
        return Lines(reactor, label)
    options = Options(
        title,
        hint,
        colours=not os.environ.get("NO_COLOR"),
        unicode="utf" in (sys.stdout.encoding or "").lower(),
    )
    return Screen(reactor, fd, options, label, on_quit, is_stopping)


class Lines:
    """A line each second, for as long as somebody takes them."""

    def __init__(self, reactor: Reactor, label: Label | None = None) -> None:
        self._reactor = reactor
        self._monitor = Monitor(reactor, limit=1, label=label)
        self._samples: deque[dict[str, Any]] = deque([self._monitor.sample()], maxlen=2)
        self._timer = reactor.call_later_internal(LINE_SECONDS, self._print)

    def _print(self) -> None:
        self._timer = self._reactor.call_later_internal(LINE_SECONDS, self._print)
        self._samples.append(self._monitor.sample())
        try:
            # Of a command, sys.stdout is a stream that never waits.
            print(screen.plain(self._samples), flush=True)
        except (OSError, ValueError):
            self.close()

    def close(self) -> None:
        self._monitor.close()
        if self._timer.active():
            self._timer.cancel()


class Screen:
    """The picture on a terminal, and the keys."""

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        options: Options,
        label: Label | None,
        on_quit: Callable[[], object],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._on_quit = on_quit
        self._is_stopping = is_stopping
        self._monitor = Monitor(reactor, label=label)
        self._samples: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._terminal = Terminal(reactor, fd, self._key)
        self._capture = Capture()
        self._signals: dict[int, Any] = {}
        self._capture.open()
        self._take_signals()
        self._timer = reactor.call_later_internal(0, self._tick)

    def close(self) -> None:
        """The terminal is as it was. Idempotent."""
        self._terminal.close()
        self._capture.close()
        self._monitor.close()
        if self._timer.active():
            self._timer.cancel()
        while self._signals:
            number, before = self._signals.popitem()
            signal.signal(number, before or signal.SIG_DFL)

    # The picture.

    def _tick(self) -> None:
        self._timer = self._reactor.call_later_internal(INTERVAL, self._tick)
        ours = self._terminal.is_ours()
        if ours and not self._terminal.entered:
            self._terminal.enter()
        elif not ours and self._terminal.entered:
            self._terminal.forget()
        if self._terminal.entered and not self._options.frozen:
            self._sample()
            self._draw()

    def _sample(self) -> None:
        # As many as there may be lines: what is left out of the picture is summed there.
        self._monitor.limit = max(1, self._terminal.size().lines)
        self._samples.append(self._monitor.sample())

    def _draw(self) -> None:
        if not self._samples:
            self._sample()
        self._options.notes = list(self._capture.notes)
        self._options.stopping = self._is_stopping()
        size = self._terminal.size()
        self._terminal.show(screen.draw(list(self._samples), size, self._options))

    # The keys.

    def _key(self, key: str) -> None:
        key = key.lower()
        if key == "q":
            self._on_quit()
        elif key in "f ":
            self._options.frozen = not self._options.frozen
        elif key == "s":
            following = (ORDERS.index(self._options.order) + 1) % len(ORDERS)
            self._options.order = self._monitor.order = ORDERS[following]
            if not self._options.frozen:
                self._sample()
        self._draw()

    # The signals. Where nothing is lost by waiting, they are handled by the loop.

    def _take_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._take(signal.SIGWINCH, self._later(self._resized))
            self._take(signal.SIGTSTP, self._later(self._suspend))
            self._take(signal.SIGCONT, self._later(self._resized))
            for number in (signal.SIGHUP, signal.SIGQUIT):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._take(number, self._die)

    def _take(self, number: int, handler: Callable[[int, Any], object]) -> None:
        if signal.getsignal(number) != signal.SIG_IGN:  # as the parent process wants it
            self._signals[number] = signal.signal(number, handler)

    def _later(self, call: Callable[[], object]) -> Callable[[int, Any], object]:
        return lambda number, frame: self._reactor.callFromThread(call)

    def _resized(self) -> None:
        if self._terminal.is_ours():
            self._terminal.enter()
            self._draw()

    def _suspend(self) -> None:
        self._terminal.leave()
        taken = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here it goes on, perhaps in the background.
        signal.signal(signal.SIGTSTP, taken)
        self._resized()

    def _die(self, number: int, frame: Any) -> None:
        self._terminal.leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
