"""The receivers of lines and strings, and FileSender."""

from __future__ import annotations

import asyncio
import gc
import logging
import struct
from io import BytesIO

import pytest
from support import assert_linear

from minireactor import basic
from minireactor.error import ConnectionLost
from minireactor.testing import StringTransport, connected


class Recording:
    """A mix-in for receivers: records what is delivered, and calls `on[what]()` afterwards."""

    MAX_LENGTH = 99999

    def __init__(self):
        self.got = []
        self.on = {}

    def lineReceived(self, line):
        self.got.append(line)
        self.on.get(line, lambda: None)()

    stringReceived = lineReceived

    def rawDataReceived(self, data):
        self.got.append(("raw", data))
        self.on.get("raw", lambda: None)()

    def lineLengthExceeded(self, line):
        self.got.append(("too long", line))
        super().lineLengthExceeded(line)

    def lengthLimitExceeded(self, length):
        self.got.append(("too long", length))
        super().lengthLimitExceeded(length)


class Lines(Recording, basic.LineReceiver):
    pass


class LinesOnly(Recording, basic.LineOnlyReceiver):
    pass


class Netstrings(Recording, basic.NetstringReceiver):
    pass


class Int8(Recording, basic.Int8StringReceiver):
    pass


class Int16(Recording, basic.Int16StringReceiver):
    pass


class Int32(Recording, basic.Int32StringReceiver):
    pass


def as_line(data):
    return data + b"\r\n"


def as_netstring(data):
    return b"%d:%b," % (len(data), data)


def behind(prefix):
    return lambda data: struct.pack(prefix, len(data)) + data


FRAMED = [
    pytest.param(Lines, as_line, id="LineReceiver"),
    pytest.param(LinesOnly, as_line, id="LineOnlyReceiver"),
    pytest.param(Netstrings, as_netstring, id="Netstring"),
    pytest.param(Int8, behind("!B"), id="Int8"),
    pytest.param(Int16, behind("!H"), id="Int16"),
    pytest.param(Int32, behind("!I"), id="Int32"),
]
LARGE_FRAMED = [case for case in FRAMED if case.id not in ("Int8", "Int16")]
LINES = [case for case in FRAMED if "Line" in case.id]
PAUSEABLE = [case for case in FRAMED if "Only" not in case.id and case.id != "Netstring"]

every_receiver = pytest.mark.parametrize(("receiver", "frame"), FRAMED)
every_large_receiver = pytest.mark.parametrize(("receiver", "frame"), LARGE_FRAMED)
every_line_receiver = pytest.mark.parametrize(("receiver", "frame"), LINES)
every_pauseable_receiver = pytest.mark.parametrize(("receiver", "frame"), PAUSEABLE)

ABC = [b"a", b"b", b"c"]


def started(receiver, transport=None):
    """Return (receiver, transport), connected."""
    protocol = receiver()
    return protocol, connected(protocol, transport)


class BareTransport:
    """A minimal transport, as other people's fakes are: it has no `reading`."""

    disconnecting = False

    def pauseProducing(self):
        pass

    resumeProducing = pauseProducing

    def loseConnection(self):
        self.disconnecting = True


# --- Cutting the stream ---------------------------------------------------------------------------


@every_receiver
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_delivery_does_not_depend_on_how_the_stream_is_cut(receiver, frame, size):
    strings = [b"", b"one", b"x" * 100, b"", b"the last"]
    stream = b"".join(map(frame, strings))
    protocol, _ = started(receiver)

    for start in range(0, len(stream), size):
        protocol.dataReceived(stream[start : start + size])

    assert protocol.got == strings
    assert not protocol.has_buffered_input


@every_receiver
def test_what_is_delivered_is_bytes(receiver, frame):
    protocol, _ = started(receiver)

    protocol.dataReceived(frame(b"one") + frame(b"two")[:3])
    protocol.dataReceived(frame(b"two")[3:])

    assert [type(string) for string in protocol.got] == [bytes, bytes]


@every_receiver
def test_an_unfinished_string_is_buffered(receiver, frame):
    protocol, _ = started(receiver)

    protocol.dataReceived(frame(b"a") + frame(b"bcd")[:-1])

    assert protocol.got == [b"a"]
    assert protocol.has_buffered_input


@every_receiver
def test_empty_data_is_safe_at_any_time(receiver, frame):
    protocol, _ = started(receiver)

    for byte in b"".join(map(frame, ABC)):
        protocol.dataReceived(b"")
        protocol.dataReceived(bytes([byte]))
    protocol.dataReceived(b"")

    assert protocol.got == ABC


