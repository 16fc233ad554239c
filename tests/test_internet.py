"""The reactor: from startup to shutdown, its triggers, its threads."""

from __future__ import annotations

import socket
import threading
import weakref

import pytest
from scripted import ScriptedPoller
from support import (
    IS_PYPY,
    PATIENCE,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    Watched,
    connect,
    iterations,
    open_descriptors,
    output,
    pump,
    served,
)

from minireactor import Reactor, internet
from minireactor.core import loop
from minireactor.core import threads as threads_module
from minireactor.defer import Deferred
from minireactor.error import (
    ConnectError,
    ConnectionLost,
    ReactorAlreadyRunning,
    ReactorNotRestartable,
    ReactorNotRunning,
)
from minireactor.protocol import Protocol
from minireactor.testing import Clock


def run(reactor):
    """Call reactor.run() without signal handlers, and end it after PATIENCE seconds."""
    overslept = reactor.callLater(PATIENCE, reactor.crash)
    reactor.run(installSignalHandlers=False)
    assert overslept.active(), "the reactor ran on"
    overslept.cancel()


# --- run, stop, crash, iterate


def test_run_ends_after_stop(reactor):
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert not reactor.running


def test_a_nested_run_is_an_error(reactor):
    errors = []

    def nested():
        try:
            reactor.run()
        except ReactorAlreadyRunning as error:
            errors.append(error)
        reactor.stop()

    reactor.callWhenRunning(nested)
    run(reactor)
    assert len(errors) == 1


def test_a_stopped_reactor_does_not_run_again(reactor):
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    with pytest.raises(ReactorNotRestartable, match=r"make a new Reactor\(\)"):
        reactor.run()


def test_stop_before_run_is_an_error(reactor):
    with pytest.raises(ReactorNotRunning):
        reactor.stop()


def test_a_second_stop_is_an_error(reactor):
    errors = []

    def twice():
        reactor.stop()
        try:
            reactor.stop()
        except ReactorNotRunning as error:
            errors.append(error)

    reactor.callLater(0, twice)
    run(reactor)
    assert len(errors) == 1


def test_stop_after_the_end_is_an_error(reactor):
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    with pytest.raises(ReactorNotRunning):
        reactor.stop()


@pytest.mark.parametrize("phase", ["before", "during", "after"])
def test_stop_in_a_startup_trigger_ends_it_at_once(reactor, phase):
    events = []
    reactor.addSystemEventTrigger(phase, "startup", reactor.stop)
    reactor.addSystemEventTrigger("before", "shutdown", events.append, "shutdown")
    run(reactor)
    assert events == ["shutdown"]


def test_stop_calls_no_trigger_from_inside_itself(reactor):
    events = []

    def stop():
        reactor.stop()
        events.append("stop has returned")

    reactor.addSystemEventTrigger("before", "shutdown", events.append, "shutdown")
    reactor.callLater(0, stop)
    run(reactor)
    assert events == ["stop has returned", "shutdown"]


def test_what_was_asked_for_before_stop_comes_before_the_end(reactor):
    events = []
    reactor.addSystemEventTrigger("before", "shutdown", events.append, "shutdown")

    def stop():
        reactor.callFromThread(events.append, "asked for before")
        reactor.stop()

    reactor.callLater(0, stop)
    run(reactor)
    assert events == ["asked for before", "shutdown"]


def test_what_was_written_before_stop_goes_out(reactor, closing):
    protocol, client = served(reactor)
    closing(client)

    def last_words():
        protocol.transport.write(b"goodbye")
        reactor.stop()

    reactor.callLater(0, last_words)
    run(reactor)
    assert client.recv(100) == b"goodbye"
    assert client.recv(100) == b""


def test_delayed_calls_that_are_left_are_not_run(reactor):
    events = []
    reactor.callLater(0, reactor.callLater, 0, events.append, "due in the iteration after stop()")
    reactor.callLater(0, reactor.stop)
    reactor.callLater(3600, events.append, "due in an hour")
    run(reactor)
    assert events == []
    assert len(reactor.getDelayedCalls()) == 2


