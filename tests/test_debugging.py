"""The debug mode: each rule that it checks, what it must not report, and that it is off."""

from __future__ import annotations

import functools
import gc
import os
import re
import socket
import subprocess
import sys
import threading

import pytest
from serve_support import ROOT
from support import OneFactory, Recorder, iterations, pump, served

from minireactor import Reactor
from minireactor.basic import LineReceiver
from minireactor.core import flow
from minireactor.debugging import mode as debug_mode
from minireactor.debugging import warnings
from minireactor.debugging.mode import DebugLoop
from minireactor.debugging.warnings import Warnings, place_of
from minireactor.defer import Deferred, fail
from minireactor.log import WARN_SECONDS
from minireactor.proxy import join
from minireactor.transports.tcp import TCPConnection

HERE = re.escape(__file__)


@pytest.fixture
def reactor(monkeypatch):
    """A reactor in the debug mode, which is off again after the test."""
    monkeypatch.setattr(Deferred, "debug", False)
    own = Reactor(debug=True)
    yield own
    own.close()


@pytest.fixture
def warned(caplog):
    """Return the warnings of the debug mode so far, as `(rule, text)`."""

    def warnings():
        lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        return [tuple(line.split(": ", 2)[1:]) for line in lines if line.startswith("debug: ")]

    return warnings


class Push:
    def pauseProducing(self):
        pass

    def resumeProducing(self):
        pass

    def stopProducing(self):
        pass


@pytest.fixture
def transport(reactor, closing):
    """A connection in debug mode, with marks of 100 and 25 bytes, that has just been made."""
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.setWriteBufferLimits(100, 25)
    return protocol.transport


# P1, U1: the producer.


def test_P1_a_push_producer_without_pauseProducing(transport, warned):
    class Half:
        resumeProducing = stopProducing = Push.stopProducing

        def __repr__(self):
            return "Half()"

    transport.registerProducer(Half(), True)
    ((rule, text),) = warned()
    assert rule == "P1"
    assert re.fullmatch(
        rf"the push producer Half\(\) has no pauseProducing, at {HERE}:\d+ in test_P1.*", text
    )


def test_U1_a_pull_producer_without_stopProducing(transport, warned):
    class Half:
        resumeProducing = Push.resumeProducing

    transport.registerProducer(Half(), False)
    ((rule, text),) = warned()
    assert rule == "U1"
    assert " has no stopProducing, " in text


# P2: writing while paused.


def test_P2_the_third_write_while_paused(transport, warned):
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 101)
    transport.write(b"x")
    transport.write(b"x")
    assert warned() == []
    transport.write(b"x")
    ((rule, text),) = warned()
    assert rule == "P2"
    assert text.startswith("write() for the third time while paused, on <Recorder with 127.0.0.1")
    assert re.search(rf", at {HERE}:\d+ in test_P2_the_third_write_while_paused$", text)


def test_P2_two_writes_in_each_pause_are_no_fault(reactor, transport, warned):
    transport.registerProducer(Push(), True)
    for _ in range(5):
        transport.write(b"x" * 101)
        transport.write(b"x")
        transport.write(b"x")
        pump(reactor, lambda: transport.flow_state == "flowing")
    assert warned() == []


def test_P2_is_checked_through_TLS(reactor, transport, warned):
    transport.startTLS(server_hostname="name")
    transport.registerProducer(Push(), True)
    for _ in range(4):
        transport.write(b"x" * 101)
    assert [rule for rule, _ in warned()] == ["P2"]


# P3: resuming what a consumer has paused.


def test_P3_the_program_resumes_a_connection_that_is_its_own_paused_consumer(transport, warned):
    transport.registerProducer(transport, True)
    transport.write(b"x" * 101)
    transport.resumeProducing()
    ((rule, text),) = warned()
    assert rule == "P3"
    assert text.startswith("resumeProducing() of <Recorder with 127.0.0.1")


def test_P3_the_program_resumes_a_leg_of_a_proxy(reactor, transport, closing, warned):
    protocol, client = served(reactor)
    closing(client)
    far = protocol.transport
    far.setWriteBufferLimits(100, 25)
    join(transport, far)
    far.write(b"x" * 101)
    transport.resumeProducing()
    assert [rule for rule, _ in warned()] == ["P3"]


