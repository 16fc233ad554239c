"""Sending a real file from where it is, by `os.sendfile`: its bytes never come into the process.

    transport.sendFile(file, offset=0, count=None)    ->  Deferred of the number of bytes sent

The file stands in the write buffer like any other chunk: what is written before it goes out before
it, what is written after it follows. All of its bytes are pending until they are sent, so that a
registered push producer is paused meanwhile, a pull producer is not asked, and a loseConnection()
waits. At most a connection's share of one pass goes out in each.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Callable

from minireactor.defer import Deferred
from minireactor.error import ConnectionLost, FileEnded
from minireactor.failure import Failure
from minireactor.source import Source

if TYPE_CHECKING:
    import socket

_HAS_SENDFILE = hasattr(os, "sendfile")
_READ_SIZE = 64 * 1024  # bytes at a time, where there is no os.sendfile


class FileSource(Source):
    """`count` bytes of `file` from `offset` on; without `count`, all that it has there now.

    file: open in binary mode, with a descriptor; its position neither matters nor changes. It has
        to stay open, and as long as it is, until `sent` fires. TypeError, ValueError.
    sent: a Deferred, of the number of bytes when the last of them has been sent. It fails with
        ConnectionLost if the connection ends before. If the file has become too short meanwhile,
        it fails with FileEnded, and the connection is aborted for that reason: a peer must not take
        a part for the whole.
    later: is given what is to be called on a later pass.
    """

    __slots__ = ("_file", "_later", "_offset", "_why", "sent", "size")

    def __init__(
        self, later: Callable[..., Any], file: Any, offset: int = 0, count: int | None = None
    ) -> None:
        self._file = file
        self._later = later
        self._offset = offset
        self._why: Exception = ConnectionLost(f"the connection ended before {file!r} was sent")
        self.sent: Deferred[int] = Deferred()
        here = _size_of(file) - offset
        if offset < 0 or (count is not None and count < 0) or here < (count or 0):
            raise ValueError(
                f"offset={offset!r} and count={count!r} will not do: {file!r} has "
                f"{here + offset} bytes; give a part of those"
            )
        self.size = here if count is None else count
        super().__init__(self.size)

    def send_to(self, sock: socket.socket, limit: int) -> int:
        offset = self._offset + self.size - self.left
        try:
            sent = _send(sock, self._file.fileno(), offset, min(self.left, limit))
        except ValueError as error:  # the file has been closed
            self._why = FileEnded(f"cannot send {self._file!r} any further: {error}")
            raise self._why from None
        if not sent:
            self._why = FileEnded(
                f"{self._file!r} has become shorter: it ends at {offset}, and {self.left} bytes "
                "more were to be sent"
            )
            raise self._why
        return sent

    def close(self) -> None:
        if self.left:
            self._later(self.sent.errback, Failure(self._why))
        else:
            self._later(self.sent.callback, self.size)


def _size_of(file: Any) -> int:
    try:
        return os.fstat(file.fileno()).st_size
    except (AttributeError, io.UnsupportedOperation):
        raise TypeError(
            f"sendFile() takes a file with a descriptor, not {file!r}; basic.FileSender takes any"
        ) from None


def _send(sock: socket.socket, fd: int, offset: int, count: int) -> int:
    if _HAS_SENDFILE:
        return os.sendfile(sock.fileno(), fd, offset, count)
    # Nothing else moves the position of a file that is being sent.
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(count, _READ_SIZE))
    return sock.send(data) if data else 0
