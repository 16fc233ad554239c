"""Text for terminals, pipes, logs and files, written without making the loop wait.

A blocking write to a full pipe or to a halted terminal would stop every connection. So each
descriptor has one Writer: a queue of limited size, and a daemon thread that calls `os.write`.
The descriptor stays in blocking mode, because other programs share its flags. The thread never
uses `sys.stdout`: blocking there with the stream's lock would keep the interpreter from ending.

Only `visible()` decides which characters a person gets to see as they are.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import stat
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minireactor.error import CannotListenError

MAX_QUEUED = 256 * 1024  # bytes that wait for a slow reader: some 3,000 lines
MAX_WRITE = 4096  # bytes of one write: a pipe accepts this many at once (PIPE_BUF on Linux)
# Bytes of one write to a file, which takes any number at once. A busy loop may let the thread run
# only every 5 ms (sys.getswitchinterval), so small writes could fall behind.
MAX_FILE_WRITE = 64 * 1024
FLUSH_SECONDS = 1.0  # how long a flush waits for queued bytes while writing makes progress
MIN_FLUSH_SECONDS = 0.1  # how long a flush waits even if nothing was written for a long time
BUSY_SECONDS = 0.05  # between attempts on a descriptor that another program has made non-blocking
RETRY_SECONDS = 1.0  # between attempts after an error such as "no space left"

# After these errors no later write can succeed on a descriptor that somebody else has opened.
_PERMANENT = (errno.EPIPE, errno.EBADF)


def visible(text: str, keep: str = "") -> str:
    """Return `text` with control characters as escapes such as `\\x1b`, except those in `keep`.

    All characters are escaped for which str.isprintable() is false: control characters, line and
    paragraph separators, marks for the direction of text, and undecodable bytes of file names."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def lines_dropped(count: int) -> bytes:
    """Return the line that is written in place of `count` dropped lines."""
    return f"minireactor: {count:,} {'line' if count == 1 else 'lines'} dropped\n".encode()


