"""TLS over UNIX sockets: from the start, and by startTLS()."""

from __future__ import annotations

from support import OneFactory, Recorder, RecordingClientFactory, pump

from minireactor.error import ConnectionDone
from minireactor.transports.tls import TLSConnection
from minireactor.transports.tls_start import SecureConnector, SecurePort
from minireactor.transports.unix import UNIXConnection

BULK = b"0123456789abcdef" * 65_536


class Answer(Recorder):
    def dataReceived(self, data):
        super().dataReceived(data)
        if len(self.received) == len(BULK):
            self.transport.write(bytes(self.received))
            self.transport.loseConnection()


def check(reactor, server, client):
    pump(reactor, lambda: client.reason is not None)
    assert client.received == server.received == BULK
    assert client.reason.check(ConnectionDone) and server.reason.check(ConnectionDone)


def test_a_secure_port_and_connector_speak_TLS(reactor, certificates, tmp_path):
    server, client = Answer(), Recorder()
    path = str(tmp_path / "x.sock")
    SecurePort(certificates.server()).secure(reactor.listenUNIX(path, OneFactory(server)))
    connector = reactor.connectUNIX(path, RecordingClientFactory(client))
    SecureConnector(certificates.client(), "localhost").secure(connector)
    client.connectionMade = lambda: client.transport.write(BULK)
    check(reactor, server, client)


def test_startTLS_keeps_the_connection(reactor, certificates, tmp_path):
    class Secure(Answer):
        def connectionMade(self):
            super().connectionMade()
            self.transport.startTLS(certificates.server())

    server, client = Secure(), Recorder()
    path = str(tmp_path / "x.sock")
    reactor.listenUNIX(path, OneFactory(server))
    reactor.connectUNIX(path, RecordingClientFactory(client))
    pump(reactor, lambda: client.transport is not None)
    transport = client.transport
    transport.startTLS(certificates.client(), "localhost")
    assert isinstance(transport, TLSConnection) and isinstance(transport, UNIXConnection)
    transport.write(BULK)
    check(reactor, server, client)
