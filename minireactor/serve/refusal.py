"""Why a client is refused.

This is apart from `clients`, because every server imports it, and only servers with limits for
single clients need what `clients` loads.
"""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """Why a client is refused: the option that does not allow it, and a text for the log."""

    option: str
    why: str
