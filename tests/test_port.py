"""Listening ports: opening, closing, accepting, and a lack of descriptors."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket

import pytest
from scripted import ScriptedPoller
from support import (
    PATIENCE,
    OneFactory,
    Recorder,
    Watched,
    connect,
    forked,
    iterations,
    open_descriptors,
    pump,
    receive,
    served,
)

from minireactor import Reactor
from minireactor.address import IPv4Address, IPv6Address
from minireactor.core import system
from minireactor.error import CannotListenError, ConnectionDone
from minireactor.log import WARN_SECONDS
from minireactor.testing import Clock
from minireactor.transports import port, tcp

try:
    import resource
except ImportError:
    resource = None

LOCAL = "127.0.0.1"


class Echo(Recorder):
    def dataReceived(self, data):
        super().dataReceived(data)
        self.transport.write(data)


class Counting(OneFactory):
    """Counts its starts and stops."""

    def __init__(self, *protocols):
        super().__init__(*protocols)
        self.calls = []

    def startFactory(self):
        self.calls.append("start")

    def stopFactory(self):
        self.calls.append("stop")


class Faulty:
    """A listening socket whose accept() first raises `faults`. `accepts` counts the calls."""

    def __init__(self, sock, *faults):
        self._socket = sock
        self.faults = list(faults)
        self.accepts = 0
        self.fileno = sock.fileno
        self.close = sock.close
        self.shutdown = sock.shutdown

    def accept(self):
        self.accepts += 1
        if self.faults:
            number = self.faults.pop(0)
            raise OSError(number, os.strerror(number))
        return self._socket.accept()


def listen(reactor, factory=None, **options):
    return reactor.listenTCP(0, factory or OneFactory(), **{"interface": LOCAL, **options})


def answers(reactor, client):
    """Return whether the echo server of `client` answers."""
    client.send(b"?")
    return receive(reactor, client, 1) == b"?"


def closed(client):
    """Return whether the client's connection has been closed."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# --- Opening


def test_a_port_accepts_connections_and_builds_their_protocols(reactor, closing):
    factory = OneFactory(Echo())
    client = closing(connect(listen(reactor, factory)))
    assert answers(reactor, client)
    assert factory.built[0].transport.getPeer() == IPv4Address("TCP", *client.getsockname())


def test_the_factory_is_given_the_address_of_the_peer(reactor, closing):
    class Asking(OneFactory):
        def buildProtocol(self, addr):
            asked.append(addr)
            return super().buildProtocol(addr)

    asked = []
    client = closing(connect(listen(reactor, Asking())))
    pump(reactor, lambda: asked)
    assert asked == [IPv4Address("TCP", *client.getsockname())]


def test_getHost_has_the_real_port_number(reactor):
    host = listen(reactor).getHost()
    assert (host.type, host.host) == ("TCP", LOCAL)
    assert host.port > 0


def test_without_interface_it_listens_on_all_of_them(reactor, closing):
    own = reactor.listenTCP(0, OneFactory(Echo()))
    client = closing(connect(own))
    assert own.getHost().host == "0.0.0.0"
    assert answers(reactor, client)


def test_IPv6_literals_are_taken(reactor, closing):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    own = listen(reactor, OneFactory(Echo()), interface="::1")
    host = own.getHost()
    client = closing(socket.create_connection((host.host, host.port), timeout=PATIENCE))
    assert isinstance(host, IPv6Address)
    assert host.host == "::1"
    assert answers(reactor, client)


def test_a_port_number_in_use_is_an_error_that_says_which(reactor):
    number = listen(reactor).getHost().port
    with pytest.raises(CannotListenError) as caught:
        listen_on(reactor, number)
    error = caught.value
    assert (error.interface, error.port) == (LOCAL, number)
    assert error.socketError.errno == errno.EADDRINUSE
    assert str(error) == f"Cannot listen on {LOCAL}:{number}: {error.socketError}."
    assert os.strerror(errno.EADDRINUSE) in str(error)


def listen_on(reactor, number):
    return reactor.listenTCP(number, OneFactory(), interface=LOCAL)


def test_an_interface_that_is_not_ours_is_an_error_that_says_so(reactor):
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1:0: .*assign requested address"):
        listen(reactor, interface="192.0.2.1")


@pytest.mark.parametrize("interface", ["a" * 300, ".."])
def test_an_interface_that_is_no_address_is_an_error(reactor, interface):
    with pytest.raises(CannotListenError) as caught:
        listen(reactor, interface=interface)
    assert caught.value.interface == interface