@every_large_receiver
def test_a_huge_string_in_small_reads_is_not_copied_for_each(receiver, frame):
    """twisted #6357, #2611. Searching or copying from the start for each of the 32,768 reads
    would be 17 GB."""

    class Huge(receiver):
        MAX_LENGTH = 1 << 20

    def receive(length):
        string = b"x" * length
        stream = frame(string)
        protocol, _ = started(Huge)
        for start in range(0, len(stream), 32):
            protocol.dataReceived(stream[start : start + 32])
        assert protocol.got == [string]

    assert_linear(receive, Huge.MAX_LENGTH // 4)


@pytest.mark.slow
@every_large_receiver
def test_one_read_of_many_strings_is_not_copied_for_each(receiver, frame):
    """The remaining tail of a 500 KB read copied for each of 80,000 strings would be 20 GB."""

    def receive(count):
        protocol, _ = started(receiver)
        protocol.dataReceived(frame(b"xyz") * count)
        assert protocol.got == [b"xyz"] * count

    assert_linear(receive, 20_000)


@every_receiver
def test_stringReceived_has_to_be_overridden(receiver, frame):
    original = receiver.__mro__[2]
    protocol = original()
    connected(protocol)

    with pytest.raises(NotImplementedError, match="must override"):
        protocol.dataReceived(frame(b"a"))


@every_receiver
def test_without_a_transport_strings_are_delivered(receiver, frame):
    protocol = receiver()

    protocol.dataReceived(frame(b"a"))

    assert protocol.got == [b"a"]


# --- Stopping between two of them -----------------------------------------------------------------


@every_receiver
def test_R1_pausing_the_transport_holds_back_the_rest_of_the_read(receiver, frame):
    """twisted #10598"""
    protocol, transport = started(receiver)
    protocol.on[b"a"] = transport.pauseProducing

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == [b"a"]
    assert protocol.has_buffered_input


@every_receiver
def test_R1_empty_data_after_the_transport_resumes_delivers_the_buffered_input(receiver, frame):
    protocol, transport = started(receiver)
    protocol.on[b"a"] = protocol.on[b"b"] = transport.pauseProducing
    protocol.dataReceived(b"".join(map(frame, ABC)))

    transport.resumeProducing()
    protocol.dataReceived(b"")
    assert protocol.got == [b"a", b"b"]

    transport.resumeProducing()
    protocol.dataReceived(b"")
    assert protocol.got == ABC
    assert not protocol.has_buffered_input


@every_receiver
def test_R1_empty_data_while_paused_delivers_nothing(receiver, frame):
    protocol, transport = started(receiver)
    protocol.on[b"a"] = transport.pauseProducing
    protocol.dataReceived(b"".join(map(frame, ABC)))

    protocol.dataReceived(b"")

    assert protocol.got == [b"a"]


@every_receiver
def test_R1_input_that_comes_while_paused_follows_the_buffered_input(receiver, frame):
    protocol, transport = started(receiver)
    protocol.on[b"a"] = transport.pauseProducing
    stream = b"".join(map(frame, [*ABC, b"d", b"e"]))
    protocol.dataReceived(stream[:-4])
    protocol.dataReceived(stream[-4:-1])
    protocol.dataReceived(stream[-1:])

    transport.resumeProducing()
    protocol.dataReceived(b"")

    assert protocol.got == [*ABC, b"d", b"e"]


@every_receiver
def test_R1_the_whole_of_a_string_that_was_completed_while_paused_is_buffered(receiver, frame):
    protocol, transport = started(receiver)
    protocol.dataReceived(frame(b"abc")[:2])
    transport.pauseProducing()
    protocol.dataReceived(frame(b"abc")[2:])
    assert protocol.got == []
    assert protocol.has_buffered_input

    transport.resumeProducing()
    protocol.dataReceived(b"")

    assert protocol.got == [b"abc"]


@pytest.mark.slow
@every_large_receiver
def test_R1_pausing_at_each_string_does_not_copy_the_rest_each_time(receiver, frame):
    """The rest of a 500 KB read copied at each of 80,000 pauses would be 20 GB."""

    def receive(count):
        protocol, transport = started(receiver)
        protocol.on[b"xyz"] = transport.pauseProducing
        protocol.dataReceived(frame(b"xyz") * count)
        while protocol.has_buffered_input:
            transport.resumeProducing()
            protocol.dataReceived(b"")
        assert len(protocol.got) == count

    assert_linear(receive, 20_000)


@pytest.mark.slow
@every_large_receiver
def test_R1_buffered_input_of_a_slow_receiver_is_not_copied_each_time(receiver, frame):
    string = b"xyz" * 300
    read = frame(string) * 10

    def receive(count):
        protocol, transport = started(receiver)
        protocol.on[string] = transport.pauseProducing
        for _ in range(count):
            protocol.dataReceived(read)
            transport.resumeProducing()
        protocol.on.clear()
        protocol.dataReceived(b"")
        assert protocol.got == [string] * 10 * count

    assert_linear(receive, 500)


@every_receiver
@pytest.mark.parametrize("end", ["loseConnection", "abortConnection", "stopProducing"])
def test_R3_nothing_is_delivered_after_the_end(receiver, frame, end):
    protocol, transport = started(receiver)
    protocol.on[b"b"] = getattr(transport, end)

    protocol.dataReceived(b"".join(map(frame, ABC)))
    protocol.dataReceived(frame(b"d"))

    assert protocol.got == [b"a", b"b"]


@every_receiver
def test_R3_a_transport_without_reading_is_asked_whether_it_disconnects(receiver, frame):
    protocol, transport = started(receiver, BareTransport())
    protocol.on[b"b"] = transport.loseConnection

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == [b"a", b"b"]


@every_receiver
def test_a_transport_without_any_state_counts_as_reading(receiver, frame):
    protocol = receiver()
    protocol.makeConnection(object())

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == ABC


@every_pauseable_receiver
def test_R1_pausing_the_receiver_pauses_its_transport_too(receiver, frame):
    protocol, transport = started(receiver)
    protocol.on[b"a"] = protocol.pauseProducing

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == [b"a"]
    assert (protocol.paused, transport.producerState) == (True, "paused")


@every_pauseable_receiver
def test_R1_resuming_the_receiver_delivers_buffered_input_at_once(receiver, frame):
    protocol, transport = started(receiver)
    protocol.on[b"a"] = protocol.pauseProducing
    protocol.dataReceived(b"".join(map(frame, ABC)))

    protocol.resumeProducing()

    assert protocol.got == ABC
    assert (protocol.paused, transport.producerState) == (False, "producing")


@every_pauseable_receiver
def test_R1_a_paused_receiver_buffers_whatever_its_transport_says(receiver, frame):
    protocol, _ = started(receiver, BareTransport())
    protocol.pauseProducing()

    protocol.dataReceived(frame(b"a"))

    assert protocol.got == []
    assert protocol.has_buffered_input


@every_pauseable_receiver
def test_R1_pause_and_resume_inside_one_delivery_keep_the_order(receiver, frame):
    protocol, _ = started(receiver)
    protocol.on[b"a"] = lambda: (protocol.pauseProducing(), protocol.resumeProducing())

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == ABC


@every_pauseable_receiver
def test_R3_stopping_the_receiver_closes_its_transport(receiver, frame):
    protocol, transport = started(receiver)
    protocol.on[b"a"] = protocol.stopProducing

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == [b"a"]
    assert transport.disconnecting


@pytest.mark.parametrize(("receiver", "frame"), [case for case in FRAMED if case not in PAUSEABLE])
def test_an_attribute_named_paused_means_nothing_to_the_others(receiver, frame):
    protocol, _ = started(receiver)
    protocol.paused = True  # a protocol may be a push producer of its own

    protocol.dataReceived(frame(b"a"))

    assert protocol.got == [b"a"]


# --- Callbacks that come back or fail -------------------------------------------------------------


@every_receiver
def test_data_from_inside_a_callback_is_stored_behind_the_rest(receiver, frame):
    protocol, _ = started(receiver)
    protocol.on[b"a"] = lambda: (
        protocol.dataReceived(frame(b"late")),
        protocol.got.append("a is done"),
    )

    protocol.dataReceived(b"".join(map(frame, ABC)))

    assert protocol.got == [b"a", "a is done", b"b", b"c", b"late"]


@every_receiver
def test_a_callback_that_raises_leaves_the_rest_in_place(receiver, frame):
    protocol, _ = started(receiver)
    protocol.on[b"a"] = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        protocol.dataReceived(b"".join(map(frame, ABC)))

    protocol.dataReceived(b"")

    assert protocol.got == ABC


# --- Lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("receiver", [basic.LineReceiver, basic.LineOnlyReceiver])
def test_lines_of_16384_bytes_that_end_in_crlf_are_the_default(receiver):
    assert (receiver.delimiter, receiver.MAX_LENGTH) == (b"\r\n", 16384)


@every_line_receiver
def test_sendLine_adds_the_delimiter(receiver, frame):
    protocol, transport = started(receiver)

    protocol.sendLine(b"hello")

    assert transport.value() == b"hello\r\n"


@every_line_receiver
def test_part_of_a_delimiter_belongs_to_the_line(receiver, frame):
    protocol, _ = started(receiver)

    for piece in (b"a\r", b"b\n", b"c\r", b"\r", b"\n"):
        protocol.dataReceived(piece)

    assert protocol.got == [b"a\rb\nc\r"]


@every_line_receiver
def test_the_delimiter_may_be_one_byte_or_several(receiver, frame):
    for delimiter in (b"\n", b"<END>", b"aab"):
        protocol, _ = started(receiver)
        protocol.delimiter = delimiter

        for byte in b"1" + delimiter + b"2" + delimiter:
            protocol.dataReceived(bytes([byte]))

        assert protocol.got == [b"1", b"2"]


def test_the_delimiter_may_change_between_two_lines_of_a_read():
    protocol, _ = started(Lines)
    protocol.on[b"a"] = lambda: setattr(protocol, "delimiter", b"\n")

    protocol.dataReceived(b"a\r\nb\nc\r\n")

    assert protocol.got == [b"a", b"b", b"c\r"]


@every_line_receiver
def test_a_new_delimiter_is_found_in_what_was_searched_for_the_old_one(receiver, frame):
    protocol, _ = started(receiver)
    protocol.dataReceived(b"a\nbcd")
    protocol.delimiter = b"\n"

    protocol.dataReceived(b"e")

    assert protocol.got == [b"a"]


@every_line_receiver
def test_each_unfinished_line_is_searched_from_its_beginning(receiver, frame):
    protocol, transport = started(receiver)
    long = b"x" * 50
    protocol.dataReceived(long)
    protocol.on[long] = transport.pauseProducing
    protocol.dataReceived(b"\r\n")
    protocol.dataReceived(b"short\r\n")

    transport.resumeProducing()
    protocol.dataReceived(b"")

    assert protocol.got == [long, b"short"]


def test_after_clearLineBuffer_an_unfinished_line_is_searched_from_its_beginning():
    protocol, transport = started(Lines)
    protocol.dataReceived(b"x" * 50)
    protocol.clearLineBuffer()
    transport.pauseProducing()
    for piece in (b"a", b"b\r", b"\n"):
        protocol.dataReceived(piece)

    transport.resumeProducing()
    protocol.dataReceived(b"")

    assert protocol.got == [b"ab"]


@every_line_receiver
def test_an_empty_delimiter_is_an_error(receiver, frame):
    protocol, _ = started(receiver)
    protocol.delimiter = b""

    with pytest.raises(ValueError, match="empty"):
        protocol.dataReceived(b"a")


@every_line_receiver
def test_a_line_of_MAX_LENGTH_passes_and_one_byte_more_closes(receiver, frame):
    protocol, transport = started(receiver)
    protocol.MAX_LENGTH = 5

    protocol.dataReceived(b"12345\r\n")
    assert not transport.disconnecting

    protocol.dataReceived(b"123456\r\n")
    assert protocol.got[0] == b"12345"
    assert protocol.got[1][0] == "too long"
    assert transport.disconnecting


@every_line_receiver
def test_an_unfinished_line_is_too_long_once_no_delimiter_can_save_it(receiver, frame):
    protocol, transport = started(receiver)
    protocol.MAX_LENGTH = 5

    protocol.dataReceived(b"12345\r")
    assert not transport.disconnecting

    protocol.dataReceived(b"x")
    assert protocol.got == [("too long", b"12345\rx")]
    assert transport.disconnecting


@every_line_receiver
def test_a_line_of_MAX_LENGTH_may_come_in_two_reads_with_the_delimiter_cut(receiver, frame):
    protocol, _ = started(receiver)
    protocol.MAX_LENGTH = 5

    protocol.dataReceived(b"12345\r")
    protocol.dataReceived(b"\n")

    assert protocol.got == [b"12345"]


def test_lineLengthExceeded_gets_all_buffered_input():
    protocol, _ = started(Lines)
    protocol.MAX_LENGTH = 3

    protocol.dataReceived(b"ok\r\n12345\r\nrest")

    assert protocol.got == [b"ok", ("too long", b"12345\r\nrest")]


def test_lineLengthExceeded_may_hand_back_what_is_to_be_read():
    class Patient(Lines):
        MAX_LENGTH = 3

        def lineLengthExceeded(self, line):
            self.setLineMode(line.partition(b"\r\n")[2])

    protocol, _ = started(Patient)

    protocol.dataReceived(b"12345\r\nb\r\n12345\r\nc\r\n")

    assert protocol.got == [b"b", b"c"]


def test_a_LineOnlyReceiver_that_forgives_a_long_line_goes_on_with_the_next():
    class Patient(LinesOnly):
        MAX_LENGTH = 3

        def lineLengthExceeded(self, line):
            self.got.append(len(line))

    protocol, _ = started(Patient)

    protocol.dataReceived(b"a\r\n12345\r\nb\r\n")

    assert protocol.got == [b"a", 5, b"b"]


def test_clearLineBuffer_returns_the_buffered_input_and_frees_it():
    protocol, _ = started(Lines)
    protocol.dataReceived(b"a\r\nunfin")
    protocol.dataReceived(b"ished")

    assert protocol.clearLineBuffer() == b"unfinished"
    assert not protocol.has_buffered_input
    protocol.dataReceived(b"b\r\n")
    assert protocol.got == [b"a", b"b"]


def test_clearLineBuffer_from_inside_lineReceived_takes_the_lines_to_come():
    protocol, _ = started(Lines)
    protocol.on[b"a"] = lambda: protocol.got.append(protocol.clearLineBuffer())

    protocol.dataReceived(b"a\r\nb\r\nc\r\n")

    assert protocol.got == [b"a", b"b\r\nc\r\n"]


def test_clearLineBuffer_of_a_new_receiver_is_empty():
    assert Lines().clearLineBuffer() == b""


# --- Raw mode -------------------------------------------------------------------------------------


def test_setRawMode_takes_effect_behind_the_line_it_is_called_from():
    protocol, _ = started(Lines)
    protocol.on[b"a"] = protocol.setRawMode

    protocol.dataReceived(b"a\r\nraw\r\nstill raw")
    protocol.dataReceived(b"more")

    assert protocol.got == [b"a", ("raw", b"raw\r\nstill raw"), ("raw", b"more")]
    assert not protocol.line_mode


def test_raw_mode_gets_the_beginning_of_a_line_that_came_before():
    protocol, _ = started(Lines)
    protocol.dataReceived(b"unfinished")
    protocol.setRawMode()

    protocol.dataReceived(b" business")

    assert protocol.got == [("raw", b"unfinished business")]


def test_setLineMode_reads_the_extra_bytes_as_lines():
    protocol, _ = started(Lines)
    protocol.setRawMode()
    protocol.on["raw"] = lambda: protocol.setLineMode(b"b\r\nc")

    protocol.dataReceived(b"raw")
    protocol.dataReceived(b"d\r\n")

    assert protocol.got == [("raw", b"raw"), b"b", b"cd"]
    assert protocol.line_mode


def test_setLineMode_outside_a_callback_delivers_the_extra_bytes_at_once():
    protocol, _ = started(Lines)
    protocol.setRawMode()

    protocol.setLineMode(b"a\r\n")

    assert protocol.got == [b"a"]


@pytest.mark.slow
def test_a_hundred_thousand_switches_of_mode_in_one_read():
    """twisted #3050"""

    class Flipping(Lines):
        def lineReceived(self, line):
            super().lineReceived(line)
            self.setRawMode()

        def rawDataReceived(self, data):
            self.setLineMode(data[1:])

    protocol, _ = started(Flipping)

    protocol.dataReceived(b"a\r\nx" * 100_000)

    assert protocol.got == [b"a"] * 100_000

    def receive(reads):
        """Each switch copies the rest of its own read, and nothing that came before."""
        protocol, _ = started(Flipping)
        for _ in range(reads):
            protocol.dataReceived((line + b"\r\nx") * 5)
        assert protocol.got == [line] * 5 * reads

    line = b"a" * 400

    assert_linear(receive, 500)


def switched(protocol, raw=b"0123456789" * 1000):
    """Feed many short lines with one raw byte each, a line, and `raw`, delivered in parts."""
    protocol.dataReceived(b"a\r\nx" * basic.WHOLE_SWITCHES + b"b\r\n" + raw)


class Switching(Lines):
    """Receives a line, then `body` raw bytes, and so on. Records the sizes of the raw data."""

    body = 1

    def __init__(self):
        super().__init__()
        self.sizes = []
        self.raw = b""

    def lineReceived(self, line):
        super().lineReceived(line)
        self.raw = b""
        self.setRawMode()

    def rawDataReceived(self, data):
        self.sizes.append(len(data))
        missing = self.body - len(self.raw)
        self.raw += data[:missing]
        if len(self.raw) == self.body:
            self.got.append(self.raw)
            self.setLineMode(data[missing:])


@pytest.mark.parametrize("body", [1, 1000, 5000])
def test_switches_of_mode_in_one_read_copy_no_more_than_some_parts_each(body):
    # given a protocol that switches mode many times in one read
    count = 2_000
    raws = [bytes([65 + n % 26]) * body for n in range(count)]
    data = b"".join(b"%d\r\n%s" % (n, raw) for n, raw in enumerate(raws))
    protocol, _ = started(Switching)
    protocol.body = body

    protocol.dataReceived(data)

    # then nothing is lost, and the raw data handed over is linear in what came in
    assert protocol.got[::2] == [b"%d" % n for n in range(count)]
    assert protocol.got[1::2] == raws
    assert sum(protocol.sizes) < (basic.WHOLE_SWITCHES + 4) * len(data) + 1024 * count


def test_a_long_body_after_many_switches_comes_in_few_parts():
    protocol, _ = started(Switching)
    protocol.on[b"b"] = lambda: setattr(protocol, "body", 1_000_001)
    switched(protocol, b"0" * 1_000_000)

    assert sum(protocol.sizes[basic.WHOLE_SWITCHES :]) == 1_000_000
    assert len(protocol.sizes) < basic.WHOLE_SWITCHES + 12


def test_setLineMode_outside_a_callback_leaves_the_mode_to_the_lines_in_the_extra_bytes():
    protocol, _ = started(Lines)
    protocol.setRawMode()
    protocol.on[b"a"] = protocol.setRawMode

    protocol.setLineMode(b"a\r\nb\r\n")

    assert protocol.got == [b"a", ("raw", b"b\r\n")]
    assert not protocol.line_mode


def test_the_first_switches_get_all_buffered_input():
    protocol, _ = started(Switching)
    data = b"a\r\nx" * 10_000

    protocol.dataReceived(data)

    whole = [len(data) - 4 * n - 3 for n in range(basic.WHOLE_SWITCHES)]
    assert protocol.sizes[: len(whole)] == whole
    assert protocol.sizes[len(whole)] == 1024


def test_other_bytes_handed_back_are_read_before_the_buffered_ones():
    # given a protocol that hands back something else than it was given, as one that decompresses
    class Inflating(Lines):
        def lineReceived(self, line):
            super().lineReceived(line)
            self.setRawMode()

        def rawDataReceived(self, data):
            if data[0] == ord("x"):
                self.setLineMode(data[1:])
            else:
                self.setRawMode = lambda: None
                self.setLineMode(b"c\r\n" + data)
                self.line_mode = 1

    protocol, _ = started(Inflating)
    switched(protocol)

    assert protocol.got[-2:] == [b"b", b"c"]
    assert protocol.clearLineBuffer() == b"0123456789" * 1000


def test_R1_the_rest_of_raw_data_waits_while_paused_behind_what_is_handed_back():
    # given a protocol that pauses in the middle of its raw data
    class Pausing(Lines):
        def lineReceived(self, line):
            super().lineReceived(line)
            self.setRawMode()

        def rawDataReceived(self, data):
            if data[:1] == b"x":
                self.setLineMode(data[1:])
            else:
                self.first = data
                self.pauseProducing()

    protocol, _ = started(Pausing)
    switched(protocol)
    assert len(protocol.first) == 1024

    # when it hands back a part of that later
    protocol.setLineMode(protocol.first[24:])
    assert protocol.got[-1] == b"b"
    protocol.resumeProducing()
    protocol.dataReceived(b"\r\n")

    # then no byte is lost, or out of order
    assert protocol.got[-1] == (b"0123456789" * 1000)[24:]


def test_dataReceived_returns_what_rawDataReceived_returned():
    """As Twisted's test_rawDataError."""
    protocol, _ = started(Lines)
    error = RuntimeError("oops")
    protocol.rawDataReceived = lambda data: error
    assert protocol.dataReceived(b"line\r\n") is None

    protocol.setRawMode()

    assert protocol.dataReceived(b"data") is error
    assert protocol.dataReceived(b"") is None


def test_R1_raw_data_is_buffered_while_paused():
    protocol, transport = started(Lines)
    protocol.on[b"a"] = lambda: (protocol.setRawMode(), transport.pauseProducing())
    protocol.dataReceived(b"a\r\nraw")
    assert protocol.got == [b"a"]

    transport.resumeProducing()
    protocol.dataReceived(b"")

    assert protocol.got == [b"a", ("raw", b"raw")]


def test_rawDataReceived_has_to_be_overridden_where_raw_mode_is_used():
    protocol = basic.LineReceiver()
    protocol.setRawMode()

    with pytest.raises(NotImplementedError, match="rawDataReceived"):
        protocol.dataReceived(b"raw")


# --- Netstrings -----------------------------------------------------------------------------------


def test_sendString_writes_a_netstring():
    protocol, transport = started(Netstrings)

    protocol.sendString(b"hello")
    protocol.sendString(b"")

    assert transport.value() == b"5:hello,0:,"


@pytest.mark.parametrize(
    "wrong",
    [b"x", b":", b"5x", b"-1:", b"01:x,", b"00", b" 1:x,", b"1.0:", b"3:abcd", b"6", b"600:"],
)
def test_input_that_is_no_netstring_closes_the_connection(wrong):
    protocol, transport = started(Netstrings)
    protocol.MAX_LENGTH = 5

    protocol.dataReceived(b"2:ok," + wrong)

    assert protocol.got == [b"ok"]
    assert protocol.brokenPeer == 1
    assert transport.disconnecting


def test_a_broken_peer_stays_broken():
    protocol, _ = started(Netstrings, BareTransport())
    protocol.dataReceived(b"1:xy")
    protocol.transport.disconnecting = False

    protocol.dataReceived(b"2:ok,")

    assert protocol.got == []


def test_a_netstring_of_MAX_LENGTH_passes():
    protocol, transport = started(Netstrings)
    protocol.MAX_LENGTH = 10

    protocol.dataReceived(as_netstring(b"0123456789"))

    assert protocol.got == [b"0123456789"]
    assert (protocol.brokenPeer, transport.disconnecting) == (0, False)


def test_a_netstring_may_hold_netstrings():
    protocol, _ = started(Netstrings)

    protocol.dataReceived(as_netstring(as_netstring(b"inner") * 2))

    assert protocol.got == [b"5:inner,5:inner,"]


# --- Strings behind a number ----------------------------------------------------------------------


@pytest.mark.parametrize(("receiver", "prefix"), [(Int8, "!B"), (Int16, "!H"), (Int32, "!I")])
def test_sendString_writes_the_length_first(receiver, prefix):
    protocol, transport = started(receiver)

    protocol.sendString(b"hello")

    assert transport.value() == struct.pack(prefix, 5) + b"hello"


@pytest.mark.parametrize(("receiver", "longest"), [(Int8, 255), (Int16, 65535)])
def test_sendString_refuses_what_the_prefix_cannot_count(receiver, longest):
    protocol, transport = started(receiver)
    protocol.sendString(b"x" * longest)
    transport.clear()

    with pytest.raises(basic.StringTooLongError, match=f"{longest + 1} bytes"):
        protocol.sendString(b"x" * (longest + 1))

    assert transport.value() == b""


def test_a_string_over_the_limit_closes_before_it_has_come():
    protocol, transport = started(Int32)
    protocol.MAX_LENGTH = 5

    protocol.dataReceived(struct.pack("!I", 5) + b"12345" + struct.pack("!I", 6))

    assert protocol.got == [b"12345", ("too long", 6)]
    assert transport.disconnecting


def test_a_receiver_that_forgives_a_long_string_finds_it_in_recvd():
    class Forgiving(Int8):
        MAX_LENGTH = 5

        def lengthLimitExceeded(self, length):
            self.got.append(self.recvd)
            self.recvd = b""

    protocol, _ = started(Forgiving)
    protocol.dataReceived(b"\x06abc")

    protocol.dataReceived(b"\x01a")

    assert protocol.got == [b"\x06abc", b"a"]


def test_recvd_is_what_has_not_been_delivered():
    protocol, _ = started(Int8)
    seen = []
    protocol.on[b"a"] = lambda: seen.append(protocol.recvd)
    assert protocol.recvd == b""

    protocol.dataReceived(b"\x01a\x02b")

    assert (seen, protocol.recvd) == ([b"\x02b"], b"\x02b")


def test_recvd_may_be_replaced_from_inside_a_callback():
    protocol, _ = started(Int8)
    protocol.on[b"a"] = lambda: setattr(protocol, "recvd", b"\x01z")

    protocol.dataReceived(b"\x01a\x01b")

    assert protocol.got == [b"a", b"z"]


def test_recvd_may_be_set_before_anything_has_come():
    protocol, _ = started(Int8)
    protocol.recvd = b"\x02a"

    protocol.dataReceived(b"b")

    assert protocol.got == [b"ab"]


# --- StatefulStringProtocol -----------------------------------------------------------------------


class Phases(basic.StatefulStringProtocol, basic.Int8StringReceiver):
    def __init__(self):
        self.got = []

    def proto_init(self, string):
        self.got.append(("init", string))
        return "second"

    def proto_second(self, string):
        self.got.append(("second", string))
        return "done" if string == b"bye" else "unknown"


def test_each_string_goes_to_the_method_of_the_state():
    protocol, transport = started(Phases)

    protocol.dataReceived(b"\x01a\x03bye\x01c")

    assert protocol.got == [("init", b"a"), ("second", b"bye")]
    assert protocol.state == "done"
    assert transport.disconnecting


def test_a_state_without_a_method_is_logged(caplog):
    protocol, transport = started(Phases)

    with caplog.at_level(logging.WARNING, "minireactor"):
        protocol.dataReceived(b"\x01a\x01b\x01c")

    assert protocol.got == [("init", b"a"), ("second", b"b")]
    assert "proto_unknown" in caplog.text
    assert not transport.disconnecting


# --- FileSender -----------------------------------------------------------------------------------


class Results(list):
    """Records the results of Deferreds: values, or the exceptions of Failures."""

    def __init__(self, deferred):
        deferred.addCallbacks(self.append, lambda failure: self.append(failure.value))


class BrokenFile:
    """A file that fails after its first `reads` reads."""

    def __init__(self, reads):
        self.reads = reads

    def read(self, size):
        if self.reads == 0:
            raise OSError("the disk is gone")
        self.reads -= 1
        return b"x"


def test_U1_a_file_is_sent_one_chunk_each_time_the_consumer_asks():
    sender, transport = basic.FileSender(), StringTransport()
    sender.CHUNK_SIZE = 4
    sent = []
    results = Results(sender.beginFileTransfer(BytesIO(b"0123456789"), transport))
    assert (transport.producer, transport.streaming) == (sender, False)

    for _ in range(4):
        sender.resumeProducing()
        sent.append(transport.value())

    assert sent == [b"0123", b"01234567", b"0123456789", b"0123456789"]
    assert transport.producer is None
    assert results == [b"9"]
    assert sender.lastSent == b"9"


def test_the_producer_is_unregistered_before_the_deferred_fires():
    sender, transport = basic.FileSender(), StringTransport()
    producers = []
    deferred = sender.beginFileTransfer(BytesIO(b""), transport)
    deferred.addCallback(lambda last: producers.append((transport.producer, last)))

    sender.resumeProducing()

    assert producers == [(None, b"")]


def test_a_finished_sender_may_send_another_file():
    sender, transport = basic.FileSender(), StringTransport()
    for content in (b"one", b"two"):
        results = Results(sender.beginFileTransfer(BytesIO(content), transport))
        sender.resumeProducing()
        sender.resumeProducing()

        assert results == [content[-1:]]
    assert transport.value() == b"onetwo"


def test_what_is_sent_goes_through_transform():
    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(BytesIO(b"abc"), transport, bytes.upper))

    sender.resumeProducing()
    sender.resumeProducing()

    assert (transport.value(), results) == (b"ABC", [b"C"])


