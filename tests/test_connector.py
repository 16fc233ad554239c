"""Connectors: names, addresses, refusals, timeouts, and trying again."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import threading

import pytest
from scripted import ScriptedPoller
from support import (
    PATIENCE,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    forked,
    iterations,
    open_descriptors,
    pump,
    served,
)

from minireactor import Reactor
from minireactor.address import IPv4Address, IPv6Address
from minireactor.core.poller import READ, WRITE
from minireactor.error import (
    ConnectBindError,
    ConnectError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    NotConnectingError,
    ServiceNameUnknownError,
    TCPTimedOutError,
    TimeoutError,
    UserError,
)
from minireactor.testing import Clock
from minireactor.transports.attempt import STAGGER_SECONDS, Attempt, interleaved
from minireactor.transports.closing import Lingering
from minireactor.transports.resolver import USUAL_LOOKUPS

LOCAL = "127.0.0.1"
FAILED = ["startFactory", "started", "failed", "stopFactory"]


def listen(reactor, *protocols):
    """Return (factory, port number) of a server on the reactor."""
    factory = OneFactory(*protocols)
    return factory, reactor.listenTCP(0, factory, interface=LOCAL).getHost().port


def unused_number():
    """Return the number of a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((LOCAL, 0))
        return sock.getsockname()[1]


def connected(reactor, factory):
    pump(reactor, lambda: factory.connection is not None and factory.connection.calls)
    return factory.connection


def failure(reactor, factory):
    """Return the Failure of an attempt. Asserts that the factory got no other call."""
    pump(reactor, lambda: factory.reason is not None, "the failure")
    iterations(reactor)
    assert factory.calls == FAILED
    return factory.reason


class Names:
    """A resolver with answers by host name. The `slow` ones answer when the test says so.

    Numeric addresses are resolved as usual."""

    def __init__(self, **answers):
        self.answers = answers
        self.slow = {}
        self.asked = []
        self.threads = set()
        self._resolve = socket.getaddrinfo

    def __call__(self, host, port, *a, flags=0, **k):
        name = host.partition(".")[0] if isinstance(host, str) else None
        if name not in self.answers:
            return self._resolve(host, port, *a, flags=flags, **k)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked.append(host)
        self.threads.add(threading.current_thread())
        if name in self.slow:
            assert self.slow[name].wait(PATIENCE)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (h, p or port)) for h, p in answer]


@pytest.fixture
def names(monkeypatch):
    own = Names()
    monkeypatch.setattr(socket, "getaddrinfo", own)
    return own


# --- Success


def test_a_connection_comes_about(reactor):
    server, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    assert (connector.state, connector.transport) == ("connecting", None)
    protocol = connected(reactor, factory)
    assert factory.calls == ["startFactory", "started", "build"]
    assert (connector.state, connector.transport) == ("connected", protocol.transport)
    assert protocol.transport.getPeer() == IPv4Address("TCP", LOCAL, number)
    assert server.built[0].transport.getPeer() == protocol.transport.getHost()


def test_nothing_is_called_before_connectTCP_returns_but_the_start(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory)
    assert factory.calls == ["startFactory", "started"]


def test_bytes_go_both_ways(reactor):
    server, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory)
    here = connected(reactor, factory)
    pump(reactor, lambda: server.built)
    there = server.built[0]
    here.transport.write(b"ping")
    pump(reactor, lambda: there.received == b"ping")
    there.transport.write(b"pong")
    pump(reactor, lambda: here.received == b"pong")


def test_IPv6_literals_are_taken(reactor):
    try:
        port = reactor.listenTCP(0, OneFactory(), interface="::1")
    except Exception:
        pytest.skip("no IPv6 here")
    factory = RecordingClientFactory()
    connector = reactor.connectTCP("::1", port.getHost().port, factory)
    protocol = connected(reactor, factory)
    assert connector.getDestination() == IPv6Address("TCP", "::1", port.getHost().port)
    assert protocol.transport.getPeer() == connector.getDestination()


def test_the_destination_is_what_was_asked_for(reactor, names):
    names.answers = {"server": [(LOCAL, 1)]}
    connector = reactor.connectTCP("server.example", 80, RecordingClientFactory())
    assert connector.getDestination() == IPv4Address("TCP", "server.example", 80)


def test_marks_of_connections_to_come_can_be_set(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    connector.setWriteBufferLimits(1000)
    assert connected(reactor, factory).transport.bufferSize == 1000


def test_the_local_end_can_be_chosen(reactor):
    server, number = listen(reactor)
    local = (LOCAL, unused_number())
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, bindAddress=local)
    assert connected(reactor, factory).transport.getHost() == IPv4Address("TCP", *local)
    pump(reactor, lambda: server.built)
    assert server.built[0].transport.getPeer() == IPv4Address("TCP", *local)


# --- Names


def test_a_name_is_resolved_without_blocking_the_loop(reactor, names, closing):
    _, number = listen(reactor)
    names.answers = {"slow": [(LOCAL, None)]}
    names.slow["slow"] = threading.Event()
    echo, client = served(reactor)
    closing(client)
    factory = RecordingClientFactory()
    reactor.connectTCP("slow.example", number, factory)
    pump(reactor, lambda: names.asked)
    ticks = []
    reactor.callLater(0, ticks.append, 1)
    client.sendall(b"meanwhile")
    pump(reactor, lambda: echo.received == b"meanwhile" and ticks)
    assert factory.calls == ["startFactory", "started"]
    names.slow["slow"].set()
    protocol = connected(reactor, factory)
    assert protocol.transport.getPeer() == IPv4Address("TCP", LOCAL, number)
    assert threading.current_thread() not in names.threads


