"""The server of `serve`: its limits, its timeouts, and an orderly end."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
import weakref

import pytest
from serve_support import ROOT
from support import (
    HalfCloseable,
    Recorder,
    Watched,
    connect,
    drain,
    iterations,
    pump,
    receive,
    reset,
)

from minireactor import Reactor
from minireactor.core.slices import SLICE_ENDINGS
from minireactor.error import CannotListenError, ConnectionAborted, ConnectionDone
from minireactor.protocol import ClientFactory, Factory, Protocol
from minireactor.serve import timeouts
from minireactor.serve.apps import Chargen, Discard, Echo, RandomFactory
from minireactor.serve.loading import LoadError, load_app
from minireactor.serve.server import Server
from minireactor.testing import Network
from minireactor.transports.kernel import receive_queue, send_queue

MEGABYTE = 1024 * 1024


@pytest.fixture
def start(reactor):
    """start(factory, **options) returns a listening Server, and records its `events`."""

    def start(factory, on=reactor, **options):
        events = []
        server = Server(
            on,
            factory,
            on_event=lambda event, connection, reason: events.append((event, reason)),
            on_stopped=lambda: events.append(("stopped", None)),
            **options,
        )
        server.events = events
        server.listen("127.0.0.1", 0)
        return server

    return start


@pytest.fixture
def join(closing):
    """join(server) returns a plain client that the server has accepted."""

    def join(server):
        before = server.totals().connections
        client = closing(connect(server.ports[0]))
        pump(server.reactor, lambda: server.totals().connections > before, "the connection")
        return client

    return join


class Sender(Protocol):
    """Writes all its bytes at once, and closes before any has been sent."""

    SIZE = 24 * MEGABYTE

    def connectionMade(self):
        self.transport.write(bytes(self.SIZE))
        self.transport.loseConnection()


def names(server):
    return [name for name, _ in server.events]


def only(server):
    (connection,) = server.connections
    return connection


def fill(server, client):
    """Fill the kernel's buffers with integers that `client` does not read."""
    client.sendall(b"1000000000000000\n")
    pump(server.reactor, lambda: only(server).writing, "a full kernel buffer")


def read_until_some_is_taken(server, client):
    """Read until the server's kernel has sent more.

    The peer's kernel announces room only when it has plenty, which may need megabytes."""
    before = taken(server)
    received = 0
    while server.connections and taken(server) == before:
        received += len(receive(server.reactor, client, 64 * 1024))
    return received


def taken(server):
    return only(server).bytes_out - (send_queue(only(server)) or 0)


def let_pass(time, reactor, seconds, step):
    """Move the time by `seconds` in steps, with the reactor running."""
    until = time() + seconds
    while time() < until:
        time.advance(step)
        iterations(reactor, 3)


# The port, and who is connected.


def test_listening_reports_the_address_with_the_real_port_number(start):
    server = start(Factory.forProtocol(Echo))
    address = server.ports[0].getHost()
    assert address.host == "127.0.0.1"
    assert address.port != 0


def test_a_port_that_is_taken_is_refused_as_by_listenTCP(reactor, start):
    taken = start(Factory.forProtocol(Echo)).ports[0].getHost().port
    with pytest.raises(CannotListenError):
        Server(reactor, Factory.forProtocol(Echo)).listen("127.0.0.1", taken)


def test_after_a_failed_listen_nobody_is_notified_and_another_port_can_be_tried(
    reactor, start, join
):
    taken = start(Factory.forProtocol(Echo)).ports[0].getHost().port
    before = reactor.observers
    events = []
    server = Server(reactor, RandomFactory(), on_event=lambda *event: events.append(event[0]))
    with pytest.raises(CannotListenError):
        server.listen("127.0.0.1", taken)
    assert reactor.observers == before

    server.listen("127.0.0.1", 0)
    fill(server, join(server))

    assert events.count("connectionMade") == 1
    assert events.count("pauseProducing") == server.totals().pauses > 0


