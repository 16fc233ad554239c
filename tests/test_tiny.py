"""`tiny`, and the rules that it keeps: the same tests run on it and on the core."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

pytest.register_assert_rewrite("engine_rules")

from engine_rules import *  # noqa: E402, F403
from support import PATIENCE, drain, pump, receive, reset, served  # noqa: E402

from minireactor import Reactor, tiny  # noqa: E402
from minireactor.error import ConnectionDone  # noqa: E402


@pytest.fixture(params=[Reactor, tiny.Reactor], ids=["core", "tiny"])
def reactor(request, monkeypatch):
    monkeypatch.setattr(tiny, "LINGER_SECONDS", 3600.0)  # no test may pass by waiting for it
    own = request.param()
    yield own
    own.close()


def test_tiny_stays_small_enough_to_be_read_at_once():
    lines = Path(tiny.__file__).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 300


def test_tiny_imports_only_what_every_part_of_the_package_shares():
    source = Path(tiny.__file__).read_text(encoding="utf-8")
    ours = set(re.findall(r"^from (minireactor[\w.]*) import", source, re.MULTILINE))
    assert ours == {
        "minireactor",
        "minireactor.address",
        "minireactor.core.flow",
        "minireactor.failure",
    }


def test_join_passes_bytes_pauses_and_ends_of_both_connections(closing):
    reactor = tiny.Reactor()
    (left, near), (right, far) = served(reactor), served(reactor)
    tiny.join(left.transport, right.transport)
    closing(near).sendall(b"there")
    assert receive(reactor, closing(far), 5) == b"there"
    near.setblocking(False)

    def feed():
        try:
            near.send(b"." * 65536)
        except BlockingIOError:
            pass
        return left.transport.input == "paused"

    pump(reactor, feed, "a pause")
    assert right.transport.pending > right.transport.high
    near.shutdown(socket.SHUT_WR)
    drain(reactor, far)
    far.close()
    pump(reactor, lambda: not reactor.targets, "both ends")
    reactor.close()


def test_a_reset_of_one_side_of_a_proxy_aborts_the_other(closing):
    reactor = tiny.Reactor()
    (left, near), (right, far) = served(reactor), served(reactor)
    tiny.join(left.transport, right.transport)
    reset(near)
    closing(far).settimeout(PATIENCE)
    pump(reactor, lambda: not reactor.targets, "the other end")
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    reactor.close()


def test_E8_the_end_of_the_loop_ends_all_connections(closing):
    reactor = tiny.Reactor()
    protocol, client = served(reactor)
    closing(client)
    reactor.callLater(0, reactor.stop)
    reactor.run()
    assert protocol.calls == ["made", "lost"]


def test_C1_a_peer_that_never_closes_is_waited_for_only_so_long(monkeypatch, closing):
    monkeypatch.setattr(tiny, "LINGER_SECONDS", 0.01)
    reactor = tiny.Reactor()
    protocol, client = served(reactor)
    closing(client)
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.calls == ["made", "lost"], "the end")
    assert protocol.reason.check(ConnectionDone)
    reactor.close()
