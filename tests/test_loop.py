"""The loop: the order and the limits of one iteration, and what an error ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import select
import socket
import time

import pytest
from scripted import ScriptedPoller
from support import (
    OneFactory,
    Recorder,
    Watched,
    connect,
    is_open,
    iterations,
    open_descriptors,
    output,
    pump,
    receive,
    served,
)

from minireactor import Reactor
from minireactor.core.backlog import LATE_SECONDS, SERVED_EVERY
from minireactor.core.handler import Handler
from minireactor.core.loop import DISPATCH_SECONDS, MAX_POLL_SECONDS, TURN_SECONDS, Loop
from minireactor.core.poller import HANGUP, READ, WRITE
from minireactor.error import ReactorNotRestartable
from minireactor.testing import Clock


class Script:
    """A poller that reports what the test says: each poll takes one entry of `iterations`."""

    def __init__(self):
        self.iterations = []
        self.timeouts = []
        self.masks = {}
        self.closed = False

    def watch(self, fd, events, before):
        assert self.masks.get(fd) == before, "the loop has lost count"
        self.masks[fd] = events

    def forget(self, fd, before):
        assert self.masks.pop(fd) == before

    def poll(self, timeout, most):
        self.timeouts.append(timeout)
        return self.iterations.pop(0) if self.iterations else []

    def close(self):
        self.closed = True


class Listed(Handler):
    """A handler without a descriptor. Records its calls; hooks run inside them."""

    def __init__(self, fd, on_read=None, on_write=None, on_lost=None):
        super().__init__(fd)
        self.calls = []
        self._acts = {"read": on_read, "write": on_write, "lost": on_lost}

    def _act(self, name):
        self.calls.append(name)
        if self._acts[name] is not None:
            self._acts[name]()

    def doRead(self):
        self._act("read")

    def doWrite(self):
        self._act("write")

    def hungUp(self):
        self.calls.append("hung up")

    def connectionLost(self, reason):
        self.reason = reason
        self._act("lost")


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def loop(script, clock, closing):
    return closing(Loop(script, seconds=clock.seconds))


def add(loop, handler, reading=True, writing=False):
    handler.reading, handler.writing = reading, writing
    loop.attach(handler)
    loop.update_interest(handler)
    return handler


# --- One iteration


def test_T1_an_iteration_calls_flushes_takes_turns_polls_dispatches_and_only_then_runs_timers(
    loop, script
):
    order = []
    script.poll = lambda timeout, most: [order.append("wait")] and [(7, READ)]
    add(loop, Listed(7, on_read=lambda: order.append("dispatch")))
    loop.flushes.append(Listed(8, on_write=lambda: order.append("flush")))
    loop.callLater(0, order.append, "timer")
    loop.call_in_turn(lambda: order.append("turn"))
    loop.callFromThread(order.append, "call")
    loop.tick()
    assert order == ["call", "flush", "turn", "wait", "dispatch", "timer"]


def test_what_a_timer_writes_is_flushed_before_the_loop_sleeps(loop, script):
    flushed = Listed(8)
    loop.callLater(0, loop.flushes.append, flushed)
    loop.tick()
    script.poll = lambda timeout, limit: asleep.append((timeout, *flushed.calls)) or []
    asleep = []
    loop.tick()
    assert asleep == [(MAX_POLL_SECONDS, "write")]


def test_what_is_asked_for_while_dispatching_keeps_the_loop_from_sleeping(loop, script):
    add(loop, Listed(7, on_read=lambda: loop.callFromThread(lambda: None)))
    script.iterations = [[(7, READ)]]
    loop.tick()
    loop.tick()
    loop.flushes.append(Listed(8, on_write=lambda: loop.flushes.append(Listed(9))))
    loop.tick()
    assert script.timeouts == [MAX_POLL_SECONDS, MAX_POLL_SECONDS, 0]


def test_a_loop_sleeps_until_the_next_call_is_due(loop, script):
    loop.callLater(30, lambda: None)
    loop.callLater(20, lambda: None)
    loop.tick()
    loop.tick(timeout=5)
    assert script.timeouts == [20, 5]


@pytest.mark.parametrize("delay", [10**9, 1e300, 10**400, math.inf])
def test_delays_of_any_size_are_taken(loop, script, delay):
    call = loop.callLater(delay, lambda: None)
    loop.tick()
    assert call.active()
    assert script.timeouts == [MAX_POLL_SECONDS]


def test_calls_are_made_in_order_and_never_within_the_iteration_that_asked(loop):
    order = []

    def first():
        order.append("first")
        loop.callFromThread(order.append, "third")

    loop.callFromThread(first)
    loop.callFromThread(order.append, "second")
    loop.tick()
    assert order == ["first", "second"]
    loop.tick()
    assert order == ["first", "second", "third"]


def test_callFromThread_takes_callables_only(loop):
    with pytest.raises(TypeError, match="takes a callable, not 'stop'"):
        loop.callFromThread("stop")


def test_callFromThread_before_the_loop_has_opened_anything_waits_for_it(closing):
    loop = closing(Loop())
    called = []
    loop.callFromThread(called.append, 1)
    loop.open()
    loop.tick(0)
    assert called == [1]


# --- callLater, through a reactor (its own tests: test_timers.py)


@pytest.mark.parametrize("delay", [math.nan, -1, -math.inf, "1", None, [], 1j])
def test_an_impossible_delay_is_rejected(reactor, delay):
    """twisted #3884."""
    with pytest.raises((TypeError, ValueError)):
        reactor.callLater(delay, lambda: None)
    assert reactor.getDelayedCalls() == []