def test_a_factory_that_fails_to_start_leaves_no_observer(reactor):
    class Broken(Factory):
        def startFactory(self):
            raise GeneratorExit

    with pytest.raises(GeneratorExit):
        Server(reactor, Broken()).listen("127.0.0.1", 0)
    assert reactor.observers == ()


def test_a_server_serves_at_several_places(start, reactor, closing):
    server = start(Factory.forProtocol(Echo))
    server.listen("127.0.0.1", 0)

    for port in server.ports:
        client = closing(connect(port))
        client.sendall(b"hello")
        assert receive(reactor, client, 5) == b"hello"

    assert len(server.connections) == 2


def test_a_place_that_is_taken_leaves_the_other_places_as_they_are(start, reactor, closing):
    server = start(Factory.forProtocol(Echo))
    with pytest.raises(CannotListenError):
        server.listen("127.0.0.1", server.ports[0].getHost().port)

    client = closing(connect(server.ports[0]))
    client.sendall(b"hello")
    assert receive(reactor, client, 5) == b"hello"
    assert len(server.connections) == 1


def test_a_server_accepts_from_sockets_that_listen_already(start, reactor, closing):
    server = start(Factory.forProtocol(Echo))
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    numbers = [sock.getsockname()[1] for sock in socks]

    server.listen("127.0.0.1", 0, sockets=socks)

    for number in numbers:
        client = closing(socket.create_connection(("127.0.0.1", number)))
        client.sendall(b"hello")
        assert receive(reactor, client, 5) == b"hello"
    assert len(server.connections) == 2


def test_M1_marks_that_will_not_do_are_refused_before_listening(reactor):
    server = Server(reactor, Factory.forProtocol(Echo))
    with pytest.raises(ValueError, match="high=100 and low=100"):
        server.listen("127.0.0.1", 0, 100, 100)
    assert server.ports == []


def test_M1_marks_hold_for_each_connection(reactor, join):
    server = Server(reactor, Factory.forProtocol(Recorder))
    server.listen("127.0.0.1", 0, 1000)
    join(server)
    assert only(server).bufferSize == 1000


def test_connections_are_known_while_they_last(start, join, reactor):
    server = start(Factory.forProtocol(Echo))
    first, second = join(server), join(server)
    assert len(server.connections) == 2

    first.close()
    reset(second)
    pump(reactor, lambda: not server.connections, "the ends")

    assert server.paused == set()
    assert reactor.getDelayedCalls() == []


def test_totals_count_connections_that_are_open_and_that_have_ended(start, join, reactor):
    server = start(Factory.forProtocol(Echo))
    first, second = join(server), join(server)
    for client in (first, second):
        client.sendall(b"12345")
        receive(reactor, client, 5)
    first.close()
    pump(reactor, lambda: len(server.connections) == 1, "the end of the first")

    totals = server.totals()

    assert (totals.connections, totals.bytes_in, totals.bytes_out) == (2, 10, 10)
    assert totals.highest_pending == 5
    assert str(totals) == (
        "connections 2, bytes in 10, bytes out 10, pauses 0, highest pending 5 bytes"
    )


def test_events_report_connections_pauses_and_resumes(start, join, reactor):
    server = start(RandomFactory())
    client = join(server)
    fill(server, client)
    assert only(server) in server.paused

    while "resumeProducing" not in names(server):
        receive(reactor, client, 65536)
    client.close()
    pump(reactor, lambda: not server.connections, "the end")

    seen = names(server)
    assert seen[0] == "connectionMade"
    assert seen[-1] == "connectionLost"
    middle = seen[1:-1]
    pairs = ["pauseProducing", "resumeProducing"] * len(middle)
    assert middle == pairs[: len(middle)]
    assert len(middle) >= 2


def test_asking_a_pull_producer_is_not_reported_as_a_resume(start, join, reactor):
    server = start(Factory.forProtocol(Chargen))
    client = join(server)
    receive(reactor, client, MEGABYTE)
    assert names(server) == ["connectionMade"]


