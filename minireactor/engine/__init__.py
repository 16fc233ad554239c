"""Run a small reactor, such as `tiny`, under the servers of this package.

    reactor = Engine(load("tiny"))                   # or load("mine.py"), which defines Reactor
    Server(reactor, factory).listen("127.0.0.1", 1234)
    reactor.run()

The small reactor moves all bytes of all connections. An Engine adds what servers and views need
as well: counters, observers, a guard around callbacks, calls from signal handlers. What the class
Reactor has to have:

    listenTCP(port, factory, interface=host)   returns a port, with the names in `reactor.PORT`
    connectTCP(host, port, factory)            for a proxy only; without it, no attempt succeeds
    callLater(delay, f)                        returns a call, with active() and cancel()
    run(), stop()

Its transports have to have the names in `transport.TRANSPORT`. The small reactor calls the
protocol's makeConnection(), dataReceived() and connectionLost(), and readConnectionLost() and
writeConnectionLost() if the protocol has them.

May import `basic`, `internet`, `core` and the kit. Read first: `reactor`, which is the Engine; then
`transport`, the connection that programs see.
"""

from minireactor.engine.loading import EngineError, load
from minireactor.engine.reactor import Engine

__all__ = ["Engine", "EngineError", "load"]