def test_callLater_0_from_a_callback_runs_in_the_next_iteration(reactor):
    """twisted #3293."""
    order = []
    reactor.callLater(0, lambda: reactor.callLater(0, order.append, "next"))
    reactor.iterate()
    assert order == []
    reactor.iterate()
    assert order == ["next"]


def test_a_call_that_always_asks_for_another_keeps_no_one_from_io(reactor, closing):
    """tornado #947."""
    rounds = []

    def again():
        rounds.append(1)
        reactor.callLater(0, again)

    protocol, client = served(reactor)
    closing(client)
    again()
    client.sendall(b"input")
    pump(reactor, lambda: protocol.received == b"input")
    before = len(rounds)
    iterations(reactor, 10)
    assert len(rounds) == before + 10


def test_calls_from_threads_that_always_ask_for_more_keep_no_one_from_io(reactor, closing):
    def again():
        reactor.callFromThread(again)

    protocol, client = served(reactor)
    closing(client)
    again()
    client.sendall(b"input")
    pump(reactor, lambda: protocol.received == b"input")


def test_the_wall_clock_has_no_effect(reactor, monkeypatch):
    """twisted #2424."""
    called = []
    reactor.callLater(3600, called.append, "too early")
    reactor.callLater(0, called.append, "on time")
    monkeypatch.setattr(time, "time", lambda: 1e12)
    iterations(reactor)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    iterations(reactor)
    assert called == ["on time"]


def test_seconds_is_the_clock_of_delayed_calls(closing, clock):
    reactor = closing(Reactor(ScriptedPoller(), seconds=clock.seconds))
    call = reactor.callLater(5, lambda: None)
    clock.advance(2)
    assert (reactor.seconds(), call.getTime()) == (2, 5)


# --- Fairness


def test_R4_timers_are_on_time_under_an_endless_stream(closing):
    """tornado #2997. Each read takes a millisecond of the timers' clock."""
    clock = Clock()
    reactor = closing(Reactor(seconds=clock.seconds))

    class Sink(Recorder):
        def dataReceived(self, data):
            clock.advance(0.001)
            reads.append(clock.seconds())

    reads = []
    _, flood = served(reactor, Sink())
    closing(flood)
    flood.setblocking(False)
    late = []

    def tick(due):
        late.append(sum(1 for at in reads if at > due + 1e-9))
        reactor.callLater(0.01, tick, clock.seconds() + 0.01)

    reactor.callLater(0.01, tick, 0.01)

    def flooded():
        try:
            flood.send(b"f" * 1_000_000)
        except BlockingIOError:
            pass
        return len(late) >= 20

    pump(reactor, flooded)
    assert max(late) <= 1  # reads between the moment that it was due and the call


