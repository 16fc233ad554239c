"""Send a regular file with `os.sendfile`: its bytes are never copied into the process.

    transport.sendFile(file, offset=0, count=None)    ->  Deferred of the number of bytes sent

The file is a chunk of the write buffer. Data written before sendFile() is sent before the file, and
data written later is sent after it. All bytes of the file are pending until they are sent. Until
then a registered push producer is paused, a pull producer is not asked, and loseConnection() waits.
One loop iteration sends at most a connection's share of an iteration.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import socket
import stat
from typing import Any, Callable

from minireactor.core.buffer import Source
from minireactor.defer import Deferred
from minireactor.error import ConnectionLost, FileEnded
from minireactor.failure import Failure, safe_repr

_HAS_SENDFILE = hasattr(os, "sendfile")
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # os.sendfile() rejects this file
_BLOCK = 512  # bytes; the unit of st_blocks
_READ_SIZE = 64 * 1024  # bytes to read at a time if os.sendfile() is missing or unsupported


class FileSource(Source):
    """`count` bytes of `file` from `offset` on; without `count`, all bytes up to its present end.

    later: a function that calls its argument in a later loop iteration.
    file: opened in binary mode, with a descriptor. The file's position has no effect, and does not
        change. Until `sent` fires, the file must stay open and must not become shorter.
    sent: a Deferred that fires with the number of bytes when the last of them has been sent.
        It fails with ConnectionLost if the connection ends before, unless the reactor ends too.
        It fails with FileEnded if the file has become too short or cannot be read. The connection
        is then aborted for the same reason, so that no peer takes a part of the file for all of it.

    Raises TypeError if `file` has no descriptor. Raises ValueError if `file` is not a regular file,
    or if `offset` and `count` do not fit. Raises ValueError too if reading does not give as many
    bytes as the file's size says.
    """

    __slots__ = ("_file", "_later", "_offset", "_why", "sent", "size")

    def __init__(
        self, later: Callable[..., Any], file: Any, offset: int = 0, count: int | None = None
    ) -> None:
        self._file = file
        self._later = later
        self._why: Exception = ConnectionLost(
            f"the connection ended before {safe_repr(file)} was sent"
        )
        self.sent: Deferred[int] = _Sent()
        offset = operator.index(offset)
        count = None if count is None else operator.index(count)
        size = _size_of(file)
        if offset < 0 or offset > size or not 0 <= (count or 0) <= size - offset:
            raise ValueError(
                f"offset={offset!r} and count={count!r} do not fit: {safe_repr(file)} has {size} "
                "bytes; give a range inside the file"
            )
        self._offset = offset
        self.size = size - offset if count is None else count
        super().__init__(self.size)

    def send_to(self, sock: socket.socket, limit: int) -> int:
        offset = self._offset + self.size - self.left
        try:
            sent = _send(sock, self._file.fileno(), offset, min(self.left, limit))
        except (BlockingIOError, InterruptedError):
            raise
        except (OSError, ValueError) as error:
            if self._is_readable_at(offset):
                raise  # the file is good, so the connection has failed
            raise self._unreadable(error) from None
        if not sent:
            raise self._ended(offset)
        return sent

    def read(self, limit: int) -> bytes:
        offset = self._offset + self.size - self.left
        try:
            data = _read(self._file.fileno(), offset, min(self.left, limit))
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        if not data:
            raise self._ended(offset)
        return data

    def _unreadable(self, error: Exception) -> Exception:
        self._why = FileEnded(f"cannot read the rest of {safe_repr(self._file)}: {error}")
        return self._why

    def _ended(self, offset: int) -> Exception:
        self._why = FileEnded(
            f"{safe_repr(self._file)} has become shorter: the file ends at {offset}, and "
            f"{self.left} more bytes had to be sent"
        )
        return self._why

    def rest(self) -> bytes:
        """Return the bytes that are left, read all at once: for checks of what is sent."""
        return _read(self._file.fileno(), self._offset + self.size - self.left, self.left)

    def _is_readable_at(self, offset: int) -> bool:
        try:
            return bool(_read(self._file.fileno(), offset, 1))
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        if self.left:
            self._later(self.sent.errback, Failure(self._why))
        else:
            self._later(self.sent.callback, self.size)


class _Sent(Deferred[int]):
    """A failure that nobody handles is not logged: connectionLost reports the same reason."""

    def __del__(self) -> None:
        """Log nothing."""


def _size_of(file: Any) -> int:
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        raise TypeError(
            f"sendFile() needs a file with a descriptor, not {safe_repr(file)}; "
            "basic.FileSender takes any file"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{safe_repr(file)} is not a regular file; basic.FileSender takes any file"
        )
    try:
        true = has_true_size(file.fileno())
    except OSError as error:
        raise ValueError(
            f"cannot read {safe_repr(file)}: {error.strerror}; open it for reading"
        ) from None
    if not true:
        raise ValueError(
            f"reading {safe_repr(file)} does not give the {status.st_size} bytes of its size, as "
            "with many files of /proc and /sys; basic.FileSender sends what reading gives"
        )
    return status.st_size


def has_true_size(fd: int) -> bool:
    """Return whether reading a regular file gives as many bytes as its size says.

    Linux generates the files of /proc and /sys while they are read. The size of such a file is 0 or
    one page. Raises OSError if the file cannot be read."""
    status = os.fstat(fd)
    # A file with blocks for all of its bytes is on a disk. Of any other file, read the last byte:
    # even a sparse file has one.
    if 0 < status.st_size <= getattr(status, "st_blocks", 0) * _BLOCK:
        return True
    last = _read(fd, max(0, status.st_size - 1), 1)
    return bool(last) == (status.st_size > 0)


def _send(sock: socket.socket, fd: int, offset: int, count: int) -> int:
    if _HAS_SENDFILE and isinstance(sock, socket.socket):  # else it has no real descriptor
        try:
            return os.sendfile(sock.fileno(), fd, offset, count)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    data = _read(fd, offset, min(count, _READ_SIZE))
    return sock.send(data) if data else 0


def _read(fd: int, offset: int, count: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    os.lseek(fd, offset, os.SEEK_SET)  # nothing else uses the position of a file being sent
    return os.read(fd, count)
