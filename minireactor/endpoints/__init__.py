"""Endpoints: objects, made from strings if you like, that know where to listen or connect.

    endpoint = serverFromString(reactor, "tcp:8080:interface=127.0.0.1")
    port = await endpoint.listen(factory)

    endpoint = clientFromString(reactor, "tls:example.com:443")
    protocol = await endpoint.connect(factory)

| module | what it holds |
|-|-|
| `servers` | endpoints with `listen(factory)`, which returns a Deferred of the port |
| `clients` | endpoints with `connect(factory)`, which returns a Deferred of the protocol |
| `strings` | both kinds of endpoint from a string |
"""

from minireactor.endpoints.clients import (
    HostnameEndpoint,
    SSL4ClientEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from minireactor.endpoints.servers import (
    AdoptedStreamServerEndpoint,
    SSL4ServerEndpoint,
    StandardIOEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
)
from minireactor.endpoints.strings import clientFromString, quoteStringArgument, serverFromString

__all__ = [
    "AdoptedStreamServerEndpoint",
    "HostnameEndpoint",
    "SSL4ClientEndpoint",
    "SSL4ServerEndpoint",
    "StandardIOEndpoint",
    "TCP4ClientEndpoint",
    "TCP4ServerEndpoint",
    "TCP6ClientEndpoint",
    "TCP6ServerEndpoint",
    "UNIXClientEndpoint",
    "UNIXServerEndpoint",
    "clientFromString",
    "connectProtocol",
    "quoteStringArgument",
    "serverFromString",
    "wrapClientTLS",
]
