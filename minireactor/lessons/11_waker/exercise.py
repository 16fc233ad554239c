"""Find the fault: the answer is ready after 100 ms, and yet it does not come."""

import socket
import sys
import threading
import time

from minireactor import reactor
from minireactor.protocol import Factory, Protocol


class Worker(Protocol):
    """Leaves the work on a request to a thread, so that the loop can go on."""

    def dataReceived(self, data):
        reactor.callInThread(self.work, data)

    def work(self, data):
        time.sleep(0.1)  # hard work
        self.transport.write(data.upper())


# ---- The check: the fault is above this line ----


def ask(address):
    with socket.create_connection(address, timeout=1) as client:
        client.sendall(b"hello")
        try:
            answers.append(client.recv(1024))
        except socket.timeout:
            pass  # nothing has come for a second
    reactor.callFromThread(reactor.stop)


answers = []
host = reactor.listenTCP(0, Factory.forProtocol(Worker), interface="127.0.0.1").getHost()
threading.Thread(target=ask, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
if not answers:
    sys.exit("fault: the answer was ready after 100 ms; a second later the loop still sleeps on it")
if answers != [b"HELLO"]:
    sys.exit(f"fault: the answer is {answers[0]!r}")
print("right: the answer came as soon as it was ready")
