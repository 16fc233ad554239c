"""Splice: bytes go from socket to pipe to socket, and no pipe is lost."""

from __future__ import annotations

import errno
import gc
import os
import socket
import weakref
from types import SimpleNamespace

import pytest
from proxy_support import Line, exchange, send_until_it_sticks
from support import Recorder, iterations, open_descriptors, output, pump, receive

from minireactor import Reactor
from minireactor.core.buffer import Source
from minireactor.failure import Failure
from minireactor.proxy import legs

if not legs.CAN_SPLICE:
    pytest.skip("this Python has no os.splice", allow_module_level=True)

from minireactor.transports import splice

MEGABYTE = 1024 * 1024
PLENTY = bytes(range(256)) * 4096 * 16  # 16 MiB


@pytest.fixture(autouse=True)
def no_spare_pipes():
    splice.close_spare_pipes()
    yield
    splice.close_spare_pipes()


@pytest.fixture
def pair(closing):
    """Return both ends of a connection, non-blocking."""
    ends = socket.socketpair()
    for end in ends:
        closing(end).setblocking(False)
    return ends


@pytest.fixture
def spliced(monkeypatch):
    """A list of how many bytes each splice took from its socket."""
    taken = []

    def noting(sock):
        source = original(sock)
        taken.append(source.left if source else 0)
        return source

    original = legs.splice_from
    monkeypatch.setattr(legs, "splice_from", noting)
    return taken


def pipes():
    return [fd for fd in open_descriptors() if "pipe:" in os.readlink(f"/proc/self/fd/{fd}")]


def test_what_was_taken_is_what_is_sent(pair):
    near, far = pair
    far.send(b"some bytes")
    source = splice.splice_from(near)
    assert len(source) == 10
    assert source.send_to(near, 4) == 4
    source.left -= 4
    assert source.send_to(near, MEGABYTE) == 6
    source.close()
    assert far.recv(100) == b"some bytes"


def test_nothing_there_and_the_end_of_the_stream_are_none_and_keep_one_spare_pipe(pair):
    near, far = pair
    before = len(pipes())
    assert splice.splice_from(near) is None
    far.close()
    assert splice.splice_from(near) is None
    assert len(pipes()) == before + 2


def test_an_error_is_raised_for_no_read_will_find_it_again(reactor, closing):
    server = closing(socket.create_server(("127.0.0.1", 0)))
    client = closing(socket.create_connection(server.getsockname()))
    accepted = closing(server.accept()[0])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    before = len(pipes())
    with pytest.raises(ConnectionResetError):
        splice.splice_from(accepted)
    assert len(pipes()) == before + 2


def test_a_pipe_that_was_emptied_serves_again_and_one_that_was_not_is_closed(pair):
    near, far = pair
    before = len(pipes())
    for _ in range(3):
        far.send(b"x")
        source = splice.splice_from(near)
        source.left -= source.send_to(near, 1)
        source.close()
        assert len(pipes()) == before + 2
    far.send(b"x")
    splice.splice_from(near).close()
    assert len(pipes()) == before


def test_there_are_never_more_than_a_few_spare_pipes(pair):
    near, far = pair
    before = len(pipes())
    sources = []
    for _ in range(2 * splice.MAX_SPARE):
        far.send(b"x")
        sources.append(splice.splice_from(near))
    for source in sources:
        source.left = 0
        source.close()
    assert len(pipes()) == before + 2 * splice.MAX_SPARE


def test_much_is_spliced_and_little_is_not(reactor, closing, spliced):
    through = Line(reactor, closing, "splice")
    data = os.urandom(1000)
    assert exchange(reactor, through.client, through.target, data) == data
    assert spliced == []
    assert exchange(reactor, through.client, through.target, PLENTY) == PLENTY
    assert sum(spliced) > len(PLENTY) / 2
    assert through.proxy.client.bytes_in == 1000 + len(PLENTY)


def test_one_small_splice_among_large_ones_ends_nothing_but_two_do(reactor, closing, spliced):
    through = Line(reactor, closing, "splice")

    def moved(size):
        """Exchange `size` bytes, and return the size of each splice."""
        del spliced[:]
        exchange(reactor, through.client, through.target, os.urandom(size))
        return spliced.copy()

    while not moved(190_000):
        pass
    assert moved(1000) == [1000]
    assert sum(moved(50_000)) == 50_000
    assert (moved(1000), moved(1000), moved(1000)) == ([1000], [1000], [])