def test_T1_what_falls_due_during_a_long_callback_waits_for_the_next_poll(loop, script, clock):
    order = []

    def busy():
        clock.advance(2.5)
        order.append("busy")

    add(loop, Listed(7, on_read=busy))
    add(loop, Listed(8, on_read=lambda: order.append("input")))
    loop.callLater(2, order.append, "timer")
    script.iterations = [[(7, READ)], [(8, READ)]]  # the second arrived in those 2.5 s
    loop.tick()
    assert order == ["busy"]
    loop.tick()
    assert order == ["busy", "input", "timer"]


def test_T1_input_comes_before_a_timer_after_a_long_timer_call_or_turn(loop, script, clock):
    order = []
    add(loop, Listed(7, on_read=lambda: order.append("input")))
    loop.callLater(1, order.append, "timer")
    loop.call_in_turn(lambda: clock.advance(0.5))
    loop.callFromThread(clock.advance, 0.5)
    loop.flushes.append(Listed(8, on_write=lambda: clock.advance(0.5)))
    script.iterations = [[(7, READ)]]
    loop.tick()
    assert order == ["input", "timer"]


def test_T1_no_event_is_left_out_however_many_handlers_are_ready(closing):
    loop = closing(Loop(seconds=lambda: 0.0))  # or a timer that is late would come in between
    pairs = [[closing(s) for s in socket.socketpair()] for _ in range(1500)]
    read = []
    for near, far in pairs:
        far.send(b"x")
        add(loop, Listed(near.fileno(), on_read=lambda near=near: read.append(near.recv(9))))
    loop.callLater(0, lambda: read.append(f"timer after {len(read)}"))
    while len(read) < 1501:
        loop.tick(0)
    assert read[-1] == "timer after 1500"


@pytest.fixture
def greedy(loop, script, clock):
    """greedy(count) returns the descriptors of handlers that are always ready and slow."""

    def greedy(count):
        fds = list(range(100, 100 + count))
        for fd in fds:
            add(loop, Listed(fd, on_read=lambda fd=fd: served(fd)))
        return fds

    def served(fd):
        greedy.order.append(fd)
        clock.advance(DISPATCH_SECONDS)

    greedy.order = []
    return greedy


def test_T5_an_iteration_of_long_callbacks_is_cut_short_and_the_rest_come_next(
    loop, script, greedy
):
    fds = greedy(3)
    script.iterations = [[(fd, READ) for fd in fds]] * 6
    for _ in range(6):
        loop.tick()
    # A handler that has waited comes before one that is ready again.
    assert sorted(greedy.order[:3]) == fds
    assert greedy.order[3:] == greedy.order[:3]


def test_T5_a_new_connection_does_not_wait_behind_all_that_wait_already(loop, script, greedy):
    fds = greedy(10)
    script.iterations = [[(fd, READ) for fd in fds]] * 2
    loop.tick()
    add(loop, Listed(7, on_read=lambda: greedy.order.append("new one")))
    script.iterations = [[(7, READ), *((fd, READ) for fd in fds)]]
    loop.tick()
    assert greedy.order[1:2] == ["new one"]


def test_T5_a_connection_with_the_descriptor_of_a_served_one_counts_as_new(loop, script, greedy):
    fds = greedy(10)
    script.iterations = [[(fd, READ) for fd in fds]]
    loop.tick()
    (gone,) = greedy.order
    loop.detach(loop.handler_of(gone))
    add(loop, Listed(gone, on_read=lambda: greedy.order.append("new one")))
    script.iterations = [[], [(fd, READ) for fd in fds]]
    loop.tick()
    loop.tick()
    assert greedy.order[1:2] == ["new one"]


def test_T5_a_handler_that_comes_first_does_so_in_each_iteration_while_the_loop_is_behind(
    loop, script, greedy
):
    port = Listed(7, on_read=lambda: greedy.order.append("port"))
    port.comes_first = True
    add(loop, port)
    fds = greedy(4)
    script.iterations = [[*((fd, READ) for fd in fds), (7, READ)]] * 3
    for _ in range(3):
        loop.tick()
    assert greedy.order[1::2] == ["port", "port"]


