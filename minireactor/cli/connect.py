"""The command `connect`: a small client, under flow control in both directions.

The bytes take these two paths. Each stage pauses the one before it when it has too many bytes:

    standard input -> Input -> connection -> peer
    peer -> connection (-> RateLimiter) -> Output -> standard output
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address, host_port
from minireactor.cli.standard import Input, Output
from minireactor.error import ConnectionDone
from minireactor.protocol import ClientFactory, Protocol, connectionDone
from minireactor.serve.places import connect_to
from minireactor.streams import RateLimiter, pipe

if TYPE_CHECKING:
    import argparse

    from minireactor.failure import Failure
    from minireactor.interfaces import IConnector
    from minireactor.internet import Reactor
    from minireactor.streams import Stage

FAILED = 1  # exit status


class Client(Protocol, ClientFactory):
    """The only protocol of the command, and its factory.

    report: called as `report(text)` with a line about each event.
    report_error: called as `report_error(text)` if there is an error, once.
    on_end: called as `on_end()` when everything has ended.
    status: the exit status, None until the end.
    """

    def __init__(
        self,
        reactor: Reactor,
        options: argparse.Namespace,
        report: Callable[[str], object],
        report_error: Callable[[str], object],
        on_end: Callable[[], object],
    ) -> None:
        self.status: int | None = None
        self._options = options
        self._report = report
        self._report_error = report_error
        self._on_end = on_end
        self._peer = host_port(*options.address)
        self._has_failed = False  # the connection has, and its error has been reported
        self._is_connected = False
        self._has_written_all = False
        # Start the threads first. If the system has no thread left, no peer sees a connection.
        self._input = Input(reactor, 0, self._input_ended)
        output = Output(reactor, 1, self._output_ended)
        self._sink: Output | Stage = output  # takes the received bytes
        if options.rate is not None:
            self._sink = pipe(RateLimiter(options.rate, reactor=reactor), output)
        host, port = options.address
        connect_to(reactor, host, port, self, options.timeout)

    def buildProtocol(self, addr: Any) -> Client:
        return self

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._fail(f"cannot connect to {self._peer}: {reason.getErrorMessage()}")

    def connectionMade(self) -> None:
        self._is_connected = True
        self._report(f"connected to {format_address(self.transport.getPeer())}")
        self._sink.registerProducer(self.transport, True)
        if self._options.stall:
            self.transport.pauseProducing()
        self._input.feed(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._sink.write(data)

    def _input_ended(self, error: OSError | None) -> None:
        if error is not None:
            self._fail(f"cannot read standard input: {error.strerror}")
        else:
            self._report("standard input has ended")
            self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing. Having this method makes the protocol half-closeable."""

    def readConnectionLost(self) -> None:
        self._report("the peer has ended")
        self._sink.unregisterProducer()
        # On a terminal, a person would have to end the input by hand, although the peer has most
        # likely gone. Input from a pipe or a file is sent to its end: the peer may still want it.
        if os.isatty(0):
            self._input.stopProducing()
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_connected = False
        if self.status is None and not reason.check(ConnectionDone):
            self._has_failed = True
            self._report_error(f"{self._peer}: {reason.getErrorMessage()}")
        self._report(
            f"sent {self.transport.bytes_out:,} bytes, received {self.transport.bytes_in:,}"
        )
        # Bytes received before an error are still written.
        self._sink.unregisterProducer()
        self._end_if_over()

    def _output_ended(self, error: OSError | None) -> None:
        self._has_written_all = True
        if isinstance(error, BrokenPipeError):  # the reader has read enough, as in `| head -1`
            self.end(0)
        elif error is not None:
            self._fail(f"cannot write standard output: {error.strerror}")
        else:
            self._end_if_over()

    def _end_if_over(self) -> None:
        if self._has_written_all and not self._is_connected:
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
        self._on_end()
