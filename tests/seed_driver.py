"""Run a program written for Twisted, on Twisted or on minireactor, and log its producers.

    python seed_driver.py twisted|minireactor LOW PROGRAM

The program's listenTCP() gets a free port on loopback. minireactor gets the low mark LOW. Prints
JSON lines: the port, then the calls that reach the program's Producer, in order.
"""

import json
import random
import sys

ENGINE, LOW, PROGRAM = sys.argv[1:]

SUBSTITUTIONS = [
    ("from twisted.internet.", "from minireactor."),
    ("from twisted.internet ", "from minireactor "),
    ("from twisted.protocols.", "from minireactor."),
    ("from zope.interface ", "from minireactor.interfaces "),
]


def say(**event):
    sys.__stdout__.write(json.dumps(event) + "\n")
    sys.__stdout__.flush()


def main():
    with open(PROGRAM, encoding="utf-8") as file:
        source = file.read()
    if ENGINE == "minireactor":
        for theirs, ours in SUBSTITUTIONS:
            source = source.replace(theirs, ours)
        from minireactor import reactor
    else:
        from twisted.internet import reactor
    program = {"__name__": "__main__"}
    listen, run = reactor.listenTCP, reactor.run

    def listen_on_loopback(port, factory):
        listening = listen(0, factory, interface="127.0.0.1")
        if ENGINE == "minireactor":
            listening.setWriteBufferLimits(64 * 1024, int(LOW))
        say(port=listening.getHost().port)

    def run_logged():
        producer = program["Producer"]
        for name in ("pauseProducing", "resumeProducing", "stopProducing"):
            setattr(producer, name, logged(name, getattr(producer, name)))
        protocol = program["ServeRandom"]
        lost = protocol.connectionLost

        def connection_lost(self, reason):
            lost(self, reason)
            say(call="connectionLost")
            reactor.callLater(0, reactor.stop)

        protocol.connectionLost = connection_lost
        run()

    def logged(name, method):
        def call(self):
            say(call=name)
            method(self)

        return call

    reactor.listenTCP, reactor.run = listen_on_loopback, run_logged
    random.seed(1)
    sys.stdout = sys.stderr  # what the program itself prints
    exec(compile(source, PROGRAM, "exec"), program)


main()
