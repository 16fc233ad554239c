"""The dashboard: its requests, its access rules, and what it sends to a page."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import resource
import socket
import time
from itertools import chain

import pytest
from serve_support import FakeTime
from support import PATIENCE, Recorder, pump, served

from minireactor.error import CannotListenError
from minireactor.view.web.dashboard import (
    CROWD,
    HIGHEST,
    MANY,
    OFTEN,
    RARELY,
    SELDOM,
    Dashboard,
    Page,
)
from minireactor.view.web.document import SCRIPTS, packaged, script_text
from minireactor.view.web.http import HTTPError, parse_head

ELSEWHERE = "http://elsewhere.example"


@pytest.fixture
def board(reactor):
    """A dashboard on the reactor. `moved` has the marks that it set for new connections."""
    moved = []
    own = Dashboard(reactor, "the title", set_marks=lambda high, low: moved.append((high, low)))
    own.moved = moved
    own.listen(reactor, "127.0.0.1", 0)
    yield own
    own.close()


def place(page):
    """Return where a page listens, as host:port."""
    return re.fullmatch("http://(.+)/#.+", page.url)[1]


def request(page, method="GET", path="/", body=b"", **headers):
    """Return the bytes of a request. A header that is None is left out; `_` stands for `-`."""
    given = {"host": place(page), "connection": "close", **headers}
    if body:
        given.setdefault("content_type", "application/json")
        given["content_length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value]
    return "\r\n".join([*lines, "", ""]).encode() + body


def visit(closing, page):
    host, _, port = place(page).rpartition(":")
    client = closing(socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE))
    client.setblocking(False)
    return client


def receive_until(reactor, client, enough):
    """Return what the client receives until `enough(it)`, or until the end."""
    received = bytearray()

    def done():
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return enough(received)
        received.extend(data)
        return not data or enough(received)

    pump(reactor, done, "an answer")
    return bytes(received)


def ask(reactor, closing, page, *arguments, **more):
    """Send a request, and return (status, head, body) of the answer."""
    client = visit(closing, page)
    client.sendall(request(page, *arguments, **more))
    head, _, body = receive_until(reactor, client, lambda received: False).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body.decode()


def messages(received):
    """Return the messages of an event stream, without an incomplete one at its end."""
    found = re.findall(rb"data: ([^\n]*)\n\n", received)
    return [json.loads(text) for text in found]


def samples(received):
    return [message for message in messages(received) if message["type"] == "sample"]


def stream(reactor, closing, page):
    """Return a client of /events that has read nothing yet."""
    client = visit(closing, page)
    client.sendall(request(page, path=f"/events?token={page.token}"))
    return client


def change(reactor, closing, page, what, path="/marks", **headers):
    headers.setdefault("x_token", page.token)
    body = json.dumps(what).encode()
    return ask(reactor, closing, page, "POST", path, body, **headers)


# The page.


def test_the_page_is_one_document_that_asks_for_nothing_elsewhere(reactor, closing, board):
    status, head, body = ask(reactor, closing, board)
    assert status == 200
    assert "Content-Type: text/html; charset=utf-8" in head
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=[\"'](?!data:)", body)
    assert not re.findall(r"(?:src|href|url\(|fetch\()[=\"'(\s]*(?:https?:)?//", body)


def test_the_page_may_run_only_what_it_came_with(reactor, closing, board):
    _, head, body = ask(reactor, closing, board)
    policy = re.search("Content-Security-Policy: (.*)", head)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind, tag in (("script", "script"), ("style", "style")):
        inside = re.search(f"<{tag}>(.*)</{tag}>", body, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_the_page_can_be_in_no_frame_and_sends_no_referrer(reactor, closing, board):
    _, head, _ = ask(reactor, closing, board)
    assert "frame-ancestors 'none'" in head
    assert "X-Frame-Options: DENY" in head
    assert "Referrer-Policy: no-referrer" in head
    assert "Cache-Control: no-store" in head


def test_the_page_knows_what_it_is_to_be(reactor, closing):
    page = Page("replay")
    page.listen(reactor, "127.0.0.1", 0)
    assert 'data-mode="replay"' in ask(reactor, closing, page)[2]


def test_the_page_is_small_and_each_of_its_files_has_a_size_to_read(reactor, closing, board):
    assert len(ask(reactor, closing, board)[2].encode()) < 100_000
    for name in (*SCRIPTS, "page.css", "page.html"):
        assert packaged(name).count("\n") < 450, name


def test_every_text_has_both_languages_and_is_used():
    texts = re.findall(r'^ +"?([\w.-]+)"?: \[', packaged("texts.js"), re.M)
    others = [packaged(name) for name in (*SCRIPTS, "page.html") if name != "texts.js"]
    # A key is written out, or begins with a part that a script completes.
    made = [re.findall(r"`([a-z]+\.(?:[a-z]+\.)?)\$\{", other) for other in others]
    begun = tuple(chain.from_iterable(made))
    unused = [key for key in texts if not any(f'"{key}"' in other for other in others)]
    assert [key for key in unused if not key.startswith(begun)] == []
    pairs = re.findall(
        r'\[\s*("(?:[^"\\]|\\.)*"),\s*("(?:[^"\\]|\\.)*"),?\s*\],', packaged("texts.js")
    )
    assert len(pairs) == len(texts) > 100
    for english, chinese in pairs:
        assert sorted(re.findall(r"\{\d\}", english)) >= sorted(re.findall(r"\{\d\}", chinese))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_drawn_can_be_seen_on_its_ground(theme):
    blocks = re.findall(r":root \{(.*?)\}", packaged("page.css"), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6});", blocks[theme == "dark"]))
    for ground in ("card", "paper"):
        for name in ("ink", "soft", "pending", "high", "low", "paused", "kernel", "rate", "memory"):
            light, dark = sorted(luminance(colours[n]) for n in (ground, name))[::-1]
            # 4.5 is asked for text, and each of these is text somewhere.
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, name)


def test_text_from_outside_is_only_ever_text():
    script = script_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script


def test_the_token_is_in_the_fragment_of_the_address_and_not_in_the_page(reactor, closing, board):
    assert board.url == f"http://{place(board)}/#{board.token}"
    assert len(board.token) >= 20
    assert board.token not in ask(reactor, closing, board)[2]


def test_each_page_has_a_token_of_its_own():
    assert Page("live").token != Page("live").token


def test_a_port_that_is_taken_is_an_error(reactor, board):
    with pytest.raises(CannotListenError):
        Page("live").listen(reactor, "127.0.0.1", int(place(board).rpartition(":")[2]))


# Who may read and change.

GUARDED = pytest.mark.parametrize("method, path", [("GET", "/events"), ("POST", "/marks")])


def guarded(reactor, closing, board, method, path, **headers):
    body = b'{"id": null, "high": 100, "low": 1}' if method == "POST" else b""
    return ask(reactor, closing, board, method, path, body, **headers)


@GUARDED
@pytest.mark.parametrize("token", [None, "wrong", "\xe9"])
def test_without_the_token_nothing_is_read_or_changed(reactor, closing, board, method, path, token):
    status, _, body = guarded(reactor, closing, board, method, path, x_token=token)
    assert status == 403
    assert "token" in body
    assert board.moved == []


@GUARDED
def test_the_token_may_come_in_the_query(reactor, closing, board, method, path):
    path = f"{path}?a=b&token={board.token}"
    if method == "POST":
        assert guarded(reactor, closing, board, method, path)[0] == 204
    else:
        client = visit(closing, board)
        client.sendall(request(board, method, path))
        received = receive_until(reactor, client, samples)
        assert received.startswith(b"HTTP/1.1 200 ")


@GUARDED
@pytest.mark.parametrize("origin", [ELSEWHERE, "null", "http://127.0.0.1", "https://{place}"])
def test_a_page_from_elsewhere_can_neither_read_nor_change(
    reactor, closing, board, method, path, origin
):
    origin = origin.format(place=place(board))
    headers = {"x_token": board.token, "origin": origin}
    assert guarded(reactor, closing, board, method, path, **headers)[0] == 403
    assert board.moved == []


@GUARDED
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_says_of_the_asker_is_heeded(reactor, closing, board, method, path, site):
    headers = {"x_token": board.token, "sec_fetch_site": site}
    assert guarded(reactor, closing, board, method, path, **headers)[0] == 403
    assert board.moved == []


def test_its_own_page_may_change_things(reactor, closing, board):
    headers = {"origin": f"http://{place(board)}", "sec_fetch_site": "same-origin"}
    what = {"id": None, "high": 100, "low": 1}
    assert change(reactor, closing, board, what, **headers)[0] == 204
    assert board.moved == [(100, 1)]


@pytest.mark.parametrize("path", ["/", "/events", "/marks", "/none"])
@pytest.mark.parametrize(
    "host", ["elsewhere.example", "elsewhere.example:{port}", "192.0.2.1:{port}"]
)
def test_a_request_for_another_host_is_misdirected(reactor, closing, board, path, host):
    host = host.format(port=place(board).rpartition(":")[2])
    path = f"{path}?token={board.token}"
    assert ask(reactor, closing, board, path=path, host=host)[0] == 421


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "localhost:1", "127.0.0.1"])
def test_a_request_for_another_port_is_misdirected(reactor, closing, board, host):
    assert ask(reactor, closing, board, host=host)[0] == 421


def test_localhost_is_a_name_of_it(reactor, closing, board):
    port = place(board).rpartition(":")[2]
    for host in (f"LocalHost:{port}", f"localhost.:{port}"):
        assert ask(reactor, closing, board, host=host)[0] == 200


def test_on_all_addresses_any_number_is_its_name_and_no_other_word(reactor, closing):
    page = Page("live")
    page.listen(reactor, "0.0.0.0", 0)
    port = place(page).rpartition(":")[2]
    assert place(page) == f"localhost:{port}"
    for host, status in (("192.0.2.1", 200), ("[::1]", 200), ("elsewhere.example", 421)):
        assert ask(reactor, closing, page, host=f"{host}:{port}")[0] == status


def test_closed_it_listens_no_more(reactor):
    page = Page("live")
    page.close()
    page.listen(reactor, "127.0.0.1", 0)
    page.close()
    page.close()
    assert not page._port.connected


def test_a_request_for_nobody_is_misdirected_on_all_addresses_as_well(reactor, closing):
    page = Page("live")
    page.listen(reactor, "0.0.0.0", 0)
    site = page._site
    for head in (b"GET / HTTP/1.0", b"GET / HTTP/1.1\r\nHost:"):
        with pytest.raises(HTTPError) as caught:
            site.route(parse_head(head))
        assert caught.value.status == 421


def test_it_listens_on_ipv6_as_well(reactor, closing):
    page = Page("live")
    try:
        page.listen(reactor, "::1", 0)
    except CannotListenError:
        pytest.skip("no IPv6 here")
    assert page.url.startswith("http://[::1]:")
    assert ask(reactor, closing, page)[0] == 200


def test_who_asks_for_the_head_of_the_stream_only_gets_that_and_is_no_reader(
    reactor, closing, board
):
    path = f"/events?token={board.token}"
    status, head, body = ask(reactor, closing, board, "HEAD", path)
    assert (status, body) == (200, "")
    assert "text/event-stream" in head
    assert not board._readers


# Attacks, whose other half is with the server of HTTP.


@pytest.mark.parametrize(
    "path",
    ["/..", "/../page.html", "/page.js", "//", "/events/", "/%2e%2e/", "/%65vents", "/page/"],
)
def test_there_is_nothing_but_what_there_is(reactor, closing, board, path):
    assert ask(reactor, closing, board, path=path)[0] == 404


@pytest.mark.parametrize(
    "method, path", [("POST", "/"), ("DELETE", "/marks"), ("GET", "/marks"), ("PUT", "/events")]
)
def test_a_method_that_is_not_for_it_is_refused(reactor, closing, board, method, path):
    path = f"{path}?token={board.token}"
    assert ask(reactor, closing, board, method, path)[0] == 405


def test_a_browser_that_sends_a_preflight_request_is_rejected(reactor, closing, board):
    headers = {"origin": ELSEWHERE, "access_control_request_method": "POST"}
    status, head, _ = ask(reactor, closing, board, "OPTIONS", "/marks", **headers)
    assert status == 405
    assert "access-control-allow" not in head.lower()


@pytest.mark.parametrize(
    "body, kind, word",
    [
        (b'{"id": null, "high": 100, "low": 1}', "text/plain", "application/json"),
        (b'{"id": null, "high": 100, "low": 1}', "", "application/json"),
        (b"{", "application/json", "JSON"),
        (b"\xff", "application/json", "JSON"),
        (b"[" * 60000, "application/json", "JSON"),
        (b"[1]", "application/json", "object"),
        (b'{"high": 1, "low": 1}', "application/json", "high=1 and low=1"),
        (b'{"high": "1", "low": 1}', "application/json", "high='1'"),
        (b'{"high": 1e400, "low": 1}', "application/json", "high=inf"),
        (b"{}", "application/json", "high=None"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(reactor, closing, board, body, kind, word):
    headers = {"x_token": board.token, "content_type": kind}
    status, _, why = ask(reactor, closing, board, "POST", "/marks", body, **headers)
    assert status == 400
    assert word in why
    assert board.moved == []


# Samples.


def test_a_reader_gets_the_title_and_then_samples(reactor, closing, board):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.write(b"x" * 100)
    received = receive_until(
        reactor, stream(reactor, closing, board), lambda received: len(samples(received)) > 2
    )
    assert b"Content-Type: text/event-stream" in received
    hello, first, *_ = messages(received)
    assert hello == {"type": "hello", "title": "the title", "hint": "", "facts": {}}
    assert [row["out"] for row in first["connections"]] == [100]


def test_what_there_is_more_to_say_is_in_each_sample(reactor, closing):
    board = Dashboard(reactor, "the title", more=lambda: {"more": 1})
    board.listen(reactor, "127.0.0.1", 0)
    received = receive_until(reactor, stream(reactor, closing, board), samples)
    assert samples(received)[0]["more"] == 1
    board.close()


def test_a_reader_is_notified_of_new_and_lost_connections_but_not_of_each_pause(
    reactor, closing, board
):
    reader = stream(reactor, closing, board)
    receive_until(reactor, reader, samples)
    protocol, client = served(reactor)
    protocol.transport.registerProducer(protocol.transport, True)
    protocol.transport.write(b"x" * 100_000)
    client.close()
    received = receive_until(reactor, reader, lambda received: b'"lost"' in received)
    events = [message for message in messages(received) if message["type"] == "event"]
    assert [event["event"] for event in events] == ["connect", "lost"]


def test_readers_of_the_page_are_not_among_the_watched_connections(reactor, closing, board):
    received = receive_until(reactor, stream(reactor, closing, board), samples)
    assert samples(received)[0]["totals"]["connections"] == 0


def test_nobody_looks_at_the_connections_while_nobody_looks_at_the_page(
    reactor, closing, board, monkeypatch
):
    looks = []
    sample = board.monitor.sample
    monkeypatch.setattr(board.monitor, "sample", lambda: looks.append(1) or sample())
    pump(reactor, lambda: board.monitor._lag_since_last() >= 0, "a pass")
    assert looks == []
    reader = stream(reactor, closing, board)
    receive_until(reactor, reader, samples)
    assert looks
    reader.close()
    pump(reactor, lambda: not board._readers, "the end of the reader")
    assert not board._timer.active()


class Board:
    """A dashboard on a scripted kernel and the test's clock, with one reader, whose socket is
    `sock`."""

    def __init__(self, wire, clock):
        self.wire = wire
        self.clock = clock
        self.board = Dashboard(wire.reactor, "the title", more=lambda: {"more": "x" * 1000})
        self.board._port = self
        self.board._names = {"localhost"}
        self.transport, self.sock = wire.connect(self.board._site.buildProtocol(None), 1 << 20)
        self.sock.inbox.append(
            f"GET /events?token={self.board.token} HTTP/1.1\r\nHost: localhost:80\r\n\r\n".encode()
        )
        self.turn()

    def getHost(self):
        return self

    port = 80

    def stopListening(self):
        pass

    def turn(self, seconds=0.0):
        self.clock.advance(seconds)
        self.wire.run(4)

    def received(self):
        taken = bytes(self.sock.taken)
        self.sock.taken.clear()
        return taken


@pytest.fixture
def scripted(monkeypatch):
    from scripted import Wire

    clock = FakeTime()
    wire = Wire(monkeypatch, seconds=clock)
    own = Board(wire, clock)
    yield own
    own.board.close()
    wire.reactor.close()


@pytest.mark.parametrize("count, pause", [(1, OFTEN), (MANY, SELDOM), (CROWD, RARELY)])
def test_samples_are_less_frequent_when_there_are_many_connections(scripted, count, pause):
    for _ in range(count):
        scripted.wire.connect(Recorder())
    scripted.turn(SELDOM)
    scripted.received()
    scripted.turn(pause * 0.9)
    assert samples(scripted.received()) == []
    scripted.turn(pause * 0.2)
    assert len(samples(scripted.received())) == 1


def test_a_reader_that_stalls_misses_samples_and_nothing_piles_up(scripted):
    # Given a reader that takes nothing any more.
    scripted.sock.room = 0
    high = scripted.transport.bufferSize
    # When there is far more to say than fits.
    most = 0
    for _ in range(300):
        scripted.turn(OFTEN)
        most = max(most, scripted.transport.pending)
    # Then it is paused, at the high mark and the one sample that went beyond it.
    assert high < most < high + 2000
    # And when it reads again, it gets what is new.
    scripted.sock.room = 1 << 20
    scripted.turn()
    missed = samples(scripted.received())[-1]["time"]
    scripted.turn(OFTEN)
    assert samples(scripted.received())[-1]["time"] > missed + 3


def test_a_reader_that_stalls_keeps_no_other_from_reading(scripted):
    protocol = scripted.board._site.buildProtocol(None)
    _, other = scripted.wire.connect(protocol, 1 << 30)
    other.inbox.append(
        f"GET /events?token={scripted.board.token} HTTP/1.1\r\nHost: localhost:80\r\n\r\n".encode()
    )
    scripted.sock.room = 0
    for _ in range(300):
        scripted.turn(OFTEN)
    assert len(samples(bytes(other.taken))) > 290


def test_the_lag_of_a_time_when_nobody_looked_is_not_shown(scripted):
    scripted.sock.inbox.append(b"")
    scripted.turn()
    assert not scripted.board._readers
    scripted.turn(5.0)
    _, other = scripted.wire.connect(scripted.board._site.buildProtocol(None), 1 << 20)
    other.inbox.append(
        f"GET /events?token={scripted.board.token} HTTP/1.1\r\nHost: localhost:80\r\n\r\n".encode()
    )
    scripted.turn()
    scripted.turn(OFTEN)
    assert samples(bytes(other.taken))[0]["lag"] < 1


def test_closing_ends_the_streams_and_the_watching(reactor, closing, board):
    reader = stream(reactor, closing, board)
    receive_until(reactor, reader, samples)
    board.close()
    receive_until(reactor, reader, lambda received: False)  # until the end of the connection
    assert reactor.observers == ()


# Marks.


def marks_of(transport):
    return transport._flow.high, transport._flow.low


def test_the_marks_of_one_connection_are_moved_and_those_of_the_others_stay(
    reactor, closing, board
):
    (first, a), (second, b) = served(reactor), served(reactor)
    closing(a), closing(b)
    before = marks_of(first.transport)
    status, _, _ = change(reactor, closing, board, {"id": 2, "high": 5000, "low": 7})
    assert status == 204
    assert marks_of(second.transport) == (5000, 7)
    assert marks_of(first.transport) == before
    assert board.moved == []


def test_a_moved_mark_counts_at_once(reactor, closing, board):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.registerProducer(transport, True)
    transport.setWriteBufferLimits(1 << 30)
    transport.write(b"x" * (64 << 20))
    assert transport.producer and transport._flow.state == "flowing"
    change(reactor, closing, board, {"id": 1, "high": 1000, "low": 0})
    assert transport._flow.state == "paused"


def test_the_marks_of_all_are_moved_and_of_those_to_come(reactor, closing, board):
    protocols = []
    for _ in range(3):
        protocol, client = served(reactor)
        closing(client)
        protocols.append(protocol)
    change(reactor, closing, board, {"id": None, "high": 5000, "low": 7})
    assert [marks_of(protocol.transport) for protocol in protocols] == 3 * [(5000, 7)]
    assert board.moved == [(5000, 7)]


def test_marks_that_nobody_could_draw_are_refused(reactor, closing, board):
    for high in (HIGHEST + 1, 10**400):
        status, _, why = change(reactor, closing, board, {"high": high, "low": 7})
        assert (status, board.moved) == (400, [])
        assert f"more than {HIGHEST} bytes" in why


def test_marks_are_integers_whatever_was_sent_for_them(reactor, closing, board):
    assert change(reactor, closing, board, {"high": True, "low": False})[0] == 204
    assert [[type(mark) for mark in marks] for marks in board.moved] == [[int, int]]


@pytest.mark.parametrize("number", [1, 99, "1", [], {"a": "b" * 1000}])
def test_a_connection_that_is_not_there_has_no_marks(reactor, closing, board, number):
    status, _, why = change(reactor, closing, board, {"id": number, "high": 5000, "low": 7})
    assert status == 404
    assert len(why) < 100


# The commands.


class Printed:
    """The address and the token of a dashboard, out of the line that it printed."""

    def __init__(self, line):
        self.url = line.split(" on ")[1].split()[0]
        self.token = self.url.partition("#")[2]


def talk(page, data):
    """Return what a plain client of a dashboard in another process receives until the end."""
    host, _, port = place(page).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(data)
        received = b""
        while True:
            try:
                data = client.recv(65536)
            except ConnectionResetError:
                return received
            if not data:
                return received
            received += data


@pytest.mark.slow
def test_serve_has_a_dashboard_and_its_marks_are_those_of_its_port(command):
    server = command("serve", "echo", "--port", "0", "--dashboard", "0")
    server.listening()
    page = Printed(server.line_with("dashboard"))
    assert place(page).startswith("127.0.0.1:")
    body = b'{"id": null, "high": 5000, "low": 7}'
    headers = {"x_token": page.token}
    assert talk(page, request(page, "POST", "/marks", body, **headers)).startswith(b"HTTP/1.1 204 ")
    with server.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        row = first_sample(page)["connections"][0]
    assert (row["high"], row["low"], row["label"]) == (5000, 7, "Echo")


def first_sample(page):
    host, _, port = place(page).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(request(page, path=f"/events?token={page.token}"))
        received = b""
        while not samples(received):
            data = client.recv(65536)
            assert data, received
            received += data
        return samples(received)[0]


@pytest.mark.slow
def test_the_proxy_has_a_dashboard_and_the_marks_are_those_of_both_sides(command):
    target = command("serve", "echo", "--port", "0")
    target.listening()
    proxy = command("proxy", "0", str(target.port), "--dashboard", "127.0.0.1:0")
    proxy.port = int(re.search(r"127\.0\.0\.1:(\d+), to", proxy.line())[1])
    page = Printed(proxy.line_with("dashboard"))
    body = b'{"id": null, "high": 5000, "low": 7}'
    talk(page, request(page, "POST", "/marks", body, x_token=page.token))
    with proxy.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        rows = first_sample(page)["connections"]
    assert [(row["high"], row["low"]) for row in rows] == 2 * [(5000, 7)]
    assert f"-> 127.0.0.1:{target.port}" in [row["label"] for row in rows]


@pytest.mark.slow
def test_with_the_page_open_a_signal_ends_the_server_as_ever(command):
    server = command("serve", "echo", "--port", "0", "--dashboard", "0")
    server.listening()
    page = Printed(server.line_with("dashboard"))
    host, _, port = place(page).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(request(page, path=f"/events?token={page.token}"))
        assert client.recv(100)
        server.interrupt()
        status, output, errors = server.end()
    assert (status, errors) == (0, "")
    assert "connections 0" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--dashboard", "x"], "'x' is not valid"),
        (["--dashboard", "0", "--quiet"], "leave --quiet out"),
        (["--dashboard", "192.0.2.1:0"], "--dashboard"),
    ],
)
def test_a_dashboard_that_cannot_be_is_refused_in_a_line(command, arguments, word):
    status, _, errors = command("serve", "--port", "0", *arguments).end()
    assert status == 2
    assert word in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_thousand_idle_readers_and_worse_do_not_disturb_the_service(command, closing):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 4096
    # It has far fewer descriptors than there are readers.
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = command("serve", "echo", "--port", "0", "--dashboard", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 4096)), hard))
    server.listening()
    page = Printed(server.line_with("dashboard"))
    host, _, port = place(page).rpartition(":")
    idle = []
    try:
        client = closing(server.connect())
        for number in range(1000):
            # Most give way to the next ones, some before they know that they were connected.
            with contextlib.suppress(ConnectionResetError):
                idle.append(socket.create_connection((host, int(port)), timeout=PATIENCE))
            if number % 100 == 99:
                for service in (client, closing(server.connect())):
                    service.sendall(b"still there?")
                    assert service.recv(100) == b"still there?"
        # They lock nobody out.
        assert talk(page, request(page, connection="close")).split()[1] == b"200"
    finally:
        for sock in idle:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    bad = {
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n": b"431",
        b"\x16\x03\x01\x02\r\n\r\n": b"400",
        b"GET http://127.0.0.1/ HTTP/1.0\r\n\r\n": b"421",
        b"GET / HTTP/1.0\r\n\r\n": b"421",
        request(page, "TRACE", connection="close"): b"405",
        request(page, path="/../../etc/passwd"): b"404",
        request(page, host="elsewhere.example"): b"421",
    }
    # Until it has noticed that those have gone, there is no room for more.
    deadline = time.monotonic() + PATIENCE
    while not talk(page, request(page, connection="close")):
        assert time.monotonic() < deadline
    for data, status in bad.items():
        assert talk(page, data).split()[1] == status
    client.sendall(b"still there?")
    assert client.recv(100) == b"still there?"
    server.interrupt()
    client.close()
    assert server.end()[0] == 0
