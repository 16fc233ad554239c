"""The demo: its server, its clients, and the settings that the page changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat

import pytest
from serve_support import FakeTime
from support import PATIENCE, iterations, pump
from test_dashboard import Printed, ask, change, receive_until, request, samples, stream, visit

from minireactor.view.web import demo as module
from minireactor.view.web import demo_producer, replay
from minireactor.view.web.demo import HIGH, LOW, READ, Demo
from minireactor.view.web.demo_reader import SlowReader
from minireactor.view.web.replay import Replay


@pytest.fixture
def demo(reactor, monkeypatch):
    """A running demo with connected clients. Its buffers are small, so that they fill soon."""
    monkeypatch.setattr(demo_producer, "MADE", 16 << 20)
    own = Demo(reactor)
    own.listen()
    pump(reactor, lambda: len(own.streams) == 3, "the clients")
    return own


def transports(demo):
    return [stream.transport for stream in demo.streams]


def producers(demo):
    return {transport._flow.state for transport in transports(demo)}


def marks(demo):
    return {(transport._flow.high, transport._flow.low) for transport in transports(demo)}


def client_of(demo, name):
    """Return what the page receives about one client of the demo."""
    return next(client for client in demo.state()["clients"] if client["name"] == name)


# What there is without touching anything.


def test_three_clients_read_and_are_paused_at_the_marks(reactor, demo):
    pump(reactor, lambda: producers(demo) == {"paused"}, "pauses")
    assert marks(demo) == {(HIGH, LOW)}
    pump(reactor, lambda: all(c.received for c in demo.clients.values()), "what is read")


def test_a_producer_is_resumed_at_the_low_mark(reactor, demo):
    demo.change({"client": "A", "rate": 8_000_000})
    resumed = []
    transport = next(t for t in transports(demo) if _peer(t) == demo.clients["A"].peer)
    reactor.add_observer(
        lambda event, who, reason: resumed.append(event) if who is transport else None
    )
    pump(reactor, lambda: "resumeProducing" in resumed, "a resume")


def _peer(transport):
    return f"{transport.getPeer().host}:{transport.getPeer().port}"


def test_the_page_knows_which_connection_leads_to_which_client(demo):
    peers = {_peer(transport) for transport in transports(demo)}
    legs = [leg for client in demo.state()["clients"] for leg in client["legs"]]
    assert {leg["peer"] for leg in legs} == peers
    assert {leg["leg"] for leg in legs} == {"server-client"}


def test_the_switches_are_in_each_sample(reactor, closing, demo):
    received = receive_until(reactor, stream(reactor, closing, demo.dashboard), samples)
    state = samples(received)[0]["demo"]
    assert (state["flow"], state["low"], state["producer"], state["way"]) == (
        True,
        "quarter",
        "push",
        "direct",
    )
    assert [client["name"] for client in state["clients"]] == ["A", "B", "C"]


def test_a_switch_needs_the_token(reactor, closing, demo):
    def moved(**headers):
        body = b'{"producer": "pull"}'
        return ask(reactor, closing, demo.dashboard, "POST", "/demo", body, **headers)[0]

    assert moved() == 403
    assert demo.settings.kind == "push"
    assert moved(x_token=demo.dashboard.token) == 204
    assert demo.settings.kind == "pull"


# The switches.


def test_without_flow_control_what_waits_grows_until_the_safe_limit(reactor, demo, monkeypatch):
    monkeypatch.setattr(module, "SAFE", 2 << 20)
    demo.change({"flow": False, "made": 16 << 20})
    assert producers(demo) == {"none"}
    pump(reactor, lambda: demo.notice == "limit", "the limit")
    waiting = sum(transport.pending for transport in transports(demo))
    assert waiting > 4 * HIGH
    iterations(reactor, 20)
    assert sum(transport.pending for transport in transports(demo)) <= waiting + 3 * (2 << 20)
    pump(reactor, lambda: not any(s.source._timer.active() for s in demo.streams), "the producers")


def test_flow_control_back_on_sheds_what_has_piled_up(reactor, demo, monkeypatch):
    monkeypatch.setattr(module, "SAFE", 4 << 20)
    monkeypatch.setattr(module, "RETURN_SECONDS", 0.0)
    demo.change({"flow": False, "made": 16 << 20})
    pump(reactor, lambda: demo.notice, "the limit")
    before, limit = set(demo.streams), module.OVERFULL * HIGH
    # How much each of them has is a matter of the timers. One at least has a third of SAFE.
    overfull = {stream for stream in before if stream.transport.pending > limit}
    assert overfull
    demo.change({"flow": True})
    assert demo.notice == "overfull"
    pump(reactor, lambda: len(demo.streams - before) == len(overfull), "the clients' return")
    assert demo.streams & before == before - overfull
    pump(reactor, lambda: producers(demo) == {"paused"}, "pauses")
    assert all(stream.transport.pending <= 2 * HIGH for stream in demo.streams - before)


def test_flow_control_back_on_in_time_keeps_the_connections(reactor, demo):
    before = set(demo.streams)
    demo.change({"flow": False})
    demo.change({"flow": True})
    iterations(reactor)
    assert demo.streams == before
    pump(reactor, lambda: producers(demo) == {"paused"}, "pauses")


@pytest.mark.parametrize(
    "low, mark, delay", [("zero", 0, module.LATE), ("near", HIGH - module.NEAR, 0.0)]
)
def test_the_low_mark_has_three_places(reactor, demo, low, mark, delay):
    demo.change({"low": low})
    assert marks(demo) == {(HIGH, mark)}
    assert demo.settings.delay == delay
    assert demo.state()["low"] == low
    demo.change({"low": "quarter"})
    assert marks(demo) == {(HIGH, LOW)}
    assert demo.settings.delay == delay  # so that one sees what the quarter is for


def test_a_client_that_comes_later_gets_the_marks_of_the_others(reactor, demo):
    demo.change({"low": "zero"})
    before = set(demo.streams)
    demo.change({"way": "direct"})
    pump(reactor, lambda: len(demo.streams - before) == 3, "new connections")
    pump(reactor, lambda: len(demo.streams) == 3, "the end of the old ones")
    assert marks(demo) == {(HIGH, 0)}


def test_marks_that_were_dragged_are_nobodys_but_your_own(demo):
    transports(demo)[0].setWriteBufferLimits(1000, 10)
    assert demo.state()["low"] == "own"
    demo.change({"low": "quarter"})
    assert demo.state()["low"] == "quarter"
    assert (1000, 250) in marks(demo)


def test_the_marks_of_all_are_those_of_the_clients_to_come(reactor, demo):
    demo.dashboard._move({"id": None, "high": 100_000, "low": 25_000})
    before = set(demo.streams)
    demo.change({"way": "proxy"})
    pump(reactor, lambda: len(demo.streams - before) == 3, "new connections")
    pump(reactor, lambda: len(demo.streams) == 3, "the end of the old ones")
    assert marks(demo) == {(100_000, 25_000)}


def connection_of(demo, name, leg):
    """The connection of a client's leg; None while there is none."""
    peers = {leg["leg"]: leg["peer"] for leg in client_of(demo, name)["legs"]}
    found = demo.dashboard.monitor.connections()
    return next((one for one in found if _peer(one) == peers.get(leg)), None)