def test_an_answer_wakes_an_idle_loop(reactor, names):
    _, number = listen(reactor)
    names.answers = {"server": [(LOCAL, None)]}

    class Stopping(RecordingClientFactory):
        def buildProtocol(self, addr):
            reactor.stop()
            return super().buildProtocol(addr)

    reactor.connectTCP("server.example", number, Stopping())
    overslept = reactor.callLater(PATIENCE, reactor.crash)
    reactor.run(installSignalHandlers=False)
    assert overslept.active()


def test_numbers_and_the_real_localhost_need_no_script(reactor):
    server, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP("localhost", number, factory)
    connected(reactor, factory)
    pump(reactor, lambda: server.built)
    assert factory.calls == ["startFactory", "started", "build"]


def test_service_names_are_looked_up(reactor, monkeypatch):
    _, number = listen(reactor)
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *a, **k: resolve(host, {"echo": number}[port], *a, **k),
    )
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, "echo", factory)
    assert connected(reactor, factory).transport.getPeer().port == number


def test_a_number_may_be_given_as_text(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, str(number), factory)
    assert connected(reactor, factory).transport.getPeer().port == number


@pytest.mark.parametrize("host", [LOCAL, "server.example"])
def test_an_unknown_service_name_is_an_error_that_says_so(reactor, monkeypatch, host):
    def unknown(*a, **k):
        raise socket.gaierror(socket.EAI_SERVICE, "Servname not supported")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    factory = RecordingClientFactory()
    reactor.connectTCP(host, "no-such-service", factory)
    reason = failure(reactor, factory)
    assert reason.check(ServiceNameUnknownError)
    assert "no-such-service" in reason.getErrorMessage()


def test_a_name_that_nobody_knows_is_an_error_that_names_it(reactor, names):
    names.answers = {"nobody": socket.gaierror(socket.EAI_NONAME, "unknown")}
    factory = RecordingClientFactory()
    reactor.connectTCP("nobody.example", 80, factory)
    reason = failure(reactor, factory)
    assert reason.check(DNSLookupError)
    assert "'nobody.example'" in reason.getErrorMessage()


@pytest.mark.parametrize("host", ["a" * 300, "..", ".", "b\N{SNOWMAN}" * 40, 5])
def test_an_impossible_name_is_an_error_too(reactor, host, monkeypatch):
    resolve = socket.getaddrinfo

    def local_only(asked, *a, **k):
        if asked == ".":
            raise socket.gaierror(socket.EAI_NONAME, "no name")
        return resolve(asked, *a, **k)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)
    factory = RecordingClientFactory()
    reactor.connectTCP(host, 80, factory)
    assert failure(reactor, factory).check(DNSLookupError)


def test_a_resolver_that_breaks_is_an_error_too(reactor, names):
    names.answers = {"server": ZeroDivisionError("in the resolver")}
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    assert "in the resolver" in failure(reactor, factory).getErrorMessage()


def test_a_resolver_that_knows_no_address_is_an_error_too(reactor, names):
    names.answers = {"server": []}
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    assert failure(reactor, factory).check(ConnectError)


@pytest.mark.parametrize("as_text", [False, True], ids=["number", "text"])
@pytest.mark.parametrize("host", [LOCAL, "server.example"])
def test_a_port_out_of_range_is_an_error_and_not_taken_modulo(reactor, names, host, as_text):
    names.answers = {"server": [(LOCAL, None)]}
    server, number = listen(reactor)
    factory = RecordingClientFactory()
    wrong = number + 65536
    reactor.connectTCP(host, str(wrong) if as_text else wrong, factory)
    reason = failure(reactor, factory)
    assert reason.check(ConnectError)
    assert str(wrong) in reason.getErrorMessage()
    assert server.built == []


def test_a_negative_port_is_an_error(reactor):
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, -1, factory)
    reason = failure(reactor, factory)
    assert reason.check(ConnectError)
    assert "-1" in reason.getErrorMessage()


# --- Addresses


def test_several_addresses_are_tried_in_turn(reactor, names):
    _, number = listen(reactor)
    names.answers = {
        "server": [(LOCAL, unused_number()), (LOCAL, unused_number()), (LOCAL, number)]
    }
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    assert connected(reactor, factory).transport.getPeer().port == number
    assert factory.calls == ["startFactory", "started", "build"]


def test_the_last_address_says_why_none_was_good(reactor, names):
    names.answers = {"server": [("192.0.2.1.2", 1), (LOCAL, unused_number())]}
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    assert failure(reactor, factory).check(ConnectionRefusedError)


def test_an_address_of_a_family_that_is_not_there_is_passed_over(reactor, names, monkeypatch):
    _, number = listen(reactor)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *a, **k: [
            (12345, socket.SOCK_STREAM, 6, "", ("::1", number, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (LOCAL, number)),
        ],
    )
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", number, factory)
    assert connected(reactor, factory).transport.getPeer().port == number


