"""What only UNIX sockets have: paths and their files, and descriptors that travel with the bytes.

A path is str or bytes. A path that begins with a zero byte is an abstract name of Linux, which has
no file. `port`, `connector` and `connection` have what all stream sockets share.

    transport.sendFileDescriptor(fd)           the next byte that is sent carries a copy of `fd`
    protocol.fileDescriptorReceived(fd)        called before the dataReceived() of that byte
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import UNIXAddress, unix_host
from minireactor.error import (
    BadFileError,
    CannotListenError,
    ConnectionDone,
    FileDescriptorOverrun,
    getConnectError,
)
from minireactor.failure import Failure
from minireactor.transports.attempt import Attempt
from minireactor.transports.connection import Connection
from minireactor.transports.connector import Connector
from minireactor.transports.port import Port

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minireactor.core.loop import Loop

_FAMILY = getattr(socket, "AF_UNIX", 1)
MAX_PATH = 107 if sys.platform == "linux" else 103  # bytes, without the zero byte at the end
MAX_QUEUED = 64  # descriptors of one connection that wait for a byte to carry them
MAX_RECEIVED = 253  # descriptors that Linux lets one message carry
LOCK_SECONDS = 1.0  # how long a port waits for another process that binds in the same folder
# Until the next attempt when the listener's queue is full: Linux reports no event for that.
RETRY_SECONDS = 0.02

_INT = array.array("i").itemsize
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def checked_path(path: Any) -> bytes:
    """Return a path as bytes. Raises TypeError if `path` is neither str nor bytes.

    Raises OSError or ValueError if no UNIX socket can have this path."""
    if not isinstance(path, (str, bytes)):
        raise TypeError(f"a UNIX socket needs a path as str or bytes, not {path!r}")
    name = os.fsencode(path)
    is_abstract = name.startswith(b"\0")
    if not name.strip(b"\0") or (b"\0" in name and not is_abstract):
        raise ValueError(f"{path!r} is not a path; give one such as /run/x.sock")
    if is_abstract and sys.platform != "linux":
        raise ValueError(f"{path!r} is an abstract name, which only Linux has; give a path")
    if len(name) > MAX_PATH:
        raise OSError(
            errno.ENAMETOOLONG,
            f"the path has {len(name)} bytes, and a UNIX socket allows {MAX_PATH}; "
            "give a shorter one",
        )
    return name


class DescriptorSocket(socket.socket):
    """A UNIX socket that sends and receives descriptors together with bytes.

    outgoing: descriptors of our own to send. Each of the next bytes carries one.
    deliver: called as `deliver(fds, data)` with received descriptors; returns the data, or b"" if
        the data is kept for later. None: the kernel closes received descriptors.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(False)  # PyPy makes the descriptor blocking when it makes the object
        self.outgoing: deque[int] = deque()
        self.deliver: Callable[[list[int], bytes], bytes] | None = None

    def send(self, data: Any, flags: int = 0) -> int:
        if not self.outgoing:
            return super().send(data, flags)
        # One descriptor a message: a peer may have room for no more.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.outgoing[0]]))]
        sent = super().sendmsg([bytes(data[:1])], rights, flags)
        os.close(self.outgoing.popleft())
        return sent

    def sendmsg(self, chunks: Any, *rest: Any) -> int:
        return self.send(chunks[0]) if self.outgoing else super().sendmsg(chunks, *rest)

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self.deliver is None:
            return super().recv(size, flags)
        data, messages, state, _ = self.recvmsg(
            size, socket.CMSG_SPACE(MAX_RECEIVED * _INT), _CLOSE_ON_EXEC
        )
        fds = array.array("i")
        for level, kind, content in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % _INT])
        if state & socket.MSG_CTRUNC:
            close_descriptors(fds)
            raise OSError(errno.EMFILE, "no descriptor is left for those that the peer has sent")
        if not fds:
            return data
        if not _CLOSE_ON_EXEC:
            for fd in fds:
                os.set_inheritable(fd, False)
        data = self.deliver(list(fds), data)
        if not data:
            raise BlockingIOError(errno.EAGAIN, "the data is kept")
        return data