@pytest.mark.parametrize("number", [-1, 65536, 70000, 10**12])
def test_a_port_number_out_of_range_is_an_error_and_not_taken_modulo(reactor, number):
    with pytest.raises(CannotListenError, match=rf"{LOCAL}:{number}: "):
        listen_on(reactor, number)
    assert reactor.getReaders() == []


@pytest.mark.parametrize("number", ["80", 80.0, True, None, b"80"])
def test_a_port_number_that_is_no_int_is_a_TypeError_that_names_it(reactor, number):
    with pytest.raises(TypeError, match=f"not {number!r}"):
        listen_on(reactor, number)
    assert reactor.getReaders() == []


@pytest.mark.parametrize("interface", ["127.0.0.1\0.example.com", "127.0.0.1 x", " ", b"a\0b"])
def test_an_interface_with_a_NUL_or_a_blank_is_an_error(reactor, interface):
    with pytest.raises(CannotListenError, match="a space or a control character"):
        listen(reactor, interface=interface)


def test_an_interface_that_is_no_text_is_a_TypeError(reactor):
    with pytest.raises(TypeError, match="interface=5 is not valid"):
        listen(reactor, interface=5)


def test_an_interface_may_be_bytes(reactor):
    assert listen(reactor, interface=LOCAL.encode()).getHost().host == LOCAL


def test_a_socket_that_cannot_be_watched_is_an_error_and_leaves_nothing_behind(closing):
    class Full(ScriptedPoller):
        def watch(self, fd, events, before):
            if len(self.masks) == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().watch(fd, events, before)

    reactor = closing(Reactor(Full()))
    reactor.iterate()
    before = open_descriptors()
    factory = Counting()
    with pytest.raises(CannotListenError, match="No space left"):
        listen(reactor, factory)
    assert factory.calls == ["start", "stop"]
    assert open_descriptors() == before
    assert reactor.getReaders() == []


# --- Several addresses


OTHER = "127.0.0.2"
ABSENT = "198.51.100.1"


@pytest.fixture
def named(monkeypatch):
    """A function that sets the addresses of "server.example"."""
    real = socket.getaddrinfo
    has = []

    def fake(host, number, *a, **k):
        if host != "server.example":
            return real(host, number, *a, **k)
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (
                families[":" in each],
                socket.SOCK_STREAM,
                6,
                "",
                (each, 0, 0, 0)[: 4 if ":" in each else 2],
            )
            for each in has
        ]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return lambda *addresses: has.extend(addresses) or "server.example"


@pytest.fixture
def two_loopbacks():
    try:
        socket.create_server((OTHER, 0)).close()
    except OSError:
        pytest.skip(f"{OTHER} is not ours here")


def reaches(closing, host, own):
    return closing(socket.create_connection((host, own.getHost().port), timeout=PATIENCE))


def test_T3_all_addresses_of_a_name_are_listened_on_under_one_number(
    reactor, closing, named, two_loopbacks
):
    own = listen(reactor, OneFactory(Echo(), Echo()), interface=named(LOCAL, OTHER, LOCAL))
    assert own.getHost().host == LOCAL
    for host in (LOCAL, OTHER):
        client = reaches(closing, host, own)
        assert answers(reactor, client)
        connection = own.factory.built[-1].transport
        assert connection.getHost() == IPv4Address("TCP", host, own.getHost().port)


def test_T3_addresses_that_this_machine_does_not_have_are_passed_over(reactor, closing, named):
    own = listen(reactor, OneFactory(Echo()), interface=named("2001:db8::1", ABSENT, LOCAL))
    assert own.getHost().host == LOCAL
    assert answers(reactor, connect_to(closing, own))


def connect_to(closing, own):
    return closing(connect(own))


def test_T3_a_name_without_any_address_of_this_machine_is_an_error(reactor, named):
    with pytest.raises(CannotListenError) as caught:
        listen(reactor, interface=named(ABSENT, "203.0.113.1"))
    assert caught.value.socketError.errno == errno.EADDRNOTAVAIL


def test_T3_a_port_number_in_use_on_one_address_is_an_error(reactor, closing, named, two_loopbacks):
    taken = closing(socket.create_server((OTHER, 0)))
    reactor.iterate()
    before = open_descriptors()
    factory = Counting()
    with pytest.raises(CannotListenError) as caught:
        reactor.listenTCP(taken.getsockname()[1], factory, interface=named(LOCAL, OTHER))
    assert caught.value.socketError.errno == errno.EADDRINUSE
    assert open_descriptors() == before
    assert factory.calls == []


