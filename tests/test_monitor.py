from __future__ import annotations

import itertools
import json
import logging

import pytest
from support import HalfCloseable, Recorder, RecordingClientFactory, pump, served

from minireactor.protocol import Factory
from minireactor.transports import kernel as queues
from minireactor.view import monitor as monitor_module
from minireactor.view.monitor import CHUNK, LIMIT, LOOK_SECONDS, MAX_RANKED, Monitor


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
    heard = []
    monitor.subscribe(heard.append)
    return heard


def rows(monitor):
    return {row["id"]: row for row in monitor.sample()["connections"]}


def paused(wire, room=0):
    """(transport, socket) with marks of 100 and 25 bytes, and a producer that is paused."""
    transport, sock = wire.connect(Recorder(), room)
    transport.setWriteBufferLimits(100, 25)
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 101)
    return transport, sock


# Samples.


def test_a_sample_of_nobody(monitor, clock):
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


def test_a_sample_tells_all_of_a_connection(monitor, wire, clock):
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


def test_the_states_are_those_of_the_connection(monitor, wire):
    closing, ending = paused(wire)[0], paused(wire)[0]
    closing.loseConnection()
    ending.abortConnection()
    found = rows(monitor)
    assert (found[1]["state"], found[2]["state"]) == ("closing", "ending")


def test_pending_counts_as_the_highest_before_a_write_pass_has_seen_it(monitor, wire):
    transport, _ = wire.connect(Recorder())
    transport.write(b"x" * 5)
    assert monitor.sample()["totals"]["highest_pending"] == 5


def test_one_that_has_ended_is_shown_once_more_and_counts_for_ever(monitor, wire):
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


def test_of_those_that_have_ended_no_more_are_kept_than_a_sample_holds(monitor, wire):
    for _ in range(LIMIT + 10):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b""]
        wire.run()
    sample = monitor.sample()
    assert [row["id"] for row in sample["connections"]] == list(range(11, LIMIT + 11))
    assert sample["totals"]["connections"] == LIMIT + 10


def test_one_that_ended_and_found_no_room_is_not_shown_later(wire):
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


def test_a_label_of_ones_own(wire):
    monitor = Monitor(wire.reactor, label=lambda connection: f"to {connection.getPeer().port}")
    wire.connect(Recorder())
    assert monitor.sample()["connections"][0]["label"] == "to 4321"


# Many connections.


def slow(wire, monkeypatch):
    """Have a sample look at CHUNK connections, and at no more: its time is over then."""
    times = itertools.count()
    monkeypatch.setattr(wire.reactor, "seconds", lambda: next(times) * LOOK_SECONDS)


def test_a_sample_looks_at_some_and_the_next_one_goes_on(monitor, wire, monkeypatch):
    for _ in range(2 * CHUNK + 10):
        _, sock = wire.connect(Recorder(), room=10)
        sock.inbox = [b"y"]
    wire.run()
    slow(wire, monkeypatch)

    samples = [monitor.sample() for _ in range(3)]

    assert [sample["totals"]["in"] for sample in samples] == [CHUNK, 2 * CHUNK, 2 * CHUNK + 10]
    assert {sample["totals"]["open"] for sample in samples} == {2 * CHUNK + 10}
    assert [len(sample["connections"]) for sample in samples] == [0, 0, LIMIT]
    for sample in samples:
        rest, rows = sample["rest"], sample["connections"]
        assert rest["count"] == 2 * CHUNK + 10 - len(rows)
        assert rest["in"] + sum(row["in"] for row in rows) == sample["totals"]["in"]


def test_one_that_was_idle_counts_as_soon_as_it_writes_and_as_soon_as_that_is_sent(wire):
    monitor = Monitor(wire.reactor, limit=0)
    transport, sock = wire.connect(Recorder(), room=10)
    for _ in range(3):
        assert monitor.sample()["rest"]["pending"] == 0
    transport.write(b"x" * 10)
    assert monitor.sample()["rest"]["pending"] == 10
    wire.run()
    for _ in range(100):  # until the averages are those of an idle one again
        assert monitor.sample()["totals"]["out"] == 10
    sock.room = 10
    transport.write(b"x" * 10)
    wire.run()
    assert monitor.sample()["totals"]["out"] == 20


def test_rows_are_of_now_also_in_the_middle_of_a_round(monitor, wire, monkeypatch):
    _, sock = wire.connect(Recorder())
    for _ in range(2 * CHUNK):
        wire.connect(Recorder())
    monitor.sample()
    slow(wire, monkeypatch)
    monitor.sample()
    sock.inbox = [b"yyy"]
    wire.run()
    sample = monitor.sample()
    assert sample["connections"][0]["in"] == sample["totals"]["in"] == 3


