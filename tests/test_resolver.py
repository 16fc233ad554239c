"""Look-ups of names: shared, cached, limited in number, and never in the loop's thread."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading

import pytest
from support import PATIENCE, iterations, open_descriptors, output, pump

from minireactor import Reactor
from minireactor.error import ConnectError, DNSLookupError, ServiceNameUnknownError
from minireactor.testing import Clock
from minireactor.transports import resolver
from minireactor.transports.resolver import (
    FRESH_SECONDS,
    HUNG_SECONDS,
    MAX_LOOKUPS,
    REFRESH_SECONDS,
    STALE_SECONDS,
    USUAL_LOOKUPS,
    checked_host,
    checked_port,
)

try:
    import resource
except ImportError:
    resource = None


class Names:
    """Stands in for getaddrinfo(): `answers` has addresses or an exception for each host.

    `waiting` has an event for each host whose answer has to wait. `asked` has the look-ups."""

    def __init__(self):
        self.answers = {}
        self.waiting = {}
        self.asked = []
        self._real = socket.getaddrinfo

    def __call__(self, host, port, *arguments, flags=0, **options):
        if host not in self.answers:
            return self._real(host, port, *arguments, flags=flags, **options)
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        self.asked.append(host)
        if host in self.waiting:
            assert self.waiting[host].wait(6 * PATIENCE)
        answer = self.answers[host]
        if isinstance(answer, BaseException):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in answer]

    def hang(self, *hosts):
        """Make the look-ups of these hosts hang until an event is set. Return the event."""
        event = threading.Event()
        for host in hosts:
            self.answers.setdefault(host, ["192.0.2.9"])
            self.waiting[host] = event
        return event


@pytest.fixture
def names(monkeypatch):
    own = Names()
    monkeypatch.setattr(socket, "getaddrinfo", own)
    yield own
    for event in own.waiting.values():
        event.set()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reactor(closing, clock):
    return closing(Reactor(seconds=clock.seconds))


class Client:
    """A client of a reactor's resolver. `found` is the answer, `hosts` are its hosts."""

    def __init__(self, reactor, host, port=80):
        self.found = None
        self.query = reactor.resolver.resolve(host, port, self.take)

    def take(self, found):
        assert self.found is None, "answered twice"
        self.found = found

    @property
    def hosts(self):
        return [address[4][0] for address in self.found]


def answered(reactor, client):
    pump(reactor, lambda: client.found is not None, "an answer")
    return client


def await_lookups(reactor, names, count):
    """Wait until `count` look-ups run, and assert that no more of them begin."""
    pump(reactor, lambda: len(names.asked) >= count, "the look-ups")
    iterations(reactor)
    assert len(names.asked) == count


# --- Hosts and ports


@pytest.mark.parametrize("port", [0, 1, 65535, "80", "0080", "0", "http", "iso-tsap"])
def test_numbers_and_names_of_services_are_ports(port):
    number = str(port).isdecimal()
    assert checked_port(port) == (int(port) if number else port)


@pytest.mark.parametrize(
    "port",
    [
        *(-1, 65536, 2**70, 80.0, True, None, b"80", [80]),
        *("-1", "+80", " 80", "80 ", "65536", "9" * 30, "9" * 5000, "", "80\0x", "ht tp", "1.5"),
        "\N{FULLWIDTH DIGIT EIGHT}0",
    ],
)
def test_what_is_no_port_is_an_error_that_names_the_value(port):
    with pytest.raises(ConnectError) as caught:
        checked_port(port)
    assert repr(port).strip("'")[:10] in str(caught.value)
    assert "from 0 to 65535" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("host", ["", "a\0b", "127.0.0.1 x", "a\nb", "\x7f", None, 5, "a b" * 9999])
def test_what_is_no_host_is_an_error_that_names_the_value(host):
    with pytest.raises(DNSLookupError) as caught:
        checked_host(host)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "fe80::1%eth0", "b\xfccher.example"])
def test_names_and_addresses_are_hosts(host):
    assert checked_host(host) == host


