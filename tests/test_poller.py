"""Pollers: each kind that the system has behaves in the same way."""

from __future__ import annotations

import os
import select
import selectors
import socket

import pytest
from support import Recorder, Watched, iterations, open_descriptors, pollers, pump, reset, served

from minireactor import Reactor
from minireactor.core import poller
from minireactor.core.poller import HANGUP, READ, WRITE, SelectorPoller, default_poller
from minireactor.core.waker import AfterFork
from minireactor.error import ConnectionLost


@pytest.fixture(params=[make for _, make in pollers()], ids=[name for name, _ in pollers()])
def make(request, monkeypatch):
    """A function that makes a poller, of each kind in turn. It looks for hang-ups at once."""
    monkeypatch.setattr(poller, "LOOK_SECONDS", 0.0)
    return request.param


@pytest.fixture
def polling(make, closing):
    return closing(make())


@pytest.fixture
def pair(closing):
    left, right = socket.socketpair()
    closing(right)
    return closing(left), right


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        return left, server.accept()[0]


# --- Watching and forgetting


def test_what_is_not_ready_is_not_reported(polling, pair):
    left, _ = pair
    polling.watch(left.fileno(), READ, None)
    assert list(polling.poll(0)) == []


def test_reading_and_writing_are_reported_together(polling, pair):
    left, right = pair
    right.sendall(b"x")
    polling.watch(left.fileno(), READ | WRITE, None)
    assert list(polling.poll(0)) == [(left.fileno(), READ | WRITE)]


def test_readiness_is_reported_for_as_long_as_it_lasts(polling, pair):
    left, right = pair
    right.sendall(b"x")
    polling.watch(left.fileno(), READ, None)
    assert list(polling.poll(0)) == list(polling.poll(0)) == [(left.fileno(), READ)]
    left.recv(1)
    assert list(polling.poll(0)) == []


def test_what_is_watched_can_change(polling, pair):
    left, right = pair
    fd = left.fileno()
    right.sendall(b"x")
    polling.watch(fd, READ, None)
    polling.watch(fd, WRITE, READ)
    assert list(polling.poll(0)) == [(fd, WRITE)]
    polling.watch(fd, 0, WRITE)
    assert list(polling.poll(0)) == []
    polling.watch(fd, READ, 0)
    assert list(polling.poll(0)) == [(fd, READ)]


@pytest.mark.parametrize("events", [READ, 0], ids=["reading", "silent"])
def test_what_is_forgotten_is_not_reported_and_can_be_watched_again(polling, pair, events):
    left, right = pair
    fd = left.fileno()
    right.sendall(b"x")
    polling.watch(fd, events, None)
    polling.forget(fd, events)
    assert list(polling.poll(0)) == []
    polling.watch(fd, READ, None)
    assert list(polling.poll(0)) == [(fd, READ)]


@pytest.mark.parametrize("events", [READ, 0], ids=["reading", "silent"])
def test_forgetting_what_is_closed_already_is_nothing(polling, pair, events):
    left, right = pair
    fd = left.fileno()
    polling.watch(fd, events, None)
    left.close()
    polling.forget(fd, events)
    right.close()
    assert list(polling.poll(0)) == []


def test_forgetting_what_could_not_be_watched_is_nothing(polling, pair):
    left, _ = pair
    fd = left.fileno()
    polling.watch(fd, READ, None)
    left.close()
    try:
        polling.watch(fd, READ | WRITE, READ)
    except OSError:
        pass  # most pollers notice
    polling.forget(fd, READ)
    assert list(polling.poll(0)) == []


def test_closing_gives_the_descriptors_back(make):
    before = open_descriptors()
    make().close()
    assert open_descriptors() == before


def test_one_closed_descriptor_does_not_silence_the_others(polling, pair, closing):
    left, right = pair
    other, its_peer = map(closing, socket.socketpair())
    polling.watch(left.fileno(), READ, None)
    polling.watch(other.fileno(), READ, None)
    closed = left.fileno()
    left.close()
    for fd, _ in polling.poll(0):  # some report it, so that its handler finds out; others drop it
        assert fd == closed
        polling.forget(fd, READ)
    its_peer.sendall(b"x")
    assert list(polling.poll(0)) == [(other.fileno(), READ)]


def test_an_error_of_the_selector_itself_is_not_hidden(pair):
    class Broken(selectors.SelectSelector):
        def select(self, timeout=None):
            raise OSError("out of order")

    polling = SelectorPoller(Broken())
    polling.watch(pair[0].fileno(), READ, None)
    with pytest.raises(OSError, match="out of order"):
        polling.poll(0)


# --- Hang-ups of those who neither read nor write


def test_R2_a_reset_of_a_silent_descriptor_is_a_hangup(polling, closing):
    left, right = tcp_pair()
    closing(left)
    polling.watch(left.fileno(), 0, None)
    assert list(polling.poll(0)) == []
    reset(right)
    ((fd, events),) = polling.poll(0)
    assert fd == left.fileno()
    assert events & HANGUP


