"""TLS with the programs that people use: curl, openssl and socat, and our own commands."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from serve_support import ROOT, Command, read_line
from support import PATIENCE, OneFactory, Recorder, RecordingClientFactory, pump
from tls_support import OPENSSL, Peer

from minireactor.cli.commands import main
from minireactor.error import ConnectionDone
from minireactor.proxy.factory import ProxyFactory
from minireactor.serve.apps import Echo

BULK = b"0123456789abcdef" * 65_536


def tool(name):
    """Return a mark that skips a test if a program is not installed."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


class Answer(Recorder):
    """Answers a request of HTTP with BULK, and closes."""

    def dataReceived(self, data):
        super().dataReceived(data)
        if b"\r\n\r\n" in self.received:
            length = f"Content-Length: {len(BULK)}\r\n\r\n".encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length)
            self.transport.write(BULK)
            self.transport.loseConnection()


def run(reactor, *command, data=b""):
    """Run a program beside the reactor; return what it prints. Raises if the program fails."""
    done = []

    def call():
        done.append(
            subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE, check=False)
        )

    thread = threading.Thread(target=call)
    thread.start()
    pump(reactor, lambda: not thread.is_alive(), command[0])
    assert done[0].returncode == 0, done[0].stderr
    return done[0].stdout


def listen(reactor, certificates, *protocols):
    port = reactor.listenSSL(
        0, OneFactory(*protocols), certificates.server(), interface="127.0.0.1"
    )
    return port.getHost().port


@tool("curl")
def test_curl_reads_a_whole_answer(reactor, certificates):
    server = Answer()
    number = listen(reactor, certificates, server)
    url = f"https://localhost:{number}/"
    curl = ("curl", "--silent", "--show-error", "--cacert", certificates.cert, "--ipv4", url)
    assert run(reactor, *curl) == BULK
    assert server.reason.check(ConnectionDone)


class EchoOnce(Recorder):
    """Sends back BULK when all of it has come, and closes."""

    def dataReceived(self, data):
        super().dataReceived(data)
        if len(self.received) == len(BULK):
            self.transport.write(bytes(self.received))
            self.transport.loseConnection()


def test_openssl_s_client_sends_and_gets_a_megabyte(reactor, certificates):
    number = listen(reactor, certificates, EchoOnce())
    client = f"s_client -quiet -verify_return_error -connect localhost:{number}"
    command = (OPENSSL, *client.split())
    assert run(reactor, *command, "-CAfile", certificates.cert, data=BULK) == BULK


@tool("socat")
def test_socat_sends_and_gets_a_megabyte(reactor, certificates):
    number = listen(reactor, certificates, EchoOnce())
    peer = f"OPENSSL:localhost:{number},pf=ip4,cafile={certificates.cert}"
    assert run(reactor, "socat", "-t10", "-", peer, data=BULK) == BULK


