"""Stages between a producer and a consumer, and `pipe()`, which chains them.

Imports `core` and the kit. Read first: `stages`.
"""

from minireactor.streams.stages import (
    Branch,
    Buffer,
    Piece,
    PushFromPull,
    RateLimiter,
    Tee,
    Transform,
    pipe,
)

__all__ = [
    "Branch",
    "Buffer",
    "Piece",
    "PushFromPull",
    "RateLimiter",
    "Tee",
    "Transform",
    "pipe",
]