def test_T5_handlers_that_come_first_do_not_take_the_whole_iteration(loop, script, greedy, clock):
    port = Listed(7, on_read=lambda: clock.advance(2 * DISPATCH_SECONDS))
    port.comes_first = True
    add(loop, port)
    fds = greedy(4)
    script.iterations = [[(7, READ), *((fd, READ) for fd in fds)]] * 4
    for _ in range(4):
        loop.tick()
    assert sorted(greedy.order) == fds


def test_T5_nobody_waits_for_ever_behind_new_connections(loop, script, greedy):
    fds = greedy(5)
    new_ones = iter(range(1000, 2000))

    def iteration():
        fd = next(new_ones)
        add(loop, Listed(fd, on_read=lambda: greedy.order.append("new one")))
        script.iterations = [[(fd, READ), *((each, READ) for each in fds)]]
        loop.tick()

    for _ in range(20):
        iteration()
    assert {fds[0], fds[-1]} <= set(greedy.order)
    assert set(fds) == set(greedy.order) - {"new one"}


@pytest.mark.parametrize("new_ones_a_tick", [1, 5])
def test_T5_a_flood_of_new_connections_does_not_starve_the_others(
    loop, script, greedy, clock, new_ones_a_tick
):
    established = greedy(2)
    ready = dict.fromkeys(established, READ)
    new_ones = iter(range(1000, 2000))

    def serve_new_one(fd):
        del ready[fd]
        clock.advance(DISPATCH_SECONDS)

    served_at = []
    for tick in range(100):
        for _ in range(new_ones_a_tick):
            fd = next(new_ones)
            add(loop, Listed(fd, on_read=lambda fd=fd: serve_new_one(fd)))
            ready[fd] = READ
        script.iterations = [list(ready.items())]
        loop.tick()
        served_at += [tick] * len(greedy.order)
        greedy.order.clear()
    assert len(served_at) > 10
    assert max(b - a for a, b in zip(served_at, served_at[1:])) <= SERVED_EVERY
    assert served_at[-1] >= 100 - SERVED_EVERY


def test_T1_while_the_loop_is_behind_timers_wait_for_input(loop, script, greedy):
    fds = greedy(5)
    loop.callLater(0, lambda: greedy.order.append("timer"))
    script.iterations = [[(fd, READ) for fd in fds[count:]] for count in range(5)]
    for _ in range(5):
        loop.tick()
    assert greedy.order[5:] == ["timer"]


def test_T5_while_the_loop_is_behind_timers_wait_for_a_bounded_time(loop, script, greedy, clock):
    fds = greedy(1000)
    began = clock.seconds()
    loop.callLater(0, lambda: greedy.order.append(clock.seconds() - began))
    script.iterations = [[(fd, READ) for fd in fds]] * 1000
    loop.tick()
    while not isinstance(greedy.order[-1], float):
        loop.tick()
    assert LATE_SECONDS <= greedy.order[-1] <= LATE_SECONDS + 2 * DISPATCH_SECONDS


def test_T5_turns_are_bounded_in_time_and_taken_in_order(loop, script, clock):
    order = []

    def turn(number):
        clock.advance(TURN_SECONDS / 2)
        order.append(number)
        loop.call_in_turn(lambda: turn(number))

    for number in range(5):
        loop.call_in_turn(lambda number=number: turn(number))
    script.poll = lambda timeout, limit: order.append(f"poll {timeout:g}") or []
    for _ in range(3):
        loop.tick()
    assert order == [0, 1, "poll 0", 2, 3, "poll 0", 4, 0, "poll 0"]


def test_T5_a_turn_may_come_first(loop):
    order = []
    for number in range(3):
        loop.call_in_turn(lambda number=number: order.append(number), first=number == 2)
    loop.tick()
    assert order == [2, 0, 1]


def test_T5_a_turn_that_asks_for_another_waits_for_the_next_iteration(loop, script):
    order = []
    loop.call_in_turn(lambda: loop.call_in_turn(lambda: order.append("again")))
    loop.tick()
    assert (order, script.timeouts) == ([], [0])
    loop.tick()
    assert order == ["again"]