def test_T3_a_chosen_port_number_in_use_on_another_address_is_chosen_anew(
    reactor, named, two_loopbacks, monkeypatch
):
    class Taken(system.ListeningSocket):
        def bind(self, address):
            if address[0] == OTHER and len(tried) < 3:
                tried.append(address[1])
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            super().bind(address)

    tried = []
    monkeypatch.setattr(system, "ListeningSocket", Taken)
    own = listen(reactor, interface=named(LOCAL, OTHER))
    assert len(tried) == 3
    assert len(reactor.getReaders()) == 2
    own.stopListening()
    monkeypatch.setattr(tcp, "MAX_TRIES", 1)
    tried.clear()
    with pytest.raises(CannotListenError):
        own.startListening()


def test_T3_IPv6_and_IPv4_of_a_name_have_a_socket_each(reactor, closing, named):
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    own = listen(reactor, OneFactory(Echo(), Echo()), interface=named("::", "0.0.0.0"))
    for host in ("::1", LOCAL):
        assert answers(reactor, reaches(closing, host, own))
    assert {len(each.transport.getHost().host) > 4 for each in own.factory.built} == {True, False}


def test_all_IPv6_addresses_take_IPv4_as_well_where_the_system_does(reactor, closing):
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
        with socket.socket(socket.AF_INET6) as plain:
            v6_only = plain.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        pytest.skip("no IPv6 here")
    if v6_only:
        pytest.skip("not the default here")
    own = listen(reactor, OneFactory(Echo()), interface="::")
    assert answers(reactor, reaches(closing, LOCAL, own))


def test_T3_a_port_of_several_addresses_stops_and_starts_as_a_whole(
    reactor, closing, named, two_loopbacks
):
    reactor.iterate()
    before = open_descriptors()
    factory = Counting(Echo(), Echo())
    own = listen(reactor, factory, interface=named(LOCAL, OTHER))
    assert len(reactor.getReaders()) == 2
    assert all("127.0" in repr(each) or "example" in repr(each) for each in reactor.getReaders())
    own.stopListening()
    assert open_descriptors() == before
    assert reactor.getReaders() == []
    own.startListening()
    for host in (LOCAL, OTHER):
        assert answers(reactor, reaches(closing, host, own))
    own.stopListening()
    assert factory.calls == ["start", "stop", "start", "stop"]


def test_T3_a_reactor_that_ends_closes_all_addresses(closing, named, two_loopbacks):
    reactor = closing(Reactor())
    before = open_descriptors()
    factory = Counting()
    own = listen(reactor, factory, interface=named(LOCAL, OTHER))
    reactor.callLater(0, reactor.stop)
    reactor.run(installSignalHandlers=False)
    assert factory.calls == ["start", "stop"]
    assert not own.connected
    assert open_descriptors() == before


def test_T3_what_a_factory_raises_on_a_further_address_ends_one_connection(
    reactor, closing, named, two_loopbacks, caplog
):
    class Raising(OneFactory):
        def buildProtocol(self, addr):
            if not self.waiting:
                raise ZeroDivisionError("in buildProtocol")
            return super().buildProtocol(addr)

    own = listen(reactor, Raising(), interface=named(LOCAL, OTHER))
    refused = reaches(closing, OTHER, own)
    pump(reactor, lambda: caplog.records)
    assert closed(refused)
    own.factory.waiting = [Echo()]
    assert answers(reactor, reaches(closing, OTHER, own))


@pytest.mark.parametrize("faults", [[errno.ENOMEM], [errno.EMFILE] * 2], ids=["memory", "files"])
def test_a_further_address_rests_alone(ticking, closing, named, two_loopbacks, faults):
    reactor, clock, _ = ticking
    own = listen(reactor, OneFactory(Echo(), Echo()), interface=named(LOCAL, OTHER))
    further = next(each for each in reactor.getReaders() if each is not own)
    further.socket = Faulty(further.socket, *faults)
    late = reaches(closing, OTHER, own)
    iterations(reactor)
    assert not further.reading
    assert answers(reactor, connect_to(closing, own))
    clock.advance(port.REST_SECONDS)
    assert answers(reactor, late)


def test_a_port_that_could_not_open_leaves_nothing_behind(reactor):
    number = listen(reactor).getHost().port
    factory = Counting()
    before = open_descriptors()
    with pytest.raises(CannotListenError):
        reactor.listenTCP(number, factory, interface=LOCAL)
    assert open_descriptors() == before
    assert factory.calls == []


