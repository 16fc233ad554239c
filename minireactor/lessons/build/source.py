"""A producer for the checks, which records its calls."""

from __future__ import annotations

from typing import Callable

from minireactor.lessons.build.client import KIB, MIB
from minireactor.lessons.build.report import Text
from minireactor.lessons.build.trial import Recorder

HIGH, LOW = 64 * KIB, 16 * KIB  # bytes: the marks that the steps ask for


class Source:
    """A producer that records its calls, and how much was pending at each resume."""

    def __init__(
        self, recorder: Recorder, resumed: Callable[[Source], object] | None = None
    ) -> None:
        self.recorder = recorder
        self.transport = recorder.transport
        self.events: list[str] = []
        self.pending: list[int] = []  # bytes, at each resume
        self.paused = False
        self.depth = 0  # how many calls of write() are under way
        self.inside: list[str] = []  # the calls that came from inside write()
        self.made = 0  # bytes written
        self._resumed = resumed

    def write(self, data: bytes) -> None:
        self.depth += 1
        self.made += len(data)
        self.transport.write(data)
        self.depth -= 1

    def register_push(self) -> None:
        self.transport.registerProducer(self, True)

    def fill(self, most: int = MIB, size: int = KIB) -> int:
        """Write until paused. Return how many bytes were written."""
        before = self.made
        while not self.paused and self.made - before < most:
            self.write(bytes(size))
        return self.made - before

    def seen(self) -> Text:
        """Return the calls on this producer, for a report."""
        got = ", ".join(self.events) or "-"
        return (f"the producer's calls: {got}", f"生产者收到的调用：{got}")

    def _event(self, name: str) -> None:
        self.events.append(name)
        self.recorder.calls.append(name)
        if self.depth:
            self.inside.append(name)

    def pauseProducing(self) -> None:
        self.paused = True
        self._event("pause")

    def resumeProducing(self) -> None:
        self.paused = False
        self.pending.append(self.transport.pending)
        self._event("resume")
        if self._resumed:
            self._resumed(self)

    def stopProducing(self) -> None:
        self.paused = True
        self._event("stop")

    def __repr__(self) -> str:
        return f"<producer {id(self):#x}>"
