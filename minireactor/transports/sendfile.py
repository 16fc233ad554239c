"""Sending a real file from where it is, by `os.sendfile`: its bytes never come into the process.

    transport.sendFile(file, offset=0, count=None)    ->  Deferred of the number of bytes sent

The file stands in the write buffer like any other chunk: what is written before it goes out before
it, what is written after it follows. All of its bytes are pending until they are sent, so that a
registered push producer is paused meanwhile, a pull producer is not asked, and a loseConnection()
waits. At most a connection's share of one pass goes out in each.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import stat
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core.buffer import Source
from minireactor.defer import Deferred
from minireactor.error import ConnectionLost, FileEnded
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    import socket

_HAS_SENDFILE = hasattr(os, "sendfile")
_NOT_FROM_HERE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # says, of a file, os.sendfile
_BLOCK = 512  # bytes of one st_blocks
_READ_SIZE = 64 * 1024  # bytes at a time, where that does not do


class FileSource(Source):
    """`count` bytes of `file` from `offset` on; without `count`, all that it has there now.

    file: open in binary mode, with a descriptor; its position neither matters nor changes. It has
        to stay open, and as long as it is, until `sent` fires. TypeError if it has no descriptor.
        ValueError if it is no regular file, or has fewer or more bytes than its size says.
    sent: a Deferred, of the number of bytes when the last of them has been sent. It fails with
        ConnectionLost if the connection ends before (unless the reactor ends with it). If the file
        has become too short meanwhile, or cannot be read, it fails with FileEnded, and the
        connection is aborted for that reason: a peer must not take a part for the whole.
    later: is given what is to be called on a later pass.
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
                f"offset={offset!r} and count={count!r} will not do: {safe_repr(file)} has {size} "
                "bytes; give a part of those"
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
                raise  # so it is the connection that has failed
            self._why = FileEnded(f"cannot read {safe_repr(self._file)} any further: {error}")
            raise self._why from None
        if not sent:
            self._why = FileEnded(
                f"{safe_repr(self._file)} has become shorter: it ends at {offset}, and {self.left} "
                "bytes more were to be sent"
            )
            raise self._why
        return sent

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
    """Needs no errback: why it fails, connectionLost tells as well."""

    def __del__(self) -> None:
        """Nobody is to be told."""


def _size_of(file: Any) -> int:
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        raise TypeError(
            f"sendFile() takes a file with a descriptor, not {safe_repr(file)}; "
            "basic.FileSender takes any"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{safe_repr(file)} is no regular file; basic.FileSender takes any")
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
    """Return whether a regular file really has as many bytes as its size says.

    Linux makes up the files of /proc and /sys while they are read. Their size is 0, or one page.
    Raises OSError if the file cannot be read."""
    status = os.fstat(fd)
    # A file with blocks for all of its bytes is on a disk. The others are read at one place: a
    # file of holes has its last byte, too.
    if 0 < status.st_size <= getattr(status, "st_blocks", 0) * _BLOCK:
        return True
    last = _read(fd, max(0, status.st_size - 1), 1)
    return bool(last) == (status.st_size > 0)


def _send(sock: socket.socket, fd: int, offset: int, count: int) -> int:
    if _HAS_SENDFILE:
        try:
            return os.sendfile(sock.fileno(), fd, offset, count)
        except OSError as error:
            if error.errno not in _NOT_FROM_HERE:
                raise
    data = _read(fd, offset, min(count, _READ_SIZE))
    return sock.send(data) if data else 0


def _read(fd: int, offset: int, count: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    os.lseek(fd, offset, os.SEEK_SET)  # nothing else moves a file that is being sent
    return os.read(fd, count)
