"""Recordings: what is written, and how they are read again."""

from __future__ import annotations

import json
import logging
import os
import re

import pytest
from support import Recorder as AnyProtocol

from minireactor import __version__
from minireactor.view import record
from minireactor.view.record import INTERVAL, MAX_PAUSES, Recorder, RecordingError, read
from minireactor.view.sources import target_rows


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "recording.jsonl")


class Push:
    def pauseProducing(self):
        pass

    resumeProducing = stopProducing = pauseProducing


def kinds(path):
    return [line.get("event", line["type"]) for line in read(path)]


def cross(transport, sock, wire, times):
    """Exceed the high mark, and drain to the low mark, this many times."""
    for _ in range(times):
        transport.write(b"x" * 101)
        sock.room = 101
        wire.reactor._flush()
        wire.reactor._take_turns()


def paused_and_resumed(wire):
    transport, sock = wire.connect(AnyProtocol())
    transport.setWriteBufferLimits(100, 25)
    transport.registerProducer(Push(), True)
    return transport, sock


# Writing.


def test_the_first_line_describes_the_recording(wire, path):
    Recorder(wire.reactor, path, "minireactor serve echo").close()
    first = next(read(path))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("started"))
    assert first == {
        "type": "recording",
        "version": 1,
        "program": f"minireactor {__version__}",
        "command": "minireactor serve echo",
    }


def test_a_sample_comes_each_INTERVAL_and_an_event_as_it_happens(wire, path, clock):
    recorder = Recorder(wire.reactor, path)
    wire.run(1)
    transport, sock = paused_and_resumed(wire)
    transport.write(b"x" * 101)
    clock.advance(INTERVAL)
    wire.run()
    clock.advance(0.1)
    sock.inbox = [b""]
    wire.run()
    recorder.close()
    recorder.close()
    assert kinds(path) == ["recording", "sample", "connect", "pause", "sample", "lost", "sample"]
    lines = list(read(path))[1:]
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    assert times[3] == INTERVAL
    assert lines[3]["connections"][0]["pending"] == 101
    assert wire.reactor.observers == ()


def test_events_are_written_with_the_next_sample(wire, path, clock):
    recorder = Recorder(wire.reactor, path)
    wire.run(1)
    wire.connect(AnyProtocol())
    clock.advance(INTERVAL)
    wire.run()
    assert recorder._writer.flush()
    assert kinds(path) == ["recording", "sample", "connect", "sample"]
    recorder.close()


def test_rows_have_the_given_label(wire, path):
    recorder = Recorder(wire.reactor, path, label=lambda connection: "somewhere")
    wire.connect(AnyProtocol())
    recorder.close()
    assert list(read(path))[-1]["connections"][0]["label"] == "somewhere"


def test_only_the_first_MAX_PAUSES_pauses_are_recorded_each_with_its_resume(wire, path, clock):
    recorder = Recorder(wire.reactor, path)
    wire.run(1)
    transport, sock = paused_and_resumed(wire)
    cross(transport, sock, wire, 3 * MAX_PAUSES)
    transport.write(b"x" * 101)  # paused across the sample, and not in the recording
    clock.advance(INTERVAL)
    wire.run(1)
    sock.room = 101
    wire.run(2)
    cross(transport, sock, wire, 1)
    recorder.close()
    found = kinds(path)
    between = found.index("sample", 2)
    assert found[2:between] == ["connect"] + ["pause", "resume"] * MAX_PAUSES
    assert found[between:] == ["sample", "pause", "resume", "sample"]
    assert list(read(path))[-1]["connections"][0]["pauses"] == 3 * MAX_PAUSES + 2


def test_a_file_that_cannot_be_created_is_an_oserror(wire, tmp_path):
    with pytest.raises(OSError):
        Recorder(wire.reactor, str(tmp_path / "nowhere" / "recording.jsonl"))
    assert wire.reactor.observers == ()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_ends_the_recording_and_nothing_else(wire, clock, caplog):
    recorder = Recorder(wire.reactor, "/dev/full")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.advance(INTERVAL)
            wire.run()
    recorder.close()
    (warning,) = caplog.records
    assert "/dev/full ends here" in warning.getMessage()
    assert wire.reactor.observers == ()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_disk_that_is_full_only_at_the_end_is_a_warning_as_well(wire, caplog):
    recorder = Recorder(wire.reactor, "/dev/full")
    with caplog.at_level(logging.WARNING):
        recorder.close()
        recorder.close()
    (warning,) = caplog.records
    assert "/dev/full ends here" in warning.getMessage()
    assert wire.reactor.observers == ()


