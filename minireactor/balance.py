"""In which order the targets of a proxy are tried. No I/O, and no clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import Sequence

    Place = tuple[str, "int | str"]  # host, port

FIRST, ROUND_ROBIN, LEAST = "first", "round-robin", "least"
BALANCES = (FIRST, ROUND_ROBIN, LEAST)

# Seconds for which a target that could not be connected is tried after all others. A refusal costs
# a client nothing that it could notice, but a target that does not answer costs the whole timeout.
OUT_SECONDS = 10.0


class Balancer:
    """Knows of each target how many clients it has, and whether it has failed lately.

    balance: FIRST: as they were given; ROUND_ROBIN: each client begins one further; LEAST: with
        the one that has the fewest clients at present, and in turn among equals. In any case those
        come last that have failed within the last OUT_SECONDS.
    """

    def __init__(self, places: Sequence[Place], balance: str, seconds: Callable[[], float]) -> None:
        self._places = places
        self._balance = balance
        self._seconds = seconds
        self._turn = 0
        self._clients = dict.fromkeys(places, 0)
        self._out_until: dict[Place, float] = {}

    def order(self) -> list[Place]:
        """For the next client."""
        good = [place for place in self._places if not self._is_out(place)]
        bad = [place for place in self._places if self._is_out(place)]
        if self._balance != FIRST and good:
            first = self._turn % len(good)
            good = good[first:] + good[:first]
            self._turn += 1
        if self._balance == LEAST:
            good.sort(key=self._clients.__getitem__)
        return good + bad

    def _is_out(self, place: Place) -> bool:
        until = self._out_until.get(place)
        return until is not None and self._seconds() < until

    def failed(self, place: Place) -> bool:
        """It could not be connected; whether that makes a difference from now on."""
        was_out = self._is_out(place)
        self._out_until[place] = self._seconds() + OUT_SECONDS
        return not was_out and len(self._clients) > 1

    def joined(self, place: Place) -> None:
        """It has taken a client."""
        self._out_until.pop(place, None)
        self._clients[place] += 1

    def left(self, place: Place) -> None:
        """That client has gone."""
        self._clients[place] -= 1
