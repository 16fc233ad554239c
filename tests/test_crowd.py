"""The script that measures what a crowd of connections costs, in small."""

from __future__ import annotations

import sys

import pytest

resource = pytest.importorskip("resource")  # of the limit of descriptors

from bench import crowd  # noqa: E402


@pytest.mark.slow
def test_a_crowd_is_measured_while_somebody_looks_and_as_it_ends(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["crowd", "100", "metrics", "abort"])
    said = []
    crowd.main(said.append)
    assert said[0].startswith("100 clients")
    assert [line.split()[0] for line in said[1:]] == ["metrics", "abort"]
    for line in said[1:]:
        assert float(line.split()[1]) > 0
