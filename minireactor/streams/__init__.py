"""Stages between a producer and a consumer, and `pipe()`, which chains them.

Each file holds one stage: `rate` limits the speed, `transform` converts, `buffer` buffers, and
`tee` feeds several consumers.

May import `core`, the kit and, when a stage needs time, the default reactor. Read first: `stage`,
the contract of every stage.
"""

from minireactor.streams.buffer import Buffer
from minireactor.streams.rate import RateLimiter
from minireactor.streams.stage import PushFromPull, Stage, pipe
from minireactor.streams.tee import Branch, Tee
from minireactor.streams.transform import Transform

__all__ = [
    "Branch",
    "Buffer",
    "PushFromPull",
    "RateLimiter",
    "Stage",
    "Tee",
    "Transform",
    "pipe",
]