def test_R2_a_descriptor_that_falls_silent_is_still_looked_at(polling, closing):
    left, right = tcp_pair()
    closing(left)
    polling.watch(left.fileno(), READ, None)
    polling.watch(left.fileno(), 0, READ)
    reset(right)
    ((fd, events),) = polling.poll(0)
    assert fd == left.fileno()
    assert events & HANGUP


def test_R2_input_of_a_silent_descriptor_is_not_reported(polling, closing):
    left, right = map(closing, tcp_pair())
    polling.watch(left.fileno(), 0, None)
    right.sendall(b"x")
    right.shutdown(socket.SHUT_WR)
    assert list(polling.poll(0)) == []


def test_R2_silent_descriptors_bound_the_wait_of_a_poller_that_has_to_look(monkeypatch, pair):
    class Recording(selectors.SelectSelector):
        def select(self, timeout=None):
            asked.append(timeout)
            return []

    asked = []
    polling = SelectorPoller(Recording())
    polling.poll(3600)
    polling.watch(pair[0].fileno(), 0, None)
    polling.poll(3600)
    polling.poll(0.5)
    assert asked == [3600, poller.LOOK_SECONDS, 0.5]


def test_R2_looking_is_done_now_and_then_only(closing):
    left, right = tcp_pair()
    closing(left)
    polling = closing(SelectorPoller(selectors.SelectSelector()))
    polling.watch(left.fileno(), 0, None)
    polling.poll(0)
    reset(right)
    assert list(polling.poll(0)) == []  # it has looked a moment ago


# --- The same through a reactor


@pytest.fixture
def watched(make, closing):
    """Return (reactor, watched poller)."""
    polling = Watched(make())
    return closing(Reactor(polling)), polling


def test_R2_a_paused_drained_connection_notices_a_reset(watched):
    reactor, _ = watched
    protocol, client = served(reactor)
    protocol.transport.pauseProducing()
    client.sendall(b"unread")
    iterations(reactor, 5)  # which is when the loop ceases to ask for it
    reset(client)
    pump(reactor, lambda: protocol.reason is not None, "the reset")
    assert protocol.calls == ["made", "lost"]
    assert protocol.reason.check(ConnectionLost)


def test_R2_nothing_spins_while_paused_nor_after_the_reset(watched):
    reactor, polling = watched
    protocol, client = served(reactor)
    protocol.transport.pauseProducing()
    client.sendall(b"unread")
    iterations(reactor, 5)
    del polling.returned[:]
    iterations(reactor, 100)
    while_paused = len(polling.returned)
    reset(client)
    pump(reactor, lambda: protocol.reason is not None, "the reset")
    iterations(reactor, 100)
    assert while_paused == 0
    assert len(polling.returned) == 1


def test_R2_a_paused_connection_whose_two_halves_have_ended_does_not_spin(watched):
    reactor, polling = watched

    class Half(Recorder):
        def readConnectionLost(self):
            self.calls.append("read lost")

        def writeConnectionLost(self):
            self.calls.append("write lost")

    protocol, client = served(reactor, Half())
    protocol.transport.loseWriteConnection()
    pump(reactor, lambda: "write lost" in protocol.calls)
    protocol.transport.pauseProducing()
    client.close()
    iterations(reactor, 5)
    del polling.returned[:]
    iterations(reactor, 100)
    assert polling.returned == []
    protocol.transport.resumeProducing()
    pump(reactor, lambda: protocol.reason is not None, "the end")
    assert protocol.calls == ["made", "write lost", "read lost", "lost"]


def test_an_echo_works_with_every_poller(watched, closing):
    reactor, _ = watched

    class Echo(Recorder):
        def dataReceived(self, data):
            super().dataReceived(data)
            self.transport.write(data)

    protocol, client = served(reactor, Echo())
    closing(client)
    client.sendall(b"there and back")
    pump(reactor, lambda: protocol.received == b"there and back")
    iterations(reactor, 2)
    assert client.recv(100) == b"there and back"


def test_a_connection_whose_handle_was_closed_leaves_the_others_alone(watched, closing):
    reactor, _ = watched
    broken, its_client = served(reactor)
    protocol, client = served(reactor)
    closing(its_client)
    closing(client)
    broken.transport.getHandle().close()
    client.sendall(b"still here")
    pump(reactor, lambda: protocol.received == b"still here")
    reactor.close()
    assert broken.calls == ["made", "lost"]


# --- The default, and after a fork


def test_the_default_is_the_best_there_is(closing):
    polling = closing(default_poller())
    expected = "EpollPoller" if hasattr(select, "epoll") else "SelectorPoller"
    assert type(polling).__name__ == expected


def test_whatever_a_child_asks_of_its_parents_poller_is_a_clear_error():
    stand_in = AfterFork(os.getpid())
    with pytest.raises(RuntimeError, match=rf"process {os.getpid()}\b.*Reactor\(\)"):
        stand_in.poll(0)
