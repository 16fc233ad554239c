"""A small HTTP server for pages that watch: routes, bounded requests, answers that may stream.

    site = Site()
    site.add("GET", "/hello", lambda request, response: response.send("hello\\n"))
    site.listen(reactor, "127.0.0.1", 8000)

A handler gets a Request, which has arrived completely, and a Response, and answers now or later:
with `response.send()`, or with `response.start()`, `write()` as often as it likes, and `end()`.
A response consumes as a transport does: `registerProducer()` and the connection's marks hold for
what it writes. Requests of one connection are answered one after the other.

It speaks HTTP/1.1 and 1.0, and is strict: lines end with CRLF, names are tokens, a length is one
length. What it does not take, it says in a line, and closes:

    400  not HTTP, or a request in several minds     413  a body of more than MOST_BODY
    404  no route has the path                       417  Expect, of anything
    405  one has, for other methods                  421  a host name that is not ours
    408  a request not complete after SECONDS        431  a head of more than MOST_HEAD
    500  the handler raised (that is logged)         501  a body in pieces
    505  a version that is not 1.x
"""

from __future__ import annotations

import re
import socket
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.protocol import Factory, Protocol
from minireactor.transports.port import BACKLOG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minireactor.failure import Failure
    from minireactor.interfaces import Buffer
    from minireactor.internet import Reactor
    from minireactor.transports.port import Port

    Handler = Callable[["Request", "Response"], object]

MOST_HEAD = 8 * 1024  # bytes of the request line and the headers, of which browsers send about 1 K
MOST_BODY = 64 * 1024  # bytes
# At a time, those included that have their answer and are to go. Each is a descriptor, of which the
# service beside us wants some as well. A newcomer takes the place of the one that has been silent
# for longest, so that clients which connect and ask nothing lock nobody out.
MOST_CONNECTIONS = 100
# For a request to arrive, from the connection or the answer before it on; and the time, give or
# take as much again, in which a client takes no byte of its answer. It is longer than Prometheus,
# as most have it, waits between two requests.
SECONDS = 20.0
# Of a connection on which all has been said. Who reads takes the end of it as a reason to go; what
# is still coming in is dropped meanwhile, as a reset would cost the client the answer.
PARTING_SECONDS = 5.0
PARTING_BYTES = 16 * 1024 * 1024

