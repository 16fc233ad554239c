"""Two connections, each of which is the other's producer and consumer.

Imports `streams`, `transports`, `core` and the kit; `relay`, the server behind the command, imports
`serve` as well. Read first: `legs`, which begins with `join()`.
"""

from minireactor.proxy.factory import Proxy, ProxyFactory
from minireactor.proxy.legs import join

__all__ = ["Proxy", "ProxyFactory", "join"]