def test_the_end_of_a_connection_is_reported_with_its_reason(start, join, reactor):
    server = start(Factory.forProtocol(Echo))
    join(server).close()
    pump(reactor, lambda: not server.connections, "the end")
    name, reason = server.events[-1]
    assert name == "connectionLost"
    assert reason.check(ConnectionDone)


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_an_on_event_that_raises_changes_nothing(reactor, join, caplog, error):
    def broken(event, connection, reason):
        raise error(event)

    stopped = []
    server = Server(
        reactor, Factory.forProtocol(Echo), on_event=broken, on_stopped=lambda: stopped.append(True)
    )
    server.listen("127.0.0.1", 0)
    client = join(server)
    client.sendall(b"x")
    assert receive(reactor, client, 1) == b"x"

    server.stop(5)
    pump(reactor, lambda: stopped, "the end")

    assert server.totals().connections == 1
    assert [record.exc_info[1].args for record in caplog.records] == [
        ("connectionMade",),
        ("connectionLost",),
    ]


def test_B3_an_on_stopped_that_raises_is_logged(reactor, caplog):
    server = Server(reactor, RandomFactory(), on_stopped=lambda: 1 / 0)
    server.listen("127.0.0.1", 0)
    server.stop(5)
    assert "a callback of a server, has failed" in caplog.text


def test_nothing_of_a_connection_is_kept_after_its_end(start, join, reactor):
    server = start(RandomFactory(), idle_timeout=60, stall_timeout=60)
    client = join(server)
    left = weakref.ref(only(server))
    fill(server, client)
    client.close()
    pump(reactor, lambda: not server.connections, "the end")
    server.events.clear()
    gc.collect()
    assert left() is None


def test_connections_that_the_app_makes_are_not_the_servers(start, join, reactor, closing):
    server = start(Factory.forProtocol(Echo))
    client = Recorder()
    factory = ClientFactory.forProtocol(lambda: client)
    reactor.connectTCP("127.0.0.1", server.ports[0].getHost().port, factory)
    pump(reactor, lambda: server.connections and client.transport, "both ends")

    assert client.transport not in server.connections
    assert names(server) == ["connectionMade"]
    client.transport.loseConnection()
    pump(reactor, lambda: client.reason and not server.connections, "both losses")
    assert names(server) == ["connectionMade", "connectionLost"]


def test_an_app_that_rejects_a_client_leaves_nothing_behind(start, reactor, closing):
    class Closed(Factory):
        def buildProtocol(self, addr):
            return None

    server = start(Closed())
    assert drain(reactor, closing(connect(server.ports[0]))) == b""
    assert server.totals().connections == 0


def test_the_apps_factory_is_started_and_stopped_once(reactor):
    class Counted(Factory):
        protocol = Echo
        calls = ""

        def startFactory(self):
            self.calls += "start "

        def stopFactory(self):
            self.calls += "stop "

    factory = Counted()
    server = Server(reactor, factory)
    server.listen("127.0.0.1", 0)
    assert factory.calls == "start "
    server.stop(0)
    assert factory.calls == "start stop "


# Limits.


def test_clients_beyond_the_limit_are_closed_at_once(start, join, reactor, closing):
    server = start(Factory.forProtocol(Echo), max_connections=1)
    inside = join(server)

    assert drain(reactor, closing(connect(server.ports[0]))) == b""

    inside.sendall(b"still here")
    assert receive(reactor, inside, 10) == b"still here"
    assert (server.rejected, server.totals().connections) == ({"--max-connections": 1}, 1)


def test_the_place_of_a_client_that_has_left_is_free_again(start, join, reactor):
    server = start(Factory.forProtocol(Echo), max_connections=1)
    join(server).close()
    pump(reactor, lambda: not server.connections, "the end")

    second = join(server)

    second.sendall(b"x")
    assert receive(reactor, second, 1) == b"x"


