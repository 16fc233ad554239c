"""The examples, from one source on minireactor and on Twisted: both have to do the same."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import PATIENCE

import minireactor
from minireactor import Reactor
from minireactor import examples as package

EXAMPLES = Path(package.__file__).parent
ROOT = Path(minireactor.__file__).parent.parent
# The imports of a program for Twisted, in the order of the replacements.
FOR_TWISTED = (
    ("minireactor.examples.", ""),
    ("minireactor.basic", "twisted.protocols.basic"),
    ("minireactor", "twisted.internet"),
)
HAS_TWISTED = importlib.util.find_spec("twisted") is not None


def for_twisted(source):
    """Return the source of an example, with its import lines changed for Twisted."""

    def changed(match):
        line = match[0]
        for ours, theirs in FOR_TWISTED:
            line = line.replace(ours, theirs)
        return line

    return re.sub(r"^from minireactor.*", changed, source, flags=re.MULTILINE)


class Program:
    """A running example."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def port(self):
        """Return the port of a server, which its first line names."""
        first = self.line()
        assert first.startswith("listening on port "), first + self.process.stderr.read()
        return int(first.split()[-1])

    def result(self, text=None):
        """Wait for the end; return (status, output, errors)."""
        out, err = self.process.communicate(text, timeout=6 * PATIENCE)
        return self.process.returncode, out, err

    def stop(self):
        """End a server; return (output, errors)."""
        self.process.send_signal(signal.SIGTERM)
        return self.result()[1:]


NEEDS_TWISTED = pytest.mark.skipif(not HAS_TWISTED, reason="twisted is not installed")


@contextlib.contextmanager
def starting(engine, folder):
    """A function that starts an example by its name, on one of the two."""
    running = []

    def start(name, *arguments):
        if engine == "twisted":
            for path in EXAMPLES.glob("*.py"):
                (folder / path.name).write_text(for_twisted(path.read_text()))
            command = [sys.executable, str(folder / f"{name}.py")]
        else:
            command = [sys.executable, "-m", f"minireactor.examples.{name}"]
        running.append(Program([*command, *map(str, arguments)], cwd=ROOT))
        return running[-1]

    try:
        yield start
    finally:
        for program in running:
            program.process.kill()
            program.process.communicate()


@pytest.fixture(
    params=[
        pytest.param("minireactor", marks=pytest.mark.slow),
        pytest.param("twisted", marks=[pytest.mark.slow, NEEDS_TWISTED]),
    ]
)
def start(request, tmp_path_factory):
    with starting(request.param, tmp_path_factory.mktemp("examples")) as function:
        yield function


def to(port):
    return f"tcp:127.0.0.1:{port}"


LISTEN = "tcp:0:interface=127.0.0.1"


class Peer:
    """A plain client that sends and receives lines."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.socket.makefile("rwb")

    def send(self, *lines):
        for line in lines:
            self.file.write(line + b"\r\n")
        self.file.flush()

    def lines(self, count):
        return [self.file.readline().rstrip() for _ in range(count)]

    def rest(self):
        """Return all lines until the end of the connection."""
        return self.file.read().split()

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def peer(closing):
    return lambda port: closing(Peer(port))


def serving(*answers):
    """Accept connections one after the other, send each its answer and close; return the port.

    The server reads the first line, if the answer is a function of this line."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    if callable(answer):
                        answer = answer(connection.recv(1000))
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def test_the_imports_of_an_example_become_those_of_twisted():
    source = (
        "from minireactor.basic import A\nfrom minireactor import b\nfrom minireactor.task import c"
    )
    assert for_twisted(source).split("\n") == [
        "from twisted.protocols.basic import A",
        "from twisted.internet import b",
        "from twisted.internet.task import c",
    ]


def test_every_example_has_a_test_and_a_line_in_the_README():
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    tests = Path(__file__).read_text(encoding="utf-8")
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert names == {name for name in names if f'start("{name}"' in tests}
    assert names == set(re.findall(r"\[`(\w+)`\]\(\w+\.py\)", readme))


@pytest.mark.slow
def test_a_server_and_a_client_run(tmp_path):
    """The one test of this file that the default suite runs."""
    with starting("minireactor", tmp_path) as start:
        server = start("key_value", LISTEN)
        expected = "by generator: red\nby coroutine: blue\n"
        assert start("two_styles", to(server.port())).result() == (0, expected, "")


def test_echo_server_and_client(start):
    server = start("echo_server", LISTEN)
    client = start("echo_client", to(server.port()), "one", "two")
    assert client.result() == (0, "one\ntwo\n", "")
    assert server.line() == "the end of a client"
    assert server.stop() == ("", "")


def test_a_client_of_an_echo_server_that_has_gone_fails_with_its_reason(start):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    status, out, err = start("echo_client", to(port), "one").result()
    assert (status, out) == (1, "")
    assert "ConnectionRefusedError" in err


def test_twenty_clients(start):
    server = start("echo_server", LISTEN)
    clients = start("twenty_clients", to(server.port()))
    expected = "20 answers, from 'question 0' to 'question 19'\n"
    assert clients.result() == (0, expected, "")


def test_chat(start, peer):
    port = start("chat_server", LISTEN).port()
    ann, bob = peer(port), peer(port)
    ann.send(b"ann")
    assert ann.lines(2) == [b"your name?", b"welcome, ann"]
    bob.send(b"ann", b"bob")
    assert bob.lines(3) == [b"your name?", b"that name is taken, another one?", b"welcome, bob"]
    assert ann.lines(1) == [b"bob has come"]
    ann.send(b"hello")
    assert bob.lines(1) == [b"ann: hello"]
    ann.close()
    assert bob.lines(1) == [b"ann has gone"]