def test_a_bad_host_or_port_is_answered_at_once_and_not_looked_up(reactor, names):
    assert isinstance(Client(reactor, "a\0b").found, DNSLookupError)
    assert isinstance(Client(reactor, "good.example", -1).found, ConnectError)
    assert names.asked == []


def test_a_number_is_answered_at_once(reactor):
    assert Client(reactor, "127.0.0.1").hosts == ["127.0.0.1"]


def test_a_number_is_kept_as_an_answer_is(reactor, clock, monkeypatch):
    asked = []
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a) or real(*a, **k))
    for port in (80, 443):
        assert Client(reactor, "127.0.0.1", port).found[0][4] == ("127.0.0.1", port)
    assert len(asked) == 1


def test_flags_are_a_keyword_and_given_for_numbers_only(reactor, monkeypatch):
    calls = []

    def fake(*arguments, **options):
        calls.append((arguments, options))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    answered(reactor, Client(reactor, "one.example"))
    answered(reactor, Client(reactor, "127.1"))
    kind = {"type": socket.SOCK_STREAM}
    assert calls == [
        (("one.example", 80), kind),
        (("127.1", 80), {**kind, "flags": socket.AI_NUMERICHOST}),
    ]


def test_T2_a_function_that_heeds_no_flags_is_not_asked_for_a_name_on_the_loops_thread(
    reactor, monkeypatch
):
    threads = []

    def own(host, port, *arguments, **options):
        threads.append(threading.current_thread())
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", own)
    clients = [Client(reactor, "one.example") for _ in range(3)]
    for client in clients:
        assert answered(reactor, client).hosts == ["192.0.2.1"]
    (thread,) = threads
    assert thread is not threading.current_thread()


# --- Shared and kept


def test_T3_all_who_ask_for_a_name_share_one_look_up(reactor, names):
    names.answers["one.example"] = ["192.0.2.1"]
    event = names.hang("one.example")
    clients = [Client(reactor, host) for host in ["one.example", "ONE.example"] * 50]
    await_lookups(reactor, names, 1)
    event.set()
    for client in clients:
        assert answered(reactor, client).hosts == ["192.0.2.1"]
    assert names.asked == ["one.example"]


def test_each_gets_the_port_that_it_has_asked_for(reactor, names):
    names.answers["one.example"] = ["192.0.2.1"]
    event = names.hang("one.example")
    clients = [Client(reactor, "one.example", port) for port in (80, "443", 8080)]
    event.set()
    ports = [answered(reactor, client).found[0][4][1] for client in clients]
    assert ports == [80, 443, 8080]
    assert Client(reactor, "one.example", 25).found[0][4][1] == 25


def test_an_answer_is_kept_for_a_while(reactor, names, clock):
    names.answers["one.example"] = ["192.0.2.1"]
    answered(reactor, Client(reactor, "one.example"))
    clock.advance(FRESH_SECONDS)
    assert Client(reactor, "one.example").hosts == ["192.0.2.1"]
    names.answers["one.example"] = ["192.0.2.2"]
    clock.advance(1)
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.2"]
    assert names.asked == ["one.example"] * 2


def test_what_a_program_does_to_its_list_changes_nothing_for_others(reactor, names):
    names.answers["one.example"] = ["192.0.2.1"]
    answered(reactor, Client(reactor, "one.example")).found.clear()
    for _ in range(2):
        client = Client(reactor, "one.example")
        assert client.hosts == ["192.0.2.1"]
        client.found.clear()


def test_an_answer_is_used_on_while_a_new_one_fails(reactor, names, clock):
    names.answers["one.example"] = ["192.0.2.1"]
    answered(reactor, Client(reactor, "one.example"))
    names.answers["one.example"] = socket.gaierror(socket.EAI_AGAIN, "no answer")
    clock.advance(STALE_SECONDS)
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.1"]
    assert names.asked == ["one.example"] * 2
    clock.advance(1)
    assert isinstance(answered(reactor, Client(reactor, "one.example")).found, DNSLookupError)