class Writer:
    """Writes bytes to a descriptor from a thread of its own, in order.

    target: a descriptor, or a callable that opens one and returns it. The thread calls the callable
        first and after reopen(), and closes the descriptor at the end. Opening a FIFO that nobody
        reads then blocks the thread only.
    limit: bytes that may wait in the queue. When the queue is full, further lines are dropped and
        counted until the whole queue has been written. Then `note(count)` is written.
    retry: whether to continue after an error that may be temporary, such as a full disk, or a FIFO
        that has lost its reader. Lines that could not be written are counted as dropped.
    on_error: called in the thread with each OSError, and with whether opening raised it. Errors of
        a write that repeat the one before are left out.

    error: the latest OSError, which may have ended writing. dropped: lines not yet reported.
    """

    def __init__(
        self,
        target: int | Callable[[], int],
        *,
        limit: int = MAX_QUEUED,
        note: Callable[[int], bytes] = lines_dropped,
        retry: bool = True,
        on_error: Callable[[OSError, bool], object] | None = None,
    ) -> None:
        self._fd = target if isinstance(target, int) else -1
        self._open = None if isinstance(target, int) else target
        self._limit = limit
        self._note = note
        self._retry = retry
        self._on_error = on_error
        self.error: OSError | None = None
        self.dropped = 0
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        # Re-entrant: a signal handler may log while its own thread is adding a line.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._idle = True
        self._reopen_due = False
        self._write_error: int | None = None  # the errno of a write, until one succeeds
        self._is_file = False
        self._torn = b""  # a line feed, after an error in the middle of a line
        self._lines_in_write = 0  # lines that the thread is writing now
        self._progress = time.monotonic()

    def after_fork_in_child(self) -> None:
        """Forget the queue and the thread: only the parent has the thread that writes the queue."""
        self._queue.clear()
        self._size = self.dropped = 0
        self._ended = self._ended or self._open is not None  # the parent owns that file
        self._begin()

    def put(self, data: bytes) -> bool:
        """Queue or drop `data`. Return False if writing has ended for good."""
        with self._changed:
            if self._ended:
                return False
            if self.dropped or (self._size and self._size + len(data) > self._limit):
                self.dropped += _count_lines(data)
                return True
            self._queue.append(data)
            self._size += len(data)
            self._wake()
            return True

    def open(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Start to open the target, and wait up to `seconds`. Return whether it is open by then.

        Raises the OSError with which opening failed."""
        with self._changed:
            self._wake()
            self._changed.wait_for(lambda: self._fd >= 0 or self._ended, seconds)
            if self._fd < 0 and self.error is not None:
                raise self.error
            return self._fd >= 0

    def reopen(self) -> None:
        """Open the target again before the next write. If that fails, keep what is open."""
        with self._changed:
            self._reopen_due = True
            self._wake()
            self._changed.notify_all()  # the thread may wait between two attempts to write

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait up to `seconds` until everything is written. Return whether everything is.

        If a write has blocked for `seconds` already, wait MIN_FLUSH_SECONDS only."""
        with self._changed:
            if not self._idle:
                waited = time.monotonic() - self._progress
                seconds = max(seconds - waited, min(seconds, MIN_FLUSH_SECONDS))
            self._changed.wait_for(self._is_done, seconds)
            return self._is_done()

    def _is_done(self) -> bool:
        return self._ended or (self._idle and not self._is_work_due())

    def _is_work_due(self) -> bool:
        return bool(self._queue or self.dropped or self._reopen_due)

    def close(self, seconds: float = FLUSH_SECONDS) -> int:
        """Flush, then end writing. Return how many lines were not written. Idempotent."""
        self.flush(seconds)
        with self._changed:
            left = self.dropped + self._lines_in_write + sum(map(_count_lines, self._queue))
            self._queue.clear()
            self._size = self.dropped = 0
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None and self._idle:
            self._thread.join(MIN_FLUSH_SECONDS)  # until the thread has closed its file
        return left

    # What the thread does.

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="minireactor-output", daemon=True)
            self._idle = False
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left: the next line tries again
                self._idle = True
                return
            self._thread = thread
        elif self._idle:
            self._changed.notify_all()

    def _run(self) -> None:
        changed = self._changed
        if hasattr(signal, "pthread_sigmask"):
            # A signal that arrives in this thread would not wake the loop. SIGTTOU stays unblocked:
            # it stops the whole process.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGTTOU})
        if self._open is not None:
            try:
                fd = self._open()
            except OSError as error:
                self._failed(error, is_permanent=True)
                self._notify(error, True)
                return
            with changed:
                self._fd = fd
                changed.notify_all()
        self._is_file = _is_file(self._fd)
        try:
            while True:
                with changed:
                    if not self._has_work():
                        return
                    self._idle = False
                    self._progress = time.monotonic()
                    reopening, self._reopen_due = self._reopen_due, False
                    if not reopening:
                        reported = 0 if self._queue else self.dropped
                        batch = self._note(reported) if reported else self._next_batch()
                        self._lines_in_write = 0 if reported else _count_lines(batch)
                if reopening:
                    self._open_again()
                    continue
                rest = self._write(batch)
                with changed:
                    self._lines_in_write = 0
                    if not rest:
                        self.dropped = max(0, self.dropped - reported)
                    elif not reported:
                        self.dropped += _count_lines(rest)
                    if rest:
                        changed.wait_for(lambda: self._ended or self._reopen_due, RETRY_SECONDS)
        finally:
            if self._open is not None:
                with contextlib.suppress(OSError):
                    os.close(self._fd)

    def _open_again(self) -> None:
        """Replace the descriptor by one that the target returns, unless opening fails."""
        assert self._open is not None
        try:
            fd = self._open()
        except OSError as error:
            self._failed(error, is_permanent=False)
            self._notify(error, True)
            return
        old, self._fd = self._fd, fd
        self._is_file = _is_file(fd)
        self._torn = b""
        with contextlib.suppress(OSError):
            os.close(old)

    def _notify(self, error: OSError, is_from_open: bool) -> None:
        if self._on_error is not None:
            self._on_error(error, is_from_open)

    def _has_work(self) -> bool:
        """Wait for something to write or to open. Return False if writing has ended."""
        while not self._ended:
            if self._is_work_due():
                return True
            self._idle = True
            self._changed.notify_all()
            self._changed.wait()
        self._idle = True
        self._changed.notify_all()
        return False

    def _next_batch(self) -> bytes:
        """Take from the queue what one write should take: whole lines, at least one."""
        batch = [self._queue.popleft()]
        size = len(batch[0])
        limit = MAX_FILE_WRITE if self._is_file else MAX_WRITE
        while self._queue and size + len(self._queue[0]) <= limit:
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        self._size -= size
        return b"".join(batch)

    def _write(self, batch: bytes) -> bytes:
        """Write `batch`. Return the bytes that an error has kept from being written."""
        data = self._torn + batch
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
                self._progress = time.monotonic()
            except BlockingIOError:
                # Another program has made the shared terminal or pipe non-blocking.
                time.sleep(BUSY_SECONDS)
                if self._ended:
                    break
            except OSError as error:
                is_lost = self._open is None and error.errno in _PERMANENT
                self._failed(error, is_permanent=not self._retry or is_lost)
                if error.errno != self._write_error:
                    self._write_error = error.errno
                    self._notify(error, False)
                break
        else:
            self._write_error = None
        written = len(data) - len(rest)
        left = data[max(written, len(self._torn)) :]
        if not rest:
            self._torn = b""
        elif written:
            self._torn = b"" if data[written - 1 : written] == b"\n" else b"\n"
        return left

    def _failed(self, error: OSError, is_permanent: bool) -> None:
        with self._changed:
            self.error = error
            self._ended = self._ended or is_permanent
            self._idle = self._idle or is_permanent
            self._changed.notify_all()


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def _count_lines(data: bytes) -> int:
    return data.count(b"\n") or 1


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# Standard output and standard error of a command that runs a loop.


