"""A short soak of every server of the command; `soak.py` says how to run a long one."""

from __future__ import annotations

import os

import pytest
from soak import soak
from support import IS_PYPY


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.skipif(IS_PYPY, reason="its heap grows until its collector sees a reason to run")
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc to read memory from")
def test_mixed_clients_get_every_byte_and_leave_nothing_behind():
    faults, summary = soak(seconds=8)
    assert faults == [], summary
