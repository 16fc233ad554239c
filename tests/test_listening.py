"""Where a process listens, what a successor inherits, and who removes the file of a UNIX socket."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from support import pump

import minireactor
from minireactor.operation.handover import HandoverError
from minireactor.operation.listening import Listening
from minireactor.operation.restart import Restart
from minireactor.protocol import Factory
from minireactor.serve.places import listen_at

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows passes no descriptors")

ROOT = str(Path(minireactor.__file__).parent.parent)
TCP = "127.0.0.1:0"


@pytest.fixture
def opened(reactor):
    """opened(listening, place) opens a port of `listening` at a place, and returns the port."""

    def opened(listening, place):
        host, port = (place, 0) if place.startswith("unix:") else ("127.0.0.1", 0)
        return listening.open(
            place, lambda sockets: listen_at(reactor, host, port, Factory(), 5, sockets)
        )

    return opened


@pytest.fixture
def passed_on(closing):
    """passed_on(listening) returns the environment that a successor of it would get.

    It has copies of the descriptors, as a process of its own has."""

    def passed_on(listening):
        copies = {
            place: [os.dup(sock.fileno()) for sock in socks]
            for place, socks in listening.sockets().items()
        }
        return {"MINIREACTOR_SOCKETS": json.dumps(copies), **listening.variables()}

    return passed_on


def test_a_successor_takes_the_sockets_of_all_places(opened, passed_on):
    first = Listening({}, [TCP, TCP])
    ports = [opened(first, TCP), opened(first, TCP)]
    environ = passed_on(first)
    second = Listening(environ, [TCP, TCP])
    assert environ == {}
    assert second.is_successor and not first.is_successor
    inherited = [opened(second, TCP), opened(second, TCP)]
    assert [port.getHost() for port in inherited] == [port.getHost() for port in ports]


def test_the_successor_removes_the_file_of_a_UNIX_socket_once_it_owns_it(
    opened, passed_on, tmp_path
):
    path = tmp_path / "x.sock"
    place = f"unix:{path}"
    first = Listening({}, [place])
    old = opened(first, place)
    second = Listening(passed_on(first), [place])
    new = opened(second, place)
    second.own()
    first.disown()
    old.stopListening()
    assert path.exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    new.stopListening()
    assert not path.exists()


def test_a_successor_that_fails_before_it_owns_anything_leaves_the_file(
    opened, passed_on, tmp_path
):
    path = tmp_path / "x.sock"
    place = f"unix:{path}"
    first = Listening({}, [place])
    old = opened(first, place)
    second = Listening(passed_on(first), [place])
    opened(second, place).stopListening()
    assert path.exists()
    old.stopListening()
    assert not path.exists()


def test_sockets_of_others_are_passed_on_but_never_owned(opened, passed_on, tmp_path, closing):
    path = tmp_path / "x.sock"
    place = f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        own = json.dumps({place: [os.dup(sock.fileno())]})
        first = Listening({"MINIREACTOR_SOCKETS": own}, [place])
        opened(first, place)
        second = Listening(passed_on(first), [place])
        new = opened(second, place)
        second.own()
        new.stopListening()
        assert path.exists()


def test_what_nobody_has_opened_is_closed(opened, passed_on):
    first = Listening({}, [TCP])
    opened(first, TCP)
    environ = passed_on(first)
    (fd,) = json.loads(environ["MINIREACTOR_SOCKETS"])[TCP]
    Listening(environ, [TCP]).close_rest()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("place", ["systemd", "systemd:web"])
def test_a_place_of_systemd_without_a_socket_is_an_error(place, opened):
    with pytest.raises(HandoverError, match=f"{place}: systemd has passed no such socket"):
        opened(Listening({}, [place]), place)


@pytest.mark.parametrize("text", ["", "{", "5"])
def test_a_list_of_places_that_is_not_valid_is_refused(text):
    with pytest.raises(HandoverError, match="MINIREACTOR_OWNED=.* is not valid; leave it out"):
        Listening({"MINIREACTOR_OWNED": text}, [])


# The restart.

SERVES = """
import os, socket
from minireactor.operation.child import parent
from minireactor.operation.listening import Listening

listening = Listening(os.environ, ["127.0.0.1:0"])

class Port:
    def __init__(self, sockets):
        self.is_adopted = True
        self.sockets = lambda: sockets

port = listening.open("127.0.0.1:0", Port)
parent().ready()
port.sockets()[0].setblocking(True)
port.sockets()[0].accept()[0].sendall(os.environ["MORE"].encode())
"""


@pytest.fixture
def restart(reactor, opened, monkeypatch):
    """restart(program) begins a restart. Returns the port, and what has become of the restart."""
    monkeypatch.setenv("PYTHONPATH", ROOT)

    def restart(program):
        listening = Listening({}, [TCP])
        port = opened(listening, TCP)
        calls = []
        restart = Restart(
            reactor,
            [sys.executable, "-c", program],
            listening,
            on_begin=lambda: {"MORE": "more"},
            on_replaced=lambda pid: calls.append(pid),
            on_failed=calls.append,
        )
        restart.begin()
        assert restart.is_starting() or calls
        restart.calls = calls
        return port, restart

    return restart


def test_the_successor_serves_with_the_sockets_of_the_old_process(restart, reactor):
    port, running = restart(SERVES)
    pump(reactor, lambda: running.calls)
    assert not running.is_starting()
    assert port.is_adopted
    port.stopListening()
    with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=10) as client:
        assert client.recv(4) == b"more"
    with pytest.raises(ProcessLookupError):
        pump(reactor, lambda: os.kill(running.calls[0], 0))  # reaped


def test_a_successor_that_fails_leaves_the_ports_as_they_were(restart, reactor):
    port, running = restart("raise SystemExit(3)")
    pump(reactor, lambda: running.calls)
    assert running.calls == ["it has ended with status 3"]
    assert not running.is_starting()
    assert not port.is_adopted


def test_a_restart_may_be_cancelled(restart, reactor):
    port, running = restart("import time; time.sleep(60)")
    running.cancel()
    pump(reactor, lambda: running.calls)
    assert running.calls == ["this process ends"]
    assert not port.is_adopted
    running.cancel()  # nothing is left to cancel


def test_a_command_that_cannot_be_started_is_a_failure(reactor):
    calls = []
    command = ["/no-such-program"]
    Restart(
        reactor,
        command,
        Listening({}, []),
        on_begin=dict,
        on_replaced=calls.append,
        on_failed=calls.append,
    ).begin()
    assert calls == ["No such file or directory: /no-such-program"]
