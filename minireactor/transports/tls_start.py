"""How a connection begins to speak TLS: by startTLS(), or as soon as it is made; see `tls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from minireactor.error import ConnectionLost
from minireactor.failure import Failure
from minireactor.transports.connection import Connection
from minireactor.transports.tls import TLSConnection
from minireactor.transports.tls_session import (
    Session,
    checked_context,
    client_context,
    is_server_side,
    server_context,
)

if TYPE_CHECKING:
    from minireactor.transports.connector import Connector
    from minireactor.transports.port import Port

_INJECTED = "the peer has sent plain bytes behind those that have started TLS"


def start_tls(
    connection: Connection,
    context: Any = None,
    server_hostname: str | None = None,
    server_side: bool | None = None,
) -> None:
    """Make `connection` a TLSConnection; see Connection.startTLS.

    server_side: by default, the context decides. A context for both sides serves the side that has
        accepted the connection, unless there is a `server_hostname`."""
    if context is None:
        context, server_side = client_context(), False
    checked_context(context)
    if server_side is None:
        # Only a connector is told of the end of a connection.
        is_client = connection._on_lost is not None or server_hostname is not None
        server_side = is_server_side(context, not is_client)
    if connection.state in ("ending", "closed"):
        return
    if connection.state != "open" or connection.write_ended or connection.read_ended:
        raise RuntimeError(f"cannot start TLS on {connection!r}: one of its directions has ended")
    session = Session(context, server_side, server_hostname)
    if getattr(connection.protocol, "has_buffered_input", False):
        connection.failed(Failure(ConnectionLost(_INJECTED)))
        return
    connection.__class__ = _tls_class(type(connection))
    cast(TLSConnection, connection).take_over(session)


_classes: dict[type[Connection], type[TLSConnection]] = {Connection: TLSConnection}


def _tls_class(kind: type[Connection]) -> type[TLSConnection]:
    """Return the TLSConnection for a class of connections, such as those of UNIX sockets."""
    if kind not in _classes:
        _classes[kind] = type(f"TLS{kind.__name__}", (TLSConnection, kind), {"__slots__": ()})
    return _classes[kind]


class SecurePort:
    """Makes the connections of ports speak TLS. It becomes their `connection_class`.

    context: the context of connections to come. A program may replace it, for a new certificate.

    Raises TypeError or ValueError if `context` is not an ssl.SSLContext for a server."""

    def __init__(self, context: Any) -> None:
        self.context = server_context(context)

    def secure(self, port: Port) -> None:
        """Let all connections that `port` accepts from now on speak TLS."""
        make = port.connection_class

        def made(*args: Any, **options: Any) -> Connection:
            connection = make(*args, **options)
            start_tls(connection, self.context, None, True)
            return connection

        port.connection_class = cast(Any, made)


class SecureConnector:
    """Makes the connections of connectors speak TLS. It becomes their `connection_class`.

    context: an ssl.SSLContext; None for one that verifies the server.
    server_hostname: the name that a server's certificate must have. None for the connector's host,
        or "localhost" for a UNIX socket.

    Raises TypeError or ValueError if `context` is not an ssl.SSLContext for a client, or if
    `server_hostname` is no name."""

    def __init__(self, context: Any, server_hostname: str | None) -> None:
        self.context = client_context(context)
        self.server_hostname = server_hostname
        if server_hostname is not None:
            Session(self.context, False, server_hostname)

    def secure(self, connector: Connector) -> None:
        """Let all connections that `connector` makes from now on speak TLS."""
        make = connector.connection_class
        name = self.server_hostname or getattr(connector, "host", "localhost")

        def made(*args: Any, **options: Any) -> Connection:
            connection = make(*args, **options)
            start_tls(connection, self.context, name, False)
            return connection

        connector.connection_class = cast(Any, made)
