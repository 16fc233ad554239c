"""The server behind the proxy command: limits of two connections together, several targets."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import sys
import weakref

import pytest
from proxy_support import end_of, full, listening, other, send_until_it_sticks, unused_number
from support import PATIENCE, OneFactory, connect, drain, iterations, pump, receive, reset

from minireactor.address import IPv4Address, host_port
from minireactor.error import CannotListenError, ConnectError, DNSLookupError
from minireactor.failure import Failure
from minireactor.log import WARN_SECONDS
from minireactor.proxy import factory, legs
from minireactor.proxy.balance import LEAST_CONNECTIONS, ROUND_ROBIN, SLOW_SECONDS
from minireactor.proxy.factory import Proxy, ProxyFactory
from minireactor.proxy.relay import Relay
from minireactor.transports import connector
from minireactor.transports import kernel as queues

needs_first_packets = pytest.mark.skipif(
    sys.platform != "linux", reason="the system does not keep the first packet of a connection"
)

PLENTY = bytes(32 * 1024 * 1024)
SIDES = ["client", "target"]


class Target:
    """A plain server that accepts every connection."""

    def __init__(self, closing):
        self.listener = closing(listening())
        self.listener.settimeout(PATIENCE)
        self.place = "127.0.0.1", self.listener.getsockname()[1]
        self._closing = closing

    def accept(self):
        return self._closing(self.listener.accept()[0])

    def accept_all(self):
        """Accept all waiting connections."""
        self.listener.setblocking(False)
        found = []
        while True:
            try:
                found.append(self.accept())
            except BlockingIOError:
                return found


@pytest.fixture
def target(closing):
    return Target(closing)


@pytest.fixture
def start(reactor, target):
    """start(*places, **options) returns a listening Relay, and records `events` and `ended`."""

    def start(*places, on=reactor, high=65536, listen=("127.0.0.1", 0), **options):
        events = []
        ended = []

        def note(event, proxy, detail):
            events.append(event)
            if event == "connectionLost":
                ended.append(str(proxy).rpartition(" s, ")[2])

        relay = Relay(
            on,
            places or [target.place],
            on_event=note,
            on_stopped=lambda: events.append("stopped"),
            **options,
        )
        relay.events = events
        relay.ends = ended
        relay.listen(*listen, high)
        return relay

    return start


@pytest.fixture
def come(closing):
    """come(relay) returns a plain client that the relay has just accepted."""

    def come(relay):
        before = relay.events.count("connectionMade")
        client = closing(connect(relay.ports[0]))
        pump(relay.reactor, lambda: relay.events.count("connectionMade") > before, "the client")
        return client

    return come


@pytest.fixture
def meet(come, target):
    """meet(relay) returns (client, target), plain sockets that the relay has joined."""

    def meet(relay):
        before = relay.events.count("connected")
        client = come(relay)
        pump(relay.reactor, lambda: relay.events.count("connected") > before, "the target")
        return client, target.accept()

    return meet


def ends(pair, source):
    return pair if source == "client" else pair[::-1]


def caused(error, cause):
    error.__cause__ = cause
    return error


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def let_pass(time, reactor, seconds, step):
    """Move the time by `seconds` in steps, with the reactor running."""
    until = time() + seconds
    while time() < until:
        time.advance(step)
        iterations(reactor, 3)


# The events that it reports.


def test_events_report_a_conversation_and_its_pauses(start, meet, reactor):
    relay = start()
    client, target = meet(relay)
    send_until_it_sticks(reactor, target, PLENTY)
    assert relay.paused == {next(iter(relay.connections))}
    while len(relay.paused):
        receive(reactor, client, 65536)
    client.close()
    target.close()
    pump(reactor, lambda: not relay.connections, "the end")
    assert relay.events[:2] == ["connectionMade", "connected"]
    assert relay.events[-1] == "connectionLost"
    assert set(relay.events[2:-1]) == {"pauseProducing", "resumeProducing"}
    assert relay.paused == set()


def test_nothing_of_a_conversation_is_kept_after_its_end(start, meet, time, timed):
    relay = start(on=timed, idle_timeout=60, stall_timeout=60)
    client, accepted = meet(relay)
    (transport,) = relay.connections
    left = [weakref.ref(part) for part in relay._proxies[transport].transports]
    let_pass(time, timed, 40, step=10)  # it is looked at
    del transport
    client.close()
    accepted.close()
    pump(timed, lambda: not relay.connections, "the end")
    gc.collect()
    assert [part() for part in left] == [None, None]


@pytest.mark.parametrize("source", SIDES)
def test_a_pause_names_the_slow_side(reactor, target, come, source):
    details = []

    def note(event, proxy, detail):
        if event == "pauseProducing":
            details.append("client" if detail is proxy.client else "target")

    relay = Relay(reactor, [target.place], on_event=note)
    relay.events = ["connectionMade"]
    relay.listen("127.0.0.1", 0)
    with connect(relay.ports[0]) as client:
        pump(reactor, lambda: len(relay._proxies) == 2, "both")
        send_until_it_sticks(reactor, ends((client, target.accept()), source)[0], PLENTY)
    assert set(details) == {other(source)}


def test_each_connection_says_where_it_leads(start, come, target, reactor):
    relay = start()
    client = come(relay)
    (transport,) = relay.connections
    assert relay.label(transport) == ""
    pump(reactor, lambda: len(relay._proxies) == 2, "the target")
    accepted = target.accept()
    of_target = relay._proxies[transport].target
    assert relay.label(transport) == "-> {}:{}".format(*target.place)
    assert relay.label(of_target) == "<- {}:{}".format(*client.getsockname())
    client.close()
    accepted.close()
    pump(reactor, lambda: not relay.connections, "the end")
    assert relay.label(transport) == relay.label(of_target) == ""


def test_totals_are_those_of_the_clients_and_the_pauses_of_both_sides(start, meet, reactor):
    relay = start()
    client, target = meet(relay)
    client.sendall(b"12345")
    receive(reactor, target, 5)
    target.sendall(b"123")
    receive(reactor, client, 3)
    assert str(relay.totals()) == (
        "connections 1, bytes in 5, bytes out 3, pauses 0, highest pending 5 bytes"
    )
    send_until_it_sticks(reactor, client, PLENTY)
    assert relay.totals().pauses >= 1
    reset(client)
    pump(reactor, lambda: not relay.connections, "the end")
    assert relay.totals().pauses >= 1
    assert relay.totals().highest_pending > 64 * 1024


def test_marks_hold_for_both_connections(reactor, target, closing):
    relay = Relay(reactor, [target.place])
    relay.listen("127.0.0.1", 0, 5000, 100)
    closing(connect(relay.ports[0]))
    pump(reactor, lambda: len(relay._proxies) == 2, "both")
    assert [transport.bufferSize for transport in relay._proxies] == [5000, 5000]


def test_the_rate_limits_each_client(timed, time, start, meet):
    relay = start(on=timed, rate=1000)
    client, target = meet(relay)
    client.sendall(bytes(100_000))
    let_pass(time, timed, 10, step=0.01)
    passed = sum(transport.bytes_out for transport in relay._proxies)
    assert abs(passed - 10_000) <= 110
    assert len(receive(timed, target, passed)) == passed


# A client and its target are one connection.


def test_a_client_counts_until_its_target_has_gone_too(start, meet, reactor):
    relay = start(max_connections=1, high=2 * len(PLENTY))
    client, target = meet(relay)
    target.shutdown(socket.SHUT_WR)
    assert drain(reactor, client) == b""
    assert send_until_it_sticks(reactor, client, PLENTY) == len(PLENTY)
    client.close()
    (connection,) = relay.connections
    pump(reactor, lambda: connection.disconnected, "the client's end")
    assert relay.connections == {connection} and relay.is_full()

    assert len(drain(reactor, target)) == len(PLENTY)
    target.close()
    pump(reactor, lambda: not relay.connections, "the end")
    assert relay.ends == ["closed in good order"]
    assert relay._proxies == {} and relay._timeouts.activity == {}


def test_stopping_waits_for_bytes_that_only_the_target_still_has_to_get(start, meet, reactor):
    relay = start()
    client, target = meet(relay)
    target.shutdown(socket.SHUT_WR)
    sent = send_until_it_sticks(reactor, client, PLENTY)
    client.close()
    relay.stop(60)

    assert len(drain(reactor, target)) == sent
    target.close()
    pump(reactor, lambda: "stopped" in relay.events, "the end")


def test_clients_beyond_the_limit_are_closed_at_once(start, meet, reactor, closing):
    relay = start(max_connections=1)
    inside, target = meet(relay)
    assert drain(reactor, closing(connect(relay.ports[0]))) == b""
    inside.sendall(b"x")
    assert receive(reactor, target, 1) == b"x"


# Timeouts.


@pytest.mark.parametrize("busy", SIDES)
def test_bytes_in_either_direction_keep_both(timed, time, start, meet, busy):
    relay = start(on=timed, idle_timeout=100)
    pair = meet(relay)
    source, sink = ends(pair, busy)
    for _ in range(10):
        source.sendall(b"x")
        receive(timed, sink, 1)
        let_pass(time, timed, 75, step=25)
    assert relay.connections


@pytest.mark.slow
def test_a_long_drain_outlives_the_idle_timeout_and_its_source(timed, time, start, meet):
    relay = start(on=timed, idle_timeout=10, high=2 * len(PLENTY))
    client, target = meet(relay)
    client.shutdown(socket.SHUT_WR)
    assert send_until_it_sticks(timed, target, PLENTY) == len(PLENTY)
    target.close()
    pump(timed, lambda: len([t for t in relay._proxies if t.connected]) == 1, "the target's end")
    received = 0
    for _ in range(20):
        received += len(receive(timed, client, len(PLENTY) // 25))
        let_pass(time, timed, 5, step=2.5)
    assert relay.connections
    received += len(drain(timed, client))
    assert received == len(PLENTY)
    pump(timed, lambda: relay.ends, "the end")
    assert relay.ends == ["closed in good order"]


def test_two_that_are_silent_are_both_closed_in_order(timed, time, start, meet):
    relay = start(on=timed, idle_timeout=100)
    client, target = meet(relay)
    let_pass(time, timed, 150, step=25)
    assert drain(timed, client) == drain(timed, target) == b""
    client.close()
    target.close()
    pump(timed, lambda: not relay.connections, "the end")
    assert relay.ends == ["idle for 100 s"]
    assert timed.getDelayedCalls() == []


def test_an_idle_client_without_a_target_is_closed(timed, time, start, come, closing):
    relay = start(("127.0.0.1", full(closing)), on=timed, idle_timeout=10, timeout=1000)
    client = come(relay)
    let_pass(time, timed, 15, step=2.5)
    assert drain(timed, client) == b""
    assert relay.ends == ["idle for 10 s"]
    assert timed.getDelayedCalls() == []


@pytest.mark.parametrize("source", SIDES)
def test_a_side_that_takes_nothing_is_aborted_and_so_is_the_other(timed, time, start, meet, source):
    relay = start(on=timed, stall_timeout=10)
    near, far = ends(meet(relay), source)
    send_until_it_sticks(timed, near, PLENTY)
    let_pass(time, timed, 7.5, step=2.5)
    assert relay.connections

    let_pass(time, timed, 10, step=2.5)

    assert relay.ends == [f"{other(source)}: took none of its bytes for 10 s"]
    assert end_of(timed, near)[1] == end_of(timed, far)[1] == "reset"


def test_a_side_that_takes_nothing_is_stalled_though_the_other_direction_flows(
    timed, time, start, meet
):
    relay = start(on=timed, stall_timeout=10, idle_timeout=1000)
    client, target = meet(relay)
    send_until_it_sticks(timed, client, PLENTY)
    for _ in range(5):
        target.sendall(b"x")
        receive(timed, client, 1)
        let_pass(time, timed, 2.5, step=2.5)
    assert relay.ends == ["target: took none of its bytes for 10 s"]


def test_an_idle_side_with_bytes_waiting_for_it_is_aborted(timed, time, start, meet):
    relay = start(on=timed, idle_timeout=10)
    client, target = meet(relay)
    send_until_it_sticks(timed, target, PLENTY)
    let_pass(time, timed, 20, step=2.5)
    assert relay.ends == ["idle for 10 s"]
    assert end_of(timed, client)[1] == end_of(timed, target)[1] == "reset"


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="no times of keepalive to set")
def test_the_system_asks_silent_peers_of_both_sides(start, meet):
    relay = start(keepalive=60)
    meet(relay)
    for transport in relay._proxies:
        sock = transport.getHandle()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        assert [sock.getsockopt(socket.IPPROTO_TCP, one) for one in options] == [60, 6]


def test_without_keepalive_the_system_sends_no_probes(start, meet):
    relay = start()
    meet(relay)
    assert len(relay._proxies) == 2
    assert not any(transport.getTcpKeepAlive() for transport in relay._proxies)


# Several targets.


def test_one_target_of_three_down_is_noticed_by_no_client(reactor, closing, start, come, caplog):
    good = [Target(closing), Target(closing)]
    bad = "127.0.0.1", unused_number()
    relay = start(bad, *(target.place for target in good), balance=ROUND_ROBIN)
    clients = [come(relay) for _ in range(9)]
    pump(reactor, lambda: relay.events.count("connected") == 9, "all of them")
    taken = [target.accept_all() for target in good]
    for sock in taken[0] + taken[1]:
        sock.sendall(b"welcome")
    assert abs(len(taken[0]) - len(taken[1])) <= 3
    for client in clients:
        assert receive(reactor, client, 7) == b"welcome"
    assert relay.events.count("failed") == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"target 127.0.0.1:{bad[1]} is down: "
        f"The peer refused the connection: {errno.ECONNREFUSED}: Connection refused."
    ]
    assert caplog.records[0].uncounted  # a change of state


def test_least_gives_each_client_to_the_target_with_the_fewest(reactor, closing, start, come):
    targets = [Target(closing), Target(closing)]
    relay = start(*(target.place for target in targets), balance=LEAST_CONNECTIONS)

    def arrive(number):
        client = come(relay)
        pump(reactor, lambda: relay.events.count("connected") == number, "the target")
        place = list(relay._proxies.values())[-1].place
        return client, [target.place for target in targets].index(place)

    came = [arrive(number) for number in range(1, 5)]
    assert sorted(where for _, where in came) == [0, 0, 1, 1]
    for client, where in came:
        if where == 0:
            reset(client)
    pump(reactor, lambda: len(relay.connections) == 2, "two to go")
    assert [arrive(5)[1], arrive(6)[1]] == [0, 0]


def test_all_targets_down_closes_the_client_at_once(reactor, start, come):
    relay = start(*(("127.0.0.1", unused_number()) for _ in range(3)))
    assert drain(reactor, come(relay)) == b""
    assert relay.events == ["connectionMade", *["failed"] * 3, "connectionLost"]
    assert relay.ends[0].startswith("no target: The peer refused the connection")
    assert reactor.getDelayedCalls() == [] and reactor.getReaders() == [relay.ports[0]]


def test_a_single_target_that_is_down_is_no_news_besides_the_line(reactor, start, come, caplog):
    caplog.set_level(logging.WARNING, "minireactor")
    relay = start(("127.0.0.1", unused_number()))
    drain(reactor, come(relay))
    assert caplog.records == []


def test_a_target_is_not_to_blame_for_descriptors_that_we_lack(
    reactor, start, come, target, monkeypatch, caplog
):
    relay = start(target.place, ("127.0.0.1", unused_number()))
    usual = socket.socket

    def no_more(*arguments, fileno=None):
        if fileno is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return usual(*arguments, fileno=fileno)

    client = come(relay)
    with monkeypatch.context() as patch:
        patch.setattr(connector.socket, "socket", no_more)
        pump(reactor, lambda: relay.ends, "the end")
    assert os.strerror(errno.EMFILE) in relay.ends[0]
    assert drain(reactor, client) == b""
    assert next(relay.balancer.places()) == target.place
    assert caplog.records == []


def test_a_target_that_answers_nobody_costs_those_who_come_later_nothing(
    timed, time, start, come, closing, target
):
    relay = start(("127.0.0.1", full(closing)), target.place, on=timed, timeout=100)
    early = come(relay)
    let_pass(time, timed, SLOW_SECONDS, step=0.5)
    late = [come(relay) for _ in range(3)]
    pump(timed, lambda: relay.events.count("connected") == 3, "those who came later")
    assert len(target.accept_all()) == 3
    early.close()
    late.clear()


@pytest.mark.parametrize(
    "error",
    [
        ConnectError(errno.EMFILE, "Too many open files"),
        DNSLookupError(errno.EMFILE, "Too many open files"),
        DNSLookupError(OSError(errno.ENFILE, "Too many open files in system")),
        caused(DNSLookupError("cannot resolve"), OSError(errno.EMFILE, "Too many open files")),
        RuntimeError("a factory has raised"),
    ],
)
def test_a_target_is_not_blamed_for_what_is_our_own_fault(start, target, error, caplog):
    relay = start(target.place, ("127.0.0.1", unused_number()))
    conversation = Proxy(relay._relay_factory)
    conversation.place = target.place
    relay.trying(conversation)
    relay.failed(conversation, Failure(error))
    assert next(relay.balancer.places()) == target.place
    assert warnings(caplog) == []


@pytest.mark.parametrize("error", [ConnectError(errno.ECONNREFUSED), DNSLookupError("no such")])
def test_a_target_is_blamed_for_what_is_its_fault(start, target, error):
    relay = start(target.place, ("127.0.0.1", unused_number()))
    conversation = Proxy(relay._relay_factory)
    conversation.place = target.place
    relay.failed(conversation, Failure(error))
    assert [*relay.balancer.places()][-1] == target.place


# What others raise.


@pytest.mark.parametrize(
    "event", ["connectionMade", "connected", "failed", "connectionLost", "join", "trying"]
)
def test_B3_what_an_observer_raises_ends_one_conversation_and_leaves_the_counts_right(
    reactor, closing, target, monkeypatch, event
):
    raised = []

    def fail(happened, proxy=None, detail=None):
        if happened == event and not raised:
            raised.append(proxy)
            raise RuntimeError("an observer's fault")

    places = [("127.0.0.1", unused_number()), target.place]
    relay = Relay(reactor, places, on_event=fail)
    joined, trying = factory.join, relay.trying
    monkeypatch.setattr(factory, "join", lambda *given: (fail("join"), joined(*given)))
    monkeypatch.setattr(relay, "trying", lambda given: (trying(given), fail("trying")))
    ended = []
    whole = relay.ended
    monkeypatch.setattr(relay, "ended", lambda given: (ended.append(given), whole(given)))
    relay.listen("127.0.0.1", 0)
    client = closing(connect(relay.ports[0]))
    if event == "connectionLost":
        pump(reactor, lambda: len(relay._proxies) == 2, "the target")
        client.close()
    else:
        drain_to_the_end(reactor, client)
    for server in target.accept_all():
        drain_to_the_end(reactor, server)
    pump(reactor, lambda: raised and not relay.connections, "the end")
    iterations(reactor, 5)
    assert len(ended) == 1
    assert relay._proxies == {} and relay.paused == set()
    assert relay.totals().connections == 1
    assert not any(each.clients or each.attempts for each in relay.balancer._targets.values())
    assert reactor.getReaders() == [relay.ports[0]]
    other = closing(connect(relay.ports[0]))
    pump(reactor, lambda: len(relay._proxies) == 2, "another client's target")
    other.close()


def drain_to_the_end(reactor, sock):
    end_of(reactor, sock)
    sock.close()


@pytest.mark.parametrize("has_leg", [True, False])
def test_an_end_of_the_client_while_the_join_fails_is_reported_once(
    reactor, closing, target, monkeypatch, has_leg
):
    ended = []
    relay = Relay(reactor, [target.place], on_event=lambda *event: ended.append(event[0]))

    def half(client, far, rate, on_lost, splice):
        if has_leg:
            client.protocol = legs.Leg(client, far, far, on_lost)
        client.abortConnection()
        raise RuntimeError("half of it is done")

    monkeypatch.setattr(factory, "join", half)
    relay.listen("127.0.0.1", 0)
    end_of(reactor, closing(connect(relay.ports[0])))
    pump(reactor, lambda: not relay.connections, "the end")
    iterations(reactor, 5)
    assert ended.count("connectionLost") == 1


# Targets that lead back.


@pytest.mark.parametrize(
    "host, place",
    [
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.2"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "localhost"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("127.0.0.1", "127.1"),
        ("127.0.0.1", "LOCALHOST"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_a_proxy_that_is_its_own_target_refuses_its_own_connection(
    reactor, closing, start, caplog, host, place
):
    number = unused_number()
    try:
        relay = start((place, number), listen=(host, number))
    except CannotListenError:
        pytest.skip(f"no {host} here")
    client = closing(socket.create_connection(("::1" if host == "::1" else "127.0.0.1", number)))
    client.sendall(b"x")
    pump(reactor, lambda: relay.events.count("connectionLost") == 2, "the end of both")
    assert drain(reactor, client) == b""
    assert relay.totals().connections == 2
    assert relay.ends[-1].startswith(("no target: ", "closed in good order"))
    assert relay._relay_factory.loops._outgoing == {}
    assert warnings(caplog) == [
        f"{host_port(place, number)} is this proxy itself; "
        "give another target, or listen on another port"
    ]


def test_a_client_of_a_proxy_that_is_one_of_its_targets_gets_another(
    reactor, start, come, target, caplog
):
    number = unused_number()
    relay = start(("127.0.0.1", number), target.place, listen=("127.0.0.1", number))
    client = come(relay)
    pump(reactor, lambda: "connected" in relay.events, "the other target")
    target.accept().sendall(b"welcome")
    assert receive(reactor, client, 7) == b"welcome"
    assert next(relay.balancer.places()) == target.place
    assert len(warnings(caplog)) == 2


def test_a_proxy_that_detects_its_own_connection_late_closes_it(reactor, start, come, caplog):
    number = unused_number()
    relay = start(("127.0.0.1", number), listen=("127.0.0.1", number))
    client = come(relay)
    relay.ports[0].reading = False
    pump(reactor, lambda: "connected" in relay.events, "the connection to itself")
    relay.ports[0].reading = True
    reactor.unregister(relay.ports[0])
    reactor.update_interest(relay.ports[0])
    assert drain(reactor, client) == b""
    client.close()
    pump(reactor, lambda: not relay.connections, "the end of both")
    assert relay.totals().connections == 2
    assert len(warnings(caplog)) == 1


def test_B3_an_exception_about_a_target_that_leads_back_ends_its_client(reactor, closing):
    def fail(event, proxy, detail):
        if event == "failed":
            raise RuntimeError("an observer's fault")

    number = unused_number()
    relay = Relay(reactor, [("127.0.0.1", number)], on_event=fail)
    relay.listen("127.0.0.1", number)
    end_of(reactor, closing(connect(relay.ports[0])))
    pump(reactor, lambda: not relay.connections, "the end of both")
    assert relay.totals().connections == 2


def test_that_a_target_leads_back_is_said_once_in_a_while(timed, time, start, come, caplog):
    number = unused_number()
    relay = start(("127.0.0.1", number), listen=("127.0.0.1", number), on=timed)
    for count in (1, 1, 2):
        drain(timed, come(relay))
        pump(timed, lambda: not relay.connections, "the end of both")
        assert len(warnings(caplog)) == count
        time.advance(WARN_SECONDS / 2)


def test_a_client_with_the_port_number_of_a_connection_to_elsewhere_is_accepted(closing):
    # A system gives one number to two sockets whose peers are different.
    listener = closing(socket.create_server(("127.0.0.1", 0)))
    sock = closing(socket.create_connection(listener.getsockname()))
    own, peer = IPv4Address("TCP", *sock.getsockname()), IPv4Address("TCP", *sock.getpeername())
    elsewhere = IPv4Address("TCP", "127.0.0.9", peer.port)
    conversation = Proxy(ProxyFactory("127.0.0.1", peer.port))
    conversation.client = Ends(own, peer)
    loops = conversation.factory.loops
    loops.add(conversation, sock, sock.getpeername())
    assert loops.origin(Ends(own, peer)) is conversation
    assert loops.origin(Ends(own, elsewhere)) is None
    loops.forget(conversation)
    assert loops.origin(Ends(own, peer)) is None


class Ends:
    """The addresses of a connection, without the connection."""

    def __init__(self, peer, host):
        self.getPeer = lambda: peer
        self.getHost = lambda: host


@needs_first_packets
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", [2, 3])
def test_one_client_of_a_ring_of_proxies_becomes_few_connections(
    reactor, closing, start, caplog, size, host
):
    numbers = [unused_number() for _ in range(size)]
    try:
        relays = [
            start((host, numbers[place - 1]), listen=(host, number))
            for place, number in enumerate(numbers)
        ]
    except CannotListenError:
        pytest.skip(f"no {host} here")
    client = closing(socket.create_connection((host, numbers[0])))
    client.sendall(b"x")
    assert drain(reactor, client) == b""
    client.close()
    pump(reactor, lambda: not any(relay.connections for relay in relays), "the end of all")
    assert sum(relay.totals().connections for relay in relays) == 6
    (warning,) = warnings(caplog)
    assert warning.startswith("a client has come through too many proxies: ")


def test_a_few_proxies_in_a_row_are_no_ring(reactor, closing, start, target):
    place = target.place
    for _ in range(5):
        place = "127.0.0.1", start(place).ports[0].getHost().port
    client = closing(socket.create_connection(place))
    client.sendall(b"x")
    server = []
    target.listener.setblocking(False)
    pump(reactor, lambda: server.extend(target.accept_all()) or server, "the target")
    assert receive(reactor, server[0], 1) == b"x"


# The end.


@pytest.mark.parametrize("source", SIDES)
def test_stopping_lets_transfers_finish_each_way(start, meet, reactor, source):
    relay = start()
    near, far = ends(meet(relay), source)
    sent = send_until_it_sticks(reactor, near, PLENTY)
    relay.stop(60)
    assert not relay.ports[0].connected
    near.shutdown(socket.SHUT_WR)
    assert len(drain(reactor, far)) == sent
    far.close()
    pump(reactor, lambda: "stopped" in relay.events, "the end")
    assert relay.ends == ["closed in good order"]
    assert reactor.getDelayedCalls() == []


def test_transfers_that_go_on_after_the_grace_are_aborted_at_both_ends(timed, time, start, meet):
    relay = start(on=timed)
    client, target = meet(relay)
    relay.stop(60)
    let_pass(time, timed, 59, step=1)
    assert "stopped" not in relay.events
    let_pass(time, timed, 2, step=1)
    assert relay.events[-2:] == ["connectionLost", "stopped"]
    assert relay.ends == ["the proxy has stopped"]
    assert end_of(timed, client)[1] == end_of(timed, target)[1] == "reset"


def test_stopping_closes_clients_without_a_target(timed, start, come, closing):
    relay = start(("127.0.0.1", full(closing)), on=timed)
    client = come(relay)
    relay.stop(60)
    assert drain(timed, client) == b""
    assert relay.ends == ["the proxy is stopping"]
    assert relay.events[-1] == "stopped"
    assert timed.getDelayedCalls() == []


@pytest.mark.skipif(queues.NOTSENT_LOWAT is None, reason="the system has no such limit")
@pytest.mark.parametrize("unsent, expected", [(None, 32 * 1024), (50_000, 50_000), (0, 0)])
def test_T6_both_sides_have_the_limit_of_the_kernel(reactor, closing, unsent, expected):
    target = reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")
    relay = Relay(reactor, [("127.0.0.1", target.getHost().port)], unsent=unsent)
    relay.listen("127.0.0.1", 0, 16 * 1024)
    closing(connect(relay.ports[0]))
    pump(reactor, lambda: relay.connections and len(relay._parts(*relay.connections)) == 2)
    parts = relay._parts(*relay.connections)
    assert [queues.unsent_limit(part.socket) for part in parts] == [expected] * 2
