"""The rules of a connection, on TLS.

The tests are those of test_tcp.py. Where they use real sockets, the connection speaks TLS. Where
they use scripted sockets, it has a session whose records are the plain bytes: so the tests count
the bytes of TLSConnection exactly, and the model of the random walk holds.
"""

from __future__ import annotations

import inspect

import pytest
import scripted
import test_tcp
from test_random_walk import test_a_random_walk_finds_no_difference_from_the_model  # noqa: F401
from test_tcp import open_wire  # noqa: F401
from tls_support import ClearConnection, tls_served

pytestmark = pytest.mark.slow  # the same rules as in test_tcp.py, with a handshake each

# These count reads or sends of a size that records do not have, or take long. B2's counts one send,
# where TLS tries once more after the kernel has taken a part.
LEFT_OUT = {
    "test_B2_write_never_sends_at_once",
    "test_R1_a_pause_inside_a_callback_holds",
    "test_a_hundred_megabytes_in_one_write_arrive",
    "test_a_hundred_thousand_small_chunks_go_out_in_few_sends",
}


def on_a_connection(test):
    """Return whether a test uses a connection that the fixtures below give."""
    return not {"reactor", "wire", "open_wire"}.isdisjoint(inspect.signature(test).parameters)


RULES = {
    name: test
    for name, test in vars(test_tcp).items()
    if name.startswith("test_") and name not in LEFT_OUT and on_a_connection(test)
}
globals().update(RULES)


@pytest.fixture(autouse=True)
def _tls(monkeypatch, certificates):
    def served(reactor, protocol=None):
        return tls_served(reactor, certificates, protocol)

    monkeypatch.setattr(test_tcp, "served", served)
    monkeypatch.setattr(scripted, "Connection", ClearConnection)


def test_the_rules_are_all_there():
    assert len(RULES) > 100
    assert set(vars(test_tcp)) >= LEFT_OUT
