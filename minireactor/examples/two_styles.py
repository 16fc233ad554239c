"""The same conversation twice: with inlineCallbacks, and with async def.

... two_styles ENDPOINT, the endpoint of a key_value server
"""

import sys

from minireactor.defer import ensureDeferred, inlineCallbacks
from minireactor.endpoints import clientFromString, connectProtocol
from minireactor.examples.echo_client import Client
from minireactor.task import deferLater, react


@inlineCallbacks
def by_generator(reactor, endpoint):
    client = yield connectProtocol(endpoint, Client())
    try:
        yield client.ask(b"SET colour red")
        yield deferLater(reactor, 0.01)
        colour = yield client.ask(b"GET colour")
    finally:
        client.transport.loseConnection()
    return colour.decode()


async def by_coroutine(reactor, endpoint):
    client = await connectProtocol(endpoint, Client())
    try:
        await client.ask(b"SET colour blue")
        await deferLater(reactor, 0.01)
        colour = await client.ask(b"GET colour")
    finally:
        client.transport.loseConnection()
    return colour.decode()


async def main(reactor, where):
    endpoint = clientFromString(reactor, where)
    print("by generator:", await by_generator(reactor, endpoint))
    print("by coroutine:", await ensureDeferred(by_coroutine(reactor, endpoint)))


if __name__ == "__main__":
    react(main, sys.argv[1:])
