"""The targets of a proxy: what is known of each, and the file that lists them.

A file of targets has one target a line, after which options may follow:

    10.0.0.1:80 weight=3       # gets three clients where another target gets one
    [2001:db8::1]:80
    unix:/run/app.sock backup  # gets clients only while no other target is usable

A word that begins with `#` begins a comment. Empty lines are allowed. This module does no network
I/O.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from minireactor.address import host_port, unix_path
from minireactor.serve.places import split_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Place = tuple[str, "int | str"]  # host, port

UP, DOWN, DRAINING = "up", "down", "draining"

MAX_BYTES = 1 << 20  # of a file of targets
MAX_TARGETS = 1000  # each choice of a target, and each sample of a view, looks at all of them
MAX_WEIGHT = 256
_MAX_NAMED = 5  # targets that a message names


class Target:
    """A target, and what a Balancer knows of it.

    place: (host, port), as for `serve.places`.
    weight: how many clients the target gets in proportion to the others.
    backup: whether the target gets clients only while no other target is usable.
    """

    __slots__ = (
        "answered",
        "attempts",
        "backoff",
        "backup",
        "clients",
        "connect_seconds",
        "credit",
        "early_ends",
        "failed_at",
        "failures",
        "is_down",
        "is_draining",
        "is_silent",
        "leads_back",
        "place",
        "reason",
        "up_since",
        "waited",
        "weight",
    )

    def __init__(self, place: Place, weight: int = 1, backup: bool = False) -> None:
        self.place = place
        self.weight = weight
        self.backup = backup
        self.clients = 0
        self.attempts: dict[object, float] = {}  # attempt -> when it began; the oldest first
        self.answered = float("-inf")  # when an attempt last succeeded
        self.connect_seconds: float | None = None  # how long that attempt took
        self.waited = 0.0  # seconds of attempts that were given up since the last answer
        self.failures = 0  # how many there have been
        self.failed_at = float("-inf")  # when the last one was
        self.reason = ""  # of the last failure
        self.early_ends = 0  # connections in a row that the target has ended at once
        self.is_down = False
        self.is_silent = False  # the last failure was the lack of an answer
        self.is_draining = False  # removed, but clients are still connected
        self.leads_back = False  # the target is this proxy itself
        self.up_since = float("-inf")
        self.backoff = 0.0  # seconds before the next probe of a target that is down
        self.credit = 0  # of the weighted round-robin

    @property
    def state(self) -> str:
        """The state as views show it: UP, DOWN or DRAINING."""
        return DRAINING if self.is_draining else DOWN if self.is_down else UP

    def row(self) -> dict[str, object]:
        """Return the state as a dict that `json` can write: see `view.monitor`."""
        seconds = self.connect_seconds
        return {
            "target": str(self),
            "state": self.state,
            "weight": self.weight,
            "backup": self.backup,
            "clients": self.clients,
            "failures": self.failures,
            "connect": None if seconds is None else round(seconds, 6),
            "reason": self.reason,
        }

    def __str__(self) -> str:
        return host_port(*self.place)


class Changes(NamedTuple):
    """What new targets change: lists of Target."""

    added: list[Target]
    removed: list[Target]
    changed: list[Target]

    def __str__(self) -> str:
        parts = [f"{what} {names(targets)}" for what, targets in zip(self._fields, self) if targets]
        return "; ".join(parts) or "none has changed"


def names(targets: Sequence[Target]) -> str:
    """Return the names of targets for a message, at most _MAX_NAMED of them."""
    text = ", ".join(map(str, targets[:_MAX_NAMED]))
    more = len(targets) - _MAX_NAMED
    return f"{text} and {more} more" if more > 0 else text


def parse_place(text: str) -> tuple[str, int]:
    """Return the place of a target: (host, port), or (text, 0) for a UNIX socket.

    Raises ValueError, which says what to give, unless the text is PORT, HOST:PORT, [IPV6]:PORT or
    unix:PATH."""
    path = unix_path(text)
    if path is not None:
        if path.strip("\0") and text.isprintable():
            return text, 0
        raise ValueError(f"{_shown(text)} is not valid: give a path too, such as unix:/run/x.sock")
    found = split_place(text)
    if found is not None and all(found) and text.isprintable():
        return found
    fix = "give PORT, HOST:PORT or [IPV6]:PORT, such as example.internal:80"
    raise ValueError(f"{_shown(text)} is not valid: {fix}")


def read_targets(path: str, given: Iterable[Target] = ()) -> list[Target]:
    """Return the targets `given`, followed by those in the file at `path`.

    Raises ValueError, which names the file, the line and the fix, if the file is bad."""
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path!r} is no regular file; give a file of targets")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path!r}: {error.strerror}") from None
    return parse_targets(data, repr(path), given)


def _open(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO waits for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse_targets(data: bytes, name: str, given: Iterable[Target] = ()) -> list[Target]:
    """Return the targets `given`, followed by those in `data`, the content of a file.

    name: names the file in messages. Raises ValueError, as read_targets() does."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES} bytes; give a file of targets")
    targets = list(given)
    lines = {_key(target): "as an argument" for target in targets}
    for number, line in enumerate(data.split(b"\n"), 1):
        where = f"{name}, line {number}"
        try:
            target = _parse_line(line)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if target is None:
            continue
        key = _key(target)
        if key in lines:
            raise ValueError(f"{where}: {target} is given {lines[key]} already; remove one")
        lines[key] = f"in line {number}"
        targets.append(target)
        if len(targets) > MAX_TARGETS:
            raise ValueError(f"{where}: more than {MAX_TARGETS} targets; remove some")
    if not targets:
        raise ValueError(f"{name} has no target; write one a line, such as 10.0.0.1:80")
    return targets


def _key(target: Target) -> Place:
    """Return what is equal for two spellings of a target that differ in case only."""
    host, port = target.place
    return (host, port) if unix_path(host) is not None else (host.lower(), port)


def _parse_line(line: bytes) -> Target | None:
    """Return the target of a line; None for an empty line or a comment. Raises ValueError."""
    try:
        words = line.decode("utf-8-sig").split()
    except UnicodeDecodeError:
        raise ValueError(f"{_shown(line)} is not UTF-8; write plain text") from None
    comment = next((at for at, word in enumerate(words) if word.startswith("#")), len(words))
    if not comment:
        return None
    target = Target(parse_place(words[0]))
    seen = set()
    for word in words[1:comment]:
        option, _, value = word.partition("=")
        if word == "backup":
            target.backup = True
        elif option == "weight":
            target.weight = _weight(word, value)
        else:
            raise ValueError(f"{_shown(word)} is no option; write weight=N, backup, or a # comment")
        if option in seen:
            raise ValueError(f"{_shown(word)}: {option} is given twice; remove one")
        seen.add(option)
    return target


def _weight(word: str, value: str) -> int:
    if re.fullmatch("[0-9]{1,3}", value) and 1 <= int(value) <= MAX_WEIGHT:
        return int(value)
    raise ValueError(
        f"{_shown(word)} is not valid: give a weight from 1 to {MAX_WEIGHT}, such as weight=2"
    )


def _shown(value: str | bytes) -> str:
    """Return the beginning of a value for a message, with unprintable characters escaped."""
    return repr(value) if len(value) <= 40 else f"{value[:40]!r}..."
