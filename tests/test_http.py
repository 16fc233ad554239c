"""The small HTTP server of the views: parsing, answers, limits."""

from __future__ import annotations

import errno
import http.client
import logging
import re
import socket

import pytest
from support import connect, drain, iterations, pump

from minireactor import Reactor
from minireactor.address import IPv4Address
from minireactor.view.web import http as http_module
from minireactor.view.web.http import PARTING_SECONDS, SECONDS, Site
from minireactor.view.web.request import MAX_BODY, MAX_HEAD, HTTPError, is_local, parse_head

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Talk:
    """A site on a scripted kernel, and one connection to it."""

    def __init__(self, wire):
        self.wire = wire
        self.site = Site()
        self.responses = []
        self.requests = []
        self.site.add("GET", "/now", self._now)
        self.site.add("GET", "/later", self._later)
        self.site.add("POST", "/post", self._now)
        self.sock = None
        self.arrive()

    def arrive(self, room=1 << 20, host="127.0.0.1"):
        protocol = self.site.buildProtocol(IPv4Address("TCP", host, 1))
        self.transport, self.sock = self.wire.connect(protocol, room)

    def _now(self, request, response):
        self.requests.append(request)
        response.send(f"{request.method} {request.path}?{request.query} {request.body!r}\n")

    def _later(self, request, response):
        self.requests.append(request)
        self.responses.append(response)

    def ask(self, *chunks):
        """Return the answer to a request on a new connection."""
        self.arrive()
        return self.say(*chunks)

    def say(self, *chunks):
        """Send chunks; return the output since the last call."""
        self.sock.inbox += chunks
        self.wire.run(2 * len(chunks) + 4)
        return self.output()

    @property
    def over(self):
        """Return whether the server has sent its EOF."""
        return self.sock.shut or self.sock.closed

    def output(self):
        answer = bytes(self.sock.taken)
        self.sock.taken.clear()
        return answer


class Push:
    def __init__(self):
        self.calls = []

    def pauseProducing(self):
        self.calls.append("pause")

    def resumeProducing(self):
        self.calls.append("resume")

    def stopProducing(self):
        self.calls.append("stop")


@pytest.fixture
def talk(wire):
    return Talk(wire)


def status(answer):
    return int(answer.split()[1])


def body(answer):
    return answer.partition(b"\r\n\r\n")[2]


def header(answer, name):
    for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        if line.lower().startswith(name.lower().encode() + b":"):
            return line.partition(b":")[2].strip().decode()
    return None


# Requests.


def test_parse_head_returns_the_parts_of_a_request():
    request = parse_head(
        b"POST /a%20b?x=1?y HTTP/1.1\r\nHOST: Example.Internal:80\r\nAccept:\ta \r\naccept: b"
    )
    assert (request.method, request.path, request.query) == ("POST", "/a%20b", "x=1?y")
    assert request.headers == {"host": "Example.Internal:80", "accept": "a, b"}
    assert request.host == "example.internal"
    assert request.body == b""


