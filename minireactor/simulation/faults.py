"""The random faults of a network: how often each kind happens.

    network.faults.short_send = 0.1        # a tenth of all sends take only a part of the bytes

Faults on command are methods of `Network` and of `Host`.
"""

from __future__ import annotations

from minireactor.simulation.chance import Chance


class Faults:
    """How often each fault happens. Every rate is a fraction of the calls, 0 at first.

    short_send, short_read: the kernel takes, or gives, only a part of the bytes.
    again: a send or a read gives EAGAIN, although the socket was reported as ready.
    reset: a segment is answered with a reset, as a firewall on the way does.
    abort_accept: accept() gives ECONNABORTED, and the waiting connection is gone.
    no_buffers: accept() or a new socket gives ENOBUFS.
    no_descriptors: accept() or a new socket gives EMFILE.
    slow_lookup: a look-up takes SLOW_SECONDS.
    failed_lookup: a look-up does not find the name.
    dead_address: the first address that a look-up gives does not answer.
    freeze, partition: a host freezes, or no segment passes between two hosts, for up to a second.
        These two rates are times per second, counted over the whole network.
    """

    RATES = (
        "short_send",
        "short_read",
        "again",
        "reset",
        "abort_accept",
        "no_buffers",
        "no_descriptors",
        "slow_lookup",
        "failed_lookup",
        "dead_address",
        "freeze",
        "partition",
    )
    SLOW_SECONDS = 20.0

    short_send = short_read = again = reset = 0.0
    abort_accept = no_buffers = no_descriptors = 0.0
    slow_lookup = failed_lookup = dead_address = 0.0
    freeze = partition = 0.0

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def set(self, **rates: float) -> None:
        """Set several rates.

        Raises TypeError for an unknown name, and ValueError for a number outside 0 to 1."""
        for name, rate in rates.items():
            if name not in self.RATES:
                raise TypeError(f"{name!r} is not a fault; give one of {', '.join(self.RATES)}")
            if not 0 <= rate <= 1:
                raise ValueError(f"{name}={rate!r} is not a rate; give a number from 0 to 1")
            setattr(self, name, rate)

    def stop(self) -> None:
        """Set all rates to 0."""
        self.set(**dict.fromkeys(self.RATES, 0.0))

    def happens(self, name: str) -> bool:
        """Draw whether the fault of this name happens now."""
        return self._chance.happens(getattr(self, name))

    def part(self, count: int, rate: float) -> int:
        """Return `count`, or at this rate a smaller number of at least 1."""
        if count > 1 and self._chance.happens(rate):
            return 1 + self._chance.below(count - 1)
        return count
