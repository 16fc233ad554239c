"""The monitor: samples, events and totals."""

from __future__ import annotations

import itertools
import json
import logging

import pytest
from support import HalfCloseable, Recorder, RecordingClientFactory, pump, served

from minireactor.protocol import Factory
from minireactor.transports import kernel as queues
from minireactor.view import watched
from minireactor.view.monitor import LIMIT, SCAN_SECONDS, Monitor
from minireactor.view.ranking import BATCH, MAX_RANKED, ORDERS


class Push:
    """A producer that does nothing by itself."""

    def pauseProducing(self):
        pass

    resumeProducing = stopProducing = pauseProducing


@pytest.fixture
def monitor(wire):
    own = Monitor(wire.reactor)
    yield own
    own.close()


@pytest.fixture
def events(monitor):
    received = []
    monitor.subscribe(received.append)
    return received


def rows(monitor):
    return {row["id"]: row for row in monitor.sample()["connections"]}


def paused(wire, room=0):
    """Return (transport, socket): marks of 100 and 25 bytes, and a paused producer."""
    transport, sock = wire.connect(Recorder(), room)
    transport.setWriteBufferLimits(100, 25)
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 101)
    return transport, sock


# Samples.


def test_a_sample_without_connections(monitor, clock):
    clock.advance(1.5)
    sample = monitor.sample()
    memory = sample.pop("memory")
    assert sample == {
        "type": "sample",
        "time": 1.5,
        "lag": 0.0,
        "totals": {
            "connections": 0,
            "open": 0,
            "in": 0,
            "out": 0,
            "pauses": 0,
            "highest_pending": 0,
            "paused": 0.0,
            "paused_now": 0,
        },
        "connections": [],
        "rest": None,
    }
    assert memory is None or memory > 1 << 20


def test_a_sample_has_all_figures_of_a_connection(monitor, wire, clock):
    transport, sock = paused(wire)
    sock.inbox = [b"y" * 7]
    sock.room = 10
    wire.run()
    clock.advance(2.0)
    sample = monitor.sample()
    assert sample["connections"] == [
        {
            "id": 1,
            "peer": "192.0.2.1:4321",
            "label": "Recorder",
            "state": "open",
            "producer": "paused",
            "pending": 91,
            "high": 100,
            "low": 25,
            "in": 7,
            "out": 10,
            "pauses": 1,
            "paused": 2.0,
            "sendq": None,
            "unsent": 0,
            "recvq": None,
            "why": "its kernel queue has been full for 2.0 s: that peer does not read; "
            "91 bytes pending have paused its producer, Push (P2)",
        }
    ]
    assert sample["rest"] is None
    assert sample["totals"] == {
        "connections": 1,
        "open": 1,
        "in": 7,
        "out": 10,
        "pauses": 1,
        "highest_pending": 101,
        "paused": 2.0,
        "paused_now": 1,
    }


def test_a_sample_is_json(monitor, wire):
    paused(wire)
    sample = monitor.sample()
    assert json.loads(json.dumps(sample)) == sample


def test_a_row_has_the_state_of_its_connection(monitor, wire):
    closing, ending = paused(wire)[0], paused(wire)[0]
    closing.loseConnection()
    ending.abortConnection()
    found = rows(monitor)
    assert (found[1]["state"], found[2]["state"]) == ("closing", "ending")


def test_pending_counts_for_the_highest_before_a_flush(monitor, wire):
    transport, _ = wire.connect(Recorder())
    transport.write(b"x" * 5)
    assert monitor.sample()["totals"]["highest_pending"] == 5


def test_an_ended_connection_gets_one_last_row_and_stays_in_the_totals(monitor, wire):
    transport, sock = paused(wire, room=60)
    wire.run()
    sock.inbox = [b"in", b""]
    wire.run()
    first, second = monitor.sample(), monitor.sample()
    (row,) = first["connections"]
    assert (row["state"], row["producer"], row["pending"]) == ("closed", "closed", 0)
    assert (row["in"], row["out"], row["label"]) == (2, 60, "Recorder")
    assert second["connections"] == []
    assert first["totals"] == second["totals"]
    assert second["totals"]["connections"] == 1
    assert second["totals"]["open"] == 0
    assert (second["totals"]["in"], second["totals"]["out"]) == (2, 60)
    assert second["totals"]["highest_pending"] == 101


def test_a_sample_keeps_at_most_LIMIT_ended_connections(monitor, wire):
    for _ in range(LIMIT + 10):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b""]
        wire.run()
    sample = monitor.sample()
    assert [row["id"] for row in sample["connections"]] == list(range(11, LIMIT + 11))
    assert sample["totals"]["connections"] == LIMIT + 10