def test_attempts_that_failed_keep_no_descriptor(reactor, names):
    names.answers = {"server": [(LOCAL, unused_number()) for _ in range(5)]}
    reactor.iterate()
    before = open_descriptors()
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    failure(reactor, factory)
    assert open_descriptors() == before
    assert reactor.getWriters() == reactor.getDelayedCalls() == []


def test_T3_families_take_turns():
    given = [(10, "a"), (10, "b"), (10, "c"), (2, "d"), (2, "e"), (1, "f")]
    order = [name for _, name in interleaved(given)]
    assert order == ["a", "d", "f", "b", "e", "c"]
    assert interleaved([]) == []


def test_T3_an_address_that_is_given_twice_is_tried_once():
    given = [(2, "a"), (2, "a"), (10, "b"), (2, "c"), (10, "b")]
    assert interleaved(given) == [(2, "a"), (10, "b"), (2, "c")]


def test_the_list_of_a_programs_own_resolver_is_not_changed(reactor):
    _, number = listen(reactor)
    reactor.resolver = Answers([(LOCAL, number)])
    for _ in range(2):
        factory = RecordingClientFactory()
        reactor.connectTCP("server.example", 80, factory)
        connected(reactor, factory)
    assert len(reactor.resolver.found) == 1


def test_T3_addresses_are_tried_in_the_order_of_their_turns(reactor, monkeypatch):
    def connect(self, address):
        tried.append(address[0])
        raise ConnectError(string="not here")

    tried = []
    monkeypatch.setattr(Attempt, "_connect", connect)
    reactor.resolver = Answers([])
    reactor.resolver.found = [(10, "a"), (10, "b"), (2, "c"), (2, "d")]
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    failure(reactor, factory)
    assert tried == [10, 2, 10, 2]


def test_T3_a_connector_that_gives_up_withdraws_its_question(reactor, names):
    hosts = [f"hung-{n}" for n in range(USUAL_LOOKUPS)]
    names.answers = {host: [(LOCAL, 1)] for host in [*hosts, "late"]}
    event = threading.Event()
    names.slow = dict.fromkeys(hosts, event)
    connectors = [
        reactor.connectTCP(f"{host}.example", 80, RecordingClientFactory())
        for host in [*hosts, "late"]
    ]
    pump(reactor, lambda: len(names.asked) == USUAL_LOOKUPS)
    for connector in connectors:
        connector.stopConnecting()
    event.set()
    pump(reactor, lambda: not reactor.resolver._running)
    iterations(reactor)
    assert "late.example" not in names.asked


class Slow(ScriptedPoller):
    """Attempts that stay in progress, but for those to the ports in `answer`."""

    def __init__(self):
        super().__init__()
        self.answer = set()
        self.calls = []  # of watch()

    def watch(self, fd, events, before):
        super().watch(fd, events, before)
        self.calls.append((fd, events, before))

    def poll(self, timeout, most):
        ready = super().poll(timeout, most)
        for fd in list(self.masks):
            with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
                if sock.family == socket.AF_INET and sock.getpeername()[1] in self.answer:
                    ready.append((fd, WRITE))
        return ready


@pytest.fixture
def several(closing, names):
    """Return (reactor, clock, poller, port numbers), for three addresses of "server.example"."""
    clock, poller = Clock(), Slow()
    reactor = closing(Reactor(poller, seconds=clock.seconds))
    listeners = [closing(socket.create_server((LOCAL, 0))) for _ in range(3)]
    numbers = [listener.getsockname()[1] for listener in listeners]
    reactor.resolver = Answers([(LOCAL, number) for number in numbers])
    return reactor, clock, poller, numbers


class Answers:
    """A resolver that answers at once."""

    def __init__(self, places):
        self.found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    def resolve(self, host, port, answer):
        answer(self.found)
        return self

    def cancel(self):
        pass


def peers(reactor):
    """Return the port numbers of the attempts in progress."""
    return [socket_of(writer).getpeername()[1] for writer in reactor.getWriters()]


def socket_of(writer):
    return writer._socket


def test_T3_the_next_address_is_tried_beside_one_that_does_not_answer(several):
    reactor, clock, poller, numbers = several
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    iterations(reactor)
    for count in (1, 2, 3, 3):
        assert peers(reactor) == numbers[:count]
        clock.advance(STAGGER_SECONDS)
        iterations(reactor)
    poller.answer = {numbers[1]}
    assert connected(reactor, factory).transport.getPeer().port == numbers[1]
    assert reactor.getWriters() == reactor.getDelayedCalls() == []
    assert not reactor.attempts


def test_T3_the_first_of_two_answers_is_taken_and_the_other_is_closed(several):
    reactor, clock, poller, numbers = several
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    iterations(reactor)
    clock.advance(STAGGER_SECONDS)
    iterations(reactor)
    first, second = map(socket_of, reactor.getWriters())
    poller.answer = set(numbers)
    assert connected(reactor, factory).transport.getPeer().port == numbers[0]
    iterations(reactor)
    assert second.fileno() == -1
    assert factory.connection.transport.connected
    assert factory.calls.count("build") == 1