def test_an_answer_is_used_on_while_a_new_one_hangs(reactor, names, clock):
    names.answers["one.example"] = ["192.0.2.1"]
    answered(reactor, Client(reactor, "one.example"))
    clock.advance(FRESH_SECONDS + 1)
    names.hang("one.example")
    first, second = Client(reactor, "one.example"), Client(reactor, "one.example")
    await_lookups(reactor, names, 2)
    assert first.found is second.found is None
    clock.advance(REFRESH_SECONDS)
    assert answered(reactor, first).hosts == answered(reactor, second).hosts == ["192.0.2.1"]
    # From then on nobody waits for it.
    assert Client(reactor, "one.example").hosts == ["192.0.2.1"]
    assert len(names.asked) == 2


def test_an_answer_that_grows_too_old_meanwhile_is_not_used(reactor, names, clock):
    names.answers["one.example"] = ["192.0.2.1"]
    answered(reactor, Client(reactor, "one.example"))
    clock.advance(STALE_SECONDS)
    event = names.hang("one.example")
    client = Client(reactor, "one.example")
    await_lookups(reactor, names, 2)
    clock.advance(REFRESH_SECONDS)
    iterations(reactor)
    assert client.found is None
    names.answers["one.example"] = ["192.0.2.2"]
    event.set()
    assert answered(reactor, client).hosts == ["192.0.2.2"]


def test_a_failure_is_not_kept(reactor, names):
    names.answers["one.example"] = socket.gaierror(socket.EAI_NONAME, "unknown")
    failed = answered(reactor, Client(reactor, "one.example")).found
    assert isinstance(failed, DNSLookupError)
    assert "'one.example'" in str(failed)
    names.answers["one.example"] = ["192.0.2.1"]
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.1"]


def test_the_oldest_answers_make_room_for_new_ones(reactor, names, monkeypatch):
    monkeypatch.setattr(resolver, "MAX_CACHED", 2)
    for host in ("a.example", "b.example", "a.example", "c.example", "b.example", "a.example"):
        names.answers[host] = ["192.0.2.1"]
        answered(reactor, Client(reactor, host))
    assert names.asked == ["a.example", "b.example", "c.example", "a.example"]


