"""System events, such as "startup" and "shutdown": functions to call in three phases.

    before*  during*  after*

Triggers are one-shot, and called in the order in which they were added. One that raises is
logged and keeps none of the others from being called. If a "before" trigger returns an object
with `addBoth`, a Deferred, the phases after it wait until that has fired.
"""

from __future__ import annotations

from typing import Any, Callable

from minireactor import log
from minireactor.failure import safe_repr

PHASES = ("before", "during", "after")


class SystemEvent:
    """One event. `own` is the reactor's own part of it, the first of each "during" phase."""

    def __init__(self, name: str, own: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._own = own
        self._triggers: dict[str, list[tuple[Any, ...]]] = {phase: [] for phase in PHASES}
        self._waiting_for = 0

    def add(self, phase: str, f: Callable[..., Any], args: Any, kw: Any) -> tuple[Any, ...]:
        """Add a trigger; what `remove` takes. KeyError for an unknown phase."""
        if not callable(f):
            raise TypeError(f"a trigger is a callable, not {safe_repr(f)}")
        trigger = (self.name, phase, f, args, kw)
        self._of(phase).append(trigger)
        return trigger

    def remove(self, trigger: tuple[Any, ...]) -> None:
        """ValueError if it has fired, or has been removed, already."""
        triggers = self._of(trigger[1])
        for index, other in enumerate(triggers):
            # By identity: two may be equal in all, and arguments need not be comparable.
            if other is trigger:
                del triggers[index]
                return
        raise ValueError(f"{safe_repr(trigger)} is not, or no longer, a trigger")

    def _of(self, phase: str) -> list[tuple[Any, ...]]:
        try:
            return self._triggers[phase]
        except KeyError:
            raise KeyError(f"{phase!r} is no phase; the phases are {', '.join(PHASES)}") from None

    def fire(self) -> None:
        self._waiting_for = 1  # this call's own share, so that the rest cannot begin inside it
        for result in self._call_all("before"):
            self._waiting_for += 1
            try:
                if hasattr(result, "addBoth"):
                    result.addBoth(self._one_less)
                    continue
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                log.err(error, f"in waiting for {safe_repr(result)} before {self.name}")
            self._waiting_for -= 1
        self._one_less(None)

    def _one_less(self, result: Any) -> Any:
        self._waiting_for -= 1
        if self._waiting_for == 0:
            self._own()
            self._call_all("during")
            self._call_all("after")
        return result

    def _call_all(self, phase: str) -> list[Any]:
        results = []
        triggers = self._triggers[phase]
        while triggers:
            _, _, f, args, kw = triggers.pop(0)
            try:
                results.append(f(*args, **kw))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                log.err(error, f"in a trigger {phase} {self.name}: {safe_repr(f)}")
        return results
