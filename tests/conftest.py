"""Fixtures of general use."""

from __future__ import annotations

import contextlib

import pytest
from scripted import Wire

from minireactor import Reactor


@pytest.fixture
def reactor():
    """A reactor of the test's own, driven by iterate() or run(); all it has open is closed."""
    own = Reactor()
    yield own
    own.close()


@pytest.fixture
def closing():
    """Call it with anything that has close(): it is closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def later(resource):
            stack.callback(resource.close)
            return resource

        yield later


@pytest.fixture
def wire(monkeypatch):
    """A reactor whose kernel is scripted."""
    own = Wire(monkeypatch)
    yield own
    own.reactor.close()