def test_a_connection_changes_the_registration_of_its_attempt(several):
    reactor, _, poller, numbers = several
    factory = RecordingClientFactory()
    reactor.resolver = Answers([(LOCAL, numbers[0])])
    reactor.connectTCP("server.example", 80, factory)
    poller.answer = {numbers[0]}
    fd = connected(reactor, factory).transport.fileno()
    assert [call for call in poller.calls if call[0] == fd] == [
        (fd, WRITE, None),
        (fd, READ, WRITE),
    ]


def test_buildProtocol_that_raises_leaves_nothing_registered(several):
    class Raising(RecordingClientFactory):
        def buildProtocol(self, addr):
            raise ZeroDivisionError("in buildProtocol")

    reactor, _, poller, numbers = several
    factory = Raising()
    reactor.iterate()
    before = set(poller.masks)
    reactor.connectTCP("server.example", 80, factory)
    poller.answer = set(numbers)
    assert failure(reactor, factory).check(ZeroDivisionError)
    assert set(poller.masks) == before


def test_T3_every_address_gets_its_share_of_a_short_timeout(several):
    reactor, clock, poller, numbers = several
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory, timeout=0.4)
    iterations(reactor)
    for count in (1, 2, 3):
        assert peers(reactor) == numbers[:count]
        clock.advance(0.1)
        iterations(reactor)
    clock.advance(0.101)
    assert failure(reactor, factory).check(TimeoutError)
    assert reactor.getWriters() == []


def test_T3_from_one_local_port_the_addresses_are_tried_one_after_the_other(several):
    reactor, clock, poller, numbers = several
    factory = RecordingClientFactory()
    local = (LOCAL, unused_number())
    reactor.connectTCP("server.example", 80, factory, timeout=4, bindAddress=local)
    iterations(reactor)
    for number in numbers:
        assert peers(reactor) == [number]
        clock.advance(1)
        iterations(reactor)
    assert peers(reactor) == [numbers[2]]
    poller.answer = {numbers[2]}
    assert connected(reactor, factory).transport.getHost().port == local[1]


def test_T3_an_attempt_that_is_given_up_tries_no_further_address(several):
    reactor, clock, poller, numbers = several
    connector = reactor.connectTCP("server.example", 80, RecordingClientFactory())
    iterations(reactor)
    clock.advance(STAGGER_SECONDS)
    iterations(reactor)
    connector.stopConnecting()
    assert reactor.getWriters() == []
    clock.advance(60)
    iterations(reactor)
    assert reactor.getWriters() == []


@pytest.mark.skipif(sys.platform != "linux", reason="how others treat a full backlog differs")
def test_T3_a_host_is_reached_though_its_first_address_is_dead(reactor, closing):
    _, number = listen(reactor)
    dead = closing(socket.socket())
    dead.bind(("127.0.0.2", number))
    dead.listen(0)
    for _ in range(4):  # now it is full
        client = closing(socket.socket())
        client.setblocking(False)
        client.connect_ex(dead.getsockname())
    reactor.resolver = Answers([("127.0.0.2", number), (LOCAL, number)])
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", number, factory, timeout=PATIENCE)
    assert connected(reactor, factory).transport.getPeer().host == LOCAL


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([NoRouteError(errno.ENETUNREACH), ConnectionRefusedError(111)], ConnectionRefusedError),
        ([ConnectionRefusedError(111), NoRouteError(errno.ENETUNREACH)], ConnectionRefusedError),
        ([ConnectionRefusedError(111), ConnectError(errno.EAFNOSUPPORT)], ConnectionRefusedError),
        ([ConnectionRefusedError(111), ConnectBindError(errno.EINVAL)], ConnectionRefusedError),
        ([ConnectionRefusedError(111), TCPTimedOutError(110)], TCPTimedOutError),
        ([ConnectError(errno.EADDRNOTAVAIL), NoRouteError(errno.EHOSTUNREACH)], NoRouteError),
    ],
)
def test_T3_of_several_errors_the_most_specific_one_is_the_reason(
    reactor, monkeypatch, errors, expected
):
    def connect(self, address):
        raise remaining.pop(0)

    remaining = list(errors)
    monkeypatch.setattr(Attempt, "_connect", connect)
    reactor.resolver = Answers([(LOCAL, number) for number in range(1, len(errors) + 1)])
    factory = RecordingClientFactory()
    reactor.connectTCP("server.example", 80, factory)
    assert failure(reactor, factory).check(expected)


def test_a_port_that_nobody_listens_on_is_not_connected_to_itself(reactor):
    # Which number the system gives to a socket, we choose here, as it may by chance.
    number = unused_number()
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, bindAddress=(LOCAL, number))
    reason = failure(reactor, factory)
    assert reason.check(ConnectionRefusedError)
    assert reason.value.osError == errno.ECONNREFUSED