def test_the_warning_names_the_limit_and_comes_at_most_every_ten_seconds(
    start, join, time, timed, closing, caplog
):
    server = start(Factory.forProtocol(Echo), on=timed, max_connections=1)
    join(server)

    def connect_one():
        drain(timed, closing(connect(server.ports[0])))

    with caplog.at_level(logging.WARNING, "minireactor"):
        for _ in range(5):
            connect_one()
        time.advance(10)
        connect_one()

    assert [record.getMessage() for record in caplog.records] == [
        "at the limit of 1 connections (--max-connections): clients rejected so far: 1",
        "at the limit of 1 connections (--max-connections): clients rejected so far: 6",
    ]


def test_the_log_names_the_factory_of_the_application(start, reactor, closing, caplog):
    class Failing(Factory):
        def buildProtocol(self, addr):
            raise LookupError("no protocol")

    server = start(Failing())
    assert server.ports[0].logPrefix() == "Failing (port)"

    drain(reactor, closing(connect(server.ports[0])))

    (record,) = caplog.records
    assert record.exc_info[1].args == ("no protocol",)
    assert f":{server.ports[0].getHost().port} of Failing>" in record.getMessage()


def test_an_idle_connection_is_closed_after_the_timeout(start, join, time, timed):
    server = start(RandomFactory(), on=timed, idle_timeout=100)
    client = join(server)
    iterations(timed)

    let_pass(time, timed, 99, step=25)
    assert server.connections

    let_pass(time, timed, 50, step=25)
    pump(timed, lambda: not server.connections, "the end")
    assert server.events[-1][1].check(ConnectionDone)
    assert drain(timed, client).startswith(b"how many")


def test_a_byte_now_and_then_keeps_a_connection(start, join, time, timed):
    server = start(RandomFactory(), on=timed, idle_timeout=100)
    client = join(server)
    for _ in range(10):
        client.sendall(b" ")
        before = only(server).bytes_in
        pump(timed, lambda before=before: only(server).bytes_in > before, "the byte")
        let_pass(time, timed, 75, step=25)
    assert server.connections


def test_a_long_drain_outlives_the_idle_timeout(start, join, time, timed):
    server = start(Factory.forProtocol(Sender), on=timed, idle_timeout=10)
    client = join(server)
    received = 0

    while server.connections:
        received += read_until_some_is_taken(server, client)
        let_pass(time, timed, 7.5, step=2.5)

    assert received > 4 * MEGABYTE
    assert received + len(drain(timed, client)) == Sender.SIZE
    assert server.events[-1][1].check(ConnectionDone)


def test_an_idle_peer_with_bytes_waiting_for_it_is_aborted(start, join, time, timed):
    server = start(RandomFactory(), on=timed, idle_timeout=10)
    client = join(server)
    fill(server, client)

    let_pass(time, timed, 20, step=2.5)

    assert server.events[-1][1].check(ConnectionAborted)


def test_a_connection_whose_producer_never_ends_is_aborted_in_the_end(start, join, time, timed):
    class Forgetful(Protocol):
        def connectionMade(self):
            self.transport.registerProducer(self, True)

        def stopProducing(self):
            pass

    server = start(Factory.forProtocol(Forgetful), on=timed, idle_timeout=10)
    join(server)

    let_pass(time, timed, 20, step=2.5)

    assert server.events[-1][1].check(ConnectionAborted)


@pytest.mark.parametrize("keepalive", [None, 60])
def test_the_system_asks_silent_peers_if_it_is_to(start, join, keepalive):
    server = start(RandomFactory(), keepalive=keepalive)
    join(server)
    (connection,) = server.connections
    assert connection.getTcpKeepAlive() == (keepalive is not None)


def test_a_peer_that_takes_nothing_is_aborted_after_the_stall_timeout(start, join, time, timed):
    server = start(RandomFactory(), on=timed, stall_timeout=10)
    client = join(server)
    fill(server, client)

    let_pass(time, timed, 7.5, step=2.5)
    assert server.connections

    let_pass(time, timed, 10, step=2.5)
    assert server.events[-1][1].check(ConnectionAborted)


def test_a_peer_that_sends_but_takes_nothing_is_stalled_all_the_same(start, join, time, timed):
    server = start(RandomFactory(), on=timed, stall_timeout=10)
    client = join(server)
    fill(server, client)

    for _ in range(5):
        client.sendall(b"x")
        let_pass(time, timed, 2.5, step=2.5)

    assert server.events[-1][1].check(ConnectionAborted)


