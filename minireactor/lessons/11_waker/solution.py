"""The fault repaired: callFromThread() may come from a thread, and it wakes the loop."""

import socket
import sys
import threading
import time

from minireactor import reactor
from minireactor.protocol import Factory, Protocol


def shout(data):
    time.sleep(0.1)  # hard work
    return data.upper()


class Worker(Protocol):
    """Leaves the work on a request to a thread, so that the loop can go on."""

    def dataReceived(self, data):
        reactor.callInThread(self.work, data)

    def work(self, data):
        reactor.callFromThread(self.transport.write, shout(data))


# ---- The check: the fault is above this line ----


def shout(data):  # noqa: F811
    """In place of the real work: takes until a second client has its answer, or a second."""
    workers.append(threading.current_thread())
    served.wait(1)
    return data.upper()


class Noting:
    """A transport that notes which threads write to it."""

    def __init__(self, transport):
        self.transport = transport

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def write(self, data):
        writers.append(threading.current_thread())
        self.transport.write(data)


class Watched(Worker):
    def makeConnection(self, transport):
        super().makeConnection(Noting(transport))


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


def listen(protocol):
    host = reactor.listenTCP(0, Factory.forProtocol(protocol), interface="127.0.0.1").getHost()
    return host.host, host.port


def ask(worker, echo):
    """The first client waits for the work. A second one wants an echo meanwhile."""
    first, second = socket.create_connection(worker), socket.create_connection(echo)
    with first, second:
        first.sendall(b"hello")
        end = time.monotonic() + 1
        while not workers and time.monotonic() < end:
            time.sleep(0.001)
        began = time.monotonic()
        second.sendall(b"ping")
        second.recv(1024)
        waited.append(time.monotonic() - began)
        time.sleep(0.05)  # until the loop sleeps
        served.set()
        first.settimeout(1)
        try:
            answers.append(first.recv(1024))
        except socket.timeout:
            pass  # nothing has come for a second
    reactor.callFromThread(reactor.stop)


workers, writers, waited, answers, served = [], [], [], [], threading.Event()
threading.Thread(target=ask, args=[listen(Watched), listen(Echo)], daemon=True).start()
reactor.run()
loop = threading.main_thread()
if not workers:
    sys.exit("fault: a request has come, and nobody has called shout()")
if loop in workers:
    milliseconds = waited[0] * 1000
    sys.exit(f"fault: shout() kept the loop, and a second client waited {milliseconds:,.0f} ms")
if not answers:
    sys.exit("fault: the answer has been ready for a second, but the loop sleeps on it")
if any(writer is not loop for writer in writers):
    sys.exit("fault: a thread called write(), which has no lock: next time, bytes may get lost")
if answers != [b"HELLO"]:
    sys.exit(f"fault: the answer is {answers[0]!r}")
print("right: the answer came as soon as it was ready, and nobody else had to wait")