def test_a_factory_that_cannot_start_leaves_nothing_behind(reactor):
    class Broken(OneFactory):
        def startFactory(self):
            raise ZeroDivisionError("in startFactory")

    reactor.iterate()
    before = open_descriptors()
    with pytest.raises(ZeroDivisionError):
        listen(reactor, Broken())
    assert open_descriptors() == before
    assert reactor.getReaders() == []


def test_a_factory_may_prepare_each_listening_socket_before_it_starts(
    reactor, named, two_loopbacks
):
    class Preparing(OneFactory):
        def prepare_listening(self, sock):
            calls.append(sock.getsockname()[0])

        def startFactory(self):
            calls.append("start")

    calls = []
    port = listen(reactor, Preparing(), interface=named(LOCAL, OTHER))
    expected = [LOCAL, OTHER, "start"]
    assert calls == expected
    port.stopListening()
    port.startListening()
    assert calls == expected * 2


def test_the_kernel_gets_the_backlog(reactor, monkeypatch):
    asked = []
    monkeypatch.setattr(
        system.ListeningSocket, "listen", lambda self, backlog: asked.append(backlog), raising=False
    )
    listen(reactor)
    listen(reactor, backlog=7)
    assert asked == [50, 7]


# --- Closing and opening again


def test_stopListening_closes_at_once_and_gives_a_Deferred(reactor):
    own = listen(reactor)
    fired = []
    own.stopListening().addCallback(fired.append)
    iterations(reactor)
    assert fired == [None]
    with pytest.raises(ConnectionRefusedError):
        connect(own)


def test_loseConnection_is_stopListening_and_takes_an_argument(reactor):
    own = listen(reactor)
    fired = []
    own.loseConnection(None).addCallback(fired.append)
    assert fired == [None]
    assert own.disconnected


@pytest.mark.parametrize("error", [ZeroDivisionError, GeneratorExit])
def test_what_stopFactory_raises_comes_as_a_failure_of_the_Deferred(reactor, caplog, error):
    class Broken(Counting):
        def stopFactory(self):
            super().stopFactory()
            raise error("in stopFactory")

    own = listen(reactor, Broken())
    failures = []
    own.stopListening().addErrback(failures.append)
    assert [failure.type for failure in failures] == [error]
    assert caplog.records == []
    assert (own.connected, own.fileno()) == (False, -1)
    own.startListening()
    own.loseConnection().addErrback(failures.append)
    assert own.factory.calls == ["start", "stop", "start", "stop"]


def test_a_failure_that_nobody_takes_is_logged(reactor, caplog):
    class Broken(Counting):
        def stopFactory(self):
            raise ZeroDivisionError("in stopFactory")

    listen(reactor, Broken()).stopListening()
    gc.collect()
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_T4_a_port_that_is_stopped_takes_nobody_though_a_child_has_its_socket(reactor):
    own = listen(reactor)
    with forked():
        own.stopListening()
        with pytest.raises(ConnectionRefusedError):
            connect(own)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_T4_a_buildProtocol_that_forks_and_raises_ends_the_connection(reactor, closing, caplog):
    class Forking(OneFactory):
        def buildProtocol(self, addr):
            stack.enter_context(forked())
            raise ZeroDivisionError("in buildProtocol")

    with contextlib.ExitStack() as stack:
        client = closing(connect(listen(reactor, Forking())))
        client.setblocking(False)
        pump(reactor, lambda: closed(client), "the end")
    caplog.clear()


def test_stopListening_twice_is_harmless(reactor):
    factory = Counting()
    own = listen(reactor, factory)
    own.stopListening()
    own.stopListening()
    assert factory.calls == ["start", "stop"]


def test_connected_and_disconnected_give_the_state(reactor):
    own = listen(reactor)
    states = [(own.connected, own.disconnected)]
    own.stopListening()
    states.append((own.connected, own.disconnected))
    own.startListening()
    states.append((own.connected, own.disconnected))
    assert states == [(True, False), (False, True), (True, False)]


def test_accepted_connections_outlive_the_port(reactor, closing):
    own = listen(reactor, OneFactory(Echo()))
    client = closing(connect(own))
    assert answers(reactor, client)
    own.stopListening()
    assert answers(reactor, client)


def test_a_port_can_be_started_again(reactor, closing):
    factory = Counting(Echo(), Echo())
    own = listen(reactor, factory)
    own.stopListening()
    own.startListening()
    own.startListening()
    assert answers(reactor, closing(connect(own)))
    own.stopListening()
    assert factory.calls == ["start", "stop", "start", "stop"]


