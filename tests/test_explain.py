"""Why a connection does not move: each sentence of explain(), and the report in slices."""

from __future__ import annotations

import argparse
import os
import signal

import pytest
from scripted import PEER
from serve_support import Command
from support import HalfCloseable, Recorder, iterations, pump, served

from minireactor.cli import running
from minireactor.cli.printer import Printer
from minireactor.core.slices import SLICE_SECONDS
from minireactor.debugging import report as reports
from minireactor.debugging.explain import IDLE, MAX_LINES, Explanation, why
from minireactor.debugging.report import report
from minireactor.proxy import join
from minireactor.proxy.factory import Proxy, ProxyFactory

KIB = 1024


class Push:
    def pauseProducing(self):
        pass

    def resumeProducing(self):
        pass

    def stopProducing(self):
        pass


class Pull(Push):
    """A pull producer that writes `data` once, or nothing."""

    def __init__(self, transport, data=b""):
        self.transport, self.data = transport, data

    def resumeProducing(self):
        data, self.data = self.data, b""
        self.transport.write(data)


@pytest.fixture
def made(wire):
    """Make a connection with a protocol, whose kernel queues have these lengths."""

    def make(protocol=None, room=0, sendq=0, recvq=0):
        transport, sock = wire.connect(protocol or Recorder(), room)
        transport.setWriteBufferLimits(100, 25)
        sock.send_queue = lambda: sendq
        sock.receive_queue = lambda: recvq
        return transport, sock

    return make


@pytest.fixture
def sentence(wire):
    """Run some iterations, and return the sentence of a connection; None if it moves."""

    def of(transport):
        wire.run()
        return wire.reactor.explain().get(transport)

    return of


# The kernel's queue is full.


def test_P2_the_peer_does_not_read_and_the_producer_is_paused(made, sentence, clock):
    transport, _ = made(sendq=128 * KIB)
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 101)
    assert "0.0 s: that peer reads slowly" in sentence(transport)
    clock.advance(42)
    assert sentence(transport) == (
        "its kernel queue (128 KiB) has been full for 42 s: that peer does not read; "
        "101 bytes pending have paused its producer, Push (P2)"
    )


def test_the_time_counts_from_the_last_byte_that_the_kernel_took(made, sentence, clock):
    transport, sock = made(sendq=128 * KIB)
    transport.write(b"x" * 101)
    sentence(transport)
    clock.advance(42)
    sock.room = 1
    assert "full for 0.0 s" in sentence(transport)


def test_a_length_that_the_system_does_not_know_is_left_out(made, sentence, clock):
    transport, _ = made(sendq=None)
    transport.write(b"x")
    assert sentence(transport).startswith("its kernel queue has been full for 0.0 s")


def test_U1_a_pull_producer_waits(made, sentence):
    transport, _ = made()
    transport.registerProducer(Pull(transport, b"x"), False)
    assert sentence(transport).endswith(
        "; its pull producer, Pull, waits until 1 byte can be sent (U1)"
    )


def test_P1_a_producer_may_write_on_below_the_high_mark(made, sentence):
    transport, _ = made()
    transport.registerProducer(Push(), True)
    transport.write(b"x" * 50)
    assert sentence(transport).endswith(
        "; with 50 bytes pending, its producer, Push, may write on (P1)"
    )


def test_M2_nothing_slows_down_the_writes_without_a_producer(made, sentence):
    transport, _ = made()
    transport.write(b"x" * 3 * KIB * KIB)
    assert sentence(transport).endswith(
        "; with 3.0 MiB pending, above the high mark, it has no producer to pause (M2)"
    )


def test_without_a_producer_below_the_high_mark_only_pending_is_named(made, sentence):
    transport, _ = made()
    transport.write(b"x" * 100)
    assert sentence(transport).endswith("that peer reads slowly; 100 bytes pending")


# It is being closed.


def test_E5_a_close_waits_for_pending_bytes(made, sentence, clock):
    transport, _ = made(sendq=9)
    transport.write(b"x" * 50)
    transport.loseConnection()
    sentence(transport)
    clock.advance(5)
    assert sentence(transport) == (
        "the close waits for 50 bytes (E5): its kernel queue (9 bytes) has been full for 5.0 s: "
        "that peer does not read"
    )


def test_E5_a_close_waits_for_the_producer(made, sentence):
    transport, _ = made()
    transport.registerProducer(Push(), True)
    transport.loseConnection()
    assert sentence(transport) == "the close waits until its producer, Push, unregisters (E5)"


def test_E5_the_end_of_the_write_side_waits_for_the_producer(made, sentence):
    transport, _ = made(HalfCloseable())
    transport.registerProducer(transport, True)
    transport.loseWriteConnection()
    assert sentence(transport) == (
        "the end of its write side waits until its producer, the connection itself, "
        "unregisters (E5)"
    )


def test_E7_our_side_has_ended_and_the_peers_has_not(made, sentence):
    transport, _ = made(HalfCloseable(), sendq=1)  # Linux counts the end as one byte
    transport.loseWriteConnection()
    assert sentence(transport) == (
        "its write side has ended, and its peer has not ended the other direction (E7)"
    )