def test_an_ended_connection_that_did_not_fit_gets_no_row_later(wire):
    monitor = Monitor(wire.reactor, limit=1)
    _, first = wire.connect(Recorder())
    _, second = wire.connect(Recorder())
    second.inbox = [b""]
    wire.run()
    assert list(rows(monitor)) == [1]
    first.inbox = [b""]
    wire.run()
    assert list(rows(monitor)) == [1]
    assert rows(monitor) == {}


def test_the_label_is_what_the_given_callable_returns(wire):
    monitor = Monitor(wire.reactor, label=lambda connection: f"to {connection.getPeer().port}")
    wire.connect(Recorder())
    assert monitor.sample()["connections"][0]["label"] == "to 4321"


# Many connections.


def slow(wire, monkeypatch):
    """Advance the clock so fast that a sample examines BATCH connections only."""
    times = itertools.count()
    monkeypatch.setattr(wire.reactor, "seconds", lambda: next(times) * SCAN_SECONDS)


def test_a_sample_examines_some_connections_and_the_next_one_continues(monitor, wire, monkeypatch):
    for _ in range(2 * BATCH + 10):
        _, sock = wire.connect(Recorder(), room=10)
        sock.inbox = [b"y"]
    wire.run()
    slow(wire, monkeypatch)

    samples = [monitor.sample() for _ in range(3)]

    assert [sample["totals"]["in"] for sample in samples] == [BATCH, 2 * BATCH, 2 * BATCH + 10]
    assert {sample["totals"]["open"] for sample in samples} == {2 * BATCH + 10}
    assert [len(sample["connections"]) for sample in samples] == [0, 0, LIMIT]
    for sample in samples:
        rest, rows = sample["rest"], sample["connections"]
        assert rest["count"] == 2 * BATCH + 10 - len(rows)
        assert rest["in"] + sum(row["in"] for row in rows) == sample["totals"]["in"]


def test_an_idle_connection_counts_as_soon_as_it_writes_and_as_soon_as_it_has_sent(wire):
    monitor = Monitor(wire.reactor, limit=0)
    transport, sock = wire.connect(Recorder(), room=10)
    for _ in range(3):
        assert monitor.sample()["rest"]["pending"] == 0
    transport.write(b"x" * 10)
    assert monitor.sample()["rest"]["pending"] == 10
    wire.run()
    for _ in range(100):  # until the averages are those of an idle connection again
        assert monitor.sample()["totals"]["out"] == 10
    sock.room = 10
    transport.write(b"x" * 10)
    wire.run()
    assert monitor.sample()["totals"]["out"] == 20


def test_rows_are_current_in_the_middle_of_a_scan(monitor, wire, monkeypatch):
    _, sock = wire.connect(Recorder())
    for _ in range(2 * BATCH):
        wire.connect(Recorder())
    monitor.sample()
    slow(wire, monkeypatch)
    monitor.sample()
    sock.inbox = [b"yyy"]
    wire.run()
    sample = monitor.sample()
    assert sample["connections"][0]["in"] == sample["totals"]["in"] == 3


def test_a_connection_that_ends_during_a_scan_counts_once(monitor, wire, monkeypatch):
    socks = [wire.connect(Recorder())[1] for _ in range(2 * BATCH)]
    slow(wire, monkeypatch)
    monitor.sample()
    for sock in (socks[0], socks[-1]):  # the scan has examined one of them, and not the other
        sock.inbox = [b"in", b""]
    wire.run()
    for _ in range(3):
        totals = monitor.sample()["totals"]
        assert (totals["in"], totals["open"]) == (4, 2 * BATCH - 2)


def test_sample_soon_examines_every_connection(monitor, wire, monkeypatch):
    for _ in range(3 * BATCH):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b"y"]
    wire.run()
    slow(wire, monkeypatch)
    samples = []
    monitor.sample_soon(samples.append)
    assert samples == []
    wire.run()
    (sample,) = samples
    assert sample["totals"]["in"] == 3 * BATCH


def test_sample_soon_calls_back_at_once_if_there_are_few_connections(monitor, wire):
    wire.connect(Recorder())
    samples = []
    monitor.sample_soon(samples.append)
    assert samples[0]["totals"]["open"] == 1


