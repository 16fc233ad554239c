"""All exceptions that minireactor raises, or passes on as the `value` of a Failure.

Names, bases and attributes are Twisted's. The `str()` of each exception is one sentence: MESSAGE of
the class, then each argument of the exception after a colon. An argument often names the fix::

    >>> str(ConnectionLost("peer vanished"))
    'The connection broke before it was closed: peer vanished.'

A subclass in a program inherits the sentence, or sets its own MESSAGE.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from minireactor.address import host_port, unix_host


class _Sentence:
    """Gives an exception its `str()`. Must stand before the builtin base class."""

    __slots__ = ()

    MESSAGE: str
    args: tuple[Any, ...]

    def _details(self) -> tuple[object, ...]:
        return self.args

    def __str__(self) -> str:
        parts = [self.MESSAGE]
        parts += [text for text in map(str, self._details()) if text]
        text = ": ".join(parts)
        return text if text.endswith(".") else text + "."


# --- How a connection ends: the value of connectionLost's reason --------------------------------


class ConnectionClosed(_Sentence, Exception):
    """The connection has ended, cleanly or not. Trap this class to catch every ending."""

    MESSAGE = "The connection is closed"


class ConnectionDone(ConnectionClosed):
    """The peer sent EOF, or `loseConnection()` has closed the connection."""

    MESSAGE = "The connection was closed in good order"


class ConnectionLost(ConnectionClosed):
    """The connection failed, for instance by a reset or a network error.

    If the cause is known, `args` contains it, as a text or an exception.
    """

    MESSAGE = "The connection broke before it was closed"


class ConnectionAborted(ConnectionLost):
    """This side called `abortConnection()`."""

    MESSAGE = "This side aborted the connection"


class FileEnded(ConnectionAborted):
    """`sendFile()` found fewer bytes than it had to send, so this side aborted the connection."""

    MESSAGE = "This side aborted the connection, because a file had become too short"


class FileDescriptorOverrun(ConnectionLost):
    """`sendFileDescriptor()` was called more often than bytes were written to carry descriptors."""

    MESSAGE = "More file descriptors were queued than bytes to carry them"


class ConnectionFdescWentAway(ConnectionLost):
    """A registered object has lost its descriptor: its `fileno()` is -1."""

    MESSAGE = "The file descriptor is gone"


# --- Why an attempt to connect failed: the value of clientConnectionFailed's reason -------------


class ConnectError(_Sentence, Exception):
    """An attempt to connect failed.

    osError: the errno (for UnknownHostError, the resolver's EAI number), or None if the error does
        not come from the system.
    args: `(string,)`.
    """

    MESSAGE = "The connection attempt failed"

    def __init__(self, osError: int | None = None, string: object = "") -> None:
        self.osError = osError
        super().__init__(string)

    def _details(self) -> tuple[object, ...]:
        return self.args if self.osError is None else (self.osError, *self.args)


class ConnectBindError(ConnectError):
    """The local address given as `bindAddress` cannot be used."""

    MESSAGE = "The local address to connect from cannot be bound"


class UnknownHostError(ConnectError):
    """The resolver has no address for the host name."""

    MESSAGE = "The host name has no known address"


class NoRouteError(ConnectError):
    """The network, or the host on it, cannot be reached."""

    MESSAGE = "No route leads to the host"


class ConnectionRefusedError(ConnectError):
    """No program listens on that port of the host."""

    MESSAGE = "The peer refused the connection"


class TCPTimedOutError(ConnectError):
    """The system stopped waiting for the peer. If our own timeout ends first: TimeoutError."""

    MESSAGE = "The system gave up waiting for the peer"


class ServiceNameUnknownError(ConnectError):
    """The port was given as a service name that the system does not know."""

    MESSAGE = "The service name has no known port"


class BadFileError(ConnectError):
    """`connectUNIX` with `checkPID`: no process holds the lock of the UNIX socket."""

    MESSAGE = "The file is not a usable UNIX socket"


class UserError(ConnectError):
    """The program ended the attempt with `stopConnecting()`."""

    MESSAGE = "The program called the connection attempt off"


class TimeoutError(UserError):
    """The `timeout` of a connector ran out. Not a subclass of the builtin TimeoutError."""

    MESSAGE = "The connection attempt took longer than its timeout"


class ConnectingCancelledError(_Sentence, Exception):
    """The Deferred of an endpoint's `connect()` was cancelled. `address` is the destination."""

    MESSAGE = "The connection attempt was cancelled"

    def __init__(self, address: object) -> None:
        self.address = address
        super().__init__(address)


class NoProtocol(_Sentence, Exception):
    """The factory given to an endpoint's `connect()` returned None from buildProtocol."""

    MESSAGE = "The factory has built no protocol, so the connection was closed"


class DNSLookupError(_Sentence, OSError):
    """A host name could not be resolved. For a bad host name, this is `reason.value`."""

    MESSAGE = "The host name could not be looked up"


# --- Misuse of ports and connectors -------------------------------------------------------------


class BindError(_Sentence, Exception):
    """A socket could not be bound to a local address."""

    MESSAGE = "The local address cannot be bound"


class CannotListenError(BindError):
    """`listenTCP` or `listenUNIX` failed.

    The arguments are kept as attributes of the same names. `interface` is "" for all interfaces;
    `socketError` is the exception of the socket, usually an OSError. For a UNIX socket, `interface`
    is None, and `port` is the path.
    """

    def __init__(
        self, interface: str | None, port: int | str | bytes, socketError: BaseException
    ) -> None:
        super().__init__(interface, port, socketError)
        self.interface = interface
        self.port = port
        self.socketError = socketError

    def __str__(self) -> str:
        if self.interface is None and isinstance(self.port, (str, bytes)):
            place = unix_host(self.port)
        else:
            place = host_port(self.interface or "any", self.port)  # type: ignore[arg-type]
        return f"Cannot listen on {place}: {self.socketError}."


class UnsupportedAddressFamily(_Sentence, Exception):
    """An adopted descriptor is no socket of the given address family."""

    MESSAGE = "Sockets of this address family are not supported"


class UnsupportedSocketType(_Sentence, Exception):
    """An adopted descriptor is no stream socket, or not in the state that is needed."""

    MESSAGE = "Sockets of this type are not supported"


class NotConnectingError(_Sentence, RuntimeError):
    """`stopConnecting()` was called while no attempt was under way."""

    MESSAGE = "No connection attempt is under way, so there is none to stop"


# --- Misuse of timers and of the reactor --------------------------------------------------------


class AlreadyCalled(_Sentence, ValueError):
    """A delayed call was cancelled or moved after it had run. Check `active()` before."""

    MESSAGE = "The delayed call has already run"


class AlreadyCancelled(_Sentence, ValueError):
    """A delayed call was cancelled or moved after it was cancelled. Check `active()` before."""

    MESSAGE = "The delayed call was already cancelled"


class ReactorNotRunning(_Sentence, RuntimeError):
    """`stop()` was called on a reactor that is not running."""

    MESSAGE = "The reactor is not running"


class ReactorNotRestartable(_Sentence, RuntimeError):
    """`run()` was called on a reactor that has been stopped. Make another `Reactor()`."""

    MESSAGE = "A reactor that was stopped cannot run again"


class ReactorAlreadyRunning(_Sentence, RuntimeError):
    """`run()` was called from inside `run()`."""

    MESSAGE = "The reactor is already running"


# --- Names only, for programs ported from Twisted: nothing in this package raises these ---------


class AlreadyListened(_Sentence, Exception):
    MESSAGE = "The port is already listening"


class NotListeningError(_Sentence, RuntimeError):
    MESSAGE = "The port is not listening, so there is nothing to stop"


class ConnectInProgressError(_Sentence, Exception):
    MESSAGE = "A connection attempt is already under way"


class InvalidAddressError(_Sentence, ValueError):
    MESSAGE = "The address is not valid"

    def __init__(self, address: object, message: str) -> None:
        super().__init__(address, message)
        self.address = address
        self.message = message


class MessageLengthError(_Sentence, Exception):
    MESSAGE = "The message is too long to send"


class ReactorAlreadyInstalledError(_Sentence, AssertionError):
    MESSAGE = "A default reactor is already installed"


errnoMapping: dict[object, type[ConnectError]] = {
    errno.ENETUNREACH: NoRouteError,
    # Not in Twisted's table, but the system's own text for this error is "No route to host".
    errno.EHOSTUNREACH: NoRouteError,
    errno.ECONNREFUSED: ConnectionRefusedError,
    errno.ETIMEDOUT: TCPTimedOutError,
}


def getConnectError(e: BaseException | tuple[Any, ...]) -> ConnectError:
    """Return the ConnectError for the error of a failed connect.

    e: an OSError, or `(errno, text)`.

    The errno becomes `osError` and selects the class by errnoMapping, else ConnectError. The text
    goes to `args`. An error of the resolver becomes an UnknownHostError. Without an errno, `e`
    itself is the only argument.
    """
    if isinstance(e, OSError) and e.errno is not None:
        args: tuple[Any, ...] = (e.errno, e.strerror)  # PyPy's `args` has names of files as well
    else:
        args = e.args if isinstance(e, BaseException) else e
    kind = UnknownHostError if isinstance(e, socket.gaierror) else ConnectError
    if len(args) != 2:
        return kind(string=e)
    number, text = args
    return errnoMapping.get(number, kind)(number, text)
