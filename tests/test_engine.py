"""Servers, proxies and the demo on a small reactor: `--engine`."""

from __future__ import annotations

import os
import socket
import sys

import pytest
from serve_support import Command
from support import (
    HalfCloseable,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    connect,
    drain,
    pump,
    receive,
    served,
)

from minireactor import tiny
from minireactor.cli.commands import main
from minireactor.engine import Engine, EngineError, load
from minireactor.error import CannotListenError
from minireactor.protocol import Factory, Protocol
from minireactor.proxy.relay import Relay
from minireactor.serve.apps import Chargen, Echo, FileFactory, RandomFactory
from minireactor.serve.server import Server
from minireactor.view.monitor import Monitor
from minireactor.view.web import demo_producer
from minireactor.view.web.demo import HIGH, LOW, Demo

LOOPBACK = "127.0.0.1"

BROKEN = "parenthesis is never closed" if sys.implementation.name == "pypy" else "invalid syntax"


@pytest.fixture
def engine():
    own = Engine(tiny.Reactor)
    yield own
    own.close()


@pytest.fixture
def ask(engine, closing):
    """Serve a factory; return (server, the client's socket)."""

    def serve(factory, **limits):
        server = Server(engine, factory, **limits)
        port = server.listen(LOOPBACK, 0).port
        client = closing(socket.create_connection((LOOPBACK, port)))
        pump(engine, lambda: server.connections, "the connection")
        return server, client

    return serve


def test_a_small_reactor_refuses_UNIX_sockets(engine):
    for method in (engine.listenUNIX, engine.connectUNIX):
        with pytest.raises(EngineError, match="no UNIX sockets"):
            method("x.sock", Factory())


# Servers.


def test_echo_gives_back_what_it_gets_also_behind_a_half_close(engine, ask):
    _, client = ask(Factory.forProtocol(Echo))
    client.sendall(b"x" * 50000)
    client.shutdown(socket.SHUT_WR)
    assert drain(engine, client) == b"x" * 50000


def test_chargen_is_asked_for_each_block(engine, ask):
    server, client = ask(Factory.forProtocol(Chargen))
    assert receive(engine, client, 100_000)[:72] == Chargen.block[:72]
    (connection,) = server.connections
    assert connection.flow_state == "pull"


def test_random_sends_as_many_integers_as_asked_for(engine, ask):
    _, client = ask(RandomFactory(1))
    client.sendall(b"5000\n")
    assert drain(engine, client).count(b"\r\n") == 5001  # and the question


def test_lines_that_came_before_a_pause_are_delivered_after_it(engine, ask):
    server, client = ask(RandomFactory(1))
    client.sendall(b"bad\n" * 5000)  # the answers fill the buffer in the middle of a chunk
    pump(engine, lambda: server.paused, "a pause")
    question = b"how many random integers do you want?\r\n"
    answer = b"error: 'bad' is not a number in decimal digits; send a number from 0 to 10"
    received = receive(engine, client, 5000 * len(question + answer))
    assert received.startswith(question + answer)