def test_marks_that_were_dragged_are_kept_when_the_producer_changes(demo):
    connection_of(demo, "A", "server-client").setWriteBufferLimits(100_000, 5)
    demo.change({"producer": "pull"})
    demo.change({"producer": "push"})
    assert connection_of(demo, "A", "server-client").marks == (100_000, 5)


def test_marks_that_were_dragged_are_kept_when_the_way_changes(reactor, demo):
    def joined():
        return len(demo._upstream) == 3 and connection_of(demo, "A", "server-proxy")

    connection_of(demo, "A", "server-client").setWriteBufferLimits(100_000, 5)
    for _ in range(2):
        demo.change({"way": "proxy"})
        pump(reactor, joined, "the proxies")
        assert connection_of(demo, "A", "proxy-client").marks == (100_000, 5)
        # The leg to the proxy has marks of its own, and the other clients keep theirs.
        connection_of(demo, "A", "server-proxy").setWriteBufferLimits(50_000, 7)
        assert connection_of(demo, "B", "proxy-client").marks == (HIGH, LOW)
        demo.change({"way": "direct"})
        pump(reactor, lambda: connection_of(demo, "A", "server-client"), "the way back")
        assert connection_of(demo, "A", "server-client").marks == (100_000, 5)
        pump(reactor, lambda: demo._upstream == {}, "the end of the proxies")
    demo.change({"way": "proxy"})
    pump(reactor, joined, "the proxies")
    assert connection_of(demo, "A", "server-proxy").marks == (50_000, 7)


