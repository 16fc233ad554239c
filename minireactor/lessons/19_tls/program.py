"""A stranger cuts an answer short. Readers with and without TLS say what they have seen."""

import socket
import ssl
import threading

from minireactor import reactor
from minireactor.protocol import ClientFactory, Factory, Protocol

ANSWER, PART, HERE = bytes(4 * 1024 * 1024), 1024 * 1024, "127.0.0.1"
LINE = "{:24}{:10,} bytes of 4,194,304, then {}"


def context(kind):  # without certificates, so it does not know its peer: good for a lesson only
    made = ssl.SSLContext(kind)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return made


class Answer(Protocol):
    def connectionMade(self):
        self.transport.write(ANSWER)
        self.transport.loseConnection()


def cut(port, most):  # the port of a stranger, who passes on so many bytes of an answer at most
    def pass_on(source, sink, left):
        while left > 0 and (data := source.recv(min(left, 65536))):
            sink.sendall(data)
            left -= len(data)
        sink.shutdown(socket.SHUT_WR)

    def serve():
        client, server = listener.accept()[0], socket.create_connection((HERE, port))
        threading.Thread(target=pass_on, args=[client, server, 1 << 30], daemon=True).start()
        pass_on(server, client, most)

    listener = socket.create_server((HERE, 0))
    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def read(port, wrap=lambda sock: sock):  # a blocking reader
    count = 0
    with wrap(socket.create_connection((HERE, port))) as sock:
        while data := sock.recv(65536):
            count += len(data)
    return count


class Reader(Protocol):
    count = 0

    def dataReceived(self, data):
        self.count += len(data)

    def connectionLost(self, reason):
        print(LINE.format(f"minireactor, {self.factory.how}", self.count, reason.type.__name__))
        self.factory.then()


def blocking_readers():
    print(LINE.format("TCP", read(cut(tcp, PART)), "the end"))
    print(LINE.format("ssl, as by default", read(cut(tls, PART), ours.wrap_socket), "the end"))
    reactor.callFromThread(connect, cut(tls, PART), "cut", lambda: connect(tls, "uncut"))


def connect(port, how, then=reactor.stop):
    factory = ClientFactory.forProtocol(Reader)
    factory.how, factory.then = how, then
    reactor.connectSSL(HERE, port, factory, ours)


ours, answer = context(ssl.PROTOCOL_TLS_CLIENT), Factory.forProtocol(Answer)
tcp = reactor.listenTCP(0, answer, 50, HERE).getHost().port
tls = reactor.listenSSL(0, answer, context(ssl.PROTOCOL_TLS_SERVER), 50, HERE).getHost().port
threading.Thread(target=blocking_readers, daemon=True).start()
reactor.run()
