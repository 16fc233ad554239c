"""Ask an echo server with twenty clients at once, and gather the answers.

... twenty_clients ENDPOINT
"""

import sys

from minireactor.defer import ensureDeferred, gatherResults
from minireactor.endpoints import clientFromString, connectProtocol
from minireactor.examples.echo_client import Client
from minireactor.task import react

COUNT = 20
SECONDS = 10  # in which each client must be done


async def ask(endpoint, number):
    client = await connectProtocol(endpoint, Client())
    answer = await client.ask(b"question %d" % number)
    client.transport.loseConnection()
    return answer.decode()


async def main(reactor, where):
    endpoint = clientFromString(reactor, where)
    asked = [
        ensureDeferred(ask(endpoint, number)).addTimeout(SECONDS, reactor)
        for number in range(COUNT)
    ]
    answers = await gatherResults(asked, consumeErrors=True)
    print(f"{len(answers)} answers, from {answers[0]!r} to {answers[-1]!r}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
