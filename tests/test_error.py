"""The exceptions: names, bases, attributes and messages."""

from __future__ import annotations

import errno
import os
import pickle
import socket

import pytest

from minireactor import error

BASES = {
    "ConnectionClosed": Exception,
    "ConnectionDone": error.ConnectionClosed,
    "ConnectionLost": error.ConnectionClosed,
    "ConnectionAborted": error.ConnectionLost,
    "FileEnded": error.ConnectionAborted,
    "ConnectionFdescWentAway": error.ConnectionLost,
    "FileDescriptorOverrun": error.ConnectionLost,
    "ConnectError": Exception,
    "ConnectBindError": error.ConnectError,
    "UnknownHostError": error.ConnectError,
    "NoRouteError": error.ConnectError,
    "ConnectionRefusedError": error.ConnectError,
    "TCPTimedOutError": error.ConnectError,
    "BadFileError": error.ConnectError,
    "ServiceNameUnknownError": error.ConnectError,
    "UserError": error.ConnectError,
    "TimeoutError": error.UserError,
    "ConnectingCancelledError": Exception,
    "DNSLookupError": OSError,
    "BindError": Exception,
    "CannotListenError": error.BindError,
    "AlreadyListened": Exception,
    "NoProtocol": Exception,
    "NotListeningError": RuntimeError,
    "NotConnectingError": RuntimeError,
    "ConnectInProgressError": Exception,
    "InvalidAddressError": ValueError,
    "MessageLengthError": Exception,
    "UnsupportedAddressFamily": Exception,
    "UnsupportedSocketType": Exception,
    "AlreadyCalled": ValueError,
    "AlreadyCancelled": ValueError,
    "ReactorNotRunning": RuntimeError,
    "ReactorNotRestartable": RuntimeError,
    "ReactorAlreadyRunning": RuntimeError,
    "ReactorAlreadyInstalledError": AssertionError,
}
WITH_REQUIRED_ARGUMENTS = {"CannotListenError", "ConnectingCancelledError", "InvalidAddressError"}
PLAIN = sorted(set(BASES) - WITH_REQUIRED_ARGUMENTS)
CONNECT_ERRORS = sorted(n for n in BASES if issubclass(getattr(error, n), error.ConnectError))


