"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
import tempfile
import threading
import time

import pytest
from proxy_support import MODES
from scripted import Wire
from serve_support import Command, FakeTime
from support import PATIENCE

from minireactor import Reactor
from minireactor.proxy import legs
from minireactor.testing import Clock

if "splice" in MODES:
    from minireactor.transports import splice

_stderr = pytest.StashKey[int]()
_state = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def pytest_configure(config):
    config.stash[_stderr] = os.dup(sys.__stderr__.fileno())  # the real one, before any capture
    # Tests must not change what `learn` has noted about the person who runs them.
    config.stash[_state] = tempfile.TemporaryDirectory(prefix="minireactor-state-")
    os.environ["XDG_STATE_HOME"] = config.stash[_state].name


def pytest_unconfigure(config):
    os.close(config.stash[_stderr])
    config.stash[_state].cleanup()


def pytest_collection_finish(session):
    """Leave what pytest has collected out of the garbage collector.

    Tests that call gc.collect() would walk all of that each time: the eight tests of `test_defer`
    that do took 3.2 s of the run."""
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.freeze()


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_protocol(item):
    """End the run if a test hangs. pytest 9 does so itself; older ones only print the stacks."""
    seconds = float(item.config.getini("faulthandler_timeout"))
    if seconds > 0:
        faulthandler.dump_traceback_later(seconds, file=item.config.stash[_stderr], exit=True)
    yield


@pytest.fixture
def reactor():
    """A reactor for one test, which runs it by iterate() or run(). It is closed afterwards."""
    own = Reactor()
    yield own
    own.close()


@pytest.fixture(name="time")
def fake_time():
    """Time for `timed`."""
    return FakeTime()


@pytest.fixture
def timed(time):
    """A reactor on real sockets, whose time only the test moves."""
    own = Reactor(seconds=time)
    yield own
    own.close()


@pytest.fixture
def no_stdio_thread_is_left():
    """Wait after the test for the threads of each StandardIO, which close descriptors."""
    yield
    deadline = time.monotonic() + PATIENCE
    while any(thread.name.startswith("minireactor-std") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.001)


@pytest.fixture
def closing():
    """A function that takes anything with close(), returns it, and closes it after the test."""
    with contextlib.ExitStack() as stack:

        def later(resource):
            stack.callback(resource.close)
            return resource

        yield later


@pytest.fixture
def command(tmp_path, closing):
    """command(*arguments) starts a Command in an empty directory. It ends with the test."""
    return lambda *arguments: closing(Command(*arguments, cwd=tmp_path))


@pytest.fixture
def clock():
    """Time that only the test moves."""
    return Clock()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Certificates for tests of TLS. Skips the test without the program `openssl`."""
    from tls_support import make_certificates  # imports `ssl`, which few tests need

    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def wire(monkeypatch, clock):
    """A reactor on a scripted kernel, whose time is `clock`."""
    own = Wire(monkeypatch, seconds=clock.seconds)
    yield own
    own.reactor.close()


@pytest.fixture(params=sorted(MODES))
def mode(request, monkeypatch):
    """How a proxy moves bytes: "copy", or "splice", which splices all but the first read."""
    if request.param == "splice":
        monkeypatch.setattr(legs, "BULK", 1)
        monkeypatch.setattr(legs, "SMALL", 0)
    yield request.param
    if request.param == "splice":
        splice.close_spare_pipes()