def test_one_that_ends_in_the_middle_of_a_round_counts_once(monitor, wire, monkeypatch):
    socks = [wire.connect(Recorder())[1] for _ in range(2 * CHUNK)]
    slow(wire, monkeypatch)
    monitor.sample()
    for sock in (socks[0], socks[-1]):  # it has looked at one of them, and will at the other
        sock.inbox = [b"in", b""]
    wire.run()
    for _ in range(3):
        totals = monitor.sample()["totals"]
        assert (totals["in"], totals["open"]) == (4, 2 * CHUNK - 2)


def test_sample_soon_has_looked_at_every_connection(monitor, wire, monkeypatch):
    for _ in range(3 * CHUNK):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b"y"]
    wire.run()
    slow(wire, monkeypatch)
    samples = []
    monitor.sample_soon(samples.append)
    assert samples == []
    wire.run()
    (sample,) = samples
    assert sample["totals"]["in"] == 3 * CHUNK


def test_sample_soon_is_at_once_where_there_are_few(monitor, wire):
    wire.connect(Recorder())
    samples = []
    monitor.sample_soon(samples.append)
    assert samples[0]["totals"]["open"] == 1


def test_the_kernel_is_asked_for_the_rows_and_for_those_that_are_active(wire, monkeypatch):
    monitor = Monitor(wire.reactor, limit=2)
    for _ in range(20):
        wire.connect(Recorder())
    active, sock = wire.connect(Recorder())
    monitor.sample()
    monitor.sample()
    asked = []
    monkeypatch.setattr(monitor_module, "send_queue", lambda connection: asked.append(connection))
    monkeypatch.setattr(
        monitor_module, "receive_queue", lambda connection: asked.append(connection)
    )
    sock.inbox = [b"y" * 1000]
    wire.run()
    first, second = monitor.sample()["connections"]
    assert first["in"] == 1000
    assert len(asked) == 1 + 2 * 2
    assert len(set(asked)) == 2


def test_the_first_ones_are_found_among_very_many_active_ones(wire):
    monitor = Monitor(wire.reactor, limit=1)
    for count in range(MAX_RANKED + 2 * CHUNK):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b"y" * (100_000 if count == 5 else 1)]
    wire.run()
    assert list(rows(monitor)) == [6]


def test_those_that_were_there_before_are_met_beat_by_beat(wire, monkeypatch):
    for _ in range(3 * CHUNK):
        wire.connect(Recorder())
    slow(wire, monkeypatch)
    told = []
    monitor = Monitor(wire.reactor, label=lambda connection: told.append(connection) or "label")
    assert told == []
    wire.run(1)
    assert len(told) == CHUNK
    assert (
        monitor.sample()["totals"]["open"]
        == monitor.count()
        == len(monitor.connections())
        == 3 * CHUNK
    )
    assert monitor.connection(3 * CHUNK) is monitor.connections()[-1]


def test_events_of_one_that_was_there_before_are_told_and_timed_from_then(wire, clock):
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


# Who comes first, and who is left out.


def test_those_for_which_most_waits_come_first(monitor, wire):
    for count in (10, 100_000, 1000):
        transport, _ = wire.connect(Recorder())
        transport.write(b"x" * count)
    assert list(rows(monitor)) == [2, 3, 1]


def test_then_those_that_have_moved_most_then_the_oldest(monitor, wire):
    for count in (0, 10, 1000, 0):
        _, sock = wire.connect(Recorder())
        if count:
            sock.inbox = [b"y" * count]
    wire.run()
    assert list(rows(monitor)) == [3, 2, 1, 4]


def test_rows_keep_their_places_while_little_more_waits_for_one_than_for_another(monitor, wire):
    for count in (600, 1000, 1100):
        wire.connect(Recorder())[0].write(b"x" * count)
    assert list(rows(monitor)) == [1, 2, 3]


def test_rows_keep_their_places_while_one_moves_little_more_than_another(monitor, wire):
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


def test_the_rest_does_not_count_who_has_ended(wire):
    monitor = Monitor(wire.reactor, limit=1)
    _, gone = paused(wire, room=60)
    paused(wire)
    paused(wire)
    wire.run()
    gone.inbox = [b""]
    wire.run()
    assert monitor.sample()["rest"] == {"count": 1, "pending": 101, "in": 0, "out": 0, "pauses": 1}


def test_those_through_which_somebody_watches_are_left_out(monitor, events, wire):
    protocol = Recorder()
    protocol.unwatched = True
    transport, sock = wire.connect(protocol)
    sock.inbox = [b""]
    wire.run()
    assert monitor.sample()["totals"]["connections"] == 0
    assert events == []


# Pauses.


def test_the_time_spent_paused_ends_with_each_resume(monitor, wire, clock):
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


def test_all_pauses_together_count_for_ever(monitor, wire, clock):
    _, gone = paused(wire)
    paused(wire)
    clock.advance(1.0)
    gone.inbox = [b""]
    wire.run()
    clock.advance(1.0)
    totals = monitor.sample()["totals"]
    assert (totals["paused"], totals["paused_now"]) == (3.0, 1)