def test_key_value(start, peer):
    client = peer(start("key_value", LISTEN).port())
    client.send(b"SET a one word", b"SET b 2", b"GET a", b"KEYS", b"DEL a", b"GET a", b"DEL a")
    assert client.lines(7) == [b"ok", b"ok", b"one word", b"a b", b"ok", b"not found", b"not found"]
    client.send(b"GET", b"JUMP", b"", b"quit")
    assert client.lines(4) == [b"wrong number of words", *[b"unknown command"] * 2, b"bye"]
    assert client.rest() == []


def test_key_value_refuses_an_endless_line(start, peer):
    client = peer(start("key_value", LISTEN).port())
    client.send(b"x" * 5000)
    assert client.lines(1) == [b"the line is too long"]


def test_download(start, tmp_path):
    body = os.urandom(300_000)
    requests = []

    def answer(request):
        requests.append(request)
        return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    target = tmp_path / "file"
    status, out, err = start("download", to(serving(answer)), "/a/file", target).result()
    assert (status, err) == (0, "")
    assert out.split("\r")[-1].split("\n")[-2] == "300000 bytes, 100 %"
    assert target.read_bytes() == body
    assert requests[0].startswith(b"GET /a/file HTTP/1.0\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "the server says: HTTP/1.0 404 Not Found"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabc", "3 of 5 bytes have come"),
    ],
)
def test_download_that_fails_says_why_in_one_line(start, tmp_path, answer, message):
    port = serving(lambda request: answer)
    status, _, err = start("download", to(port), "/", tmp_path / "file").result()
    assert (status, err) == (1, f"no download: {message}\n")


def test_port_scan(start):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = start("port_scan", "127.0.0.1", port, port).result()
    assert result == (0, f"port {port} is open\n1 open ports\n", "")
    assert start("port_scan", "127.0.0.1", port, port).result() == (0, "0 open ports\n", "")


def test_rewriting_proxy(start, peer):
    server = start("echo_server", LISTEN)
    proxy = start("rewriting_proxy", LISTEN, to(server.port()), "cat", "dog")
    client = peer(proxy.port())
    client.send(b"the cat", b"of the cats")
    assert client.lines(2) == [b"the dog", b"of the dogs"]
    client.close()
    assert server.line() == "the end of a client"


def test_rewriting_proxy_carries_a_hundred_thousand_lines(start, peer):
    server = start("echo_server", LISTEN)
    client = peer(start("rewriting_proxy", LISTEN, to(server.port()), "aa", "b").port())
    lines = [b"%07d aaaa" % number for number in range(100_000)]
    sender = threading.Thread(target=client.send, args=lines)
    sender.start()
    assert client.lines(len(lines)) == [b"%07d bb" % number for number in range(100_000)]
    sender.join()


def test_rewriting_proxy_without_a_server_closes(start, peer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    proxy = start("rewriting_proxy", LISTEN, to(port), "a", "b")
    assert peer(proxy.port()).rest() == []
    assert proxy.line() == "no connection to the server"


def test_periodic_sender(start, peer):
    sender = start("periodic_sender", LISTEN, 0.01)
    client = peer(sender.port())
    assert client.lines(5) == [b"1", b"2", b"3", b"4", b"5"]
    client.close()
    assert sender.line() == "the end of a client"
    assert sender.stop() == ("", "")


def test_reconnecting_client(start):
    port = serving(b"first\n", b"second\n", b"third\n")
    status, out, err = start("reconnecting_client", "127.0.0.1", port, 3, 0.01).result()
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        line
        for word in ("first", "second", "third")
        for line in (
            "connected",
            f"the server says: {word}",
            "the connection has ended: ConnectionDone",
        )
    ]


def test_two_styles(start):
    server = start("key_value", LISTEN)
    expected = "by generator: red\nby coroutine: blue\n"
    assert start("two_styles", to(server.port())).result() == (0, expected, "")


def test_stdio_chat(start, peer):
    port = start("chat_server", LISTEN).port()
    ann = peer(port)
    ann.send(b"ann")
    assert ann.lines(2) == [b"your name?", b"welcome, ann"]
    terminal = start("stdio_chat", to(port))
    assert terminal.line() == "your name?"
    terminal.process.stdin.write("bob\n")
    terminal.process.stdin.flush()
    assert terminal.line() == "welcome, bob"
    assert ann.lines(1) == [b"bob has come"]
    ann.send(b"hello")
    assert terminal.line() == "ann: hello"
    assert terminal.result("bye\n") == (0, "", "")
    assert ann.lines(2) == [b"bob: bye", b"bob has gone"]


@pytest.mark.skipif(not hasattr(Reactor, "listenSSL"), reason="the reactor has no TLS")
@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl program")
def test_tls_echo(request, start, tmp_path):
    if "twisted" in request.node.name and not importlib.util.find_spec("OpenSSL"):
        pytest.skip("Twisted has no TLS without pyOpenSSL")
    roots = tmp_path / "roots"
    roots.mkdir()
    key, certificate = tmp_path / "key.pem", roots / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    expected = "hello by TLS\nthe end of a client\n"
    assert start("tls_echo", certificate, key, roots).result()[:2] == (0, expected)