def test_E7_the_peers_side_has_ended_and_ours_has_not(made, sentence):
    transport, sock = made(HalfCloseable())
    sock.inbox = [b""]
    assert sentence(transport) == (
        "its peer has ended its direction, and the program has not ended the other (E7)"
    )
    transport.registerProducer(Push(), True)
    assert sentence(transport) == (
        "its peer has ended its direction, and its producer, Push, has not finished (E7)"
    )


# It does not read.


def test_R1_paused_by_its_consumer_whose_peer_does_not_read(made, sentence, clock):
    near, _ = made()
    far, _ = made(sendq=128 * KIB)
    far.registerProducer(near, True)
    far.write(b"x" * 101)
    sentence(far)
    clock.advance(42)
    assert not near.reading
    assert sentence(near) == (
        "paused by its consumer 192.0.2.1:4321 (R1), whose kernel queue (128 KiB) has been full "
        "for 42 s: that peer does not read"
    )
    assert sentence(far).endswith(
        "; 101 bytes pending have paused its producer, the connection with 192.0.2.1:4321 (P2)"
    )


def test_R1_a_leg_of_a_proxy_names_its_consumer(made, sentence):
    near, sock = made()
    far, _ = made()
    join(near, far)
    sock.inbox = [b"x" * 101]
    assert sentence(near).startswith("paused by its consumer 192.0.2.1:4321 (R1), whose kernel")


def test_R1_a_leg_of_a_proxy_is_paused_by_its_rate(made, sentence):
    near, sock = made()
    far, _ = made(room=1000)
    join(near, far, rate=10)
    sock.inbox = [b"x" * 50]
    assert sentence(near) == ("paused by the RateLimiter before its consumer 192.0.2.1:4321 (R1)")


def test_R1_paused_by_the_program(made, sentence):
    transport, _ = made(recvq=2 * KIB)
    transport.pauseProducing()
    assert sentence(transport) == (
        "Recorder has paused its reading (R1) and has not called resumeProducing(); "
        "2 KiB wait to be read"
    )


def test_R1_a_connection_that_is_its_own_consumer_is_paused_by_the_program(made, sentence):
    transport, _ = made()
    transport.registerProducer(transport, True)
    transport.pauseProducing()
    assert sentence(transport) == (
        "Recorder has paused its reading (R1) and has not called resumeProducing()"
    )


def test_R1_without_all_connections_the_sentence_accuses_nobody(made, wire):
    transport, _ = made()
    transport.pauseProducing()
    assert why(transport, 0.0) == "its reading is paused (R1)"


def test_R1_a_client_of_a_proxy_waits_for_its_target(made, sentence):
    protocol = Proxy(ProxyFactory("10.0.0.7", 80))
    protocol.place = ("10.0.0.7", 80)
    transport, _ = made()
    transport.protocol = protocol
    transport.pauseProducing()
    assert sentence(transport) == (
        "Proxy has paused its reading (R1) until the target 10.0.0.7:80 is connected"
    )


# Nothing holds it back.


def test_T6_the_kernel_holds_the_last_bytes(made, sentence):
    transport, _ = made(sendq=40 * KIB)
    assert sentence(transport) == (
        "the kernel has taken all, and its peer has not taken the last 40 KiB yet (T6)"
    )


def test_U2_a_pull_producer_that_has_written_nothing(made, sentence):
    transport, _ = made()
    transport.registerProducer(Pull(transport), False)
    assert sentence(transport) == (
        "its pull producer, Pull, was asked and has written nothing; it is not asked again before "
        "it writes (U2)"
    )


def test_P1_a_producer_that_may_write_and_does_not(made, sentence):
    transport, _ = made()
    transport.registerProducer(Push(), True)
    assert sentence(transport) == "its producer, Push, may write and writes nothing (P1)"


def test_a_connection_without_input_waits_for_its_peer(made, sentence):
    transport, _ = made()
    assert sentence(transport) == IDLE