def test_B3_a_turn_that_raises_is_logged_and_the_others_are_taken(loop, caplog):
    order = []
    loop.call_in_turn(lambda: 1 / 0)
    loop.call_in_turn(lambda: order.append("next"))
    loop.tick()
    assert order == ["next"]
    assert "ZeroDivisionError" in caplog.text


def test_T5_the_ready_share_an_iteration_and_the_time_until_the_next_timer(loop, script, clock):
    shares = []
    for fd in range(20, 30):
        add(loop, Listed(fd, on_read=lambda: shares.append(loop.share)))
    ten = [(fd, READ) for fd in range(20, 30)]
    script.iterations = [ten[:1], ten, ten, ten]
    loop.tick()
    loop.tick()
    timer = loop.callLater(DISPATCH_SECONDS / 2, lambda: None)
    loop.tick()
    clock.advance(1)
    loop.tick()
    assert not timer.active()
    assert shares[0] == DISPATCH_SECONDS
    assert shares[1:11] == [DISPATCH_SECONDS / 10] * 10
    assert shares[11:21] == pytest.approx([DISPATCH_SECONDS / 20] * 10)
    assert shares[21:] == [0.0] * 10


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="only epoll takes turns")
def test_R4_connections_take_turns_when_an_iteration_is_cut_short(closing):
    clock = Clock()
    reactor = closing(Reactor(seconds=clock.seconds))
    order = []

    class Sink(Recorder):
        def dataReceived(self, data):
            clock.advance(0.001)
            order.append(self)

    floods = [closing(served(reactor, Sink())[1]) for _ in range(5)]
    for flood in floods:
        flood.setblocking(False)

    def flooded():
        for flood in floods:
            with contextlib.suppress(BlockingIOError):
                flood.send(b"f" * 1_000_000)
        return len(order) >= 100

    pump(reactor, flooded)
    assert all(len(set(order[start : start + 5])) == 5 for start in range(50, 95))


def test_R4_a_second_client_is_served_under_an_endless_stream(reactor, closing):
    class Sink(Recorder):
        def dataReceived(self, data):
            order.append("flood")

    class Echo(Recorder):
        def dataReceived(self, data):
            order.append("echo")
            self.transport.write(data)

    order = []
    _, flood = served(reactor, Sink())
    _, client = served(reactor, Echo())
    closing(flood)
    closing(client)
    flood.setblocking(False)
    client.setblocking(False)

    for _ in range(20):
        client.send(b"?")
        seen = len(order)
        while True:
            try:
                flood.send(b"f" * 4_000_000)
            except BlockingIOError:
                pass
            reactor.iterate(0.005)
            if "echo" in order[seen:]:
                break
        assert order[seen:].count("flood") <= 2
    assert receive(reactor, client, 20) == b"?" * 20


def test_a_handler_that_always_asks_to_be_flushed_is_flushed_once_an_iteration(loop):
    def again():
        loop.flushes.append(busy)

    busy = Listed(7, on_write=again)
    loop.flushes.append(busy)
    loop.tick()
    loop.tick()
    assert busy.calls == ["write", "write"]


# --- Idleness


def test_an_idle_loop_wakes_only_for_what_is_due(closing, clock):
    polling = Watched(clock=clock)
    reactor = closing(Reactor(polling, seconds=clock.seconds))
    _, client = served(reactor)
    closing(client)
    iterations(reactor, 3)
    del polling.timeouts[:]
    reactor.callLater(3600, reactor.crash)
    reactor.run(installSignalHandlers=False)
    assert polling.timeouts == [3600]