@pytest.mark.parametrize(
    "error", [KeyError("own"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()]
)
def test_B3_a_function_of_a_program_that_breaks_is_an_answer(reactor, names, error):
    names.answers["one.example"] = error
    found = answered(reactor, Client(reactor, "one.example")).found
    assert isinstance(found, DNSLookupError)
    names.answers["one.example"] = ["192.0.2.1"]
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.1"]


def test_a_client_that_raises_on_its_answer_keeps_no_other_from_its_own(reactor, names, caplog):
    def broken(found):
        raise ZeroDivisionError

    names.answers["one.example"] = ["192.0.2.1"]
    reactor.resolver.resolve("one.example", 80, broken)
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.1"]
    assert len(caplog.records) == 1


# --- Nobody waits


def test_T3_a_look_up_that_nobody_waits_for_any_more_is_not_made(reactor, names):
    hung = [f"hung-{n}.example" for n in range(USUAL_LOOKUPS)]
    names.hang(*hung)
    names.answers["late.example"] = ["192.0.2.1"]
    clients = [Client(reactor, host) for host in hung]
    late = [Client(reactor, "late.example") for _ in range(2)]
    await_lookups(reactor, names, USUAL_LOOKUPS)
    for client in [*clients, *late]:
        client.query.cancel()
        client.query.cancel()
    iterations(reactor)
    assert "late.example" not in names.asked
    assert reactor.resolver._queue == {}


def test_a_client_that_gives_up_leaves_the_answer_to_the_other(reactor, names):
    names.answers["one.example"] = ["192.0.2.1"]
    event = names.hang("one.example")
    gone, other = Client(reactor, "one.example"), Client(reactor, "one.example")
    gone.query.cancel()
    event.set()
    assert answered(reactor, other).hosts == ["192.0.2.1"]
    assert gone.found is None


def test_a_client_that_gives_up_during_anothers_answer_gets_none(reactor, names):
    names.answers["one.example"] = ["192.0.2.1"]
    event = names.hang("one.example")
    reactor.resolver.resolve("one.example", 80, lambda found: second.query.cancel())
    second = Client(reactor, "one.example")
    third = Client(reactor, "one.example")
    event.set()
    answered(reactor, third)
    assert second.found is None


def test_the_next_to_ask_joins_a_look_up_that_was_left_alone(reactor, names):
    event = names.hang("one.example")
    Client(reactor, "one.example").query.cancel()
    again = Client(reactor, "one.example")
    await_lookups(reactor, names, 1)
    event.set()
    assert answered(reactor, again).hosts == ["192.0.2.9"]


# --- Names that hang


def test_T2_names_that_hang_do_not_block_others(reactor, names, clock):
    hung = [f"hung-{n}.example" for n in range(USUAL_LOOKUPS)]
    names.hang(*hung)
    names.answers["good.example"] = ["192.0.2.1"]
    for host in hung:
        Client(reactor, host)
    good = Client(reactor, "good.example")
    await_lookups(reactor, names, USUAL_LOOKUPS)
    clock.advance(HUNG_SECONDS)
    assert answered(reactor, good).hosts == ["192.0.2.1"]


def test_T2_names_that_hang_and_that_nobody_waits_for_block_nobody(reactor, names):
    hung = [f"hung-{n}.example" for n in range(USUAL_LOOKUPS)]
    names.hang(*hung)
    names.answers["good.example"] = ["192.0.2.1"]
    clients = [Client(reactor, host) for host in hung]
    good = Client(reactor, "good.example")
    clients[0].query.cancel()
    assert answered(reactor, good).hosts == ["192.0.2.1"]


def test_T2_numbers_and_localhost_wait_behind_nobody(reactor, names):
    hung = [f"hung-{n}.example" for n in range(USUAL_LOOKUPS)]
    names.hang(*hung)
    for host in hung:
        Client(reactor, host)
    names.answers["localhost"] = ["127.0.0.1"]
    assert Client(reactor, "127.0.0.1").hosts == ["127.0.0.1"]
    assert answered(reactor, Client(reactor, "localhost")).hosts == ["127.0.0.1"]


def test_T2_beyond_the_ceiling_of_look_ups_there_is_a_clear_error(
    reactor, names, clock, monkeypatch
):
    monkeypatch.setattr(resolver, "USUAL_LOOKUPS", 2)
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 5)
    hung = [f"hung-{n}.example" for n in range(5)]
    event = names.hang(*hung, "late.example")
    clients = [Client(reactor, host) for host in hung]
    late = Client(reactor, "late.example")
    for count in (2, 4, 5):
        await_lookups(reactor, names, count)
        assert late.found is None
        clock.advance(HUNG_SECONDS)
    assert "all of the 5 running look-ups" in str(answered(reactor, late).found)
    assert "late.example" not in names.asked
    event.set()
    assert all(answered(reactor, client).hosts for client in clients)
    assert answered(reactor, Client(reactor, "late.example")).hosts == ["192.0.2.9"]


def test_the_usual_number_is_far_below_the_ceiling():
    assert USUAL_LOOKUPS * 5 <= MAX_LOOKUPS


def test_its_timers_are_internal(reactor, names, clock):
    names.answers["one.example"] = ["192.0.2.1"]
    answered(reactor, Client(reactor, "one.example"))
    clock.advance(FRESH_SECONDS + 1)
    hung = [f"hung-{n}.example" for n in range(USUAL_LOOKUPS)]
    names.hang(*hung, "one.example")
    for host in ["one.example", *hung]:
        Client(reactor, host)
    assert reactor.getDelayedCalls() == []


