"""What a fork must not share.

A child process inherits the descriptors of its parent's loops: if it went on with them, both would
take each other's events. So in the child, each open loop disowns what it has.

In the parent, close() alone ends no connection any more: the kernel closes a socket when its last
descriptor is closed, and the child has one as well. See close_socket() and has_forked().
"""

from __future__ import annotations

import os
import socket
import weakref
from typing import Any

open_loops: weakref.WeakSet[Any] = weakref.WeakSet()

_forked = False


class AfterFork:
    """Stands in for the poller in a child process."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"this reactor belongs to process {self._parent}, and a fork cannot share it; "
            "make a new one with minireactor.Reactor()"
        )


def has_forked() -> bool:
    """Return whether a child of this process may share the sockets of a loop."""
    return _forked


def close_socket(sock: socket.socket) -> None:
    """Close a socket for its peer as well, at once, even if a child has it too: rule T4."""
    if _forked:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already, or was not connected
    sock.close()


def _in_parent() -> None:
    global _forked
    _forked = _forked or bool(open_loops)


def _in_child() -> None:
    global _forked
    _forked = False
    for loop in list(open_loops):
        loop.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_in_parent, after_in_child=_in_child)
