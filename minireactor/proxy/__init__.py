"""Join two connections, so that each is the producer and the consumer of the other.

`legs` joins two connections, `factory` makes a proxy of that, and `relay` makes the command. For
`relay`, `targets` lists the targets, `balance` orders them, and `health` probes them.
See README.md in this folder for how a stalled reader stops a distant writer.

May import `streams`, `internet`, `transports`, `core` and the kit; `relay` and `factory` import
`serve` too.
Read first: `legs`, which begins with `join()`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minireactor.proxy.factory import Proxy as Proxy
    from minireactor.proxy.factory import ProxyFactory as ProxyFactory
    from minireactor.proxy.legs import join as join

__all__ = ["Proxy", "ProxyFactory", "join"]

# The events of a Relay that are not events of one connection.
CONNECTED, FAILED = "connected", "failed"


def __getattr__(name: str) -> Any:
    # Each name is imported at first use. Every command imports `balance` for its help text,
    # but only two commands need a proxy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from minireactor.proxy import factory

    found = globals()[name] = getattr(factory, name)
    return found