PLAIN = "text/plain; charset=utf-8"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_HEADER = re.compile(rf"({_TOKEN}):([^\x00-\x08\x0a-\x1f\x7f]*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/?#@\s,]*)(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(r"(?i:http)://([^/?#@]+)((?:[/?].*)?)")
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Refusal(Exception):
    """An answer that is an error: (status, why in one line). A handler may raise it, too."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why
        self.headers = headers


class Request:
    """method, path ("*" of OPTIONS *) and query ("" without) as they were sent, nothing decoded;
    `headers` by names in small letters, those that came twice joined by ", "; version, (1, 0) or
    later; body."""

    __slots__ = ("body", "headers", "method", "path", "query", "version")

    def __init__(
        self, method: str, target: str, version: tuple[int, int], headers: dict[str, str]
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.version = version
        self.headers = headers
        self.body = b""

    @property
    def host(self) -> str:
        """The name or number in Host, without the port and without the dot that may end a full
        name, in small letters; "" without. Raises Refusal if there is anything else in Host."""
        name = self._host()[1].lower()
        return name[:-1] if name.endswith(".") and name != "." else name

    @property
    def port(self) -> int:
        """The port number in Host; 80 without. Raises Refusal as `host` does."""
        return int(self._host()[2] or 80)

    def _host(self) -> re.Match[str]:
        match = _HOST.fullmatch(self.headers.get("host", ""))
        if match is None:
            raise Refusal(400, "Host is a name or an address, and perhaps a port")
        return match

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may send another request after this one."""
        said = {word.strip() for word in self.headers.get("connection", "").lower().split(",")}
        return "close" not in said and (self.version >= (1, 1) or "keep-alive" in said)


def parse_head(head: bytes) -> Request:
    """The request of a head, which is without its empty line. Refusal."""
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Refusal(400, "a request begins with a line such as: GET / HTTP/1.1")
    method, target, version = match[1], match[2], (int(match[3]), int(match[4]))
    if version[0] != 1:
        raise Refusal(505, "use HTTP/1.1")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        target = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    elif not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise Refusal(400, "what is asked for begins with a slash, or with http://")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Refusal(400, "a header is a line such as: Name: value")
        name, value = match[1].lower(), match[2].strip(" \t")
        if name in headers:
            if name in ("host", "content-length"):
                raise Refusal(400, f"{match[1]} comes once only")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    if version >= (1, 1) and "host" not in headers:
        raise Refusal(400, "HTTP/1.1 has a Host header")
    if absolute is not None:
        headers["host"] = absolute[1]  # of the two, this one counts
    return Request(method, target, version, headers)


def body_length(headers: Mapping[str, str]) -> int:
    """In bytes. Refusal."""
    if "transfer-encoding" in headers:
        raise Refusal(501, "send the body in one piece, with Content-Length")
    if "expect" in headers:
        raise Refusal(417, "nothing that is expected is done")
    length = headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise Refusal(400, "Content-Length is a number of bytes")
    if int(length) > MOST_BODY:
        raise Refusal(413, f"a body has {MOST_BODY} bytes at the most")
    return int(length)


class Response:
    """The answer to one request, and a consumer of what it is to say.

    send() | start() write()* end()

    on_lost: set it to be called, without arguments, if the connection is lost before the end.
    ended: nothing more can be said. What is written then is dropped.
    """

    def __init__(self, connection: _Http, request: Request | None) -> None:
        self.ended = False
        self.started = False
        self.on_lost: Callable[[], object] | None = None
        self.keeps_alive = request is not None and request.keeps_alive
        self._connection = connection
        self._transport = connection.transport
        self._is_head = request is not None and request.method == "HEAD"
        self._can_chunk = request is not None and request.version >= (1, 1)
        self._chunked = False
        self._has_producer = False

    def send(
        self,
        body: bytes | str,
        content_type: str = PLAIN,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """All of it at once; text goes out as UTF-8."""
        if self.ended and not self.started:
            return  # its connection was lost before
        if isinstance(body, str):
            body = body.encode()
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        self._head(status, content_type, {**length, **(headers or {})})
        if not self._is_head and status != 204:
            self._transport.write(body)
        self._end()

    def start(
        self, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """What follows is the body, whose length is not known yet: `write()` it, then `end()`.

        An answer to HEAD has none, and has ended with this."""
        if self.ended and not self.started:
            return  # its connection was lost before
        if self._can_chunk:
            self._chunked = True
            how = {"Transfer-Encoding": "chunked"}
        else:
            self.keeps_alive = self._is_head and self.keeps_alive
            how = {}
        self._head(status, content_type, {**how, **(headers or {})})
        if self._is_head:
            self._end()

    def write(self, data: Buffer) -> None:
        """Some of the body. Pauses the producer if this takes pending over the high mark."""
        if self.ended or not data:
            return
        if self._chunked:
            data = b"".join([b"%x\r\n" % len(data), data, b"\r\n"])
        self._transport.write(data)

    def end(self) -> None:
        """The body is complete. Idempotent; unregisters the producer, if there is one still."""
        if not self.ended:
            if self._chunked:
                self._transport.write(b"0\r\n\r\n")
            self._end()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As of a transport, until `unregisterProducer()` or the end; see IConsumer.

        On an answer that has ended, or whose connection is lost, it gets stopProducing()."""
        if self.ended:
            producer.stopProducing()
            return
        if not self._has_producer:
            self._connection.step_aside()
        self._transport.registerProducer(producer, streaming)
        self._has_producer = True

    def unregisterProducer(self) -> None:
        if self._has_producer:
            self._has_producer = False
            self._transport.unregisterProducer()
            self._connection.step_in()

    def lost(self) -> None:
        """The connection is no more."""
        self.ended = True
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def _head(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        if self.started:
            raise RuntimeError("an answer starts once; use write() for more of its body")
        self.started = True
        if self.keeps_alive:
            connection = {} if self._can_chunk else {"Connection": "keep-alive"}
        else:
            connection = {"Connection": "close"}
        fields = {
            "Date": formatdate(usegmt=True),
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **connection,
            **headers,
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def _end(self) -> None:
        self.unregisterProducer()
        self.ended = True
        self._connection.answered(self)


class Site(Factory):
    """Routes by method and path, both exact; GET serves HEAD as well.

    hosts: called with the Host of each request ("" without), says whether it is ours; None: any.
    """

    noisy = False

    def __init__(self, hosts: Callable[[str], bool] | None = None) -> None:
        self.hosts = hosts
        self.connections: dict[_Http, None] = {}  # the oldest first
        self._ports: list[Port] = []
        self._routes: dict[str, dict[str, Handler]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Let `handler(request, response)` answer."""
        self._routes.setdefault(path, {})[method] = handler

    def listen(self, reactor: Reactor, host: str, port: int) -> Port:
        """Serve. CannotListenError.

        On a loopback address and without `hosts`, only who asks for localhost, for a numeric
        address, or without a Host is answered. A page from elsewhere, which has its own name lead
        here, is not: a browser sends that name."""
        listening = reactor.listenTCP(port, self, BACKLOG, host)
        self._ports.append(listening)
        own = listening.getHost().host
        if self.hosts is None and (own.startswith("127.") or own == "::1"):
            self.hosts = _is_local_or_unnamed
        return listening

    def close(self) -> None:
        """Stop listening, and end each connection once its answer is complete. Idempotent."""
        while self._ports:
            self._ports.pop().stopListening()
        for connection in list(self.connections):
            connection.finish()

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.connections) >= MOST_CONNECTIONS and not self._make_room():
            return _OneTooMany()
        return _Http(self)

    def _make_room(self) -> bool:
        """End the oldest connection that is given no answer; return whether there was one."""
        for connection in self.connections:
            if not connection.is_answering():
                del self.connections[connection]
                connection.transport.abortConnection()
                return True
        return False

    def route(self, request: Request) -> Handler:
        """Who answers it. Refusal."""
        if self.hosts is not None and not self.hosts(request.host):
            raise Refusal(421, f"{request.host or 'no name'} is not a name of this server")
        if request.path == "*":  # of OPTIONS, and the server as a whole
            return _nothing_to_say
        methods = self._routes.get(request.path)
        if methods is None:
            raise Refusal(404, "there is nothing here")
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
            raise Refusal(405, f"use {' or '.join(allowed)}", Allow=", ".join(allowed))
        return methods[method]


def is_local(host: str) -> bool:
    """Whether it is localhost, or a numeric address: no name that others could have set."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.inet_pton(family, host.strip("[]"))
    except (OSError, ValueError):
        return False
    return True


def _is_local_or_unnamed(host: str) -> bool:
    return not host or is_local(host)


def _nothing_to_say(request: Request, response: Response) -> None:
    response.send(b"", status=204)


class _OneTooMany(Protocol):
    """Goes with a reset, and at once: to part in good order would take a place, too."""

    unwatched = True

    def connectionMade(self) -> None:
        self.transport.abortConnection()


class _Http(Protocol):
    """One connection. It is its transport's producer, so that a client which asks and does not
    read its answers is not read from either; a response may take that place."""

    unwatched = True

    def __init__(self, site: Site) -> None:
        self._site = site
        self._buffer = bytearray()
        self._request: Request | None = None  # whose body is awaited
        self._response: Response | None = None  # that is being given
        self._is_full = False
        self._at_end = False  # the client will send no more
        self._closing = False
        self._going_on = False
        self._most_in = 0  # bytes, while it is closing
        self._timer: Any = None
        self._stuck_at: int | None = None  # of bytes_out, if some were waiting as it was set

    def connectionMade(self) -> None:
        self._site.connections[self] = None
        self.step_in()
        self._set_timer()

    def dataReceived(self, data: bytes) -> None:
        if not self._closing:
            self._buffer += data
            self._go_on()
        elif self.transport.bytes_in > self._most_in:
            self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        self._at_end = True
        if self._response is None:
            self._go_on()
        elif self._response.started:
            # Nobody is to stream for ever to a client that may have gone, nor to add to what one
            # that has not is still to take.
            self._lose_response()
            self._close()

    def writeConnectionLost(self) -> None:
        """All has been said, and sent. (Because this is there, a client may end its side first,
        and get its answer still.)"""
        self._set_timer(PARTING_SECONDS)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._site.connections.pop(self, None)
        self._closing = True
        self._stop_timer()
        self._lose_response()

    def is_answering(self) -> bool:
        return self._response is not None

    def finish(self) -> None:
        """Serve no further request."""
        if self._response is not None:
            self._response.keeps_alive = False
        elif not self._closing:
            self._close()

    def _lose_response(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.lost()

    # Flow control.

    def step_in(self) -> None:
        """Be the transport's producer."""
        if not self._closing:
            self.transport.registerProducer(self, True)

    def step_aside(self) -> None:
        """Let another be the transport's producer."""
        self._is_full = False
        self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._is_full = True
        self._read_or_not()

    def resumeProducing(self) -> None:
        self._is_full = False
        self._go_on()

    def stopProducing(self) -> None:
        """connectionLost() follows."""

    def _read_or_not(self) -> None:
        if self._is_full or (self._response is not None and len(self._buffer) > MOST_BODY):
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    # Requests and answers.

    def _go_on(self) -> None:
        if self._going_on:
            return
        self._going_on = True
        try:
            while not (self._response or self._is_full or self._closing) and self._take_request():
                pass
        finally:
            self._going_on = False
        if not self._closing:
            self._read_or_not()

    def _take_request(self) -> bool:
        """Answer one, if it is there."""
        request = None
        try:
            request = self._next_request()
            if request is None:
                if self._at_end:
                    self._close()
                return False
            self._answer(request)
        except Refusal as refusal:
            self._refuse(refusal, request)
        return True

    def _next_request(self) -> Request | None:
        request = self._request
        if request is None:
            buffer = self._buffer
            if buffer.startswith(b"\r\n"):  # some send one too many after a body
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n", 0, MOST_HEAD + 4)
            if _BARE_LF.search(buffer, 0, end if end >= 0 else MOST_HEAD):
                raise Refusal(400, "lines end with CR and LF")
            if end < 0:
                if len(buffer) > MOST_HEAD:
                    raise Refusal(431, f"a head has {MOST_HEAD} bytes at the most")
                return None
            request = parse_head(bytes(buffer[:end]))
            del buffer[: end + 4]
        length = body_length(request.headers)
        if len(self._buffer) < length:
            self._request = request
            return None
        self._request = None
        request.body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return request

    def _answer(self, request: Request) -> None:
        handler = self._site.route(request)
        response = self._response = Response(self, request)
        try:
            handler(request, response)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if response.started:
                self.transport.abortConnection()  # or half an answer might be taken for all of it
                raise
            self._response = None
            if isinstance(error, Refusal):
                raise
            log.err(None, f"{request.method} {request.path} of a page that watches")
            raise Refusal(500, "that did not work; the log says why") from error

    def _refuse(self, refusal: Refusal, request: Request | None) -> None:
        response = self._response = Response(self, request)
        body = f"{refusal.status} {HTTPStatus(refusal.status).phrase}: {refusal.why}\n"
        response.send(body, PLAIN, refusal.status, refusal.headers)

    def answered(self, response: Response) -> None:
        """A response has come to its end."""
        self._response = None
        self._set_timer()
        if response.keeps_alive:
            self._go_on()
        else:
            self._close()

    def _close(self) -> None:
        self._closing = True
        self._buffer.clear()
        self._most_in = self.transport.bytes_in + PARTING_BYTES
        self.transport.unregisterProducer()
        if self._at_end:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()
            self.transport.resumeProducing()

    # Time.

    def _set_timer(self, seconds: float = SECONDS) -> None:
        self._stop_timer()
        self._stuck_at = self.transport.bytes_out if self.transport.pending else None
        self._timer = self.transport.reactor.call_later_hidden(seconds, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _too_late(self) -> None:
        if self.transport.pending and self.transport.bytes_out == self._stuck_at:
            self.transport.abortConnection()
        elif self.transport.pending or self._response is not None:
            self._set_timer()
        elif self._closing:
            self.transport.abortConnection()
        elif self._buffer or self._request:
            self._refuse(Refusal(408, f"a request takes {SECONDS:g} s at the most"), None)
        else:
            self._close()
