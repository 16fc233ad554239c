"""Output that never blocks the loop: the writer and the standard streams."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time

import pytest
from support import PATIENCE

from minireactor.view import output
from minireactor.view.output import Writer, standard_streams, visible

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the descriptors of POSIX")


class Pipe:
    """A pipe whose reading end the test reads, or leaves full."""

    def __init__(self):
        self.end, self.fd = os.pipe()
        os.set_blocking(self.end, False)
        self.text = b""

    def read(self):
        """Return what has arrived so far."""
        try:
            while data := os.read(self.end, 1 << 20):
                self.text += data
        except BlockingIOError:
            pass
        return self.text

    def read_until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition(self.read()):
            assert time.monotonic() < deadline, f"read only {self.text[-300:]!r}"
            time.sleep(0.001)  # between two looks
        return self.text

    def stop_reading(self):
        os.close(self.end)
        self.end = -1

    def close(self):
        for fd in (self.end, self.fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe(closing):
    return closing(Pipe())


@pytest.fixture
def writer(pipe):
    """A writer to the pipe. The pipe is emptied afterwards, so that the writer's thread ends."""
    own = Writer(pipe.fd, limit=1000)
    yield own
    own.close(0)
    if pipe.end >= 0:
        deadline = time.monotonic() + PATIENCE
        while own._thread is not None and own._thread.is_alive():
            pipe.read()
            assert time.monotonic() < deadline
            time.sleep(0.001)


