"""The ladder of `python -m bench --ladder`: its patches fit, and break no rule."""

from __future__ import annotations

import importlib.util
import json
import select
from xml.etree import ElementTree

import pytest

pytest.register_assert_rewrite("engine_rules")

from engine_rules import *  # noqa: E402, F403

from bench.__main__ import main  # noqa: E402
from bench.ladder import FOLDER, STEPS, PatchError, applied, run, sources  # noqa: E402
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
    module = module_of(request.param, tmp_path)
    module.LINGER_SECONDS = 3600.0  # no test may pass by waiting for it
    own = module.Reactor()
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


# What is made of the figures.


@pytest.fixture
def ladder():
    """Two rounds of one workload. The second step halves the cost in both, on a slower machine."""
    names = [step.name for step in STEPS]
    rounds = []
    for slower in (1.0, 3.0):
        costs = dict.fromkeys(names[:1], 8.0 * slower)
        costs.update(dict.fromkeys(names[1:], 4.0 * slower))
        rounds.append({"echo-100": {**costs, "minireactor": 2.0 * slower}})
    titles = {step.name: step.title for step in STEPS}
    header = {"machine": "a machine", "python": "a Python", "seconds": 1}
    return run.Ladder({**header, "titles": {**titles, "minireactor": "minireactor"}}, rounds)


def test_a_ratio_is_taken_within_a_round(ladder):
    assert ladder.ratio("echo-100", STEPS[1].name, STEPS[0].name) == (0.5, 0.5, 0.5)
    assert ladder.ratio("echo-100", STEPS[2].name, STEPS[1].name) == (1.0, 1.0, 1.0)
    assert ladder.ratio("echo-100", "twisted", STEPS[0].name) is None


def test_the_table_has_each_step_beside_the_one_before(ladder):
    lines = run.text(ladder).splitlines()
    assert f"| 1. {STEPS[1].title} | 0.50 |" in lines
    assert "| **all steps, to tiny** | 0.50 |" in lines
    assert "| minireactor, to tiny | 0.25 |" in lines
    assert f"| 1. {STEPS[1].title} | 8.00 | 0.50 (0.50 to 0.50) | 0.50 (0.50 to 0.50) |" in lines


def test_the_chart_is_a_picture_with_a_bar_for_each_step(ladder):
    picture = ElementTree.fromstring(run.chart(ladder))
    bars = [each for each in picture.iter() if each.get("class") in ("bar", "goal")]
    assert len(bars) == len(STEPS) + 1


def test_an_earlier_result_is_shown_again(ladder, tmp_path, capsys):
    path, chart = tmp_path / "ladder.json", tmp_path / "chart.svg"
    path.write_text(run.as_json(ladder))
    assert main(["--ladder", "--from", str(path), "--chart", str(chart)]) == 0
    assert run.summary(ladder) in capsys.readouterr().out
    assert chart.read_text() == run.chart(ladder)


def test_another_file_is_not_taken_for_an_earlier_result(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"header": {}}))
    with pytest.raises(SystemExit) as ended:
        main(["--ladder", "--from", str(path)])
    assert ended.value.code == 2
    assert "is not a ladder's --json" in capsys.readouterr().err


def test_the_workloads_are_those_that_a_step_names():
    workloads = run.workloads_of(WORKLOADS)
    assert {workload.name for workload in workloads} == {
        name for step in STEPS for name in step.workloads
    }
