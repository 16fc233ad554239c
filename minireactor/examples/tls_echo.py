"""Talk to oneself by TLS: a server and a client in one program, from strings alone.

... tls_echo CERTIFICATE KEY ROOTS

CERTIFICATE and KEY are PEM files, for the name localhost. ROOTS is a folder of PEM files, with the
authority that has signed the certificate.
"""

import sys

from minireactor.endpoints import clientFromString, connectProtocol, serverFromString
from minireactor.examples.echo_client import Client
from minireactor.examples.echo_server import Echo
from minireactor.protocol import Factory
from minireactor.task import react


async def main(reactor, certificate, key, roots):
    server = serverFromString(
        reactor, f"ssl:0:privateKey={key}:certKey={certificate}:interface=127.0.0.1"
    )
    port = await server.listen(Factory.forProtocol(Echo))
    through = rf"tcp\:127.0.0.1\:{port.getHost().port}"
    client = await connectProtocol(
        clientFromString(reactor, f"tls:localhost:0:trustRoots={roots}:endpoint={through}"),
        Client(),
    )
    print((await client.ask(b"hello by TLS")).decode())
    client.transport.loseConnection()
    await port.stopListening()


if __name__ == "__main__":
    react(main, sys.argv[1:])