def test_a_lingering_socket_is_reclaimed_for_a_connection(reactor, monkeypatch):
    usual = socket.socket

    def none_left(*arguments, fileno=None):
        if fileno is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return usual(*arguments, fileno=fileno)

    def reclaim(own, limit):
        monkeypatch.setattr(socket, "socket", usual)
        return True

    _, number = listen(reactor)
    monkeypatch.setattr(Lingering, "reclaim", reclaim)
    monkeypatch.setattr(socket, "socket", none_left)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    assert factory.calls == ["startFactory", "started", "build"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_T4_an_attempt_that_is_given_up_ends_though_a_child_has_its_socket(closing):
    reactor = closing(Reactor(ScriptedPoller()))
    server = closing(socket.create_server((LOCAL, 0)))
    connector = reactor.connectTCP(*server.getsockname(), RecordingClientFactory())
    iterations(reactor)
    peer = closing(server.accept()[0])
    peer.settimeout(PATIENCE)
    with forked():
        connector.stopConnecting()
        try:
            assert peer.recv(1) == b""
        except ConnectionResetError:
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_T4_a_buildProtocol_that_forks_and_raises_ends_the_connection(reactor, closing, caplog):
    class Forking(RecordingClientFactory):
        def buildProtocol(self, addr):
            stack.enter_context(forked())
            raise ZeroDivisionError("in buildProtocol")

    server = closing(socket.create_server((LOCAL, 0)))
    factory = Forking()
    with contextlib.ExitStack() as stack:
        reactor.connectTCP(*server.getsockname(), factory)
        pump(reactor, lambda: factory.reason is not None, "the failure")
        peer = closing(server.accept()[0])
        peer.settimeout(PATIENCE)
        assert peer.recv(1) == b""
    caplog.clear()


# --- Failures


def test_a_refusal_is_a_ConnectionRefusedError_with_osError(reactor):
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, unused_number(), factory)
    reason = failure(reactor, factory)
    assert reason.check(ConnectionRefusedError)
    assert reason.value.osError == errno.ECONNREFUSED
    assert (connector.state, connector.transport) == ("disconnected", None)


def test_an_impossible_local_end_is_a_ConnectBindError(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, bindAddress=("192.0.2.1", 0))
    reason = failure(reactor, factory)
    assert reason.check(ConnectBindError)
    assert reason.value.osError == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    "local", [LOCAL, (LOCAL, "80"), (LOCAL, 70000), 5, (), (f"{LOCAL}\0x", 0), (f"{LOCAL} x", 0)]
)
def test_a_local_end_that_is_no_address_is_a_failure_too(reactor, local, caplog):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, bindAddress=local)
    assert failure(reactor, factory).check(ConnectBindError)
    assert caplog.records == []


def test_T2_the_loop_does_not_wait_for_the_name_of_a_local_end(reactor, names):
    _, number = listen(reactor)
    names.answers = {"here": [(LOCAL, None)]}
    names.slow["here"] = answer = threading.Event()
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, bindAddress=("here.example", 0))
    pump(reactor, lambda: names.asked)
    iterations(reactor)
    assert factory.calls == ["startFactory", "started"]
    answer.set()
    assert connected(reactor, factory).transport.getHost().host == LOCAL
    assert threading.current_thread() not in names.threads


def test_a_local_end_whose_name_nobody_knows_is_a_ConnectBindError(reactor, names):
    names.answers = {"here": socket.gaierror(socket.EAI_NONAME, "unknown")}
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, 1, factory, bindAddress=("here.example", 0))
    reason = failure(reactor, factory)
    assert reason.check(ConnectBindError)
    assert "'here.example'" in reason.getErrorMessage()


def test_a_socket_that_cannot_be_made_is_a_failure(reactor, monkeypatch):
    def none_left(*a, **k):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    reactor.iterate()
    monkeypatch.setattr(socket, "socket", none_left)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, 1, factory)
    assert failure(reactor, factory).value.osError == errno.EMFILE


def test_a_socket_that_cannot_be_watched_is_a_failure(closing, caplog):
    class Full(ScriptedPoller):
        def watch(self, fd, events, before):
            if len(self.masks) == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().watch(fd, events, before)

    reactor = closing(Reactor(Full()))
    with socket.create_server((LOCAL, 0)) as server:
        before = open_descriptors()
        factory = RecordingClientFactory()
        reactor.connectTCP(LOCAL, server.getsockname()[1], factory)
        assert failure(reactor, factory).value.osError == errno.ENOSPC
        assert len(open_descriptors() - before) <= 2  # the waker
        assert reactor.getWriters() == []


def test_a_connection_that_is_gone_again_is_a_failure(reactor, monkeypatch):
    class Gone(socket.socket):
        def getpeername(self):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    _, number = listen(reactor)
    monkeypatch.setattr(socket, "socket", Gone)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory)
    assert failure(reactor, factory).value.osError == errno.ENOTCONN


@pytest.fixture
def stuck(closing):
    """Return (reactor, clock, number): attempts to connect to that port never end."""
    clock = Clock()
    reactor = closing(Reactor(ScriptedPoller(), seconds=clock.seconds))
    server = closing(socket.create_server((LOCAL, 0)))
    return reactor, clock, server.getsockname()[1]


def test_an_attempt_ends_with_a_TimeoutError_after_30_seconds(stuck):
    reactor, clock, number = stuck
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    iterations(reactor)
    clock.advance(29.9)
    iterations(reactor)
    assert connector.state == "connecting"
    clock.advance(0.2)
    assert failure(reactor, factory).check(TimeoutError)
    assert connector.state == "disconnected"


def test_the_timeout_can_be_chosen(stuck):
    reactor, clock, number = stuck
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, timeout=5)
    iterations(reactor)
    clock.advance(5)
    assert "5" in failure(reactor, factory).getErrorMessage()