def test_the_table_of_this_test_names_every_exception_of_the_module() -> None:
    defined = {
        name
        for name, value in vars(error).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(BASES)


@pytest.mark.parametrize("name", sorted(BASES))
def test_each_exception_has_its_base(name: str) -> None:
    assert BASES[name] in getattr(error, name).__mro__[1:]


@pytest.mark.parametrize("name", PLAIN)
def test_str_without_arguments_is_a_sentence(name: str) -> None:
    text = str(getattr(error, name)())
    assert text[0].isupper() and " " in text and text.endswith(".")


@pytest.mark.parametrize("name", PLAIN)
def test_str_ends_with_the_argument(name: str) -> None:
    assert str(getattr(error, name)("the detail")).endswith(": the detail.")


def test_str_takes_an_exception_as_argument() -> None:
    lost = error.ConnectionLost(OSError(errno.ECONNRESET, "reset by peer"))
    assert str(lost).endswith(f": [Errno {errno.ECONNRESET}] reset by peer.")


def test_str_takes_several_arguments_of_any_type() -> None:
    assert str(error.ConnectionLost("read", 3)).endswith(": read: 3.")


def test_a_detail_that_ends_in_a_full_stop_gets_no_second_one() -> None:
    assert str(error.ConnectionLost("It went.")).endswith(": It went.")


def test_a_subclass_may_set_its_own_sentence() -> None:
    class Idle(error.ConnectionLost):
        MESSAGE = "Nothing came for a minute"

    assert str(Idle("gone")) == "Nothing came for a minute: gone."


def test_a_closed_connection_keeps_its_arguments() -> None:
    cause = OSError(errno.EPIPE, "broken")
    assert error.ConnectionLost(cause).args == (cause,)


@pytest.mark.parametrize("name", CONNECT_ERRORS)
def test_connect_error_without_arguments(name: str) -> None:
    made = getattr(error, name)()
    assert (made.osError, made.args) == (None, ("",))


@pytest.mark.parametrize("name", CONNECT_ERRORS)
def test_connect_error_keeps_errno_and_text_apart(name: str) -> None:
    made = getattr(error, name)(osError=111, string="refused")
    assert (made.osError, made.args) == (111, ("refused",))
    assert str(made).endswith(": 111: refused.")


def test_connect_error_shows_an_errno_of_zero() -> None:
    assert str(error.ConnectError(0)).endswith(": 0.")


def test_timeout_is_not_the_builtin_one() -> None:
    assert not issubclass(error.TimeoutError, OSError)


@pytest.mark.parametrize("interface", ["", None])
def test_cannot_listen_calls_all_interfaces_any(interface: str | None) -> None:
    cause = OSError(errno.EADDRINUSE, "in use")
    text = str(error.CannotListenError(interface, 80, cause))
    assert text == f"Cannot listen on any:80: [Errno {errno.EADDRINUSE}] in use."


def test_cannot_listen_names_interface_and_port() -> None:
    assert "127.0.0.1:80:" in str(error.CannotListenError("127.0.0.1", 80, OSError("x")))


def test_cannot_listen_sets_an_ipv6_interface_apart_from_the_port() -> None:
    assert "[::1]:80:" in str(error.CannotListenError("::1", 80, OSError("x")))


def test_cannot_listen_keeps_what_it_was_made_with() -> None:
    cause = OSError(errno.EADDRINUSE, "in use")
    made = error.CannotListenError("::1", 80, cause)
    assert (made.interface, made.port, made.socketError) == ("::1", 80, cause)
    assert made.args == ("::1", 80, cause)


def test_cannot_listen_survives_pickling() -> None:
    made = pickle.loads(pickle.dumps(error.CannotListenError("::1", 80, OSError("x"))))
    assert (made.interface, made.port) == ("::1", 80)


def test_connecting_cancelled_keeps_the_address() -> None:
    made = error.ConnectingCancelledError("the address")
    assert made.address == "the address"
    assert str(made).endswith(": the address.")


def test_invalid_address_keeps_address_and_message() -> None:
    made = error.InvalidAddressError("1.2.3", "not an IPv4 address")
    assert (made.address, made.message) == ("1.2.3", "not an IPv4 address")
    assert str(made).endswith(": 1.2.3: not an IPv4 address.")


BY_ERRNO = [
    (errno.ECONNREFUSED, error.ConnectionRefusedError),
    (errno.ETIMEDOUT, error.TCPTimedOutError),
    (errno.ENETUNREACH, error.NoRouteError),
    (errno.EHOSTUNREACH, error.NoRouteError),
    (errno.EACCES, error.ConnectError),
    (-1, error.ConnectError),
]


@pytest.mark.parametrize(("number", "kind"), BY_ERRNO)
def test_getConnectError_picks_the_class_by_the_errno(
    number: int, kind: type[error.ConnectError]
) -> None:
    made = error.getConnectError(OSError(number, "text"))
    assert type(made) is kind
    assert (made.osError, made.args) == (number, ("text",))


@pytest.mark.parametrize(("number", "kind"), BY_ERRNO)
def test_getConnectError_takes_a_pair(number: int, kind: type[error.ConnectError]) -> None:
    made = error.getConnectError((number, "text"))
    assert type(made) is kind
    assert (made.osError, made.args) == (number, ("text",))


def test_getConnectError_takes_the_error_of_a_real_refusal() -> None:
    with socket.socket() as unused, socket.socket() as client:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError) as caught:
            client.connect(unused.getsockname())
    made = error.getConnectError(caught.value)
    assert type(made) is error.ConnectionRefusedError
    assert made.osError == errno.ECONNREFUSED
    assert os.strerror(errno.ECONNREFUSED) in str(made)


def test_getConnectError_of_a_resolver_error_is_unknown_host() -> None:
    made = error.getConnectError(socket.gaierror(socket.EAI_NONAME, "no such name"))
    assert type(made) is error.UnknownHostError
    assert (made.osError, made.args) == (socket.EAI_NONAME, ("no such name",))


def test_getConnectError_without_an_errno_keeps_the_exception() -> None:
    cause = OSError("timed out")
    made = error.getConnectError(cause)
    assert type(made) is error.ConnectError
    assert (made.osError, made.args) == (None, (cause,))
    assert str(made).endswith(": timed out.")
