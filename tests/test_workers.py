"""Workers: what the parent adds up, which sockets they share, and how they are started anew."""

from __future__ import annotations

import argparse
import socket

import pytest

from minireactor.cli import worker_options
from minireactor.error import CannotListenError
from minireactor.operation.merge import empty_totals, merge
from minireactor.operation.monitors import STUCK_SECONDS, WorkersMonitor
from minireactor.operation.shared import SharedPort, balances, shares
from minireactor.operation.worker import share, taken_from, variables
from minireactor.operation.workers import MAX_DELAY, delay_after
from minireactor.view.metrics import exposition

BALANCED = pytest.mark.skipif(not balances(), reason="the kernel balances no sockets here")


def row(number, key=0, state="open", **more):
    figures = dict.fromkeys(("pending", "in", "out", "pauses"), 1)
    return {"id": number, "key": key, "state": state, **figures, **more}


def sample(*rows, connections=0, lag=0.0, memory=100, rest=None, **totals):
    totals = {**empty_totals(), "connections": connections, "open": len(rows), **totals}
    return {
        "lag": lag,
        "memory": memory,
        "totals": totals,
        "connections": list(rows),
        "rest": rest,
    }


def merged(*samples, limit=50, order="busiest", ended=None):
    return merge(list(samples), ended or empty_totals(), limit, order)


def ids(found):
    return [each["id"] for each in found["connections"]]


# One sample out of several.


def test_totals_are_added_up_and_the_highest_pending_is_the_highest():
    one = sample(connections=3, paused=0.1, highest_pending=7, **{"in": 10})
    other = sample(connections=4, paused=0.2, highest_pending=5, **{"in": 20})
    totals = merged(one, other)["totals"]
    assert totals["connections"] == 7
    assert totals["in"] == 30
    assert totals["paused"] == 0.3
    assert totals["highest_pending"] == 7


def test_rejected_clients_are_added_up_by_option_also_of_workers_that_have_ended():
    one = sample(rejected={"--deny": 2})
    other = sample(rejected={"--deny": 1, "--allow": 5})
    ended = {**empty_totals(), "rejected": {"--allow": 10}}
    found = merged(one, other, sample(), ended=ended)
    assert found["totals"]["rejected"] == {"--deny": 3, "--allow": 15}
    assert ended["rejected"] == {"--allow": 10}
    assert "rejected" not in merged(sample())["totals"]


def target(place, state="up", clients=0, failures=0, connect=None, reason=""):
    row = {"target": place, "state": state, "weight": 1, "backup": False, "clients": clients}
    return {**row, "failures": failures, "connect": connect, "reason": reason}


def test_targets_are_added_up_and_the_worst_state_counts():
    one, other = sample(), sample()
    one["targets"] = [target("a:1", clients=1, failures=2, connect=0.5), target("b:1")]
    why = "refused"
    other["targets"] = [target("a:1", "down", 2, 3, 0.25, why), target("c:1", "draining")]
    assert merged(one, other)["targets"] == [
        target("a:1", "down", 3, 5, 0.5, why),
        target("b:1"),
        target("c:1", "draining"),
    ]
    assert "targets" not in merged(sample())


def test_totals_include_workers_that_have_ended():
    ended = {**empty_totals(), "connections": 5}
    assert merged(sample(connections=1), ended=ended)["totals"]["connections"] == 6
    assert ended["connections"] == 5  # and merging has not changed them


def test_memory_is_the_sum_and_lag_is_the_longest():
    found = merged(sample(lag=0.5, memory=100), sample(lag=0.2, memory=50))
    assert (found["memory"], found["lag"]) == (150, 0.5)


def test_memory_is_unknown_if_no_worker_knows_it():
    assert merged(sample(memory=None))["memory"] is None


def test_the_first_rows_are_the_busiest_over_all_workers():
    found = merged(sample(row(1, [-3, 0]), row(3, [0, 0])), sample(row(2, [-2, 0])), limit=2)
    assert ids(found) == [1, 2]
    assert "key" not in found["connections"][0]