def test_P3_the_consumer_itself_resumes(reactor, transport, warned):
    transport.registerProducer(transport, True)
    transport.write(b"x" * 101)
    pump(reactor, lambda: transport.reading)
    assert warned() == []


# M2: no producer.


def test_M2_pending_grows_and_there_is_no_producer(transport, warned):
    for _ in range(5):
        transport.write(b"x" * 800)
    ((rule, text),) = warned()
    assert rule == "M2"
    assert text.startswith("4,000 bytes pending and no producer to pause, on ")


def test_M2_one_large_message_is_no_fault(transport, warned):
    transport.write(b"x" * 1_000_000)
    assert warned() == []


def test_M2_large_messages_that_are_sent_in_between_are_no_fault(reactor, transport, warned):
    for _ in range(5):
        transport.write(b"x" * 2000)
        pump(reactor, lambda: not transport.pending)
        transport.write(b"x")
    assert warned() == []


# B2, E8: after the end, and twice.


def test_B2_the_third_write_after_the_end(reactor, transport, warned):
    transport.abortConnection()
    iterations(reactor)
    transport.write(b"x")
    transport.write(b"x")
    assert warned() == []
    transport.write(b"x")
    ((rule, text),) = warned()
    assert rule == "B2"
    assert text.startswith("write() for the third time after the end, on ")


def test_E8_one_protocol_for_two_connections(reactor, closing, warned):
    class Twice(Recorder):
        def __init__(self):
            super().__init__()
            self.count = 0

        def connectionMade(self):
            self.count += 1

    protocol = Twice()
    port = reactor.listenTCP(0, OneFactory(protocol, protocol), interface="127.0.0.1")
    for _ in range(2):
        closing(socket.create_connection(("127.0.0.1", port.getHost().port)))
    pump(reactor, lambda: protocol.count == 2)
    ((rule, text),) = warned()
    assert rule == "E8"
    assert text.endswith("; let buildProtocol() make one for each connection")


def test_E8_a_protocol_may_have_a_second_connection_after_the_first(reactor, warned):
    protocol = Recorder()
    for _ in range(2):
        _, client = served(reactor, protocol)
        client.close()
        pump(reactor, lambda: not protocol.transport.connected)
    assert warned() == []


# B4: threads.


def call_in_thread(f, *arguments):
    """Call `f` in a thread named "other", and wait for its end."""
    thread = threading.Thread(target=f, args=arguments, name="other")
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("write", (b"x",)),
        ("registerProducer", (Push(), True)),
        ("unregisterProducer", ()),
        ("pauseProducing", ()),
        ("resumeProducing", ()),
        ("loseWriteConnection", ()),
        ("loseConnection", ()),
        ("abortConnection", ()),
    ],
)
def test_B4_a_transport_used_from_another_thread(reactor, transport, warned, name, arguments):
    reactor.callLater(0, call_in_thread, getattr(transport, name), *arguments)
    pump(reactor, warned)
    rule, text = warned()[0]
    assert rule == "B4"
    assert text.startswith(f"{name}() from the thread other; use callFromThread() for it, at ")


def test_B4_a_timer_or_a_port_made_by_another_thread(reactor, warned):
    def misuse():
        reactor.callLater(60, print)
        reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")

    reactor.callLater(0, call_in_thread, misuse)
    pump(reactor, lambda: len(warned()) == 2)
    assert [rule for rule, _ in warned()] == ["B4", "B4"]
    assert warned()[0][1].startswith("callLater() from the thread other")
    assert re.search(rf", at {HERE}:\d+ in misuse$", warned()[0][1])


def test_B4_callFromThread_and_the_time_before_the_loop_runs_are_no_fault(reactor, warned):
    call_in_thread(reactor.callLater, 60, print)
    done = []
    reactor.callLater(0, call_in_thread, reactor.callFromThread, done.append, 1)
    pump(reactor, lambda: done)
    assert warned() == []


# T5: slow callbacks, named by where they are.


def line_of(function):
    return f"{function.__qualname__} ({__file__}:{function.__code__.co_firstlineno})"