def test_a_slow_peer_is_not_stalled():
    class Asking(Protocol):
        def connectionMade(self):
            self.transport.write(b"1000000\n")

    network = Network(seed=1)
    # The peer takes 2,000 bytes in five seconds. The kernel has room for more after 50 seconds.
    network.links(bandwidth=400, send_buffer=64_000, receive_buffer=2000)
    server = Server(network.host("server"), RandomFactory(), stall_timeout=10)
    server.listen("0.0.0.0", 80)
    network.host("client").connectTCP("server", 80, ClientFactory.forProtocol(Asking))
    network.run(1000)
    assert server.connections

    network.partition("client", "server")
    network.run(20)
    assert not server.connections
    network.close()


def test_a_quiet_peer_without_bytes_waiting_is_not_stalled(start, join, time, timed):
    server = start(RandomFactory(), on=timed, stall_timeout=10)
    client = join(server)
    receive(timed, client, 39)
    let_pass(time, timed, 100, step=2.5)
    assert server.connections


def test_without_connections_no_timer_wakes_the_loop(start, join, time, closing):
    poller = Watched(clock=time)
    reactor = closing(Reactor(poller, seconds=time))
    server = start(RandomFactory(), on=reactor, idle_timeout=10, stall_timeout=5)
    client = join(server)
    reactor.iterate(1000)
    assert poller.timeouts[-1] <= 1.25

    client.close()
    pump(reactor, lambda: not server.connections, "the end")
    reactor.iterate(1000)
    assert poller.timeouts[-1] == 1000


def test_the_timeouts_hold_also_after_all_connections_have_gone(start, join, time, timed):
    server = start(Factory.forProtocol(Discard), on=timed, idle_timeout=10)
    join(server).close()
    pump(timed, lambda: not server.connections, "the end of the first")
    join(server)
    let_pass(time, timed, 15, step=2.5)
    assert not server.connections


def test_a_walk_leaves_those_alone_that_end_meanwhile(start, join, time, timed, caplog):
    server = start(Factory.forProtocol(Discard), on=timed, idle_timeout=10)
    clients = [join(server) for _ in range(3 * SLICE_ENDINGS)]
    time.advance(11)
    pump(timed, lambda: len(server.connections) < len(clients), "the first slice")
    assert server.connections
    for client in clients[SLICE_ENDINGS + 1 :]:  # one at least stays, and the walk with it
        reset(client)
    pump(timed, lambda: not server.connections, "the end of all")
    iterations(timed)
    assert caplog.records == []


@pytest.fixture
def scripted(wire, clock):
    """scripted(room, **limits) returns (transport, socket, pass_time) of one connection."""

    def scripted(room, **limits):
        server = Server(wire.reactor, Factory(), **limits)
        wire.reactor.add_observer(server._observe)
        protocol = server.expected = HalfCloseable()
        transport, sock = wire.connect(protocol, room)
        assert server.connections == {transport}

        def pass_time(seconds):
            for _ in range(int(seconds / 2.5)):
                clock.advance(2.5)
                wire.run()

        return transport, sock, pass_time

    return scripted


def test_a_peer_that_never_took_a_byte_is_stalled(scripted):
    transport, _, pass_time = scripted(0, stall_timeout=10)
    pass_time(5)
    transport.write(b"x")
    pass_time(10)
    assert transport.connected
    pass_time(5)
    assert transport.disconnected


def test_a_stall_is_timed_from_when_bytes_begin_to_wait(scripted):
    transport, sock, pass_time = scripted(1, stall_timeout=10)
    transport.write(b"x")
    pass_time(100)
    transport.write(b"y")
    pass_time(7.5)
    assert transport.connected
    sock.room = 1
    pass_time(100)
    assert transport.connected