@pytest.mark.parametrize(("order", "expected"), [("newest", [4, 3, 1]), ("oldest", [1, 3, 4])])
def test_rows_in_order_of_age_follow_the_ids_that_all_workers_share(order, expected):
    found = merged(sample(row(1, -9), row(3, -8)), sample(row(4, 0)), order=order)
    assert ids(found) == expected


def test_rows_above_the_limit_are_added_to_the_rest():
    rest = {"count": 3, "pending": 30, "in": 30, "out": 30, "pauses": 30}
    found = merged(sample(row(1, 0), rest=rest), sample(row(2, 1), row(4, 2)), limit=1)
    expected = {"count": 5, "pending": 32, "in": 32, "out": 32, "pauses": 32}
    assert found["rest"] == expected
    assert merged(sample(row(1)))["rest"] is None


def test_closed_rows_stand_last_and_are_no_part_of_the_rest():
    found = merged(sample(row(1, 0, "closed"), row(3, 9)), limit=2)
    assert ids(found) == [3, 1]
    found = merged(sample(row(1, 0, "closed"), row(3, 9)), limit=1)
    assert (ids(found), found["rest"]) == ([3], None)


def test_no_worker_makes_an_empty_sample_that_metrics_can_show():
    found = merged()
    assert found["totals"] == empty_totals()
    assert "minireactor_connections_total 0" in exposition(found)


# The monitor of a parent.


class FakeControl:
    """Stands for the connection to a worker: keeps what is sent."""

    def __init__(self):
        self.sent = []

    def send(self, **order):
        self.sent.append(order)


@pytest.fixture
def monitor(wire):
    return WorkersMonitor(wire.reactor, 7, 2, lambda monitor: None)


@pytest.fixture
def join(monitor):
    """join(slot) adds a worker to the monitor, and returns its control."""

    def join(slot):
        control = FakeControl()
        monitor.joined(control, slot)
        return control

    return join


def test_a_worker_is_asked_again_only_after_it_has_answered(monitor, join):
    control = join(0)
    assert [order["do"] for order in control.sent] == ["sample"]
    monitor.sample()
    assert len(control.sent) == 1
    monitor.received(control, 0.0, sample(), [])
    monitor.sample()
    assert len(control.sent) == 2


def test_the_connections_of_two_workers_have_different_ids(monitor, join):
    for slot in (0, 1):
        monitor.received(join(slot), 0.0, sample(row(1), row(2)), [])
    assert sorted(ids(monitor.sample())) == [1, 2, 3, 4]


def test_a_replacement_uses_no_id_of_the_worker_before_it(monitor, join):
    first = join(1)
    monitor.received(first, 0.0, sample(row(1), row(2), connections=2), [])
    before = ids(monitor.sample())
    monitor.left(first)
    second = join(1)
    monitor.received(second, 0.0, sample(row(1), connections=1), [])
    found = monitor.sample()
    assert not set(before) & set(ids(found))
    assert found["totals"]["connections"] == 3
    assert found["totals"]["open"] == 1


def test_marks_reach_the_connection_that_has_the_id(monitor, join):
    first, second = join(0), join(1)
    monitor.received(first, 0.0, sample(row(1), connections=1), [])
    monitor.left(first)
    third = join(0)
    monitor.received(second, 0.0, sample(row(1)), [])
    monitor.received(third, 0.0, sample(row(5)), [])
    third.sent.clear()
    (number,) = set(ids(monitor.sample())) - {2}
    third.sent.clear()
    monitor.connection(number).setWriteBufferLimits(10, 5)
    assert third.sent == [{"do": "marks", "high": 10, "low": 5, "view": 7, "id": 5}]
    assert monitor.connection(1) is None


