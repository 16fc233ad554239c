"""The dashboard: a page that shows what a Monitor observes, and that can move the marks.

    dashboard = Dashboard(reactor, "random on 127.0.0.1:1234")
    dashboard.listen(reactor, "127.0.0.1", 8000)
    print(dashboard.url)

The page is one document that links to nothing else. The page then requests:

    GET  /events   server-sent events: a "hello" with the title, samples and events: see `monitor`
    POST /marks    {"id": of a connection, or null for all and those to come, "high", "low": bytes}

Access: the printed address has a token in its fragment, which browsers send to nobody. The page
takes the token from there, and both requests need it. A page of another origin has no token.
Besides, the Host of each request must be the address that we listen on, or localhost, with the
port, so that no foreign name can lead here. Where a browser names the asker, in Origin or
Sec-Fetch-Site, the asker must be this page.

A page that reads slowly is paused like any consumer: it misses samples, and nothing piles up.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import bracketed
from minireactor.core import flow
from minireactor.core.slices import Walk
from minireactor.view.monitor import open_monitor
from minireactor.view.targets import worst_first
from minireactor.view.web.document import compose
from minireactor.view.web.http import Response, Site
from minireactor.view.web.request import HTTPError, Request, is_local

if TYPE_CHECKING:
    import socket

    from minireactor.internet import Reactor
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port

    Handler = Callable[[Request, Response], object]

SHOWN = 12  # connections that the page draws
SHOWN_TARGETS = 50  # those that need attention come first if a proxy has more
# Seconds between samples. A saw-tooth of one second needs some twenty points. Among hundreds of
# connections nobody sees more than ten samples a second, and each sample takes a millisecond.
OFTEN = 0.05
SELDOM = 0.1
MANY = 50  # connections; from this number on, sample every SELDOM seconds
RARELY = 0.2
CROWD = 1000  # connections; from this number on, every RARELY seconds: a sample takes up to 2 ms

# Bytes. The limit of a high mark that the page may set is above any memory, and still an exact
# number in a browser.
HIGHEST = 1 << 40

_WILDCARDS = ("0.0.0.0", "::")


class Page:
    """Serves the page to everybody, and the answers of its handlers to those who have the token.

    mode: the kind of page: "live", "demo" or "replay"."""

    def __init__(self, mode: str) -> None:
        self.token = secrets.token_urlsafe(16)
        self.url = ""  # with the token; whoever has it can read and change everything
        self._site = Site(self._is_our_name)
        self._port: Any = None
        self._names: set[str] = set()
        self._is_everywhere = False
        self._page, self._page_headers = compose(mode)
        self._site.add("GET", "/", self._show)

    def listen(
        self,
        reactor: Reactor,
        host: str,
        port: int,
        sockets: list[socket.socket] | None = None,
    ) -> Port:
        """Serve the page, set `url`, and return the port. Raises CannotListenError.

        See http.Site.listen()."""
        opened = self._port = self._site.listen(reactor, host, port, sockets)
        address = opened.getHost()
        self._is_everywhere = address.host in _WILDCARDS
        self._names = {bracketed(host.lower()), bracketed(address.host)}
        if self._is_everywhere or address.host == "::1" or address.host.startswith("127."):
            self._names.add("localhost")
        name = "localhost" if self._is_everywhere else bracketed(address.host)
        self.url = f"http://{name}:{address.port}/#{self.token}"
        return opened

    def close(self) -> None:
        """Accept no new connections. Idempotent; works before `listen()` and after its failure."""
        self._site.close()

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Let `handler(request, response)` answer requests that have the token."""

        def guarded(request: Request, response: Response) -> None:
            self._check_asker(request)
            self._check_token(request)
            handler(request, response)

        self._site.add(method, path, guarded)

    def add_change(self, path: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Call `change` with each JSON object that is posted to `path` with the token.

        A ValueError that `change` raises is answered with status 400 and its message."""

        def answer(request: Request, response: Response) -> None:
            try:
                change(_json_object(request))
            except ValueError as error:
                raise HTTPError(400, str(error)) from error
            response.send(b"", status=204)

        self.add("POST", path, answer)

    def _show(self, request: Request, response: Response) -> None:
        # The browser cannot send the token yet, and the page alone contains nothing secret.
        self._check_port(request)
        response.send(self._page, "text/html; charset=utf-8", headers=self._page_headers)

    # Access.

    def _is_our_name(self, name: str) -> bool:
        return name in self._names or (self._is_everywhere and is_local(name))

    def _check_port(self, request: Request) -> None:
        number = self._port.getHost().port
        if request.port != number:
            raise HTTPError(421, f"this is port {number}; use the address that was printed")

    def _check_asker(self, request: Request) -> None:
        self._check_port(request)
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() != f"http://{request.headers['host'].lower()}":
            raise HTTPError(403, "a page from elsewhere can neither read nor change anything here")
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise HTTPError(403, "only this server's own page can read or change anything here")

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("x-token")
        if given is None:
            # A browser's EventSource cannot send this header.
            pairs = (part.partition("=") for part in request.query.split("&"))
            given = next((value for name, _, value in pairs if name == "token"), "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise HTTPError(403, "the token is missing or wrong; use the address that was printed")


class Dashboard(Page):
    """The page that shows the connections of `reactor`.

    title: names what is watched.
    hint: a command that opens a connection; "" for none.
    label: as for a Monitor.
    set_marks: called with (high, low) when the marks of all connections are moved. It sets the
        marks of connections to come.
    highest: bytes, the limit of a high mark.
    facts: constants that are sent to the page at the start.
    more: called for each sample, and returns more keys for it.

    No samples are taken while nobody has the page open.
    """

    def __init__(
        self,
        reactor: Reactor,
        title: str,
        *,
        mode: str = "live",
        hint: str = "",
        label: Callable[[Connection], str] | None = None,
        set_marks: Callable[[int, int], object] | None = None,
        highest: int = HIGHEST,
        facts: dict[str, Any] | None = None,
        more: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(mode)
        self.reactor = reactor
        self.monitor = open_monitor(reactor, SHOWN, label)
        self._hello = {"type": "hello", "title": title, "hint": hint, "facts": facts or {}}
        self._set_marks = set_marks
        self._highest = highest
        self._more = more
        self._readers: set[_Reader] = set()
        self._timer: Any = None
        self.monitor.subscribe(self._send_event)
        self.add("GET", "/events", self._stream)
        self.add_change("/marks", self._move)

    def close(self) -> None:
        super().close()
        self.monitor.close()
        for reader in list(self._readers):
            reader.response.end()
            self._forget(reader)

    # Samples, for the readers.

    def _stream(self, request: Request, response: Response) -> None:
        reader = _Reader(response)
        response.on_lost = lambda: self._forget(reader)
        response.start("text/event-stream")
        if response.ended:
            return
        response.registerProducer(reader, True)
        reader.write(_event(self._hello))
        if not self._readers:
            self.monitor.sample()  # its lag is the most since the last reader left
            self._timer = self.reactor.call_later_internal(0, self._sample)
        self._readers.add(reader)

    def _forget(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self._readers and self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _sample(self) -> None:
        count = self.monitor.count()
        pause = RARELY if count >= CROWD else SELDOM if count >= MANY else OFTEN
        self._timer = self.reactor.call_later_internal(pause, self._sample)
        sample = self.monitor.sample()
        if len(sample.get("targets", ())) > SHOWN_TARGETS:
            sample["targets"] = worst_first(sample["targets"])[:SHOWN_TARGETS]
        if self._more is not None:
            sample.update(self._more())
        self._send(sample)

    def _send_event(self, event: dict[str, Any]) -> None:
        # There may be thousands of pauses and resumes a second, and the samples count them.
        if event["event"] in ("connect", "lost"):
            self._send(event)

    def _send(self, what: dict[str, Any]) -> None:
        if self._readers:
            data = _event(what)
            for reader in self._readers:
                reader.write(data)

    # Changes.

    def _move(self, wanted: dict[str, Any]) -> None:
        number = wanted.get("id")
        high, low = flow.checked_marks(wanted.get("high"), wanted.get("low"))
        if high > self._highest:
            raise ValueError(f"this page sets no high mark of more than {self._highest} bytes")
        marks = int(high), int(low)  # a JSON true is an integer in Python
        if number is None:
            connections = self.monitor.connections()
            if self._set_marks is not None:
                self._set_marks(*marks)
        else:
            connection = self.monitor.connection(number)
            if connection is None:
                raise HTTPError(404, f"there is no connection {number!r:.20} any more")
            connections = [connection]

        def visit(connection: Connection) -> bool:
            connection.setWriteBufferLimits(*marks)
            return False

        Walk(self.reactor, connections, visit).start()


class _Reader:
    """An open page: a push producer of events, which drops them while it is paused."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._is_paused = False

    def write(self, data: bytes) -> None:
        if not self._is_paused:
            self.response.write(data)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False

    def stopProducing(self) -> None:
        self._is_paused = True


def _json_object(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPError(400, "send application/json")
    try:
        found = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise HTTPError(400, "the body is not JSON") from error
    if not isinstance(found, dict):
        raise HTTPError(
            400, 'the body is a JSON object, such as {"id": 1, "high": 65536, "low": 0}'
        )
    return found


def _event(what: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(what, separators=(",", ":")).encode()