def test_without_a_timeout_an_attempt_has_no_limit(stuck):
    reactor, clock, number = stuck
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory, timeout=None)
    assert reactor.getDelayedCalls() == []
    iterations(reactor)
    clock.advance(10**9)
    iterations(reactor)
    assert factory.calls == ["startFactory", "started"]


@pytest.mark.parametrize("timeout", [-1, float("nan"), "30"])
def test_an_impossible_timeout_is_refused_at_once(reactor, timeout):
    factory = RecordingClientFactory()
    with pytest.raises((TypeError, ValueError)):
        reactor.connectTCP(LOCAL, 1, factory, timeout)
    assert factory.calls == []


def test_a_name_that_is_not_answered_times_out_and_a_late_answer_changes_nothing(closing, names):
    clock = Clock()
    reactor = closing(Reactor(seconds=clock.seconds))
    names.answers = {"slow": [(LOCAL, 1)]}
    names.slow["slow"] = answer = threading.Event()
    factory = RecordingClientFactory()
    reactor.connectTCP("slow.example", 80, factory)
    pump(reactor, lambda: names.asked)
    clock.advance(30)
    assert failure(reactor, factory).check(TimeoutError)
    answer.set()
    arrived = []
    reactor.callInThread(reactor.callFromThread, arrived.append, 1)
    pump(reactor, lambda: arrived)
    iterations(reactor)
    assert factory.calls == FAILED


@pytest.mark.skipif(sys.platform != "linux", reason="how others treat a full backlog differs")
def test_a_server_that_never_answers_times_out(reactor, closing):
    server = closing(socket.socket())
    server.bind((LOCAL, 0))
    server.listen(1)
    for _ in range(5):  # now it is full
        client = closing(socket.socket())
        client.setblocking(False)
        client.connect_ex(server.getsockname())
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, server.getsockname()[1], factory, timeout=0.05)
    assert failure(reactor, factory).check(TimeoutError)


def test_success_cancels_the_timeout(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    assert reactor.getDelayedCalls() == []


# --- stopConnecting and disconnect


@pytest.mark.parametrize("after", [0, 3], ids=["at once", "later"])
@pytest.mark.parametrize("end", ["stopConnecting", "disconnect"])
def test_an_attempt_that_is_given_up_fails_with_UserError(stuck, end, after):
    reactor, _, number = stuck
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    iterations(reactor, after)
    getattr(connector, end)()
    assert failure(reactor, factory).check(UserError)
    assert reactor.getWriters() == reactor.getDelayedCalls() == []


def test_an_attempt_may_be_given_up_inside_startedConnecting(reactor):
    class Reluctant(RecordingClientFactory):
        def startedConnecting(self, connector):
            super().startedConnecting(connector)
            connector.stopConnecting()

    factory = Reluctant()
    connector = reactor.connectTCP(LOCAL, 1, factory)
    assert failure(reactor, factory).check(UserError)
    assert connector.state == "disconnected"


def test_a_late_answer_after_stopConnecting_changes_nothing(reactor, names):
    server, number = listen(reactor)
    names.answers = {"slow": [(LOCAL, number)]}
    names.slow["slow"] = answer = threading.Event()
    factory = RecordingClientFactory()
    connector = reactor.connectTCP("slow.example", 80, factory)
    pump(reactor, lambda: names.asked)
    connector.stopConnecting()
    answer.set()
    arrived = []
    reactor.callInThread(reactor.callFromThread, arrived.append, 1)
    pump(reactor, lambda: arrived)
    iterations(reactor)
    assert factory.calls == FAILED
    assert server.built == []


def test_T3_the_next_attempt_shares_the_look_up_that_is_under_way(reactor, names):
    _, number = listen(reactor)
    names.answers = {"slow": [(LOCAL, number)]}
    names.slow["slow"] = answer = threading.Event()
    factory = RecordingClientFactory()
    connector = reactor.connectTCP("slow.example", 80, factory)
    pump(reactor, lambda: names.asked)
    connector.stopConnecting()
    connector.connect()
    answer.set()
    connected(reactor, factory)
    iterations(reactor)
    assert names.asked == ["slow.example"]
    assert factory.calls.count("build") == 1


def test_stopConnecting_is_an_error_when_it_is_not_connecting(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    with pytest.raises(NotConnectingError, match="it is connected"):
        connector.stopConnecting()
    connector.disconnect()
    pump(reactor, lambda: factory.reason is not None)
    with pytest.raises(NotConnectingError, match="it is disconnected"):
        connector.stopConnecting()


def test_disconnect_closes_a_connection_in_good_order(reactor):
    server, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    protocol = connected(reactor, factory)
    protocol.transport.write(b"goodbye")
    connector.disconnect()
    pump(reactor, lambda: factory.reason is not None and server.built and server.built[0].reason)
    assert factory.reason.check(ConnectionDone)
    assert server.built[0].received == b"goodbye"
    assert (connector.state, connector.transport) == ("disconnected", None)


def test_disconnect_when_there_is_nothing_is_harmless(reactor):
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, unused_number(), factory)
    failure(reactor, factory)
    connector.disconnect()
    assert factory.calls == FAILED


@pytest.mark.parametrize("state", ["connecting", "connected"])
def test_connect_is_an_error_unless_it_is_disconnected(reactor, state):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    if state == "connected":
        connected(reactor, factory)
    with pytest.raises(RuntimeError, match=f"it is {state} already"):
        connector.connect()


# --- The end of a connection


def test_the_protocol_is_notified_of_the_loss_before_its_factory_and_the_factory_stops_last(
    reactor,
):
    class Ordered(Recorder):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            factory.calls.append("protocol lost")

    server, number = listen(reactor)
    factory = RecordingClientFactory(Ordered())
    reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    pump(reactor, lambda: server.built)
    server.built[0].transport.loseConnection()
    pump(reactor, lambda: factory.reason is not None)
    expected = ["startFactory", "started", "build", "protocol lost", "lost", "stopFactory"]
    assert factory.calls == expected
    assert factory.reason is factory.connection.reason


def test_the_connector_is_disconnected_by_the_time_of_clientConnectionLost(reactor):
    class Looking(RecordingClientFactory):
        def clientConnectionLost(self, connector, reason):
            super().clientConnectionLost(connector, reason)
            self.seen = (connector.state, connector.transport)

    server, number = listen(reactor)
    factory = Looking()
    reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    pump(reactor, lambda: server.built)
    server.built[0].transport.abortConnection()
    pump(reactor, lambda: factory.reason is not None)
    assert factory.seen == ("disconnected", None)


def test_connect_inside_clientConnectionLost_reconnects_without_stopping_the_factory(reactor):
    class Reconnecting(RecordingClientFactory):
        def buildProtocol(self, addr):
            self.calls.append("build")
            self.connection = Recorder()
            return self.connection

        def clientConnectionLost(self, connector, reason):
            super().clientConnectionLost(connector, reason)
            if self.calls.count("lost") < 3:
                connector.connect()

    server, number = listen(reactor)
    factory = Reconnecting()
    reactor.connectTCP(LOCAL, number, factory)
    for count in (1, 2, 3):
        pump(reactor, lambda: len(server.built) == count)  # noqa: B023
        server.built[-1].transport.loseConnection()
        pump(reactor, lambda: factory.calls.count("lost") == count)  # noqa: B023
    assert factory.calls == ["startFactory", *["started", "build", "lost"] * 3, "stopFactory"]


def test_connect_inside_clientConnectionFailed_tries_again(reactor):
    class Retrying(RecordingClientFactory):
        def clientConnectionFailed(self, connector, reason):
            super().clientConnectionFailed(connector, reason)
            if self.calls.count("failed") < 3:
                connector.connect()

    factory = Retrying()
    reactor.connectTCP(LOCAL, unused_number(), factory)
    pump(reactor, lambda: "stopFactory" in factory.calls)
    assert factory.calls == ["startFactory", *["started", "failed"] * 3, "stopFactory"]


def test_connect_after_the_end_starts_the_factory_again(reactor):
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, unused_number(), factory)
    failure(reactor, factory)
    connector.connect()
    pump(reactor, lambda: factory.calls.count("failed") == 2)
    assert factory.calls == FAILED * 2


