"""Show in the terminal what the connections do: `--watch`.

    watch = open_watch(reactor, "serve: echo on 127.0.0.1:1234", on_quit=reactor.stop)
    try:
        reactor.run()
    finally:
        watch.close()

On a terminal, it takes the whole screen. It restores the screen in all cases: after an error, a
signal or Ctrl-Z. Without a terminal, for instance in a pipe, it prints a line each second.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.view.monitor import open_monitor
from minireactor.view.ranking import ORDERS
from minireactor.view.terminal import screen
from minireactor.view.terminal.screen import HISTORY, INTERVAL, Options
from minireactor.view.terminal.terminal import Capture, Terminal, find_terminal

if TYPE_CHECKING:
    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection

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
    """Show what the connections of `reactor` do; return the view, to be closed with close().

    title: the first line. hint: shown while there is no connection. label: as for a Monitor.
    on_quit: called for each key `q`. is_stopping: returns whether the program is stopping."""
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
    """Prints a line each second, until close() or until printing fails."""

    def __init__(self, reactor: Reactor, label: Label | None = None) -> None:
        self._reactor = reactor
        self._monitor = open_monitor(reactor, limit=1, label=label)
        self._samples: deque[dict[str, Any]] = deque([self._monitor.sample()], maxlen=2)
        self._timer = reactor.call_later_internal(LINE_SECONDS, self._print)

    def _print(self) -> None:
        self._timer = self._reactor.call_later_internal(LINE_SECONDS, self._print)
        self._samples.append(self._monitor.sample())
        try:
            # The command has replaced sys.stdout by a stream that never blocks.
            print(screen.plain(self._samples), flush=True)
        except (OSError, ValueError):
            self.close()

    def close(self) -> None:
        """Stop printing. Idempotent."""
        self._monitor.close()
        if self._timer.active():
            self._timer.cancel()


class Screen:
    """Draws pictures on a terminal, and handles keys and signals, until close()."""

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
        self._monitor = open_monitor(reactor, label=label)
        self._samples: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._terminal = Terminal(reactor, fd, self._on_key)
        self._capture = Capture()
        self._signals: dict[int, Any] = {}
        self._capture.open()
        self._handle_signals()
        self._timer = reactor.call_later_internal(0, self._on_timer)

    def close(self) -> None:
        """Restore the terminal, the streams and the signal handlers. Idempotent."""
        self._terminal.close()
        self._capture.close()
        self._monitor.close()
        if self._timer.active():
            self._timer.cancel()
        while self._signals:
            number, before = self._signals.popitem()
            signal.signal(number, before or signal.SIG_DFL)

    # The picture.

    def _on_timer(self) -> None:
        self._timer = self._reactor.call_later_internal(INTERVAL, self._on_timer)
        is_foreground = self._terminal.is_foreground()
        if is_foreground and not self._terminal.entered:
            self._terminal.enter()
        elif not is_foreground and self._terminal.entered:
            self._terminal.forget()
        if self._terminal.entered and not self._options.frozen:
            self._sample()
            self._draw()

    def _sample(self) -> None:
        # Ask for a row for each line of the screen. draw() sums up the rows that do not fit.
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

    def _on_key(self, key: str) -> None:
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

    # Signals. The loop handles them, except the two that end the process.

    def _handle_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handle(signal.SIGWINCH, self._in_loop(self._redraw))
            self._handle(signal.SIGTSTP, self._in_loop(self._suspend))
            self._handle(signal.SIGCONT, self._in_loop(self._redraw))
            for number in (signal.SIGHUP, signal.SIGQUIT):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handle(number, self._end_process)

    def _handle(self, number: int, handler: Callable[[int, Any], object]) -> None:
        if signal.getsignal(number) != signal.SIG_IGN:  # the parent process wants it ignored
            self._signals[number] = signal.signal(number, handler)

    def _in_loop(self, call: Callable[[], object]) -> Callable[[int, Any], object]:
        return lambda number, frame: self._reactor.callFromThread(call)

    def _redraw(self) -> None:
        if self._terminal.is_foreground():
            self._terminal.enter()
            self._draw()

    def _suspend(self) -> None:
        self._terminal.leave()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # The process continues here after SIGCONT, perhaps in the background.
        signal.signal(signal.SIGTSTP, handler)
        self._redraw()

    def _end_process(self, number: int, frame: Any) -> None:
        self._terminal.leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
