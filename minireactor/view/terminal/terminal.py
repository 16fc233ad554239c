"""A terminal of which a program takes the whole screen, and which it gives back as it was.

The terminal is opened anew, so that it can be written to without waiting: a terminal that takes
nothing, as after Ctrl-S, stops the picture and never the loop. It is a consumer like others.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from minireactor.error import ConnectionDone
from minireactor.view.output import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minireactor.internet import Reactor

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

# The other screen; no cursor; lines that are too long are cut.
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
# First what ends a sequence that has been cut off in its middle.
_LEAVE = b"\x18\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")  # of an arrow, say

MOST_NOTES = 100  # lines


def find_terminal() -> int | None:
    """A descriptor of its own for the terminal that standard output is; None if it is none, or
    none that could show a picture."""
    if termios is None or os.environ.get("TERM", "dumb") in ("", "dumb"):
        return None
    try:
        if not sys.stdout.isatty():
            return None
        name = os.ttyname(sys.stdout.fileno())
        return os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except (AttributeError, OSError, ValueError):
        return None


class Terminal:
    """Owns `fd`, as `find_terminal()` gives it. `on_key` is called with each character typed.

    entered: whether the screen is ours at the moment.
    """

    def __init__(self, reactor: Reactor, fd: int, on_key: Callable[[str], object]) -> None:
        self.entered = False
        self._reactor = reactor
        self._fd = fd
        self._on_key = on_key
        self._before: list[Any] | None = None  # how the terminal was set
        self._unsent = b""

    def is_ours(self) -> bool:
        """Whether this process is in the foreground, and may use it."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return self._fd >= 0  # it controls nobody

    def size(self) -> os.terminal_size:
        """Return the size of the window: (columns, lines).

        Asks the terminal itself. COLUMNS and LINES, if exported, do not follow a resize."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((0, 0))
        return size if size.columns and size.lines else shutil.get_terminal_size()

    def enter(self) -> None:
        """Take the screen, and the keys one by one; Ctrl-C and Ctrl-Z stay what they are."""
        try:
            before = termios.tcgetattr(self._fd)
            wanted = termios.tcgetattr(self._fd)
            wanted[3] &= ~(termios.ICANON | termios.ECHO)
            wanted[6][termios.VMIN], wanted[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._fd, termios.TCSANOW, wanted)
        except (OSError, ValueError, termios.error):
            return
        # If it has been taken away from us, it was not set back: the first time counts.
        self._before = self._before or before
        if not self.entered:
            self.entered = True
            self._reactor.addReader(self)
        self._unsent = b""
        self._send(_ENTER)

    def show(self, lines: Sequence[str]) -> None:
        """A picture of the whole screen; none if the terminal has not taken the last one yet."""
        if self.entered and not self._unsent:
            # Each line is erased first: to do so behind one that is full would take its last
            # character away.
            numbered = enumerate(lines, 1)
            picture = "".join(f"\x1b[{number};1H\x1b[2K{line}" for number, line in numbered)
            self._send(picture.encode(errors="replace"))

    def leave(self) -> None:
        """Give the screen back. Idempotent."""
        if not self.entered:
            return
        self.forget()
        if self.is_ours():  # or it would stop us for touching it
            try:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._before)  # type: ignore[arg-type]
                self._before = None
                self._say_goodbye()
            except (OSError, termios.error):
                pass  # there is no terminal any more

    def _say_goodbye(self) -> None:
        # After Ctrl-S, or with nobody at its other end, it would keep whoever writes to it waiting,
        # be it for ever: us, and what the program has to say afterwards.
        termios.tcflow(self._fd, termios.TCOON)
        try:
            if os.write(self._fd, _LEAVE) == len(_LEAVE):
                return
        except BlockingIOError:
            pass
        termios.tcflush(self._fd, termios.TCOFLUSH)
        os.write(self._fd, _LEAVE)

    def forget(self) -> None:
        """It is not ours any more, so leave it alone."""
        self.entered = False
        self._unsent = b""
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

    def close(self) -> None:
        self.leave()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _send(self, data: bytes) -> None:
        self._unsent += data
        self.doWrite()

    # What the reactor calls.

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> Exception | None:
        try:
            data = os.read(self._fd, 1024)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        if not data:
            return ConnectionDone()
        for key in _SEQUENCE.sub(b"", data).decode("ascii", "ignore"):
            self._on_key(key)
        return None

    def doWrite(self) -> Exception | None:
        try:
            self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._unsent = b""
            return error
        if self._unsent:
            self._reactor.addWriter(self)
        else:
            self._reactor.removeWriter(self)
        return None

    def connectionLost(self, reason: Any) -> None:
        """The terminal is gone; or the reactor is, and this is the last moment to restore it."""
        self.close()

    def logPrefix(self) -> str:
        return "terminal"


class Notes:
    """Stands for a stream, such as sys.stdout, while its terminal shows something else: adds the
    lines that are written to each of `places`. What else is asked of it, the stream answers."""

    def __init__(self, stream: Any, *places: deque[str]) -> None:
        self._stream = stream
        self._places = places
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for place in self._places:
            place.extend(line.expandtabs().rstrip() for line in lines)
        return len(text)

    def flush(self) -> None:
        """Lines are shown when they are complete."""

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Capture:
    """While it is open, what is printed on the terminal is kept in `notes`, as lines, the latest
    last; so are the records that logging would print there. What of that went to standard error is
    printed when it is closed, so that no error is lost with the screen."""

    def __init__(self) -> None:
        self.notes: deque[str] = deque(maxlen=MOST_NOTES)
        self._errors: deque[str] = deque(maxlen=MOST_NOTES)
        self._undo: list[Callable[[], object]] = []

    def open(self) -> None:
        self._replace("stdout", self.notes)
        if sys.stderr is not None and sys.stderr.isatty():
            self._replace("stderr", self.notes, self._errors)

    def _replace(self, name: str, *places: deque[str]) -> None:
        stream = getattr(sys, name)
        notes = Notes(stream, *places)
        setattr(sys, name, notes)
        self._undo.append(lambda: setattr(sys, name, stream))
        for handler in _handlers_that_write_to(stream):
            handler.setStream(notes)
            self._undo.append(partial(handler.setStream, stream))

    def close(self) -> None:
        """Idempotent."""
        while self._undo:
            self._undo.pop()()
        while self._errors:
            print(visible(self._errors.popleft()), file=sys.stderr)


def _handlers_that_write_to(stream: Any) -> list[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.Logger.manager.loggerDict)]
    return [
        handler
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
