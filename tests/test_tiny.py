"""`tiny`, and the rules that it keeps: the same tests run on it and on the core."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("engine_rules")

from engine_rules import *  # noqa: E402, F403

from minireactor import Reactor, tiny  # noqa: E402


@pytest.fixture(params=[Reactor, tiny.Reactor], ids=["core", "tiny"])
def reactor(request):
    own = request.param()
    yield own
    own.close()