def test_TLS4_a_peer_that_sends_nothing_delays_the_handshake(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.startTLS(server_hostname="name")
    iterations(reactor)
    sentence = "waits for its peer in the handshake of TLS (TLS4)"
    assert reactor.explain() == {transport: sentence}
    transport.write(b"x" * 50)
    iterations(reactor)
    assert reactor.explain() == {
        transport: f"{sentence}; 50 bytes pending can be sent after it (TLS2)"
    }


# It moves.


def test_a_connection_whose_next_iteration_moves_bytes_has_no_sentence(made, wire):
    arriving, _ = made(recvq=5)
    writing, _ = made(room=1000)
    writing.write(b"x")
    ending, _ = made()
    ending.abortConnection()
    closing, _ = made()
    closing.loseConnection()
    assert wire.reactor.explain() == {}


def test_a_paused_producer_whose_turn_comes_next_has_no_sentence(made, wire, clock):
    transport, sock = made()
    transport.registerProducer(transport, True)
    transport.write(b"x" * 101)
    wire.reactor.iterate()
    assert transport in wire.reactor.explain()
    sock.room = 1000
    wire.reactor.iterate()
    assert not transport.reading
    assert wire.reactor.explain() == {}


# As text.


def test_the_text_has_a_line_for_each_connection_and_counts_idle_ones(made, wire):
    stuck, _ = made()
    stuck.pauseProducing()
    made()
    made()
    wire.run()
    assert str(wire.reactor.explain()).split("\n") == [
        "192.0.2.1:4321: Recorder has paused its reading (R1) and has not called resumeProducing()",
        "connections that wait for input: 2",
    ]


def test_the_text_of_nothing(wire):
    assert str(wire.reactor.explain()) == "every connection moves"


def test_a_long_text_is_cut():
    class Place:
        def getPeer(self):
            return PEER

    text = str(Explanation({Place(): "stands" for _ in range(MAX_LINES + 7)}))
    assert text.count("\n") == MAX_LINES
    assert text.endswith("\nand 7 more")


def test_a_real_peer_that_does_not_read_is_named(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    transport = protocol.transport
    transport.registerProducer(Push(), True)

    def fill():
        while transport.flow_state == "flowing":
            transport.write(b"x" * 10_000)
        return transport.blocked_since is not None

    pump(reactor, fill)
    sentence = reactor.explain()[transport]
    assert sentence.startswith("its kernel queue (")
    assert sentence.endswith("have paused its producer, Push (P2)")


# The report.


def test_the_report_leaves_out_what_moves_in_between(made, wire, clock):
    stuck, _ = made()
    stuck.write(b"x" * 50)
    moving, sock = made()
    moving.write(b"x" * 50)
    wire.run()
    lines = []
    report(wire.reactor, lines.append)
    sock.room = 10
    wire.run()
    assert lines == []
    clock.advance(reports.SECONDS)
    wire.run()
    assert lines == [
        "connections that have not moved for 1 s: 1 of 2",
        "  192.0.2.1:4321: its kernel queue (0 bytes) has been full for 1.0 s: that peer does not "
        "read; 50 bytes pending",
    ]


def test_the_report_of_no_connection_is_one_line(wire, clock):
    lines = []
    report(wire.reactor, lines.append)
    clock.advance(reports.SECONDS)
    wire.run()
    assert lines == ["connections that have not moved for 1 s: 0 of 0"]


def test_the_report_visits_many_connections_in_slices(made, wire, clock, monkeypatch):
    for _ in range(200):
        made()
    wire.run()
    visits = []

    def slow(connection, *ignored):
        visits.append(wire.poller.polls)
        clock.advance(SLICE_SECONDS / 20)
        return IDLE

    monkeypatch.setattr(reports, "why", slow)
    lines = []
    report(wire.reactor, lines.append)
    clock.advance(reports.SECONDS)
    wire.run(20)
    assert len(visits) == 200
    assert len(set(visits)) == 4  # 50 visits between two polls
    assert lines[-1] == "  connections that wait for input: 200"


def test_a_connection_that_ends_during_the_report_is_left_out(made, wire, clock):
    transport, _ = made()
    lines = []
    report(wire.reactor, lines.append)
    transport.abortConnection()
    clock.advance(reports.SECONDS)
    wire.run()
    assert lines == ["connections that have not moved for 1 s: 0 of 1"]


def test_a_second_report_waits_for_the_first(made, wire, clock):
    lines = []
    report(wire.reactor, lines.append)
    report(wire.reactor, lines.append)
    clock.advance(reports.SECONDS)
    wire.run()
    assert len(lines) == 1
    report(wire.reactor, lines.append)
    clock.advance(reports.SECONDS)
    wire.run()
    assert len(lines) == 2


def test_a_report_needs_our_own_engine(wire, capsys):
    running._report(wire.reactor, argparse.Namespace(engine="tiny"), Printer(quiet=True))
    assert capsys.readouterr().err == "minireactor: no report: leave out --engine tiny\n"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_SIGUSR1_reports_who_does_not_read_behind_a_proxy(tmp_path, closing):
    server = closing(Command("serve", "chargen", "--port", "0", cwd=tmp_path))
    server.listening()
    proxy = closing(Command("proxy", "0", str(server.port), cwd=tmp_path))
    line = proxy.line()
    proxy.port = int(line.partition(",")[0].rpartition(":")[2])
    closing(proxy.connect())
    stuck = "minireactor: connections that have not moved for 1 s: 2 of 2"
    while True:
        os.kill(proxy.pid, signal.SIGUSR1)
        if proxy.error_line() == stuck:
            break
    client, target = proxy.error_line(), proxy.error_line()
    assert "its kernel queue (" in client
    assert f"have paused its producer, the connection with 127.0.0.1:{server.port} (P2)" in client
    assert f"127.0.0.1:{server.port}: paused by its consumer 127.0.0.1:" in target
    os.kill(server.pid, signal.SIGUSR1)
    assert server.error_line() == "minireactor: connections that have not moved for 1 s: 1 of 1"
    proxy.terminate()
    server.terminate()