def test_a_peer_that_never_acknowledges_the_end_of_the_stream_is_stalled(scripted, monkeypatch):
    unacknowledged = []
    monkeypatch.setattr(timeouts, "send_queue", lambda transport: len(unacknowledged))
    transport, _, pass_time = scripted(10, stall_timeout=10)
    transport.write(b"x")
    pass_time(100)
    unacknowledged.append("end")
    transport.loseWriteConnection()
    pass_time(7.5)
    assert transport.write_ended and transport.connected
    pass_time(10)
    assert transport.disconnected


def test_T1_a_client_whose_bytes_came_while_the_loop_was_busy_is_not_idle(start, join, time, timed):
    server = start(Factory.forProtocol(Discard), on=timed, idle_timeout=10)
    client, quiet = join(server), join(server)
    if receive_queue(client) is None:
        pytest.skip("this system does not tell what it holds")
    let_pass(time, timed, 9, step=1)

    client.sendall(b"x")
    time.advance(100)  # a callback that takes long; then the timers come before any input
    server._timeouts._begin_sweep()

    pump(timed, lambda: len(server.connections) == 1, "the end of the one that was quiet")
    iterations(timed)
    assert only(server).bytes_in == 1
    quiet.close()


def test_a_connection_that_does_not_read_its_input_is_idle(start, join, time, timed):
    class Deaf(Protocol):
        def connectionMade(self):
            self.transport.pauseProducing()

    server = start(Factory.forProtocol(Deaf), on=timed, idle_timeout=10)
    join(server).sendall(b"x")
    let_pass(time, timed, 15, step=2.5)
    assert not server.connections


def test_one_connection_that_cannot_be_looked_at_keeps_no_other_from_its_timeout(
    start, join, time, timed, caplog, monkeypatch
):
    def queue(sock):
        if sock is broken.socket:
            raise LookupError("no number")
        return send_queue(sock)

    server = start(RandomFactory(), on=timed, idle_timeout=10)
    clients = [join(server) for _ in range(3)]
    broken = next(iter(server.connections))
    monkeypatch.setattr(timeouts, "send_queue", queue)

    let_pass(time, timed, 5, step=2.5)
    assert len(server.connections) == 2
    assert server.events[-1][1].check(LookupError)
    assert "no number" in caplog.text

    let_pass(time, timed, 10, step=2.5)
    assert not server.connections
    for client in clients:
        client.close()


def test_the_servers_timers_are_its_own(start, join, time, timed):
    server = start(RandomFactory(), on=timed, idle_timeout=10, stall_timeout=10)
    fill(server, join(server))
    assert timed.getDelayedCalls() == []
    server.stop(5)
    assert timed.getDelayedCalls() == []


@pytest.mark.parametrize("end", ["idle", "stop", "abort"])
def test_many_connections_are_ended_in_slices(start, join, time, timed, end):
    server = start(Factory.forProtocol(Discard), on=timed, idle_timeout=10)
    clients = [join(server) for _ in range(4 * SLICE_ENDINGS + 5)]
    if end == "idle":
        time.advance(11)
    else:
        getattr(server, end)(*[60] * (end == "stop"))

    left = [len(clients)]
    while server.connections:
        iterations(timed, 1)
        left.append(len(server.connections))

    ended = [before - after for before, after in zip(left, left[1:])]
    assert max(ended) <= 2 * SLICE_ENDINGS  # one slice may come with the call that began it
    for client in clients:
        client.close()


# The end.


def test_stopping_with_no_connections_is_done_at_once(start):
    server = start(RandomFactory())
    server.stop(5)
    assert names(server) == ["stopped"]
    assert not server.ports[0].connected
    assert server.reactor.observers == ()


def test_stopping_closes_idle_connections_and_then_is_done(start, join, reactor):
    server = start(RandomFactory())
    client = join(server)
    server.stop(5)

    assert drain(reactor, client).startswith(b"how many")
    pump(reactor, lambda: "stopped" in names(server), "the end")
    assert names(server) == ["connectionMade", "connectionLost", "stopped"]
    assert reactor.getDelayedCalls() == []


