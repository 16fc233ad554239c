"""Read the PROXY header of each accepted connection, before its protocol is built.

    server = Server(reactor, factory, headers=HeaderReader([ip_network("10.0.0.0/8")]))

The header comes first, also before TLS. The port then goes on as if it had accepted the client
itself. So the protocol, the limits and the views all get the client's address from getPeer().

    accept --> PendingHeader --> the port's serve()
                    |
                    +--> closed, if the header is wrong or late, or the sender is not trusted

A header is looked at with MSG_PEEK, and only its own bytes are taken from the socket. The client's
bytes stay in the kernel, where TLS and splice() find them.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Union, cast

from minireactor.address import format_address, from_sockaddr
from minireactor.core.handler import Handler
from minireactor.core.timers import cancel_if_active
from minireactor.core.waker import close_socket
from minireactor.serve.clients import ip_address
from minireactor.serve.proxy_header import Header, decode
from minireactor.serve.refusal import Refusal
from minireactor.transports.closing import Lingering

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterable
    from typing import Protocol

    from minireactor.address import Address
    from minireactor.core.timers import DelayedCall
    from minireactor.failure import Failure
    from minireactor.transports.port import Port

    class Limited(Protocol):
        """The part of a `Server` that a reader needs."""

        def is_full(self) -> bool: ...

        def reject(self) -> None: ...

        def refuse(self, refusal: Refusal) -> None: ...

        def stop_if_retired(self) -> None: ...

    Serve = Callable[[socket.socket, Any, Union[Address, None]], None]

# Until a header must be complete. The specification asks for at least 3 s, which leave TCP the time
# to repeat a lost packet.
HEADER_SECONDS = 5.0
_PEEK_SIZE = 512  # bytes; all headers of version 1 and most of version 2 are shorter


class HeaderReader:
    """Reads the PROXY headers for the ports of one Server.

    trusted: networks of `ipaddress`. Only senders in one of them may say who their client is, and
        other senders are closed. All senders of a UNIX socket are trusted.
    waiting: the connections whose header is not complete. They count as connections of the server.
    """

    def __init__(
        self, trusted: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    ) -> None:
        self.trusted = list(trusted)
        self.waiting: set[PendingHeader] = set()

    def read_before(self, port: Port, server: Limited) -> None:
        """Let `port` serve each connection only after its header, with the addresses in it."""
        cast(Any, port).serve = partial(self._accepted, port, port.serve, server)

    def _accepted(
        self,
        port: Port,
        serve: Serve,
        server: Limited,
        sock: socket.socket,
        address: Any,
        host: Address | None,
    ) -> None:
        if not self.is_trusted(address):
            close_socket(sock)
            sender = format_address(from_sockaddr(address))
            server.refuse(Refusal("--trust", f"{sender} may send no PROXY header"))
        elif server.is_full():
            server.reject()
            Lingering.take_over(port.reactor, sock)
            sock.close()
        else:
            PendingHeader(self, port, server, serve, sock, address, host).start()

    def is_trusted(self, address: Any) -> bool:
        """Return whether a sender at `address`, as accept() returns it, is trusted."""
        if not isinstance(address, tuple):
            return True
        sender = ip_address(address[0])
        return any(sender in network for network in self.trusted)

    def stop(self) -> None:
        """Close all connections whose header is not complete."""
        for pending in list(self.waiting):
            pending.close()


class PendingHeader(Handler):
    """An accepted socket until its header is complete."""

    __slots__ = (
        "_address",
        "_host",
        "_port",
        "_reader",
        "_received",
        "_serve",
        "_server",
        "_socket",
        "_timer",
    )

    def __init__(
        self,
        reader: HeaderReader,
        port: Port,
        server: Limited,
        serve: Serve,
        sock: socket.socket,
        address: Any,
        host: Address | None,
    ) -> None:
        super().__init__(sock.fileno())
        self._reader = reader
        self._port = port
        self._server = server
        self._serve = serve
        self._socket = sock
        self._address = address
        self._host = host
        self._received = bytearray()
        self._timer: DelayedCall | None = None
        sock.setblocking(False)

    def start(self) -> None:
        """Read the header. If it is not complete yet, wait for the rest for HEADER_SECONDS."""
        self._reader.waiting.add(self)
        self.doRead()
        if self in self._reader.waiting:
            reactor = self._port.reactor
            self._timer = reactor.call_later_internal(HEADER_SECONDS, self._be_late)
            self.reading = True
            reactor.attach(self)
            reactor.guard(self, reactor.update_interest, self)

    def doRead(self) -> None:
        try:
            ahead = self._socket.recv(_PEEK_SIZE, socket.MSG_PEEK)
            if not ahead:
                raise ValueError(f"the peer has closed after {len(self._received)} bytes of it")
            header = decode(self._received + ahead)
            # The header's own bytes must leave the socket even while the rest is missing.
            # Otherwise the socket would stay readable, and the loop would never sleep.
            own = len(ahead) if header is None else header.length - len(self._received)
            self._received += self._socket.recv(own)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ValueError) as error:
            self._refuse(str(error))
            return
        if header is not None and len(self._received) == header.length:
            self._serve_client(header)

    def _serve_client(self, header: Header) -> None:
        address, host = self._address, self._host
        if header.source is not None:
            address, host = header.source, from_sockaddr(header.destination)
        sock = self._leave()
        self._port.reactor.guard(self._port, self._serve, sock, address, host)
        self._server.stop_if_retired()

    def _be_late(self) -> None:
        count = len(self._received)
        self._refuse(f"it was not complete after {HEADER_SECONDS:g} s, with {count} bytes")

    def _refuse(self, why: str) -> None:
        sender = format_address(from_sockaddr(self._address))
        self._server.refuse(Refusal("--accept-proxy", f"no PROXY header from {sender}: {why}"))
        self.close()

    def _leave(self) -> socket.socket:
        """Stop watching the socket. Return it."""
        self._reader.waiting.discard(self)
        self._port.reactor.detach(self)
        cancel_if_active(self._timer)
        return self._socket

    def close(self) -> None:
        """Close the connection without a warning. Idempotent."""
        close_socket(self._leave())
        self._server.stop_if_retired()

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PROXY header of {format_address(from_sockaddr(self._address))}>"