@pytest.fixture
def slow(monkeypatch, reactor):
    """Make `sleep()`, which takes a second of the clock that the debug mode reads."""
    now = [0.0]
    monkeypatch.setattr(debug_mode.time, "monotonic", lambda: now[0])

    def sleep():
        now[0] += 1.0

    return sleep


def test_T5_a_slow_timer(reactor, slow, warned):
    def work():
        slow()

    reactor.callLater(0, work)
    reactor.iterate()
    reactor.iterate()
    text = f"a callback took 1.00 s, and all others waited: {line_of(work)}"
    assert warned() == [("T5", text)]


def test_T5_a_slow_dataReceived_is_named_and_not_what_called_it(reactor, closing, slow, warned):
    class Slow(Recorder):
        def dataReceived(self, data):
            slow()

    _, client = served(reactor, Slow())
    closing(client).sendall(b"x")
    iterate_until(reactor, warned)
    text = f"a callback took 1.00 s, and all others waited: {line_of(Slow.dataReceived)}"
    assert warned() == [("T5", text)]


def test_T5_a_slow_lineReceived_is_named(reactor, closing, slow, warned):
    class Slow(LineReceiver):
        def lineReceived(self, line):
            slow()

    _, client = served(reactor, Slow())
    closing(client).sendall(b"x\r\n")
    iterate_until(reactor, warned)
    assert warned()[0][1].endswith(f": {line_of(Slow.lineReceived)}")


def test_T5_a_slow_connectionMade_is_named(reactor, closing, slow, warned):
    class Slow(Recorder):
        def connectionMade(self):
            slow()

    _, client = served(reactor, Slow())
    closing(client)
    assert warned()[0][1].endswith(f": {line_of(Slow.connectionMade)}")


def test_T5_a_slow_producer_is_named(transport, slow, warned):
    class Slow(Push):
        def pauseProducing(self):
            slow()

    transport.registerProducer(Slow(), True)
    transport.write(b"x" * 101)
    assert warned()[0][1].endswith(f": {line_of(Slow.pauseProducing)}")


def test_T5_a_producer_whose_attribute_raises_ends_as_usual(transport, slow, warned):
    class Slow(Push):
        @property
        def pauseProducing(self):
            slow()
            raise ValueError("no attribute")

    transport.reactor.guard(transport, flow.call, Slow(), "pauseProducing")
    assert transport.state == "ending"
    assert [rule for rule, _ in warned()] == ["T5"]


def test_T5_a_slow_buildProtocol_is_named(reactor, closing, slow, warned):
    class Slow(OneFactory):
        def buildProtocol(self, addr):
            slow()
            return super().buildProtocol(addr)

    port = reactor.listenTCP(0, Slow(), interface="127.0.0.1")
    closing(socket.create_connection(("127.0.0.1", port.getHost().port)))
    iterate_until(reactor, warned)
    assert warned()[0][1].endswith(f": {line_of(Slow.buildProtocol)}")


def test_T5_a_slow_reader_of_the_application_is_named(reactor, closing, slow, warned):
    here, there = map(closing, socket.socketpair())

    class Slow:
        fileno = here.fileno

        def doRead(self):
            slow()
            here.recv(1)

    reactor.addReader(Slow())
    there.send(b"x")
    iterate_until(reactor, warned)
    assert warned()[0][1].endswith(f": {line_of(Slow.doRead)}")


def iterate_until(reactor, condition):
    """Run iterations, without the clock, until `condition()` is true."""
    for _ in range(1000):
        if condition():
            return
        reactor.iterate(0.005)
    raise AssertionError("in vain")


def test_T5_the_limit_comes_from_the_environment(monkeypatch, slow, warned):
    monkeypatch.setenv("MINIREACTOR_SLOW", "1.5")
    own = Reactor(debug=True)
    own.callLater(0, slow)
    iterations(own)
    own.close()
    assert warned() == []


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_limit_that_is_no_number_is_named_and_not_used(monkeypatch, warned, text):
    monkeypatch.setenv("MINIREACTOR_SLOW", text)
    own = Reactor(debug=True)
    assert own.slow == debug_mode.SLOW_SECONDS
    why = f"{text!r} is not valid: give seconds, more than 0; 0.1 is used"
    assert warned() == [("MINIREACTOR_SLOW", why)]


# Descriptors that other code has closed.