def test_the_kernel_is_asked_only_for_rows_and_active_connections(wire, monkeypatch):
    monitor = Monitor(wire.reactor, limit=2)
    for _ in range(20):
        wire.connect(Recorder())
    active, sock = wire.connect(Recorder())
    monitor.sample()
    monitor.sample()
    asked = []
    monkeypatch.setattr(watched, "send_queue", asked.append)
    monkeypatch.setattr(watched, "receive_queue", asked.append)
    sock.inbox = [b"y" * 1000]
    wire.run()
    first, second = monitor.sample()["connections"]
    assert first["in"] == 1000
    assert len(asked) == 1 + 2 * 2
    assert len(set(asked)) == 2


def test_the_first_rows_are_found_among_more_than_MAX_RANKED_active_connections(wire):
    monitor = Monitor(wire.reactor, limit=1)
    for count in range(MAX_RANKED + 2 * BATCH):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b"y" * (100_000 if count == 5 else 1)]
    wire.run()
    assert list(rows(monitor)) == [6]


def test_connections_from_before_the_monitor_are_added_in_batches(wire, monkeypatch):
    for _ in range(3 * BATCH):
        wire.connect(Recorder())
    slow(wire, monkeypatch)
    labelled = []
    monitor = Monitor(wire.reactor, label=lambda connection: labelled.append(connection) or "label")
    assert labelled == []
    wire.run(1)
    assert len(labelled) == BATCH
    assert (
        monitor.sample()["totals"]["open"]
        == monitor.count()
        == len(monitor.connections())
        == 3 * BATCH
    )
    assert monitor.connection(3 * BATCH) is monitor.connections()[-1]


def test_the_resume_after_a_pause_from_before_the_monitor_is_an_event(wire, clock):
    transport, sock = paused(wire)
    clock.advance(5.0)
    monitor = Monitor(wire.reactor)
    events = []
    monitor.subscribe(lambda event: events.append((event["event"], event["id"], event["time"])))
    wire.connect(Recorder())
    clock.advance(1.0)
    sock.room = 101
    transport.doWrite()
    wire.reactor._take_turns()
    assert events == [("connect", 2, 0.0), ("resume", 1, 1.0)]
    assert rows(monitor)[1]["paused"] == 1.0


# The order of the rows, and the rest.


def test_connections_with_the_most_bytes_waiting_come_first(monitor, wire):
    for count in (10, 100_000, 1000):
        transport, _ = wire.connect(Recorder())
        transport.write(b"x" * count)
    assert list(rows(monitor)) == [2, 3, 1]


def test_then_the_connections_that_move_most_then_the_oldest(monitor, wire):
    for count in (0, 10, 1000, 0):
        _, sock = wire.connect(Recorder())
        if count:
            sock.inbox = [b"y" * count]
    wire.run()
    assert list(rows(monitor)) == [3, 2, 1, 4]


def test_rows_keep_their_places_while_about_as_much_waits_for_each(monitor, wire):
    for count in (600, 1000, 1100):
        wire.connect(Recorder())[0].write(b"x" * count)
    assert list(rows(monitor)) == [1, 2, 3]


def test_rows_keep_their_places_while_each_moves_about_as_much(monitor, wire):
    transports = [wire.connect(Recorder(), room=1 << 20)[0] for _ in range(3)]
    for _ in range(5):
        for transport, count in zip(transports, (600, 1000, 1100)):
            transport.write(b"x" * count)
        wire.run()
        assert list(rows(monitor)) == [1, 2, 3]


def test_a_single_burst_does_not_reorder_the_rows_but_a_lasting_one_does(monitor, wire):
    first, _ = wire.connect(Recorder())
    second, _ = wire.connect(Recorder())
    first.write(b"x" * 60_000)
    second.write(b"x" * 1000)
    rows(monitor)
    second.write(b"x" * 199_000)
    orders = [list(rows(monitor)) for _ in range(10)]
    assert orders[0] == [1, 2]
    assert orders[-1] == [2, 1]


@pytest.mark.parametrize(
    "order, expected",
    [
        ("busiest", [3, 1, 2]),
        ("rate", [2, 1, 3]),
        ("pauses", [1, 2, 3]),
        ("newest", [3, 2, 1]),
        ("oldest", [1, 2, 3]),
    ],
)
def test_other_orders(monitor, wire, order, expected):
    paused(wire)
    _, sock = wire.connect(Recorder())
    sock.inbox = [b"y" * 1000]
    waiting, _ = wire.connect(Recorder())
    waiting.write(b"x" * 10_000)
    wire.run()
    monitor.order = order
    assert list(rows(monitor)) == expected