def test_a_file_arrives_whole(engine, ask, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    _, client = ask(FileFactory(str(path)))
    assert drain(engine, client) == path.read_bytes()


def test_the_counters_are_those_of_the_bytes_that_went_through(engine, ask):
    server, client = ask(Factory.forProtocol(Echo))
    client.sendall(b"x" * 5000)
    receive(engine, client, 5000)
    client.close()
    pump(engine, lambda: not server.connections, "the end")
    totals = server.totals()
    assert (totals.connections, totals.bytes_in, totals.bytes_out) == (1, 5000, 5000)


def test_pauses_are_counted_and_shown_by_the_monitor(engine, ask):
    monitor = Monitor(engine)
    server, client = ask(Factory.forProtocol(Echo))
    client.setblocking(False)

    def feed():
        try:
            client.send(b"x" * 65536)
        except BlockingIOError:
            pass
        return server.paused

    pump(engine, feed, "a pause")
    (row,) = monitor.sample()["connections"]
    assert row["producer"] == "paused"
    assert row["pauses"] >= 1
    assert row["pending"] > row["high"] == 65536
    monitor.close()


def test_a_client_above_the_limit_is_closed(engine, ask, closing):
    server, _ = ask(Factory.forProtocol(Echo), max_connections=1)
    second = closing(connect(server.ports[0]))
    assert drain(engine, second) == b""
    assert server.rejected == {"--max-connections": 1}


def test_a_stalled_client_is_aborted(engine, ask):
    server, _ = ask(Factory.forProtocol(Chargen), stall_timeout=0.1)
    pump(engine, lambda: not server.connections, "the end")


def test_B3_an_exception_in_a_protocol_ends_its_connection_only(engine, caplog, closing):
    class Fails(Recorder):
        def dataReceived(self, data):
            raise RuntimeError("broken")

    failing, first = served(engine, Fails())
    other, second = served(engine)
    closing(first).sendall(b"x")
    pump(engine, lambda: failing.reason, "the end")
    assert failing.reason.check(RuntimeError)
    assert "broken" in caplog.text
    closing(second).sendall(b"fine")
    pump(engine, lambda: other.received == b"fine", "the other connection")


def test_B3_an_exception_in_buildProtocol_rejects_that_client_only(engine, caplog, closing):
    class Fails(Factory):
        def buildProtocol(self, addr):
            raise RuntimeError("not today")

    port = engine.listenTCP(0, Fails(), interface=LOOPBACK)
    assert drain(engine, closing(connect(port))) == b""
    assert "not today" in caplog.text
    served(engine)[1].close()


def test_B3_an_exception_in_a_delayed_call_is_logged(engine, caplog):
    calls = []
    engine.callLater(0, lambda: 1 / 0)
    engine.callLater(0, calls.append, "next")
    pump(engine, lambda: calls, "the next call")
    assert "ZeroDivisionError" in caplog.text


def test_a_half_closeable_protocol_is_told_of_both_halves(engine, closing):
    protocol, client = served(engine, HalfCloseable())
    protocol.transport.loseWriteConnection()
    assert drain(engine, closing(client)) == b""
    client.shutdown(socket.SHUT_WR)
    pump(engine, lambda: "lost" in protocol.calls, "the end")
    assert protocol.calls == ["made", "write lost", "read lost", "lost"]


def test_a_port_that_is_taken_is_CannotListenError(engine, closing):
    taken = closing(socket.create_server((LOOPBACK, 0)))
    with pytest.raises(CannotListenError):
        engine.listenTCP(taken.getsockname()[1], OneFactory(), interface=LOOPBACK)


def test_a_factory_is_notified_once_of_the_start_and_the_end_of_its_port(engine):
    factory = RecordingClientFactory()
    port = engine.listenTCP(0, factory, interface=LOOPBACK)
    assert factory.calls == ["startFactory"]
    port.stopListening()
    port.stopListening()
    assert factory.calls == ["startFactory", "stopFactory"]


# Proxies and the demo.


def test_a_proxy_passes_both_directions_and_the_end(engine, closing):
    target = Server(engine, Factory.forProtocol(Echo)).listen(LOOPBACK, 0)
    relay = Relay(engine, [(LOOPBACK, target.port)])
    place = relay.listen(LOOPBACK, 0)
    client = closing(socket.create_connection((LOOPBACK, place.port)))
    client.sendall(b"x" * 100_000)
    client.shutdown(socket.SHUT_WR)
    assert drain(engine, client) == b"x" * 100_000


def test_a_proxy_closes_a_client_whose_target_refuses(engine, closing, caplog):
    unused = closing(socket.create_server((LOOPBACK, 0)))
    number = unused.getsockname()[1]
    unused.close()
    relay = Relay(engine, [(LOOPBACK, number)])
    place = relay.listen(LOOPBACK, 0)
    client = closing(socket.create_connection((LOOPBACK, place.port)))
    assert drain(engine, client) == b""


def test_a_rate_limits_a_proxy_on_a_small_reactor_too(engine, closing):
    target = Server(engine, Factory.forProtocol(Chargen)).listen(LOOPBACK, 0)
    place = Relay(engine, [(LOOPBACK, target.port)], rate=10_000).listen(LOOPBACK, 0)
    client = closing(socket.create_connection((LOOPBACK, place.port)))
    began = engine.seconds()
    receive(engine, client, 2500)
    assert engine.seconds() - began >= 0.14  # a tenth of a second's bytes come at once


@pytest.mark.slow
@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_the_demo_draws_its_saw_tooth(engine, monkeypatch, way):
    monkeypatch.setattr(demo_producer, "MADE", 16 << 20)
    demo = Demo(engine)
    demo.listen()
    demo.change({"way": way})
    demo.change({"client": "A", "rate": 8 << 20})
    events = []
    engine.add_observer(lambda event, who, reason: events.append(event))
    pump(engine, lambda: events.count("resumeProducing") >= 2, "two teeth")
    assert {transport.marks for transport in demo._connections()} == {(HIGH, LOW)}
    assert all(client.received for client in demo.clients.values() if client.peer)
    demo.dashboard.close()


# A reactor of one's own.


def test_load_takes_tiny_and_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Reactor:\n    pass\n")
    assert load("tiny") is tiny.Reactor
    assert load(str(path)).__name__ == "Reactor"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file; give core, tiny or a Python file"),
        ("x = 1\n", "it defines no class Reactor"),
        ("x = 1\nx y\n", "line 2: invalid syntax"),
        ("x = 1\ndef broken(:\n", f"line 2: {BROKEN}"),
        ("x = 1\n\nnone_such\n", "line 3: NameError: name 'none_such' is not defined"),
    ],
)
def test_a_file_without_a_reactor_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EngineError) as refused:
        load(str(path))
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