def test_a_call_that_a_shutdown_trigger_asks_for_is_not_run(reactor):
    events = []
    for phase in ("before", "during", "after"):
        reactor.addSystemEventTrigger(phase, "shutdown", reactor.callLater, 0, events.append, 1)
        reactor.addSystemEventTrigger(phase, "shutdown", reactor.callFromThread, events.append, 2)
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert events == []


def test_crash_ends_run_without_triggers_and_it_may_run_again(reactor, closing):
    events = []
    protocol, client = served(reactor)
    closing(client)
    for phase in ("before", "during", "after"):
        reactor.addSystemEventTrigger(phase, "shutdown", events.append, phase)
    reactor.callLater(0, reactor.crash)
    run(reactor)
    assert (reactor.running, events, protocol.calls) == (False, [], ["made"])
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    assert (events, protocol.calls) == (["before", "during", "after"], ["made", "lost"])


@pytest.mark.parametrize("phase", ["before", "during", "after"])
def test_crash_in_a_startup_trigger_ends_it(reactor, phase):
    reactor.addSystemEventTrigger(phase, "startup", reactor.crash)
    run(reactor)
    assert not reactor.running


def test_crash_when_it_does_not_run_is_nothing(reactor):
    reactor.crash()
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert not reactor.running


def test_startup_triggers_are_called_for_the_first_run_only(reactor):
    events = []
    reactor.addSystemEventTrigger("before", "startup", events.append, "startup")
    reactor.callWhenRunning(reactor.crash)
    run(reactor)
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    assert events == ["startup"]


def test_running_is_False_before_startup_and_True_from_during_on(reactor):
    states = [reactor.running]
    for event in ("startup", "shutdown"):
        for phase in ("before", "during", "after"):
            reactor.addSystemEventTrigger(phase, event, lambda: states.append(reactor.running))
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert states == [False, False, True, True, True, False, False]


def test_iterate_is_one_iteration_that_does_not_wait(reactor):
    order = []
    reactor.callLater(0, lambda: reactor.callLater(0, order.append, "second iteration"))
    reactor.callLater(0, order.append, "first iteration")
    reactor.callLater(3600, order.append, "too early")
    reactor.iterate()
    assert order == ["first iteration"]
    reactor.iterate()
    assert order == ["first iteration", "second iteration"]


@pytest.mark.parametrize(
    ("delay", "wait"), [(0, 0), (7, 7), (-1, 0), (10**12, loop.MAX_POLL_SECONDS)]
)
def test_iterate_waits_for_its_delay_at_most(closing, delay, wait):
    polling = Watched(ScriptedPoller(), Clock())
    reactor = closing(Reactor(polling))
    reactor.iterate(delay)
    assert polling.timeouts == [wait]


def test_iterate_may_be_called_from_inside_run(reactor):
    order = []

    def nested():
        reactor.callLater(0, order.append, "inner")
        reactor.iterate()
        reactor.iterate()
        order.append("outer")
        reactor.stop()

    reactor.callLater(0, nested)
    run(reactor)
    assert order == ["inner", "outer"]


# --- callWhenRunning


def test_callWhenRunning_before_run_is_called_at_start_in_order(reactor):
    events = []
    reactor.callWhenRunning(events.append, 1)
    reactor.callWhenRunning(lambda *a, **k: events.append((a, k)), 2, three=3)
    reactor.callWhenRunning(reactor.stop)
    assert events == []
    run(reactor)
    assert events == [1, ((2,), {"three": 3})]


def test_callWhenRunning_while_running_is_called_at_once(reactor):
    events = []

    def running():
        reactor.callWhenRunning(events.append, "at once")
        events.append("then")
        reactor.stop()

    reactor.callLater(0, running)
    run(reactor)
    assert events == ["at once", "then"]


def test_callWhenRunning_that_raises_is_logged_and_the_next_is_called(reactor, caplog):
    reactor.callWhenRunning(int, "not a number")
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