def test_a_closed_row_and_a_lag_are_reported_once(monitor, join):
    monitor.received(join(0), 0.0, sample(row(1, state="closed"), lag=0.5), [])
    assert ids(monitor.sample()) == [1]
    again = monitor.sample()
    assert (ids(again), again["lag"]) == ([], 0.0)


def test_a_scrape_waits_for_all_workers(monitor, join):
    first, second = join(0), join(1)
    got = []
    monitor.sample_soon(got.append)
    monitor.received(first, 0.0, sample(connections=1), [])
    assert got == []
    monitor.received(second, 0.0, sample(connections=2), [])
    assert got[0]["totals"]["connections"] == 3


def test_a_stuck_worker_delays_a_scrape_once_and_shows_as_lag(monitor, join, wire, clock):
    stuck, other = join(0), join(1)
    monitor.received(stuck, 0.0, sample(connections=1), [])
    monitor.received(other, 0.0, sample(connections=2), [])
    got = []
    monitor.sample_soon(got.append)
    monitor.received(other, 0.0, sample(connections=3), [])
    assert got == []
    clock.advance(STUCK_SECONDS)
    wire.run()
    assert got[0]["totals"]["connections"] == 4
    assert got[0]["lag"] == STUCK_SECONDS
    monitor.sample_soon(got.append)
    monitor.received(other, 0.0, sample(connections=3), [])
    assert len(got) == 2


def test_a_worker_that_dies_delays_no_scrape(monitor, join):
    first = join(0)
    got = []
    monitor.sample_soon(got.append)
    monitor.left(first)
    assert len(got) == 1


def test_events_come_in_the_order_of_their_times_and_not_before_the_last_sample(monitor, join):
    first, second = join(0), join(1)
    events = []
    monitor.subscribe(events.append)
    monitor.received(first, 0.5, sample(), [{"time": 0.2, "id": 1}])
    monitor.received(second, 0.4, sample(), [{"time": 0.1, "id": 1}])
    assert events == []
    found = monitor.sample()
    assert [(each["time"], each["id"]) for each in events] == [(0.1, 2), (0.2, 1)]
    assert found["time"] == 0.5
    monitor.received(second, 0.9, sample(), [{"time": 0.45, "id": 2}])
    monitor.sample()
    assert events[-1]["time"] == 0.5


def test_a_subscriber_that_raises_is_removed(monitor, join, caplog):
    control = join(0)
    monitor.subscribe(lambda event: 1 / 0)
    for _ in range(2):
        monitor.received(control, 0.0, sample(), [{"time": 0.0, "id": 1}])
        monitor.sample()
    assert len(caplog.records) == 1


def test_a_subscription_may_be_ended_twice_and_after_the_monitor(monitor):
    end, other = monitor.subscribe(print), monitor.subscribe(repr)
    end()
    end()
    monitor.close()
    other()


def test_a_closed_monitor_closes_the_views_of_its_workers(monitor, join):
    control = join(0)
    monitor.close()
    assert control.sent[-1] == {"do": "close", "view": 7}
    assert monitor.count() == 0


# Limits and delays.


@pytest.mark.parametrize(("limit", "parts"), [(10, [4, 3, 3]), (3, [1, 1, 1]), (2, [1, 1, 1])])
def test_a_limit_is_divided_into_whole_parts_of_at_least_one(limit, parts):
    assert [share(limit, number, 3) for number in range(3)] == parts


def test_a_rate_is_divided_evenly():
    assert share(1.5, 0, 3) == 0.5


def test_a_worker_that_dies_again_and_again_is_started_ever_later():
    assert [delay_after(deaths) for deaths in range(4)] == [0, 1, 2, 4]
    assert delay_after(9) == MAX_DELAY


@pytest.mark.parametrize("text", ["", "x", "[]", '{"fd": 0}', '{"fd": 99999, "number": 0}'])
def test_an_invalid_variable_makes_no_worker(text):
    environ = {"MINIREACTOR_WORKER": text}
    assert taken_from(environ) is None
    assert environ == {}