def test_a_producer_that_leaves_while_paused_is_paused_no_more(monitor, wire, clock):
    transport, _ = paused(wire)
    clock.advance(1.0)
    transport.unregisterProducer()
    rows(monitor)
    clock.advance(10.0)
    assert rows(monitor)[1]["paused"] == 1.0


def test_a_connection_that_was_paused_before_the_monitor_began_is_timed_from_then(wire, clock):
    paused(wire)
    clock.advance(5.0)
    monitor = Monitor(wire.reactor)
    clock.advance(1.0)
    assert rows(monitor)[1]["paused"] == 1.0


# Events.


def test_the_events_of_a_life(events, wire, clock):
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


def test_that_a_pull_producer_is_asked_is_no_event(events, wire):
    transport, sock = wire.connect(Recorder(), room=1000)
    transport.registerProducer(Push(), False)
    transport.write(b"x")
    wire.run()
    assert [event["event"] for event in events] == ["connect"]


def test_that_another_producer_is_asked_is_no_resume_of_one_that_was_paused(events, wire):
    transport, _ = paused(wire)
    transport.unregisterProducer()
    transport.registerProducer(Push(), False)
    assert [event["event"] for event in events] == ["connect", "pause"]


def test_who_unsubscribes_hears_nothing_more_and_may_do_so_twice(monitor, events, wire):
    heard = []
    unsubscribe = monitor.subscribe(heard.append)
    unsubscribe()
    unsubscribe()
    wire.connect(Recorder())
    assert heard == []
    assert len(events) == 1


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_a_subscriber_that_raises_is_logged_and_dropped_and_costs_nobody_anything(
    monitor, wire, caplog, error
):
    calls = []

    def broken(event):
        calls.append(event)
        raise error("no")

    monitor.subscribe(broken)
    heard = []
    monitor.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        wire.connect(Recorder())
        wire.connect(Recorder())
    assert len(calls) == 1
    assert len(heard) == 2
    (record,) = caplog.records
    assert "broken" in record.getMessage()


# Its own life.


def test_who_was_there_before_is_seen(wire):
    transport, _ = wire.connect(Recorder())
    transport.write(b"x" * 5)
    assert rows(Monitor(wire.reactor))[1]["pending"] == 5


def test_closed_it_hears_nothing_and_leaves_nothing(wire):
    monitor = Monitor(wire.reactor)
    heard = []
    monitor.subscribe(heard.append)
    wire.run()
    monitor.close()
    monitor.close()
    wire.connect(Recorder())
    assert heard == []
    assert wire.reactor.observers == ()


def test_two_monitors_count_each_for_itself(monitor, wire):
    wire.connect(Recorder())
    later = Monitor(wire.reactor)
    wire.connect(Recorder())
    assert list(rows(monitor)) == list(rows(later)) == [1, 2]
    later.close()
    wire.connect(Recorder())
    assert list(rows(monitor)) == [1, 2, 3]


def test_its_timer_is_not_shown(monitor, wire):
    wire.run()
    assert wire.reactor.getDelayedCalls() == []


# The lag.


def test_the_lag_is_the_latest_that_a_timer_came_since_the_last_sample(monitor, wire, clock):
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


def test_a_lag_that_the_sample_is_first_to_notice_counts_once(monitor, wire, clock):
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
        pytest.skip("this system does not tell")
    protocol.transport.pauseProducing()
    client.sendall(b"four")
    pump(reactor, lambda: rows(monitor)[1]["recvq"] == 4)
    protocol.transport.write(bytes(32 << 20))
    pump(reactor, lambda: rows(monitor)[1]["sendq"] > 10_000)
    row = rows(monitor)[1]
    assert row["out"] + row["pending"] == 32 << 20
    assert row["peer"] == f"127.0.0.1:{client.getsockname()[1]}"


def test_connections_that_go_out_are_seen_as_well(reactor, closing):
    monitor = Monitor(reactor)
    port = reactor.listenTCP(0, Factory.forProtocol(Recorder), interface="127.0.0.1")
    to = port.getHost()
    reactor.connectTCP(to.host, to.port, RecordingClientFactory(HalfCloseable()))
    pump(reactor, lambda: monitor.sample()["totals"]["open"] == 2)
    assert {row["label"] for row in monitor.sample()["connections"]} == {
        "Recorder",
        "HalfCloseable",
    }


@pytest.mark.skipif(queues._OPTION is None, reason="the system has no such limit")
def test_T6_a_row_has_the_limit_of_the_kernel(reactor, closing):
    monitor = closing(Monitor(reactor))
    protocol, client = served(reactor)
    closing(client)
    (row,) = monitor.sample()["connections"]
    assert row["unsent"] == 2 * row["high"]
    protocol.transport.abortConnection()
    reactor.iterate()
    (row,) = monitor.sample()["connections"]
    assert (row["state"], row["unsent"]) == ("closed", 0)