def test_a_factory_of_two_connectors_stops_after_the_last(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, unused_number(), factory)
    connector = reactor.connectTCP(LOCAL, number, factory)
    pump(reactor, lambda: "failed" in factory.calls and factory.connection is not None)
    iterations(reactor)
    assert "stopFactory" not in factory.calls
    connector.disconnect()
    pump(reactor, lambda: "lost" in factory.calls)
    assert factory.calls.count("stopFactory") == 1
    assert factory.calls[-1] == "stopFactory"


# --- Factories that misbehave


def test_buildProtocol_that_gives_None_closes_gracefully(reactor):
    class Declining(RecordingClientFactory):
        def buildProtocol(self, addr):
            self.calls.append("build")

    server, number = listen(reactor)
    factory = Declining()
    reactor.connectTCP(LOCAL, number, factory)
    pump(reactor, lambda: factory.reason is not None and server.built and server.built[0].reason)
    assert factory.calls == ["startFactory", "started", "build", "lost", "stopFactory"]
    assert factory.reason.check(ConnectionDone)
    assert server.built[0].reason.check(ConnectionDone)


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_buildProtocol_that_raises_is_logged_and_a_failure(reactor, caplog, error):
    class Raising(RecordingClientFactory):
        def __repr__(self):
            raise AttributeError("nothing works here")

        def buildProtocol(self, addr):
            raise error("in buildProtocol")

    server, number = listen(reactor)
    factory = Raising()
    reactor.connectTCP(LOCAL, number, factory)
    reason = failure(reactor, factory)
    pump(reactor, lambda: server.built and server.built[0].reason)
    assert reason.check(error)
    assert [record.exc_info[0] for record in caplog.records] == [error]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_T4_buildProtocol_that_forks_and_raises_closes_the_connection(reactor, closing, caplog):
    class Raising(RecordingClientFactory):
        def buildProtocol(self, addr):
            child.enter_context(forked())
            raise ZeroDivisionError("in buildProtocol")

    server = closing(socket.create_server((LOCAL, 0)))
    server.settimeout(PATIENCE)
    factory = Raising()
    with contextlib.ExitStack() as child:
        reactor.connectTCP(*server.getsockname(), factory)
        failure(reactor, factory)
        peer = closing(server.accept()[0])
        peer.settimeout(PATIENCE)
        assert peer.recv(1) == b""