# --- Triggers (their own tests: test_triggers.py)


def test_triggers_are_called_by_phase_and_in_order(reactor):
    events = []
    for phase in ("after", "during", "before"):
        reactor.addSystemEventTrigger(phase, "shutdown", events.append, f"{phase} 1")
        reactor.addSystemEventTrigger(phase, "shutdown", events.append, f"{phase} 2")
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    expected = ["before 1", "before 2", "during 1", "during 2", "after 1", "after 2"]
    assert events == expected


def test_connections_are_lost_between_before_and_during_shutdown(reactor, closing):
    protocol, client = served(reactor)
    closing(client)
    lost = []
    for phase in ("before", "during", "after"):
        reactor.addSystemEventTrigger(
            phase, "shutdown", lambda: lost.append(protocol.reason is not None)
        )
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    assert lost == [False, True, True]


def test_a_trigger_that_raises_does_not_stop_the_others(reactor, caplog):
    events = []
    for phase in ("before", "during", "after"):
        reactor.addSystemEventTrigger(phase, "shutdown", int, "not a number")
        reactor.addSystemEventTrigger(phase, "shutdown", events.append, phase)
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    assert events == ["before", "during", "after"]
    assert len(caplog.records) == 3


def test_a_Deferred_of_a_before_trigger_is_waited_for_while_the_loop_goes_on(reactor, closing):
    events = []
    waiting = Deferred()
    protocol, client = served(reactor)
    closing(client)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: waiting)
    reactor.addSystemEventTrigger("during", "shutdown", events.append, "during")

    def meanwhile():
        events.append("the loop goes on")
        client.sendall(b"and reads")

    def arrived():
        if protocol.received != b"and reads":
            reactor.callLater(0.001, arrived)
            return
        waiting.callback(None)

    reactor.callLater(0, reactor.stop)
    reactor.callLater(0.001, meanwhile)
    reactor.callLater(0.001, arrived)
    run(reactor)
    assert events == ["the loop goes on", "during"]


def test_a_removed_trigger_is_not_called(reactor):
    events = []
    trigger = reactor.addSystemEventTrigger("before", "shutdown", events.append, "removed")
    reactor.addSystemEventTrigger("before", "shutdown", events.append, "kept")
    reactor.removeSystemEventTrigger(trigger)
    when_running = reactor.callWhenRunning(events.append, "removed")
    reactor.removeSystemEventTrigger(when_running)
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    assert events == ["kept"]


def test_removing_a_trigger_twice_or_after_it_was_called_is_an_error(reactor):
    one = reactor.addSystemEventTrigger("before", "startup", int)
    reactor.removeSystemEventTrigger(one)
    with pytest.raises((TypeError, ValueError, KeyError)):
        reactor.removeSystemEventTrigger(one)
    other = reactor.addSystemEventTrigger("before", "startup", int)
    reactor.callWhenRunning(reactor.stop)
    run(reactor)
    with pytest.raises((TypeError, ValueError, KeyError)):
        reactor.removeSystemEventTrigger(other)


@pytest.mark.parametrize("wrong", [None, "before", 7, (), ("no such event", 1, 2, 3, 4), [1] * 5])
def test_removing_what_is_no_trigger_is_an_error(reactor, wrong):
    with pytest.raises((TypeError, ValueError, KeyError)):
        reactor.removeSystemEventTrigger(wrong)


def test_an_unknown_phase_is_an_error_and_no_event_comes_of_it(reactor):
    with pytest.raises(KeyError, match="before, during, after"):
        reactor.addSystemEventTrigger("meanwhile", "mine", int)
    with pytest.raises(TypeError, match="callable"):
        reactor.addSystemEventTrigger("before", "mine", None)


def test_events_of_a_program_are_fired_by_name_and_one_shot(reactor):
    events = []
    for phase in ("before", "during", "after"):
        reactor.addSystemEventTrigger(phase, "mine", events.append, phase)
    reactor.fireSystemEvent("nobody's")
    reactor.fireSystemEvent("mine")
    reactor.fireSystemEvent("mine")
    assert events == ["before", "during", "after"]


