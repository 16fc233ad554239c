"""Stages between a producer and a consumer, and `pipe()`, which chains them.

Imports `core` and the kit. Read first: `stage`, with the contract that every stage keeps.
"""

from minireactor.streams.buffer import Buffer
from minireactor.streams.rate import RateLimiter
from minireactor.streams.stage import Piece, PushFromPull, pipe
from minireactor.streams.tee import Branch, Tee
from minireactor.streams.transform import Transform

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