def test_write_interest_is_off_when_there_is_nothing_to_write(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.write(b"d" * 10_000_000)
    pump(reactor, lambda: reactor.getWriters() == [protocol.transport])
    assert len(receive(reactor, client, 10_000_000)) == 10_000_000
    iterations(reactor)
    assert reactor.getWriters() == []


# --- Dispatch


def test_a_descriptor_that_is_reused_within_an_iteration_gets_no_stale_event(loop, script):
    """joyent/libuv #968: A closes B and opens C, which reuses B's descriptor."""

    def replace():
        loop.detach(b)
        add(loop, c)

    a = add(loop, Listed(7, on_read=replace))
    b = add(loop, Listed(8))
    c = Listed(8)
    script.iterations = [[(7, READ), (8, READ)], [(8, READ)]]
    loop.tick()
    assert (a.calls, b.calls, c.calls) == (["read"], [], [])
    loop.tick()
    assert (b.calls, c.calls) == ([], ["read"])


def test_an_event_for_nobody_is_dropped(loop, script):
    handler = add(loop, Listed(7))
    script.iterations = [[(99, READ), (7, READ)]]
    loop.tick()
    assert handler.calls == ["read"]


def test_a_handler_that_is_paused_within_the_iteration_is_not_called(loop, script):
    def pause():
        b.reading = False

    add(loop, Listed(7, on_read=pause))
    b = add(loop, Listed(8))
    script.iterations = [[(7, READ), (8, READ)]]
    loop.tick()
    assert b.calls == []


def test_reading_comes_before_writing_and_its_end_prevents_it(loop, script):
    both = add(loop, Listed(7), writing=True)
    ended = Listed(8, on_read=lambda: loop.detach(ended))
    add(loop, ended, writing=True)
    script.iterations = [[(7, READ | WRITE), (8, READ | WRITE)]]
    loop.tick()
    assert both.calls == ["read", "write"]
    assert ended.calls == ["read"]


@pytest.mark.parametrize(
    ("reading", "writing", "expected"),
    [
        (True, False, ["read"]),
        (False, True, ["write"]),
        (True, True, ["read", "write"]),
        (False, False, ["hung up"]),
    ],
)
def test_a_hangup_is_found_by_whatever_the_handler_does(loop, script, reading, writing, expected):
    handler = add(loop, Listed(7), reading, writing)
    script.iterations = [[(7, HANGUP)]]
    loop.tick()
    assert handler.calls == expected


def test_the_poller_learns_of_lost_interest_when_an_unwanted_event_arrives(loop, script):
    handler = add(loop, Listed(7))
    handler.reading = False
    loop.tick()
    before = script.masks[7]
    script.iterations = [[(7, READ)]]
    loop.tick()
    assert (before, script.masks[7]) == (READ, 0)
    assert handler.calls == []


def test_a_pause_and_resume_between_two_events_costs_no_call_of_the_poller(loop, script):
    handler = add(loop, Listed(7))
    script.watch = script.forget = None
    handler.reading = False
    handler.reading = True
    loop.update_interest(handler)
    script.iterations = [[(7, READ)]]
    loop.tick()
    assert handler.calls == ["read"]
    script.forget = lambda fd, before: None


# --- Errors


def test_B3_an_exception_in_a_handler_ends_it_and_no_other(loop, script, caplog):
    def fail():
        raise ZeroDivisionError("in doRead")

    bad = add(loop, Listed(7, on_read=fail))
    good = add(loop, Listed(8))
    script.iterations = [[(7, READ), (8, READ)]]
    loop.tick()
    assert bad.calls == ["read", "lost"]
    assert bad.reason.check(ZeroDivisionError)
    assert good.calls == ["read"]
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


def test_B3_an_exception_in_the_flush_ends_that_handler_and_no_other(loop, caplog):
    def fail():
        raise ZeroDivisionError("in doWrite")

    bad, good = Listed(7, on_write=fail), Listed(8)
    loop.flushes.append(bad)
    loop.flushes.append(good)
    loop.tick()
    assert bad.calls == ["write", "lost"]
    assert good.calls == ["write"]
    assert len(caplog.records) == 1


def test_B3_an_exception_in_the_end_itself_is_logged_and_the_loop_goes_on(loop, script, caplog):
    def fail():
        raise ZeroDivisionError("everywhere")

    bad = add(loop, Listed(7, on_read=fail, on_lost=fail))
    good = add(loop, Listed(8))
    script.iterations = [[(7, READ), (8, READ)]]
    loop.tick()
    assert bad.calls == ["read", "lost"]
    assert good.calls == ["read"]
    assert len(caplog.records) == 2


@pytest.mark.parametrize("how", ["callLater", "callFromThread"])
def test_B3_an_exception_in_a_call_is_one_record_and_the_next_call_is_made(reactor, caplog, how):
    def fail():
        raise ZeroDivisionError("in a call")

    called = []
    ask = {"callLater": lambda f, *a: reactor.callLater(0, f, *a)}.get(how, reactor.callFromThread)
    ask(fail)
    ask(called.append, 1)
    reactor.iterate()
    assert called == [1]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("minireactor", logging.ERROR)
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["timer", "call", "read", "write"])
def test_B3_ctrl_c_goes_through_and_nothing_else_is_lost(loop, script, error, where):
    def interrupt():
        if interrupts:
            raise interrupts.pop()

    interrupts = [error()]
    called = []
    if where == "timer":
        loop.callLater(0, interrupt)
    elif where == "call":
        loop.callFromThread(interrupt)
    add(loop, Listed(7, on_read=interrupt if where == "read" else None))
    if where == "write":
        loop.flushes.append(Listed(9, on_write=interrupt))
    loop.callLater(0, called.append, "timer")
    loop.callFromThread(called.append, "call")
    loop.flushes.append(Listed(8, on_write=lambda: called.append("write")))
    script.iterations = [[(7, READ)]]
    with pytest.raises(error):
        loop.tick()
    loop.tick()
    assert sorted(called) == ["call", "timer", "write"]