# --- Shutdown


def test_open_and_paused_connections_are_notified_once(reactor, closing, monkeypatch):
    monkeypatch.setattr(internet, "DRAIN_SECONDS", 0.0)  # one of them never reads
    protocols = []
    for _ in range(3):
        protocol, client = served(reactor)
        closing(client)
        protocols.append(protocol)
    _, paused, stuck = protocols
    paused.transport.pauseProducing()
    stuck.transport.write(b"s" * 10_000_000)
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert [protocol.calls for protocol in protocols] == [["made", "lost"]] * 3
    assert all(protocol.reason.check(ConnectionLost) for protocol in protocols)


def test_both_ends_of_a_connection_are_notified_once(reactor):
    server = Recorder()
    port = reactor.listenTCP(0, OneFactory(server), interface="127.0.0.1")
    factory = RecordingClientFactory()
    reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
    pump(reactor, lambda: server.transport is not None and factory.connection is not None)
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert server.calls == factory.connection.calls == ["made", "lost"]
    assert factory.calls == ["startFactory", "started", "build", "lost", "stopFactory"]


def test_an_attempt_to_connect_fails_once(closing):
    # A poller that never says that the connection is there.
    reactor = closing(Reactor(ScriptedPoller()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        factory = RecordingClientFactory()
        reactor.connectTCP("127.0.0.1", server.getsockname()[1], factory)
        reactor.iterate()
        assert len(reactor.getWriters()) == 1
        reactor.callLater(0, reactor.stop)
        run(reactor)
    assert factory.calls == ["startFactory", "started", "failed", "stopFactory"]
    assert factory.reason.check(ConnectError)


def test_an_attempt_that_still_waits_for_its_name_fails_once(reactor, monkeypatch):
    answer = threading.Event()
    resolve = socket.getaddrinfo

    def slow(host, *a, **k):
        if host == "slow.example" and not k["flags"]:
            answer.wait(PATIENCE)
            host = "127.0.0.1"
        return resolve(host, *a, **k)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    factory = RecordingClientFactory()
    reactor.connectTCP("slow.example", 1, factory)
    iterations(reactor)
    reactor.callLater(0, reactor.stop)
    run(reactor)
    answer.set()
    assert factory.calls == ["startFactory", "started", "failed", "stopFactory"]


def test_an_attempt_that_has_not_begun_fails_once(reactor):
    factory = RecordingClientFactory()
    reactor.addSystemEventTrigger("before", "shutdown", reactor.connectTCP, "127.0.0.1", 1, factory)
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert factory.calls == ["startFactory", "started", "failed", "stopFactory"]


def test_a_client_that_always_reconnects_does_not_keep_a_reactor_from_ending(reactor):
    class Stubborn(RecordingClientFactory):
        def clientConnectionLost(self, connector, reason):
            super().clientConnectionLost(connector, reason)
            connector.connect()

        def clientConnectionFailed(self, connector, reason):
            super().clientConnectionFailed(connector, reason)
            connector.connect()

    port = reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")
    factory = Stubborn()
    reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
    pump(reactor, lambda: factory.connection is not None)
    before = open_descriptors()
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert factory.calls[:4] == ["startFactory", "started", "build", "lost"]
    assert open_descriptors() < before


def test_a_connectionLost_that_raises_keeps_no_other_from_its_own(reactor, closing, caplog):
    class Failing(Recorder):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            raise ZeroDivisionError("in connectionLost")

    class Reader:
        calls = []

        def fileno(self):
            return ours.fileno()

        def connectionLost(self, reason):
            self.calls.append("lost")
            raise ZeroDivisionError("in connectionLost")

    ours, theirs = map(closing, socket.socketpair())
    reader = Reader()
    protocols = [Recorder(), Failing(), Recorder(), Failing(), Recorder()]
    for protocol in protocols[:3]:
        closing(served(reactor, protocol)[1])
    reactor.addReader(reader)
    for protocol in protocols[3:]:
        closing(served(reactor, protocol)[1])
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert [protocol.calls for protocol in protocols] == [["made", "lost"]] * 5
    assert reader.calls == ["lost"]
    assert len(caplog.records) == 3


def test_a_connection_that_closes_another_when_it_is_lost_ends_both_once(reactor, closing):
    class Chained(Recorder):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            for other in chain:
                if other.transport.connected:
                    other.transport.abortConnection()
                    other.transport.loseConnection()

    chain = [Chained(), Chained(), Chained()]
    for protocol in chain:
        closing(served(reactor, protocol)[1])
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert [protocol.calls for protocol in chain] == [["made", "lost"]] * 3


def test_ports_are_closed_and_their_factories_stopped_once(reactor):
    class Counting(OneFactory):
        stopped = 0

        def stopFactory(self):
            self.stopped += 1

    factory = Counting()
    ports = [reactor.listenTCP(0, factory, interface="127.0.0.1") for _ in range(2)]
    number = ports[0].getHost().port
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert factory.stopped == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number), timeout=PATIENCE)