def test_U2_a_transform_that_swallows_a_chunk_is_given_the_next_one():
    """twisted #7678"""
    sender, transport = basic.FileSender(), StringTransport()
    sender.CHUNK_SIZE = 1
    results = Results(
        sender.beginFileTransfer(BytesIO(b"a---b--"), transport, lambda chunk: chunk.strip(b"-"))
    )

    sender.resumeProducing()
    assert transport.value() == b"a"
    sender.resumeProducing()
    assert transport.value() == b"ab"
    sender.resumeProducing()

    assert results == [b"b"]


@pytest.mark.parametrize("reads", [0, 1])
def test_an_error_of_the_file_goes_to_the_deferred(reads):
    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(BrokenFile(reads), transport))

    for _ in range(reads + 1):
        sender.resumeProducing()

    assert [str(error) for error in results] == ["the disk is gone"]
    assert transport.producer is None
    assert transport.value() == b"x" * reads


@pytest.mark.parametrize("error", [GeneratorExit, asyncio.CancelledError])
def test_B3_other_base_exceptions_of_the_transform_go_to_the_deferred(error):
    def fail(chunk):
        raise error

    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(BytesIO(b"a"), transport, fail))

    sender.resumeProducing()

    assert [type(each) for each in results] == [error]
    assert transport.producer is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_B3_ctrl_c_in_a_transform_goes_through(error):
    def fail(chunk):
        raise error

    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(BytesIO(b"a"), transport, fail))

    with pytest.raises(error):
        sender.resumeProducing()
    assert results == []