def test_stopping_lets_a_transfer_finish(start, join, reactor):
    server = start(RandomFactory())
    client = join(server)
    client.sendall(b"200000\n")
    pump(reactor, lambda: server.paused, "a pause")

    server.stop(60)

    assert drain(reactor, client).count(b"\r\n") == 200001
    pump(reactor, lambda: "stopped" in names(server), "the end")
    assert server.events[-2][1].check(ConnectionDone)


def test_stopping_ends_an_echo_after_its_bytes_have_gone(start, join, reactor):
    server = start(Factory.forProtocol(Echo))
    client = join(server)
    client.sendall(b"x" * 5000)
    pump(reactor, lambda: only(server).bytes_in == 5000, "the bytes")

    server.stop(60)

    assert drain(reactor, client) == b"x" * 5000
    pump(reactor, lambda: "stopped" in names(server), "the end")


def test_a_client_that_never_reads_is_aborted_after_the_grace(start, join, time, timed):
    server = start(RandomFactory(), on=timed)
    fill(server, join(server))

    server.stop(60)
    let_pass(time, timed, 59, step=1)
    assert "stopped" not in names(server)

    let_pass(time, timed, 2, step=1)
    assert names(server)[-2:] == ["connectionLost", "stopped"]
    assert server.events[-2][1].check(ConnectionAborted)


def test_without_grace_it_is_aborted_at_once(start, join, reactor):
    server = start(RandomFactory())
    fill(server, join(server))
    server.stop(0)
    pump(reactor, lambda: "stopped" in names(server), "the end")
    assert server.events[-2][1].check(ConnectionAborted)


def test_stopping_twice_aborts_at_once(start, join, reactor):
    server = start(RandomFactory())
    fill(server, join(server))

    server.stop(600)
    iterations(reactor)
    assert server.connections

    server.stop(600)
    pump(reactor, lambda: "stopped" in names(server), "the end")
    assert server.events[-2][1].check(ConnectionAborted)
    assert reactor.getDelayedCalls() == []


def test_retiring_with_no_connections_is_done_at_once(start):
    server = start(RandomFactory())
    server.retire(5)
    assert names(server) == ["stopped"]
    assert not server.ports[0].connected


def test_retiring_lets_connections_go_on_until_the_last_client_leaves(start, join, reactor):
    server = start(Factory.forProtocol(Echo))
    client = join(server)

    server.retire(60)

    assert not server.ports[0].connected
    client.sendall(b"still there")
    assert receive(reactor, client, 11) == b"still there"
    client.close()
    pump(reactor, lambda: "stopped" in names(server), "the end")
    assert server.events[-2][1].check(ConnectionDone)
    assert server.aborted == 0


def test_a_retired_server_stops_after_the_grace(start, join, time, timed):
    server = start(RandomFactory(), on=timed)
    fill(server, join(server))
    server.retire(60)
    let_pass(time, timed, 59, step=1)
    assert not server.stopping
    let_pass(time, timed, 59, step=1)
    assert server.stopping and server.connections  # the transfer has its grace
    let_pass(time, timed, 4, step=1)
    assert names(server)[-2:] == ["connectionLost", "stopped"]
    assert server.aborted == 1


def test_the_status_counts_clients_without_walking_over_them(start, join, reactor):
    server = start(Factory.forProtocol(Echo))
    join(server)
    join(server).close()
    pump(reactor, lambda: "connectionLost" in names(server), "the end of one")
    assert server.status() == "1 connections, 2 so far"


def test_the_end_of_all_connections_is_reported_once(start, join, reactor):
    server = start(RandomFactory())
    join(server)
    for _ in range(3):
        server.stop(0)
    iterations(reactor)
    server.stop(0)
    assert names(server).count("stopped") == 1


# Finding the app.


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(source) returns the name of a new module in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = []

    def module(source):
        made.append(f"app_{len(made)}_of_a_test")
        (tmp_path / f"{made[-1]}.py").write_text(source)
        return made[-1]

    yield module
    for name in made:
        sys.modules.pop(name, None)