def test_a_port_that_is_opened_when_a_connection_is_lost_is_closed_as_well(reactor, closing):
    class Opening(Recorder):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            ports.append(reactor.listenTCP(0, OneFactory(), interface="127.0.0.1"))

    ports = []
    closing(served(reactor, Opening())[1])
    reactor.callLater(0, reactor.stop)
    run(reactor)
    assert [port.connected for port in ports] == [False]


def test_the_run_that_stops_gives_all_descriptors_back(closing):
    before = open_descriptors()
    reactor = Reactor()
    protocol, client = served(reactor)
    port = reactor.listenTCP(0, OneFactory(), interface="127.0.0.1")
    waiting = connect(port)
    reactor.connectTCP("127.0.0.1", port.getHost().port, RecordingClientFactory())
    reactor.connectTCP("localhost", port.getHost().port, RecordingClientFactory())
    reactor.callInThread(int)
    reactor.callLater(0.01, reactor.stop)
    run(reactor)
    client.close()
    waiting.close()
    assert open_descriptors() == before


def test_a_reactor_that_is_interrupted_can_be_closed():
    before = open_descriptors()
    reactor = Reactor()

    def interrupt():
        raise KeyboardInterrupt

    reactor.callLater(0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        reactor.run(installSignalHandlers=False)
    reactor.close()
    assert open_descriptors() == before


def test_a_closed_stdout_concerns_the_print_and_not_the_server():
    out = output(
        """
        import os, socket, sys
        from minireactor import reactor
        from minireactor.protocol import Factory, Protocol

        class Chatty(Protocol):
            def dataReceived(self, data):
                print("nobody reads this")
                sys.stdout.flush()

            def connectionLost(self, reason):
                lost.append(reason.type)

        lost = []
        real = os.dup(1)
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)
        port = reactor.listenTCP(0, Factory.forProtocol(Chatty), interface="127.0.0.1")
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port.getHost().port)) as client:
                client.sendall(b"x")
                before = len(lost)
                while len(lost) == before:
                    reactor.iterate(0.01)
        os.dup2(real, 1)
        os.write(1, repr([error.__name__ for error in lost]).encode())
        """
    )
    assert out.startswith("['BrokenPipeError', 'BrokenPipeError']")


# --- Threads


def test_a_pool_that_was_closed_makes_a_call_in_a_new_thread():
    pool = threads_module.ThreadPool(1, "test")
    done = threading.Event()
    pool.call(int, (), {})
    assert pool._idle.acquire(timeout=PATIENCE)  # the thread waits for a call
    pool._idle.release()
    pool.close()
    pool.call(done.set, (), {})
    assert done.wait(PATIENCE)
    pool.close()


def test_callInThread_calls_in_another_thread_and_comes_back(reactor):
    threads = []

    def work(*a, **k):
        threads.append((threading.current_thread(), a, k))
        reactor.callFromThread(lambda: threads.append(threading.current_thread()))

    reactor.callInThread(work, 1, two=2)
    pump(reactor, lambda: len(threads) == 2)
    assert threads[0][0] is not threading.current_thread()
    assert threads[0][1:] == ((1,), {"two": 2})
    assert threads[1] is threading.current_thread()


def test_what_a_thread_raises_is_logged(reactor, caplog):
    done = threading.Event()
    reactor.callInThread(int, "not a number")
    reactor.callInThread(done.set)
    pump(reactor, lambda: done.is_set() and caplog.records)
    assert caplog.records[0].exc_info[0] is ValueError


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_B3_a_thread_survives_whatever_its_calls_raise(reactor, caplog, error):
    def broken():
        raise error("in a thread")

    threads = set()

    def note():
        threads.add(threading.current_thread())

    reactor.callInThread(note)
    for _ in range(3):
        pump(reactor, lambda: threads)
        reactor.callInThread(broken)
        reactor.callInThread(note)
    pump(reactor, lambda: len(caplog.records) == 3)
    assert {record.exc_info[0] for record in caplog.records} == {error}
    assert all(thread.daemon for thread in threads)


def test_T2_closing_waits_for_no_thread_and_makes_the_calls_that_are_queued(reactor):
    from minireactor.internet import MAX_THREADS

    go_on, made = threading.Event(), threading.Event()
    for _ in range(MAX_THREADS):
        reactor.callInThread(go_on.wait, PATIENCE)
    reactor.callInThread(made.set)
    reactor.close()
    assert not made.is_set()
    go_on.set()
    assert made.wait(PATIENCE)


def test_the_threads_of_a_reactor_that_is_closed_end(reactor):
    threads = []
    reactor.callInThread(lambda: threads.append(threading.current_thread()))
    pump(reactor, lambda: threads)
    reactor.close()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


@pytest.mark.skipif(IS_PYPY, reason="it frees things when it sees a reason to")
def test_a_thread_that_waits_keeps_nothing_of_its_last_call(reactor):
    class Thing:
        def use(self):
            pass

    thing = Thing()
    gone = weakref.ref(thing)
    reactor.callInThread(thing.use)
    del thing
    pump(reactor, lambda: gone() is None)


def test_a_thread_that_is_idle_gets_the_next_call(reactor):
    before, done = set(threading.enumerate()), []
    for count in range(1, 11):
        reactor.callInThread(done.append, 1)
        pump(reactor, lambda: len(done) == count)  # noqa: B023
        iterations(reactor)
    assert len(set(threading.enumerate()) - before) <= 5


def test_B4_callInThread_may_be_called_from_other_threads(reactor):
    from minireactor.internet import MAX_THREADS

    used = set()
    done = []

    def work():
        used.add(threading.current_thread())
        done.append(1)

    def ask():
        for _ in range(200):
            reactor.callInThread(work)

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(PATIENCE)
    pump(reactor, lambda: len(done) == 1600)
    assert len(used) <= MAX_THREADS


def test_a_system_without_threads_is_an_error_of_the_call(reactor, monkeypatch):
    def none_left(*a):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threads_module, "start_daemon", none_left)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            reactor.callInThread(int)
    done = threading.Event()
    reactor.callInThread(done.set)
    pump(reactor, done.is_set)


