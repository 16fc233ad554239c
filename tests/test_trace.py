"""Recordings as traces."""

from __future__ import annotations

import io
import json
import random

import pytest
from test_record import HEAD, sample

from minireactor.cli.commands import main
from minireactor.view.record import RecordingError
from minireactor.view.trace import trace_events, write_trace
from minireactor.view.web.replay import Replay


def event(kind, time, number=1, **more):
    return {
        "type": "event",
        "time": time,
        "event": kind,
        "id": number,
        "peer": f"127.0.0.1:{number}",
        **more,
    }


def slices(*recording):
    """Return {(thread, name): (start, duration)}, in microseconds."""
    return {
        (found["tid"], found["name"]): (found["ts"], found["dur"])
        for found in trace_events([HEAD, *recording])
        if found["ph"] == "X"
    }


def counters(*recording):
    """Return [(time, name, values)] of all counters."""
    return [
        (found["ts"], found["name"], found["args"])
        for found in trace_events([HEAD, *recording])
        if found["ph"] == "C"
    ]


def test_a_connection_is_a_slice_and_each_pause_is_a_slice_within_it():
    found = slices(
        event("connect", 0.5),
        event("pause", 1.0),
        event("resume", 1.25),
        event("lost", 2.0, reason="done"),
    )
    assert found == {
        (1, "paused"): (1_000_000, 250_000),
        (1, "127.0.0.1:1"): (500_000, 1_500_000),
    }


def test_the_slice_of_a_connection_has_the_reason_of_its_end():
    found = list(trace_events([HEAD, event("connect", 0), event("lost", 1, reason="done")]))
    assert found[0]["args"] == {"reason": "done"}


def test_slices_that_are_open_at_the_end_of_the_recording_end_there():
    found = slices(event("connect", 0.5), event("pause", 1.0), event("connect", 3.0, number=2))
    assert found[1, "paused"] == (1_000_000, 2_000_000)
    assert found[1, "127.0.0.1:1"] == (500_000, 2_500_000)
    assert found[2, "127.0.0.1:2"] == (3_000_000, 0)


def test_a_connection_from_before_the_recording_begins_at_its_first_sample():
    assert slices(sample(time=0.5), sample(time=1.0)) == {
        (1, "127.0.0.1:1 Echo"): (500_000, 500_000)
    }


def test_a_pause_whose_resume_is_not_recorded_ends_at_the_next_sample_without_it():
    found = slices(
        event("connect", 0),
        event("pause", 0.1),
        sample(time=0.5, row={"producer": "paused"}),
        sample(time=1.0, row={"producer": "flowing"}),
        event("lost", 2.0),
    )
    assert found[1, "paused"] == (100_000, 900_000)


def test_each_connection_is_a_thread_with_its_peers_name():
    found = list(trace_events([HEAD, event("connect", 0), event("connect", 0, number=7)]))
    names = {(one["tid"], one["args"]["name"]) for one in found if one["name"] == "thread_name"}
    assert names == {(1, "#1 127.0.0.1:1"), (7, "#7 127.0.0.1:7")}


def test_the_process_has_the_name_of_the_command():
    found = list(trace_events([{**HEAD, "command": "minireactor serve"}]))
    assert [one["args"]["name"] for one in found] == ["minireactor serve"]


def test_waiting_bytes_and_rates_are_counters():
    found = counters(
        event("connect", 0),
        sample(time=1.0, row={"pending": 5, "sendq": 7, "in": 100, "out": 200}),
        sample(time=1.5, row={"pending": 6, "sendq": None, "in": 150, "out": 300}),
    )
    assert [one for one in found if one[1] == "#1 waiting"] == [
        (1_000_000, "#1 waiting", {"pending": 5, "kernel": 7}),
        (1_500_000, "#1 waiting", {"pending": 6, "kernel": 0}),
    ]
    assert [one for one in found if one[1] == "#1 bytes/s"] == [
        (1_000_000, "#1 bytes/s", {"in": 100, "out": 200}),
        (1_500_000, "#1 bytes/s", {"in": 100, "out": 200}),
    ]


@pytest.mark.parametrize("later", [0.0, 5e-324, 1e-300])
def test_samples_at_the_same_time_give_no_rate(later):
    found = counters(
        event("connect", 0.0),
        sample(time=0.0, row={"in": 0}),
        sample(time=later, row={"in": 10**29}),
    )
    assert "#1 bytes/s" not in [name for _, name, _ in found]


