"""The ladder of `python -m bench --ladder`: its patches fit, and break no rule."""

from __future__ import annotations

import importlib.util
import select

import pytest

pytest.register_assert_rewrite("engine_rules")

from engine_rules import *  # noqa: E402, F403

from bench.ladder import FOLDER, STEPS, PatchError, applied, sources  # noqa: E402
from bench.workloads import WORKLOADS  # noqa: E402


def module_of(number, folder):
    """Import `tiny` as it is after a step."""
    path = folder / "tiny_step.py"
    path.write_text(sources()[number], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("tiny_step", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs_epoll(number):
    return number >= 6 and not hasattr(select, "epoll")


@pytest.fixture(
    params=[
        pytest.param(number, id=step.name, marks=pytest.mark.slow)
        for number, step in enumerate(STEPS)
        if number
    ]
)
def reactor(request, tmp_path):
    """A reactor of each step: the rules of `engine_rules` run on all of them."""
    if needs_epoll(request.param):
        pytest.skip("needs epoll")
    own = module_of(request.param, tmp_path).Reactor()
    yield own
    own.close()


def test_every_patch_fits_and_changes_something():
    found = sources()
    assert len(set(found)) == len(STEPS)
    for step, source in zip(STEPS, found):
        compile(source, step.name, "exec")


def test_every_patch_belongs_to_a_step():
    patches = {path.stem for path in FOLDER.glob("*.patch")}
    assert patches == {step.name for step in STEPS[1:]}


def test_every_step_names_workloads_that_there_are():
    names = {workload.name for workload in WORKLOADS}
    assert {name for step in STEPS for name in step.workloads} <= names


def test_a_patch_that_does_not_fit_is_an_error_that_names_it():
    with pytest.raises(PatchError, match="1-flush.patch fits in 0 places"):
        applied("something else\n", STEPS[1])


@pytest.mark.parametrize("number", range(1, len(STEPS)), ids=[step.name for step in STEPS[1:]])
def test_a_patched_reactor_echoes(number, tmp_path):
    """The rules run on every step in the slow tests. This is the quick look at each of them."""
    if needs_epoll(number):
        pytest.skip("needs epoll")
    reactor = module_of(number, tmp_path).Reactor()
    test_a_client_and_a_server_of_the_same_reactor_talk(reactor)  # noqa: F405
    reactor.close()
