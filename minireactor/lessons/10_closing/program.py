"""Three ways to close a connection on which the peer has sent something that nobody read."""

import socket
import threading

from minireactor import reactor
from minireactor.protocol import Factory, Protocol

ANSWER = bytes(4 * 1024 * 1024)
UNREAD = bytes(50 * 1024)


def answered():
    """A connection with unread input, our end and the peer's; what the kernel took of an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    peer.sendall(UNREAD)
    ours.setblocking(False)
    sent = 0
    try:
        while sent < len(ANSWER):
            sent += ours.send(ANSWER[sent:])
    except BlockingIOError:
        pass
    return ours, peer, sent


def received(peer):
    """How many bytes a peer gets that reads to the end, be it good or bad."""
    count = 0
    peer.setblocking(True)
    try:
        while data := peer.recv(65536):
            count += len(data)
    except ConnectionError:
        pass  # a reset: the rest will never come
    peer.close()
    return count


def report(how, sent, got):
    print(f"{how:25}{sent:10,} sent{got:11,} arrived{sent - got:11,} lost")


# 1. close() while there is unread input.
ours, peer, sent = answered()
ours.close()
report("close()", sent, received(peer))

# 2. The end of our stream first; then the peer's stream, to its end; close() last of all.
ours, peer, sent = answered()
ours.shutdown(socket.SHUT_WR)
threading.Thread(target=received, args=[ours]).start()
got = received(peer)
report("shutdown, discard, close", sent, got)
assert got == sent


# 3. The same in the background: loseConnection().
class Answer(Protocol):
    def connectionMade(self):
        self.transport.write(ANSWER)
        self.transport.loseConnection()


def client(address):
    peer = socket.create_connection(address)
    peer.sendall(UNREAD)
    results.append(received(peer))
    reactor.callFromThread(reactor.stop)


results = []
host = reactor.listenTCP(0, Factory.forProtocol(Answer), interface="127.0.0.1").getHost()
threading.Thread(target=client, args=[(host.host, host.port)], daemon=True).start()
reactor.run()
report("loseConnection()", len(ANSWER), results[0])
assert results[0] == len(ANSWER)