class _Stream(io.RawIOBase):
    """The lowest layer of a text stream: passes its bytes to a Writer."""

    def __init__(self, writer: Writer, fd: int) -> None:
        self._writer = writer
        self._fd = fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        # Never raises: the code of a connection prints this line, and a closed pipe must not end
        # that connection.
        self._writer.put(bytes(data))
        return len(data)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


@contextlib.contextmanager
def standard_streams(
    note: Callable[[int], bytes] = lines_dropped,
) -> Iterator[Callable[[], object]]:
    """Replace sys.stdout and sys.stderr by streams that never wait, until the block ends.

    Yields a callable that waits up to FLUSH_SECONDS until the printed text is written. `note` makes
    the line in place of dropped lines. A stream without a descriptor, such as a test's, stays as it
    is. On Windows all streams stay, because its terminals accept no bytes."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    writers: dict[Any, Writer] = {}  # by file: one for both streams keeps their lines in order
    for name, stream in before.items():
        try:
            fd = stream.fileno()
            stream.flush()
            found = os.fstat(fd)
        except (AttributeError, OSError, ValueError):
            continue
        if os.name != "posix":
            continue
        writer = writers.setdefault((found.st_dev, found.st_ino), Writer(fd, note=note))
        raw: Any = _Stream(writer, fd)
        new = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, new)

    def flush() -> None:
        end = time.monotonic() + FLUSH_SECONDS
        for writer in writers.values():
            writer.flush(max(0.0, end - time.monotonic()))

    try:
        yield flush
    finally:
        for name, stream in before.items():
            with contextlib.suppress(AttributeError, OSError, ValueError):
                getattr(sys, name).flush()
            setattr(sys, name, stream)
        flush()
        for writer in writers.values():
            writer.close(0)


def cannot_listen(error: CannotListenError, option: str) -> str:
    """Return the error as text. If the port is taken, add the fix: to change `option`."""
    if getattr(error.socketError, "errno", None) != errno.EADDRINUSE:
        return str(error)
    text = str(error).rstrip(".")
    return f"{text}; give another {option}, or stop what listens there"


class UsageError(Exception):
    """A command cannot do what its arguments ask for; the message gives the reason in one line."""
