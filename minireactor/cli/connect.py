"""The command `connect`: a small client, under flow control in both directions.

Its bytes take this way; each arrow pauses what is before it:

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
from minireactor.streams import RateLimiter, pipe

if TYPE_CHECKING:
    import argparse

    from minireactor.failure import Failure
    from minireactor.internet import Reactor

FAILED = 1  # exit status


class Client(Protocol, ClientFactory):
    """The one connection, and its factory.

    say(text): called with a line that tells what happens. complain(text): with the one error.
    on_end(): when all is over; `status` is the exit status from then on."""

    def __init__(
        self,
        reactor: Reactor,
        options: argparse.Namespace,
        say: Callable[[str], object],
        complain: Callable[[str], object],
        on_end: Callable[[], object],
    ) -> None:
        self.status: int | None = None
        self._options = options
        self._say = say
        self._complain = complain
        self._on_end = on_end
        self._place = host_port(*options.place)
        self._has_failed = False  # and the error has been told
        self._is_connected = False
        self._is_written = False  # all output
        # Threads come before the connection, so that no peer sees one that cannot be served.
        self._input = Input(reactor, 0, self._input_ended)
        output = Output(reactor, 1, self._output_ended)
        self._way: Any = output  # for what is received
        if options.rate is not None:
            self._way = pipe(RateLimiter(options.rate, reactor=reactor), output)
        host, port = options.place
        reactor.connectTCP(host, port, self, options.timeout)

    def buildProtocol(self, addr: Any) -> Client:
        return self

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._fail(f"cannot connect to {self._place}: {reason.getErrorMessage()}")

    def connectionMade(self) -> None:
        self._is_connected = True
        self._say(f"connected to {format_address(self.transport.getPeer())}")
        self._way.registerProducer(self.transport, True)
        if self._options.stall:
            self.transport.pauseProducing()
        self._input.feed(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._way.write(data)

    def _input_ended(self, error: OSError | None) -> None:
        if error is not None:
            self._fail(f"cannot read standard input: {error.strerror}")
        else:
            self._say("standard input has ended")
            self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Half-close has been sent; having this method is what makes reading go on."""

    def readConnectionLost(self) -> None:
        self._say("the peer has ended")
        self._way.unregisterProducer()
        # A person would have to end the input by hand, of a peer that most likely is gone. From a
        # pipe or a file comes what the peer may still want.
        if os.isatty(0):
            self._input.stopProducing()
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_connected = False
        if self.status is None and not reason.check(ConnectionDone):
            self._has_failed = True
            self._complain(f"{self._place}: {reason.getErrorMessage()}")
        self._say(f"sent {self.transport.bytes_out:,} bytes, received {self.transport.bytes_in:,}")
        # What was received before a break is written nevertheless.
        self._way.unregisterProducer()
        self._end_if_over()

    def _output_ended(self, error: OSError | None) -> None:
        self._is_written = True
        if isinstance(error, BrokenPipeError):  # such as of `| head -1`, which has what it wants
            self.end(0)
        elif error is not None:
            self._fail(f"cannot write standard output: {error.strerror}")
        else:
            self._end_if_over()

    def _end_if_over(self) -> None:
        if self._is_written and not self._is_connected:
            self.end(FAILED if self._has_failed else 0)

    def _fail(self, what: str) -> None:
        if self.status is None:
            self._complain(what)
            self.end(FAILED)

    def end(self, status: int) -> None:
        """End the command with this exit status. A connection that is open still is reset."""
        if self.status is not None:
            return
        self.status = status
        if self._is_connected:
            self.transport.abortConnection()
        self._on_end()
