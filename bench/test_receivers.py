"""Cutting a stream into lines and strings: `minireactor.basic`.

Guards that each byte is handled a fixed number of times, however the stream is divided into reads.
So a line in a read with many lines costs no more than a line in a read of its own. A long line
costs about the same in a few reads as in a thousand.
"""

from __future__ import annotations

import struct

import pytest

from minireactor.basic import (
    Int32StringReceiver,
    LineOnlyReceiver,
    LineReceiver,
    NetstringReceiver,
)

READ = 64 * 1024  # bytes


class Transport:
    """A transport that is open for reading. A receiver asks for nothing else."""

    __slots__ = ("reading",)

    def __init__(self):
        self.reading = True


class Lines(LineReceiver):
    received = 0

    def lineReceived(self, line):
        self.received += 1


class LinesOnly(LineOnlyReceiver):
    received = 0

    def lineReceived(self, line):
        self.received += 1


class Strings(Int32StringReceiver):
    received = 0

    def stringReceived(self, string):
        self.received += 1


class Netstrings(NetstringReceiver):
    received = 0

    def stringReceived(self, string):
        self.received += 1


def int32(string):
    return struct.pack("!I", len(string)) + string


def netstring(string):
    return b"%d:%b," % (len(string), string)


def line(string):
    return string + b"\r\n"


def cut(stream, size):
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def feed(measure, receiver, reads, count, unit):
    """Measure `receiver` with these reads, which contain `count` lines or strings."""
    receiver.makeConnection(Transport())

    def setup():
        receiver.received = 0

    def work():
        take = receiver.dataReceived
        for data in reads:
            take(data)

    measure(work, count, unit, setup)

    assert receiver.received == count
    assert not receiver.has_buffered_input


LINES = pytest.mark.parametrize(
    "receiver", [Lines, LinesOnly], ids=["LineReceiver", "LineOnlyReceiver"]
)
STRINGS = pytest.mark.parametrize(
    ("receiver", "frame"),
    [(Strings, int32), (Netstrings, netstring)],
    ids=["Int32StringReceiver", "NetstringReceiver"],
)


@pytest.mark.benchmark(group="receivers: short, many in a read")
@LINES
def test_short_lines(measure, receiver):
    """64 KiB of lines of one byte in one read."""
    count = READ // 3
    feed(measure, receiver(), [line(b"x") * count], count, "line")


@pytest.mark.benchmark(group="receivers: short, many in a read")
def test_short_lines_floor(measure):
    """One split, and a loop that calls a method: no receiver can be cheaper."""
    count = READ // 3
    data = line(b"x") * count
    receiver = Lines()

    def setup():
        receiver.received = 0

    def work():
        for string in data.split(b"\r\n"):
            if string:
                receiver.lineReceived(string)

    measure(work, count, "line", setup)

    assert receiver.received == count


@pytest.mark.benchmark(group="receivers: short, many in a read")
@STRINGS
def test_short_strings(measure, receiver, frame):
    """64 KiB of strings of 16 bytes in one read."""
    string = frame(b"x" * 16)
    count = READ // len(string)
    feed(measure, receiver(), [string * count], count, "string")


@pytest.mark.benchmark(group="receivers: short, one in a read")
@LINES
def test_line_a_read(measure, receiver):
    """A thousand reads of one line each, as in a dialogue."""
    feed(measure, receiver(), [line(b"x" * 62)] * 1000, 1000, "line")


@pytest.mark.benchmark(group="receivers: short, one in a read")
@STRINGS
def test_string_a_read(measure, receiver, frame):
    """A thousand reads of one string each."""
    feed(measure, receiver(), [frame(b"x" * 60)] * 1000, 1000, "string")


@pytest.mark.benchmark(group="receivers: short, cut anywhere")
@LINES
def test_lines_cut(measure, receiver):
    """Lines of 64 bytes in reads of 100: most reads begin and end within a line."""
    feed(measure, receiver(), cut(line(b"x" * 62) * 1000, 100), 1000, "line")


@pytest.mark.benchmark(group="receivers: short, cut anywhere")
@STRINGS
def test_strings_cut(measure, receiver, frame):
    """Strings of about 64 bytes in reads of 100."""
    feed(measure, receiver(), cut(frame(b"x" * 60) * 1000, 100), 1000, "string")


LONG = 1024 * 1024
SIZES = pytest.mark.parametrize("size", [READ, 1024], ids="reads of {}".format)


@pytest.mark.benchmark(group="receivers: long")
@SIZES
@LINES
def test_long_lines(measure, receiver, size):
    """Lines of 1 MiB, in reads of 64 KiB and in 64 times as many.

    The cost is linear if the many reads cost little more than the additional calls."""
    taker = receiver()
    taker.MAX_LENGTH = LONG
    feed(measure, taker, cut(line(b"x" * LONG) * 2, size), 2, "line of 1 MiB")


@pytest.mark.benchmark(group="receivers: long")
@SIZES
@STRINGS
def test_long_strings(measure, receiver, frame, size):
    """Strings of 1 MiB, in the same reads."""
    taker = receiver()
    taker.MAX_LENGTH = LONG
    feed(measure, taker, cut(frame(b"x" * LONG) * 2, size), 2, "string of 1 MiB")


class HeaderAndBody(LineReceiver):
    """A line, then a body of 256 raw bytes, and so on."""

    BODY = 256
    received = 0
    missing = 0

    def lineReceived(self, line):
        self.missing = self.BODY
        self.setRawMode()

    def rawDataReceived(self, data):
        part = data[: self.missing]
        self.missing -= len(part)
        if not self.missing:
            self.received += 1
            self.setLineMode(data[len(part) :])


@pytest.mark.benchmark(group="receivers: mode switches")
@pytest.mark.parametrize("size", [1024, 4 * 1024, READ], ids="reads of {}".format)
def test_mode_switches(measure, size):
    """A line and 256 raw bytes in turn. The cost of a switch must hardly grow with the read size.

    The first switches of a read hand over all buffered bytes, the later ones a part."""
    message = line(b"x" * 30) + b"y" * HeaderAndBody.BODY
    count = 4 * READ // len(message)
    feed(measure, HeaderAndBody(), cut(message * count, size), count, "message")
