"""`python -m bench --simulate N`: the model of memory and throughput, with few clients."""

from __future__ import annotations

import re
import sys

import pytest

from bench import __main__ as command
from bench import simulate


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy does not tell sizes")
def test_few_clients_need_what_the_model_says(monkeypatch, capsys):
    monkeypatch.setattr(simulate, "SAMPLE", 10)
    assert command.main(["--simulate", "100"]) == 0
    text = capsys.readouterr().out
    assert "50 stalled, 50 slow" in text
    assert "100 connected" in text
    ratios = dict(re.findall(r"^(pending|throughput),.* ([0-9.]+)$", text, re.MULTILINE))
    assert {name: float(ratio) for name, ratio in ratios.items()} == {
        "pending": pytest.approx(1, abs=0.05),
        "throughput": pytest.approx(1, abs=0.05),
    }
    assert f"most pending {simulate.HIGH + simulate.WRITE:,} bytes" in text


def test_the_number_of_clients_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        command.main(["--simulate", "0"])
    assert "'0' is not possible; give 1 or more" in capsys.readouterr().err