def test_marks_that_were_dragged_are_kept_when_a_client_comes_back(reactor, demo, monkeypatch):
    monkeypatch.setattr(module, "RETURN_SECONDS", 0.0)
    first = connection_of(demo, "A", "server-client")
    first.setWriteBufferLimits(100_000, 5)
    first.abortConnection()
    pump(reactor, lambda: connection_of(demo, "A", "server-client") not in (None, first), "A")
    assert connection_of(demo, "A", "server-client").marks == (100_000, 5)


def test_a_reset_sets_everything_as_at_the_start(reactor, demo):
    start = demo.state()
    demo.change({"way": "proxy"})
    pump(reactor, lambda: len(demo._upstream) == 3, "the proxies")
    connection_of(demo, "A", "proxy-client").setWriteBufferLimits(100_000, 5)
    demo.change({"low": "zero", "producer": "pull", "made": 1, "delay": 1.0, "flow": False})
    demo.change({"client": "A", "rate": 1})
    demo.change({"client": "B", "gone": True})
    demo.change({"reset": True})
    pump(reactor, lambda: demo._upstream == {} and len(demo.streams) == 3, "the clients")
    after = demo.state()
    for state in (start, after):
        for client in state["clients"]:
            client["legs"] = [leg["leg"] for leg in client["legs"]]
    assert after == start
    assert marks(demo) == {(HIGH, LOW)}
    assert {client.rate for client in demo.clients.values()} == set(READ.values())
    assert demo._marks == (HIGH, LOW)  # of connections to come


@pytest.mark.slow
def test_the_page_knows_what_waits_in_the_kernel_of_the_other_end(reactor, demo):
    def queues(name):
        return [leg["queue"] for leg in client_of(demo, name)["legs"]]

    demo.change({"client": "A", "rate": 0})
    pump(reactor, lambda: queues("A")[0], "bytes in the client's kernel")
    demo.change({"way": "proxy"})
    demo.change({"client": "A", "rate": 1})
    pump(reactor, lambda: len(queues("A")) == 2 and all(queues("A")), "bytes in both kernels")


def test_pulled_it_writes_pieces_and_is_never_paused(reactor, demo):
    demo.change({"producer": "pull"})
    assert producers(demo) == {"pull"}
    for transport in transports(demo):
        pump(reactor, lambda t=transport: 0 < t.pending <= LOW + demo_producer.PIECE, "a piece")
    before = [transport.pauses for transport in transports(demo)]
    iterations(reactor, 50)
    assert [transport.pauses for transport in transports(demo)] == before
    demo.change({"producer": "push"})
    pump(reactor, lambda: producers(demo) == {"paused"}, "pauses")


def test_a_late_producer_starts_after_its_delay(reactor, demo):
    pump(reactor, lambda: producers(demo) == {"paused"}, "pauses")
    source = next(iter(demo.streams)).source
    demo.change({"delay": 5.0})
    source.resumeProducing()
    assert source._timer.getTime() >= reactor.seconds() + 5.0


def test_with_a_proxy_there_are_two_connections_for_each_client(reactor, demo):
    demo.change({"way": "proxy"})

    def legs():
        return [[leg["leg"] for leg in client["legs"]] for client in demo.state()["clients"]]

    pump(reactor, lambda: legs() == 3 * [["server-proxy", "proxy-client"]], "the proxies")
    peers = {leg["peer"] for client in demo.state()["clients"] for leg in client["legs"]}

    def watched():
        return {row["peer"] for row in demo.dashboard.monitor.sample()["connections"]}

    pump(reactor, lambda: peers <= watched(), "all of the connections")
    before = {name: client.received for name, client in demo.clients.items()}
    pump(reactor, lambda: all(c.received > before[c.name] for c in demo.clients.values()), "bytes")
    demo.change({"way": "direct"})
    pump(reactor, lambda: legs() == 3 * [["server-client"]], "the way back")
    pump(reactor, lambda: demo._upstream == {}, "the end of the proxies")


