"""Read files again while a server runs: what SIGHUP does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

if TYPE_CHECKING:
    from minireactor.internet import Reactor


class _Reload(NamedTuple):
    old: str
    read: Callable[[], Any]
    use: Callable[[Any], str]


class Reloads:
    """What a signal reads again, each time in a thread, because a disk may be slow.

    report: called with a line of text about each file that is in use from now on.
    warn: called with a line of text about each file that is bad.
    on_begin, on_end: called before the first file is read, and after the last one."""

    def __init__(
        self,
        reactor: Reactor,
        report: Callable[[str], object],
        warn: Callable[[str], object],
        on_begin: Callable[[], object] = lambda: None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._report = report
        self._warn = warn
        self._on_begin, self._on_end = on_begin, on_end
        self._left = 0  # files that are being read
        self._reloads: list[_Reload] = []

    def add(self, old: str, read: Callable[[], Any], use: Callable[[Any], str]) -> None:
        """Add a file to read again.

        old: what is in use until then, such as "the old certificate".
        read: called in a thread. Raises ValueError, which says why the file is bad; `old` then
            stays in use.
        use: called in the loop's thread with the result of `read`. Returns a line for `report`."""
        self._reloads.append(_Reload(old, read, use))

    def __len__(self) -> int:
        return len(self._reloads)

    def on_signal(self, *_: Any) -> None:
        """Read all files again; this is a signal handler."""
        self._reactor.callFromThread(self._begin)

    def _begin(self) -> None:
        if not self._left:
            self._on_begin()
        self._left += len(self._reloads)
        for reload in self._reloads:
            self._reactor.callInThread(self._read, reload)

    def _read(self, reload: _Reload) -> None:
        try:
            found = reload.read()
        except ValueError as error:
            text = f"{reload.old} stays in use: {error}"
            self._reactor.callFromThread(self._end, lambda: self._warn(text))
        else:
            self._reactor.callFromThread(self._end, lambda: self._report(reload.use(found)))

    def _end(self, call: Callable[[], object]) -> None:
        self._left -= 1
        try:
            call()
        finally:
            if not self._left:
                self._on_end()