def test_T2_a_look_up_that_hangs_does_not_keep_the_process():
    code = """
    import socket, threading, time
    asked = threading.Event()

    def hang(host, *arguments, **options):
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        asked.set()
        time.sleep(60)

    socket.getaddrinfo = hang
    from minireactor import reactor
    from minireactor.protocol import ClientFactory
    reactor.connectTCP("hung.example", 80, ClientFactory())
    reactor.callInThread(time.sleep, 60)

    def look():
        if asked.is_set():
            reactor.stop()
        else:
            reactor.callLater(0.01, look)

    reactor.callLater(0, look)
    began = time.monotonic()
    reactor.run()
    import atexit
    atexit.register(lambda: print(time.monotonic() - began < 30))
    """
    assert output(code) == "True\n"


def test_a_system_without_threads_is_an_answer(reactor, names, monkeypatch):
    def none_left(name, f, *arguments):
        raise RuntimeError("can't start new thread")

    names.answers["one.example"] = ["192.0.2.1"]
    with monkeypatch.context() as patch:
        patch.setattr(resolver, "start_daemon", none_left)
        found = answered(reactor, Client(reactor, "one.example")).found
    assert "can't start new thread" in str(found)
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.1"]


# --- Without descriptors


@contextlib.contextmanager
def no_descriptor_left(spare=0):
    if resource is None:
        pytest.skip("no way to use them up")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 16, limits[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("spare", [0, 1])
def test_out_of_descriptors_it_is_not_the_name_that_is_to_blame(reactor, names, spare):
    reactor.iterate()
    names.answers["one.example"] = UNKNOWN
    with no_descriptor_left(spare):
        found = answered(reactor, Client(reactor, "one.example")).found
    assert isinstance(found, ConnectError)
    assert found.osError == errno.EMFILE
    assert isinstance(answered(reactor, Client(reactor, "one.example")).found, DNSLookupError)


def test_nor_is_it_the_service(reactor, names):
    reactor.iterate()
    unknown = socket.gaierror(socket.EAI_SERVICE, "Servname not supported")
    names.answers["one.example"] = unknown
    with no_descriptor_left():
        found = answered(reactor, Client(reactor, "one.example", "http")).found
    assert found.osError == errno.EMFILE
    found = answered(reactor, Client(reactor, "one.example", "http")).found
    assert isinstance(found, ServiceNameUnknownError)


def test_a_specific_error_is_taken_as_it_is(reactor, names):
    names.answers["one.example"] = OSError(errno.ENFILE, "Too many open files in system")
    assert answered(reactor, Client(reactor, "one.example")).found.osError == errno.ENFILE


def test_a_lingering_socket_is_reclaimed_for_a_look_up(reactor, names, monkeypatch):
    def reclaim(own, limit):
        names.answers["one.example"] = ["192.0.2.1"]
        return True

    names.answers["one.example"] = OSError(errno.EMFILE, "none left")
    monkeypatch.setattr(resolver.Lingering, "reclaim", reclaim)
    assert answered(reactor, Client(reactor, "one.example")).hosts == ["192.0.2.1"]
    assert len(names.asked) == 2


def test_it_reclaims_descriptors_once_only(reactor, names, monkeypatch):
    names.answers["one.example"] = OSError(errno.EMFILE, "none left")
    asked = []
    monkeypatch.setattr(resolver.Lingering, "reclaim", lambda own, limit: not asked.append(limit))
    assert answered(reactor, Client(reactor, "one.example")).found.osError == errno.EMFILE
    assert len(asked) == 1


# --- Another one


def test_a_resolver_of_ones_own_may_take_its_place(closing):
    class Fixed:
        def resolve(self, host, port, answer):
            answer(DNSLookupError(f"no {host} here"))
            return self

        def cancel(self):
            pass

    from support import RecordingClientFactory

    reactor = closing(Reactor(resolver=Fixed()))
    factory = RecordingClientFactory()
    reactor.connectTCP("one.example", 80, factory)
    pump(reactor, lambda: factory.reason is not None)
    assert "no one.example here" in factory.reason.getErrorMessage()
