"""Find the TCP ports of a host that are open: ... port_scan HOST FIRST LAST"""

import sys

from minireactor import error
from minireactor.defer import ensureDeferred, gatherResults
from minireactor.endpoints import TCP4ClientEndpoint, connectProtocol
from minireactor.protocol import Protocol
from minireactor.task import react

AT_ONCE = 100  # connection attempts
TIMEOUT = 2  # seconds; a firewall may drop an attempt without an answer


async def scan(reactor, host, ports, found):
    """Try the ports that this scanner takes from `ports`, which all scanners share."""
    for port in ports:
        try:
            endpoint = TCP4ClientEndpoint(reactor, host, port, timeout=TIMEOUT)
            protocol = await connectProtocol(endpoint, Protocol())
        except error.ConnectError:
            continue
        protocol.transport.abortConnection()
        found.append(port)


async def main(reactor, host, first, last):
    ports = iter(range(int(first), int(last) + 1))
    found = []
    scanners = [ensureDeferred(scan(reactor, host, ports, found)) for _ in range(AT_ONCE)]
    await gatherResults(scanners)
    for port in sorted(found):
        print(f"port {port} is open")
    print(f"{len(found)} open ports")


if __name__ == "__main__":
    react(main, sys.argv[1:])