def test_a_socket_closed_behind_the_reactors_back(reactor, transport, warned):
    text = f"{transport.fd}, of {transport!r}, was closed by other code than the reactor"
    transport.getHandle().close()
    iterations(reactor)
    assert warned() == [("descriptor", text)]


def test_a_number_that_another_file_has_taken_over(reactor, transport, warned):
    with open(os.devnull) as null:
        os.dup2(null.fileno(), transport.fd)
    iterations(reactor)
    assert [rule for rule, _ in warned()] == ["descriptor"]


def test_an_orderly_close_is_no_fault(reactor, transport, warned):
    transport.loseConnection()
    pump(reactor, lambda: not transport.connected)
    iterations(reactor)
    assert warned() == []


def test_each_descriptor_of_many_has_its_turn(reactor, transport, closing, monkeypatch, warned):
    monkeypatch.setattr(debug_mode, "CHECKED_DESCRIPTORS", 2)
    for _ in range(9):
        _, client = served(reactor)
        closing(client)
    transport.getHandle().close()
    iterations(reactor, 12)
    assert [rule for rule, _ in warned()] == ["descriptor"]


# Failures that nobody handles.


def test_an_unhandled_failure_says_where_its_deferred_was_made(reactor, caplog):
    fail(ValueError("nobody"))
    gc.collect()
    (record,) = caplog.records
    assert f"which was made by {__file__}:" in record.getMessage()


# The warnings themselves.


def test_a_kind_is_counted_for_a_while_and_other_places_are_not(warned):
    now = [0.0]
    log = Warnings(lambda: now[0])
    for _ in range(4):
        log.warn("P2", "here", "text")
    log.warn("P2", "there", "text")
    log.warn("B4", "here", "text")
    assert warned() == [("P2", "text"), ("P2", "text"), ("B4", "text")]
    now[0] = WARN_SECONDS
    log.warn("P2", "here", "text")
    assert warned()[-1] == ("P2", "text (3 more since the last warning)")


def test_the_table_of_kinds_is_bounded(monkeypatch):
    monkeypatch.setattr(warnings, "MAX_KINDS", 5)
    log = Warnings()
    for number in range(100):
        log.warn("P2", str(number), "text")
    assert len(log._kinds) <= 5


def test_a_warning_is_one_line(warned):
    Warnings().warn("P2", "here", "two\nlines")
    assert warned() == [("P2", "two lines")]


def test_a_place_is_found_through_partial_and_call():
    class Callable:
        def __call__(self):
            pass

    assert place_of(functools.partial(line_of)) == line_of(line_of)
    line = Callable.__call__.__code__.co_firstlineno
    assert place_of(Callable()).endswith(f"({__file__}:{line})")
    # In PyPy, print() is written in Python, and has a place of its own.
    place = place_of(print)
    assert (place.partition(" ")[0] if sys.implementation.name == "pypy" else place) == "print"


# On and off.


def test_the_environment_switches_it_on(monkeypatch):
    monkeypatch.setattr(Deferred, "debug", False)
    for value, is_on in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("MINIREACTOR_DEBUG", value)
        assert isinstance(Reactor(), DebugLoop) is is_on
    monkeypatch.setenv("MINIREACTOR_DEBUG", "1")
    assert type(Reactor(debug=False)) is Reactor


def test_off_no_object_is_another_and_no_module_is_loaded():
    code = (
        "import sys\n"
        "from minireactor import Reactor\n"
        "from minireactor.protocol import Factory, Protocol\n"
        "reactor = Reactor()\n"
        "reactor.listenTCP(0, Factory.forProtocol(Protocol), interface='127.0.0.1')\n"
        "reactor.iterate(0)\n"
        "print(type(reactor) is Reactor, [n for n in sys.modules if 'debugging' in n])"
    )
    environment = {**os.environ, "MINIREACTOR_DEBUG": "", "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "True []\n", done.stderr


def test_on_names_and_kinds_stay_the_same(reactor, transport):
    assert type(reactor).__name__ == "Reactor"
    assert isinstance(reactor, Reactor)
    assert isinstance(transport, TCPConnection)
    assert type(transport).__name__ == "TCPConnection"


def test_installing_twice_is_installing_once(reactor):
    before = type(reactor)
    debug_mode.install(reactor)
    assert type(reactor) is before
