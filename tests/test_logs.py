"""The log: formats, repeated records, and files that are opened again."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import threading
import time

import pytest
from support import PATIENCE

from minireactor.operation import log_file as log_files
from minireactor.operation import logs
from minireactor.operation.log_file import LogFile
from minireactor.operation.logs import JsonFormat, LogHandler, TextFormat
from minireactor.view import output

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the descriptors of POSIX")

TIME = "2026-11-26T20:13:03.123Z"
WARNING = f"{TIME} WARNING"


def at():
    """Return the seconds since 1970 of TIME."""
    return 1_795_723_983.1239


# The formats.


def test_a_line_of_text_has_time_level_and_message():
    assert TextFormat(at).line("INFO", "echo listening") == f"{TIME} INFO echo listening\n"


def test_the_time_goes_on():
    times = iter([0.0, 0.0015, 0.9999, 1.0, 86_400.5])
    lines = TextFormat(lambda: next(times))
    assert [lines.line("INFO", "x").split()[0] for _ in range(5)] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.001Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "1970-01-02T00:00:00.500Z",
    ]


def test_a_line_of_json_has_time_level_message_and_fields():
    line = JsonFormat(at).line("INFO", "ended", {"client": "a:1", "bytes_up": 3, "why": None})
    assert line == (
        f'{{"time":"{TIME}","level":"INFO","pid":{os.getpid()},"message":"ended",'
        '"client":"a:1","bytes_up":3,"why":null}\n'
    )


@pytest.mark.parametrize("format", [TextFormat, JsonFormat])
def test_dropped_lines_are_a_warning_of_the_same_format(format):
    line = format(at).dropped(1200).decode()
    assert line.count("\n") == 1
    assert "WARNING" in line
    assert "1,200 lines dropped" in line
    if format is JsonFormat:
        assert json.loads(line)["dropped"] == 1200


HOSTILE = "".join(map(chr, range(0x300))) + "\u2028\u202e\ud800\udc80\udfff\U0001f600\x7f"


def test_no_text_makes_json_invalid_or_shows_a_control_character():
    line = JsonFormat(at).line(HOSTILE, HOSTILE, {"reason": HOSTILE}, HOSTILE)
    assert line.isascii()
    assert line.count("\n") == 1
    found = json.loads(line)
    assert set(found) == {"time", "level", "pid", "message", "reason", "exception"}
    assert all(found[name].isprintable() for name in ("time", "level", "message", "reason"))
    assert found["message"] == found["reason"] == output.visible(HOSTILE)
    assert found["exception"].replace("\n", "").replace("\t", "").isprintable()
    found["message"].encode()  # no lone surrogate, which some parsers refuse


def test_no_text_makes_two_lines_of_text():
    line = TextFormat(at).line(HOSTILE, HOSTILE, {"reason": HOSTILE})
    assert line[-1] == "\n"
    assert line[:-1].isprintable()


@pytest.mark.parametrize("format", [TextFormat, JsonFormat])
@pytest.mark.parametrize("huge", ["x", "\U000e0001"])
def test_huge_texts_are_cut_in_their_middle(format, huge):
    text = f"begin{huge * 1_000_000}end"
    line = format(at).line("INFO", text, {"reason": text}, text)
    parts = 1 if format is TextFormat else 2
    longest = len("\\\\U000e0001") if huge != "x" else 1
    most = longest * (parts * logs.MAX_TEXT + logs.MAX_EXCEPTION) + 1000
    assert len(line) < most
    assert line.count("begin") == line.count("end") == parts + 1
    assert "characters left out" in line


# The records of logging.


@pytest.fixture
def log(clock):
    """log(text, *args) logs a warning with our handler alone."""
    logger = logging.Logger("minireactor")
    logger.addHandler(LogHandler(TextFormat(at), seconds=clock.seconds))
    yield logger.warning
    logger.handlers[0].close()


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_record_is_one_line_with_its_level(log, capsys):
    log("%s of %d", "one", 2)
    assert capsys.readouterr().err == f"{WARNING} one of 2\n"


def test_a_traceback_is_one_string_of_a_json_line(clock, capsys):
    logger = logging.Logger("own.app")
    logger.addHandler(LogHandler(JsonFormat(at), seconds=clock.seconds))
    logger.error("it failed", exc_info=raised(ValueError("one\r\nERROR: forged \udc80")))
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["message"], found["logger"]) == ("ERROR", "it failed", "own.app")
    lines = found["exception"].split("\n")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ValueError: one\\r", "ERROR: forged \\udc80"]


def test_no_text_makes_a_line_of_the_log(log, capsys):
    log("from %s", "peer\r\nERROR: forged \x1b[2J\u2028ERROR: too")
    assert capsys.readouterr().err == (
        f"{WARNING} from peer\\r\\nERROR: forged \\x1b[2J\\u2028ERROR: too\n"
    )


def test_a_traceback_is_indented_and_no_text_in_it_makes_a_line_of_the_log(log, capsys):
    log("it failed", exc_info=raised(ValueError("one\nERROR: forged\r\x1b[2J")))
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"{WARNING} it failed"
    assert rest[-2:] == ["  ValueError: one", "  ERROR: forged\\r\\x1b[2J"]
    assert all(line.startswith("  ") for line in rest)


def test_repeated_records_are_counted(log, clock, capsys):
    for _ in range(1300):
        log("no descriptor left")
    log("something else")
    assert capsys.readouterr().err == f"{WARNING} no descriptor left\n{WARNING} something else\n"
    clock.advance(logs.REPEAT_SECONDS)
    log("no descriptor left")
    assert capsys.readouterr().err == (
        f"{WARNING} no descriptor left (repeated 1,299 times in 10 s)\n"
    )


def test_a_warning_that_goes_on_for_eight_minutes_is_a_few_lines(log, clock, capsys):
    for _ in range(480):
        log("no descriptor left")
        clock.advance(1)
    first, *counts = capsys.readouterr().err.splitlines()
    assert first == f"{WARNING} no descriptor left"
    seconds = [int(re.search(r"times in (\d+) s", line)[1]) for line in counts]
    assert seconds == [10, 20, 40, *[60] * 6]


def test_a_record_that_stayed_away_for_long_is_a_new_one(log, clock, capsys):
    for _ in range(3):
        log("no descriptor left")
        clock.advance(2 * logs.REPEAT_SECONDS)
    assert capsys.readouterr().err == f"{WARNING} no descriptor left\n" * 3


def test_after_a_long_silence_the_counting_begins_anew(log, clock, capsys):
    texts = ["the same", "the same", "another", "the same", "the same"]
    for text, seconds in zip(texts, (1, logs.REPEAT_SECONDS, 100, logs.REPEAT_SECONDS, 0)):
        log(text)
        clock.advance(seconds)
    assert capsys.readouterr().err.splitlines() == [
        f"{WARNING} the same",
        f"{WARNING} the same (repeated 1 time in 11 s)",
        f"{WARNING} another",
        f"{WARNING} the same",
        f"{WARNING} the same",
    ]


def test_records_that_differ_in_numbers_only_are_counted_and_the_latest_is_shown(
    log, clock, capsys
):
    for number in range(5):
        log("no descriptor left for %s; peers rejected so far: %d", "a:80", number)
        log("no descriptor left for %s; peers rejected so far: %d", "b:80", number)
    first = capsys.readouterr().err.splitlines()
    clock.advance(logs.REPEAT_SECONDS)
    log("something else")
    assert [line[-3:] for line in first] == [": 0", ": 0"]
    assert capsys.readouterr().err.startswith(
        f"{WARNING} no descriptor left for a:80; peers rejected so far: 4 "
        "(repeated 4 times in 10 s)\n"
    )


def test_a_change_of_state_is_always_written(log, capsys):
    for _ in range(2):
        log("target %s is down", "a:80", extra={"uncounted": True})
        log("target %s is up again", "a:80", extra={"uncounted": True})
    assert (
        capsys.readouterr().err.splitlines()
        == [
            f"{WARNING} target a:80 is down",
            f"{WARNING} target a:80 is up again",
        ]
        * 2
    )


def test_an_exception_from_one_place_is_counted_whoever_met_it(log, capsys):
    for peer in ("a", "b", "c"):
        log(f"in a callback of {peer}", exc_info=raised(ValueError("the same")))
    log("in a callback of d", exc_info=raised(ValueError("another")))
    assert [line for line in capsys.readouterr().err.splitlines() if line[0] != " "] == [
        f"{WARNING} in a callback of a",
        f"{WARNING} in a callback of d",
    ]


def test_the_end_reports_what_was_only_counted(log, clock, capsys):
    for _ in range(2):
        log("the same")
    clock.advance(3)
    log.__self__.handlers[0].close()
    assert capsys.readouterr().err == (
        f"{WARNING} the same\n{WARNING} the same (repeated 1 time in 3 s)\n"
    )


def test_a_timer_writes_the_count_if_no_other_record_does(clock, capsys):
    handler = LogHandler(TextFormat(at), seconds=clock.seconds, later=clock.callLater)
    logger = logging.Logger("minireactor")
    logger.addHandler(handler)
    for _ in range(9):
        logger.warning("the same")
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(logs.REPEAT_SECONDS)
    assert capsys.readouterr().err.endswith(f"{WARNING} the same (repeated 8 times in 10 s)\n")


def test_no_more_records_are_remembered_than_a_bound(log, capsys):
    for number in range(3 * logs.MAX_REPEATED):
        log(f"number {number}")
    assert capsys.readouterr().err.count("\n") == 3 * logs.MAX_REPEATED
    assert len(log.__self__.handlers[0]._repeated) == logs.MAX_REPEATED
    log(f"number {number}")
    assert capsys.readouterr().err == ""


class Bad:
    def __str__(self):
        raise GeneratorExit

    __repr__ = __str__


@pytest.mark.parametrize("message, arguments", [("%d", ("x",)), ("%s", (Bad(),)), (Bad(), ())])
def test_B3_a_record_that_cannot_be_formatted_raises_nothing(log, capsys, message, arguments):
    log(message, *arguments)
    log("and on")
    assert capsys.readouterr().err.endswith(f"{WARNING} and on\n")


def test_B3_an_exception_that_cannot_be_printed_raises_nothing(log, capsys):
    class Worse(ValueError):
        __str__ = Bad.__str__

    log("it failed", exc_info=raised(Worse()))
    log("and on")
    assert capsys.readouterr().err.endswith(f"{WARNING} and on\n")


@pytest.mark.parametrize("error", [OSError, ValueError, RecursionError, MemoryError])
def test_B3_a_standard_error_that_raises_is_not_heard_of(log, monkeypatch, error):
    class Broken:
        written = 0

        def write(self, text):
            self.written += 1
            raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    log("one")
    log("two")
    assert sys.stderr.written == 2


def test_without_a_standard_error_a_record_is_dropped(log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    log("one")


# Files.


@pytest.fixture
def errors():
    return []


@pytest.fixture
def log_file(tmp_path, errors):
    """log_file(path) is the open LogFile at a path in `tmp_path`."""
    made = []

    def log_file(path="log"):
        made.append(LogFile(str(tmp_path / path), JsonFormat(at), errors.append))
        made[-1].open()
        return made[-1]

    yield log_file
    for each in made:
        each.close(0)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # between two looks


def test_lines_are_appended(log_file, tmp_path):
    (tmp_path / "log").write_text("old\n")
    file = log_file()
    file.write("one é \udc80\n")
    assert file.close(PATIENCE) == ""
    assert (tmp_path / "log").read_text(encoding="utf-8") == "old\none é \\udc80\n"


def test_a_new_file_is_not_for_everybody(log_file, tmp_path):
    log_file()
    assert (tmp_path / "log").stat().st_mode & 0o137 == 0


def test_after_a_rename_reopen_writes_to_a_new_file_and_loses_no_line(log_file, tmp_path):
    file = log_file()
    for number in range(100):
        for line in range(50):
            file.write(f"{number * 50 + line}\n")
        (tmp_path / "log").rename(tmp_path / f"log.{number:02}")
        file.reopen()
        wait_until((tmp_path / "log").exists)
    assert file.close(PATIENCE) == ""
    files = sorted(tmp_path.glob("log.*"))
    assert len(files) == 100
    text = "".join(path.read_text() for path in [*files, tmp_path / "log"])
    assert text == "".join(f"{number}\n" for number in range(5000))


def test_a_file_takes_large_writes_of_whole_lines(log_file, monkeypatch):
    sizes = []
    write = os.write
    begun = threading.Event()

    def slow(fd, data):
        begun.wait(PATIENCE)
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", slow)
    file = log_file()
    for _ in range(3000):
        file.write("x" * 99 + "\n")
    begun.set()
    assert file.close(PATIENCE) == ""
    assert sum(sizes) == 300_000
    assert all(size % 100 == 0 for size in sizes)
    assert max(sizes) == output.MAX_FILE_WRITE // 100 * 100


def test_reopen_leaves_no_descriptor_behind(log_file):
    before = len(os.listdir("/dev/fd"))
    file = log_file()
    for _ in range(10):
        file.reopen()
        file.write("x\n")
        assert file._writer.flush(PATIENCE)
    assert len(os.listdir("/dev/fd")) == before + 1
    file.close(PATIENCE)
    assert len(os.listdir("/dev/fd")) == before


def test_a_file_that_cannot_be_opened_again_stays_in_use(log_file, tmp_path, errors):
    (tmp_path / "folder").mkdir()
    file = log_file("folder/log")
    file.write("one\n")
    assert file._writer.flush(PATIENCE)
    (tmp_path / "folder").rename(tmp_path / "gone")
    file.reopen()
    file.write("two\n")
    wait_until(lambda: errors)
    assert file.close(PATIENCE) == ""
    assert (tmp_path / "gone" / "log").read_text() == "one\ntwo\n"
    assert errors == [
        f"the log {tmp_path}/folder/log cannot be opened again: No such file or directory; the old "
        "file stays in use"
    ]


def test_without_a_descriptor_the_old_file_stays_in_use_until_there_is_one(
    log_file, tmp_path, errors, monkeypatch
):
    file = log_file()
    opened = os.open

    def refuse(*args):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    (tmp_path / "log").rename(tmp_path / "log.1")
    monkeypatch.setattr(os, "open", refuse)
    file.reopen()
    file.write("one\n")
    assert file._writer.flush(PATIENCE)
    monkeypatch.setattr(os, "open", opened)
    file.reopen()
    file.write("two\n")
    assert file.close(PATIENCE) == ""
    assert [(tmp_path / name).read_text() for name in ("log.1", "log")] == ["one\n", "two\n"]
    assert len(errors) == 1


def test_T2_a_fifo_that_nobody_reads_delays_nobody_and_loses_what_finds_no_room(
    log_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(output, "FLUSH_SECONDS", 0.01)
    os.mkfifo(tmp_path / "log")
    file = LogFile(str(tmp_path / "log"), JsonFormat(at))
    assert not file._writer.open(0.01)
    for _ in range(10):
        file.write("x" * (log_files.MAX_QUEUED // 4) + "\n")
    file.reopen()
    assert file.close(0.01) == f"the log {tmp_path}/log lacks its last lines: 10"
    with open(tmp_path / "log", "rb"):  # lets the thread go
        wait_until(lambda: file._writer._thread is None or not file._writer._thread.is_alive())


def test_a_fifo_that_has_lost_its_reader_is_written_again_for_the_next_one(
    log_file, tmp_path, monkeypatch, errors
):
    monkeypatch.setattr(output, "RETRY_SECONDS", 0.001)
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    file = log_file()
    os.close(reader)
    file.write("one\n")
    wait_until(lambda: errors)
    with open(os.open(tmp_path / "log", os.O_RDONLY), encoding="ascii") as reader:
        assert json.loads(reader.readline())["dropped"] == 1
        wait_until(lambda: not file._writer.dropped)  # until then, further lines are dropped too
        file.write("two\n")
        assert reader.readline() == "two\n"
    assert errors == [
        f"the log {tmp_path}/log cannot be written: Broken pipe; lines are dropped until it can"
    ]


class Disk:
    """os.write() to a disk with room for `room` bytes, as a test sets it."""

    def __init__(self, room):
        self.room = room
        self._write = os.write

    def __call__(self, fd, data):
        if threading.current_thread().name != "minireactor-output":
            return self._write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


def test_a_disk_that_gets_full_in_the_middle_of_a_line_tears_no_other_line(
    log_file, tmp_path, monkeypatch, errors
):
    monkeypatch.setattr(output, "RETRY_SECONDS", 0.001)
    disk = Disk(room=len("one\ntw"))
    monkeypatch.setattr(os, "write", disk)
    file = log_file()
    for word in ("one", "two", "three"):
        file.write(f"{word}\n")
    wait_until(lambda: file._writer.dropped == 2)
    disk.room = 1000
    wait_until(lambda: not file._writer.dropped)
    file.write("four\n")
    assert file.close(PATIENCE) == ""
    one, torn, dropped, four = (tmp_path / "log").read_text().splitlines()
    assert (one, torn, four) == ("one", "tw", "four")
    assert json.loads(dropped)["dropped"] == 2
    assert len(errors) == 1


def test_reopen_ends_a_full_disk_at_once_and_begins_a_clean_file(log_file, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "RETRY_SECONDS", 10 * PATIENCE)
    disk = Disk(room=len("one\ntw"))
    monkeypatch.setattr(os, "write", disk)
    file = log_file()
    for word in ("one", "two"):
        file.write(f"{word}\n")
    wait_until(lambda: file._writer.dropped == 1)
    (tmp_path / "log").rename(tmp_path / "old")
    disk.room = 1000
    file.reopen()
    assert file.close(PATIENCE) == ""
    assert (tmp_path / "old").read_text() == "one\ntw"
    assert json.loads((tmp_path / "log").read_text())["dropped"] == 1
    assert (tmp_path / "log").read_text()[0] == "{"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_is_said_once_and_what_is_missing_at_the_end(monkeypatch, errors):
    monkeypatch.setattr(output, "RETRY_SECONDS", 0.001)
    file = LogFile("/dev/full", TextFormat(at), errors.append)
    assert file.open()
    for _ in range(3):
        file.write("x\n")
        wait_until(lambda: file._writer.dropped)
    assert file.close(0.02) == "the log /dev/full lacks its last lines: 3"
    assert errors == [
        "the log /dev/full cannot be written: No space left on device; lines are dropped until it "
        "can"
    ]