def test_threads_run_side_by_side_up_to_ten(reactor):
    from minireactor.internet import MAX_THREADS

    meeting = threading.Barrier(MAX_THREADS + 1)
    arrived = []

    def work():
        arrived.append(1)
        meeting.wait(PATIENCE)

    for _ in range(MAX_THREADS * 2):
        reactor.callInThread(work)
    pump(reactor, lambda: meeting.n_waiting == MAX_THREADS)
    iterations(reactor)
    first = len(arrived)
    meeting.wait(PATIENCE)
    pump(reactor, lambda: meeting.n_waiting == MAX_THREADS)
    meeting.wait(PATIENCE)
    assert first == MAX_THREADS


def test_two_reactors_do_not_disturb_each_other(closing):
    here, there = closing(Reactor()), closing(Reactor())
    protocol, client = served(here)
    closing(client)
    other, its_client = served(there)
    closing(its_client)
    there.callWhenRunning(there.stop)
    run(there)
    client.sendall(b"alive")
    pump(here, lambda: protocol.received == b"alive")
    assert other.calls == ["made", "lost"]


# Observers.


def life_of_a_connection(reactor):
    _, client = served(reactor, Protocol())
    client.close()
    pump(reactor, lambda: not reactor.getReaders())


def test_an_observer_hears_of_connections(reactor):
    seen = []
    reactor.add_observer(lambda event, *_: seen.append(event))
    life_of_a_connection(reactor)
    assert seen == ["connectionMade", "connectionLost"]