class Lump(Source):
    """Bytes in a pipe, which can be sent at any time."""

    def __init__(self, left):
        self.left = left

    def send_to(self, sock, most):
        return min(self.left, most)

    def close(self):
        pass


def test_each_time_after_bulk_it_takes_two_small_splices_to_end_splicing(wire, monkeypatch):
    monkeypatch.setattr(legs, "splice_from", lambda sock: Lump(sizes.pop()))
    near, sock = wire.connect(Recorder(), room=1 << 30)
    far, _ = wire.connect(Recorder(), room=1 << 30)
    legs.join(near, far)
    for small in (2, 2):
        sizes = [legs.SMALL - 1] * 5
        near.protocol.dataReceived(bytes(legs.BULK))
        sock.inbox = [b"read"]
        wire.run(10)
        assert len(sizes) == 5 - small
        assert sock.inbox == []


def test_an_idle_connection_that_was_busy_holds_no_pipe(reactor, closing, spliced):
    through = Line(reactor, closing, "splice")
    before = len(pipes())
    exchange(reactor, through.client, through.target, PLENTY)
    assert spliced
    splice.close_spare_pipes()
    assert len(pipes()) == before


def test_an_end_with_bytes_in_a_pipe_closes_the_pipe(reactor, closing, spliced):
    through = Line(reactor, closing, "splice", buffers=64 * 1024)
    before = len(pipes())
    send_until_it_sticks(reactor, through.client, PLENTY)
    assert len(pipes()) > before
    through.proxy.target.abortConnection()
    pump(reactor, lambda: through.proxy.client.disconnected)
    splice.close_spare_pipes()
    assert len(pipes()) == before


def test_without_a_descriptor_for_a_pipe_bytes_are_copied(reactor, closing, monkeypatch):
    def none_left():
        raise OSError(errno.EMFILE, "Too many open files")

    through = Line(reactor, closing, "splice")
    monkeypatch.setattr(os, "pipe", none_left)
    assert exchange(reactor, through.client, through.target, PLENTY) == PLENTY


def test_pipes_take_a_quarter_of_the_descriptors_at_most(pair, monkeypatch):
    near, far = pair
    monkeypatch.setattr(splice.resource, "getrlimit", lambda which: (64, 4096))
    sources = []
    for _ in range(20):
        far.send(b"x")
        sources.append(splice.splice_from(near))
        if sources[-1] is None:
            near.recv(1)
    assert [source is not None for source in sources] == [True] * 8 + [False] * 12
    sources[0].close()  # which closes its pipe
    far.send(b"x")
    sources.append(splice.splice_from(near))
    assert sources[-1] is not None
    for source in filter(None, sources[1:]):
        source.close()


def test_without_a_limit_of_descriptors_there_is_none_of_pipes(pair, monkeypatch):
    near, far = pair
    infinite = splice.resource.RLIM_INFINITY
    monkeypatch.setattr(splice.resource, "getrlimit", lambda which: (infinite, infinite))
    far.send(b"x")
    splice.splice_from(near).close()


@pytest.mark.slow
def test_stalled_conversations_above_the_ceiling_are_copied(reactor, closing, monkeypatch):
    monkeypatch.setattr(splice.resource, "getrlimit", lambda which: (16, 16))
    lines = [Line(reactor, closing, "splice", buffers=64 * 1024) for _ in range(4)]
    before = len(pipes())
    sent = [send_until_it_sticks(reactor, each.client, PLENTY) for each in lines]
    assert len(pipes()) - before <= 4
    for each, count in zip(lines, sent):
        assert exchange(reactor, each.client, each.target, PLENTY, count) == PLENTY


class Turns:
    """Legs that move bulk data on one reactor. Each turn takes `seconds`."""

    def __init__(self, seconds=0.0):
        self.now = 0.0
        self.later = []
        self.took = []
        self.turns = legs.Turns()
        self._each = seconds

    def seconds(self):
        return self.now

    def call_soon(self, call, *arguments):
        self.later.append((call, arguments))

    def guard(self, handler, call):
        call()

    def leg(self):
        leg = legs.SplicingLeg(SimpleNamespace(reading=True, reactor=self), None, None)

        def read():
            assert leg.has_turn
            self.now += self._each
            self.took.append(leg)

        leg.transport.doRead = read
        return leg

    def iterate(self):
        """Make each requested call once, as an iteration of the loop does."""
        later, self.later = self.later, []
        for call, arguments in later:
            call(*arguments)