SOURCE = """
from minireactor.protocol import Factory, Protocol

class Greeter(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello\\r\\n")
        self.transport.loseConnection()

class Greeters(Factory):
    protocol = Greeter

class Demanding(Factory):
    def __init__(self, needed):
        pass

greeters = Greeters()
greeter = Greeter()
number = 5

class Box:
    inner = greeters
"""


@pytest.mark.parametrize("name", ["random", "echo", "discard", "chargen"])
def test_built_in_apps_have_factories(name):
    assert load_app(name).buildProtocol(None) is not None


@pytest.mark.parametrize("name", ["greeters", "Greeters", "Greeter", "Box.inner"])
def test_an_app_is_a_factory_a_factory_class_or_a_protocol_class(
    name, module, start, join, reactor
):
    server = start(load_app(f"{module(SOURCE)}:{name}"))
    assert drain(reactor, join(server)) == b"hello\r\n"


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent", "has no name 'absent'"),
        ("", "no app '.*:'; give random"),
        ("number", "is 5; name a Factory instance or class, or a Protocol class"),
        ("greeter", "name a Factory instance or class"),
        ("Box", "name a Factory instance or class"),
        ("Demanding", r"Demanding\(\) raised TypeError"),
    ],
)
def test_a_name_that_is_no_app_is_refused(name, message, module):
    with pytest.raises(LoadError, match=message):
        load_app(f"{module(SOURCE)}:{name}")


@pytest.mark.parametrize(
    "source, message",
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3"),
        ("def", "raised SyntaxError"),
        ("import no_such_module_inside", "raised ModuleNotFoundError"),
    ],
)
def test_a_module_that_raises_is_refused_with_the_exception(source, message, module):
    with pytest.raises(LoadError, match=message):
        load_app(f"{module(source)}:app")


@pytest.mark.parametrize(
    "name, message",
    [
        ("ranodm", "no app 'ranodm'; give random, echo, discard, chargen, file or module:name"),
        ("no_such_module:app", "no module 'no_such_module'"),
        ("no_such.module:app", "no module 'no_such'"),
        (":app", "no app ':app'"),
        (".relative:app", "no app '.relative:app'"),
    ],
)
def test_a_module_that_is_not_there_is_refused(name, message, module):
    with pytest.raises(LoadError, match=message):
        load_app(name)


def test_file_sends_the_file_to_whoever_connects(tmp_path, start, join, reactor):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 100_000)
    server = start(load_app("file", path=str(path)))
    client = join(server)
    client.send(b"what nobody reads")
    assert drain(reactor, client) == path.read_bytes()
    path.write_bytes(b"")
    assert drain(reactor, join(server)) == b""


def test_a_file_that_has_gone_costs_its_client_the_connection(
    tmp_path, start, join, reactor, caplog
):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    server = start(load_app("file", path=str(path)))
    path.unlink()
    with pytest.raises(ConnectionResetError):
        drain(reactor, join(server))
    assert f"cannot send {path}: No such file" in caplog.text


@pytest.mark.parametrize(
    "name, path, message",
    [
        ("file", None, "file needs the PATH"),
        ("file", "/no/such/file", "cannot send '/no/such/file': No such file"),
        ("file", "/dev", "cannot send '/dev': "),
        ("file", os.devnull, "it is no regular file; give a file's PATH"),
        ("file", "a\0b", "cannot send 'a.*null"),
        ("echo", "somewhere", "PATH 'somewhere' is for file only; leave it out for echo"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(name, path, message):
    with pytest.raises(LoadError, match=message):
        load_app(name, path=path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_file_that_could_block_is_not_sent(tmp_path, start, join, reactor, caplog):
    path = tmp_path / "file"
    os.mkfifo(path)
    with pytest.raises(LoadError, match="it is no regular file"):
        load_app("file", path=str(path))
    path.unlink()
    path.write_bytes(b"content")
    server = start(load_app("file", path=str(path)))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConnectionResetError):
        drain(reactor, join(server))
    assert "it is no regular file" in caplog.text


def test_a_server_without_limits_for_clients_loads_nothing_for_them():
    code = "import sys, minireactor.serve.server; print('minireactor.serve.clients' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("False\n", "")