def test_several_observers_hear_in_the_order_in_which_they_came(reactor):
    seen = []
    for name in "abc":
        reactor.add_observer(lambda event, *_, name=name: seen.append((name, event)))
    life_of_a_connection(reactor)
    assert seen == [
        (name, event) for event in ("connectionMade", "connectionLost") for name in "abc"
    ]


def test_an_observer_that_is_removed_hears_nothing_more_and_the_others_go_on(reactor):
    seen = {name: [] for name in "abc"}
    observers = [lambda event, *_, name=name: seen[name].append(event) for name in "abc"]
    for observer in observers:
        reactor.add_observer(observer)
    reactor.remove_observer(observers[1])
    reactor.remove_observer(observers[1])
    life_of_a_connection(reactor)
    assert [len(seen[name]) for name in "abc"] == [2, 0, 2]
    reactor.remove_observer(observers[0])
    life_of_a_connection(reactor)
    assert [len(seen[name]) for name in "abc"] == [2, 0, 4]


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_an_observer_that_raises_is_removed_and_nothing_else_is_disturbed(
    reactor, closing, caplog, error
):
    def fails(event, connection, reason):
        raise error("from an observer")

    seen = []
    reactor.remove_observer(fails)  # which is nobody yet
    reactor.add_observer(fails)
    reactor.add_observer(lambda event, connection, reason: seen.append(event))
    protocol, client = served(reactor)
    client.close()
    pump(reactor, lambda: protocol.calls[-1:] == ["lost"])
    assert seen == ["connectionMade", "connectionLost"]
    assert [record.exc_info[0] for record in caplog.records] == [error]
    assert len(reactor.observers) == 1


def test_an_observer_that_removes_itself_while_it_is_called_keeps_nobody_from_hearing(reactor):
    seen = []

    def once(event, connection, reason):
        seen.append("once")
        reactor.remove_observer(once)

    reactor.add_observer(once)
    reactor.add_observer(lambda event, *_: seen.append(event))
    life_of_a_connection(reactor)
    assert seen == ["once", "connectionMade", "connectionLost"]


@pytest.mark.parametrize("phase", ["during", "after"])
def test_run_from_inside_the_shutdown_is_refused_at_once(reactor, phase):
    """Twisted's test_runAfterStop."""
    refused = []

    def again():
        with pytest.raises(ReactorNotRestartable):
            reactor.run(installSignalHandlers=False)
        refused.append(phase)

    reactor.addSystemEventTrigger(phase, "shutdown", again)
    reactor.callWhenRunning(reactor.stop)
    reactor.run(installSignalHandlers=False)
    assert refused == [phase]


def test_run_from_a_connectionLost_of_the_shutdown_is_refused_at_once(reactor, closing):
    refused = []

    class Again(Recorder):
        def connectionLost(self, reason):
            with pytest.raises(ReactorNotRestartable):
                reactor.run(installSignalHandlers=False)
            refused.append(reason)

    _, client = served(reactor, Again())
    closing(client)
    reactor.callWhenRunning(reactor.stop)
    reactor.run(installSignalHandlers=False)
    assert len(refused) == 1
