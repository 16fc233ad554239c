"""Waking a sleeping loop: threads, signals, Ctrl-C; and what a fork must not share."""

from __future__ import annotations

import os
import select
import signal
import threading

import pytest
from support import PATIENCE, Watched, output, pump, python

from minireactor import Reactor
from minireactor.core.waker import Waker

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")


@pytest.fixture
def waker(closing):
    return closing(Waker())


def is_awake(waker):
    return bool(select.select([waker.fd], [], [], 0)[0])


class Meanwhile:
    """A socket that calls a hook just before, or just after, its recv()."""

    def __init__(self, sock, before=lambda: None, after=lambda: None):
        self._socket = sock
        self._before = before
        self._after = after
        self.close = sock.close

    def recv(self, size):
        self._before()
        try:
            return self._socket.recv(size)
        finally:
            self._after()


# --- The waker by itself


def test_a_waker_is_quiet_until_it_is_asked(waker):
    assert not is_awake(waker)
    waker.wake_threadsafe()
    assert is_awake(waker)


def test_reading_puts_it_back_to_sleep_and_it_can_be_woken_again(waker):
    waker.wake_threadsafe()
    waker.doRead()
    assert not is_awake(waker)
    waker.wake_threadsafe()
    assert is_awake(waker)


def test_reading_without_having_been_woken_is_nothing(waker):
    waker.doRead()
    waker.wake_threadsafe()
    assert is_awake(waker)


@pytest.mark.parametrize("when", ["before", "after"])
def test_no_wakeup_is_lost_after_one_that_came_in_the_middle(waker, when):
    """python/cpython #74236, and others like it."""
    real = waker._inside
    waker.wake_threadsafe()
    waker._inside = Meanwhile(real, **{when: waker.wake_threadsafe})
    waker.doRead()
    waker._inside = real
    waker.wake_threadsafe()
    assert is_awake(waker)


def test_a_full_pipe_makes_no_noise_and_loses_nothing(waker):
    try:
        while True:
            waker._outside.send(b"\0" * 65536)
    except BlockingIOError:
        pass
    waker.wake_threadsafe()
    rounds = 0
    while is_awake(waker):
        waker.doRead()
        rounds += 1
    waker.wake_threadsafe()
    assert rounds > 1
    assert is_awake(waker)


def test_waking_a_closed_waker_is_nothing(waker):
    waker.close()
    waker.wake_threadsafe()
    assert waker._outside.fileno() == -1


# --- Through a loop


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_call_that_comes_while_the_waker_is_read_is_made_in_the_next_iteration(reactor, when):
    called = []
    reactor.iterate()
    waker = reactor.open()
    real = waker._inside
    waker._inside = Meanwhile(real, **{when: lambda: reactor.callFromThread(called.append, 1)})
    waker.wake_threadsafe()
    reactor.iterate()
    waker._inside = real
    reactor.iterate()
    assert called == [1]


def test_B4_a_call_from_a_thread_runs_at_once_in_an_idle_loop(closing):
    asleep = threading.Event()

    class Telling(Watched):
        def poll(self, timeout, most):
            if timeout > 0:
                asleep.set()
            return super().poll(timeout, most)

    def work():
        asleep.wait(PATIENCE)
        reactor.callFromThread(reactor.stop)

    polling = Telling()
    reactor = closing(Reactor(polling))
    overslept = reactor.callLater(PATIENCE, reactor.crash)
    thread = threading.Thread(target=work)
    thread.start()
    reactor.run(installSignalHandlers=False)
    thread.join()
    assert overslept.active()
    assert len(polling.timeouts) <= 3


def test_B4_calls_from_many_threads_all_come_and_each_threads_in_order(reactor):
    numbers = {name: [] for name in range(8)}

    def work(name):
        for number in range(1000):
            reactor.callFromThread(numbers[name].append, number)

    threads = [threading.Thread(target=work, args=(name,)) for name in numbers]
    for thread in threads:
        thread.start()
    pump(reactor, lambda: all(len(got) == 1000 for got in numbers.values()))
    for thread in threads:
        thread.join()
    assert all(got == list(range(1000)) for got in numbers.values())


@pytest.mark.slow
def test_B4_no_wakeup_is_lost_between_two_loops_that_wake_each_other(closing):
    """Two loops wake each other ten thousand times. One lost wake-up would stop both."""
    here, there = closing(Reactor()), closing(Reactor())
    left = [10_000]

    def ping():
        left[0] -= 1
        if left[0] > 0:
            there.callFromThread(here.callFromThread, ping)
        else:
            there.callFromThread(there.stop)
            here.stop()

    here.callLater(6 * PATIENCE, here.crash)
    there.callLater(6 * PATIENCE, there.crash)
    here.callFromThread(ping)
    thread = threading.Thread(target=there.run, args=(False,))
    thread.start()
    here.run(installSignalHandlers=False)
    thread.join()
    assert left == [0]