@pytest.mark.parametrize("order", ORDERS[1:])
def test_changing_the_order_during_a_scan_begins_a_new_scan(wire, monkeypatch, order):
    monitor = Monitor(wire.reactor, limit=2)
    for _ in range(2 * BATCH):
        wire.connect(Recorder())[0].write(b"x")
    rows(monitor)
    with monkeypatch.context() as patch:
        slow(wire, patch)
        rows(monitor)  # examines half of the connections, in the first order
    monitor.order = order
    first = 2 * BATCH if order == "newest" else 1
    assert next(iter(rows(monitor))) == first


def test_the_rest_is_summed(wire):
    monitor = Monitor(wire.reactor, limit=2)
    for count in range(5):
        _, sock = paused(wire, room=60)
        sock.inbox = [b"y" * (count + 1)]
    wire.run()
    sample = monitor.sample()
    assert len(sample["connections"]) == 2
    ids = [row["id"] for row in sample["connections"]]
    others = [count + 1 for count in range(5) if count + 1 not in ids]
    assert sample["rest"] == {
        "count": 3,
        "pending": 3 * 41,
        "in": sum(others),
        "out": 3 * 60,
        "pauses": 3,
    }


def test_the_rest_does_not_count_ended_connections(wire):
    monitor = Monitor(wire.reactor, limit=1)
    _, ended = paused(wire, room=60)
    paused(wire)
    paused(wire)
    wire.run()
    ended.inbox = [b""]
    wire.run()
    assert monitor.sample()["rest"] == {"count": 1, "pending": 101, "in": 0, "out": 0, "pauses": 1}


def test_connections_of_unwatched_protocols_are_left_out(monitor, events, wire):
    protocol = Recorder()
    protocol.unwatched = True
    transport, sock = wire.connect(protocol)
    sock.inbox = [b""]
    wire.run()
    assert monitor.sample()["totals"]["connections"] == 0
    assert events == []


# Pauses.


def test_the_paused_time_stops_at_each_resume(monitor, wire, clock):
    transport, sock = paused(wire)
    clock.advance(1.0)
    sock.room = 1000
    wire.run()
    clock.advance(10.0)
    assert rows(monitor)[1]["paused"] == 1.0
    sock.room = 0
    transport.write(b"x" * 101)
    clock.advance(0.5)
    assert rows(monitor)[1]["paused"] == 1.5


def test_the_total_paused_time_includes_ended_connections(monitor, wire, clock):
    _, ended = paused(wire)
    paused(wire)
    clock.advance(1.0)
    ended.inbox = [b""]
    wire.run()
    clock.advance(1.0)
    totals = monitor.sample()["totals"]
    assert (totals["paused"], totals["paused_now"]) == (3.0, 1)


def test_a_pause_ends_when_its_producer_is_unregistered(monitor, wire, clock):
    transport, _ = paused(wire)
    clock.advance(1.0)
    transport.unregisterProducer()
    rows(monitor)
    clock.advance(10.0)
    assert rows(monitor)[1]["paused"] == 1.0


def test_a_pause_from_before_the_monitor_is_timed_from_the_monitors_start(wire, clock):
    paused(wire)
    clock.advance(5.0)
    monitor = Monitor(wire.reactor)
    clock.advance(1.0)
    assert rows(monitor)[1]["paused"] == 1.0


# Events.


def test_the_events_of_a_connection_from_connect_to_lost(events, wire, clock):
    transport, sock = paused(wire)
    clock.advance(1.0)
    sock.room = 101
    wire.run()
    clock.advance(1.0)
    sock.inbox = [b""]
    wire.run()
    common = {"type": "event", "id": 1, "peer": "192.0.2.1:4321"}
    assert events == [
        {**common, "time": 0.0, "event": "connect"},
        {**common, "time": 0.0, "event": "pause"},
        {**common, "time": 1.0, "event": "resume"},
        {
            **common,
            "time": 2.0,
            "event": "lost",
            "reason": "The connection was closed in good order.",
        },
    ]


def test_resuming_a_pull_producer_is_no_event(events, wire):
    transport, sock = wire.connect(Recorder(), room=1000)
    transport.registerProducer(Push(), False)
    transport.write(b"x")
    wire.run()
    assert [event["event"] for event in events] == ["connect"]


def test_resuming_a_new_pull_producer_is_no_resume_of_the_paused_one_before(events, wire):
    transport, _ = paused(wire)
    transport.unregisterProducer()
    transport.registerProducer(Push(), False)
    assert [event["event"] for event in events] == ["connect", "pause"]


