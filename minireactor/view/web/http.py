"""A small HTTP server for the pages of `view`: routes, bounded requests, streamed answers.

    site = Site()
    site.add("GET", "/hello", lambda request, response: response.send("hello\\n"))
    site.listen(reactor, "127.0.0.1", 8000)

A handler gets a complete Request and a Response. The handler answers now or later: with
`response.send()`, or with `response.start()`, any number of `write()`, and `end()`. A response is a
consumer, as a transport is: it has `registerProducer()`, and the high and low watermarks of the
connection apply to its body.

Each connection carries one request and one answer, and every answer says `Connection: close`. The
end of the connection also ends a body whose length was not known when the answer started.

The server speaks HTTP/1.1 and 1.0 and is strict: lines end with CRLF, names are tokens, and there
is one length at most. Anything else gets an error of one line:

    400  not HTTP, or contradictory headers          413  a body of more than MAX_BODY
    404  no route has this path                      417  any Expect header
    405  the path has routes for other methods only  421  the host name of another server
    408  the request was not complete in SECONDS     431  a head of more than MAX_HEAD
    500  the handler raised (which is logged)        501  a body in chunks
    505  a version other than 1.x
"""

from __future__ import annotations

import re
from collections import Counter
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core.timers import cancel_if_active
from minireactor.protocol import Factory, Protocol
from minireactor.serve.places import listen_at
from minireactor.transports.port import BACKLOG
from minireactor.view.web.request import (
    MAX_HEAD,
    HTTPError,
    Request,
    body_length,
    is_local,
    parse_head,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from minireactor.failure import Failure
    from minireactor.interfaces import Buffer
    from minireactor.internet import Reactor
    from minireactor.transports.port import Port

    Handler = Callable[["Request", "Response"], object]

# Open connections, including those that are closing. Each takes a descriptor, and the watched
# service needs descriptors, too. Beyond this number, a new connection replaces another one: see
# Site.make_room(). So no client's address can lock the others out.
MAX_CONNECTIONS = 100
# The time for a request to arrive. Also the time, within a factor of two, in which a client must
# take at least one byte of its answer.
SECONDS = 20.0
# The time for the client to close after the whole answer was sent. Input that arrives meanwhile is
# dropped: a reset could destroy the answer before the client has read it.
PARTING_SECONDS = 5.0
# Bytes of input from one connection. What follows the request is dropped; beyond this, it is reset.
MAX_INPUT = 16 * 1024 * 1024

PLAIN = "text/plain; charset=utf-8"

_BARE_LF = re.compile(rb"(?<!\r)\n")


class Response:
    """The answer to one request, and a consumer of its body. Grammar of the calls:

    send | start write* end

    on_lost: set it to a callable without arguments; called if the connection is lost before end().
    ended: the answer is complete, or its connection is lost; further writes are dropped.
    """

    def __init__(self, connection: _Http, is_head: bool) -> None:
        self.ended = False
        self.started = False
        self.on_lost: Callable[[], object] | None = None
        self._connection = connection
        self._transport = connection.transport
        self._is_head = is_head

    def send(
        self,
        body: bytes | str,
        content_type: str = PLAIN,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send the whole answer at once; text is encoded as UTF-8."""
        if self.ended and not self.started:
            return  # the connection is lost
        if isinstance(body, str):
            body = body.encode()
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        self._send_head(status, content_type, {**length, **(headers or {})})
        if not self._is_head and status != 204:
            self._transport.write(body)
        self.end()

    def start(
        self, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send the head of an answer of unknown length; `write()` its body, then `end()` it.

        An answer to HEAD has no body: start() also ends it."""
        if self.ended and not self.started:
            return  # the connection is lost
        self._send_head(status, content_type, headers or {})
        if self._is_head:
            self.end()

    def write(self, data: Buffer) -> None:
        """Send a part of the body; pauses the producer if pending exceeds the high mark."""
        if not self.ended:
            self._transport.write(data)

    def end(self) -> None:
        """Complete the answer, and unregister its producer if there is one. Idempotent."""
        if not self.ended:
            self._transport.unregisterProducer()
            self.ended = True
            self._connection.answered()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Register a producer as with a transport, until unregisterProducer() or end().

        See IConsumer. If the answer has ended, the producer gets stopProducing() at once."""
        if self.ended:
            producer.stopProducing()
        else:
            self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        if not self.ended:
            self._transport.unregisterProducer()

    def lost(self) -> None:
        """Mark the answer as ended because its connection is lost, and call `on_lost`."""
        self.ended = True
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def _send_head(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        if self.started:
            raise RuntimeError("an answer starts once; use write() for more of its body")
        self.started = True
        fields = {
            "Date": formatdate(usegmt=True),
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **headers,
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


class Site(Factory):
    """A set of routes by exact method and path; a GET route answers HEAD as well.

    hosts: called with the host name of each request ("" without one), returns whether the site
    answers to this name. None: the site answers to every name.
    """

    noisy = False

    def __init__(self, hosts: Callable[[str], bool] | None = None) -> None:
        self.hosts = hosts
        self.connections: dict[_Http, None] = {}  # oldest first
        self._ports: list[Port] = []
        self._routes: dict[str, dict[str, Handler]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Add a route: `handler(request, response)` answers its requests."""
        self._routes.setdefault(path, {})[method] = handler

    def listen(
        self,
        reactor: Reactor,
        host: str,
        port: int,
        sockets: list[socket.socket] | None = None,
    ) -> Port:
        """Start to serve; return the port. Raises CannotListenError as listenTCP().

        `sockets` are sockets that listen there already; the site accepts from them instead.

        On a loopback address and without `hosts`, the site answers requests for localhost, for a
        numeric address, or without a Host. Another web site could let its own name resolve to this
        address. Browsers then send that name, and this site rejects the request."""
        listening = listen_at(reactor, host, port, self, BACKLOG, sockets)
        self._ports.append(listening)
        own = listening.getHost().host
        if self.hosts is None and (own.startswith(("127.", "unix:")) or own == "::1"):
            self.hosts = _is_local_or_unnamed
        return listening

    def close(self) -> None:
        """Stop listening, and close each connection after its answer is complete. Idempotent."""
        while self._ports:
            self._ports.pop().stopListening()
        for connection in list(self.connections):
            connection.close_if_idle()

    def buildProtocol(self, addr: Any) -> Any:
        host = "" if addr is None else addr.host
        if len(self.connections) >= MAX_CONNECTIONS and not self.make_room(host):
            return _Rejected()
        return _Http(self, host)

    def make_room(self, host: str) -> bool:
        """Reset one connection in favour of a new one from `host`. Return whether there was one.

        Connections that are not being answered go first, then those of the address that has the
        most, then the oldest. Which connections may go:
            not being answered: those of `host`, and of addresses that have more than `host` has;
            being answered: those of addresses that keep as many as `host` has with the new one.
        """
        counts = Counter(each.host for each in self.connections)

        def may_go(each: _Http) -> bool:
            if each.is_answering():
                return counts[each.host] > counts[host] + 1
            return each.host == host or counts[each.host] > counts[host]

        def rank(each: _Http) -> tuple[bool, int]:
            return each.is_answering(), -counts[each.host]

        victim = min(filter(may_go, self.connections), key=rank, default=None)
        if victim is None:
            return False
        del self.connections[victim]
        victim.transport.abortConnection()
        return True

    def route(self, request: Request) -> Handler:
        """Return the handler of a request. Raises HTTPError if there is none."""
        if self.hosts is not None and not self.hosts(request.host):
            raise HTTPError(421, f"{request.host or 'no name'} is not a name of this server")
        if request.path == "*":  # OPTIONS *, about the whole server
            return _send_nothing
        methods = self._routes.get(request.path)
        if methods is None:
            raise HTTPError(404, "there is nothing here")
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
            raise HTTPError(405, f"use {' or '.join(allowed)}", Allow=", ".join(allowed))
        return methods[method]


def _is_local_or_unnamed(host: str) -> bool:
    return not host or is_local(host)


def _send_nothing(request: Request, response: Response) -> None:
    response.send(b"", status=204)


class _Rejected(Protocol):
    """A connection beyond MAX_CONNECTIONS: reset at once, because closing in order takes time."""

    unwatched = True

    def connectionMade(self) -> None:
        self.transport.abortConnection()


class _Http(Protocol):
    """One connection, with one request and its answer. `host` is the client's address."""

    unwatched = True

    def __init__(self, site: Site, host: str) -> None:
        self.host = host
        self._site = site
        self._buffer = bytearray()  # the request, as far as it has arrived
        self._request: Request | None = None  # parsed, but its body is incomplete
        self._response: Response | None = None  # in progress, or expected from the handler
        self._eof_received = False  # from the client
        self._closing = False
        self._timer: Any = None
        self._stuck_at: int | None = None  # bytes_out when the timer was set, if bytes were pending

    def connectionMade(self) -> None:
        self._site.connections[self] = None
        self._set_timer()

    def dataReceived(self, data: bytes) -> None:
        if self._response is None and not self._closing:
            self._buffer += data
            self._try_request()
        elif self.transport.bytes_in > MAX_INPUT:
            self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        self._eof_received = True
        if self._response is None:
            self._close()
        elif self._response.started:
            # The client may be gone, and a stream to it could last for ever: end the answer. A
            # client that still reads gets the pending bytes.
            self._lose_response()
            self._close()

    def writeConnectionLost(self) -> None:
        """Wait for the client to close: the whole answer has been sent.

        A protocol with this method keeps its connection after the client's EOF. A client may thus
        end its side first and still get its answer."""
        self._set_timer(PARTING_SECONDS)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._site.connections.pop(self, None)
        self._closing = True
        self._stop_timer()
        self._lose_response()

    def is_answering(self) -> bool:
        return self._response is not None

    def close_if_idle(self) -> None:
        """Close the connection, unless it has an answer in progress, whose end will close it."""
        if self._response is None and not self._closing:
            self._close()

    def answered(self) -> None:
        """Close the connection, because its response has ended."""
        self._response = None
        self._set_timer()
        self._close()

    def _lose_response(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.lost()

    def _try_request(self) -> None:
        """Answer the request, if it has arrived completely."""
        request = self._request
        try:
            if request is None:
                request = self._request = self._parse_head()
                if request is None:
                    return
            length = body_length(request.headers)
            if len(self._buffer) < length:
                return
            request.body = bytes(self._buffer[:length])
            self._buffer.clear()
            self._answer(request)
        except HTTPError as error:
            self._send_error(error)

    def _parse_head(self) -> Request | None:
        """Take the head out of the buffer; return its request, or None if it is incomplete."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: ignore an empty line before a request
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
        if _BARE_LF.search(buffer, 0, end if end >= 0 else MAX_HEAD):
            raise HTTPError(400, "lines end with CR and LF")
        if end < 0:
            if len(buffer) > MAX_HEAD:
                raise HTTPError(431, f"a head has at most {MAX_HEAD} bytes")
            return None
        request = parse_head(bytes(buffer[:end]))
        del buffer[: end + 4]
        return request

    def _answer(self, request: Request) -> None:
        handler = self._site.route(request)
        response = self._response = Response(self, request.method == "HEAD")
        try:
            handler(request, response)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if response.started:
                # Reset, so that the client does not take half an answer for the whole one.
                self.transport.abortConnection()
                raise
            if isinstance(error, HTTPError):
                raise
            log.err(None, f"{request.method} {request.path} of a page of minireactor.view")
            raise HTTPError(500, "the handler failed; see the log") from error

    def _send_error(self, error: HTTPError) -> None:
        is_head = self._request is not None and self._request.method == "HEAD"
        response = self._response = Response(self, is_head)
        body = f"{error.status} {HTTPStatus(error.status).phrase}: {error.reason}\n"
        response.send(body, PLAIN, error.status, error.headers)

    def _close(self) -> None:
        self._closing = True
        self._buffer.clear()
        self.transport.unregisterProducer()
        if self._eof_received:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    # Time limits.

    def _set_timer(self, seconds: float = SECONDS) -> None:
        self._stop_timer()
        self._stuck_at = self.transport.bytes_out if self.transport.pending else None
        self._timer = self.transport.reactor.call_later_internal(seconds, self._time_out)

    def _stop_timer(self) -> None:
        cancel_if_active(self._timer)

    def _time_out(self) -> None:
        if self.transport.pending and self.transport.bytes_out == self._stuck_at:
            self.transport.abortConnection()
        elif self.transport.pending or self._response is not None:
            self._set_timer()
        elif self._closing:
            self.transport.abortConnection()
        elif self._buffer or self._request:
            self._send_error(HTTPError(408, f"a request takes at most {SECONDS:g} s"))
        else:
            self._close()