def test_back_pressure_travels_through_the_proxy(reactor, demo):
    demo.change({"way": "proxy"})
    pump(reactor, lambda: len(demo._upstream) == 3, "the proxies")
    demo.change({"client": "A", "rate": 0})
    upstream = demo._upstream[demo.clients["A"].peer].peer

    def state():
        return [t._flow.state for t in transports(demo) if _peer(t) == upstream]

    pump(reactor, lambda: state() == ["paused"], "the pause at the server")


@pytest.mark.slow
def test_a_client_that_vanishes_is_given_up_and_may_come_back(reactor, monkeypatch):
    monkeypatch.setattr(module, "STALL_TIMEOUT", 0.4)
    demo = Demo(reactor)
    demo.listen()
    pump(reactor, lambda: len(demo.streams) == 3, "the clients")
    demo.change({"client": "C", "gone": True})
    assert client_of(demo, "C")["absent"] == "vanished"
    pump(reactor, lambda: len(demo.streams) == 2, "the abort")
    pump(reactor, lambda: client_of(demo, "C")["absent"] == "given-up", "the news")
    assert client_of(demo, "C")["legs"] == []
    demo.change({"client": "C", "gone": False})
    pump(reactor, lambda: len(demo.streams) == 3, "the return")
    assert client_of(demo, "C")["absent"] == ""


@pytest.mark.slow
def test_a_client_that_is_slow_behind_the_proxy_is_not_given_up(reactor, monkeypatch):
    monkeypatch.setattr(module, "STALL_TIMEOUT", 0.4)
    demo = Demo(reactor)
    demo.listen()
    demo.change({"way": "proxy"})
    pump(reactor, lambda: len(demo._upstream) == 3, "the proxies")
    # From high to low it takes a second, in which the proxy reads nothing from the server.
    demo.change({"client": "C", "rate": (HIGH - LOW)})
    before = demo.clients["C"].peer
    received = demo.clients["C"].received + 3 * (HIGH - LOW)
    pump(reactor, lambda: demo.clients["C"].received > received, "what it reads in three teeth")
    assert demo.clients["C"].peer == before


@pytest.mark.slow
def test_a_client_that_vanishes_behind_the_proxy_is_given_up_by_both(reactor, monkeypatch):
    monkeypatch.setattr(module, "STALL_TIMEOUT", 0.4)
    demo = Demo(reactor)
    demo.listen()
    demo.change({"way": "proxy"})
    pump(reactor, lambda: len(demo._upstream) == 3, "the proxies")
    demo.change({"client": "A", "gone": True})
    pump(reactor, lambda: len(demo.streams) == len(demo._upstream) == 2, "the end of both")


def test_a_client_that_reads_nothing_says_so_and_others_go_on(reactor, demo):
    demo.change({"client": "B", "rate": 0})
    assert client_of(demo, "B")["absent"] == "reads-nothing"
    iterations(reactor)
    stopped, before = demo.clients["B"].received, demo.clients["A"].received
    pump(reactor, lambda: demo.clients["A"].received > before, "another client")
    assert demo.clients["B"].received == stopped