def test_its_port_number_can_be_bound_again_at_once_though_connections_are_open(reactor, closing):
    own = listen(reactor, OneFactory(Echo(), Echo()))
    number = own.getHost().port
    client = closing(connect(own))
    assert answers(reactor, client)
    own.stopListening()
    again = reactor.listenTCP(number, OneFactory(Echo()), interface=LOCAL)
    assert answers(reactor, closing(connect(again)))


def test_its_port_number_can_be_bound_again_after_the_server_has_closed_first(reactor, closing):
    protocol = Echo()
    own = listen(reactor, OneFactory(protocol))
    number = own.getHost().port
    client = closing(connect(own))
    pump(reactor, lambda: protocol.transport is not None)
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    client.close()  # which leaves our side in TIME_WAIT
    own.stopListening()
    iterations(reactor)
    assert reactor.listenTCP(number, OneFactory(), interface=LOCAL).getHost().port == number


def test_one_factory_on_two_ports_starts_and_stops_once_for_each_period_of_use(reactor):
    factory = Counting()
    one, other = listen(reactor, factory), listen(reactor, factory)
    one.stopListening()
    assert factory.calls == ["start"]
    other.stopListening()
    one.startListening()
    one.stopListening()
    assert factory.calls == ["start", "stop", "start", "stop"]


def test_a_port_may_be_started_again_by_its_factorys_stopFactory(reactor, closing):
    class Restarting(Counting):
        def stopFactory(self):
            super().stopFactory()
            if len(self.calls) == 2:
                own.startListening()

    factory = Restarting(Echo())
    own = listen(reactor, factory)
    own.stopListening()
    assert answers(reactor, closing(connect(own)))
    assert factory.calls == ["start", "stop", "start"]


def test_getHost_before_it_ever_listened_is_a_clear_error(reactor):
    with pytest.raises(RuntimeError, match="no address yet"):
        tcp.TCPPort(0, OneFactory(), 50, LOCAL, reactor).getHost()


def test_the_port_that_is_closed_has_no_descriptor_but_still_an_address(reactor):
    own = listen(reactor)
    host = own.getHost()
    assert own.fileno() == own.getHandle().fileno() >= 0
    own.stopListening()
    assert (own.fileno(), own.getHandle()) == (-1, None)
    assert own.getHost() == host


# --- Accepting


def test_stopListening_inside_buildProtocol_does_not_spoil_that_connection(reactor, closing):
    class Once(OneFactory):
        def buildProtocol(self, addr):
            own.stopListening()
            return super().buildProtocol(addr)

    factory = Once(Echo())
    own = listen(reactor, factory)
    client = closing(connect(own))
    assert answers(reactor, client)
    assert len(factory.built) == 1


def test_stopListening_inside_connectionMade_ends_the_accepting(reactor, closing):
    class Once(Recorder):
        def connectionMade(self):
            super().connectionMade()
            own.stopListening()

    factory = OneFactory(*(Once() for _ in range(8)))
    own = listen(reactor, factory)
    own.batch = 8
    clients = [closing(connect(own)) for _ in range(8)]
    pump(reactor, lambda: factory.built)
    iterations(reactor)
    assert len(factory.built) == 1
    assert len(clients) == 8


def test_buildProtocol_that_gives_None_closes_gracefully(reactor, closing):
    class Closed(OneFactory):
        def buildProtocol(self, addr):
            rejected.append(addr)

    rejected = []
    own = listen(reactor, Closed())
    client = closing(connect(own))
    client.sendall(b"an eager client sends before it is let in")
    pump(reactor, lambda: rejected)
    iterations(reactor)
    assert client.recv(100) == b""
    client.sendall(b"and goes on")
    iterations(reactor)
    assert client.recv(100) == b""
    assert own.connected


def test_buildProtocol_that_raises_closes_that_connection_only(reactor, closing, caplog):
    class Raising(OneFactory):
        def buildProtocol(self, addr):
            if not self.waiting:
                raise ZeroDivisionError("in buildProtocol")
            return super().buildProtocol(addr)

    factory = Raising(Echo())
    own = listen(reactor, factory)
    served_one = closing(connect(own))
    assert answers(reactor, served_one)
    refused = closing(connect(own))
    pump(reactor, lambda: caplog.records)
    factory.waiting.append(Echo())
    assert closed(refused)
    assert answers(reactor, served_one)
    assert answers(reactor, closing(connect(own)))
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_T4_buildProtocol_that_forks_and_raises_closes_the_connection(reactor, closing, caplog):
    class Raising(OneFactory):
        def buildProtocol(self, addr):
            child.enter_context(forked())
            raise ZeroDivisionError("in buildProtocol")

    with contextlib.ExitStack() as child:
        client = closing(connect(listen(reactor, Raising())))
        pump(reactor, lambda: caplog.records)
        assert client.recv(1) == b""


