"""Decide in which order the targets of a proxy are tried. This module does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from minireactor.proxy.targets import Changes, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from minireactor.proxy.targets import Place

FIRST, ROUND_ROBIN, LEAST_CONNECTIONS = "first", "round-robin", "least"
BALANCES = (FIRST, ROUND_ROBIN, LEAST_CONNECTIONS)

# Seconds. If an attempt to connect has no answer for this time, clients try another target.
# TCP repeats a lost packet after one second, so one lost packet alone does not count.
SLOW_SECONDS = 1.5
# A target has failed if it ends this many connections in a row within EARLY_SECONDS, before it has
# sent a byte, and before the client has ended. An honest server may do so now and then: it has read
# a message that needs no answer. Such a server passes the next probe.
EARLY_ENDS = 3
EARLY_SECONDS = 1.0


class Balancer:
    """Order the targets for each client, by their numbers of clients and by their failures.

    targets: each a Target, or a place; one or more.
    balance: the order of the targets for one client:
        FIRST: the order in which the targets were given.
        ROUND_ROBIN: each target in turn, as often as its weight says.
        LEAST_CONNECTIONS: the target with the fewest clients for its weight first, among equals as
            ROUND_ROBIN.

    In each order, the targets come in groups:
        usable targets; then usable backup targets;
        targets that have not answered an attempt for SLOW_SECONDS, if no other one is usable;
        targets that are down, those that do not answer last, and the least recently failed first.

    A failure brings a target down, and so does the lack of an answer if another target is usable.
    It stays down until an attempt succeeds: of a probe, see `health`, or of a client that finds no
    other target.

    The caller reports each attempt: first `began`, then one of `joined`, `passed`, `failed` and
    `gave_up`. `attempt` is any object that identifies the attempt. Calls about a target that has
    been removed and forgotten do nothing.
    """

    def __init__(
        self, targets: Iterable[Target | Place], balance: str, seconds: Callable[[], float]
    ) -> None:
        self._targets: dict[Place, Target] = {}
        self._balance = balance
        self._seconds = seconds
        self.set_targets(
            target if isinstance(target, Target) else Target(target) for target in targets
        )

    # The targets.

    def all(self) -> list[Target]:
        """Return all targets, those that are draining last."""
        return list(self._targets.values())

    def find(self, place: Place) -> Target | None:
        """Return the target at a place, or None."""
        return self._targets.get(place)

    def set_targets(self, targets: Iterable[Target]) -> Changes:
        """Replace the targets, and return what has changed. A target that stays keeps its state.

        A target that goes is draining while it has clients. Then its state is forgotten."""
        before = self._targets
        self._targets = {}
        changes = Changes([], [], [])
        for target in targets:
            known = before.pop(target.place, None)
            if target.place in self._targets:
                continue
            if known is None:
                changes.added.append(target)
            elif known.is_draining:
                known.is_draining = False
                changes.added.append(known)
            elif (known.weight, known.backup) != (target.weight, target.backup):
                changes.changed.append(known)
            if known is not None:
                known.weight, known.backup, known.credit = target.weight, target.backup, 0
                known.leads_back = False  # the operator may have changed what the name means
            self._targets[target.place] = known or target
        for known in before.values():
            if not known.is_draining:
                changes.removed.append(known)
            known.is_draining = True
            if known.clients or known.attempts:
                self._targets[known.place] = known
        return changes

    def places(self) -> Iterator[Place]:
        """Yield the targets for one client; each one is chosen when the client needs that one."""
        if len(self._targets) == 1:
            return iter(tuple(self._targets))
        return self._one_by_one()

    def _one_by_one(self) -> Iterator[Place]:
        tried: set[Place] = set()
        while True:
            left = [
                target
                for place, target in self._targets.items()
                if place not in tried and not target.is_draining
            ]
            if not left:
                return
            place = self._choose(left).place
            tried.add(place)
            yield place

    def _choose(self, targets: list[Target]) -> Target:
        now = self._seconds()
        usable = [target for target in targets if _is_usable(target, now)]
        best = [target for target in usable if not target.backup] or usable
        if not best:
            return min(targets, key=lambda each: (each.is_down, each.is_silent, each.failed_at))
        if self._balance == FIRST:
            return best[0]
        if self._balance == LEAST_CONNECTIONS:
            fewest = min(map(_load, best))
            best = [target for target in best if _load(target) == fewest]
        return _next_in_turn(best)

    # Attempts to connect.

    def began(self, place: Place, attempt: object) -> None:
        """Note that an attempt to connect to the target has begun."""
        target = self._targets.get(place)
        if target is not None:
            target.attempts[attempt] = self._seconds()

    def answered(self, place: Place, attempt: object) -> None:
        """Note that an attempt has led to a connection."""
        target = self._targets.get(place)
        if target is not None:
            now = self._seconds()
            target.connect_seconds = now - target.attempts.pop(attempt, now)
            target.answered = now
            target.waited = 0.0

    def joined(self, place: Place, attempt: object) -> bool:
        """Note that the target has accepted a client. Return whether the target is up again."""
        self.answered(place, attempt)
        target = self._targets.get(place)
        if target is None:
            return False
        target.clients += 1
        # A target that accepts and then ends at once needs a probe to come up again.
        return target.early_ends < EARLY_ENDS and self._comes_up(target)

    def passed(self, place: Place) -> bool:
        """Note that a probe has succeeded. Return whether the target is up again."""
        target = self._targets.get(place)
        if target is None or target.leads_back:
            return False
        target.early_ends = 0
        return self._comes_up(target)

    def failed(self, place: Place, attempt: object, why: str) -> bool:
        """Note that an attempt has failed. Return whether the target was up until now."""
        target = self._targets.get(place)
        if target is None:
            return False
        now = self._seconds()
        began = target.attempts.pop(attempt, now)
        is_silent = now - began >= SLOW_SECONDS
        if is_silent and began < target.answered:
            target.failures += 1  # a later attempt had an answer, so the target is not down
            self._forget_if_gone(target)
            return False
        return self._comes_down(target, why, is_silent)

    def gave_up(self, place: Place, attempt: object) -> bool:
        """Note that an attempt has ended for a reason that is not the target's fault.

        Clients that wait in vain, and give up before the attempt's time is over, bring a target
        down after SLOW_SECONDS in all. Returns whether this is so, and the target was up."""
        target = self._targets.get(place)
        if target is None:
            return False
        now = self._seconds()
        began = target.attempts.pop(attempt, now)
        self._forget_if_gone(target)
        if target.is_down:
            return False
        if began > target.answered:
            target.waited += now - began
        if target.waited < SLOW_SECONDS:
            return False
        why = f"clients have waited in vain for {target.waited:.1f} s"
        return self._comes_down(target, why, is_silent=True)

    def overdue(self, target: Target) -> bool:
        """Bring down a target that has not answered for SLOW_SECONDS, if another one is usable.

        Returns whether this was so."""
        now = self._seconds()
        if target.is_down or not _is_slow(target, now) or not self.has_usable():
            return False
        why = f"it has not answered for {now - next(iter(target.attempts.values())):.1f} s"
        return self._comes_down(target, why, is_silent=True)

    def has_usable(self) -> bool:
        """Return whether any target is usable now."""
        now = self._seconds()
        return any(_is_usable(target, now) for target in self._targets.values())

    # Connections.

    def ended_early(self, place: Place) -> bool:
        """Note that the target has ended a connection first, within EARLY_SECONDS, without a byte.

        Returns whether this brings the target down."""
        target = self._targets.get(place)
        if target is None:
            return False
        target.early_ends += 1
        if target.early_ends < EARLY_ENDS:
            return False
        why = f"it has ended {EARLY_ENDS} connections at once, without a byte"
        return self._comes_down(target, why)

    def left(self, place: Place, has_sent: bool) -> None:
        """Note that a client of the target has gone.

        has_sent: the target has sent bytes to the client."""
        target = self._targets[place]
        target.clients -= 1
        if has_sent:
            target.early_ends = 0
        self._forget_if_gone(target)

    # States.

    def _comes_up(self, target: Target) -> bool:
        was_down, target.is_down = target.is_down, False
        if was_down:
            target.up_since = self._seconds()
        return was_down

    def _comes_down(self, target: Target, why: str, is_silent: bool = False) -> bool:
        was_down, target.is_down = target.is_down, True
        target.failures += 1
        target.failed_at = self._seconds()
        target.reason = why
        target.is_silent = is_silent
        target.waited = 0.0
        self._forget_if_gone(target)
        return not was_down and not target.is_draining

    def _forget_if_gone(self, target: Target) -> None:
        if target.is_draining and not target.clients and not target.attempts:
            self._targets.pop(target.place, None)


def _is_usable(target: Target, now: float) -> bool:
    return not (target.is_down or target.is_draining or _is_slow(target, now))


def _is_slow(target: Target, now: float) -> bool:
    """Return whether an attempt has had no answer for SLOW_SECONDS, and no later one either."""
    oldest = next(iter(target.attempts.values()), now)
    return oldest > target.answered and now - oldest >= SLOW_SECONDS


def _load(target: Target) -> float:
    return (target.clients + len(target.attempts)) / target.weight


def _next_in_turn(targets: list[Target]) -> Target:
    """Choose a target as often as its weight says, and never twice in a row if avoidable.

    This is the smooth weighted round-robin of nginx: weights 5, 1, 1 give a a b a c a a."""
    best = targets[0]
    total = 0
    for target in targets:
        target.credit += target.weight
        total += target.weight
        if target.credit > best.credit:
            best = target
    best.credit -= total
    return best
