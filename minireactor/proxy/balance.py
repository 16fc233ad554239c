"""In which order the targets of a proxy are tried. No I/O, and no clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Place = tuple[str, "int | str"]  # host, port

FIRST, ROUND_ROBIN, LEAST = "first", "round-robin", "least"
BALANCES = (FIRST, ROUND_ROBIN, LEAST)

# Seconds for which a target that could not be connected is tried after all others. A refusal costs
# a client nothing that it could notice, but a target that does not answer costs the whole timeout.
OUT_SECONDS = 10.0
MAX_OUT_SECONDS = 60.0  # each further failure doubles the time, up to this
# Seconds after which an attempt without an answer makes others avoid its target. TCP repeats a
# lost packet after one second, so that one loss alone does not count.
SLOW_SECONDS = 1.5


class Balancer:
    """Knows of each target how many clients it has, and whether it has failed lately.

    balance: FIRST: as they were given; ROUND_ROBIN: each client begins one further; LEAST: with
        the one that has the fewest clients at present, and in turn among equals. In any case the
        following come last: a target that has failed, for OUT_SECONDS and longer each time; after
        that, while one client tries it; and a target that has not answered for SLOW_SECONDS.

    Each attempt is told by `began`, and then by one of `joined`, `failed` and `gave_up`; `who` is
    any object that stands for it.
    """

    def __init__(self, places: Sequence[Place], balance: str, seconds: Callable[[], float]) -> None:
        self._targets = {place: _Target() for place in places}
        self._balance = balance
        self._seconds = seconds
        self._turn = 0

    def order(self) -> list[Place]:
        """For the next client."""
        now = self._seconds()
        good = [place for place, target in self._targets.items() if not target.is_last(now)]
        bad = [place for place, target in self._targets.items() if target.is_last(now)]
        if self._balance != FIRST and good:
            first = self._turn % len(good)
            good = good[first:] + good[:first]
            self._turn += 1
        if self._balance == LEAST:
            good.sort(key=lambda place: self._targets[place].clients)
        return good + bad

    def targets(self) -> Iterator[Place]:
        """For one client, one after the other, as the targets are when the client comes to them."""
        if len(self._targets) == 1:
            return iter(self._targets)
        return self._in_turn()

    def _in_turn(self) -> Iterator[Place]:
        left = self.order()
        while left:
            yield left.pop(0)
            now = self._seconds()
            left.sort(key=lambda place: self._targets[place].is_last(now))

    def began(self, place: Place, who: object) -> None:
        """An attempt to connect to it has begun."""
        self._targets[place].attempts[who] = self._seconds()

    def failed(self, place: Place, who: object) -> float:
        """It could not be connected: for how many seconds it comes last now, 0 if that is old."""
        target = self._targets[place]
        target.attempts.pop(who, None)
        now = self._seconds()
        # Clients that came at the same time fail at the same time: that counts once.
        if target.out_until is not None and now < target.out_until:
            return 0.0
        target.out_seconds = min(target.out_seconds * 2 or OUT_SECONDS, MAX_OUT_SECONDS)
        target.out_until = now + target.out_seconds
        return target.out_seconds if len(self._targets) > 1 else 0.0

    def joined(self, place: Place, who: object) -> None:
        """It has taken a client."""
        target = self._targets[place]
        target.attempts.pop(who, None)
        target.answered = self._seconds()
        target.out_until = None
        target.out_seconds = 0.0
        target.clients += 1

    def gave_up(self, place: Place, who: object) -> None:
        """The attempt has ended for a reason that is not the target's."""
        self._targets[place].attempts.pop(who, None)

    def left(self, place: Place) -> None:
        """That client has gone."""
        self._targets[place].clients -= 1


class _Target:
    __slots__ = ("answered", "attempts", "clients", "out_seconds", "out_until")

    def __init__(self) -> None:
        self.clients = 0
        self.attempts: dict[object, float] = {}  # under way, and since when: the oldest first
        self.answered = float("-inf")  # when it has taken the last client
        self.out_until: float | None = None  # None: it has not failed since it took a client
        self.out_seconds = 0.0

    def is_last(self, now: float) -> bool:
        if self.out_until is not None:
            return now < self.out_until or bool(self.attempts)
        oldest = next(iter(self.attempts.values()), now)
        return oldest > self.answered and now - oldest >= SLOW_SECONDS