@pytest.mark.parametrize("call", ["clientConnectionFailed", "clientConnectionLost"])
def test_a_factory_that_raises_at_the_end_is_logged_and_stopped(reactor, caplog, call):
    def fail(connector, reason):
        factory.reason = reason
        raise ZeroDivisionError(call)

    _, number = listen(reactor)
    factory = RecordingClientFactory()
    setattr(factory, call, fail)
    lost = call == "clientConnectionLost"
    connector = reactor.connectTCP(LOCAL, number if lost else unused_number(), factory)
    if lost:
        connected(reactor, factory)
        connector.disconnect()
    pump(reactor, lambda: factory.reason is not None)
    iterations(reactor)
    assert factory.calls[-1] == "stopFactory"
    assert connector.state == "disconnected"
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_a_factory_that_cannot_start_leaves_the_connector_as_it_was(reactor):
    class Broken(RecordingClientFactory):
        broken = True

        def startFactory(self):
            if self.broken:
                raise ZeroDivisionError("in startFactory")
            super().startFactory()

    factory = Broken()
    with pytest.raises(ZeroDivisionError):
        reactor.connectTCP(LOCAL, 1, factory)
    iterations(reactor)
    assert factory.calls == []
    assert reactor.getDelayedCalls() == []


def test_a_factory_that_raises_in_startedConnecting_leaves_nothing_behind(reactor):
    class Broken(RecordingClientFactory):
        broken = True

        def startedConnecting(self, connector):
            self.connector = connector
            super().startedConnecting(connector)
            if self.broken:
                raise ZeroDivisionError("in startedConnecting")

    server, number = listen(reactor)
    factory = Broken()
    with pytest.raises(ZeroDivisionError):
        reactor.connectTCP(LOCAL, number, factory)
    iterations(reactor)
    assert factory.calls == ["startFactory", "started", "stopFactory"]
    assert factory.connector.state == "disconnected"
    assert server.built == []
    factory.broken = False
    factory.connector.connect()
    connected(reactor, factory)


@pytest.mark.parametrize("error", [ZeroDivisionError, GeneratorExit])
@pytest.mark.parametrize("name", ["clientConnectionFailed", "stopFactory"])
def test_B3_what_a_factory_raises_at_the_end_is_logged_and_it_can_connect_again(
    reactor, caplog, name, error
):
    def broken(*arguments):
        raise error("of the factory")

    factory = RecordingClientFactory()
    setattr(factory, name, broken)
    connector = reactor.connectTCP(LOCAL, unused_number(), factory)
    connector.stopConnecting()
    assert connector.state == "disconnected"
    assert factory.numPorts == 0
    assert [record.exc_info[0] for record in caplog.records] == [error]
    assert name.replace("stopFactory", "doStop") in caplog.text
    delattr(factory, name)
    connector.connect()
    pump(reactor, lambda: factory.calls[-2:] == ["failed", "stopFactory"])


def test_B3_what_stopFactory_raises_after_a_connection_is_logged(reactor, caplog):
    class Broken(RecordingClientFactory):
        def stopFactory(self):
            super().stopFactory()
            raise ZeroDivisionError("in stopFactory")

    _, number = listen(reactor)
    factory = Broken()
    connector = reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    connector.disconnect()
    pump(reactor, lambda: "stopFactory" in factory.calls)
    assert connector.state == "disconnected"
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_B3_buildProtocol_may_raise_anything(reactor, caplog):
    class Broken(RecordingClientFactory):
        def buildProtocol(self, addr):
            raise GeneratorExit

    _, number = listen(reactor)
    factory = Broken()
    reactor.connectTCP(LOCAL, number, factory)
    assert failure(reactor, factory).check(GeneratorExit)


def test_the_timeout_of_an_attempt_is_internal(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    reactor.connectTCP(LOCAL, number, factory)
    assert reactor.getDelayedCalls() == []
    connected(reactor, factory)


def test_a_timeout_that_was_cancelled_is_not_cancelled_again(reactor, caplog):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    connector._timer.cancel()
    connected(reactor, factory)
    assert caplog.records == []


def test_nothing_is_logged_when_all_goes_well(reactor, caplog):
    caplog.set_level(logging.INFO)
    server, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL, number, factory)
    connected(reactor, factory)
    connector.disconnect()
    pump(reactor, lambda: factory.reason is not None and server.built and server.built[0].reason)
    assert caplog.records == []


def test_the_repr_says_the_destination_and_the_state(reactor):
    connector = reactor.connectTCP(LOCAL, 1, RecordingClientFactory())
    assert repr(connector) == f"<Connector to {LOCAL}:1, connecting>"


def test_the_connector_has_its_transport_in_buildProtocol_already(reactor):
    class Looks(RecordingClientFactory):
        def startedConnecting(self, connector):
            self.connector = connector

        def buildProtocol(self, addr):
            self.seen = self.connector.transport
            return super().buildProtocol(addr)

    _, number = listen(reactor)
    factory = Looks()
    reactor.connectTCP(LOCAL, number, factory)
    protocol = connected(reactor, factory)
    assert factory.seen is protocol.transport


def test_the_host_may_be_bytes(reactor):
    _, number = listen(reactor)
    factory = RecordingClientFactory()
    connector = reactor.connectTCP(LOCAL.encode(), number, factory)
    assert connector.getDestination() == IPv4Address("TCP", LOCAL, number)
    assert connected(reactor, factory).calls == ["made"]
