"""Every exception that minireactor raises, or hands over as the `value` of a Failure.

Names, bases and attributes are Twisted's. `str()` of each is one sentence: the class's MESSAGE,
then whatever arguments it was made with (the fix, for one), each after a colon::

    >>> str(ConnectionLost("peer vanished"))
    'The connection broke before it was closed: peer vanished.'

A subclass of your own inherits the sentence, or sets its own MESSAGE.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from minireactor.address import host_port


class _Sentence:
    """Gives an exception its `str()`; stands before the builtin base."""

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
    """Any end of a connection, clean or not: trap this one to catch them all."""

    MESSAGE = "The connection is closed"


class ConnectionDone(ConnectionClosed):
    """The peer sent EOF, or `loseConnection()` has run its course."""

    MESSAGE = "The connection was closed in good order"


class ConnectionLost(ConnectionClosed):
    """The connection failed: a reset, a network error, an exception in a callback.

    The cause, a text or an exception, is in `args` where there is one.
    """

    MESSAGE = "The connection broke before it was closed"


class ConnectionAborted(ConnectionLost):
    """`abortConnection()` was called on this side."""

    MESSAGE = "This side aborted the connection"


class FileEnded(ConnectionAborted):
    """`sendFile()` has found fewer bytes than it was to send: this side has aborted."""

    MESSAGE = "This side aborted the connection, because a file had become too short"


class ConnectionFdescWentAway(ConnectionLost):
    """A registered object has no descriptor any more: its `fileno()` is -1."""

    MESSAGE = "The file descriptor is gone"


class FileDescriptorOverrun(ConnectionLost):
    """Descriptors were to be passed over a UNIX socket without enough bytes to carry them."""

    MESSAGE = "More file descriptors were queued than bytes to carry them"


# --- Why no connection came about: the value of clientConnectionFailed's reason -----------------


class ConnectError(_Sentence, Exception):
    """An attempt to connect failed.

    `ConnectError(osError=None, string="")`: `osError` is the errno (for UnknownHostError the
    resolver's EAI number), or None where the system was not asked; `args` is `(string,)`.
    """

    MESSAGE = "The connection attempt failed"

    def __init__(self, osError: int | None = None, string: object = "") -> None:
        self.osError = osError
        super().__init__(string)

    def _details(self) -> tuple[object, ...]:
        return self.args if self.osError is None else (self.osError, *self.args)


class ConnectBindError(ConnectError):
    """The local end asked for with `bindAddress` cannot be used."""

    MESSAGE = "The local address to connect from cannot be bound"


class UnknownHostError(ConnectError):
    """The resolver has no address for the host name."""

    MESSAGE = "The host name has no known address"


class NoRouteError(ConnectError):
    """The network, or the host on it, cannot be reached."""

    MESSAGE = "No route leads to the host"


class ConnectionRefusedError(ConnectError):
    """Nobody listens on that port of the host."""

    MESSAGE = "The peer refused the connection"


class TCPTimedOutError(ConnectError):
    """The system gave up waiting for the peer. Our own time limit is TimeoutError."""

    MESSAGE = "The system gave up waiting for the peer"


class BadFileError(ConnectError):
    """The path does not lead to a UNIX socket."""

    MESSAGE = "The file is not a usable UNIX socket"


class ServiceNameUnknownError(ConnectError):
    """The port was given by a service name that the system does not list."""

    MESSAGE = "The service name has no known port"


class UserError(ConnectError):
    """The program itself called the attempt off, with `stopConnecting()`."""

    MESSAGE = "The program called the connection attempt off"


class TimeoutError(UserError):
    """The `timeout` given to `connectTCP` ran out. It is not a kin of the builtin TimeoutError."""

    MESSAGE = "The connection attempt took longer than its timeout"


class ConnectingCancelledError(_Sentence, Exception):
    """An attempt to connect to `address` was cancelled."""

    MESSAGE = "The connection attempt was cancelled"

    def __init__(self, address: object) -> None:
        self.address = address
        super().__init__(address)


class DNSLookupError(_Sentence, OSError):
    """A name could not be resolved: this is what `reason.value` is for a bad host name."""

    MESSAGE = "The host name could not be looked up"


# --- Misuse of ports and connectors -------------------------------------------------------------


class BindError(_Sentence, Exception):
    """A socket could not be bound to a local address."""

    MESSAGE = "The local address cannot be bound"


class CannotListenError(BindError):
    """`listenTCP` failed.

    `CannotListenError(interface, port, socketError)`: three attributes of the same names;
    `interface` is "" for all interfaces, `socketError` the OSError.
    """

    def __init__(self, interface: str | None, port: int | str, socketError: BaseException) -> None:
        super().__init__(interface, port, socketError)
        self.interface = interface
        self.port = port
        self.socketError = socketError

    def __str__(self) -> str:
        place = host_port(self.interface or "any", self.port)
        return f"Cannot listen on {place}: {self.socketError}."


class AlreadyListened(_Sentence, Exception):
    """A port was told to listen twice."""

    MESSAGE = "The port is already listening"


class NotListeningError(_Sentence, RuntimeError):
    """A port that does not listen was told to stop."""

    MESSAGE = "The port is not listening, so there is nothing to stop"


class NotConnectingError(_Sentence, RuntimeError):
    """`stopConnecting()` on a connector with no attempt under way."""

    MESSAGE = "No connection attempt is under way, so there is none to stop"


class ConnectInProgressError(_Sentence, Exception):
    """A second attempt was asked for while the first was still under way."""

    MESSAGE = "A connection attempt is already under way"


class InvalidAddressError(_Sentence, ValueError):
    """`address` is not of the kind that was asked for; `message` says what was."""

    MESSAGE = "The address is not valid"

    def __init__(self, address: object, message: str) -> None:
        super().__init__(address, message)
        self.address = address
        self.message = message


class MessageLengthError(_Sentence, Exception):
    """A message is longer than the transport can send."""

    MESSAGE = "The message is too long to send"


class UnsupportedAddressFamily(_Sentence, Exception):
    """A socket was handed over whose family is not AF_INET or AF_INET6."""

    MESSAGE = "Sockets of this address family are not supported"


class UnsupportedSocketType(_Sentence, Exception):
    """A socket was handed over that is not a SOCK_STREAM."""

    MESSAGE = "Sockets of this type are not supported"


# --- Misuse of timers and of the reactor --------------------------------------------------------


class AlreadyCalled(_Sentence, ValueError):
    """A delayed call was cancelled or moved after it had run: `active()` tells beforehand."""

    MESSAGE = "The delayed call has already run"


class AlreadyCancelled(_Sentence, ValueError):
    """A delayed call was cancelled or moved after it was cancelled: `active()` tells beforehand."""

    MESSAGE = "The delayed call was already cancelled"


class ReactorNotRunning(_Sentence, RuntimeError):
    """`stop()` on a reactor that is not running."""

    MESSAGE = "The reactor is not running"


class ReactorNotRestartable(_Sentence, RuntimeError):
    """`run()` on a reactor that has been stopped: make another `Reactor()`."""

    MESSAGE = "A reactor that was stopped cannot run again"


class ReactorAlreadyRunning(_Sentence, RuntimeError):
    """`run()` from inside `run()`."""

    MESSAGE = "The reactor is already running"


class ReactorAlreadyInstalledError(_Sentence, AssertionError):
    """A second default reactor was to be installed."""

    MESSAGE = "A default reactor is already installed"


errnoMapping: dict[object, type[ConnectError]] = {
    errno.ENETUNREACH: NoRouteError,
    # Not in Twisted's table, but the system's own text for it is "No route to host".
    errno.EHOSTUNREACH: NoRouteError,
    errno.ECONNREFUSED: ConnectionRefusedError,
    errno.ETIMEDOUT: TCPTimedOutError,
}


def getConnectError(e: BaseException | tuple[Any, ...]) -> ConnectError:
    """Turn what a failed connect raised into the ConnectError that says it.

    `e` is an OSError, or `(errno, text)`. The errno goes to `osError` and picks the class
    (see errnoMapping; a plain ConnectError for any other), the text goes to `args`. An error of
    the resolver is an UnknownHostError. Without an errno, `e` itself is the one argument.
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
