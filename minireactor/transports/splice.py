"""Move bytes from socket to pipe to socket with `os.splice`: the process never copies them.

One splice moves data from a socket into a pipe. That pipe becomes a Source, a chunk in the write
buffer of another connection, so its data keeps its place among all other writes. The data is
pending until the other socket has accepted it. Linux only, from Python 3.10 on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from typing import TYPE_CHECKING

from minireactor.core.buffer import Source

if TYPE_CHECKING:
    import socket

CAN_SPLICE = hasattr(os, "splice")

# Bytes: the most that Linux allows an ordinary user. Fewer and larger splices cost less.
PIPE_SIZE = 1024 * 1024
# Empty pipes kept for reuse by all connections. A connection owns a pipe only while data is in it.
MAX_SPARE = 8

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # `fcntl` has the name from Python 3.10 on
_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 2) | getattr(os, "SPLICE_F_MOVE", 1)

# The system has no splice() for sockets, or does not allow it.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)

# Pipes take at most a quarter of the descriptors that this process may open. After that, bytes are
# copied. Without this limit, 238 stalled conversations used up all of 1,024 descriptors.
SHARE_OF_DESCRIPTORS = 4

_works = True  # False once the system has rejected a splice() as unsupported
_count = 0  # open pipes
_spare: list[tuple[int, int]] = []


def splice_from(sock: socket.socket) -> Source | None:
    """Return a Source with the data that can be read from `sock` now, at most PIPE_SIZE bytes.

    A socket that is not the kernel's has a method `splice(size)` instead, which is called.

    Returns None at EOF, when no data is ready, or when splice is not supported: the caller then
    uses recv(). Raises the socket's pending OSError; recv() will not report it a second time."""
    global _works
    if hasattr(sock, "splice"):
        return sock.splice(PIPE_SIZE)  # type: ignore[no-any-return]
    if not _works:
        return None
    try:
        pipe = _spare.pop() if _spare else _new_pipe()
    except OSError:
        return None
    source = PipeSource(pipe, 0)
    try:
        source.left = os.splice(sock.fileno(), pipe[1], PIPE_SIZE, flags=_FLAGS)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _works = False
    finally:
        if not source.left:
            source.close()
    return source if source.left else None


class PipeSource(Source):
    """All `left` bytes in a pipe. close() keeps the empty pipe for reuse, or closes it."""

    __slots__ = ("_pipe",)

    def __init__(self, pipe: tuple[int, int], left: int) -> None:
        super().__init__(left)
        self._pipe = pipe

    def send_to(self, sock: socket.socket, limit: int) -> int:
        return os.splice(self._pipe[0], sock.fileno(), min(self.left, limit), flags=_FLAGS)

    def close(self) -> None:
        if self.left or len(_spare) >= MAX_SPARE:
            _close(self._pipe)
        else:
            _spare.append(self._pipe)


def _new_pipe() -> tuple[int, int]:
    """Return a new pipe. Raises OSError if the pipes would take too many descriptors."""
    global _count
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and 2 * (_count + 1) > limit // SHARE_OF_DESCRIPTORS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    pipe = os.pipe()
    _count += 1
    try:
        fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # this user's limit for large pipes is used up: keep the default size
    return pipe


def _close(pipe: tuple[int, int]) -> None:
    global _count
    _count -= 1
    for end in pipe:
        os.close(end)


def close_spare_pipes() -> None:
    """Close the spare pipes."""
    while _spare:
        _close(_spare.pop())


# A parent and its child must not share a pipe: their data would mix.
os.register_at_fork(after_in_child=close_spare_pipes)