class UNIXConnection(Connection):
    """A connection over a UNIX socket."""

    def __init__(self, reactor: Loop, sock: socket.socket, *rest: Any, **more: Any) -> None:
        own = DescriptorSocket(sock)
        super().__init__(reactor, own, *rest, **more)
        self._outgoing = own.outgoing
        self._arrived: deque[int] = deque()  # descriptors for the protocol, before `_kept`
        self._kept = b""

    def start(self, protocol: Any) -> None:
        if hasattr(protocol, "fileDescriptorReceived"):
            self.socket.deliver = self._deliver  # type: ignore[attr-defined]
        super().start(protocol)

    def sendFileDescriptor(self, fileDescriptor: int) -> None:
        """Send a copy of a descriptor with the next byte that is sent; write at least that byte.

        The descriptor is duplicated now, so the caller may close its own. Each of several
        descriptors needs one byte. If the connection is closed before enough bytes are written,
        connectionLost gets FileDescriptorOverrun. Does nothing once the write side has ended.

        Raises OSError if the descriptor is not open, or none is left. Raises RuntimeError if
        MAX_QUEUED descriptors wait already."""
        if len(self._outgoing) >= MAX_QUEUED:
            raise RuntimeError(
                f"{MAX_QUEUED} descriptors wait already; write a byte for each, and wait until "
                "they are sent"
            )
        if not self.write_ended:
            self._outgoing.append(os.dup(fileDescriptor))

    def _deliver(self, fds: list[int], data: bytes) -> bytes:
        self._arrived += fds
        self._call_protocol()
        if self.reading:
            return data
        self._kept = data
        return b""

    def _call_protocol(self) -> None:
        while self._arrived and self.reading:
            fd = self._arrived.popleft()
            self.reactor.guard(self, self.protocol.fileDescriptorReceived, fd)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._kept and self.reading:
            self.reactor.call_soon(self.reactor.guard, self, self._deliver_kept)

    startReading = resumeProducing

    def doRead(self) -> None:
        if self._kept:
            self._deliver_kept()
        else:
            super().doRead()

    def _drop_input(self) -> None:
        close_descriptors(self._arrived)
        self._kept = b""
        self.socket.deliver = None  # type: ignore[attr-defined]
        super()._drop_input()

    def _deliver_kept(self) -> None:
        self._call_protocol()
        if self.reading and self._kept:
            data, self._kept = self._kept, b""
            self.bytes_in += len(data)
            self.protocol.dataReceived(data)

    def _close(self, reason: Failure) -> None:
        if self._outgoing and reason.check(ConnectionDone):
            reason = Failure(FileDescriptorOverrun(f"{len(self._outgoing)} were not sent"))
        close_descriptors(self._outgoing)
        close_descriptors(self._arrived)
        self._kept = b""
        super()._close(reason)


def close_descriptors(fds: deque[int] | array.array[int]) -> None:
    """Close all descriptors in a container, and empty the container."""
    while fds:
        os.close(fds.pop())


class UNIXPort(Port):
    """Listens on a path; made by `listenUNIX`."""

    connection_class = UNIXConnection

    def __init__(
        self,
        path: str | bytes,
        factory: Any,
        backlog: int,
        mode: int,
        wantPID: bool,
        reactor: Loop,
    ) -> None:
        super().__init__(factory, backlog, reactor)
        self.port = path
        self.mode = mode
        self.wantPID = wantPID
        self._file: tuple[int, ...] | None = None  # identifies the file that this port has made
        self._pid = 0  # the process that has made the file

    def bound_sockets(self) -> list[socket.socket]:
        try:
            path = checked_path(self.port)
            if path.startswith(b"\0"):
                return [self._bound_socket(path)]
            with _locked(os.path.dirname(path) or b"."):
                _remove_stale(path)
                if self.wantPID:
                    _make_lock(path)
                return [self._bound_socket(path)]
        except (OSError, ValueError) as error:
            raise self.cannot_listen(error) from None

    def _bound_socket(self, path: bytes) -> socket.socket:
        sock = self.reactor.system.listening_socket(_FAMILY, socket.SOCK_STREAM, 0)
        try:
            sock.setblocking(False)
            sock.bind(path)
            if not path.startswith(b"\0"):
                self._file, self._pid = _identity(path), os.getpid()
                os.chmod(path, self.mode)  # before listen(): until then nobody can connect
            sock.listen(self.backlog)
        except BaseException:
            self.about_to_close()
            sock.close()
            raise
        return sock

    def cannot_listen(self, error: Exception) -> CannotListenError:
        return CannotListenError(None, self.port, error)

    def own_sockets(self) -> None:
        super().own_sockets()
        path = checked_path(self.port)
        if not path.startswith(b"\0"):
            with contextlib.suppress(OSError):  # somebody has removed the file
                self._file, self._pid = _identity(path), os.getpid()

    def about_to_close(self) -> None:
        """Remove the file, unless another port or another process has made the present one."""
        file, self._file = self._file, None
        if file is None or self.is_adopted or self._pid != os.getpid():
            return
        path = os.fsencode(self.port)
        # The port still listens. So between these two calls, no other process takes the file for a
        # stale one and replaces the file.
        with contextlib.suppress(OSError):
            if _identity(path) == file:
                os.unlink(path)
        if self.wantPID:
            with contextlib.suppress(OSError):
                os.unlink(path + b".lock")

    def shown_address(self) -> str:
        return unix_host(self.port)


