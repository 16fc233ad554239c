"""The apps of `serve`: what each sends, and what it keeps for a client that does not read."""

from __future__ import annotations

import errno
import os
import random
import socket
from pathlib import Path

import pytest
from support import connect, drain, iterations, pump, receive

from minireactor.log import WARN_SECONDS
from minireactor.protocol import Factory
from minireactor.serve import apps
from minireactor.serve.apps import (
    BadRequest,
    Chargen,
    Discard,
    Echo,
    FileFactory,
    RandomFactory,
    parse_request,
)

QUESTION = b"how many random integers do you want?\r\n"
MEGABYTE = 1024 * 1024


class Watched:
    """Wraps a factory, and records the protocols that it builds."""

    def __init__(self, factory):
        self.factory = factory
        self.built = []

    def __getattr__(self, name):
        return getattr(self.factory, name)

    def buildProtocol(self, addr):
        self.built.append(self.factory.buildProtocol(addr))
        return self.built[-1]


@pytest.fixture
def serve(reactor, closing):
    """A function that serves a factory: serve(factory) -> (protocol, client)."""

    def serve(factory):
        watched = Watched(factory)
        port = reactor.listenTCP(0, watched, interface="127.0.0.1")
        client = closing(connect(port))
        pump(reactor, lambda: watched.built and watched.built[0].connected, "the connection")
        port.stopListening()
        return watched.built[0], client

    return serve


@pytest.fixture
def ask(reactor, serve):
    """ask(request, shut=False) returns what a client of `random` receives, up to the end."""

    def ask(request, shut=False, seed=None):
        _, client = serve(RandomFactory(seed))
        client.sendall(request)
        if shut:
            client.shutdown(socket.SHUT_WR)
        return drain(reactor, client)

    return ask


def integers(answer):
    """Return the integers of an answer. Raises AssertionError if it holds anything but them."""
    assert answer.startswith(QUESTION)
    lines = answer[len(QUESTION) :].split(b"\r\n")
    assert lines.pop() == b""
    return [int(line) for line in lines]


def answers(reactor, client, count):
    """Return the next `count` lines that the client receives."""
    lines = b""
    while lines.count(b"\n") < count:
        lines += receive(reactor, client, 1)
    return lines.decode("ascii").splitlines()


# random: requests.


@pytest.mark.parametrize(
    "line, count",
    [
        (b"0", 0),
        (b"7", 7),
        (b"007", 7),
        (b" 7 \r", 7),
        (b"0" * 5000 + b"7", 7),
        (b"1000000000000000", 10**15),
        (b"1000000000000000000", 10**18),
    ],
)
def test_a_request_is_a_number_in_decimal_digits(line, count):
    assert parse_request(line) == count


@pytest.mark.parametrize(
    "line, message",
    [
        (b"", "the line is empty"),
        (b" \r", "the line is empty"),
        (b"-5", "'-5' is negative"),
        (b"abc", "'abc' is not a number in decimal digits"),
        (b"+5", "'+5' is not a number in decimal digits"),
        (b"1e6", "'1e6' is not a number in decimal digits"),
        (b"1_000", "'1_000' is not a number in decimal digits"),
        (b"2.5", "'2.5' is not a number in decimal digits"),
        (b"5 6", "'5 6' is not a number in decimal digits"),
        (b"1000000000000000001", "'1000000000000000001' is too large"),
        (b"9" * 5000, "'99999999999999999999'... (5000 bytes) is too large"),
        ("٣".encode(), r"'\xd9\xa3' is not a number in decimal digits"),
        (b"\xff\x00\x1b[2J", r"'\xff\x00\x1b[2J' is not a number in decimal digits"),
        (b"x" * 30, "'xxxxxxxxxxxxxxxxxxxx'... (30 bytes) is not a number in decimal digits"),
    ],
)
def test_what_is_no_request_is_named_safely_and_in_short(line, message):
    with pytest.raises(BadRequest) as caught:
        parse_request(line)
    assert str(caught.value) == message