def test_openssl_s_server_is_answered_and_ends_in_order(reactor, certificates, closing):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = sock.getsockname()[1]
    files = ("-cert", certificates.cert, "-key", certificates.key)
    process = subprocess.Popen(
        [OPENSSL, "s_server", "-accept", str(number), "-rev", *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        while b"ACCEPT" not in process.stdout.readline():
            pass
        client = Recorder()
        factory = RecordingClientFactory(client)
        client.connectionMade = lambda: client.transport.write(b"live\nCLOSE\n")
        reactor.connectSSL("localhost", number, factory, certificates.client())
        pump(reactor, lambda: client.reason is not None)
        assert client.received == b"evil\n"
        assert client.reason.check(ConnectionDone)
    finally:
        process.kill()
        process.communicate()


# The proxy.


class Proxied(ProxyFactory):
    ends = ()

    def ended(self, proxy):
        self.ends += (proxy.why,)

    def failed(self, proxy, reason):
        self.ends += (reason.getErrorMessage(),)


def secured(certificates, context=None):
    from minireactor.transports.tls_start import SecureConnector

    return SecureConnector(context or certificates.client(), "localhost")


@pytest.mark.parametrize("client_side", [True, False], ids=["tls client", "plain client"])
@pytest.mark.parametrize("target_side", [True, False], ids=["tls target", "plain target"])
def test_TLS15_a_proxy_passes_bulk_on_with_TLS_on_either_side(
    reactor, certificates, closing, client_side, target_side
):
    target = OneFactory(Echo())
    there = (
        reactor.listenSSL(0, target, certificates.server(), interface="127.0.0.1")
        if target_side
        else reactor.listenTCP(0, target, interface="127.0.0.1")
    )
    tls = secured(certificates) if target_side else None
    factory = Proxied("127.0.0.1", there.getHost().port, target_tls=tls)
    here = (
        reactor.listenSSL(0, factory, certificates.server(), interface="127.0.0.1")
        if client_side
        else reactor.listenTCP(0, factory, interface="127.0.0.1")
    )
    client = Recorder()
    connecting = RecordingClientFactory(client)
    number = here.getHost().port
    if client_side:
        reactor.connectSSL("localhost", number, connecting, certificates.client())
    else:
        reactor.connectTCP("127.0.0.1", number, connecting)
    client.connectionMade = lambda: client.transport.write(BULK * 4)
    pump(reactor, lambda: len(client.received) == 4 * len(BULK), "the echo")
    assert client.received == BULK * 4
    client.transport.loseConnection()
    pump(reactor, lambda: factory.ends)
    assert factory.ends == ("closed in good order",)


def test_a_proxy_passes_a_truncated_stream_on_as_an_abort(reactor, certificates, closing):
    target = OneFactory()
    there = reactor.listenTCP(0, target, interface="127.0.0.1")
    factory = Proxied("127.0.0.1", there.getHost().port)
    here = reactor.listenSSL(0, factory, certificates.server(), interface="127.0.0.1")
    sock = closing(socket.create_connection(("127.0.0.1", here.getHost().port), PATIENCE))
    peer = Peer(sock, certificates.client()).shake_hands(reactor)
    peer.sendall(b"a part")
    pump(reactor, lambda: target.built and target.built[0].received == b"a part")
    sock.shutdown(socket.SHUT_WR)
    pump(reactor, lambda: target.built[0].reason is not None)
    assert not target.built[0].reason.check(ConnectionDone)
    pump(reactor, lambda: factory.ends)
    assert "may be truncated" in factory.ends[0]


def test_a_proxy_tries_the_next_target_if_a_certificate_is_not_valid(reactor, certificates):
    class Two(Proxied):
        def targets(self):
            return [("127.0.0.1", bad.getHost().port), ("127.0.0.1", good.getHost().port)]

    other = certificates.server()
    other.load_cert_chain(certificates.other_cert, certificates.other_key)
    bad = reactor.listenSSL(0, OneFactory(), other, interface="127.0.0.1")
    good = reactor.listenSSL(0, OneFactory(Echo()), certificates.server(), interface="127.0.0.1")
    factory = Two("unused", 0, target_tls=secured(certificates))
    here = reactor.listenTCP(0, factory, interface="127.0.0.1")
    client = Recorder()
    client.connectionMade = lambda: client.transport.write(b"hello")
    reactor.connectTCP("127.0.0.1", here.getHost().port, RecordingClientFactory(client))
    pump(reactor, lambda: client.received == b"hello")
    assert "certificate is not accepted" in factory.ends[0]


# The commands.


@pytest.fixture
def command(tmp_path, closing):
    """command(*arguments) starts a Command. It ends with the test."""

    def start(*arguments):
        process = closing(Command(*arguments, cwd=tmp_path))
        process.listening()
        return process

    return start


def handshake(process, certificate):
    """Return a blocking Peer of a command, which trusts this certificate alone."""
    import ssl

    context = ssl.create_default_context(cafile=certificate)
    sock = context.wrap_socket(process.connect(), server_hostname="localhost")
    sock.settimeout(PATIENCE)
    return sock


@pytest.mark.slow
def test_serve_speaks_TLS_and_reads_its_certificate_again_on_SIGHUP(
    command, certificates, tmp_path, closing
):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificates.cert, cert)
    shutil.copy(certificates.key, key)
    process = command(
        "serve", "echo", "--port", "0", "--tls-cert", str(cert), "--tls-key", str(key)
    )
    old = closing(handshake(process, certificates.cert))
    old.sendall(b"before\n")
    assert read_line(old) == b"before\n"
    cert.write_text("nothing")
    os.kill(process.pid, signal.SIGHUP)
    line = process.line()
    assert "the old certificate stays in use" in line
    assert "has no certificate in PEM form" in line
    closing(handshake(process, certificates.cert))
    shutil.copy(certificates.other_cert, cert)
    shutil.copy(certificates.other_key, key)
    os.kill(process.pid, signal.SIGHUP)
    assert "read the certificate in" in process.line()
    closing(handshake(process, certificates.other_cert))
    old.sendall(b"after\n")  # an open connection goes on
    assert read_line(old) == b"after\n"


@pytest.mark.slow
def test_proxy_speaks_TLS_to_its_clients_and_its_target(command, certificates, closing):
    tls = ("--tls-cert", certificates.cert, "--tls-key", certificates.key)
    target = command("serve", "echo", "--port", "0", *tls)
    towards = ("--target-tls", "--target-ca", certificates.cert, "--target-name", "localhost")
    process = command("proxy", "0", str(target.port), *tls, *towards)
    client = closing(handshake(process, certificates.cert))
    client.sendall(b"through two\n")
    assert read_line(client) == b"through two\n"


@pytest.mark.slow
def test_proxy_says_why_a_target_is_not_accepted(command, certificates, closing):
    tls = ("--tls-cert", certificates.cert, "--tls-key", certificates.key)
    target = command("serve", "echo", "--port", "0", *tls)
    process = command("proxy", "0", str(target.port), "--target-tls")
    client = closing(process.connect())
    assert client.recv(1) == b""
    assert "certificate is not accepted" in process.line()


def connect(process, *options, data=b"hello\n"):
    return subprocess.run(
        [sys.executable, "-m", "minireactor", "connect", f"localhost:{process.port}", *options],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )


@pytest.mark.slow
def test_connect_speaks_TLS(command, certificates):
    tls = ("--tls-cert", certificates.cert, "--tls-key", certificates.key)
    process = command("serve", "echo", "--port", "0", *tls)
    for options in (("--ca", certificates.cert), ("--insecure",)):
        done = connect(process, "--tls", *options, data=BULK)
        assert (done.returncode, done.stdout, done.stderr) == (0, BULK, b"")
    done = connect(process, "--tls")
    assert done.returncode == 1
    assert b"certificate is not accepted" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("serve --tls-cert {missing}", "--tls-cert: cannot read '{missing}': No such file"),
        ("serve --tls-cert {cert}", "--tls-cert: '{cert}' has no key in PEM form"),
        ("serve --tls-cert {key}", "--tls-cert: '{key}' has no certificate in PEM form"),
        ("serve --tls-key {key}", "--tls-key needs --tls-cert; give both"),
        (
            "serve --tls-cert {cert} --tls-key {other_key}",
            "--tls-cert: the key in '{other_key}' is not that of the certificate in '{cert}'",
        ),
        (
            "serve --tls-cert {cert} --tls-key {locked_key}",
            "--tls-cert: the key in '{locked_key}' has a password; give a key without one",
        ),
        ("proxy 0 80 --target-name x", "--target-name needs --target-tls; give both"),
        ("proxy 0 80 --target-tls --target-ca {key}", "--target-ca: '{key}' has no certificate"),
        ("proxy 0 80 --target-tls --target-name .x", "--target-name: '.x' is not a host name"),
        ("connect 80 --insecure", "--insecure needs --tls; give both"),
        ("connect 80 --tls --ca {missing}", "--ca: cannot read '{missing}': No such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(capsys, certificates, tmp_path, arguments, why):
    locked = tmp_path / "locked.key"
    lock = [OPENSSL, "pkey", "-in", certificates.key, "-aes128", "-passout", "pass:x"]
    subprocess.run([*lock, "-out", str(locked)], check=True, capture_output=True)
    files = {**vars(certificates), "missing": str(tmp_path / "missing"), "locked_key": str(locked)}
    argv = arguments.format(**files).split()
    if argv[0] == "serve":
        argv += ["--port", "0"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"minireactor {argv[0]}: {why.format(**files)}")
    assert error.count("\n") == 1