def test_after_unsubscribing_no_event_comes_and_a_repetition_is_allowed(monitor, events, wire):
    received = []
    unsubscribe = monitor.subscribe(received.append)
    unsubscribe()
    unsubscribe()
    wire.connect(Recorder())
    assert received == []
    assert len(events) == 1


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_a_subscriber_that_raises_is_logged_and_removed_and_the_others_go_on(
    monitor, wire, caplog, error
):
    calls = []

    def broken(event):
        calls.append(event)
        raise error("no")

    monitor.subscribe(broken)
    received = []
    monitor.subscribe(received.append)
    with caplog.at_level(logging.ERROR):
        wire.connect(Recorder())
        wire.connect(Recorder())
    assert len(calls) == 1
    assert len(received) == 2
    (record,) = caplog.records
    assert "broken" in record.getMessage()


# Beginning and end.


def test_a_connection_from_before_the_monitor_has_a_row(wire):
    transport, _ = wire.connect(Recorder())
    transport.write(b"x" * 5)
    assert rows(Monitor(wire.reactor))[1]["pending"] == 5


def test_a_closed_monitor_gets_no_events_and_no_longer_observes_the_reactor(wire):
    monitor = Monitor(wire.reactor)
    received = []
    monitor.subscribe(received.append)
    wire.run()
    monitor.close()
    monitor.close()
    wire.connect(Recorder())
    assert received == []
    assert wire.reactor.observers == ()


def test_two_monitors_count_independently(monitor, wire):
    wire.connect(Recorder())
    later = Monitor(wire.reactor)
    wire.connect(Recorder())
    assert list(rows(monitor)) == list(rows(later)) == [1, 2]
    later.close()
    wire.connect(Recorder())
    assert list(rows(monitor)) == [1, 2, 3]


def test_the_timer_is_not_among_the_applications_delayed_calls(monitor, wire):
    wire.run()
    assert wire.reactor.getDelayedCalls() == []


# The lag.


def test_the_lag_is_the_longest_delay_of_a_timer_since_the_last_sample(monitor, wire, clock):
    wire.run()
    for late in (0.1, 0.3, 0.2):
        clock.advance(0.05 + late)
        wire.run()
    assert monitor.sample()["lag"] == pytest.approx(0.3)
    assert monitor.sample()["lag"] == 0


def test_the_time_before_the_loop_runs_is_no_lag(monitor, wire, clock):
    clock.advance(60)
    wire.run()
    assert monitor.sample()["lag"] == 0


def test_a_lag_that_the_sample_notices_first_counts_once(monitor, wire, clock):
    wire.run()
    clock.advance(1.05)
    assert monitor.sample()["lag"] == pytest.approx(1.0)
    wire.run()
    assert monitor.sample()["lag"] == 0


# On real sockets.


def test_the_kernels_queues(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    monitor = Monitor(reactor)
    if rows(monitor)[1]["recvq"] is None:
        pytest.skip("this system does not report its queues")
    protocol.transport.pauseProducing()
    client.sendall(b"four")
    pump(reactor, lambda: rows(monitor)[1]["recvq"] == 4)
    protocol.transport.write(bytes(32 << 20))
    pump(reactor, lambda: rows(monitor)[1]["sendq"] > 10_000)
    row = rows(monitor)[1]
    assert row["out"] + row["pending"] == 32 << 20
    assert row["peer"] == f"127.0.0.1:{client.getsockname()[1]}"


def test_outgoing_connections_are_watched_too(reactor, closing):
    monitor = Monitor(reactor)
    port = reactor.listenTCP(0, Factory.forProtocol(Recorder), interface="127.0.0.1")
    to = port.getHost()
    reactor.connectTCP(to.host, to.port, RecordingClientFactory(HalfCloseable()))
    pump(reactor, lambda: monitor.sample()["totals"]["open"] == 2)
    assert {row["label"] for row in monitor.sample()["connections"]} == {
        "Recorder",
        "HalfCloseable",
    }


@pytest.mark.skipif(queues.NOTSENT_LOWAT is None, reason="the system has no such limit")
def test_T6_a_row_has_the_kernels_unsent_limit(reactor, closing):
    monitor = closing(Monitor(reactor))
    protocol, client = served(reactor)
    closing(client)
    (row,) = monitor.sample()["connections"]
    assert row["unsent"] == 2 * row["high"]
    protocol.transport.abortConnection()
    reactor.iterate()
    (row,) = monitor.sample()["connections"]
    assert (row["state"], row["unsent"]) == ("closed", 0)