# --- Signals


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_running_reactor_with_its_triggers(reactor, number):
    events = []
    reactor.addSystemEventTrigger("before", "shutdown", events.append, "shutdown")
    reactor.callLater(PATIENCE, reactor.crash)
    reactor.callWhenRunning(os.kill, os.getpid(), number)
    reactor.run()
    assert events == ["shutdown"]


@posix
def test_a_second_signal_changes_nothing(reactor, caplog):
    reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGTERM)
    reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGINT)
    reactor.run()
    assert caplog.records == []


@posix
def test_handlers_are_put_back_after_run(reactor):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []
    reactor.callWhenRunning(lambda: during.append(signal.getsignal(signal.SIGINT)))
    reactor.callWhenRunning(reactor.stop)
    reactor.run()
    assert during != [before[0]]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


@posix
def test_without_handlers_ctrl_c_goes_through_run_and_it_may_run_again(reactor):
    called = []
    reactor.callLater(0, os.kill, os.getpid(), signal.SIGINT)
    reactor.callLater(PATIENCE, reactor.crash)
    with pytest.raises(KeyboardInterrupt):
        reactor.run(installSignalHandlers=False)
    assert not reactor.running
    reactor.callLater(0, called.append, "again")
    reactor.callLater(0, reactor.stop)
    reactor.run(installSignalHandlers=False)
    assert called == ["again"]


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_that_the_program_has_set_stays(reactor, number):
    got = []
    before = signal.signal(number, lambda number, frame: got.append(number))
    try:
        reactor.callWhenRunning(os.kill, os.getpid(), number)
        pending = reactor.callLater(PATIENCE, reactor.crash)
        reactor.callLater(0, reactor.callLater, 0, reactor.stop)
        reactor.run()
    finally:
        signal.signal(number, before)
    assert got == [number]
    assert pending.active()


@posix
def test_an_ignored_signal_stays_ignored(reactor):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    later = []
    try:
        reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGINT)
        reactor.callLater(0, reactor.callLater, 0, later.append, "still running")
        reactor.callLater(0, reactor.callLater, 0, reactor.stop)
        reactor.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert later == ["still running"]


@posix
def test_a_handler_that_the_program_sets_while_it_runs_is_not_replaced_afterwards(reactor):
    def theirs(number, frame):
        pass

    before = signal.getsignal(signal.SIGTERM)
    try:
        reactor.callWhenRunning(signal.signal, signal.SIGTERM, theirs)
        reactor.callWhenRunning(reactor.stop)
        reactor.run()
        after = signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert after is theirs


def test_in_another_thread_a_reactor_runs_without_signals(reactor):
    events = []
    before = signal.getsignal(signal.SIGINT)
    reactor.addSystemEventTrigger("after", "shutdown", events.append, "shutdown")
    thread = threading.Thread(target=reactor.run)
    reactor.callWhenRunning(lambda: events.append(signal.getsignal(signal.SIGINT) is before))
    thread.start()
    reactor.callFromThread(reactor.callWhenRunning, reactor.stop)
    thread.join(PATIENCE)
    assert events == [True, "shutdown"]


@posix
def test_any_signal_wakes_the_loop_even_if_it_comes_just_before_it_sleeps(closing):
    # Its Python handler runs before the poll; only what the signal itself has sent ends that.
    polling = Watched()
    reactor = closing(Reactor(polling))
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        overslept = reactor.callLater(PATIENCE, reactor.crash)
        reactor.callLater(0, os.kill, os.getpid(), signal.SIGUSR1)
        reactor.callLater(0, reactor.callLater, 0.01, reactor.stop)
        reactor.run(installSignalHandlers=False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert overslept.active()
    assert polling.returned


class Interrupted(Watched):
    """A poller during whose first wait a signal comes."""

    def poll(self, timeout, most):
        if not self.timeouts:
            self.timeouts.append(timeout)
            signal.raise_signal(signal.SIGUSR1)
        return super().poll(timeout, most)


@posix
@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_B3_a_signal_handler_that_raises_while_the_loop_waits_is_logged(closing, caplog, error):
    def fail(number, frame):
        raise error("in a signal handler")

    reactor = closing(Reactor(Interrupted()))
    called = []
    before = signal.signal(signal.SIGUSR1, fail)
    try:
        reactor.callLater(0.01, called.append, "next")
        reactor.callLater(0.02, reactor.stop)
        reactor.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert called == ["next"]
    assert [record.exc_info[0] for record in caplog.records] == [error]


def test_a_poller_that_fails_ends_run(closing):
    class Broken(Watched):
        def poll(self, timeout, most):
            raise OSError("the poller has been closed")

    reactor = closing(Reactor(Broken()))
    with pytest.raises(OSError, match="has been closed"):
        reactor.run()


@posix
def test_ctrl_c_ends_an_idle_loop():
    """python/cpython #101166."""
    with python(
        """
        from minireactor import reactor
        from minireactor.protocol import Factory, Protocol

        reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        reactor.callWhenRunning(print, "ready")
        reactor.addSystemEventTrigger("before", "shutdown", print, "stopping")
        reactor.run()
        print("stopped")
        """
    ) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out, err) == (0, "stopping\nstopped\n", "")