def test_a_loss_reaches_the_deferred_though_the_file_has_no_repr():
    class Rude(BytesIO):
        def __repr__(self):
            raise SyntaxError

    sender = basic.FileSender()
    results = Results(sender.beginFileTransfer(Rude(b"a"), StringTransport()))

    sender.stopProducing()

    assert [type(each) for each in results] == [ConnectionLost]


def test_a_file_that_has_nothing_to_read_yet_is_not_at_its_end():
    class Waiting:
        def read(self, size):
            return None

    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(Waiting(), transport))

    sender.resumeProducing()

    assert [type(each) for each in results] == [BlockingIOError]


def test_an_error_of_the_transform_goes_to_the_deferred():
    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(BytesIO(b"a"), transport, lambda chunk: 1 // 0))

    sender.resumeProducing()

    assert [type(error) for error in results] == [ZeroDivisionError]
    assert transport.producer is None


def test_B1_a_file_of_text_is_an_error_for_the_deferred():
    class Text:
        def read(self, size):
            return "text"

    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(Text(), transport))

    sender.resumeProducing()

    assert [type(error) for error in results] == [TypeError]
    assert transport.producer is None


def test_E3_a_transfer_that_is_stopped_fails():
    sender, transport = basic.FileSender(), StringTransport()
    results = Results(sender.beginFileTransfer(BytesIO(b"abc"), transport))

    sender.stopProducing()
    sender.stopProducing()
    sender.resumeProducing()

    assert [type(error) for error in results] == [ConnectionLost]
    assert "stopped the transfer" in str(results[0])
    assert transport.value() == b""


