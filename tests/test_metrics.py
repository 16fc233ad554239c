"""The metrics for Prometheus."""

from __future__ import annotations

import itertools
import re
import threading
import urllib.request
from collections import Counter

import pytest
from serve_support import Command
from support import PATIENCE, Recorder

from minireactor import Reactor, __version__
from minireactor.protocol import Factory
from minireactor.view.metrics import CONTENT_TYPE, Metrics, exposition
from minireactor.view.monitor import SCAN_SECONDS, Monitor
from minireactor.view.ranking import BATCH
from minireactor.view.sources import rejected_counts, target_rows

NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE_LINE = re.compile(
    rf'({NAME})(\{{{NAME}="(?:[^"\\\n]|\\[\\"n])*"\}})? (-?[0-9.]+(?:e[+-][0-9]+)?)'
)


def parse(text):
    """Return {family: (type, help, {labels: value})}, and assert the rules of the format."""
    assert text.endswith("\n")
    families = {}
    current = None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            current, what = line[7:].split(" ", 1)
            assert current not in families
            families[current] = [None, what, {}]
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == current
            assert kind in ("counter", "gauge")
            assert name.endswith("_total") == (kind == "counter")
            families[name][0] = kind
        else:
            match = SAMPLE_LINE.fullmatch(line)
            assert match, line
            assert match[1] == current
            families[current][2][match[2] or ""] = float(match[3])
    return families


class Push:
    def pauseProducing(self):
        pass

    resumeProducing = stopProducing = pauseProducing


def values(text):
    return {
        name.replace("minireactor_", ""): value
        for name, (_, _, found) in parse(text).items()
        for value in found.values()
    }


def test_each_metric_has_the_monitors_value(wire, clock):
    monitor = Monitor(wire.reactor, limit=1)
    for _ in range(2):
        transport, sock = wire.connect(Recorder(), room=10)
        transport.setWriteBufferLimits(100, 25)
        transport.registerProducer(Push(), True)
        transport.write(b"x" * 101)
        sock.inbox = [b"y" * 7]
    wire.run()
    ended, _ = wire.connect(Recorder())
    ended.abortConnection()
    clock.advance(0.25)
    sample = monitor.sample()
    wire.run()
    found = values(exposition(sample))
    memory = found.pop("resident_memory_bytes", None)
    assert found == {
        "info": 1,
        "connections_total": 3,
        "connections_open": 3,
        "received_bytes_total": 14,
        "sent_bytes_total": 20,
        "pending_bytes": 182,
        "highest_pending_bytes": 101,
        "pauses_total": 2,
        "paused_seconds_total": 0.5,
        "paused_producers": 2,
        "loop_lag_seconds": 0.2,
    }
    assert memory == sample["memory"]


def test_the_version_is_a_label(wire):
    families = parse(exposition(Monitor(wire.reactor).sample()))
    assert families["minireactor_info"][2] == {f'{{version="{__version__}"}}': 1}


def test_a_metric_that_the_system_does_not_know_is_left_out(wire):
    sample = Monitor(wire.reactor).sample()
    sample["memory"] = None
    assert "minireactor_resident_memory_bytes" not in exposition(sample)


def test_rejected_clients_have_a_series_for_each_option(wire):
    monitor = Monitor(wire.reactor)
    rejected = rejected_counts[wire.reactor] = Counter()
    assert "rejected" not in exposition(monitor.sample())
    rejected.update({"--max-connections": 1, "--deny": 2})
    found = parse(exposition(monitor.sample()))["minireactor_rejected_total"]
    assert list(found[2].items()) == [
        ('{option="--deny"}', 2),
        ('{option="--max-connections"}', 1),
    ]


def test_each_target_has_its_series(wire):
    row = {"weight": 1, "backup": False, "connect": 0.25, "reason": ""}
    target_rows[wire.reactor] = lambda: [
        {"target": "[::1]:80", "state": "up", "clients": 3, "failures": 1, **row},
        {"target": 'unix:/a"b\\c', "state": "draining", "clients": 1, "failures": 0, **row},
        {"target": "a:1", "state": "down", "clients": 0, "failures": 7, **row, "connect": None},
    ]
    families = parse(exposition(Monitor(wire.reactor).sample()))
    found = {
        name[len("minireactor_target_") :]: list(values.items())
        for name, (_, _, values) in families.items()
        if name.startswith("minireactor_target_")
    }
    one, path, down = '{target="[::1]:80"}', '{target="unix:/a\\"b\\\\c"}', '{target="a:1"}'
    assert found == {
        "up": [(one, 1), (path, 0), (down, 0)],
        "clients": [(one, 3), (path, 1), (down, 0)],
        "failures_total": [(one, 1), (path, 0), (down, 7)],
        "connect_seconds": [(one, 0.25), (path, 0.25)],
    }


def test_a_server_without_targets_has_no_series_of_targets(wire):
    assert "target" not in Monitor(wire.reactor).sample()
    assert "minireactor_target" not in exposition(Monitor(wire.reactor).sample())


def test_closed_metrics_no_longer_observe_the_reactor(wire):
    metrics = Metrics(wire.reactor)
    metrics.close()
    assert wire.reactor.observers == ()


def test_closed_metrics_do_not_listen(reactor):
    metrics = Metrics(reactor)
    port = metrics.listen("127.0.0.1", 0)
    metrics.close()
    metrics.close()
    assert not port.connected


def test_a_scrape_examines_all_connections_in_batches(wire, monkeypatch):
    class Response:
        def send(self, text, kind):
            answers.append(values(text))

    answers = []
    metrics = Metrics(wire.reactor)
    for _ in range(3 * BATCH):
        _, sock = wire.connect(Recorder())
        sock.inbox = [b"y"]
    wire.run()
    times = itertools.count()
    monkeypatch.setattr(wire.reactor, "seconds", lambda: next(times) * SCAN_SECONDS)
    metrics._scrape(None, Response())
    assert answers == []
    wire.run()
    assert [answer["received_bytes_total"] for answer in answers] == [3 * BATCH]


def test_metrics_are_served_over_http():
    reactor = Reactor()
    reactor.listenTCP(0, Factory.forProtocol(Recorder), interface="127.0.0.1")
    port = Metrics(reactor).listen("127.0.0.1", 0).getHost().port
    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
            kind = answer.headers["Content-Type"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            lead = answer.read()
    finally:
        reactor.callFromThread(reactor.stop)
        thread.join(10)
    assert kind == CONTENT_TYPE
    assert values(text)["connections_total"] == 0
    assert b"/metrics" in lead


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "echo", "--port", "0"],
        ["serve", "echo", "--port", "0", "--workers", "1"],
        ["proxy", "0", "1"],
    ],
    ids=["serve", "workers", "proxy"],
)
def test_the_metrics_of_a_command_count_rejected_clients(arguments, tmp_path):
    command = Command(*arguments, "--deny", "127.0.0.1", "--metrics", "0", cwd=tmp_path)
    try:
        command.listening()
        url = re.search(r"http://\S+", command.line_with("metrics on"))[0]
        with command.connect() as client:
            assert client.recv(1) == b""
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
    finally:
        command.close()
    assert values(text)["rejected_total"] == 1