def test_T5_legs_that_move_bulk_go_one_after_the_other_and_later():
    bulk = Turns()
    first, second = bulk.leg(), bulk.leg()
    assert [bulk.turns.has(leg) for leg in (first, second, first)] == [False] * 3
    assert bulk.took == []
    bulk.iterate()
    assert bulk.took == [first, second]
    bulk.iterate()
    assert bulk.took == [first, second]


def test_T5_turns_of_one_iteration_are_bounded_in_time():
    bulk = Turns(seconds=legs.TURN_SECONDS * 2.5)
    several = [bulk.leg() for _ in range(10)]
    for leg in several:
        bulk.turns.has(leg)
    for count in (4, 7, 9, 10):
        bulk.iterate()
        assert bulk.took == several[:count]
    assert bulk.later == []


def test_one_leg_alone_has_its_turn_at_once():
    bulk = Turns()
    leg, other = bulk.leg(), bulk.leg()
    assert not bulk.turns.has(leg)
    bulk.iterate()
    assert bulk.turns.has(leg)
    assert not bulk.turns.has(other)
    assert not bulk.turns.has(leg)


def test_a_leg_that_was_paused_meanwhile_has_its_turn_once_it_reads_again():
    bulk = Turns()
    leg = bulk.leg()
    bulk.turns.has(leg)
    leg.transport.reading = False
    bulk.iterate()
    assert bulk.took == []
    leg.transport.reading = True
    bulk.turns.has(bulk.leg())
    bulk.turns.has(leg)
    bulk.iterate()
    assert bulk.took[-1] is leg


def test_turns_keep_no_reactor(closing):
    own = Reactor()
    gone = weakref.ref(own)
    through = Line(own, closing, "splice")
    exchange(own, through.client, through.target, PLENTY)
    assert own in legs._turns
    own.close()
    del own, through
    gc.collect()
    assert gone() is None


def test_without_the_right_to_a_large_pipe_a_small_one_does(reactor, closing, monkeypatch, spliced):
    def refused(*arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    through = Line(reactor, closing, "splice")
    monkeypatch.setattr(splice.fcntl, "fcntl", refused)
    assert exchange(reactor, through.client, through.target, PLENTY) == PLENTY
    assert 0 < max(spliced) < MEGABYTE


def test_what_was_read_before_comes_before_what_is_spliced(reactor, closing, spliced):
    through = Line(reactor, closing, "splice", buffers=64 * 1024, high=1, low=0)
    data = os.urandom(4 * MEGABYTE)
    assert exchange(reactor, through.client, through.target, data) == data
    iterations(reactor)
    through.target.sendall(b"answer")
    assert receive(reactor, through.client, 6) == b"answer"


def test_a_child_of_a_fork_shares_no_pipe():
    code = """
    import os
    from minireactor.transports import splice
    splice._spare.append(splice._new_pipe())
    child = os.fork()
    if not child:
        os._exit(len(splice._spare))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(splice._spare))
    """
    assert output(code).split() == ["0", "1"]


def test_nothing_is_spliced_to_a_connection_that_is_ending(reactor, closing, spliced):
    through = Line(reactor, closing, "splice", buffers=64 * 1024)
    send_until_it_sticks(reactor, through.client, PLENTY)
    near, far = through.proxy.client, through.proxy.target
    far.failed(Failure(RuntimeError("a callback of its has failed")))
    before = far.bytes_out
    near.resumeProducing()
    near.doRead()
    assert spliced[-1] > 0
    assert far.bytes_out == before


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_where_it_does_not_work_bytes_are_copied(reactor, closing, monkeypatch, code):
    tried = []

    def refused(*arguments, **options):
        tried.append(arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(splice, "_works", True)
    monkeypatch.setattr(os, "splice", refused)
    before = len(pipes())
    through = Line(reactor, closing, "splice")
    assert exchange(reactor, through.client, through.target, PLENTY) == PLENTY
    assert len(tried) == 1
    splice.close_spare_pipes()
    assert len(pipes()) == before


def test_a_stalled_sink_holds_a_few_pipes_at_the_most_whatever_its_marks(reactor, closing, spliced):
    through = Line(reactor, closing, "splice", buffers=64 * 1024, high=64 * MEGABYTE)
    before = len(pipes())
    send_until_it_sticks(reactor, through.client, PLENTY)
    splice.close_spare_pipes()
    assert before + 2 <= len(pipes()) <= before + 6
    assert through.proxy.target.pending > MEGABYTE
