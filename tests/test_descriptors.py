"""Descriptors of programs: addReader(), addWriter() and the like, with every poller."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import tempfile
import weakref

import pytest
from support import Recorder, connect, iterations, pollers, pump, served

from minireactor import Reactor
from minireactor.error import ConnectionDone, ConnectionFdescWentAway, ConnectionLost
from minireactor.failure import Failure
from minireactor.protocol import Factory


@pytest.fixture(params=[make for _, make in pollers()], ids=[name for name, _ in pollers()])
def reactor(request, closing):
    return closing(Reactor(request.param()))


class Watched:
    """One end of a socket pair, as a program watches it. Records its calls."""

    def __init__(self):
        self.socket, self.peer = socket.socketpair()
        self.calls = []
        self.reason = None
        self.asked = 0  # how often for its fileno
        self.answer = None  # what doRead and doWrite give back
        self.error = None  # what they raise

    def fileno(self):
        self.asked += 1
        return self.socket.fileno()

    def doRead(self):
        self.calls.append("read")
        return self._act()

    def doWrite(self):
        self.calls.append("write")
        return self._act()

    def _act(self):
        if self.error is not None:
            raise self.error
        return self.answer

    def connectionLost(self, reason):
        self.calls.append("lost")
        self.reason = reason

    def close(self):
        self.socket.close()
        self.peer.close()


@pytest.fixture
def watched(closing):
    return closing(Watched())


@pytest.fixture
def readable(watched):
    watched.peer.sendall(b"x")
    return watched


# --- Adding


def test_a_reader_is_called_whenever_it_is_readable(reactor, watched):
    reactor.addReader(watched)
    iterations(reactor, 2)
    assert watched.calls == []
    watched.peer.sendall(b"x")
    iterations(reactor, 2)
    assert watched.calls == ["read", "read"]


def test_a_writer_is_called_whenever_it_is_writable(reactor, watched):
    reactor.addWriter(watched)
    iterations(reactor, 2)
    assert watched.calls == ["write", "write"]


def test_reading_and_writing_are_independent(reactor, readable):
    reactor.addReader(readable)
    reactor.addWriter(readable)
    iterations(reactor, 1)
    reactor.removeReader(readable)
    iterations(reactor, 1)
    reactor.addReader(readable)
    reactor.removeWriter(readable)
    iterations(reactor, 1)
    assert readable.calls == ["read", "write", "write", "read"]


def test_adding_is_idempotent(reactor, readable):
    reactor.addReader(readable)
    reactor.addReader(readable)
    reactor.addWriter(readable)
    reactor.addWriter(readable)
    assert reactor.getReaders() == reactor.getWriters() == [readable]
    iterations(reactor, 1)
    assert readable.calls == ["read", "write"]


def test_one_removal_undoes_any_number_of_additions(reactor, readable):
    reactor.addReader(readable)
    reactor.addReader(readable)
    reactor.removeReader(readable)
    iterations(reactor)
    assert readable.calls == []


def test_getReaders_and_getWriters_list_connections_and_ports_but_no_internal_handlers(
    reactor, watched, closing
):
    port = reactor.listenTCP(0, Factory.forProtocol(Recorder), interface="127.0.0.1")
    protocol, client = served(reactor)
    closing(client)
    reactor.addWriter(watched)
    assert reactor.getReaders() == [port, protocol.transport]
    assert reactor.getWriters() == [watched]


def test_a_new_reactor_shows_nothing(reactor):
    reactor.iterate()
    assert reactor.getReaders() == reactor.getWriters() == []


def test_objects_that_compare_equal_are_still_two(reactor, closing):
    class Equal(Watched):
        def __eq__(self, other):
            return True

        __hash__ = None

    one, other = closing(Equal()), closing(Equal())
    reactor.addReader(one)
    reactor.addReader(other)
    reactor.removeReader(one)
    other.peer.sendall(b"x")
    iterations(reactor, 1)
    assert (one.calls, other.calls) == ([], ["read"])


def test_a_shared_descriptor_is_an_error_that_names_both_objects(reactor, watched):
    class Intruder:
        def fileno(self):
            return watched.socket.fileno()

        def __repr__(self):
            return "the intruder"

    reactor.addReader(watched)
    with pytest.raises(ValueError, match="the intruder and .*Watched.* share descriptor"):
        reactor.addReader(Intruder())
    watched.peer.sendall(b"x")
    iterations(reactor, 1)
    assert watched.calls == ["read"]


class OwnError(BaseException):
    """An exception class of a program that is not an Exception."""


@pytest.mark.parametrize("error", [ZeroDivisionError, GeneratorExit, OwnError])
def test_objects_whose_repr_and_fileno_raise_do_not_hide_a_shared_descriptor(
    reactor, watched, error
):
    class Rude:
        def fileno(self):
            return number

        def __repr__(self):
            raise error

    def fail():
        raise error

    number = watched.socket.fileno()
    reactor.addReader(watched)
    with pytest.raises(ValueError, match="Rude.* share descriptor"):
        reactor.addReader(Rude())

    # An object whose fileno() raises counts as one without a descriptor.
    watched.fileno = fail
    rude = Rude()
    rude.doRead = lambda: None
    rude.connectionLost = lambda reason: None
    reactor.addReader(rude)
    assert rude in reactor.getReaders()
    del watched.fileno


def test_a_descriptor_of_a_connection_cannot_be_shared_either(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    with pytest.raises(ValueError, match="share descriptor"):
        reactor.addReader(protocol.transport.getHandle())
    client.sendall(b"undisturbed")
    pump(reactor, lambda: protocol.received == b"undisturbed")


def test_a_descriptor_that_only_lingers_cannot_be_shared_either(reactor, closing):
    class Stale:
        def fileno(self):
            return number

    protocol, client = served(reactor)
    closing(client)
    number = protocol.transport.fileno()
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    with pytest.raises(ValueError, match="share descriptor"):
        reactor.addReader(Stale())


def test_what_the_system_cannot_watch_is_an_error_and_not_kept(reactor):
    with tempfile.TemporaryFile() as file:
        file.doRead = file.connectionLost = None
        try:
            reactor.addReader(file)
        except OSError:  # epoll watches no regular files
            assert reactor.getReaders() == []
        else:
            assert reactor.getReaders() == [file]
            reactor.removeReader(file)


# --- Removing


def test_removing_what_was_not_added_is_nothing(reactor, watched):
    reactor.removeReader(watched)
    reactor.removeWriter(watched)
    assert watched.asked == 0
    assert reactor.getReaders() == reactor.getWriters() == []


def test_a_removed_object_is_not_asked_for_its_fileno_again(reactor, watched):
    reactor.addReader(watched)
    reactor.addWriter(watched)
    before = watched.asked
    reactor.removeReader(watched)
    reactor.removeWriter(watched)
    reactor.removeReader(watched)
    iterations(reactor)
    assert watched.asked == before


def test_an_object_that_removes_itself_when_called_is_not_asked_again(reactor, readable):
    asked = []

    def removes_itself():
        reactor.removeReader(readable)
        asked.append(readable.asked)

    readable.doRead = removes_itself
    reactor.addReader(readable)
    iterations(reactor)
    assert asked == [readable.asked]


def test_an_object_removed_by_another_in_the_same_iteration_is_not_called(reactor, closing):
    one, other = closing(Watched()), closing(Watched())
    for removes, removed in ((one, other), (other, one)):
        removes.peer.sendall(b"x")
        removes.doRead = lambda at=removes, gone=removed: (
            at.calls.append("read"),
            reactor.removeReader(gone),
        )[2:]
        reactor.addReader(removes)
    iterations(reactor, 1)
    assert sorted([one.calls, other.calls]) == [[], ["read"]]


def test_removing_after_closing_is_harmless(reactor, watched):
    reactor.addReader(watched)
    reactor.addWriter(watched)
    watched.socket.close()
    reactor.removeReader(watched)
    reactor.removeWriter(watched)
    iterations(reactor)
    assert watched.calls == []


def test_a_removed_object_can_be_added_again(reactor, readable):
    reactor.addReader(readable)
    reactor.removeReader(readable)
    reactor.addReader(readable)
    iterations(reactor, 1)
    assert readable.calls == ["read"]


def test_removeAll_gives_back_what_it_removed(reactor, closing):
    reader, writer, both = (closing(Watched()) for _ in range(3))
    reactor.addReader(reader)
    reactor.addWriter(writer)
    reactor.addReader(both)
    reactor.addWriter(both)
    removed = reactor.removeAll()
    iterations(reactor)
    assert sorted(map(id, removed)) == sorted(map(id, [reader, writer, both]))
    assert reactor.getReaders() == reactor.getWriters() == []
    assert [reader.calls, writer.calls, both.calls] == [[], [], []]


def test_removeAll_leaves_the_loop_awake_to_other_threads(reactor):
    called = []
    reactor.iterate()
    reactor.removeAll()
    reactor.callFromThread(called.append, 1)
    reactor.callLater(60, called.append, 2)
    pump(reactor, lambda: called)
    assert called == [1]


def test_a_connection_can_be_removed_and_added(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    reactor.removeReader(protocol.transport)
    client.sendall(b"later")
    iterations(reactor)
    assert protocol.received == b""
    reactor.addReader(protocol.transport)
    pump(reactor, lambda: protocol.received == b"later")


def test_adding_a_connection_that_has_ended_is_nothing(reactor, closing):
    protocol, client = served(reactor)
    client.close()
    transport = protocol.transport
    pump(reactor, lambda: protocol.reason is not None)
    reactor.addReader(transport)
    reactor.addWriter(transport)
    iterations(reactor)
    assert reactor.getReaders() == reactor.getWriters() == []
    assert protocol.calls == ["made", "lost"]


# --- Endings


@pytest.mark.parametrize("wrap", [lambda error: error, Failure], ids=["exception", "Failure"])
@pytest.mark.parametrize("add", ["addReader", "addWriter"])
def test_what_a_call_returns_disconnects(reactor, readable, wrap, add):
    error = ConnectionLost("enough")
    readable.answer = wrap(error)
    getattr(reactor, add)(readable)
    iterations(reactor)
    assert readable.calls == [{"addReader": "read", "addWriter": "write"}[add], "lost"]
    assert readable.reason.value is error
    assert reactor.getReaders() == reactor.getWriters() == []


def test_what_a_call_raises_is_logged_and_disconnects(reactor, readable, closing, caplog):
    other = closing(Watched())
    other.peer.sendall(b"x")
    readable.error = ZeroDivisionError("in doRead")
    reactor.addReader(readable)
    reactor.addReader(other)
    iterations(reactor)
    assert readable.calls == ["read", "lost"]
    assert readable.reason.value is readable.error
    assert len(other.calls) > 1
    assert set(other.calls) == {"read"}
    assert [record.exc_info[1] for record in caplog.records] == [readable.error]


def test_a_disconnected_object_is_not_written_to_in_the_same_iteration(reactor, readable):
    readable.answer = ConnectionDone()
    reactor.addReader(readable)
    reactor.addWriter(readable)
    iterations(reactor)
    assert readable.calls == ["read", "lost"]


def test_a_half_closeable_object_is_notified_of_the_end_of_reading_and_may_go_on_writing(
    reactor, readable
):
    halves = []
    readable.readConnectionLost = halves.append
    readable.doRead = ConnectionDone
    reactor.addReader(readable)
    reactor.addWriter(readable)
    iterations(reactor, 3)
    assert [half.type for half in halves] == [ConnectionDone]
    assert readable.calls == ["write", "write", "write"]
    assert reactor.getReaders() == []


def test_a_half_closeable_object_that_fails_otherwise_ends_as_a_whole(reactor, readable):
    readable.readConnectionLost = readable.calls.append
    readable.answer = ConnectionLost()
    reactor.addReader(readable)
    iterations(reactor)
    assert readable.calls == ["read", "lost"]


def test_a_fileno_of_minus_1_disconnects_in_a_later_iteration(reactor, watched):
    watched.socket.close()
    reactor.addReader(watched)
    reactor.addWriter(watched)
    assert watched.calls == []
    iterations(reactor)
    assert watched.calls == ["lost"]
    assert watched.reason.check(ConnectionFdescWentAway)
    assert reactor.getReaders() == reactor.getWriters() == []


def test_an_object_without_descriptor_that_is_removed_in_time_is_not_notified(reactor, watched):
    watched.socket.close()
    reactor.addReader(watched)
    reactor.removeReader(watched)
    iterations(reactor)
    assert watched.calls == []


def test_an_object_that_closes_its_descriptor_when_called_is_disconnected(reactor, readable):
    readable.doRead = readable.socket.close
    reactor.addReader(readable)
    iterations(reactor)
    assert readable.calls == ["lost"]
    assert readable.reason.check(ConnectionFdescWentAway)


def test_an_object_that_removes_itself_and_closes_is_not_disconnected(reactor, readable):
    def leave():
        reactor.removeReader(readable)
        readable.socket.close()

    readable.doRead = leave
    reactor.addReader(readable)
    iterations(reactor)
    assert readable.calls == []


def test_an_object_whose_connectionLost_raises_gets_it_once_all_the_same(reactor, readable, caplog):
    def lost(reason):
        readable.calls.append("lost")
        raise ZeroDivisionError("in connectionLost")

    readable.connectionLost = lost
    reactor.addReader(readable)
    reactor.disconnect_all()
    iterations(reactor)
    assert readable.calls == ["lost"]
    assert len(caplog.records) == 1


def test_an_object_can_be_added_again_by_its_own_connectionLost(reactor, readable):
    def lost(reason):
        readable.calls.append("lost")
        readable.answer = None
        reactor.addReader(readable)

    readable.connectionLost = lost
    readable.answer = ConnectionLost()
    reactor.addReader(readable)
    iterations(reactor, 2)
    assert readable.calls == ["read", "lost", "read"]


def test_an_ended_object_is_kept_by_nobody(reactor):
    watched = Watched()
    alive = weakref.ref(watched)
    watched.peer.sendall(b"x")
    watched.answer = ConnectionDone()
    reactor.addReader(watched)
    iterations(reactor)
    watched.close()
    del watched
    gc.collect()
    assert alive() is None


# --- Descriptors that are closed behind the reactor's back, and whose numbers come again


def taking_the_number_of(sock, closing):
    """Close `sock`, and return a pair of sockets whose first reuses its descriptor."""
    left, right = socket.socketpair()
    number = sock.fileno()
    sock.close()
    os.dup2(left.fileno(), number)
    left.close()
    return closing(socket.socket(fileno=number)), closing(right)


def test_a_reused_descriptor_can_be_added_and_its_last_object_is_notified(
    reactor, watched, closing
):
    new = Watched()
    closing(new.peer)
    new.socket.close()
    reactor.addReader(watched)
    new.socket, new.peer = taking_the_number_of(watched.socket, closing)
    reactor.addReader(new)
    assert reactor.getReaders() == [new]
    new.peer.sendall(b"x")
    iterations(reactor, 2)
    assert watched.calls == ["lost"]
    assert watched.reason.check(ConnectionFdescWentAway)
    assert new.calls == ["read", "read"]


def test_the_last_object_of_a_reused_descriptor_may_be_removed_before_it_is_notified(
    reactor, watched, closing
):
    new = Watched()
    closing(new.peer)
    new.socket.close()
    reactor.addReader(watched)
    new.socket, new.peer = taking_the_number_of(watched.socket, closing)
    reactor.addReader(new)
    reactor.removeReader(watched)
    new.peer.sendall(b"x")
    iterations(reactor, 2)
    assert watched.calls == []
    assert new.calls == ["read", "read"]


def test_an_object_whose_fileno_raises_counts_as_gone(reactor, watched, closing):
    def no_number():
        raise ValueError("I/O operation on closed file")

    new = Watched()
    closing(new.peer)
    new.socket.close()
    reactor.addReader(watched)
    new.socket, new.peer = taking_the_number_of(watched.socket, closing)
    watched.fileno = no_number
    reactor.addReader(new)
    iterations(reactor)
    assert watched.calls == ["lost"]


def test_a_connection_that_gets_the_descriptor_is_served_and_its_last_object_is_notified(
    reactor, watched, closing
):
    protocol = Recorder()
    factory = Factory.forProtocol(lambda: protocol)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = closing(connect(port))
    number = watched.socket.fileno()
    reactor.addReader(watched)
    with lower_numbers_taken(number):
        watched.socket.close()
        pump(reactor, lambda: protocol.transport is not None)
    assert protocol.transport.fileno() == number
    iterations(reactor)
    assert watched.calls == ["lost"]
    reactor.removeReader(watched)
    client.sendall(b"input")
    pump(reactor, lambda: protocol.received == b"input")


@contextlib.contextmanager
def lower_numbers_taken(number):
    """In this block, `number` is the lowest free descriptor once it has been closed."""
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < number:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)


def test_half_a_removal_after_closing_disconnects(reactor, watched):
    reactor.addReader(watched)
    reactor.addWriter(watched)
    watched.socket.close()
    reactor.removeWriter(watched)
    iterations(reactor)
    assert watched.calls == ["lost"]
    assert watched.reason.check(ConnectionFdescWentAway)


def together(reactor):
    """Let each poll report all that is ready; return the list of what each reports."""
    reactor.iterate(0)  # opens the poller
    poll = reactor._poller.poll
    polls = []

    def poll_for_all(timeout, *most):
        polls.append(poll(timeout, *(1023 for _ in most)))
        return polls[-1]

    reactor._poller.poll = poll_for_all
    return polls


def test_the_next_object_of_a_descriptor_gets_no_stale_event(reactor, closing):
    """joyent/libuv #968."""
    first, second = closing(Watched()), closing(Watched())
    replacements = []

    def replace(other):
        # Whichever is called first closes the other, and a new socket gets its number.
        new = Watched()
        new.socket.close()
        closing(new.peer)
        reactor.removeReader(other)
        new.socket, new.peer = taking_the_number_of(other.socket, closing)
        reactor.addReader(new)
        replacements.append(new)

    first.doRead = lambda: replace(second) if not replacements else None
    second.doRead = lambda: replace(first) if not replacements else None
    polls = together(reactor)
    for watched in (first, second):
        watched.peer.sendall(b"x")
        reactor.addReader(watched)
    both = {first.fileno(), second.fileno()}
    pump(reactor, lambda: replacements)
    assert any(both <= {fd for fd, _ in ready} for ready in polls)
    iterations(reactor)
    (new,) = replacements
    assert new.calls == []
    new.peer.sendall(b"x")
    pump(reactor, lambda: new.calls)
    assert new.calls == ["read"]
