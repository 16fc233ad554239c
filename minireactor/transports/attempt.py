"""One attempt to connect to a host: its addresses race for the connection (RFC 8305).

`connector` makes the attempts.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core.handler import Handler
from minireactor.core.timers import DelayedCall
from minireactor.core.waker import close_socket
from minireactor.error import ConnectBindError, ConnectError, NoRouteError, getConnectError
from minireactor.failure import Failure
from minireactor.transports.closing import Lingering
from minireactor.transports.resolver import MAX_RECLAIMED, OUT_OF_DESCRIPTORS, look_up_number
from minireactor.transports.sockets import reset_on_close

if TYPE_CHECKING:
    from minireactor.core.loop import Loop
    from minireactor.transports.resolver import Query, Resolved

# After this delay the next address is tried in parallel (RFC 8305, section 5).
STAGGER_SECONDS = 0.25
# How long one address is tried if the attempt has no timeout and its addresses cannot be tried in
# parallel.
SHARE_SECONDS = 30.0

_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


class AddressAttempt(Handler):
    """Connects one socket to one address, for an Attempt."""

    __slots__ = ("_attempt", "_reactor", "_socket")

    def __init__(self, attempt: Attempt, sock: socket.socket) -> None:
        super().__init__(sock.fileno())
        self._attempt = attempt
        self._reactor = attempt.reactor
        self._socket: socket.socket | None = sock
        self.writing = True
        self._reactor.attach(self)
        try:
            self._reactor.update_interest(self)
        except BaseException:
            self._reactor.detach(self)
            raise

    def doWrite(self) -> None:
        sock = self._socket
        assert sock is not None
        try:
            peer = _peer_of(sock)
            # A socket can be connected to itself, if the socket connects to an ephemeral port
            # without a listener, and the system binds the socket to that same port: TCP accepts two
            # ends that connect to each other at once. Treat it as a refused connection.
            own = sock.getsockname()
            if peer == own:
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        except OSError as error:
            self._fail(getConnectError(error))
            return
        self._socket = None
        try:
            self._attempt.succeeded(self, sock, peer, own)
        finally:
            if self.registered is not None:  # no connection has taken over
                self._reactor.detach(self)

    def _fail(self, error: BaseException) -> None:
        self.abandon()
        self._attempt.address_failed(self, error)

    def abandon(self) -> None:
        """Close the socket without notifying the attempt. Idempotent."""
        sock, self._socket = self._socket, None
        if sock is not None:
            self._reactor.detach(self)
            _discard(sock)

    def failed(self, failure: Failure) -> None:
        self._fail(failure.value)

    def connectionLost(self, reason: Failure) -> None:
        self._fail(ConnectError(string=reason.value))

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()


class Attempt(Handler):
    """Connects to a host: finds its addresses, and tries them until one answers.

    The first address is tried at once. The next address is tried once the one before it has failed
    or has not answered for STAGGER_SECONDS. A slow address is still tried in parallel. The first
    address that answers ends the tries of the others. The families of the addresses alternate (RFC
    8305, section 4).

    At the end the attempt calls `connected(sock, peer, own, handler)` or `failed_with(failure)`,
    unless `abandon()` was called before. `sock` is a connected socket, `peer` and `own` are the
    socket addresses of its two ends. `handler` hands its registration over, see Loop.hand_over().

    timeout: seconds after which the caller ends the attempt, or None. The attempt only divides this
        time, so that each address gets a share.
    local: the local address to connect from, or None.
    connect_socket: starts to connect a socket to an address, like socket.connect_ex().
    """

    def __init__(
        self,
        reactor: Loop,
        host: str,
        port: Any,
        timeout: float | None,
        local: tuple[str, int] | None,
        connected: Callable[[socket.socket, Any, Any, Handler], object],
        failed_with: Callable[[Failure], object],
        connect_socket: Callable[[socket.socket, Any], int],
    ) -> None:
        super().__init__(-1)
        self.reactor = reactor
        self._until = None if timeout is None else reactor.seconds() + timeout
        self._local = local
        self._connected = connected
        self._failed_with = failed_with
        self._connect_socket = connect_socket
        self._query: Query | None = None
        self._addresses: list[Any] = []
        self._attempts: list[AddressAttempt] = []
        self._stagger = STAGGER_SECONDS
        self._is_parallel = True
        self._timer: DelayedCall | None = None
        self._error: BaseException | None = None
        self._has_reclaimed = False
        reactor.attempts[self] = None
        reactor.call_soon(reactor.guard, self, self._start, host, port)

    def is_over(self) -> bool:
        return self not in self.reactor.attempts

    def _start(self, host: str, port: Any) -> None:
        if self.is_over():
            return
        name = None if self._local is None else _name_in(self._local)
        if name is None:
            self._resolve(host, port)
        else:
            answer = partial(self.reactor.guard, self, self._take_local, host, port)
            self._query = self.reactor.resolver.resolve(name, 0, answer)

    def _take_local(self, host: str, port: Any, found: Resolved) -> None:
        if self.is_over():
            return
        if isinstance(found, Exception) or not found:
            self._fail(ConnectBindError(string=found or "its name has no address"))
            return
        (_, _, _, _, (address, *_)), *_ = found
        self._local = (address, *self._local[1:])  # type: ignore[index]
        self._resolve(host, port)

    def _resolve(self, host: str, port: Any) -> None:
        self._query = self.reactor.resolver.resolve(host, port, self._take_answer)

    def _take_answer(self, found: Resolved) -> None:
        self.reactor.guard(self, self._resolved, found)

    def _resolved(self, found: Resolved) -> None:
        if self.is_over():
            return
        if isinstance(found, Exception):
            self._fail(found)
            return
        if len(found) == 1:
            self._addresses = list(found)
        else:
            self._addresses = interleaved(found)
            self._share_time()
        self._try_next()

    def _share_time(self) -> None:
        shares = len(self._addresses) + 1
        left = SHARE_SECONDS * shares
        if self._until is not None:
            left = max(0.0, self._until - self.reactor.seconds())
        # Two sockets cannot be bound to the same local port at a time, so there is no parallel try.
        if isinstance(self._local, tuple) and self._local[1:2] not in ((), (0,)):
            self._is_parallel = False
            self._stagger = left / shares
        else:
            self._stagger = min(STAGGER_SECONDS, left / shares)

    def _try_next(self) -> None:
        """Try the next address. The attempt fails if none is left and none is being tried."""
        if self._timer is not None:
            self._cancel_timer()
        while self._addresses:
            try:
                attempt = self._connect(self._addresses.pop(0))
            except OSError as error:
                self._note(getConnectError(error))
            except ConnectError as error:
                self._note(error)
            else:
                self._attempts.append(attempt)
                if self._addresses:
                    self._timer = self.reactor.call_later_internal(self._stagger, self._next_is_due)
                return
        if not self._attempts:
            self._fail(self._error or ConnectError(string="no address to connect to"))

    def _next_is_due(self) -> None:
        if not self._is_parallel:
            self._abandon_all()
        self.reactor.guard(self, self._try_next)

    def _connect(self, address: Any) -> AddressAttempt:
        family, kind, proto, _, place = address
        sock = self._socket(family, kind, proto)
        try:
            sock.setblocking(False)
            self._prepare(sock)
            code = self._start_connecting(sock, place)
            if code not in _IN_PROGRESS:
                raise OSError(code, os.strerror(code))
            return AddressAttempt(self, sock)
        except BaseException:
            sock.close()
            raise

    def _start_connecting(self, sock: socket.socket, place: Any) -> int:
        return self._connect_socket(sock, place)

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._local is not None:
            _bind(sock, self._local)

    def _socket(self, family: int, kind: int, proto: int) -> socket.socket:
        try:
            return self.reactor.system.connecting_socket(family, kind, proto)
        except OSError as error:
            if error.errno not in OUT_OF_DESCRIPTORS or self._has_reclaimed:
                raise
            self._has_reclaimed = True
            if not Lingering.reclaim(self.reactor, MAX_RECLAIMED):
                raise
            return self.reactor.system.connecting_socket(family, kind, proto)

    def _note(self, error: BaseException) -> None:
        """Keep the error that explains the most so far; of equal ones, keep the latest."""
        if self._error is None or _weight(error) >= _weight(self._error):
            self._error = error

    def address_failed(self, attempt: AddressAttempt, error: BaseException) -> None:
        """Note that an address has failed, and try the next one at once."""
        if attempt in self._attempts:
            self._attempts.remove(attempt)
            self._note(error)
            self._try_next()

    def succeeded(self, attempt: AddressAttempt, sock: socket.socket, peer: Any, own: Any) -> None:
        """End the attempt with success: `sock` is connected from `own` to `peer`."""
        self._attempts.remove(attempt)
        self.abandon()
        self._connected(sock, peer, own, attempt)

    def _fail(self, error: BaseException) -> None:
        if not self.is_over():
            self.abandon()
            self._failed_with(Failure(error))

    def abandon(self) -> None:
        """End the attempt without calling back. Idempotent."""
        if self.is_over():
            return
        del self.reactor.attempts[self]
        if self._query is not None:
            self._query.cancel()
        if self._timer is not None:
            self._cancel_timer()
        if self._attempts:
            self._abandon_all()

    def _abandon_all(self) -> None:
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.abandon()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def failed(self, failure: Failure) -> None:
        self._fail(failure.value)

    def connectionLost(self, reason: Failure) -> None:
        self._fail(ConnectError(string=reason.value))


def interleaved(addresses: list[Any]) -> list[Any]:
    """Return each address once, in the given order, but with alternating families."""
    families: dict[Any, list[Any]] = {}
    for address in dict.fromkeys(map(tuple, addresses)):  # /etc/hosts may list one twice
        families.setdefault(address[0], []).append(address)
    rows = list(families.values())
    longest = max(map(len, rows), default=0)
    return [row[i] for i in range(longest) for row in rows if i < len(row)]


def _name_in(local: Any) -> str | None:
    """Return the host of a local address if it is a name: bind() would block to look it up."""
    host = local[0] if isinstance(local, tuple) and local else None
    if not isinstance(host, str) or not host:  # "" stands for any address
        return None
    return host if look_up_number(host, 0) is None else None


def _bind(sock: socket.socket, local: tuple[str, int]) -> None:
    try:
        sock.bind(local)
    except Exception as error:
        raise ConnectBindError(getattr(error, "errno", None), str(error)) from None


def _weight(error: BaseException) -> int:
    """Return how well the error of one address explains the failure of all; more is better."""
    code = getattr(error, "osError", None)
    if code in OUT_OF_DESCRIPTORS:
        return 3  # this error concerns all addresses alike
    if code is None or code in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return 0  # often only a family that this machine lacks
    return 1 if isinstance(error, (NoRouteError, ConnectBindError)) else 2


def _peer_of(sock: socket.socket) -> Any:
    """Return the address of the peer. Raises OSError, with the reason, if there is none."""
    try:
        return sock.getpeername()
    except OSError:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None
        raise


def _discard(sock: socket.socket) -> None:
    """Close a socket that is being connected. A peer that has answered gets a reset at once."""
    try:
        reset_on_close(sock)
    except OSError:
        pass  # not connected
    close_socket(sock)