FAILING = """
class Reactor:
    def __init__(self):
        self.calls = []

    def callLater(self, delay, f):
        self.calls.append(f)

    def listenTCP(self, port, factory, interface=""):
        {listen}

    def run(self):
        {run}

    def stopListening(self):
        pass

    getHost = socket = stop = stopListening
"""


@pytest.mark.parametrize(
    ("listen", "run", "message"),
    [
        ("raise NotImplementedError('listen')", "pass", "line 10: NotImplementedError: listen"),
        ("return self", "{}['nothing']", "line 13: KeyError: 'nothing'"),
    ],
)
def test_an_exception_of_a_reactor_is_one_line_with_its_place(tmp_path, listen, run, message):
    path = tmp_path / "mine.py"
    path.write_text(FAILING.format(listen=listen, run=run))
    engine = Engine(load(str(path)), str(path))
    with pytest.raises(EngineError, match=message):
        engine.listenTCP(0, OneFactory())
        engine.run()


def test_a_reactor_that_lacks_names_is_refused_by_their_names(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Reactor:\n    run = listenTCP = None\n")
    with pytest.raises(EngineError, match="mine.py: a Reactor lacks callLater, stop"):
        Engine(load(str(path)), str(path))


def test_a_port_that_lacks_names_is_refused_by_their_names(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FAILING.format(listen="return 'nothing'", run="pass"))
    engine = Engine(load(str(path)), str(path))
    with pytest.raises(EngineError, match="mine.py: a port lacks getHost, stopListening, socket"):
        engine.listenTCP(0, OneFactory())


def test_a_transport_that_lacks_names_is_refused_by_their_names(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from minireactor import tiny\n"
        "class Transport:\n    socket = write = None\n"
        "class Reactor(tiny.Reactor):\n"
        "    def listenTCP(self, port, factory, interface=''):\n"
        "        self.callLater(0, factory.buildProtocol(None).makeConnection, Transport())\n"
        "        return super().listenTCP(port, factory, interface=interface)\n"
    )
    engine = Engine(load(str(path)), str(path))
    engine.listenTCP(0, Factory.forProtocol(Protocol), interface=LOOPBACK)
    with pytest.raises(EngineError, match="a transport lacks pending, setWriteBufferLimits"):
        engine.run()


# The command.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "echo", "--watch"], "minireactor serve: --watch needs --engine core"),
        (
            ["serve", "--kernel-limit", "1M"],
            "minireactor serve: --kernel-limit needs --engine core",
        ),
        (["proxy", "0", "1234", "--copy"], "minireactor proxy: --copy needs --engine core"),
    ],
)
def test_an_option_that_needs_the_core_is_refused_by_name(capsys, arguments, message):
    assert main([*arguments, "--engine", "tiny"]) == 2
    assert capsys.readouterr().err == f"{message}; leave one of them out\n"


def test_an_engine_that_does_not_exist_is_refused_in_one_line(capsys):
    assert main(["demo", "--engine", "none.py"]) == 2
    assert capsys.readouterr().err == (
        "minireactor demo: --engine none.py: there is no such file; "
        "give core, tiny or a Python file\n"
    )


@pytest.mark.slow
def test_serve_runs_on_tiny_until_a_signal(closing, tmp_path):
    command = closing(Command("serve", "echo", "--port", "0", "--engine", "tiny", cwd=tmp_path))
    command.listening()
    client = closing(command.connect())
    client.sendall(b"hello")
    assert client.recv(5) == b"hello"
    client.close()
    command.terminate()
    status, output, errors = command.end()
    assert "bytes in 5, bytes out 5" in output
    assert (status, errors) == (0, "")


@pytest.mark.slow
def test_demo_runs_on_tiny_until_a_signal(closing, tmp_path):
    command = closing(Command("demo", "--no-browser", "--engine", "tiny", cwd=tmp_path))
    assert command.line().startswith("minireactor: demo on http://")
    command.terminate()
    assert command.end() == (0, "", "")


@pytest.mark.slow
def test_demo_says_in_one_line_where_a_reactor_of_ones_own_has_failed(closing, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from minireactor import tiny\n"
        "class Reactor(tiny.Reactor):\n"
        "    def run(self):\n"
        "        raise RuntimeError('not yet')\n"
    )
    command = closing(Command("demo", "--no-browser", "--engine", "mine.py", cwd=tmp_path))
    status, output, errors = command.end()
    assert output.startswith("minireactor: demo on http://")
    assert status == 2
    assert errors == "minireactor demo: --engine mine.py, line 4: RuntimeError: not yet\n"