class UNIXConnector(Connector):
    """Connects to a path; made by `connectUNIX`."""

    connection_class = UNIXConnection

    def __init__(
        self, path: str | bytes, factory: Any, timeout: float | None, checkPID: bool, reactor: Loop
    ) -> None:
        super().__init__(factory, timeout, reactor)
        self.address = path
        self.checkPID = checkPID

    def new_attempt(self) -> Attempt:
        return UNIXAttempt(
            self.reactor,
            self.address,  # type: ignore[arg-type]
            self.checkPID,
            None,
            None,
            self.connected,
            self.connectionFailed,
            lambda sock, address: self.connect_socket(sock, address),
        )

    def getDestination(self) -> UNIXAddress:
        return UNIXAddress(self.address)

    def shown_address(self) -> str:
        return unix_host(self.address)


class UNIXAttempt(Attempt):
    """Connects to one path, without a look-up of addresses."""

    def _start(self, path: Any, checks_lock: bool) -> None:
        if self.is_over():
            return
        try:
            self._path = checked_path(path)
            if checks_lock and not _is_locked(self._path):
                raise BadFileError(string=f"no process holds {unix_host(path)}.lock")
        except BaseException as error:
            self._fail(getConnectError(error) if isinstance(error, OSError) else error)
            return
        self._try_next()

    def _try_next(self) -> None:
        self._cancel_timer()
        try:
            self._attempts.append(self._connect((_FAMILY, socket.SOCK_STREAM, 0, "", self._path)))
        except BlockingIOError:
            self._timer = self.reactor.call_later_internal(RETRY_SECONDS, self._next_is_due)
        except OSError as error:
            self._fail(getConnectError(error))

    def _prepare(self, sock: socket.socket) -> None:
        """Set no option."""

    def _start_connecting(self, sock: socket.socket, place: Any) -> int:
        code = super()._start_connecting(sock, place)
        if code == errno.EAGAIN:
            raise BlockingIOError(code, os.strerror(code))
        return code

    def address_failed(self, attempt: Any, error: BaseException) -> None:
        self._fail(error)


# The file of a socket.


def _identity(path: bytes) -> tuple[int, ...]:
    """Return what identifies a file, even if another file gets the same inode number later."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def _locked(folder: bytes) -> Iterator[None]:
    """Keep other ports of this library from binding in a folder.

    Without the lock, two processes could find the same stale file. The slower one would then remove
    the socket that the faster one has just made."""
    fd = -1
    try:
        with contextlib.suppress(OSError):  # a folder that we cannot read gets no lock
            fd = os.open(folder, os.O_RDONLY)
        until = time.monotonic() + LOCK_SECONDS
        while fd != -1 and fcntl is not None and time.monotonic() < until:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # some file systems have no locks
                break
        yield
    finally:
        if fd != -1:
            os.close(fd)  # this also ends the lock


def _remove_stale(path: bytes) -> None:
    """Remove the file of a socket that nobody listens on.

    Raises OSError if somebody listens there, or if the file is not a socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(
                errno.EEXIST,
                "there is a file that is not a socket; remove it, or give another path",
            )
    except FileNotFoundError:
        return
    with socket.socket(_FAMILY, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code == errno.ECONNREFUSED:
        os.unlink(path)
    elif code != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _lock_owner(path: bytes) -> int:
    """Return the number of the process that has the lock of a path, or 0 if it has ended.

    The lock is a symbolic link to this number, as in Twisted. Raises OSError without a lock."""
    try:
        pid = int(os.readlink(path + b".lock"))
        os.kill(pid, 0)
    except (ValueError, ProcessLookupError):
        return 0
    except PermissionError:
        pass  # the process exists, and belongs to another user
    return pid


def _is_locked(path: bytes) -> bool:
    try:
        return bool(_lock_owner(path))
    except OSError:
        return False


def _make_lock(path: bytes) -> None:
    """Make the lock of a path. Raises OSError if another process has it."""
    if _is_locked(path):
        raise OSError(errno.EADDRINUSE, f"process {_lock_owner(path)} has the lock {path!r}.lock")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + b".lock")
    os.symlink(str(os.getpid()).encode(), path + b".lock")
