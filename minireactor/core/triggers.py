"""System events, such as "startup" and "shutdown": functions that are called in three phases.

    before*  during*  after*

A trigger is a function for one phase of one event. Each is called once; within a phase, in the
order in which they were added. If a trigger raises, the exception is logged and the others are
still called. A "before" trigger may return a Deferred, or any object with `addBoth`. The later
phases then wait until the Deferred has fired.
"""

from __future__ import annotations

from typing import Any, Callable

from minireactor import log
from minireactor.failure import safe_repr

PHASES = ("before", "during", "after")


class SystemEvent:
    """One event, with its triggers.

    own: the reactor's own function for this event, called before the "during" triggers.
    """

    def __init__(self, name: str, own: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._own = own
        self._triggers: dict[str, list[tuple[Any, ...]]] = {phase: [] for phase in PHASES}
        self._waiting_for = 0

    def add(self, phase: str, f: Callable[..., Any], args: Any, kw: Any) -> tuple[Any, ...]:
        """Add a trigger, and return a tuple that `remove` takes.

        Raises KeyError if there is no such phase, and TypeError if `f` is not callable."""
        if not callable(f):
            raise TypeError(f"a trigger is a callable, not {safe_repr(f)}")
        trigger = (self.name, phase, f, args, kw)
        self._triggers_of(phase).append(trigger)
        return trigger

    def remove(self, trigger: tuple[Any, ...]) -> None:
        """Remove a trigger. Raises ValueError if it has fired or has been removed already."""
        triggers = self._triggers_of(trigger[1])
        for index, other in enumerate(triggers):
            # Compare by identity: two triggers may be equal, and arguments may not be comparable.
            if other is trigger:
                del triggers[index]
                return
        raise ValueError(f"{safe_repr(trigger)} is not, or no longer, a trigger")

    def _triggers_of(self, phase: str) -> list[tuple[Any, ...]]:
        try:
            return self._triggers[phase]
        except KeyError:
            raise KeyError(f"{phase!r} is no phase; the phases are {', '.join(PHASES)}") from None

    def fire(self) -> None:
        """Call the triggers of all phases. Later phases wait for the Deferreds of "before"."""
        # Count this method as well. Otherwise a Deferred that has fired already would start the
        # later phases before the loop below is done.
        self._waiting_for = 1
        for result in self._call_all("before"):
            self._waiting_for += 1
            try:
                if hasattr(result, "addBoth"):
                    result.addBoth(self._one_done)
                    continue
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                log.err(error, f"in waiting for {safe_repr(result)} before {self.name}")
            self._waiting_for -= 1
        self._one_done(None)

    def _one_done(self, result: Any) -> Any:
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
