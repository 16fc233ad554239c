"""What a learner has read and solved, kept in a file that may be deleted at any time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from minireactor.lessons.catalogue import Lesson

READ, RIGHT = "read", "right"


def path() -> Path:
    """Return where the progress is kept: a file in the user's folder for states of programs.

    Raises RuntimeError if the system knows of no home directory."""
    known = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(known or Path.home() / ".local" / "state") / "minireactor" / "lessons.txt"


def progress() -> dict[str, str]:
    """Return READ or RIGHT for each lesson with one of them, by name.

    A file that is missing or unreadable counts as no progress."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        for line in path().read_text(encoding="utf-8").splitlines():
            name, _, state = line.partition(" ")
            if state == RIGHT or (state == READ and name not in found):
                found[name] = state
    return found


def note(lesson: Lesson, state: str) -> None:
    """Add that a lesson was read or that its exercise is right; do nothing if that fails."""
    if progress().get(lesson.name) in (state, RIGHT):
        return
    with contextlib.suppress(OSError, RuntimeError):
        path().parent.mkdir(parents=True, exist_ok=True)
        with path().open("a", encoding="utf-8") as file:
            file.write(f"{lesson.name} {state}\n")