@pytest.fixture
def fifo(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def test_T2_a_stalled_reader_of_a_fifo_does_not_delay_the_loop_and_dropped_lines_are_counted(
    wire, fifo, path, clock, monkeypatch
):
    monkeypatch.setattr(record, "MAX_QUEUED", 1000)
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        recorder = Recorder(wire.reactor, fifo)
        while not recorder._writer.dropped:
            wire.connect(AnyProtocol())
            clock.advance(INTERVAL)
            wire.run(1)
        with open(path, "wb") as read_into:
            while not recorder._writer.flush(0.001):
                read_into.write(reader.read(1 << 20) or b"")
            recorder.close()
            read_into.write(reader.read())
    with open(path) as lines:
        found = list(map(json.loads, lines))
    (note,) = [line for line in found if line["type"] == "dropped"]
    assert note["lines"] > 0
    assert found[-1]["type"] == "sample"
    # read() leaves the note out.
    assert list(read(path)) == [line for line in found if line is not note]


def test_T2_a_fifo_that_nobody_reads_does_not_delay_the_loop(wire, fifo, monkeypatch, caplog):
    monkeypatch.setattr(record, "FLUSH_SECONDS", 0.01)
    recorder = Recorder(wire.reactor, fifo)
    wire.run(1)
    recorder.close()
    assert "lacks its last lines: 3" in caplog.text
    with open(fifo, "rb") as reader:  # so that the writer's thread can end
        reader.read()


# Reading.


def sample(**changes):
    row = {
        "id": 1,
        "peer": "127.0.0.1:1",
        "label": "Echo",
        "state": "open",
        "producer": "none",
        "pending": 0,
        "high": 2,
        "low": 1,
        "in": 0,
        "out": 0,
        "pauses": 0,
        "paused": 0.0,
        "sendq": None,
        "recvq": None,
    }
    totals = {"connections": 1, "open": 1, "in": 0, "out": 0, "pauses": 0, "highest_pending": 0}
    found = {"type": "sample", "time": 1.0, "lag": 0.0, "memory": None, "totals": totals}
    return {**found, "connections": [{**row, **changes.pop("row", {})}], "rest": None, **changes}


HEAD = {"type": "recording", "version": 1, "program": "x", "started": "now", "command": ""}


def written(path, *lines):
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line if isinstance(line, str) else json.dumps(line))
            file.write("\n")
    return path


def test_read_returns_the_written_lines(path):
    event = {"type": "event", "time": 1, "event": "connect", "id": 1, "peer": "p"}
    assert list(read(written(path, HEAD, sample(), event))) == [HEAD, sample(), event]


TARGET = {
    "target": "a:1",
    "state": "up",
    "weight": 1,
    "backup": False,
    "clients": 0,
    "failures": 0,
    "connect": 0.5,
    "reason": "",
}


def test_a_sample_may_have_targets(wire, path):
    target_rows[wire.reactor] = lambda: [TARGET, {**TARGET, "connect": None, "state": "draining"}]
    Recorder(wire.reactor, path).close()
    *_, last = read(path)
    assert last["targets"] == target_rows[wire.reactor]()


@pytest.mark.parametrize(
    "targets",
    [
        None,
        {},
        [None],
        [{**TARGET, "state": "odd"}],
        [{**TARGET, "connect": "1"}],
        *([{name: TARGET[name] for name in TARGET if name != left_out}] for left_out in TARGET),
    ],
)
def test_the_error_names_the_line_of_a_sample_with_bad_targets(path, targets):
    with pytest.raises(RecordingError, match="line 2: no complete sample"):
        list(read(written(path, HEAD, sample(targets=targets))))


def test_a_string_may_have_any_number_of_digits(path):
    head = {**HEAD, "command": f"minireactor serve --record {'1234567890' * 9}.jsonl"}
    assert list(read(written(path, head, sample()))) == [head, sample()]


def test_the_highest_possible_mark_can_be_read(wire, path):
    recorder = Recorder(wire.reactor, path)
    transport, _ = wire.connect(AnyProtocol())
    transport.setWriteBufferLimits(99999999999999999999 * 1024 * 1024)
    recorder.close()
    *_, last = read(path)
    assert last["connections"][0]["high"] == 99999999999999999999 * 1024 * 1024


