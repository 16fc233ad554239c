"""--reuse-port: several processes listen at one place, and a process that ends loses no client."""

from __future__ import annotations

import socket

import pytest
from serve_support import Command, read_all, read_line
from support import PATIENCE, pump

from minireactor.cli.commands import main
from minireactor.error import CannotListenError
from minireactor.operation import reuse_port
from minireactor.operation.reuse_port import accept_waiting, is_supported, reusing_sockets
from minireactor.protocol import Factory
from minireactor.serve.apps import Echo
from minireactor.transports.adopt import adopt_sockets
from minireactor.transports.port import MAX_ACCEPTED

needs_it = pytest.mark.skipif(not is_supported(), reason="this system has no SO_REUSEPORT")


@pytest.fixture
def listening(closing):
    """listening(port) returns a socket that listens there and lets others listen there too."""

    def listening(port=0):
        (sock,) = reusing_sockets("127.0.0.1", port)
        return closing(sock)

    return listening


@needs_it
def test_several_sockets_listen_at_the_same_place(listening, closing):
    port = listening().getsockname()[1]
    assert listening(port).getsockname()[1] == port
    alone = closing(socket.create_server(("127.0.0.1", 0)))
    with pytest.raises(CannotListenError, match="127.0.0.1:"):
        listening(alone.getsockname()[1])


@needs_it
def test_clients_in_the_queue_are_served_before_the_port_closes(listening, reactor, closing):
    sock = listening()
    port = adopt_sockets(reactor, [sock], Factory.forProtocol(Echo))
    address = sock.getsockname()
    clients = [closing(socket.create_connection(address)) for _ in range(MAX_ACCEPTED + 2)]
    for client in clients:
        client.sendall(b"x")
        client.setblocking(False)

    accept_waiting(port)
    port.stopListening()

    left = set(clients)

    def all_served():
        for client in list(left):
            try:
                assert client.recv(1) == b"x"
            except BlockingIOError:
                continue
            left.discard(client)
        return not left

    pump(reactor, all_served)


def test_a_system_without_it_is_an_error(monkeypatch, capsys):
    monkeypatch.delattr(reuse_port.socket, "SO_REUSEPORT", raising=False)
    assert main(["serve", "--port", "0", "--reuse-port"]) == 2
    expected = "minireactor serve: this system has no --reuse-port; leave it out\n"
    assert capsys.readouterr().err == expected


@needs_it
def test_it_excludes_workers(capsys):
    assert main(["serve", "--port", "0", "--reuse-port", "--workers", "2"]) == 2
    assert "--reuse-port and --workers exclude each other" in capsys.readouterr().err


# The command.

APP = """
import os, time
from minireactor.serve.apps import Echo

class App(Echo):
    def dataReceived(self, data):
        while data == b"wait" and not os.path.exists("go"):
            time.sleep(0.01)
        super().dataReceived(data)
"""


@pytest.fixture
def command(tmp_path, closing):
    """command(*arguments) starts `serve` in an empty folder, and returns a Command."""

    return lambda *arguments: closing(Command("serve", *arguments, cwd=tmp_path))


@needs_it
@pytest.mark.slow
def test_a_process_that_ends_serves_the_clients_in_its_queue(command, tmp_path, closing):
    (tmp_path / "app.py").write_text(APP)
    arguments = ("app:App", "--reuse-port", "--grace", "60", "--port")
    first = command(*arguments, "0")
    first.listening()
    busy = closing(first.connect())
    busy.sendall(b"wait")
    second = command(*arguments, str(first.port))
    second.listening()
    # The first process is busy, so its share of these clients waits in the queue.
    clients = [closing(first.connect()) for _ in range(20)]
    first.terminate()
    for client in clients:
        client.sendall(b"x")
    (tmp_path / "go").touch()
    assert [client.recv(1) for client in clients] == [b"x"] * 20
    assert busy.recv(4) == b"wait"
    busy.sendall(b"more")
    assert busy.recv(4) == b"more"  # connections go on, because the second process serves the rest
    busy.close()
    for client in clients:
        client.close()
    assert first.end()[0] == 0
    with second.connect() as client:
        client.sendall(b"y")
        assert client.recv(1) == b"y"


@needs_it
@pytest.mark.slow
def test_the_second_signal_ends_and_the_third_aborts(command, closing):
    process = command("random", "--reuse-port", "--grace", "60", "--port", "0")
    process.listening()
    busy, idle = closing(process.connect()), closing(process.connect())
    busy.sendall(b"1000000000000000\n")
    for client in (busy, idle):
        read_line(client)  # the question
    process.terminate()
    process.wait_until_it_refuses()
    idle.setblocking(False)
    with pytest.raises(BlockingIOError):
        idle.recv(1)
    process.terminate()
    idle.settimeout(PATIENCE)
    assert read_all(idle) == b""
    process.terminate()
    status, output, _ = process.end()
    assert status == 1
    assert output.endswith(", transfers aborted 1\n")


@needs_it
@pytest.mark.slow
@pytest.mark.parametrize("options", [["--reuse-port"], []], ids=["newer", "neither"])
def test_a_port_that_is_taken_without_the_option_is_an_error(options, command):
    first = command("echo", "--port", "0")
    first.listening()
    status, output, errors = command("echo", "--port", str(first.port), *options).end()
    assert (status, output) == (2, "")
    assert errors.endswith("; give another --port, or stop what listens there\n")
