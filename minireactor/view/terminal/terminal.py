"""The terminal: takes the whole screen, shows pictures, reads keys, and restores everything.

The terminal is opened a second time, as non-blocking. A terminal that accepts nothing, for instance
after Ctrl-S, therefore delays the picture and never the loop.
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

# The alternate screen; no cursor; no wrapping of lines that are too long.
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
# Undoes _ENTER. CAN (\x18) comes first: it ends a sequence that was cut off.
_LEAVE = b"\x18\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")  # such as an arrow key sends

MAX_NOTES = 100  # lines


def find_terminal() -> int | None:
    """Open the terminal behind standard output once more; return the descriptor.

    Returns None if standard output is no terminal, or if TERM says that it cannot draw."""
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
    """Shows pictures on a terminal and reads its keys. Grammar of the calls:

    (enter+  show*  [leave | forget])*  close

    fd: from find_terminal(); close() closes it. on_key: called with each character that is typed.
    entered: whether this program has the screen.
    """

    def __init__(self, reactor: Reactor, fd: int, on_key: Callable[[str], object]) -> None:
        self.entered = False
        self._reactor = reactor
        self._fd = fd
        self._on_key = on_key
        self._settings_before: list[Any] | None = None  # the settings before enter()
        self._unsent = b""

    def is_foreground(self) -> bool:
        """Return whether this process is in the foreground, and may use the terminal."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return self._fd >= 0  # no job control here: every process may use it

    def size(self) -> os.terminal_size:
        """Return the size of the window: (columns, lines).

        Asks the terminal itself. COLUMNS and LINES, if exported, do not follow a resize."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((0, 0))
        return size if size.columns and size.lines else shutil.get_terminal_size()

    def enter(self) -> None:
        """Take the screen, and read each key at once. Ctrl-C and Ctrl-Z keep their meaning."""
        try:
            before = termios.tcgetattr(self._fd)
            settings = termios.tcgetattr(self._fd)
            settings[3] &= ~(termios.ICANON | termios.ECHO)
            settings[6][termios.VMIN], settings[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._fd, termios.TCSANOW, settings)
        except (OSError, ValueError, termios.error):
            return
        # After forget(), the settings have not been restored: those of the first enter() count.
        self._settings_before = self._settings_before or before
        if not self.entered:
            self.entered = True
            self._reactor.addReader(self)
        self._unsent = b""
        self._send(_ENTER)

    def show(self, lines: Sequence[str]) -> None:
        """Draw a picture of the whole screen, unless the last one is still being written."""
        if self.entered and not self._unsent:
            # Erase each line before writing it. Erasing the rest of a full line afterwards would
            # remove its last character.
            numbered = enumerate(lines, 1)
            picture = "".join(f"\x1b[{number};1H\x1b[2K{line}" for number, line in numbered)
            self._send(picture.encode(errors="replace"))

    def leave(self) -> None:
        """Restore the screen and the settings. Idempotent."""
        if not self.entered:
            return
        self.forget()
        if self.is_foreground():  # the system stops a background process that changes the settings
            try:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._settings_before)  # type: ignore[arg-type]
                self._settings_before = None
                self._restore_screen()
            except (OSError, termios.error):
                pass  # the terminal is gone

    def _restore_screen(self) -> None:
        # After Ctrl-S, or if nobody reads the terminal's other end, a blocking write would wait,
        # perhaps for ever. So would the program's own output after this. Resume output first, and
        # drop the unread output if the terminal is full.
        termios.tcflow(self._fd, termios.TCOON)
        try:
            if os.write(self._fd, _LEAVE) == len(_LEAVE):
                return
        except BlockingIOError:
            pass
        termios.tcflush(self._fd, termios.TCOFLUSH)
        os.write(self._fd, _LEAVE)

    def forget(self) -> None:
        """Stop using the terminal without restoring it, because another process has it now."""
        self.entered = False
        self._unsent = b""
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

    def close(self) -> None:
        """Restore the terminal and close its descriptor. Idempotent."""
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
        """Restore the terminal: it is gone, or the reactor closes and this is the last chance."""
        self.close()

    def logPrefix(self) -> str:
        return "terminal"


class LineStream:
    """Replaces a stream, such as sys.stdout, while its terminal shows a picture.

    Each complete line is added to all of `targets`. Other attributes are those of the stream."""

    def __init__(self, stream: Any, *targets: deque[str]) -> None:
        self._stream = stream
        self._targets = targets
        self._rest = ""  # the beginning of an incomplete line

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for target in self._targets:
            target.extend(line.expandtabs().rstrip() for line in lines)
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is added when it is complete."""

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Capture:
    """Captures the lines that the program prints on the terminal. Grammar of the calls:

    (open close)*

    notes: the last MAX_NOTES lines, from print() and from logging, the latest last.

    close() prints the lines that were meant for standard error, because restoring the screen would
    erase them."""

    def __init__(self) -> None:
        self.notes: deque[str] = deque(maxlen=MAX_NOTES)
        self._errors: deque[str] = deque(maxlen=MAX_NOTES)
        self._undo: list[Callable[[], object]] = []

    def open(self) -> None:
        """Begin: replace sys.stdout, sys.stderr and the streams of logging handlers."""
        self._replace("stdout", self.notes)
        if sys.stderr is not None and sys.stderr.isatty():
            self._replace("stderr", self.notes, self._errors)

    def _replace(self, name: str, *targets: deque[str]) -> None:
        stream = getattr(sys, name)
        notes = LineStream(stream, *targets)
        setattr(sys, name, notes)
        self._undo.append(lambda: setattr(sys, name, stream))
        for handler in _handlers_that_write_to(stream):
            handler.setStream(notes)
            self._undo.append(partial(handler.setStream, stream))

    def close(self) -> None:
        """Restore the streams, and print the errors. Idempotent."""
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