def test_guard_ends_the_handler_on_whose_behalf_it_calls(loop, caplog):
    handler = Listed(7)
    loop.guard(handler, int, "not a number")
    assert handler.calls == ["lost"]
    assert handler.reason.check(ValueError)
    assert len(caplog.records) == 1


def test_a_producer_that_raises_ends_its_own_connection(reactor, closing, caplog):
    class Bad:
        def resumeProducing(self):
            raise ZeroDivisionError("in resumeProducing")

        def stopProducing(self):
            pass

    bad, its_client = served(reactor)
    good, client = served(reactor)
    closing(its_client)
    closing(client)
    bad.transport.registerProducer(Bad(), False)
    pump(reactor, lambda: bad.reason is not None)
    client.sendall(b"fine")
    pump(reactor, lambda: good.received == b"fine")
    assert bad.reason.check(ZeroDivisionError)
    assert len(caplog.records) == 1


# --- Opening and closing


def test_a_loop_opens_nothing_until_it_is_used():
    before = open_descriptors()
    loop = Loop()
    loop.callLater(1, lambda: None)
    loop.callFromThread(lambda: None)
    assert open_descriptors() == before
    loop.close()
    assert open_descriptors() == before


def test_importing_opens_nothing_and_makes_nothing():
    out = output(
        """
        import os, sys, threading
        folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
        before = os.listdir(folder)
        import minireactor
        print("minireactor.internet" in sys.modules)
        from minireactor import reactor
        print(os.listdir(folder) == before, threading.active_count())
        import minireactor
        print(minireactor.reactor is reactor, type(reactor).__name__)
        """
    )
    assert out == "False\nTrue 1\nTrue Reactor\n"


def test_closing_gives_everything_back_and_is_idempotent(closing):
    before = open_descriptors()
    reactor = Reactor()
    protocol, client = served(reactor)
    closing(client)
    number = protocol.transport.fileno()
    reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")
    reactor.close()
    reactor.close()
    assert protocol.calls == ["made", "lost"]
    assert not is_open(number)
    assert open_descriptors() == before | {client.fileno()}


def test_a_closed_loop_says_so(closing):
    reactor = Reactor()
    reactor.iterate()
    reactor.close()
    for use in (
        reactor.iterate,
        lambda: reactor.listenTCP(0, OneFactory(), interface="127.0.0.1"),
        lambda: reactor.connectTCP("127.0.0.1", 1, OneFactory()),
        lambda: reactor.addReader(closing(socket.socket())),
    ):
        with pytest.raises(ReactorNotRestartable, match=r"make a new Reactor\(\)"):
            use()