def test_E2_a_transfer_to_a_lost_connection_fails_at_once():
    transport = StringTransport()
    transport.abortConnection()

    results = Results(basic.FileSender().beginFileTransfer(BytesIO(b"abc"), transport))

    assert [type(error) for error in results] == [ConnectionLost]


def test_E1_a_consumer_that_has_a_producer_refuses_and_the_sender_stays_usable():
    first, second, transport = basic.FileSender(), basic.FileSender(), StringTransport()
    first.beginFileTransfer(BytesIO(b"abc"), transport)
    with pytest.raises(RuntimeError, match="still registered"):
        second.beginFileTransfer(BytesIO(b"xyz"), transport)

    other = StringTransport()
    second.beginFileTransfer(BytesIO(b"xyz"), other)
    second.resumeProducing()
    first.resumeProducing()

    assert (transport.value(), other.value()) == (b"abc", b"xyz")


def test_a_busy_sender_refuses_a_second_file_and_goes_on_with_the_first():
    sender, transport = basic.FileSender(), StringTransport()
    sender.beginFileTransfer(BytesIO(b"abc"), transport)

    with pytest.raises(RuntimeError, match="another FileSender"):
        sender.beginFileTransfer(BytesIO(b"xyz"), StringTransport())
    sender.resumeProducing()

    assert transport.value() == b"abc"


def test_pauseProducing_of_a_pull_producer_changes_nothing():
    sender, transport = basic.FileSender(), StringTransport()
    sender.beginFileTransfer(BytesIO(b"abc"), transport)

    sender.pauseProducing()
    sender.resumeProducing()

    assert transport.value() == b"abc"


def test_a_finished_sender_keeps_neither_file_nor_consumer():
    sender, transport = basic.FileSender(), StringTransport()
    Results(sender.beginFileTransfer(BytesIO(b""), transport))

    sender.resumeProducing()

    assert (sender.file, sender.consumer, sender.deferred) == (None, None, None)


def test_a_failure_that_nobody_takes_is_logged(caplog):
    sender, transport = basic.FileSender(), StringTransport()
    sender.beginFileTransfer(BrokenFile(0), transport)

    sender.resumeProducing()
    gc.collect()

    assert "the disk is gone" in caplog.text
