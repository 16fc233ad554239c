"""Moving bytes from socket to pipe to socket, by `os.splice`: they never come into the process.

What one splice takes from a socket stands in the write buffer of another connection as a Source,
in a pipe of its own, and so in the order of everything else that is written there; it is pending
until the other socket has it. Linux only, from Python 3.10 on.
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

# Bytes: what Linux lets anybody have. The fewer and larger the splices, the less they cost.
PIPE_SIZE = 1024 * 1024
MOST_SPARE = 8  # pipes, which all connections share: one that has nothing in a pipe holds none

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # which fcntl has from Python 3.10 on
_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 2) | getattr(os, "SPLICE_F_MOVE", 1)

# What a system says that has no splice for sockets, or does not allow it.
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)

# Of the descriptors that this process may have, the pipes take a quarter at most: with 1,024, 238
# stalled conversations took them all. Conversations beyond that are copied.
SHARE_OF_DESCRIPTORS = 4

_works = True
_count = 0  # pipes that are open
_spare: list[tuple[int, int]] = []


def splice_from(sock: socket.socket) -> PipeSource | None:
    """What there is to read, PIPE_SIZE bytes at the most. None if there is nothing, be it that the
    stream has ended, or it cannot be had so. OSError, which no read will raise again."""
    global _works
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
        if error.errno not in _NOT_HERE:
            raise
        _works = False
    finally:
        if not source.left:
            source.close()
    return source if source.left else None


class PipeSource(Source):
    """All `left` bytes of a pipe, which it gives back at its end."""

    __slots__ = ("_pipe",)

    def __init__(self, pipe: tuple[int, int], left: int) -> None:
        super().__init__(left)
        self._pipe = pipe

    def send_to(self, sock: socket.socket, limit: int) -> int:
        return os.splice(self._pipe[0], sock.fileno(), min(self.left, limit), flags=_FLAGS)

    def close(self) -> None:
        if self.left or len(_spare) >= MOST_SPARE:
            _close(self._pipe)
        else:
            _spare.append(self._pipe)


def _new_pipe() -> tuple[int, int]:
    """Return a new pipe. Raises OSError if there is no descriptor left for it."""
    global _count
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and 2 * (_count + 1) > limit // SHARE_OF_DESCRIPTORS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    pipe = os.pipe()
    _count += 1
    try:
        fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # this user has had its share of such: a smaller one will do
    return pipe


def _close(pipe: tuple[int, int]) -> None:
    global _count
    _count -= 1
    for end in pipe:
        os.close(end)


def close_spare_pipes() -> None:
    """Give the spare pipes back to the system."""
    while _spare:
        _close(_spare.pop())


# What a parent and its child wrote to one pipe would get mixed up.
os.register_at_fork(after_in_child=close_spare_pipes)