@pytest.mark.parametrize(
    "host, name",
    [
        *(("a:80", "a"), ("A", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")),
        *(("a:", "a"), ("a.:1", "a"), ("a.b.", "a.b"), (".", "."), ("a..", "a.")),
    ],
)
def test_host_has_neither_port_nor_final_dot(host, name):
    assert parse_head(f"GET / HTTP/1.1\r\nHost: {host}".encode()).host == name


@pytest.mark.parametrize(
    "host, port", [("a:8080", 8080), ("a", 80), ("a:", 80), ("[::1]:1", 1), ("", 80), ("a:081", 81)]
)
def test_port_is_a_number(host, port):
    assert parse_head(f"GET / HTTP/1.1\r\nHost: {host}".encode()).port == port


@pytest.mark.parametrize("host", ["a:123456", "a:" + "9" * 5000, "a:-1", "a:b", "a:1:2"])
def test_an_invalid_port_is_400(host):
    with pytest.raises(HTTPError) as caught:
        _ = parse_head(f"GET / HTTP/1.1\r\nHost: {host}".encode()).port
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "target, path, query",
    [
        ("http://b.example:81/now?x=1", "/now", "x=1"),
        ("HTTP://b.example:81/", "/", ""),
        ("http://b.example:81", "/", ""),
        ("http://b.example:81?x", "/", "x"),
        ("http://b.example:81/http://c/", "/http://c/", ""),
    ],
)
def test_the_host_of_an_absolute_url_takes_precedence(target, path, query):
    request = parse_head(f"GET {target} HTTP/1.1\r\nHost: a:80".encode())
    assert (request.path, request.query) == (path, query)
    assert (request.host, request.port) == ("b.example", 81)


def test_an_absolute_url_for_another_host_is_421(talk):
    talk.site.hosts = is_local
    answer = talk.say(b"GET http://evil.example/now HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(answer) == 421
    answer = talk.ask(b"GET http://localhost/now HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert status(answer) == 200


def test_options_of_the_whole_server_is_204(talk):
    answer = talk.say(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status(answer) == 204
    assert body(answer) == b""


@pytest.mark.parametrize(
    "head, expected",
    [
        (b"GET /\r\nHost: x", 400),
        (b"GET  / HTTP/1.1\r\nHost: x", 400),
        (b"GET / HTTP/1.1 \r\nHost: x", 400),
        (b"GET / http/1.1\r\nHost: x", 400),
        (b"GET / HTTP/1.11\r\nHost: x", 400),
        (b"G(T / HTTP/1.1\r\nHost: x", 400),
        (b"GET /\x80 HTTP/1.1\r\nHost: x", 400),
        (b"GET x HTTP/1.1\r\nHost: x", 400),
        (b"GET http://x/ HTTP/1.1", 400),
        (b"GET http:///x HTTP/1.1\r\nHost: x", 400),
        (b"GET http://me@x/ HTTP/1.1\r\nHost: x", 400),
        (b"GET https://x/ HTTP/1.1\r\nHost: x", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x", 400),
        (b"GET * HTTP/1.1\r\nHost: x", 400),
        (b"* / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x", 505),
        (b"GET / HTTP/0.9\r\nHost: x", 505),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x", 400),
        (b"GET / HTTP/1.1\r\nHost : x", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nNo colon", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n: y", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1", 400),
        (b"", 400),
    ],
)
def test_an_invalid_head_is_rejected(head, expected):
    with pytest.raises(HTTPError) as caught:
        parse_head(head)
    assert caught.value.status == expected


@pytest.mark.parametrize(
    "headers, expected",
    [
        (b"Content-Length: -1", 400),
        (b"Content-Length: +1", 400),
        (b"Content-Length: 1, 1", 400),
        (b"Content-Length: 0x1", 400),
        (b"Content-Length: 99999999999999999999", 400),
        (b"Content-Length: %d" % (MAX_BODY + 1), 413),
        (b"Transfer-Encoding: chunked", 501),
        (b"Expect: 100-continue", 417),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked", 501),
    ],
)
def test_a_body_of_unclear_length_is_rejected_and_nothing_after_it_is_read(talk, headers, expected):
    answer = talk.say(b"POST /post HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n" + GET % b"/now")
    assert status(answer) == expected
    assert answer.count(b"HTTP/1.1") == 1
    assert header(answer, "Connection") == "close"
    assert talk.over
    assert talk.requests == []


# Answers.


def test_an_answer(talk):
    answer = talk.say(GET % b"/now?x=1")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
    assert body(answer) == b"GET /now?x=1 b''\n"
    assert header(answer, "Content-Length") == str(len(body(answer)))
    assert header(answer, "Content-Type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /now HTTP/1.1\r\nHost: x",
        b"GET /now HTTP/1.1\r\nHost: x\r\nConnection: keep-alive",
        b"GET /now HTTP/1.0\r\nConnection: keep-alive",
        b"GET /then HTTP/1.1\r\nHost: x",
    ],
)
def test_a_connection_answers_one_request_whatever_the_client_asks(talk, head):
    answer = talk.say((head + b"\r\n\r\n") * 2, GET % b"/now")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert header(answer, "Connection") == "close"
    assert talk.over
    assert not talk.sock.was_reset
    assert len(talk.requests) <= 1


def test_a_second_request_during_an_answer_is_dropped(talk):
    assert talk.say(GET % b"/later" + GET % b"/now", GET % b"/now") == b""
    talk.responses[0].send("late\n")
    assert body(talk.say()) == b"late\n"
    assert len(talk.requests) == 1
    assert talk.over


def test_the_date_has_the_format_of_http(talk):
    date = header(talk.say(GET % b"/now"), "Date")
    assert re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)


def test_a_body_may_arrive_in_any_pieces(talk):
    request = b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcdefg"
    answer = talk.say(*(request[n : n + 1] for n in range(len(request))))
    assert body(answer) == b"POST /post? b'abcde'\n"


def test_a_body_of_MAX_BODY_is_accepted(talk):
    talk.say(b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_BODY)
    talk.say(bytes(MAX_BODY))
    assert [len(request.body) for request in talk.requests] == [MAX_BODY]


def test_head_is_get_without_the_body(talk):
    answer = talk.say(b"HEAD /now HTTP/1.1\r\nHost: x\r\n\r\n")
    assert body(answer) == b""
    assert header(answer, "Content-Length") == str(len("HEAD /now? b''\n"))


def test_an_unknown_path_is_404(talk):
    assert status(talk.say(GET % b"/then")) == 404
    assert status(talk.ask(GET % b"/now")) == 200


@pytest.mark.parametrize("path", [b"/now/", b"/NOW", b"/%6eow", b"//now", b"/./now"])
def test_a_path_is_not_normalised(talk, path):
    assert status(talk.say(GET % path)) == 404


def test_another_method_is_405_and_allow_names_the_methods(talk):
    answer = talk.say(b"BREW /now HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status(answer) == 405
    assert header(answer, "Allow") == "GET, HEAD"
    answer = talk.ask(GET % b"/post")
    assert status(answer) == 405
    assert header(answer, "Allow") == "POST"


def test_a_handler_may_raise_HTTPError(talk):
    def picky(request, response):
        raise HTTPError(409, "not now")

    talk.site.add("GET", "/picky", picky)
    answer = talk.say(GET % b"/picky")
    assert status(answer) == 409
    assert body(answer) == b"409 Conflict: not now\n"


def test_a_handler_that_raises_is_500_and_is_logged(talk, caplog):
    def broken(request, response):
        raise ZeroDivisionError("on purpose")

    talk.site.add("GET", "/broken", broken)
    with caplog.at_level(logging.ERROR):
        answer = talk.say(GET % b"/broken")
    assert status(answer) == 500
    assert b"on purpose" not in answer
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


def test_a_handler_that_raises_in_the_middle_of_its_answer_resets_the_connection(talk, caplog):
    def broken(request, response):
        response.start("text/plain")
        response.write(b"half")
        raise ZeroDivisionError("on purpose")

    talk.site.add("GET", "/broken", broken)
    talk.say(GET % b"/broken")
    assert talk.sock.was_reset
    assert talk.over
    assert len(caplog.records) == 1


def test_an_answer_starts_once(talk):
    talk.say(GET % b"/later")
    (response,) = talk.responses
    response.start("text/plain")
    with pytest.raises(RuntimeError, match="starts once"):
        response.send("x")


# Connections.


def test_a_client_that_has_ended_its_side_gets_its_answer(talk):
    assert talk.say(GET % b"/later", b"") == b""
    assert not talk.over
    talk.responses[0].send("late\n")
    assert talk.say().endswith(b"late\n")
    assert talk.over


def test_eof_in_the_middle_of_a_request_closes_the_connection(talk):
    assert talk.say(b"GET /now HT", b"") == b""
    assert talk.over


def test_an_empty_line_before_a_request_is_ignored(talk):
    assert status(talk.say(b"\r\n" + GET % b"/now")) == 200


@pytest.mark.parametrize("text", [b"GET /now HTTP/1.0\n\n", b"GET /now HTTP/1.0\r\nA: b\n\r\n\r\n"])
def test_bare_line_feeds_are_rejected_at_once(talk, text):
    assert status(talk.say(text)) == 400
    assert talk.over


# Bounds.


def test_a_head_of_MAX_HEAD_is_accepted_and_a_larger_one_is_431(talk):
    start = b"GET /now HTTP/1.1\r\nHost: x\r\nA: "
    fill = MAX_HEAD - len(start)
    assert status(talk.say(start + b"x" * fill + b"\r\n\r\n")) == 200
    assert status(talk.ask(start + b"x" * (fill + 1) + b"\r\n\r\n")) == 431
    assert talk.over


def test_a_head_without_end_is_431_as_soon_as_it_is_too_large(talk):
    assert talk.say(b"GET /" + b"x" * (MAX_HEAD - 5)) == b""
    assert status(talk.say(b"x")) == 431
    assert talk.over


def test_a_slow_head_is_408(talk, clock):
    talk.say(b"GET /now HTTP/1.1\r\n")
    clock.advance(SECONDS / 2)
    assert talk.say(b"Host: x\r\n") == b""
    clock.advance(SECONDS / 2)
    assert status(talk.say()) == 408
    assert talk.over


def test_a_slow_body_is_408(talk, clock):
    talk.say(b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
    clock.advance(SECONDS)
    assert status(talk.say()) == 408


def test_a_silent_connection_is_closed_without_an_answer(talk, clock):
    clock.advance(SECONDS * 0.9)
    assert talk.say() == b""
    assert not talk.over
    clock.advance(SECONDS * 0.2)
    assert talk.say() == b""
    assert talk.over


def test_a_handler_may_answer_late(talk, clock):
    talk.say(GET % b"/later")
    for _ in range(3):
        clock.advance(SECONDS)
        talk.wire.run()
    talk.responses[0].send("late\n")
    assert body(talk.say()) == b"late\n"


def test_a_client_that_reads_no_byte_of_its_answer_is_reset(talk, clock):
    talk.arrive(room=0)
    talk.say(b"GET /now HTTP/1.0\r\n\r\n")
    clock.advance(SECONDS * 0.9)
    talk.say()
    assert not talk.over
    clock.advance(SECONDS * 0.2)
    talk.say()
    assert talk.sock.was_reset


def test_a_client_that_reads_slowly_gets_its_answer(talk, clock):
    talk.arrive(room=0)
    talk.say(b"GET /now HTTP/1.0\r\n\r\n")
    answer = b""
    while not talk.over:
        clock.advance(SECONDS * 0.9)
        talk.sock.room = 10
        answer += talk.say()
    assert body(answer) == b"GET /now? b''\n"
    assert not talk.sock.was_reset


def test_beyond_MAX_CONNECTIONS_the_oldest_connection_without_an_answer_is_reset(talk, monkeypatch):
    monkeypatch.setattr(http_module, "MAX_CONNECTIONS", 2)
    talk.say(GET % b"/later")  # the oldest connection is being answered, and stays
    busy = talk.sock
    talk.arrive()
    silent = talk.sock
    talk.arrive()
    assert status(talk.say(GET % b"/now")) == 200
    assert silent.was_reset
    assert not busy.was_reset
    assert len(talk.site.connections) == 2


def test_each_new_connection_of_one_iteration_replaces_another(talk, monkeypatch):
    monkeypatch.setattr(http_module, "MAX_CONNECTIONS", 2)
    socks = [talk.sock]
    for _ in range(3):
        talk.arrive()
        socks.append(talk.sock)
    talk.wire.run()
    assert [sock.was_reset for sock in socks] == [True, True, False, False]


def test_if_all_connections_are_being_answered_a_new_one_is_reset(talk, monkeypatch):
    monkeypatch.setattr(http_module, "MAX_CONNECTIONS", 2)
    talk.say(GET % b"/later")
    talk.arrive()
    talk.say(GET % b"/later")
    second = talk.sock
    talk.arrive()
    talk.say()
    assert talk.sock.was_reset
    second.error = errno.ECONNRESET
    talk.wire.run()
    talk.arrive()
    assert status(talk.say(GET % b"/now")) == 200


@pytest.fixture
def crowd(talk, monkeypatch):
    """crowd(*arrivals) returns the sockets of new clients; beyond three, one must go.

    An arrival is a host. With "/later" behind it, the client also asks for an endless answer."""
    monkeypatch.setattr(http_module, "MAX_CONNECTIONS", 3)
    talk.site.make_room("nobody")  # resets the connection of `talk`

    def crowd(*arrivals):
        socks = []
        for arrival in arrivals:
            host, slash, path = arrival.partition("/")
            talk.arrive(host=host)
            socks.append(talk.sock)
            if slash:
                talk.say(GET % (slash + path).encode())
        talk.wire.run()
        return socks

    return crowd


@pytest.mark.parametrize(
    "arrivals, reset",
    [
        (["a", "a", "b", "a"], 0),  # a client that waits is safe from a crowd of one address
        (["b", "a", "a", "a"], 1),
        (["b", "a", "a", "c"], 1),
        (["b", "a", "a", "b"], 1),
        (["c", "a", "b", "a"], 1),  # all have as many, and a makes room for itself
        (["b", "a/later", "a/later", "a"], 3),
        (["b", "a/later", "a/later", "c"], 0),  # silent connections go first
        (["a/later", "a/later", "a/later", "b"], 0),
        (["a/later", "a/later", "b/later", "b"], 3),
        (["a/later", "b/later", "c/later", "d"], 3),
    ],
)
def test_an_address_with_many_connections_locks_no_other_out(crowd, arrivals, reset):
    socks = crowd(*arrivals)
    assert [number for number, sock in enumerate(socks) if sock.was_reset] == [reset]


def test_an_answered_connection_counts_until_the_client_closes(talk):
    assert status(talk.say(GET % b"/now")) == 200
    assert talk.over
    assert len(talk.site.connections) == 1
    talk.say(b"")
    assert not talk.site.connections
    assert not talk.sock.was_reset


def test_a_client_that_does_not_close_is_reset_after_PARTING_SECONDS(talk, clock):
    talk.say(GET % b"/now")
    clock.advance(PARTING_SECONDS * 0.9)
    talk.say(b"more" * 100)
    assert not talk.sock.closed
    clock.advance(PARTING_SECONDS * 0.2)
    talk.say()
    assert talk.sock.was_reset
    assert not talk.site.connections


def test_a_client_that_sends_more_than_MAX_INPUT_after_its_answer_is_reset(talk, monkeypatch):
    monkeypatch.setattr(http_module, "MAX_INPUT", 1000)
    talk.say(GET % b"/now")
    talk.say(b"x" * 900)
    assert not talk.sock.closed
    talk.say(b"x" * 100)
    assert talk.sock.was_reset


def test_a_client_that_sends_more_than_MAX_INPUT_during_its_answer_is_reset(talk, monkeypatch):
    monkeypatch.setattr(http_module, "MAX_INPUT", 1000)
    talk.say(GET % b"/later", b"x" * 900)
    assert not talk.sock.closed
    assert not talk.site.connections.copy().popitem()[0]._buffer
    talk.say(b"x" * 100)
    assert talk.sock.was_reset


def test_a_client_that_has_not_read_gets_its_answer_before_the_time_limit_applies(talk, clock):
    talk.arrive(room=0)
    talk.say(GET % b"/now")
    clock.advance(PARTING_SECONDS * 2)
    talk.say()
    assert not talk.over
    talk.sock.room = 1 << 20
    assert status(talk.say()) == 200
    assert talk.over


def test_a_producer_may_register_when_pending_is_above_the_high_mark(talk):
    talk.arrive(room=0)
    talk.say(GET % b"/later")
    (response,) = talk.responses
    response.start("text/plain")
    response.write(bytes(100_000))
    producer = Push()
    response.registerProducer(producer, True)
    response.write(b"x")
    talk.sock.room = 1 << 20
    talk.say()
    assert producer.calls == ["pause", "resume"]
    response.end()
    talk.say()
    assert talk.over


# Streams.


@pytest.fixture
def stream(talk):
    talk.say(GET % b"/later")
    (response,) = talk.responses
    response.start("text/event-stream")
    return response


def test_the_end_of_the_connection_ends_a_stream(talk, stream):
    stream.write(b"hello")
    stream.write(b"")
    first = talk.say()
    assert header(first, "Transfer-Encoding") is None
    assert header(first, "Content-Length") is None
    assert header(first, "Connection") == "close"
    assert body(first) == b"hello"
    assert not talk.over
    stream.write(b"x" * 26)
    stream.end()
    stream.end()
    assert talk.say() == b"x" * 26
    assert talk.over
    assert not talk.sock.was_reset


def test_a_stream_for_head_has_no_body(talk):
    talk.say(b"HEAD /later HTTP/1.1\r\nHost: x\r\n\r\n")
    (response,) = talk.responses
    response.start("text/plain")
    response.write(b"hello")
    response.end()
    assert body(talk.say()) == b""
    assert talk.over


def test_start_ends_a_stream_for_head(talk):
    talk.say(b"HEAD /later HTTP/1.1\r\nHost: x\r\n\r\n")
    (response,) = talk.responses
    response.start("text/plain")
    producer = Push()
    response.registerProducer(producer, True)
    assert response.ended
    assert producer.calls == ["stop"]
    assert status(talk.say()) == 200
    assert talk.over


def test_after_the_clients_eof_a_stream_sends_nothing_new(talk, stream):
    lost = []
    stream.on_lost = lambda: lost.append(True)
    talk.say()
    talk.sock.room = 0
    stream.write(b"x" * 100)
    talk.say(b"")
    assert lost == [True]
    pending = talk.transport.pending
    assert pending >= 100
    stream.write(b"x" * 100)
    assert talk.transport.pending == pending
    talk.sock.room = 1 << 20
    talk.say()
    assert talk.over


@pytest.mark.parametrize("how", ["send", "start"])
def test_an_answer_that_comes_after_the_connection_is_lost_is_dropped(talk, how):
    talk.say(GET % b"/later")
    (response,) = talk.responses
    talk.transport.abortConnection()
    talk.say()
    timers = talk.wire.reactor._timers.heap
    before = len(timers)
    getattr(response, how)("text/plain")
    assert not response.started
    assert len(timers) == before


def test_a_producer_of_a_stream_is_paused_and_resumed_by_the_connections_marks(talk, stream):
    talk.say()
    talk.sock.room = 0
    producer = Push()
    talk.transport.setWriteBufferLimits(100, 25)
    stream.registerProducer(producer, True)
    stream.write(b"x" * 101)
    assert producer.calls == ["pause"]
    talk.sock.room = 1 << 20
    talk.say()
    assert producer.calls == ["pause", "resume"]
    stream.unregisterProducer()
    stream.write(b"x" * 101)
    assert producer.calls == ["pause", "resume"]


def test_a_second_producer_is_refused_and_the_first_goes_on(talk, stream):
    first = Push()
    stream.registerProducer(first, True)
    with pytest.raises(RuntimeError, match="still registered"):
        stream.registerProducer(Push(), True)
    assert talk.transport.producer is first


def test_the_end_of_a_stream_unregisters_its_producer(talk, stream):
    producer = Push()
    stream.registerProducer(producer, True)
    stream.end()
    talk.say()
    talk.say(b"")
    assert talk.over
    assert producer.calls == []


def test_a_lost_connection_stops_the_producer_then_calls_on_lost(talk, stream):
    producer = Push()
    stream.registerProducer(producer, True)
    stream.on_lost = lambda: producer.calls.append("lost")
    talk.sock.error = 104
    talk.say()
    assert producer.calls == ["stop", "lost"]
    assert stream.ended
    stream.write(b"x")
    stream.end()
    late = Push()
    stream.registerProducer(late, True)
    assert late.calls == ["stop"]


def test_the_clients_eof_during_a_stream_closes_the_connection(talk, stream):
    lost = []
    stream.on_lost = lambda: lost.append(True)
    stream.registerProducer(Push(), True)
    talk.say(b"")
    assert talk.over
    assert lost == [True]


def test_on_lost_is_not_called_after_the_end_of_a_stream(talk, stream):
    lost = []
    stream.on_lost = lambda: lost.append(True)
    stream.end()
    talk.say(b"")
    assert lost == []


def test_a_stream_may_be_silent_for_long(talk, stream, clock):
    for _ in range(5):
        clock.advance(SECONDS)
        stream.write(b"x")
        talk.say()
    assert not talk.over


def test_a_stream_whose_client_reads_nothing_is_reset(talk, stream, clock):
    talk.say()
    talk.sock.room = 0
    stream.write(b"x")
    for _ in range(3):
        clock.advance(SECONDS)
        talk.say()
    assert talk.sock.was_reset


# Host names.


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "a.localhost", "10.0.0.1"])
def test_is_local_accepts_localhost_and_addresses(host):
    assert is_local(host)


@pytest.mark.parametrize("host", ["", "example.com", "localhost.example.com", "1.2.3", "[x]", "::"])
def test_is_local_rejects_other_names(host):
    assert not is_local(host)


def test_another_host_name_is_421(talk):
    talk.site.hosts = is_local
    assert status(talk.say(b"GET /now HTTP/1.1\r\nHost: evil.example:80\r\n\r\n")) == 421
    assert status(talk.ask(b"GET /now HTTP/1.1\r\nHost: localhost:80\r\n\r\n")) == 200
    assert len(talk.requests) == 1


def test_a_host_with_two_names_is_400(talk):
    talk.site.hosts = is_local
    assert status(talk.say(b"GET /now HTTP/1.1\r\nHost: a, localhost\r\n\r\n")) == 400


def test_a_site_on_loopback_answers_to_local_names_only(reactor):
    own, open_to_all = Site(), Site()
    own.listen(reactor, "127.0.0.1", 0)
    own.add("GET", "/", None)
    open_to_all.listen(reactor, "0.0.0.0", 0)
    choosy = Site(hosts="example".__eq__)
    choosy.listen(reactor, "127.0.0.1", 0)
    for host, is_answered in (("localhost", True), ("[::1]", True), ("evil.example", False)):
        assert own.hosts(host) is is_answered
    # A browser always sends a Host. The health check of a balancer may not.
    assert own.route(parse_head(b"GET / HTTP/1.0")) is None
    assert open_to_all.hosts is None
    assert choosy.hosts("example")


def test_a_closed_site_does_not_listen_and_closes_each_connection_after_its_answer(
    reactor, closing
):
    site = Site()
    responses = []
    site.add("GET", "/later", lambda request, response: responses.append(response))
    ports = [site.listen(reactor, "127.0.0.1", 0) for _ in range(2)]
    waiting, silent = closing(connect(ports[0])), closing(connect(ports[1]))
    waiting.sendall(GET % b"/later")
    pump(reactor, lambda: responses and len(site.connections) == 2)

    site.close()
    site.close()

    assert not any(port.connected for port in ports)
    assert drain(reactor, silent) == b""
    responses[0].send("answer")
    answer = drain(reactor, waiting)
    assert body(answer) == b"answer"
    assert header(answer, "Connection") == "close"
    for client in (waiting, silent):
        client.close()
    pump(reactor, lambda: not site.connections)


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_a_handler_that_raises_is_500_and_the_next_one_answers(talk, caplog, error):
    def broken(request, response):
        raise error("no")

    talk.site.add("GET", "/broken", broken)
    assert status(talk.say(GET % b"/broken")) == 500
    assert "GET /broken of a page" in caplog.text
    assert status(talk.ask(GET % b"/now")) == 200


# On real sockets, with the standard library's client.


def test_the_standard_librarys_client_gets_its_answers():
    from threading import Thread

    reactor = Reactor()
    site = Site()
    site.add("GET", "/", lambda request, response: response.send("hello"))

    def stream(request, response):
        response.start("text/plain")
        response.write(b"a" * 100_000)
        response.write(b"b" * 100_000)
        response.end()

    site.add("GET", "/stream", stream)
    port = site.listen(reactor, "127.0.0.1", 0).getHost().port
    thread = Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
    thread.start()
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        found = []
        for path in ("/", "/stream", "/nothing", "/"):
            client.request("GET", path)
            answer = client.getresponse()
            found.append((answer.status, len(answer.read())))
        client.close()
    finally:
        reactor.callFromThread(reactor.stop)
        thread.join(10)
    assert found[:2] == [(200, 5), (200, 200_000)]
    assert found[2][0] == 404
    assert found[3] == (200, 5)


def test_the_connections_are_unwatched_and_their_timers_internal(reactor, closing):
    site = Site()
    port = site.listen(reactor, "127.0.0.1", 0)
    client = closing(connect(port))
    pump(reactor, lambda: site.connections)
    (protocol,) = site.connections
    assert protocol.unwatched
    assert reactor.getDelayedCalls() == []
    client.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: not site.connections)
    iterations(reactor)