def fill(pipe):
    """Fill the pipe, and return how many bytes it took."""
    os.set_blocking(pipe.fd, False)
    count = 0
    try:
        while True:
            count += os.write(pipe.fd, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(pipe.fd, True)
        return count


# Characters.


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain text", "plain text"),
        ("déjà vu 课程", "déjà vu 课程"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\rWARNING: b", "a\\rWARNING: b"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_is_no_character_to_look_at_is_an_escape(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_a_line_may_keep_its_tabs():
    assert visible("\ta\r", keep="\t") == "\ta\\r"


# The writer.


def test_lines_arrive_in_order(writer, pipe):
    for number in range(50):
        assert writer.put(b"%d\n" % number)
    assert writer.flush()
    assert pipe.read().split() == [b"%d" % number for number in range(50)]


def test_T2_a_pipe_that_nobody_reads_delays_nobody_and_what_is_lost_is_counted(writer, pipe):
    filled = fill(pipe)
    # When more lines come than may wait...
    for number in range(1000):
        assert writer.put(b"line %d\n" % number)
    assert writer.dropped > 800
    # ... and somebody reads again...
    pipe.read_until(lambda text: b"dropped" in text)
    lines = pipe.text[filled:].decode().splitlines()
    *kept, note = lines
    # ... then the first are there, in order, and the rest is a number.
    assert kept == [f"line {number}" for number in range(len(kept))]
    assert note == f"minireactor: {1000 - len(kept)} lines dropped"
    assert writer.flush()
    writer.put(b"and on\n")
    assert writer.flush()
    assert pipe.read().endswith(b"dropped\nand on\n")


def test_T2_the_count_has_separators_and_a_single_line_is_one():
    assert output.lines_dropped(1204) == b"minireactor: 1,204 lines dropped\n"
    assert output.lines_dropped(1) == b"minireactor: 1 line dropped\n"


def test_T2_a_line_larger_than_all_that_may_wait_is_written(writer, pipe):
    writer.put(b"x" * 5000 + b"\n")
    assert writer.flush()
    assert len(pipe.read()) == 5001


def test_T2_at_the_end_a_reader_that_stalls_is_waited_for_a_moment_only(writer, pipe):
    fill(pipe)
    for number in range(10):
        writer.put(b"%d\n" % number)
    assert not writer.flush(0.01)
    assert writer.close(0.01) == 10
    assert not writer.put(b"more")


def test_T2_a_write_that_has_stalled_for_long_is_not_waited_for_again(writer, pipe, monkeypatch):
    monkeypatch.setattr(output, "MIN_FLUSH_SECONDS", 0.0)
    fill(pipe)
    writer.put(b"x\n")
    writer.flush(0.05)
    writer._progress -= 1000
    waited = []
    monkeypatch.setattr(writer._changed, "wait_for", lambda _, seconds: waited.append(seconds))
    writer.flush(500.0)
    assert waited == [0.0]


def test_a_reader_that_has_gone_is_the_end(writer, pipe):
    pipe.stop_reading()
    writer.put(b"x\n")
    writer.flush()
    assert not writer.put(b"y\n")
    assert writer.error.errno == errno.EPIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_T2_a_full_disk_is_tried_again_and_what_it_did_not_take_is_counted(pipe, monkeypatch):
    monkeypatch.setattr(output, "RETRY_SECONDS", 0.001)
    full = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(full)
    writer.put(b"one\n")
    writer.put(b"two\n")
    deadline = time.monotonic() + PATIENCE
    while writer.dropped < 1:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.dup2(pipe.fd, full)  # somebody has made room
    pipe.read_until(lambda text: b"dropped\n" in text)
    assert writer.flush()
    writer.put(b"three\n")
    assert writer.close() == 0
    assert pipe.read().endswith(b"dropped\nthree\n")
    os.close(full)


def test_a_full_disk_is_the_end_for_one_that_does_not_try_again():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs a disk that is full")
    writer = Writer(lambda: os.open("/dev/full", os.O_WRONLY), retry=False)
    writer.put(b"x")
    writer.flush()
    assert not writer.put(b"y")
    assert writer.error.errno == errno.ENOSPC


def test_the_flags_of_a_shared_descriptor_stay_as_they_are(writer, pipe):
    assert os.get_blocking(pipe.fd)
    writer.put(b"x\n")
    assert os.get_blocking(pipe.fd)
    writer.flush()
    assert os.get_blocking(pipe.fd)


def test_a_descriptor_that_somebody_else_made_non_blocking_loses_nothing(writer, pipe):
    filled = fill(pipe)
    os.set_blocking(pipe.fd, False)
    writer.put(b"x\n")
    assert not writer.flush(0.01)
    pipe.read_until(lambda text: len(text) == filled + 2)
    assert writer.flush()


def test_T2_opening_a_fifo_that_nobody_reads_delays_nobody(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    writer = Writer(lambda: os.open(path, os.O_WRONLY))
    assert not writer.open(0.01)
    writer.put(b"early\n")
    with open(path, "rb") as reader:
        assert writer.close() == 0
        assert reader.read() == b"early\n"


def test_what_cannot_be_opened_is_an_oserror(tmp_path):
    writer = Writer(lambda: os.open(tmp_path / "no" / "such", os.O_WRONLY))
    with pytest.raises(FileNotFoundError):
        writer.open()
    assert not writer.put(b"x")


def test_what_it_opened_it_closes(tmp_path):
    before = set(os.listdir("/dev/fd"))
    writer = Writer(lambda: os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    writer.put(b"x")
    assert writer.close() == 0
    assert set(os.listdir("/dev/fd")) == before
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_forked_child_prints_its_own_lines_and_not_the_parents(pipe):
    writer = Writer(pipe.fd)
    filled = fill(pipe)
    for _ in range(100):
        writer.put(b"parent\n")
    child = os.fork()
    if not child:
        writer.put(b"child\n")
        os._exit(writer.close(PATIENCE) != 0)
    pipe.read_until(lambda text: b"child\n" in text and text.count(b"parent\n") == 100)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(pipe.text) == filled + 100 * 7 + 6
    assert writer.close() == 0


def test_a_forked_child_leaves_a_file_of_the_parents_alone(tmp_path):
    path = tmp_path / "file"
    writer = Writer(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    writer.put(b"parent\n")
    assert writer.flush()
    child = os.fork()
    if not child:
        os._exit(writer.put(b"child\n") or writer.close() != 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert writer.close() == 0
    assert path.read_bytes() == b"parent\n"


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_signals_wake_the_loop_and_not_the_thread(writer):
    writer.put(b"x")
    writer.flush()
    with open(f"/proc/self/task/{writer._thread.native_id}/status") as status:
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status.read())[1], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGWINCH):
        assert blocked >> (number - 1) & 1


def test_no_thread_before_there_is_something_to_write(pipe):
    before = threading.active_count()
    writer = Writer(pipe.fd)
    assert writer.flush()
    assert writer.close() == 0
    assert threading.active_count() == before


# Standard output and standard error.


@pytest.fixture
def streams(pipe, closing, monkeypatch):
    """streams() makes both of them lead into the pipe. In the test itself: pytest has its own."""

    def streams():
        for name in ("stdout", "stderr"):
            stream = closing(os.fdopen(os.dup(pipe.fd), "w"))
            monkeypatch.setattr(sys, name, stream)
        return sys.stdout, sys.stderr

    return streams


def test_both_streams_keep_one_order_if_they_lead_to_the_same_place(streams, pipe):
    before = streams()
    with standard_streams():
        for number in range(20):
            print("out", number)
            print("err", number, file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    wanted = [f"{name} {number}" for number in range(20) for name in ("out", "err")]
    assert pipe.read().decode().splitlines() == wanted


def test_what_was_printed_before_comes_first(streams, pipe):
    out, _ = streams()
    out.write("before\n")
    with standard_streams():
        print("after")
    assert pipe.read() == b"before\nafter\n"


def test_flush_waits_until_lines_are_written(streams, pipe):
    streams()
    with standard_streams() as flush:
        print("a line")
        flush()
        assert pipe.read() == b"a line\n"


def test_T2_printing_to_a_pipe_that_nobody_reads_delays_nobody(streams, pipe, monkeypatch):
    monkeypatch.setattr(output, "FLUSH_SECONDS", 0.01)
    streams()
    fill(pipe)
    with standard_streams():
        for _ in range(1000):
            print("x" * 1000)
            sys.stderr.write("y" * 1000 + "\n")
    pipe.read_until(lambda text: b"\n" in text)


def test_printing_for_a_reader_that_has_gone_raises_nothing(streams, pipe):
    streams()
    pipe.stop_reading()
    with standard_streams() as flush:
        for _ in range(3):
            print("x", flush=True)
            flush()


def test_a_stream_without_a_descriptor_stays_as_it_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    stream = sys.stdout
    with standard_streams():
        assert sys.stdout is stream
        assert sys.stderr is None