@posix
def test_ctrl_c_ends_an_idle_loop_without_handlers_too():
    with python(
        """
        from minireactor import reactor

        reactor.callWhenRunning(print, "ready")
        try:
            reactor.run(installSignalHandlers=False)
        except KeyboardInterrupt:
            print("interrupted")
        """
    ) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out, err) == (0, "interrupted\n", "")


# --- Forks


@posix
def test_a_child_gets_a_clear_error_and_the_parent_goes_on():
    """python/asyncio #347."""
    out = output(
        """
        import os
        from minireactor import Reactor

        def fork():
            global child
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                reactor.callLater(0, print, "the parent goes on")
                reactor.callLater(0, reactor.stop)

        reactor = Reactor()
        parent = os.getpid()
        reactor.callWhenRunning(fork)
        try:
            reactor.run()
        except RuntimeError as error:
            assert child == 0 and f"process {parent}" in str(error), error
            print("the child is notified", flush=True)
            os._exit(0)
        """
    )
    assert out == "the child is notified\nthe parent goes on\n"


@posix
@pytest.mark.parametrize(
    "use",
    [
        "reactor.iterate()",
        "reactor.run()",
        "reactor.listenTCP(0, Factory(), interface='127.0.0.1')",
        "reactor.addReader(open(os.devnull))",
    ],
)
def test_whatever_a_child_does_with_its_parents_reactor_is_a_clear_error(use):
    out = output(
        f"""
        import os
        from minireactor import Reactor
        from minireactor.protocol import Factory

        reactor = Reactor()
        reactor.iterate()
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            reactor.callLater(0, print, "the parent goes on")
            reactor.iterate()
        else:
            try:
                {use}
            except RuntimeError as error:
                print("make a new one" in str(error), flush=True)
                os._exit(0)
        """
    )
    assert out == "True\nthe parent goes on\n"


@posix
def test_a_child_may_run_a_reactor_of_its_own():
    out = output(
        """
        import os
        from minireactor import Reactor

        def fork():
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                reactor.callLater(0, print, "the parent goes on")
                reactor.callLater(0, reactor.stop)
            else:
                own = Reactor()
                own.callLater(0, print, "the child has its own")
                own.callLater(0, own.stop)
                own.run()
                os._exit(0)

        reactor = Reactor()
        reactor.callWhenRunning(fork)
        reactor.run()
        """
    )
    assert out == "the child has its own\nthe parent goes on\n"


@posix
def test_a_signal_to_the_child_ends_the_child_and_leaves_the_parent_asleep():
    out = output(
        """
        import os, signal
        from minireactor import Reactor

        def fork():
            child = os.fork()
            if not child:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            print(os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM)
            waker = reactor.open()
            try:
                print(waker._inside.recv(1))
            except BlockingIOError:
                print("asleep")
            reactor.stop()

        reactor = Reactor()
        reactor.callWhenRunning(fork)
        reactor.run()
        """
    )
    assert out == "True\nasleep\n"


@pytest.mark.parametrize(
    ("ending", "seen"),
    [
        ("transport.abortConnection()", "ConnectionResetError"),
        ("transport.loseConnection()", "b''"),
        ("client.shutdown(socket.SHUT_WR)", "b''"),  # and the protocol then closes
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_T4_a_childs_copy_of_a_descriptor_keeps_no_connection_open(ending, seen):
    out = output(
        f"""
        import os, signal, socket
        from minireactor import Reactor
        from minireactor.protocol import Factory, Protocol

        class Closing(Protocol):
            def connectionMade(self):
                made.append(self.transport)
            def readConnectionLost(self):
                self.transport.loseConnection()
            def writeConnectionLost(self):
                pass
            def connectionLost(self, reason):
                made.append(reason)

        made = []
        reactor = Reactor()
        port = reactor.listenTCP(0, Factory.forProtocol(Closing), interface="127.0.0.1")
        client = socket.create_connection(("127.0.0.1", port.getHost().port), {PATIENCE})
        while not made:
            reactor.iterate(0.1)
        (transport,) = made
        child = os.fork()
        if child == 0:
            signal.pause()
        {ending}
        while len(made) < 2:
            reactor.iterate(0.1)
        try:
            print(client.recv(1))
        except OSError as error:
            print(type(error).__name__)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        """
    )
    assert out == f"{seen}\n"