def test_buildProtocol_that_is_interrupted_closes_the_connection_and_goes_through(reactor, closing):
    class Interrupted(OneFactory):
        def buildProtocol(self, addr):
            raise KeyboardInterrupt

    client = closing(connect(listen(reactor, Interrupted())))
    with pytest.raises(KeyboardInterrupt):
        pump(reactor, lambda: False)
    assert closed(client)


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ECONNRESET])
def test_a_peer_that_has_gone_before_it_is_accepted_disturbs_nobody(
    reactor, closing, caplog, number
):
    own = listen(reactor, OneFactory(Echo()))
    own.socket = Faulty(own.socket, number)
    assert answers(reactor, closing(connect(own)))
    assert own.socket.accepts >= 2
    assert caplog.records == []


def test_a_connection_that_was_reset_before_it_was_accepted_is_made_and_lost(reactor, closing):
    from support import reset

    protocol = Recorder()
    own = listen(reactor, OneFactory(protocol, Echo()))
    reset(connect(own))
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.calls == ["made", "lost"]
    assert answers(reactor, closing(connect(own)))


def test_marks_of_connections_to_come_can_be_set(reactor, closing):
    first, second = Recorder(), Recorder()
    own = listen(reactor, OneFactory(first, second))
    closing(connect(own))
    pump(reactor, lambda: first.transport is not None)
    own.setWriteBufferLimits(1000, 10)
    closing(connect(own))
    pump(reactor, lambda: second.transport is not None)
    assert (first.transport.bufferSize, second.transport.bufferSize) == (64 * 1024, 1000)
    with pytest.raises(ValueError, match="high=10 and low=20"):
        own.setWriteBufferLimits(10, 20)


def test_a_Port_has_a_log_prefix_and_a_repr_that_names_it(reactor):
    own = listen(reactor)
    assert own.logPrefix() == "OneFactory (port)"
    assert repr(own) == f"<Port {LOCAL}:{own.getHost().port} of OneFactory>"


# --- A crowd


@pytest.fixture
def many_descriptors():
    """Raise the limit of descriptors to 2,100 at least."""
    if resource is None:
        pytest.skip("no way to know how many descriptors there are")
    count = 2100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"{count} descriptors are needed, {hard} allowed")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_R4_a_thousand_connects_at_once_leave_time_for_established_connections(
    many_descriptors, reactor, closing
):
    """tornado 4.0.2."""
    crowd = 1000
    factory = OneFactory(Echo())
    own = listen(reactor, factory, backlog=2 * crowd)
    inside = closing(connect(own))
    assert answers(reactor, inside)
    address = own.getHost().host, own.getHost().port
    for _ in range(crowd):
        client = closing(socket.socket())
        client.setblocking(False)
        client.connect_ex(address)
    inside.setblocking(False)
    inside.send(b"?")
    round_trips = 0
    most = 0

    def all_are_in():
        nonlocal round_trips, most
        before = len(factory.built)
        reactor.iterate(0.001)
        most = max(most, len(factory.built) - before)
        with contextlib.suppress(BlockingIOError):
            inside.recv(1)
            inside.send(b"?")
            round_trips += 1
        return len(factory.built) == crowd + 1

    pump(reactor, all_are_in, "the crowd")
    assert most <= 64
    assert round_trips >= crowd // 64 // 2
    assert all(protocol.calls[0] == "made" for protocol in factory.built)


def test_T5_accepting_is_bounded_in_time(ticking, closing):
    reactor, clock, _ = ticking

    class Slow(Recorder):
        def connectionMade(self):
            super().connectionMade()
            clock.advance(port.ACCEPT_SECONDS / 2)

    factory = OneFactory(*(Slow() for _ in range(8)))
    own = listen(reactor, factory)
    own.batch = 8
    clients = [closing(connect(own)) for _ in range(8)]
    accepted = []
    while len(factory.built) < len(clients):
        before = len(factory.built)
        reactor.iterate(PATIENCE)
        accepted.append(len(factory.built) - before)
    assert accepted == [2, 2, 2, 2]


