"""Decide in which order the targets of a proxy are tried. This module does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Place = tuple[str, "int | str"]  # host, port

FIRST, ROUND_ROBIN, LEAST_CONNECTIONS = "first", "round-robin", "least"
BALANCES = (FIRST, ROUND_ROBIN, LEAST_CONNECTIONS)

# Seconds. After a failed attempt, a target is tried after all others for this time. A refused
# attempt costs a client almost no time, but a target that does not answer costs the timeout.
FAILURE_COOLDOWN = 10.0
MAX_FAILURE_COOLDOWN = 60.0  # the limit: each further failure doubles the cooldown
# Seconds. If an attempt to connect has no answer for this time, further clients avoid the target.
# TCP repeats a lost packet after one second, so one lost packet alone does not count.
SLOW_SECONDS = 1.5


class Balancer:
    """Order the targets for each client, by their number of clients and by their recent failures.

    balance: the order of the targets for one client:
        FIRST: the order in which the targets were given.
        ROUND_ROBIN: the list of targets, beginning one target further for each client.
        LEAST_CONNECTIONS: the target with the fewest clients first; round-robin among equals.

    In each order, three kinds of target come last:
        a target that has failed: for FAILURE_COOLDOWN, and for longer after each further failure;
        a target whose cooldown is over, while a first client tries it;
        a target that has not answered an attempt for SLOW_SECONDS.

    The caller reports each attempt: first `began`, then one of `joined`, `failed` and `gave_up`.
    `attempt` is any object that identifies the attempt.
    """

    def __init__(self, places: Sequence[Place], balance: str, seconds: Callable[[], float]) -> None:
        self._targets = {place: _Target() for place in places}
        self._balance = balance
        self._seconds = seconds
        self._turn = 0

    def order(self) -> list[Place]:
        """Return all targets in the order for the next client."""
        now = self._seconds()
        good = [place for place, target in self._targets.items() if not target.is_last(now)]
        bad = [place for place, target in self._targets.items() if target.is_last(now)]
        if self._balance != FIRST and good:
            first = self._turn % len(good)
            good = good[first:] + good[:first]
            self._turn += 1
        if self._balance == LEAST_CONNECTIONS:
            good.sort(key=lambda place: self._targets[place].clients)
        return good + bad

    def targets(self) -> Iterator[Place]:
        """Yield the targets for one client; each one is chosen when the client needs it."""
        if len(self._targets) == 1:
            return iter(self._targets)
        return self._one_by_one()

    def _one_by_one(self) -> Iterator[Place]:
        left = self.order()
        while left:
            yield left.pop(0)
            now = self._seconds()
            left.sort(key=lambda place: self._targets[place].is_last(now))

    def began(self, place: Place, attempt: object) -> None:
        """Note that an attempt to connect to the target has begun."""
        self._targets[place].attempts[attempt] = self._seconds()

    def failed(self, place: Place, attempt: object) -> float:
        """Note that an attempt has failed; return the seconds of a new cooldown, or 0 if none."""
        target = self._targets[place]
        target.attempts.pop(attempt, None)
        now = self._seconds()
        # Clients that arrive together fail together, which counts as one failure.
        if target.cooldown_until is not None and now < target.cooldown_until:
            return 0.0
        target.cooldown = min(target.cooldown * 2 or FAILURE_COOLDOWN, MAX_FAILURE_COOLDOWN)
        target.cooldown_until = now + target.cooldown
        return target.cooldown if len(self._targets) > 1 else 0.0

    def joined(self, place: Place, attempt: object) -> None:
        """Note that the target has accepted a client."""
        target = self._targets[place]
        target.attempts.pop(attempt, None)
        target.answered = self._seconds()
        target.cooldown_until = None
        target.cooldown = 0.0
        target.clients += 1

    def gave_up(self, place: Place, attempt: object) -> None:
        """Note that an attempt has ended for a reason that is not the target's fault."""
        self._targets[place].attempts.pop(attempt, None)

    def left(self, place: Place) -> None:
        """Note that a client of the target has gone."""
        self._targets[place].clients -= 1


class _Target:
    """What a Balancer knows of one target."""

    __slots__ = ("answered", "attempts", "clients", "cooldown", "cooldown_until")

    def __init__(self) -> None:
        self.clients = 0
        self.attempts: dict[object, float] = {}  # attempt -> when it began; the oldest first
        self.answered = float("-inf")  # when the target last accepted a client
        self.cooldown_until: float | None = None  # None: no failure since it accepted a client
        self.cooldown = 0.0

    def is_last(self, now: float) -> bool:
        """Return whether the target must be tried after the others."""
        if self.cooldown_until is not None:
            return now < self.cooldown_until or bool(self.attempts)
        oldest = next(iter(self.attempts.values()), now)
        return oldest > self.answered and now - oldest >= SLOW_SECONDS
