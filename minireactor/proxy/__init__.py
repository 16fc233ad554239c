"""Join two connections, so that each is the producer and the consumer of the other.

`legs` joins two connections, `factory` makes a proxy of that, and `relay` makes the command. See
README.md in this folder for how a stalled reader stops a distant writer.

May import `streams`, `transports`, `core` and the kit; `relay` imports `serve` too. Read first:
`legs`, which begins with `join()`.
"""

from minireactor.proxy.factory import Proxy, ProxyFactory
from minireactor.proxy.legs import join

__all__ = ["Proxy", "ProxyFactory", "join"]