def test_an_iteration_accepts_with_one_system_call_a_connection(reactor, closing):
    own = listen(reactor, OneFactory(Echo(), Echo(), Echo()))
    own.socket = Faulty(own.socket)
    assert answers(reactor, closing(connect(own)))
    assert own.socket.accepts == 1


# --- Without descriptors


@contextlib.contextmanager
def no_descriptor_left():
    """In this block, every new descriptor fails with EMFILE."""
    if resource is None:
        pytest.skip("no way to use them up")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 16, limits[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_out_of_descriptors_it_is_not_the_name_that_is_to_blame(reactor, monkeypatch):
    def unknown(*a, **k):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    reactor.iterate()
    with no_descriptor_left(), pytest.raises(CannotListenError) as caught:
        listen(reactor, interface="server.example")
    assert caught.value.socketError.errno == errno.EMFILE
    with pytest.raises(CannotListenError, match="not known"):
        listen(reactor, interface="server.example")


@pytest.fixture
def crowded_port(closing):
    """Return (reactor, watched poller, port, connected client, three unconnected sockets)."""
    polling = Watched()
    reactor = closing(Reactor(polling))
    own = listen(reactor, OneFactory(Echo(), Echo(), Echo()))
    inside = closing(connect(own))
    assert answers(reactor, inside)
    waiting = [closing(socket.socket()) for _ in range(3)]
    return reactor, polling, own, inside, waiting


def come(own, clients):
    for client in clients:
        client.connect((own.getHost().host, own.getHost().port))
        client.setblocking(False)


def test_without_descriptors_waiting_peers_are_rejected(crowded_port, caplog):
    """twisted #5368, python/cpython #151615."""
    reactor, _, own, inside, waiting = crowded_port
    with no_descriptor_left():
        come(own, waiting)
        iterations(reactor)
        rejected = [closed(client) for client in waiting]
        alive = answers(reactor, inside)
    assert rejected == [True, True, True]
    assert alive
    assert len(own.factory.built) == 1
    assert "peers rejected so far: 3" in caplog.text


def test_warnings_about_rejected_peers_are_few_and_name_no_class(crowded_port, caplog):
    reactor, _, own, _, waiting = crowded_port
    with no_descriptor_left():
        for number, client in enumerate(waiting):
            if number == 2:
                own._next_warning -= WARN_SECONDS  # as if that long had passed
            come(own, [client])
            iterations(reactor)
    first, second = [record.getMessage() for record in caplog.records]
    begin = f"no descriptor left for connections to 127.0.0.1:{own.getHost().port}; peers rejected"
    assert first.startswith(f"{begin} so far: 1;")
    assert second.startswith(f"{begin} so far: 3;")


def test_lingering_sockets_are_reclaimed_for_waiting_peers(reactor, closing):
    own = listen(reactor, OneFactory(*[Echo() for _ in range(6)]))
    # Given clients that have been served, have got everything, and do not close...
    served = [closing(connect(own)) for _ in range(3)]
    assert all(answers(reactor, client) for client in served)
    for protocol in own.factory.built:
        protocol.transport.loseConnection()
    iterations(reactor)
    waiting = [closing(socket.socket()) for _ in range(3)]
    with no_descriptor_left():
        # ... new peers are not rejected because of them.
        come(own, waiting)
        iterations(reactor)
        alive = [answers(reactor, client) for client in waiting]
    assert alive == [True, True, True]
    assert [client.recv(1) for client in served] == [b"", b"", b""]


def test_a_spare_descriptor_that_got_lost_is_replaced(reactor, closing):
    own = listen(reactor, OneFactory(Echo()))
    own._drop_spare()  # as if a thread had taken the descriptor before the port took it again
    assert answers(reactor, closing(connect(own)))
    os.fstat(own._spare)


def test_without_descriptors_the_loop_stays_idle(crowded_port):
    reactor, polling, own, _, waiting = crowded_port
    with no_descriptor_left():
        come(own, waiting)
        iterations(reactor)
        del polling.returned[:]
        iterations(reactor, 100)
        busy = len(polling.returned)
    assert busy == 0


def test_accepting_resumes_when_there_are_descriptors_again(crowded_port, closing):
    reactor, _, own, _, waiting = crowded_port
    with no_descriptor_left():
        come(own, waiting)
        iterations(reactor)
    assert answers(reactor, closing(connect(own)))


def test_all_descriptors_come_back_when_the_port_closes(crowded_port):
    reactor, _, own, _, waiting = crowded_port
    before = open_descriptors()
    number = own.fileno()
    with no_descriptor_left():
        come(own, waiting)
        iterations(reactor)
    own.stopListening()
    gone = before - open_descriptors()
    assert number in gone
    assert len(gone) == 2  # the port, and what it kept in reserve


def test_a_lack_of_descriptors_does_not_stop_accepting_when_nobody_waits(
    reactor, closing, caplog, monkeypatch
):
    monkeypatch.setattr(port, "ACCEPT_SECONDS", 60.0)  # both calls of accept() in one iteration
    # Linux asks for a descriptor first, and only then looks whether anybody is there.
    own = listen(reactor, OneFactory(Echo(), Echo()))
    own.socket = Faulty(own.socket)
    own.batch = 2
    client = closing(connect(own))

    class Full(Faulty):
        def accept(self):
            if self.accepts == 1:
                self.faults = [errno.EMFILE]
            return super().accept()

    own.socket = Full(own.socket)
    assert answers(reactor, client)
    assert own.socket.accepts == 3
    assert own.reading
    assert caplog.records == []


@pytest.fixture
def ticking(closing):
    """(reactor, its clock, its watched poller)"""
    clock = Clock()
    polling = Watched()
    return closing(Reactor(polling, seconds=clock.seconds)), clock, polling


def test_without_a_spare_descriptor_accepting_rests_for_a_moment(
    ticking, closing, monkeypatch, caplog
):
    def no_reserve(*a, **k):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(system.os, "open", no_reserve)
    reactor, clock, polling = ticking
    own = listen(reactor, OneFactory(Echo()))
    own.socket = Faulty(own.socket, *[errno.EMFILE] * 4)
    client = closing(connect(own))
    iterations(reactor, 100)
    assert own.socket.accepts == 2  # once, and once more after the reserve was given up
    assert len(polling.returned) == 1
    clock.advance(port.REST_SECONDS)
    iterations(reactor, 100)
    assert own.socket.accepts == 4
    clock.advance(port.REST_SECONDS)
    assert answers(reactor, client)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
def test_out_of_memory_backs_off_one_at_a_time(ticking, closing, caplog, number):
    reactor, clock, polling = ticking
    own = listen(reactor, OneFactory(Echo(), Echo()))
    own.socket = Faulty(own.socket, number, number, number)
    clients = [closing(connect(own)) for _ in range(2)]
    for attempt in range(1, 4):
        iterations(reactor, 100)
        assert own.socket.accepts == attempt
        assert len(polling.returned) == attempt
        clock.advance(port.REST_SECONDS)
    assert all(answers(reactor, client) for client in clients)
    assert len(caplog.records) == 3
    assert reactor.getDelayedCalls() == []


def test_a_listener_that_is_shut_down_does_not_spin(ticking):
    reactor, _, polling = ticking
    own = listen(reactor)
    try:
        own.getHandle().shutdown(socket.SHUT_RDWR)
    except OSError:
        pytest.skip("not possible here")
    iterations(reactor, 100)
    assert len(polling.returned) <= 2


def test_a_port_that_is_stopped_while_it_rests_stays_stopped(ticking, closing):
    reactor, clock, _ = ticking
    own = listen(reactor)
    own.socket = Faulty(own.socket, errno.ENOMEM)
    closing(connect(own))
    iterations(reactor)
    own.stopListening()
    clock.advance(port.REST_SECONDS)
    iterations(reactor)
    assert reactor.getReaders() == []


def test_a_port_that_is_started_again_while_it_rests_accepts_at_once(ticking, closing):
    reactor, clock, _ = ticking
    own = listen(reactor, OneFactory(Echo(), Echo()))
    own.socket = Faulty(own.socket, errno.ENOMEM)
    closing(connect(own))
    iterations(reactor)
    own.stopListening()
    own.startListening()
    assert answers(reactor, closing(connect(own)))
    clock.advance(port.REST_SECONDS)
    assert answers(reactor, closing(connect(own)))


def test_a_connection_through_a_port_ends_as_any_other(reactor):
    protocol, client = served(reactor)
    client.close()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(ConnectionDone)


def test_sockets_lists_each_socket_of_a_port(reactor, monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))
        for host in ("127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    port = reactor.listenTCP(0, OneFactory(), interface="two.example")
    assert [sock.getsockname()[0] for sock in port.sockets()] == ["127.0.0.1", "127.0.0.2"]
    port.stopListening()
    assert port.sockets() == []
