"""Where a process listens: with sockets that it has inherited, and with its own.

    listening = Listening(os.environ, ["127.0.0.1:8080", "systemd:admin"])
    port = listening.open("127.0.0.1:8080", listen)    # calls listen(sockets), or listen(None)
    listening.close_rest()                             # what nobody has asked for
    listening.own()                                    # this process serves now

A successor inherits the sockets of all ports. It must not remove the file of a UNIX socket before
it serves, and the process before it must not do that any more after.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Callable

from minireactor.operation.handover import SYSTEMD, HandoverError, Inherited

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, MutableMapping

    from minireactor.transports.port import Port

_OWNED = "MINIREACTOR_OWNED"  # a JSON list: the places that this process owns once it serves


class Listening:
    """The ports of a process, by place.

    environ: the environment. Its variables about sockets are removed.
    places: all places where the process is going to listen. A place `systemd` takes the sockets
        that none of them takes by name.

    is_successor: whether this process replaces another one.
    ports: the results of open(), by place.

    Raises HandoverError if the variables are not valid."""

    def __init__(self, environ: MutableMapping[str, str], places: Iterable[str]) -> None:
        self.is_successor = _OWNED in environ
        owned = environ.pop(_OWNED, "[]")
        self._inherited = Inherited(environ)
        self._by_name = {
            place: self._inherited.take(place) for place in places if _is_from_systemd(place)
        }
        self.ports: dict[str, Port] = {}
        try:
            self._owned = {str(place) for place in json.loads(owned)}
        except (ValueError, TypeError, RecursionError):
            self.close_rest()
            raise HandoverError(f"{_OWNED}={owned[:80]!r} is not valid; leave it out") from None

    def open(self, place: str, listen: Callable[[list[socket.socket] | None], Port]) -> Port:
        """Call `listen` with the sockets that listen at a place, or with None. Return its port.

        Raises HandoverError if the place is of systemd, which has passed no such socket."""
        key, number = place, 1
        while key in self.ports:  # several ports may ask for any free number
            number += 1
            key = f"{place} ({number})"
        sockets = self._by_name.pop(key, None) or self._inherited.take(key)
        if sockets is None and (place == SYSTEMD or _is_from_systemd(place)):
            raise HandoverError(f"{place}: systemd has passed no such socket (LISTEN_FDS)")
        port = self.ports[key] = listen(sockets)
        return port

    def close_rest(self) -> None:
        """Close the sockets that open() has not used."""
        self._inherited.close()
        for sockets in self._by_name.values():
            for sock in sockets or ():
                sock.close()
        self._by_name.clear()

    def close(self) -> None:
        """Close all ports, because this process cannot serve. Removes the files that it owns."""
        for port in self.ports.values():
            port.stopListening()

    def sockets(self) -> dict[str, list[socket.socket]]:
        """Return the listening sockets, by place, for handover.passing()."""
        return {place: port.sockets() for place, port in self.ports.items() if port.sockets()}

    def variables(self) -> dict[str, str]:
        """Return the variables with which a successor learns what it owns once it serves."""
        owned = [place for place, port in self.ports.items() if not port.is_adopted]
        return {_OWNED: json.dumps(owned)}

    def own(self) -> None:
        """Own what the process before this one has owned: it listens no more."""
        for place in self._owned & set(self.ports):
            self.ports[place].own_sockets()

    def disown(self) -> None:
        """Leave the sockets to the successor: closing them here does not end them."""
        for port in self.ports.values():
            port.is_adopted = True


def _is_from_systemd(place: str) -> bool:
    return place.startswith(f"{SYSTEMD}:")