def test_a_poller_that_is_injected_is_closed_too(script):
    loop = Loop(script)
    loop.open()
    loop.close()
    assert script.closed
    assert script.masks == {}


def test_a_selector_that_fails_is_not_hidden(loop, script):
    def fail(timeout, most):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    script.poll = fail
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        loop.tick()


def test_a_connection_that_has_ended_leaves_nothing_in_the_loop(reactor, closing):
    reactor.iterate()
    before = dict(reactor._handlers)
    factory = OneFactory()
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    for _ in range(10):
        connect(port).close()
    pump(reactor, lambda: [p.reason for p in factory.built if p.reason].__len__() == 10)
    port.stopListening()
    assert reactor._handlers == before
    assert reactor.getReaders() == reactor.getWriters() == reactor.getDelayedCalls() == []


class Unprintable:
    """A callable that raises when it is called, and whose repr raises."""

    def __call__(self):
        raise ValueError("called")

    def __repr__(self):
        raise ZeroDivisionError("shown")


def test_B3_an_object_whose_repr_raises_does_not_end_the_loop(reactor, caplog):
    reactor.callLater(0, Unprintable())
    reactor.addSystemEventTrigger("before", "opening", Unprintable())
    iterations(reactor)
    reactor.fireSystemEvent("opening")
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, ValueError]


def test_B3_a_protocol_whose_repr_raises_still_ends_by_itself(reactor, closing):
    class Bad(Recorder):
        def logPrefix(self):
            raise ZeroDivisionError("shown")

        def dataReceived(self, data):
            raise ValueError("received")

    protocol, client = served(reactor, Bad())
    closing(client).sendall(b"x")
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(ValueError)


@pytest.mark.parametrize("error", [GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["timer", "call", "turn", "read", "write", "trigger"])
def test_B3_exceptions_of_any_class_are_logged_and_the_loop_goes_on(reactor, caplog, where, error):
    def fail():
        raise error("in a callback")

    near, far = socket.socketpair()
    reader = Listed(near.fileno(), on_read=fail)
    ask = {
        "timer": lambda: reactor.callLater(0, fail),
        "call": lambda: reactor.callFromThread(fail),
        "turn": lambda: reactor.call_in_turn(fail),
        "read": lambda: (far.send(b"x"), add(reactor, reader)),
        "write": lambda: reactor.flushes.append(Listed(9, on_write=fail)),
        "trigger": lambda: (
            reactor.addSystemEventTrigger("before", "own", fail),
            reactor.fireSystemEvent("own"),
        ),
    }
    ask[where]()
    called = []
    reactor.callLater(0, called.append, "next")
    reactor.iterate()
    assert called == ["next"]
    assert [record.exc_info[0] for record in caplog.records] == [error]
    near.close()
    far.close()


class RaisingRepr:
    def __init__(self, error):
        self.error = error

    def __repr__(self):
        raise self.error

    def __call__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_a_repr_that_raises_does_not_keep_a_fault_from_being_logged(reactor, caplog, error):
    reactor.callFromThread(RaisingRepr(error))
    reactor.iterate()
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_an_open_that_fails_leaves_nothing_and_may_be_tried_again(closing, monkeypatch):
    loop = closing(Loop())
    before = open_descriptors()
    with monkeypatch.context() as no_descriptors:
        no_descriptors.setattr(socket, "socketpair", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.open()
    assert open_descriptors() == before
    loop.open()
    called = []
    loop.callFromThread(called.append, 1)
    loop.tick(0)
    assert called == [1]


def test_T5_a_timer_that_falls_due_cuts_an_iteration_short(loop, script, clock):
    order = []

    def read(fd):
        order.append(fd)
        clock.advance(0.001)

    fds = list(range(20, 24))
    for fd in fds:
        add(loop, Listed(fd, on_read=lambda fd=fd: read(fd)))
    loop.callLater(0.0015, order.append, "timer")
    script.iterations = [[(fd, READ) for fd in fds], [(fd, READ) for fd in fds[2:]]]
    loop.tick()
    assert order == [20, 21]
    loop.tick()  # rule T1: the others have their input delivered before
    assert sorted(order[2:4]) == [22, 23]
    assert order[4:] == ["timer"]