def test_a_high_mark_is_moved_no_further_than_is_safe(reactor, closing, demo):
    marks_before = marks(demo)
    status, _, why = change(reactor, closing, demo.dashboard, {"high": module.HIGHEST + 1})
    assert (status, marks(demo)) == (400, marks_before)
    assert f"more than {module.HIGHEST} bytes" in why
    assert change(reactor, closing, demo.dashboard, {"high": module.HIGHEST})[0] == 204
    assert marks(demo) == {(module.HIGHEST, module.HIGHEST // 4)}
    assert len(demo.streams) * module.HIGHEST <= module.SAFE


def test_a_client_that_was_sent_away_comes_back_by_itself(reactor, demo, monkeypatch):
    monkeypatch.setattr(module, "RETURN_SECONDS", 0.0)
    first = next(iter(demo.streams))
    first.transport.abortConnection()
    pump(reactor, lambda: first not in demo.streams, "the end")
    pump(reactor, lambda: len(demo.streams) == 3, "the return")


@pytest.mark.parametrize(
    "wanted, word",
    [
        ({"none": 1}, "'none'"),
        ({"reset": 1}, "neither true nor false"),
        ({"flow": 1}, "neither true nor false"),
        ({"low": "middle"}, "quarter, zero, near"),
        ({"low": ["zero"]}, "quarter, zero, near"),
        ({"producer": None}, "push, pull"),
        ({"way": "round"}, "direct, proxy"),
        ({"made": 0}, "from 1"),
        ({"made": float("nan")}, "from 1"),
        ({"made": "1"}, "from 1"),
        ({"delay": -1}, "from 0"),
        ({"client": "D", "rate": 1}, "'D'"),
        ({"client": ["A"], "rate": 1}, "'A'"),
        ({"client": "A", "rate": -1}, "from 0"),
        ({"client": "A", "gone": "yes"}, "neither true nor false"),
    ],
)
def test_a_switch_that_makes_no_sense_is_refused(demo, wanted, word):
    before = demo.state()
    with pytest.raises(ValueError, match=word):
        demo.change(wanted)
    after = demo.state()
    for state in (before, after):
        for client in state["clients"]:
            for leg in client["legs"]:
                del leg["received"], leg["queue"]
    assert after == before


def test_a_slow_reader_reads_so_many_bytes_a_second(closing):
    from minireactor import Reactor

    clock = FakeTime()
    reactor = closing(Reactor(seconds=clock))
    server = closing(socket.create_server(("127.0.0.1", 0)))
    reader = SlowReader(reactor, "A", 10_000)
    reader.connect(server.getsockname()[1])
    peer = closing(server.accept()[0])
    peer.setblocking(False)
    assert reader.peer == "{}:{}".format(*peer.getpeername())
    for step in range(1, 101):
        clock.advance(0.1)
        for _ in range(20):
            try:
                peer.send(b"x" * 4096)
            except BlockingIOError:
                pass
            reactor.iterate()
        assert reader.received <= 10_000 * step * 0.1 + reader.PORTION
    assert reader.received > 90_000
    reader.close()


# The command.


@pytest.mark.slow
def test_the_demo_prints_an_address_serves_its_page_and_ends_at_a_signal(command):
    process = command("demo", "--no-browser")
    page = Printed(process.line())
    host, _, port = page.url[7:].partition("/")[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(request(page))
        received = b""
        while True:
            data = client.recv(65536)
            if not data:
                break
            received += data
    assert b'data-mode="demo"' in received
    process.interrupt()
    assert process.end() == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("command_line", [["demo"], ["replay", "FILE"]])
def test_a_page_whose_port_is_taken_is_refused_in_a_line(command, recording, command_line):
    words = [recording if word == "FILE" else word for word in command_line]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, output, errors = command(*words, "--port", port, "--no-browser").end()
    assert (status, output) == (2, "")
    assert port in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the browser is a shell script")
def test_the_page_is_opened_in_the_browser_of_the_user(command, tmp_path, monkeypatch):
    script = tmp_path / "browser"
    script.write_text(
        f'#!/bin/sh\necho "$1" > {tmp_path}/opened.part\n'
        f"mv {tmp_path}/opened.part {tmp_path}/opened\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER", str(script))
    process = command("demo")
    page = Printed(process.line())
    from time import monotonic

    deadline = monotonic() + PATIENCE
    while not (tmp_path / "opened").exists():
        assert monotonic() < deadline, "no browser was opened"
    assert (tmp_path / "opened").read_text().strip() == page.url
    process.interrupt()
    assert process.end()[0] == 0


# Recordings.

ROW = {
    "id": 1,
    "peer": "192.0.2.1:1",
    "label": "Echo",
    "state": "open",
    "producer": "paused",
    "pending": 70000,
    "high": 65536,
    "low": 16384,
    "in": 1,
    "out": 2,
    "pauses": 3,
    "paused": 0.5,
    "sendq": 4,
    "recvq": None,
}
SAMPLE = {
    "type": "sample",
    "lag": 0.0,
    "memory": 1 << 20,
    "totals": {
        "connections": 1,
        "open": 1,
        "in": 1,
        "out": 2,
        "pauses": 3,
        "highest_pending": 70000,
        "paused": 0.5,
        "paused_now": 1,
    },
    "connections": [ROW],
    "rest": None,
}


def sample(time):
    return {**SAMPLE, "time": time}


def lost(time):
    event = {"type": "event", "time": time, "event": "lost", "id": 1, "peer": "192.0.2.1:1"}
    return {**event, "reason": "it fell over"}


FIRST = {"type": "recording", "version": 1, "command": "minireactor serve echo"}


def written(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def recording(tmp_path):
    lines = [sample(index / 4) for index in range(40)]
    pause = {**lost(1.0), "event": "pause"}
    return written(tmp_path / "recording", FIRST, *lines, pause, lost(10.0))


def replayed(reactor, closing, path):
    """Return what the page receives of a recording."""
    page = Replay(path)
    page.listen(reactor, "127.0.0.1", 0)
    client = visit(closing, page)
    client.sendall(request(page, path="/recording", x_token=page.token))
    received = receive_until(reactor, client, lambda received: False)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return [json.loads(line) for line in body.splitlines()]


def test_the_page_gets_the_samples_the_title_and_why_connections_were_lost(
    reactor, closing, recording
):
    first, reason, *found = replayed(reactor, closing, recording)
    assert first == {"type": "recording", "title": "minireactor serve echo"}
    assert reason == lost(10.0)
    assert found == [sample(index / 4) for index in range(40)]


def test_of_a_long_recording_the_page_gets_what_it_can_keep(
    reactor, closing, tmp_path, monkeypatch
):
    monkeypatch.setattr(replay, "MAX_SAMPLES", 20_000)
    path = written(tmp_path / "long", FIRST, *(sample(float(index)) for index in range(1000)))
    _, *found = replayed(reactor, closing, path)
    times = [line["time"] for line in found]
    assert sum(len(json.dumps(line)) for line in found) < 30_000
    assert times[0] == 0 and times[-1] > 900
    assert len({b - a for a, b in zip(times, times[1:])}) == 1


@pytest.mark.slow
def test_the_recording_is_sent_as_fast_as_it_is_taken(reactor, closing, tmp_path):
    path = written(tmp_path / "long", FIRST, *(sample(float(index)) for index in range(30_000)))
    page = Replay(path)
    page.listen(reactor, "127.0.0.1", 0)
    client = visit(closing, page)
    client.sendall(request(page, path="/recording", x_token=page.token))
    most = 0
    for _ in range(300):
        reactor.iterate(0.001)
        most = max([most, *(http.transport.pending for http in page._site.connections)])
    assert 0 < most < 200_000
    assert len(receive_until(reactor, client, lambda received: False)) > 10_000_000


def test_without_the_token_there_is_no_recording(reactor, closing, recording):
    page = Replay(recording)
    page.listen(reactor, "127.0.0.1", 0)
    assert ask(reactor, closing, page, path="/recording")[0] == 403


@pytest.mark.slow
def test_replay_prints_an_address_and_ends_at_a_signal(command, recording):
    process = command("replay", recording, "--no-browser")
    assert recording in process.line_with("replay of")
    process.interrupt()
    assert process.end() == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that takes long to read")
def test_a_signal_ends_replay_while_it_still_reads(command, tmp_path):
    path = tmp_path / "slow"
    os.mkfifo(path)
    process = command("replay", str(path), "--no-browser")
    with open(path, "wb"):  # it has opened the other end
        process.interrupt()
        status, output, errors = process.end()
    assert (status, output, errors) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content, word", [(None, "No such file"), ("", "JSON"), ('{"type": "x"}\n', "no recording")]
)
def test_what_is_no_recording_is_refused_in_a_line(command, tmp_path, content, word):
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    status, output, errors = command("replay", str(path), "--no-browser").end()
    assert (status, output) == (2, "")
    assert word in errors
    assert errors.count("\n") == 1