def test_lag_memory_and_open_connections_are_counters_of_the_process():
    found = counters(sample(time=1.0, lag=0.0123, memory=1 << 20))
    assert (1_000_000, "lag", {"ms": 12.3}) in found
    assert (1_000_000, "memory", {"bytes": 1 << 20}) in found
    assert (1_000_000, "connections", {"open": 1}) in found
    assert "memory" not in [name for _, name, _ in counters(sample())]


def test_the_last_row_of_an_ended_connection_begins_no_new_slice():
    recording = [event("connect", 0), event("lost", 1.0), sample(time=2, row={"state": "closed"})]
    assert slices(*recording) == {(1, "127.0.0.1:1"): (0, 1_000_000)}


def test_times_that_go_backwards_give_no_negative_duration():
    found = slices(event("connect", 5), event("pause", 4), event("resume", 3), event("lost", 2))
    assert all(duration >= 0 for _, duration in found.values())


def test_the_file_is_json_with_the_fields_of_the_format():
    out = io.StringIO()
    recording = [HEAD, event("connect", 0), sample(time=1.0), event("lost", 2, reason='a "b"')]
    count = write_trace(recording, out)
    found = json.loads(out.getvalue())
    assert found["displayTimeUnit"] == "ms"
    assert len(found["traceEvents"]) == count > 5
    for one in found["traceEvents"]:
        assert one["ph"] in "XCM"
        assert one["pid"] == 1
        assert isinstance(one["tid"], int)
        assert one["ph"] == "M" or isinstance(one["ts"], int)
        if one["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in one["args"].values())


def test_the_trace_of_an_empty_recording_has_the_process_only():
    out = io.StringIO()
    write_trace([HEAD], out)
    assert [one["ph"] for one in json.loads(out.getvalue())["traceEvents"]] == ["M"]


WEIRD = [
    *("0", "5e-324", "-1e308", "1e999", "NaN", "-Infinity", "9" * 5000, "9" * 29, "-1", "1.5"),
    *("null", "true", '"x"', '"\\ud800"', '"\\u001b[2J"', "[]", "{}", "[[[]]]", "[1]"),
    *("[" * depth + "]" * depth for depth in (15, 25, 400, 990, 100_000)),
]


def places(found):
    """Yield (container, key) of each value in `found`, at any depth."""
    for key in found if isinstance(found, dict) else range(len(found)):
        yield found, key
        if isinstance(found[key], (dict, list)):
            yield from places(found[key])


def hostile(seed):
    """Return a recording in which one or two values, at any depth, are replaced."""
    chance = random.Random(seed)
    lines = [dict(HEAD), event("connect", 0)]
    for _ in range(chance.randrange(1, 5)):
        time, number = chance.choice([0, 5e-324, 0.5, 1.0]), chance.choice([1, 2])
        kind = chance.choice(["pause", "resume", "lost"])
        row = {"id": number, "in": chance.choice([0, 10**29])}
        lines.append(chance.choice([sample(time=time, row=row), event(kind, time, number)]))
    for _ in range(chance.randrange(1, 3)):
        holder, key = chance.choice(list(places(lines)))
        holder[key] = "here"
    text = [json.dumps(line) for line in lines]
    text = [line.replace('"here"', chance.choice(WEIRD)) for line in text]
    if chance.random() < 0.2:
        damaged = chance.randrange(len(text))
        text[damaged] = text[damaged][: chance.randrange(len(text[damaged]))]
    return "\n".join([*text, ""])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_a_hostile_recording_is_a_trace_or_one_line_of_error(part, tmp_path, capsys):
    path = tmp_path / "hostile.jsonl"
    statuses = set()
    for seed in range(part * 60, part * 60 + 60):
        path.write_text(hostile(seed))
        status = main(["trace", str(path), "-o", str(tmp_path / "out")])
        statuses.add(status)
        errors = capsys.readouterr().err
        if status:
            assert errors.startswith("minireactor trace: ") and errors.count("\n") == 1
            assert errors[:-1].isprintable() and len(errors) < 400
            assert f"{path}, line " in errors or "is no recording" in errors or "version" in errors
        else:
            assert json.loads((tmp_path / "out").read_text())["traceEvents"]
        try:
            shown = Replay(str(path))
        except RecordingError:
            assert status
        else:
            assert all(map(json.loads, shown._recording.splitlines()))
    assert statuses == {0, 2}