def test_lines_of_unknown_types_are_left_out(path):
    assert list(read(written(path, HEAD, {"type": "new"}, {"no": "type"}))) == [HEAD]


def test_an_incomplete_last_line_is_left_out(path):
    written(path, HEAD, sample(), sample())
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) - 10)
    assert list(read(path)) == [HEAD, sample()]


@pytest.mark.parametrize(
    "line, message",
    [
        ("not json", "line 2: no JSON object: 'not json'"),
        ("[]", "line 2: no JSON object: '[]'"),
        ("", "line 2: no JSON object: ''"),
        ("{" * 100_000, "line 2: no JSON object"),
        ("x" * 1000, "..."),
        ("[" * 100_000, "line 2: no JSON object"),
        (json.dumps(sample(time=float("nan"))), "line 2: no JSON object"),
        (json.dumps(sample()).replace("1.0", "1e999"), "line 2: no JSON object"),
        (json.dumps(sample(time=10**30)), "line 2: no JSON object"),
        (sample(time="1"), "line 2: no complete sample"),
        (sample(totals={}), "line 2: no complete sample"),
        (sample(connections=None), "line 2: no complete sample"),
        (sample(connections=[None]), "line 2: no complete sample"),
        (sample(row={"pending": "1"}), "line 2: no complete sample"),
        (sample(rest=[]), "line 2: no complete sample"),
        (sample(rest={}), "line 2: no complete sample"),
        ({"type": "event", "time": 1.0}, "line 2: no complete event"),
        ({"type": ["event"]}, None),
        ('{"type": "sample", "more": ' + "[" * 30 + "]" * 30 + "}", "nested deeper than 20 levels"),
        ('"' + '\\"[' * 1000, "line 2: no JSON object"),
    ],
)
def test_the_error_names_the_damaged_line(path, line, message):
    written(path, HEAD, line)
    if message is None:
        assert list(read(path)) == [HEAD]
        return
    with pytest.raises(RecordingError) as caught:
        list(read(path))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", sorted({*sample()} - {"type"}))
def test_the_error_names_the_line_of_a_sample_that_lacks_a_field(path, name):
    lacking = sample()
    del lacking[name]
    with pytest.raises(RecordingError, match="line 2: no complete sample"):
        list(read(written(path, HEAD, lacking)))


@pytest.mark.parametrize("name", sorted(sample()["connections"][0]))
def test_the_error_names_the_line_of_a_row_that_lacks_a_field(path, name):
    lacking = sample()
    del lacking["connections"][0][name]
    with pytest.raises(RecordingError, match="line 2: no complete sample"):
        list(read(written(path, HEAD, lacking)))


@pytest.mark.parametrize(
    "first, message",
    [
        ("", "line 1: no JSON object"),
        ("#!/bin/sh", "line 1: no JSON object"),
        ("{}", "is no recording"),
        ({**HEAD, "version": 2}, "has version 2; only 1 can be read"),
        ({**HEAD, "version": "x" * 1000}, "has version 'xxx"),
    ],
)
def test_a_file_that_is_no_recording_is_rejected(path, first, message):
    with pytest.raises(RecordingError) as caught:
        list(read(written(path, first)))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_empty_file_is_rejected(path):
    open(path, "w").close()
    with pytest.raises(RecordingError, match="line 1"):
        list(read(path))


def test_a_line_longer_than_MAX_LINE_is_rejected(path, monkeypatch):
    monkeypatch.setattr(record, "MAX_LINE", 1000)
    with pytest.raises(RecordingError, match="line 2"):
        list(read(written(path, HEAD, "x" * 5000)))


@pytest.mark.slow
def test_a_line_of_63_megabytes_is_rejected_after_4(path):
    with open(path, "wb") as file:
        file.write(json.dumps(HEAD).encode() + b"\n[" + b"1," * (63 * 1024 * 1024 // 2))
    with pytest.raises(RecordingError, match="line 2: longer than 4194304 bytes: '.1,1,1"):
        list(read(path))


def test_brackets_in_strings_do_not_count_as_nesting(path):
    line = sample(row={"label": "[{" * 100 + '"\\'})
    assert list(read(written(path, HEAD, line))) == [HEAD, line]


def test_bytes_that_are_no_text_are_rejected(path):
    with open(path, "wb") as file:
        file.write(b"\xff\xfe\x00\n" * 3)
    with pytest.raises(RecordingError, match="line 1"):
        list(read(path))
