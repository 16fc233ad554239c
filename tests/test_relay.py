"""The server behind the proxy command: limits of two connections together, several targets."""

from __future__ import annotations

import errno
import logging
import os
import socket

import pytest
from proxy_support import end_of, full, listening, other, send_until_it_sticks, unused_number
from serve_support import FakeTime
from support import PATIENCE, connect, drain, passes, pump, receive, reset

from minireactor import Reactor, connector
from minireactor.balance import LEAST, ROUND_ROBIN
from minireactor.relay import Relay

PLENTY = bytes(32 * 1024 * 1024)
SIDES = ["client", "target"]


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def timed(time):
    """A reactor on time of the test's own."""
    own = Reactor(seconds=time)
    yield own
    own.close()


class Target:
    """A plain server, which takes whoever comes."""

    def __init__(self, closing):
        self.door = closing(listening())
        self.door.settimeout(PATIENCE)
        self.place = "127.0.0.1", self.door.getsockname()[1]
        self._closing = closing

    def accept(self):
        return self._closing(self.door.accept()[0])

    def accept_all(self):
        """Those who wait."""
        self.door.setblocking(False)
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
    """start(*places, **options) -> a Relay that listens, and keeps its `events` and `ended`."""

    def start(*places, on=reactor, high=65536, **options):
        events = []
        ended = []

        def tell(event, proxy, detail):
            events.append(event)
            if event == "connectionLost":
                ended.append(str(proxy).rpartition(" s, ")[2])

        relay = Relay(
            on,
            places or [target.place],
            on_event=tell,
            on_stopped=lambda: events.append("stopped"),
            **options,
        )
        relay.events = events
        relay.ends = ended
        relay.listen("127.0.0.1", 0, high)
        return relay

    return start


@pytest.fixture
def come(closing):
    """come(relay) -> a plain client that has just been accepted."""

    def come(relay):
        before = relay.events.count("connectionMade")
        client = closing(connect(relay.port))
        pump(relay.reactor, lambda: relay.events.count("connectionMade") > before, "the client")
        return client

    return come


@pytest.fixture
def meet(come, target):
    """meet(relay) -> (client, target), plain sockets that are joined."""

    def meet(relay):
        before = relay.events.count("connected")
        client = come(relay)
        pump(relay.reactor, lambda: relay.events.count("connected") > before, "the target")
        return client, target.accept()

    return meet


def ends(pair, source):
    return pair if source == "client" else pair[::-1]


def let_pass(time, reactor, seconds, step):
    """Time goes by, in steps, the reactor running."""
    until = time() + seconds
    while time() < until:
        time.advance(step)
        passes(reactor, 3)


# What it tells.


def test_events_tell_of_a_conversation_and_its_pauses(start, meet, reactor):
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


@pytest.mark.parametrize("source", SIDES)
def test_a_pause_names_who_is_behind(reactor, target, come, source):
    details = []

    def tell(event, proxy, detail):
        if event == "pauseProducing":
            details.append("client" if detail is proxy.client else "target")

    relay = Relay(reactor, [target.place], on_event=tell)
    relay.events = ["connectionMade"]
    relay.listen("127.0.0.1", 0)
    with connect(relay.port) as client:
        pump(reactor, lambda: len(relay._proxies) == 2, "both")
        send_until_it_sticks(reactor, ends((client, target.accept()), source)[0], PLENTY)
    assert set(details) == {other(source)}


def test_for_who_watches_each_connection_says_where_it_leads(start, come, target, reactor):
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
    closing(connect(relay.port))
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
    assert relay._proxies == {} and relay._activity == {}


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
    assert drain(reactor, closing(connect(relay.port))) == b""
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


# Several targets.


def test_one_of_three_down_is_noticed_by_no_client(reactor, closing, start, come, caplog):
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
        f"target 127.0.0.1:{bad[1]} is tried last for 10 s: "
        f"The peer refused the connection: {errno.ECONNREFUSED}: Connection refused."
    ]


def test_least_gives_each_client_to_the_target_with_the_fewest(reactor, closing, start, come):
    targets = [Target(closing), Target(closing)]
    relay = start(*(target.place for target in targets), balance=LEAST)

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
    assert reactor.getDelayedCalls() == [] and reactor.getReaders() == [relay.port]


def test_a_single_target_that_is_down_is_no_news_besides_the_line(reactor, start, come, caplog):
    caplog.set_level(logging.WARNING, "minireactor")
    relay = start(("127.0.0.1", unused_number()))
    drain(reactor, come(relay))
    assert caplog.records == []


def test_a_target_is_not_to_blame_for_descriptors_that_we_lack(
    reactor, start, come, target, monkeypatch
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
    assert relay.balancer.order()[0] == target.place


# The end.


@pytest.mark.parametrize("source", SIDES)
def test_stopping_lets_transfers_finish_each_way(start, meet, reactor, source):
    relay = start()
    near, far = ends(meet(relay), source)
    sent = send_until_it_sticks(reactor, near, PLENTY)
    relay.stop(60)
    assert not relay.port.connected
    near.shutdown(socket.SHUT_WR)
    assert len(drain(reactor, far)) == sent
    far.close()
    pump(reactor, lambda: "stopped" in relay.events, "the end")
    assert relay.ends == ["closed in good order"]
    assert reactor.getDelayedCalls() == []


def test_case_39_what_goes_on_after_the_grace_is_aborted_at_both_ends(timed, time, start, meet):
    relay = start(on=timed)
    client, target = meet(relay)
    relay.stop(60)
    let_pass(time, timed, 59, step=1)
    assert "stopped" not in relay.events
    let_pass(time, timed, 2, step=1)
    assert relay.events[-2:] == ["connectionLost", "stopped"]
    assert relay.ends == ["the proxy has stopped"]
    assert end_of(timed, client)[1] == end_of(timed, target)[1] == "reset"


def test_stopping_closes_who_has_no_target_yet(timed, start, come, closing):
    relay = start(("127.0.0.1", full(closing)), on=timed)
    client = come(relay)
    relay.stop(60)
    assert drain(timed, client) == b""
    assert relay.ends == ["the proxy is stopping"]
    assert relay.events[-1] == "stopped"
    assert timed.getDelayedCalls() == []
