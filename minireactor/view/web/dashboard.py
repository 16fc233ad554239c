"""The dashboard: a page that shows what a Monitor sees, and from which the marks can be moved.

    dashboard = Dashboard(reactor, "random on 127.0.0.1:1234")
    dashboard.listen("127.0.0.1", 8000)
    print(dashboard.url)

The page is one document without any link to elsewhere. What it asks for afterwards:

    GET  /events   server-sent events: a "hello" with the title, samples and events: see `monitor`
    POST /marks    {"id": of a connection, or null for all and those to come, "high", "low": bytes}

Who may: the address that is printed has a token in its fragment, which a browser sends to nobody;
the page takes it from there, and both of the above want it. A page from elsewhere has no token; and
besides, the Host of each request has to be the address that we listen on, or localhost, with the
port, so that no foreign name can be made to lead here, and where a browser says who asks, in Origin
or Sec-Fetch-Site, that has to be this page.

A page that does not keep up is paused as any consumer: it misses samples, and nothing piles up.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import bracketed
from minireactor.core import flow
from minireactor.core.slices import Walk
from minireactor.view.monitor import Monitor
from minireactor.view.web.document import compose
from minireactor.view.web.http import Response, Site
from minireactor.view.web.request import HTTPError, Request, is_local

if TYPE_CHECKING:
    from minireactor.internet import Reactor
    from minireactor.transports.tcp import Connection

    Handler = Callable[[Request, Response], object]

SHOWN = 12  # connections that the page has a picture of
# Seconds between samples. A saw-tooth of a second wants some twenty points; but to look at
# hundreds of connections takes a millisecond, and their reader sees no more of them than ten.
OFTEN = 0.05
SELDOM = 0.1
MANY = 50  # connections, from which on it is seldom
RARELY = 0.2
CROWD = 1000  # connections, from which on it is rarely: a sample of them takes up to 2 ms

# Bytes, of a high mark that the page may set: more than there is, and a number which is exact in a
# browser, and a float everywhere.
HIGHEST = 1 << 40

_WILDCARDS = ("0.0.0.0", "::")


class Page:
    """Serves the page, and what its handlers answer, to those who may see it.

    mode: what the page is to be: "live", "demo" or "replay"."""

    def __init__(self, mode: str) -> None:
        self.token = secrets.token_urlsafe(16)
        self.url = ""  # with the token; for the eyes of one person
        self._site = Site(self._is_our_name)
        self._port: Any = None
        self._names: set[str] = set()
        self._is_everywhere = False
        self._page, self._page_headers = compose(mode)
        self._site.add("GET", "/", self._show)

    def listen(self, reactor: Reactor, host: str, port: int) -> None:
        """Serve it; `url` is known then. CannotListenError."""
        self._port = self._site.listen(reactor, host, port)
        address = self._port.getHost()
        self._is_everywhere = address.host in _WILDCARDS
        self._names = {bracketed(host.lower()), bracketed(address.host)}
        if self._is_everywhere or address.host == "::1" or address.host.startswith("127."):
            self._names.add("localhost")
        name = "localhost" if self._is_everywhere else bracketed(address.host)
        self.url = f"http://{name}:{address.port}/#{self.token}"

    def close(self) -> None:
        """Serve nobody new. Idempotent; also before `listen()`, or after it has failed."""
        self._site.close()

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Let `handler(request, response)` answer those who have the token."""

        def guarded(request: Request, response: Response) -> None:
            self._check_asker(request)
            self._check_token(request)
            handler(request, response)

        self._site.add(method, path, guarded)

    def add_change(self, path: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Let `change` be called with the JSON object that is posted there. HTTPError, or a
        ValueError, which becomes one."""

        def answer(request: Request, response: Response) -> None:
            try:
                change(_json_object(request))
            except ValueError as error:
                raise HTTPError(400, str(error)) from error
            response.send(b"", status=204)

        self.add("POST", path, answer)

    def _show(self, request: Request, response: Response) -> None:
        # No token here: that is in the fragment. And there is nothing in it that is not public.
        self._check_port(request)
        response.send(self._page, "text/html; charset=utf-8", headers=self._page_headers)

    # Who may.

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
            # EventSource cannot send headers of one's own.
            pairs = (part.partition("=") for part in request.query.split("&"))
            given = next((value for name, _, value in pairs if name == "token"), "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise HTTPError(403, "the token is missing or wrong; use the address that was printed")


class Dashboard(Page):
    """The page, on what the connections of `reactor` are doing.

    title: what is being watched.
    hint: what one might type to see a connection; "" for none.
    label: as of a Monitor.
    set_marks: called with (high, low) when those of all connections are moved: for those to come.
    highest: bytes, the most that a high mark may be moved to.
    more: called for each sample; what it gives is added to that.

    Nobody looks at the connections while nobody looks at the page.
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
        more: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(mode)
        self.reactor = reactor
        self.monitor = Monitor(reactor, SHOWN, label)
        self._hello = {"type": "hello", "title": title, "hint": hint}
        self._set_marks = set_marks
        self._highest = highest
        self._more = more
        self._readers: set[_Reader] = set()
        self._timer: Any = None
        self.monitor.subscribe(self._tell)
        self.add("GET", "/events", self._stream)
        self.add_change("/marks", self._move)

    def close(self) -> None:
        super().close()
        self.monitor.close()
        for reader in list(self._readers):
            reader.response.end()
            self._gone(reader)

    # Samples, to whoever reads them.

    def _stream(self, request: Request, response: Response) -> None:
        reader = _Reader(response)
        response.on_lost = lambda: self._gone(reader)
        response.start("text/event-stream")
        if response.ended:
            return
        response.registerProducer(reader, True)
        reader.say(_event(self._hello))
        if not self._readers:
            self.monitor.sample()  # as nobody has looked for long, its lag is that of long ago
            self._timer = self.reactor.call_later_internal(0, self._sample)
        self._readers.add(reader)

    def _gone(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self._readers and self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _sample(self) -> None:
        count = self.monitor.count()
        pause = RARELY if count >= CROWD else SELDOM if count >= MANY else OFTEN
        self._timer = self.reactor.call_later_internal(pause, self._sample)
        sample = self.monitor.sample()
        if self._more is not None:
            sample.update(self._more())
        self._say(sample)

    def _tell(self, event: dict[str, Any]) -> None:
        # Pauses and resumes there may be thousands of, and the samples count them.
        if event["event"] in ("connect", "lost"):
            self._say(event)

    def _say(self, what: dict[str, Any]) -> None:
        if self._readers:
            data = _event(what)
            for reader in self._readers:
                reader.say(data)

    # Changes.

    def _move(self, wanted: dict[str, Any]) -> None:
        number = wanted.get("id")
        high, low = flow.checked_marks(wanted.get("high"), wanted.get("low"))
        if high > self._highest:
            raise ValueError(f"a high mark of more than {self._highest} bytes is not for this page")
        marks = int(high), int(low)  # a JSON true is an integer, too, but only here
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
    """Somebody who has the page open: a push producer that, while it is paused, says nothing."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._is_paused = False

    def say(self, data: bytes) -> None:
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
