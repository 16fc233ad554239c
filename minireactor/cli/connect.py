"""The command `connect`: a small client, under flow control in both directions.

The bytes take these two paths. Each stage pauses the one before it when it has too many bytes:

    standard input -> StandardIO -> connection -> peer
    peer -> connection (-> RateLimiter) -> StandardIO -> standard output
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address, host_port
from minireactor.error import ConnectionDone
from minireactor.protocol import ClientFactory, Protocol, connectionDone
from minireactor.serve.places import connect_to
from minireactor.stdio import INPUT, StandardIO
from minireactor.streams import RateLimiter, pipe

if TYPE_CHECKING:
    import argparse

    from minireactor.failure import Failure
    from minireactor.interfaces import IConnector
    from minireactor.internet import Reactor
    from minireactor.streams import Stage
    from minireactor.transports.tls_start import SecureConnector

FAILED = 1  # exit status


class Client(Protocol, ClientFactory):
    """The protocol of the connection, and its factory.

    report: called as `report(text)` with a line about each event.
    report_error: called as `report_error(text)` if there is an error, once.
    on_end: called as `on_end()` when everything has ended.
    tls: speaks TLS to the server; None for none.
    status: the exit status, None until the end.
    """

    def __init__(
        self,
        reactor: Reactor,
        options: argparse.Namespace,
        report: Callable[[str], object],
        report_error: Callable[[str], object],
        on_end: Callable[[], object],
        tls: SecureConnector | None = None,
    ) -> None:
        self.status: int | None = None
        self.report = report
        self._reactor = reactor
        self._options = options
        self._report_error = report_error
        self._on_end = on_end
        self._peer = host_port(*options.address)
        self._has_failed = False  # the connection has, and its error has been reported
        self._is_connected = False
        host, port = options.address
        connector = connect_to(reactor, host, port, self, options.timeout)
        if tls is not None:
            tls.secure(connector)

    def buildProtocol(self, addr: Any) -> Client:
        return self

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._fail(f"cannot connect to {self._peer}: {reason.getErrorMessage()}")

    def connectionMade(self) -> None:
        self._is_connected = True
        self.report(f"connected to {format_address(self.transport.getPeer())}")
        # Input is taken only now: without a connection, it is left to other programs.
        try:
            self._stdio = StandardIO(Console(self), reactor=self._reactor)
        except RuntimeError as error:  # the system has no thread left
            self._is_connected = False
            self.transport.abortConnection()
            self._fail(str(error))
            return
        self._sink: StandardIO | Stage = self._stdio  # takes the received bytes
        if self._options.rate is not None:
            self._sink = pipe(RateLimiter(self._options.rate, reactor=self._reactor), self._stdio)
        self._sink.registerProducer(self.transport, True)
        if self._options.stall:
            self.transport.pauseProducing()
        self.transport.registerProducer(self._stdio, True)

    def dataReceived(self, data: bytes) -> None:
        self._sink.write(data)

    def writeConnectionLost(self) -> None:
        """Do nothing. Having this method makes the protocol half-closeable."""

    def readConnectionLost(self) -> None:
        self.report("the peer has ended")
        self._sink.unregisterProducer()
        # On a terminal, a person would have to end the input by hand, although the peer has most
        # likely gone. Input from a pipe or a file is sent to its end: the peer may still want it.
        if os.isatty(0):
            self._stdio.pauseProducing()
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_connected = False
        if self.status is None and not reason.check(ConnectionDone):
            self._has_failed = True
            self._report_error(f"{self._peer}: {reason.getErrorMessage()}")
        sent, received = self.transport.bytes_out, self.transport.bytes_in
        self.report(f"sent {sent:,} bytes, received {received:,}")
        if self.status is not None:
            return
        # Bytes received before an error are still written.
        self._sink.unregisterProducer()
        self._stdio.loseConnection()

    def console_lost(self, reason: Failure) -> None:
        """End the command: all output is written, or a descriptor has failed."""
        error = reason.value.args[0] if reason.value.args else None
        if isinstance(error, BrokenPipeError):  # the reader has read enough, as in `| head -1`
            self.end(0)
        elif isinstance(error, OSError):
            what = "read" if error.filename == INPUT else "write"
            self._fail(f"cannot {what} {error.filename}: {error.strerror}")
        else:
            self.end(FAILED if self._has_failed else 0)

    def _fail(self, what: str) -> None:
        if self.status is None:
            self._report_error(what)
            self.end(FAILED)

    def end(self, status: int) -> None:
        """End the command with this exit status. Reset the connection if it is still open."""
        if self.status is not None:
            return
        self.status = status
        if self._is_connected:
            self.transport.abortConnection()
            self._stdio.abortConnection()
        self._on_end()


class Console(Protocol):
    """The protocol of standard input and output."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def readConnectionLost(self) -> None:
        self._client.report("standard input has ended")
        self._client.transport.unregisterProducer()
        self._client.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing. Having this method makes the protocol half-closeable."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.console_lost(reason)
