"""Listening sockets that another process has opened: systemd, a parent, or a predecessor.

    inherited = Inherited(os.environ)
    sockets = inherited.take("127.0.0.1:8080")    # None if nobody has opened that place
    inherited.close()                             # those that nobody has taken

A socket that two processes share has one queue of clients. So a client that connects while one
process replaces the other is served by either of them, and none is refused.

A process passes its sockets on by place, the text with which its command line asked for them:

    variables, descriptors = passing({"127.0.0.1:8080": sockets})
    subprocess.Popen(command, env={**os.environ, **variables}, pass_fds=descriptors)

systemd passes sockets with LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, see sd_listen_fds(3). Their
place is `systemd`, and `systemd:NAME` for those with that name.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

from minireactor.core.system import ListeningSocket

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

SYSTEMD = "systemd"  # the place of all sockets that systemd passes

_VARIABLE = "MINIREACTOR_SOCKETS"  # a JSON object: place -> list of descriptors
_FIRST_DESCRIPTOR = 3  # of those that systemd passes


class HandoverError(Exception):
    """A variable of the environment names descriptors that are no listening sockets."""


class Inherited:
    """The listening sockets that this process has inherited, each for one taker.

    environ: the environment. Its variables about sockets are removed, because child processes must
        not take the same sockets.

    Raises HandoverError if the variables are not valid."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._places: dict[str, list[socket.socket]] = {}
        passed = environ.pop(_VARIABLE, None)
        taken = {name: environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID")}
        names = environ.pop("LISTEN_FDNAMES", "")
        try:
            if passed is not None:
                self._add_passed(passed)
            elif taken["LISTEN_PID"] == str(os.getpid()):
                self._add_from_systemd(int(taken["LISTEN_FDS"]), names.split(":"))
        except HandoverError:
            self.close()
            raise
        except (ValueError, TypeError, AttributeError, RecursionError):
            self.close()
            shown = passed if passed is not None else taken["LISTEN_FDS"]
            name = _VARIABLE if passed is not None else "LISTEN_FDS"
            raise HandoverError(f"{name}={shown[:80]!r} is not valid; leave it out") from None

    def _add_passed(self, text: str) -> None:
        for place, descriptors in json.loads(text).items():
            self._places[place] = []
            for fd in descriptors:
                self._places[place].append(_listening(fd))

    def _add_from_systemd(self, count: int, names: list[str]) -> None:
        for number in range(count):
            sock = _listening(_FIRST_DESCRIPTOR + number)
            name = names[number] if number < len(names) else ""
            self._places.setdefault(f"{SYSTEMD}:{name}", []).append(sock)

    def take(self, place: str) -> list[socket.socket] | None:
        """Return the sockets of a place, which now belong to the caller; None if there is none.

        `systemd` takes all sockets from systemd that nobody has taken by name."""
        if place == SYSTEMD and place not in self._places:
            names = [each for each in self._places if each.startswith(f"{SYSTEMD}:")]
            return [sock for name in names for sock in self._places.pop(name)] or None
        return self._places.pop(place, None)

    def close(self) -> None:
        """Close the sockets that nobody has taken. They go on listening in other processes."""
        for socks in self._places.values():
            for sock in socks:
                sock.close()
        self._places.clear()


def _listening(fd: object) -> socket.socket:
    """Return the socket of an inherited descriptor. Child processes do not inherit it further."""
    if not isinstance(fd, int) or fd < 0:
        raise ValueError(fd)
    try:
        os.set_inheritable(fd, False)
        sock = ListeningSocket(fileno=fd)
    except OSError as error:
        raise HandoverError(f"descriptor {fd} is not a socket: {error.strerror}") from None
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise HandoverError(f"descriptor {fd} is a socket that does not listen")
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def passing(
    places: Mapping[str, Sequence[socket.socket]],
) -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the environment variables and the descriptors for a child that takes these sockets.

    The caller passes both to subprocess.Popen(), as a part of `env` and as `pass_fds`."""
    descriptors = {place: [sock.fileno() for sock in socks] for place, socks in places.items()}
    every = tuple(fd for each in descriptors.values() for fd in each)
    return {_VARIABLE: json.dumps(descriptors)}, every
