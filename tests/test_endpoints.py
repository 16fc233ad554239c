"""Endpoints: over real sockets where the reactor has the transport, else against a recorder."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess

import pytest
from support import (
    PATIENCE,
    OneFactory,
    Recorder,
    iterations,
    next_timer,
    open_descriptors,
    pump,
    python,
)

from minireactor import Reactor, coroutines, endpoints, error
from minireactor.coroutines import StreamFactory
from minireactor.defer import Deferred, ensureDeferred
from minireactor.endpoints import clientFromString, connectProtocol, serverFromString
from minireactor.failure import Failure
from minireactor.protocol import Factory, Protocol


class Calls:
    """A reactor that records the calls of its methods, and returns their arguments."""

    def __getattr__(self, name):
        def method(*args, **kwargs):
            return (name, args, kwargs)

        return method


def outcome(reactor, deferred):
    """Run the reactor until the Deferred has a result; return the result or the exception."""
    seen = []
    deferred.addBoth(seen.append)
    pump(reactor, lambda: seen, "the result")
    return seen[0].value if isinstance(seen[0], Failure) else seen[0]


def listening(reactor, description="tcp:0:interface=127.0.0.1", *protocols):
    return serverFromString(reactor, description).listen(OneFactory(*protocols)).result


def client(reactor, port, **options):
    return endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port, **options)


# Connecting.


def test_connect_gives_the_protocol_after_connectionMade(reactor):
    port = listening(reactor)
    factory = OneFactory()
    protocol = outcome(reactor, client(reactor, port).connect(factory))
    assert protocol.calls == ["made"]
    assert protocol.transport.protocol is protocol
    assert protocol.factory is factory


def test_the_bytes_and_the_end_reach_the_protocol(reactor):
    server = Recorder()
    port = listening(reactor, "tcp:0:interface=127.0.0.1", server)
    protocol = outcome(reactor, client(reactor, port).connect(OneFactory()))
    pump(reactor, lambda: server.transport, "the server's connection")
    server.transport.write(b"hello")
    server.transport.loseConnection()
    pump(reactor, lambda: protocol.reason, "the end")
    assert bytes(protocol.received) == b"hello"
    assert protocol.calls[-1] == "lost"


def test_the_factory_is_started_and_stopped_once(reactor):
    class Counting(OneFactory):
        calls = ()

        def startFactory(self):
            self.calls += ("start",)

        def stopFactory(self):
            self.calls += ("stop",)

    factory = Counting()
    protocol = outcome(reactor, client(reactor, listening(reactor)).connect(factory))
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason, "the end")
    iterations(reactor)
    assert factory.calls == ("start", "stop")


def test_connectProtocol_needs_no_factory(reactor):
    mine = Recorder()
    assert outcome(reactor, connectProtocol(client(reactor, listening(reactor)), mine)) is mine


def test_a_refused_connection_is_the_failure(reactor):
    port = listening(reactor)
    endpoint = client(reactor, port)
    port.stopListening()
    refused = outcome(reactor, endpoint.connect(OneFactory()))
    assert isinstance(refused, error.ConnectionRefusedError)


def test_a_factory_that_builds_nothing_fails_with_NoProtocol(reactor):
    class Empty(Factory):
        def buildProtocol(self, addr):
            return None

    server = Recorder()
    port = listening(reactor, "tcp:0:interface=127.0.0.1", server)
    assert isinstance(outcome(reactor, client(reactor, port).connect(Empty())), error.NoProtocol)
    pump(reactor, lambda: server.reason, "the end of the connection")


def test_an_exception_in_buildProtocol_is_the_failure(reactor, caplog):
    class Bad(Factory):
        def buildProtocol(self, addr):
            raise KeyError("no protocol today")

    failed = outcome(reactor, client(reactor, listening(reactor)).connect(Bad()))
    assert isinstance(failed, KeyError)
    assert caplog.records == []


def test_an_exception_in_connectionMade_is_the_failure_and_ends_the_connection(reactor):
    class Bad(Recorder):
        def connectionMade(self):
            raise KeyError("not made")

    bad = Bad()
    failed = outcome(reactor, connectProtocol(client(reactor, listening(reactor)), bad))
    assert isinstance(failed, KeyError)
    pump(reactor, lambda: bad.reason, "the end")
    assert bad.reason.value is failed


def test_cancelling_connect_leaves_nothing_behind(reactor, closing):
    full = closing(socket.socket())  # its backlog of 0 is taken, so an attempt has to wait
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    blockers = [closing(socket.socket()) for _ in range(4)]
    for blocker in blockers:
        blocker.setblocking(False)
        blocker.connect_ex(full.getsockname())
    reactor.open()
    before = open_descriptors()
    factory = OneFactory()
    endpoint = endpoints.TCP4ClientEndpoint(reactor, *full.getsockname())
    waiting = endpoint.connect(factory)
    iterations(reactor)
    assert not waiting.called
    waiting.cancel()
    cancelled = outcome(reactor, waiting)
    assert isinstance(cancelled, error.ConnectingCancelledError)
    assert cancelled.address.port == full.getsockname()[1]
    assert open_descriptors() == before
    assert next_timer(reactor) is None
    assert factory.built == [] and factory.numPorts == 0


def test_cancelling_connect_during_the_lookup_leaves_nothing_behind(reactor):
    class NeverResolver:
        def __init__(self):
            self.cancelled = 0

        def resolve(self, host, port, callback):
            return self

        def cancel(self):
            self.cancelled += 1

    reactor.resolver = NeverResolver()
    waiting = endpoints.HostnameEndpoint(reactor, "slow.example", 80).connect(OneFactory())
    iterations(reactor)
    waiting.cancel()
    assert isinstance(outcome(reactor, waiting), error.ConnectingCancelledError)
    assert reactor.resolver.cancelled == 1
    assert next_timer(reactor) is None


def test_cancelling_in_connectionMade_aborts_the_connection(reactor):
    class Fickle(Recorder):
        def connectionMade(self):
            waiting.cancel()

    fickle = Fickle()
    waiting = connectProtocol(client(reactor, listening(reactor)), fickle)
    assert isinstance(outcome(reactor, waiting), error.ConnectingCancelledError)
    pump(reactor, lambda: fickle.reason, "the end")


def test_T3_HostnameEndpoint_tries_every_address_of_the_name(reactor):
    port = listening(reactor)

    class TwoAddresses:
        def resolve(self, host, number, callback):
            hosts = ("127.0.0.2", "127.0.0.1")  # nobody listens on the first one
            kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
            reactor.call_soon(callback, [(*kind, (each, number)) for each in hosts])

    reactor.resolver = TwoAddresses()
    endpoint = endpoints.HostnameEndpoint(reactor, "two.example", port.getHost().port)
    protocol = outcome(reactor, endpoint.connect(OneFactory()))
    assert protocol.transport.getPeer().host == "127.0.0.1"


def test_TCP6ClientEndpoint_connects_to_no_IPv4_address(reactor):
    port = listening(reactor)
    endpoint = endpoints.TCP6ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    assert isinstance(outcome(reactor, endpoint.connect(OneFactory())), error.ConnectError)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_TCP6_endpoints_talk(reactor):
    port = listening(reactor, r"tcp6:0:interface=\:\:1")
    endpoint = clientFromString(reactor, rf"tcp6:\:\:1:{port.getHost().port}")
    assert outcome(reactor, endpoint.connect(OneFactory())).transport.getPeer().host == "::1"


# Listening.


def test_a_port_that_is_taken_is_the_failure(reactor):
    port = listening(reactor)
    endpoint = endpoints.TCP4ServerEndpoint(reactor, port.getHost().port, interface="127.0.0.1")
    assert isinstance(outcome(reactor, endpoint.listen(OneFactory())), error.CannotListenError)


@pytest.mark.parametrize(
    ("description", "call"),
    [
        ("tcp:80", ("listenTCP", (80, None), {"backlog": 50, "interface": ""})),
        (
            "tcp:port=80:interface=127.0.0.1:backlog=5",
            ("listenTCP", (80, None), {"backlog": 5, "interface": "127.0.0.1"}),
        ),
        ("tcp6:80", ("listenTCP", (80, None), {"backlog": 50, "interface": "::"})),
        (
            r"unix:/run/a\:b.sock:mode=660:lockfile=0",
            (
                "listenUNIX",
                ("/run/a:b.sock", None),
                {"backlog": 50, "mode": 0o660, "wantPID": False},
            ),
        ),
    ],
)
def test_serverFromString_makes_the_call_of_the_reactor(description, call):
    assert serverFromString(Calls(), description).listen(None).result == call


def test_systemd_passes_listening_sockets_by_index_and_by_name(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "web:admin")
    for description, fd, family in (
        ("systemd:domain=INET:index=1", 4, socket.AF_INET),
        ("systemd:INET6:name=web", 3, socket.AF_INET6),
    ):
        call = serverFromString(Calls(), description).listen(None).result
        assert call == ("adoptStreamPort", (fd, family, None), {})


def test_systemd_of_another_process_is_not_taken(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(ValueError, match="passed 0 descriptors"):
        serverFromString(Calls(), "systemd:domain=INET:index=0")


def connecting(description):
    """Return the call of the reactor that connecting to `description` makes."""
    seen = []

    class Connecting(Calls):
        def __getattr__(self, name):
            def method(*args, **kwargs):
                seen.append((name, *(arg for arg in args if isinstance(arg, (str, int))), kwargs))

            return method

    clientFromString(Connecting(), description).connect(Factory())
    return seen[0]


@pytest.mark.parametrize(
    ("description", "call"),
    [
        (
            "tcp:example.com:80",
            ("connectTCP", "example.com", 80, {"timeout": 30, "bindAddress": None}),
        ),
        (
            "tcp:host=example.com:port=80:timeout=5:bindAddress=10.0.0.1",
            ("connectTCP", "example.com", 80, {"timeout": 5, "bindAddress": ("10.0.0.1", 0)}),
        ),
        (
            r"tcp6:\:\:1:80",
            ("connectTCP", "::1", 80, {"timeout": 30, "bindAddress": ("::", 0)}),
        ),
        (
            "unix:/run/x.sock:timeout=9",
            ("connectUNIX", "/run/x.sock", {"timeout": 9, "checkPID": False}),
        ),
        (
            "tls:example.com:443",
            ("connectTCP", "example.com", 443, {"timeout": 30, "bindAddress": None}),
        ),
        (
            r"tls:example.com:443:endpoint=tcp\:127.0.0.1\:8443",
            ("connectTCP", "127.0.0.1", 8443, {"timeout": 30, "bindAddress": None}),
        ),
    ],
)
def test_clientFromString_makes_the_call_of_the_reactor(description, call):
    assert connecting(description) == call


@pytest.mark.parametrize(
    ("function", "description", "message"),
    [
        (serverFromString, "tpc:80", "the kind 'tpc' is unknown; give one of tcp, tcp6"),
        (serverFromString, "", "the kind '' is unknown; give one of"),
        (serverFromString, "tcp", "port is missing: tcp:port"),
        (serverFromString, "tcp:http", "port='http' is not a number"),
        (
            serverFromString,
            "tcp:80:colour=red",
            "'colour' is unknown; give one of port, interface, backlog",
        ),
        (serverFromString, "tcp:80:port=81", "port is given twice"),
        (serverFromString, "tcp6:80:::1:5", r"too many for 'tcp6'; a colon inside"),
        (serverFromString, "unix:/x:mode=9", "mode='9' is not a number"),
        (serverFromString, "systemd:MARS:index=0", "domain='MARS' is unknown; give one of INET"),
        (serverFromString, "systemd:INET", "give either index or name"),
        (serverFromString, "ssl:443:privateKey=/none.pem", "key '/none.pem' cannot be used"),
        (clientFromString, "tcp:example.com", "port is missing: tcp:host:port"),
        (clientFromString, "stdio:", "the kind 'stdio' is unknown; give one of"),
        (clientFromString, "tls:a:1:trustRoots=/none", "authorities in '/none' cannot be used"),
    ],
)
def test_a_bad_description_is_one_line_that_names_it(function, description, message):
    with pytest.raises(ValueError, match="endpoint") as caught:
        function(Calls(), description)
    assert message in str(caught.value) and repr(description) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quoteStringArgument_makes_any_text_one_value():
    path = r"/a:b=c\d"
    description = f"unix:{endpoints.quoteStringArgument(path)}"
    assert connecting(description)[1] == path


# UNIX sockets and TLS, over sockets.

NEEDS_TLS = pytest.mark.skipif(
    not hasattr(Reactor, "listenSSL") or not shutil.which("openssl"),
    reason="the reactor has no TLS, or there is no openssl program",
)


async def ask(endpoint, line):
    """Return what a server answers to a line."""
    reader, writer = await coroutines.connect(endpoint)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


async def answer(reader, writer):
    async for line in reader:
        writer.write(line.upper())


def test_UNIX_endpoints_talk(reactor, tmp_path):
    place = f"unix:{endpoints.quoteStringArgument(str(tmp_path / 'a:b.sock'))}"
    serverFromString(reactor, place).listen(StreamFactory(answer))
    asked = ensureDeferred(ask(clientFromString(reactor, place), b"hello\n"))
    assert outcome(reactor, asked) == b"HELLO\n"


def test_a_listening_socket_of_systemd_is_served(reactor, monkeypatch, closing):
    listener = closing(socket.create_server(("127.0.0.1", 0)))
    monkeypatch.setattr(endpoints.strings, "FIRST_SYSTEMD_FD", listener.fileno())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    serverFromString(reactor, "systemd:INET:index=0").listen(StreamFactory(answer))
    endpoint = endpoints.TCP4ClientEndpoint(reactor, *listener.getsockname())
    assert outcome(reactor, ensureDeferred(ask(endpoint, b"hello\n"))) == b"HELLO\n"


def test_a_stdio_endpoint_connects_a_protocol_to_both_descriptors():
    code = """
        from minireactor import reactor
        from minireactor.endpoints import serverFromString
        from minireactor.protocol import Factory, Protocol

        class Shout(Protocol):
            def dataReceived(self, data):
                self.transport.write(data.upper())

            def connectionLost(self, reason):
                reactor.stop()

        serverFromString(reactor, "stdio:").listen(Factory.forProtocol(Shout))
        reactor.run()
    """
    with python(code) as child:
        assert child.communicate("hello\n", timeout=PATIENCE) == ("HELLO\n", "")


@NEEDS_TLS
def test_TLS_endpoints_talk_and_verify(reactor, tmp_path):
    roots = tmp_path / "roots"
    roots.mkdir()
    key, certificate = tmp_path / "key.pem", roots / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    listening = serverFromString(reactor, f"tls:0:{key}:{certificate}:127.0.0.1")
    number = listening.listen(StreamFactory(answer)).result.getHost().port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(certificate))
    through = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", number)
    for endpoint in (
        endpoints.SSL4ClientEndpoint(reactor, "localhost", number, context),
        endpoints.wrapClientTLS(context, through, "localhost"),
        clientFromString(reactor, f"ssl:localhost:{number}:caCertsDir={roots}"),
    ):
        assert outcome(reactor, ensureDeferred(ask(endpoint, b"hello\n"))) == b"HELLO\n"
    unknown = clientFromString(reactor, f"tls:localhost:{number}")
    failed = outcome(reactor, ensureDeferred(ask(unknown, b"hello\n")))
    assert isinstance(failed, error.ConnectionLost)


class TLSTransport:
    """A transport that records what happens to it."""

    def __init__(self):
        self.calls = []

    def startTLS(self, *arguments):
        self.calls.append(arguments)


class At:
    """An endpoint whose connection is made by the test."""

    host = "example.com"

    def connect(self, factory):
        self.factory = factory
        return Deferred()


@pytest.mark.parametrize(
    ("name", "expected"), [(None, "example.com"), ("other.example", "other.example")]
)
def test_wrapClientTLS_starts_TLS_before_connectionMade(name, expected):
    context = ssl.create_default_context()
    endpoint = At()
    endpoints.wrapClientTLS(context, endpoint, name).connect(OneFactory())
    protocol = endpoint.factory.buildProtocol(None)
    transport = TLSTransport()
    seen = []

    class Watching(Protocol):
        def connectionMade(self):
            seen.append(list(self.transport.calls))

    protocol.protocol = Watching()
    protocol.makeConnection(transport)
    assert seen == [[(context, expected)]]
    assert transport.protocol is protocol.protocol


def test_a_protocol_whose_TLS_cannot_start_gets_no_call():
    endpoint = At()
    endpoints.wrapClientTLS(None, endpoint).connect(OneFactory())
    starter = endpoint.factory.buildProtocol(None)

    class Refusing(TLSTransport):
        protocol = starter

        def startTLS(self, *arguments):
            raise ValueError("no TLS")

    transport = Refusing()
    with pytest.raises(ValueError, match="no TLS"):
        starter.makeConnection(transport)
    assert transport.protocol is starter
    assert starter.protocol.calls == []
