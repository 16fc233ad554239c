"""Standard input and output as a transport: pipes, files and terminals, with the usual contract.

    StandardIO(protocol)    # the protocol's transport reads descriptor 0 and writes descriptor 1

The transport is one end of a pair of sockets, so all rules of a connection hold. Two threads copy
between the other end and the descriptors, with blocking calls:

    standard input  -> thread ->              -> protocol
                                socket pair
    standard output <- thread <-              <- protocol

Why threads? A descriptor is shared with other programs, and so are its flags. A shell would find
its terminal non-blocking if we set O_NONBLOCK, even after we have been killed. epoll refuses
regular files, and reading one may wait for a disk. A blocking thread serves every kind alike.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import UNIXAddress
from minireactor.core import flow
from minireactor.core.handler import Handler
from minireactor.core.threads import start_daemon
from minireactor.error import ConnectionDone, ConnectionLost
from minireactor.failure import Failure
from minireactor.transports.connection import Connection

if TYPE_CHECKING:
    from minireactor.core.loop import Loop

CHUNK = flow.HIGH  # bytes of one read or write
# Bytes that the pair of sockets buffers in each direction, about. The size bounds how far a thread
# reads ahead of a paused protocol, and how many sent bytes wait for a full pipe.
BUFFER = flow.HIGH
REPORT_SECONDS = 1.0  # how long a thread waits until the loop has handled an error
INPUT, OUTPUT = "standard input", "standard output"


class StandardIO(Connection):
    """The transport of `proto` on two descriptors, read and written by threads.

    The descriptors belong to the transport, which closes each one at the end of its direction. The
    descriptors 0, 1 and 2 are treated in another way: a pipe or socket there is replaced by the
    null device, and a file or terminal stays open.

    connectionLost comes when the system has taken all written bytes. If a descriptor fails, the
    reason is ConnectionLost. The first of its `args` is then an OSError, and the `filename` of that
    error is "standard input" or "standard output". A protocol that is not half-closeable ends with
    the input, after the pending bytes. abortConnection() drops the pending bytes; a reader sees an
    ordinary end.

    Raises RuntimeError if the system has no thread left.
    """

    def __init__(
        self, proto: Any, stdin: int = 0, stdout: int = 1, reactor: Loop | None = None
    ) -> None:
        if reactor is None:
            from minireactor import reactor as default

            reactor = default
        ours, inner = socket.socketpair()
        inner_too = inner.dup()
        for end in (ours, inner):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        ours.setblocking(False)
        super().__init__(reactor, ours, UNIXAddress(None), host=UNIXAddress(None))
        self._input_error: OSError | None = None
        self._stops_input = False  # tells the reading thread to end
        self._drops_output = False  # tells the writing thread to drop its bytes
        self.is_written = False  # the writing thread has ended, with or without an error
        self._has_output_ended = False  # the loop has handled the end of that thread
        self._unwritten: _Unwritten | None = None
        self._waiting: Failure | None = None  # why the connection ends once the output has ended
        unowned = [ours, inner, inner_too]
        try:
            _start("minireactor-stdin", lambda: self._copy_input(stdin, inner))
            unowned.remove(inner)
            _start("minireactor-stdout", lambda: self._copy_output(stdout, inner_too))
        except RuntimeError:
            for sock in unowned:
                sock.close()  # which ends the first thread, if there is one
            raise
        self.start(proto)

    # The threads.

    def _copy_input(self, fd: int, sock: socket.socket) -> None:
        with sock:
            while self._is_input_wanted(fd, sock):
                try:
                    data = os.read(fd, CHUNK)
                except BlockingIOError:  # another program has made the descriptor non-blocking
                    continue
                except OSError as error:
                    self._input_error = OSError(error.errno, error.strerror, INPUT)
                    break
                if not data:
                    break
                try:
                    sock.sendall(data)
                except OSError:  # the transport has closed its end
                    break
            _release(fd, socket.SHUT_RD)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def _is_input_wanted(self, fd: int, sock: socket.socket) -> bool:
        """Wait until the transport has room and the descriptor has input.

        Returns False once the transport is closed. So a closed transport takes no input away from
        another reader of the descriptor."""
        if hasattr(select, "poll"):
            for watched, events in ((sock, select.POLLOUT), (fd, select.POLLIN)):
                poll = select.poll()
                poll.register(sock, 0)
                poll.register(watched, events)
                ready = dict(poll.poll())
                if ready.get(sock.fileno(), 0) & (select.POLLHUP | select.POLLERR):
                    return False
        return not self._stops_input

    def _copy_output(self, fd: int, sock: socket.socket) -> None:
        error = None
        try:
            while data := sock.recv(CHUNK):
                self._write(fd, data)
        except OSError as caught:
            error = OSError(caught.errno, caught.strerror, OUTPUT)
        _release(fd, socket.SHUT_WR)
        self.is_written = True
        is_reported = threading.Event()
        self.reactor.callFromThread(self._output_ended, error, is_reported.set)
        if error is not None:
            # Closing a socket with unread bytes would make the other end fail for another reason.
            is_reported.wait(REPORT_SECONDS)
        sock.close()

    def _write(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._drops_output:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:  # another program has made the descriptor non-blocking
                if hasattr(select, "poll"):
                    poll = select.poll()
                    poll.register(fd, select.POLLOUT)
                    poll.poll()

    # The loop's thread.

    def _output_ended(self, error: OSError | None, report: Callable[[], object]) -> None:
        self._has_output_ended = True
        if self._unwritten is not None:
            self.reactor.detach(self._unwritten)
            self._unwritten.close()
        failure = None if error is None else Failure(ConnectionLost(error))
        if self._waiting is not None:
            self._finish(failure or self._waiting)
        elif failure is not None:
            self.connectionLost(failure)
        report()

    def _drop_input(self) -> None:
        """Do nothing: another program may want the input, and it does not wait for our output."""

    def _end_of_reading(self) -> None:
        if self._input_error is not None:
            self.connectionLost(Failure(ConnectionLost(self._input_error)))
        elif self.is_half_closeable() or self.producer is not None:
            super()._end_of_reading()
        else:
            self.read_ended = True
            self.loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        if self._waiting is not None:  # the loop ends
            self._finish(self._waiting)
        else:
            super().connectionLost(reason)

    def _close(self, reason: Failure) -> None:
        self._stops_input = True
        if reason.check(ConnectionDone) and self._reason is None and not self._has_output_ended:
            self._waiting = reason
            self.reading = self.writing = False
            self.reactor.unregister(self)
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        else:
            self._finish(reason)

    def _finish(self, reason: Failure) -> None:
        self._waiting = None
        super()._close(reason)

    def close_socket(self, reset: bool, linger: bool) -> None:
        self._drops_output = reset
        if not reset and not self._has_output_ended:
            self._unwritten = _Unwritten(self, self.socket.dup())
        super().close_socket(reset=False, linger=False)


class _Unwritten(Handler):
    """Makes a stopping reactor wait a little for the writing thread: see Reactor.drain()."""

    internal = True

    def __init__(self, owner: StandardIO, sock: socket.socket) -> None:
        super().__init__(sock.fileno())
        self._owner = owner
        self._socket = sock
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        owner.reactor.attach(self)

    def has_unacked_data(self) -> bool:
        return not self._owner.is_written

    def close(self) -> None:
        self._socket.close()


def _release(fd: int, direction: int) -> None:
    """Close or replace a descriptor at the end of its direction: see StandardIO."""
    with contextlib.suppress(OSError):
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(direction)
        if fd > 2:
            os.close(fd)
        elif stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)
            os.close(null)


def _start(name: str, f: Callable[[], None]) -> None:
    """Start a thread that blocks signals, so that the main thread gets them and wakes the loop."""
    if not hasattr(signal, "pthread_sigmask"):
        start_daemon(name, f)
        return
    # These two signals stop a background process that uses its terminal. A thread that blocks them
    # would get EIO instead.
    blocked = signal.valid_signals() - {signal.SIGTTIN, signal.SIGTTOU}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        start_daemon(name, f)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
