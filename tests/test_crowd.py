"""A small run of the script that measures what many idle connections cost."""

from __future__ import annotations

import sys

import pytest

resource = pytest.importorskip("resource")  # for the limit of descriptors

from bench import crowd  # noqa: E402


@pytest.mark.slow
@pytest.mark.newest
def test_many_connections_are_measured_while_watched_and_while_they_end(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["crowd", "100", "metrics", "abort"])
    printed = []
    crowd.main(printed.append)
    assert printed[0].startswith("100 clients")
    assert [line.split()[0] for line in printed[1:]] == ["metrics", "abort"]
    for line in printed[1:]:
        assert float(line.split()[1]) > 0