@pytest.mark.parametrize("line", [b"-5", b"abc", b"", b"9" * 5000, b"\xff\xfe", b"1e6"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_bad_request_gets_one_error_line_and_the_question_again(reactor, serve, line, newline):
    _, client = serve(RandomFactory())
    receive(reactor, client, len(QUESTION))

    client.sendall(line + newline)
    error, question = answers(reactor, client, 2)

    assert error.startswith("error: ")
    assert error.endswith("; send a number from 0 to 1000000000000000000")
    assert question.encode() + b"\r\n" == QUESTION

    client.sendall(b"3" + newline)
    assert drain(reactor, client).count(b"\r\n") == 3


def test_a_megabyte_without_a_newline_gets_one_error_line_and_is_closed(reactor, serve):
    _, client = serve(RandomFactory())
    client.setblocking(False)
    left = memoryview(b"5" * MEGABYTE)
    received = b""

    while left and not received.endswith(b"1000000000000000000\r\n"):
        try:
            left = left[client.send(left) :]
        except BlockingIOError:
            pass
        reactor.iterate(0.001)
        try:
            received += client.recv(4096)
        except BlockingIOError:
            pass
    received += drain(reactor, client)

    assert received == QUESTION + (
        b"error: the line is longer than 16384 bytes; "
        b"send a number from 0 to 1000000000000000000\r\n"
    )


def test_bad_requests_of_a_client_that_never_reads_do_not_pile_up(reactor, serve):
    protocol, client = serve(RandomFactory())
    transport = protocol.transport
    client.setblocking(False)
    refused = 0

    # More than all buffers on the way: each two bytes make a hundred to send back.
    while refused < 50:
        try:
            client.send(b"x\n" * 4096)
            refused = 0
        except BlockingIOError:
            refused += 1
        reactor.iterate(0)

    assert not transport.reading
    assert 64 * 1024 < transport.highest_pending < 64 * 1024 + 256


# random: the stream.


def test_integers_come_one_a_line_from_0_to_10000(ask):
    numbers = integers(ask(b"100000\r\n"))
    assert len(numbers) == 100000
    assert (min(numbers), max(numbers)) == (0, 10000)


def test_a_line_may_end_without_a_carriage_return(ask):
    assert len(integers(ask(b"5\n"))) == 5


def test_no_integers_are_an_empty_stream(ask):
    assert integers(ask(b"0\n")) == []


@pytest.mark.slow
def test_a_second_line_in_the_same_packet_is_ignored(ask):
    assert len(integers(ask(b"2000000\n5\n"))) == 2000000


def test_a_second_line_while_streaming_is_ignored(reactor, serve):
    protocol, client = serve(RandomFactory())
    client.sendall(b"200000\n")
    pump(reactor, lambda: protocol.transport.pauses, "a pause")

    client.sendall(b"5\n" + b"x" * 100000 + b"\n-1")

    assert len(integers(drain(reactor, client))) == 200000


def test_E7_a_client_that_shuts_its_write_side_after_asking_gets_the_whole_stream(ask):
    assert len(integers(ask(b"200000\r\n", shut=True))) == 200000


def test_a_request_may_end_with_the_clients_end_of_stream(ask):
    assert len(integers(ask(b"5", shut=True))) == 5


def test_a_client_that_shuts_its_write_side_before_asking_is_closed(ask):
    assert ask(b"", shut=True) == QUESTION


def test_a_bad_request_that_ends_with_the_stream_gets_its_error_line(ask):
    answer = ask(b"abc", shut=True)
    assert answer.startswith(QUESTION + b"error: 'abc' is not")
    assert answer.count(b"\n") == 2


def test_P2_the_producer_stops_within_a_batch_of_the_pause(reactor, serve):
    protocol, client = serve(RandomFactory())
    transport = protocol.transport

    client.sendall(b"1000000000000000\n")
    pump(reactor, lambda: transport.writing, "a full kernel buffer")
    iterations(reactor)

    assert transport.highest_pending <= 64 * 1024 + apps.BATCH * len("10000\r\n")


def test_E3_a_client_that_goes_away_stops_its_producer(reactor, serve):
    protocol, client = serve(RandomFactory())
    client.sendall(b"1000000000\n")
    pump(reactor, lambda: protocol.transport.pauses, "a pause")
    producer = protocol.transport.producer

    client.close()
    pump(reactor, lambda: protocol.transport.disconnected, "the end")

    assert producer.paused
    producer.resumeProducing()
    assert protocol.transport.pending == 0


def test_a_seed_gives_every_client_the_same_integers(ask):
    first, second = ask(b"1000\n", seed=7), ask(b"1000\n", seed=7)
    assert first == second
    expected = random.Random(7)
    assert integers(first)[:200] == expected.choices(range(10001), k=200)


def test_without_a_seed_clients_get_different_integers(ask):
    assert ask(b"1000\n") != ask(b"1000\n")


# echo.


def test_echo_sends_back_what_comes_in(reactor, serve):
    _, client = serve(Factory.forProtocol(Echo))
    client.sendall(b"\x00one\r\ntwo")
    assert receive(reactor, client, 9) == b"\x00one\r\ntwo"


def test_echo_does_not_read_from_a_peer_that_does_not_read(reactor, serve):
    protocol, client = serve(Factory.forProtocol(Echo))
    client.setblocking(False)
    sent = refused = 0

    while refused < 50:
        try:
            sent += client.send(bytes(65536))
            refused = 0
        except BlockingIOError:
            refused += 1
        reactor.iterate(0)

    assert not protocol.transport.reading
    assert protocol.transport.pending <= (64 + 256) * 1024
    assert len(receive(reactor, client, sent)) == sent


def test_E7_echo_returns_everything_after_the_clients_end_of_stream(reactor, serve):
    _, client = serve(Factory.forProtocol(Echo))
    data = random.Random(1).getrandbits(8 * 100000).to_bytes(100000, "big")
    client.setblocking(False)
    received, left = b"", memoryview(data)

    while left:
        try:
            left = left[client.send(left) :]
        except BlockingIOError:
            pass
        reactor.iterate(0.001)
        try:
            received += client.recv(1 << 16)
        except BlockingIOError:
            pass
    client.shutdown(socket.SHUT_WR)

    assert received + drain(reactor, client) == data


# discard.


def test_discard_reads_and_answers_nothing(reactor, serve):
    protocol, client = serve(Factory.forProtocol(Discard))
    transport = protocol.transport
    client.sendall(b"x" * 5000)
    client.shutdown(socket.SHUT_WR)

    assert drain(reactor, client) == b""
    assert transport.bytes_in == 5000


# chargen.


def test_chargen_sends_lines_of_72_characters_each_one_step_further(reactor, serve):
    _, client = serve(Factory.forProtocol(Chargen))

    lines = receive(reactor, client, 74 * 96).split(b"\r\n")[:-1]

    assert lines[0] == bytes(range(32, 32 + 72))
    assert lines[1] == bytes(range(33, 33 + 72))
    assert lines[94] == b"~" + bytes(range(32, 32 + 71))
    assert lines[95] == lines[0]
    assert set(map(len, lines)) == {72}


def test_U1_chargen_writes_only_when_asked(reactor, serve):
    protocol, client = serve(Factory.forProtocol(Chargen))
    transport = protocol.transport
    pump(reactor, lambda: transport.writing, "a full kernel buffer")
    iterations(reactor)
    before = transport.pending

    iterations(reactor)

    assert transport.pending == before <= 16 * 1024 + len(Chargen.block)


def test_chargen_goes_on_for_a_client_that_has_shut_its_write_side(reactor, serve):
    _, client = serve(Factory.forProtocol(Chargen))
    client.shutdown(socket.SHUT_WR)
    assert len(receive(reactor, client, MEGABYTE)) == MEGABYTE


def test_chargen_ends_when_its_server_leaves(reactor, serve):
    protocol, client = serve(Factory.forProtocol(Chargen))
    receive(reactor, client, 1000)

    protocol.transport.loseConnection()

    assert drain(reactor, client).endswith(b"\r\n")


# file: files whose size is not what reading them gives.


def whole(reactor, client):
    """Return what the client receives until the end. A later iteration closes the file."""
    try:
        return drain(reactor, client)
    finally:
        iterations(reactor)


@pytest.mark.parametrize(
    "path", ["/proc/version", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled"]
)
def test_a_file_that_the_kernel_makes_up_arrives_as_reading_gives_it(reactor, serve, path):
    if not os.access(path, os.R_OK):
        pytest.skip(f"this system has no {path}")
    _, client = serve(FileFactory(path))
    assert whole(reactor, client) == Path(path).read_bytes() != b""


@pytest.mark.parametrize("size", [0, 1, 3 * MEGABYTE])
@pytest.mark.parametrize("made_up", [False, True])
def test_a_file_arrives_whole_by_either_way(reactor, serve, tmp_path, monkeypatch, size, made_up):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    if made_up:
        monkeypatch.setattr(apps, "has_true_size", lambda fd: False)
    protocol, client = serve(FileFactory(str(path)))
    assert whole(reactor, client) == path.read_bytes()
    if made_up:
        assert protocol.transport.highest_pending <= 64 * 1024 + 16 * 1024


def test_a_file_of_holes_arrives_whole(reactor, serve, tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(MEGABYTE)
    _, client = serve(FileFactory(str(path)))
    assert whole(reactor, client) == bytes(MEGABYTE)


class Opened:
    """A function in place of open(): its file returns or raises `reads`, one after the other."""

    def __init__(self, path, reads, monkeypatch):
        self.factory = FileFactory(str(path))
        self.closed = False
        self._path = path
        self._reads = iter(reads)
        monkeypatch.setattr(apps, "has_true_size", lambda fd: False)
        monkeypatch.setattr(self.factory, "open", lambda: self)

    def fileno(self):
        return -1

    def read(self, size):
        found = next(self._reads)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    "then, message",
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (None, "has nothing to read now"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_a_reset_and_a_warning(
    reactor, serve, tmp_path, monkeypatch, caplog, then, message
):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    opened = Opened(path, [b"a part", then], monkeypatch)
    _, client = serve(opened.factory)
    with pytest.raises(ConnectionResetError):
        whole(reactor, client)
    iterations(reactor)
    assert opened.closed
    (record,) = caplog.records
    assert record.getMessage().startswith(f"cannot send {path}: ")
    assert message in record.getMessage()


def test_a_client_that_goes_during_a_made_up_file_is_no_warning(
    reactor, serve, tmp_path, monkeypatch, caplog
):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    opened = Opened(path, iter(lambda: bytes(16384), b""), monkeypatch)
    protocol, client = serve(opened.factory)
    receive(reactor, client, 1)
    client.close()
    pump(reactor, lambda: not protocol.transport.connected, "the end")
    assert opened.closed
    assert not caplog.records


@pytest.mark.parametrize("path", ["/proc/self/mem"])
def test_a_file_that_cannot_be_read_is_refused_at_once(path):
    if not os.access(path, os.R_OK):
        pytest.skip(f"this system has no {path}")
    with pytest.raises(OSError):
        FileFactory(path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("freed", [False, True])
def test_out_of_descriptors_a_file_asks_lingering_sockets_once(
    reactor, serve, tmp_path, monkeypatch, caplog, number, freed
):
    # given a system that has a descriptor for the file only after another was given back
    path = tmp_path / "file"
    path.write_bytes(b"content")
    factory = FileFactory(str(path))
    really, asked = factory.open, []

    def reclaim(cls, limit):
        asked.append((cls, limit))
        return freed

    def scarce():
        if not (asked and freed):
            raise OSError(number, os.strerror(number))
        return really()

    monkeypatch.setattr(apps.Lingering, "reclaim", reclaim)
    monkeypatch.setattr(factory, "open", scarce)

    _, client = serve(factory)

    if freed:
        assert whole(reactor, client) == b"content"
        assert not caplog.records
    else:
        with pytest.raises(ConnectionResetError):
            whole(reactor, client)
        assert [r.getMessage() for r in caplog.records] == [
            f"cannot send {path}: {os.strerror(number)}"
        ]
    assert asked == [(reactor, apps.RECLAIMED)]


def test_warnings_about_a_file_are_limited_and_counted(tmp_path, caplog):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    factory = FileFactory(str(path))

    for now in (0.0, 0.1, WARN_SECONDS - 0.1, WARN_SECONDS, 100.0):
        factory.warn(now, "no")

    assert [record.getMessage() for record in caplog.records] == [
        f"cannot send {path}: no",
        f"cannot send {path}: no (2 more clients since the last warning)",
        f"cannot send {path}: no",
    ]
