"""Listening sockets from systemd, a parent or a predecessor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from minireactor.core.system import ListeningSocket
from minireactor.operation.handover import HandoverError, Inherited, passing

TAKE = """
import os, sys
from minireactor.operation.handover import Inherited

inherited = Inherited(os.environ)
for place in sys.argv[1:]:
    found = inherited.take(place)
    print(found and [sock.getsockname()[1] for sock in found])
print(sorted(name for name in os.environ if "LISTEN" in name or "SOCKETS" in name))
"""

# Like systemd, this program passes descriptors from 3 on, and names the process that gets them.
AS_SYSTEMD = """
import os, sys
count, names, program, *arguments = sys.argv[1:]
os.environ.update(LISTEN_FDS=count, LISTEN_FDNAMES=names, LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-c", program, *arguments])
"""


@pytest.fixture
def listening(closing):
    """listening(count) returns sockets that listen on loopback."""
    return lambda count=1: [closing(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]


def numbers(socks):
    return [sock.getsockname()[1] for sock in socks]


def taken(places, variables, descriptors):
    """Return what a child process takes at each of the places, and the variables that are left."""
    done = subprocess.run(
        [sys.executable, "-c", TAKE, *places],
        env={**os.environ, **variables},
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def from_systemd(socks, names, places):
    """Return what a child takes that systemd has started with these sockets."""

    def place_descriptors():
        # Two steps, so that no descriptor is overwritten before it is copied.
        copies = [os.dup2(sock.fileno(), 100 + number) for number, sock in enumerate(socks)]
        for number, copy in enumerate(copies):
            os.dup2(copy, 3 + number)

    done = subprocess.run(
        [sys.executable, "-c", AS_SYSTEMD, str(len(socks)), names, TAKE, *places],
        preexec_fn=place_descriptors,
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_child_takes_the_sockets_of_its_parent_by_place(listening):
    one, two = listening(1), listening(2)
    passed = passing({"127.0.0.1:0": one, "localhost:80": two})
    answer = taken(["localhost:80", "127.0.0.1:0", "other:1", "localhost:80"], *passed)
    assert answer == [str(numbers(two)), str(numbers(one)), "None", "None", "[]"]


def test_the_sockets_of_systemd_are_taken_by_name_and_the_rest_together(listening):
    socks = listening(3)
    answer = from_systemd(socks, "web:admin:web", ["systemd:web", "systemd", "systemd:admin"])
    web, admin = [socks[0], socks[2]], [socks[1]]
    assert answer == [str(numbers(web)), str(numbers(admin)), "None", "[]"]


def test_sockets_of_systemd_without_names_are_taken_together(listening):
    socks = listening(2)
    assert from_systemd(socks, "", ["systemd"]) == [str(numbers(socks)), "[]"]


def test_sockets_that_are_meant_for_another_process_are_left_alone(listening):
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "web"}
    assert Inherited(environ).take("systemd:web") is None
    assert environ == {}


def test_closing_leaves_the_sockets_that_were_taken_open(listening):
    one, two = listening(2)
    copies = [os.dup(one.fileno()), os.dup(two.fileno())]
    inherited = Inherited({"MINIREACTOR_SOCKETS": json.dumps({"a": copies[:1], "b": copies[1:]})})
    (kept,) = inherited.take("a")
    inherited.close()
    assert kept.getsockname() == one.getsockname()
    assert isinstance(kept, ListeningSocket)  # whose accept() is faster
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copies[1])
    kept.close()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": 5}', '{"a": ["x"]}', '{"a": [-1]}', '{"a": [null]}', "[" * 9999],
    ids=str,
)
def test_a_variable_that_is_not_valid_is_refused(text):
    with pytest.raises(HandoverError, match="MINIREACTOR_SOCKETS=.* is not valid; leave it out"):
        Inherited({"MINIREACTOR_SOCKETS": text})


@pytest.mark.parametrize("text", ["", "x", "1e3"])
def test_a_count_of_systemd_that_is_not_valid_is_refused(text):
    environ = {"LISTEN_FDS": text, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(HandoverError, match="LISTEN_FDS=.* is not valid; leave it out"):
        Inherited(environ)


def test_a_descriptor_that_does_not_listen_is_refused(closing):
    near, _ = map(closing, socket.socketpair())
    copy = os.dup(near.fileno())
    with pytest.raises(HandoverError, match=f"descriptor {copy} is a socket that does not listen"):
        Inherited({"MINIREACTOR_SOCKETS": json.dumps({"a": [copy]})})


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path):
    with open(tmp_path / "file", "w") as file:
        fd = file.fileno()
        with pytest.raises(HandoverError, match=f"descriptor {fd} is not a socket"):
            Inherited({"MINIREACTOR_SOCKETS": json.dumps({"a": [fd]})})