def test_the_variables_of_a_worker_say_who_it_is(closing):
    ours, theirs = socket.socketpair()
    closing(ours)
    worker = taken_from(dict(variables(theirs.detach(), 1, 2)))
    closing(worker._socket)
    assert (worker.number, worker.count) == (1, 2)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "257", ""])
def test_a_bad_number_of_workers_names_the_fix(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give a number from 1 to 256, or auto"):
        worker_options.workers(text)


def test_one_worker_is_no_worker_and_auto_is_one_for_each_core(monkeypatch):
    assert worker_options.workers("1") is None
    assert worker_options.workers("2") == 2
    monkeypatch.setattr(worker_options, "cores", lambda: 3)
    assert worker_options.workers("auto") == 3


# Listening sockets.


@pytest.fixture
def shared(reactor):
    """shared(host, port, count) returns a SharedPort, which is closed after the test."""
    opened = []

    def shared(*arguments):
        opened.append(SharedPort(reactor, *arguments))
        return opened[-1]

    yield shared
    for port in opened:
        port.stopListening()


class Named:
    def __init__(self, name):
        self.name = name

    def getsockname(self):
        return self.name


def test_workers_share_a_socket_that_exists_once():
    only = Named("unix")
    assert shares([only], 2) == [[only], [only]]


def test_each_worker_has_a_socket_of_each_address():
    four, six = [Named("4") for _ in range(2)], [Named("6") for _ in range(2)]
    assert shares([*four, *six], 2) == [[four[0], six[0]], [four[1], six[1]]]


def test_every_socket_has_a_worker_if_there_are_more_sockets():
    socks = [Named("4") for _ in range(3)]
    assert shares(socks, 2) == [[socks[0], socks[2]], [socks[1]]]


def test_every_worker_has_a_socket_if_there_are_fewer_sockets():
    socks = [Named("4") for _ in range(2)]
    assert shares(socks, 3) == [[socks[0]], [socks[1]], [socks[0]]]


@BALANCED
def test_a_place_has_one_socket_for_each_worker_with_the_same_number(shared):
    port = shared("127.0.0.1", 0, 3)
    numbers = {sock.getsockname()[1] for sock in port.sockets()}
    assert len(port.sockets()) == 3
    assert numbers == {port.getHost().port}
    assert [len(port.share(number)) for number in range(3)] == [1, 1, 1]


@BALANCED
def test_only_a_socket_that_one_worker_has_alone_can_be_lent(shared, tmp_path):
    port = shared("127.0.0.1", 0, 2)
    assert port.own_share(1) == port.share(1)
    assert shared(f"unix:{tmp_path}/x.sock", 0, 2).own_share(1) == []


@pytest.mark.parametrize("port_of", ["plain", "workers"])
def test_a_place_where_somebody_listens_is_refused(shared, closing, port_of):
    if port_of == "plain":
        number = closing(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    else:
        number = shared("127.0.0.1", 0, 2).getHost().port
    with pytest.raises(CannotListenError, match=f"127.0.0.1:{number}.*in use"):
        shared("127.0.0.1", number, 2)


@BALANCED
def test_the_number_of_a_closed_place_can_be_opened_again(shared):
    port = shared("127.0.0.1", 0, 2)
    port.stopListening()
    assert shared("127.0.0.1", port.getHost().port, 2).getHost().port


def test_the_file_of_a_unix_socket_is_removed_at_the_end(shared, tmp_path):
    path = tmp_path / "x.sock"
    port = shared(f"unix:{path}", 0, 2)
    assert path.exists()
    assert port.share(0) == port.share(1) == port.sockets()
    port.stopListening()
    assert not path.exists()


def test_sockets_that_listen_already_are_used_as_they_are(shared, closing):
    sock = closing(socket.create_server(("127.0.0.1", 0)))
    port = shared("systemd:web", 0, 2, [sock])
    assert port.is_adopted
    assert port.share(1) == [sock]
