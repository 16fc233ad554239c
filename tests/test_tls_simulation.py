"""TLS in a simulated network: conversations through two proxies, with TLS on each hop.

The keys are random, and so is the length of some records. So a seed repeats its run only roughly.
"""

from __future__ import annotations

import pytest
from simulated import conversations_in
from test_simulation import run_for

from minireactor.internet import Reactor
from minireactor.testing import SimulationError
from minireactor.transports.tls import TLSConnection
from minireactor.transports.tls_session import Session
from minireactor.transports.tls_start import SecureConnector, SecurePort

STEPS = 5_000


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch, certificates):
    """Let all ports and connectors speak TLS."""
    port = SecurePort(certificates.server())
    connector = SecureConnector(certificates.client(), "localhost")
    listen, connect = Reactor.listenTCP, Reactor.connectTCP

    def listenTCP(self, *args, **options):
        listening = listen(self, *args, **options)
        port.secure(listening)
        return listening

    def connectTCP(self, *args, **options):
        connecting = connect(self, *args, **options)
        connector.secure(connecting)
        return connecting

    monkeypatch.setattr(Reactor, "listenTCP", listenTCP)
    monkeypatch.setattr(Reactor, "connectTCP", connectTCP)


@pytest.mark.slow
def test_conversations_over_TLS_keep_the_rules(tmp_path, monkeypatch):
    over = []
    shake = Session.handshake

    def handshake(self):
        done = shake(self)
        over.extend([self] if done else [])
        return done

    monkeypatch.setattr(Session, "handshake", handshake)
    run_for(STEPS, range(20_000, 30_000), conversations_in(tmp_path))
    assert len(over) > 20


@pytest.mark.slow
def test_a_close_notify_that_comes_too_early_is_found(tmp_path, monkeypatch):
    end = TLSConnection._end_of_writing

    def too_early(self):
        if self._session.established and not self._session.ready:
            self._buffer.clear()
        end(self)

    monkeypatch.setattr(TLSConnection, "_end_of_writing", too_early)
    with pytest.raises(SimulationError, match="bytes, and a clean end"):
        run_for(50_000, range(20_000, 30_000), conversations_in(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(3, 9))
def test_many_conversations_over_TLS_keep_the_rules(block, tmp_path):
    run_for(50_000, range(block * 10_000, block * 10_000 + 10_000), conversations_in(tmp_path))
