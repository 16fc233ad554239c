"""PROXY headers of HAProxy and curl, read by the commands, and those of the commands, for HAProxy.

The options of the commands about these headers are tested here as well."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from ipaddress import ip_network

import pytest
from proxy_support import unused_number
from serve_support import Command, read_all
from support import PATIENCE
from tls_support import make_certificates

from minireactor.cli.commands import main
from minireactor.cli.options import parse
from minireactor.cli.proxy_header_options import header_reader, header_writer
from minireactor.serve.proxy_header import header_v1, header_v2

needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="haproxy is not installed"
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

# Answers a request of HTTP with the two addresses of the connection.
APP = """
from minireactor.address import format_address
from minireactor.protocol import Protocol

class Who(Protocol):
    def dataReceived(self, data):
        ends = (self.transport.getPeer(), self.transport.getHost())
        text = " to ".join(map(format_address, ends))
        self.transport.write(f"HTTP/1.0 200 OK\\r\\n\\r\\n{text}\\n".encode())
        self.transport.loseConnection()
"""
CONFIGURATION = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
"""


# The options.


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("serve echo --accept-proxy", "serve: --accept-proxy needs --trust"),
        ("proxy 0 80 --accept-proxy", "such as --trust 127.0.0.1/32"),
        ("serve echo --port unix:x --listen 0 --accept-proxy", "exclude each other"),
        ("proxy unix:x 80 --listen 0 --accept-proxy", "proxy: --accept-proxy needs --trust"),
        ("serve echo --trust ::1", "serve: --trust needs --accept-proxy; give both"),
        ("serve echo --trust x", "argument --trust: 'x' is not valid: give ADDRESS/BITS"),
        ("serve echo --trust 10.0.0.1/33", "argument --trust: '10.0.0.1/33' is not valid"),
        ("serve echo --trust 10.0.0.1/8", "10.0.0.1/8 has other bits set; give 10.0.0.0/8"),
        ("serve echo --trust " + "9" * 5000, "is not valid: give ADDRESS/BITS"),
        ("serve echo --send-proxy", "unrecognized arguments: --send-proxy"),
        ("proxy 0 80 --send-proxy --send-proxy-v2", "not allowed with argument"),
        ("proxy 0 80 --send-proxy --engine tiny", "--send-proxy needs --engine core"),
        ("proxy 0 80 --send-proxy-v2 --engine tiny", "--send-proxy-v2 needs --engine core"),
        ("serve echo --accept-proxy --trust ::1 --engine tiny", "--accept-proxy needs --engine"),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line(
    arguments, named, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert named in errors
    assert errors.count("\n") == 1


def test_the_options_give_a_reader_and_a_writer():
    options = parse(
        ["proxy", "0", "80", "--accept-proxy", "--trust", "10.0.0.0/8", "--trust", "::1"]
    )
    reader = header_reader(options, [options.place])
    assert reader.trusted == [ip_network("10.0.0.0/8"), ip_network("::1/128")]
    assert header_writer(options) is None
    assert header_writer(parse(["proxy", "0", "80", "--send-proxy"])) is header_v1
    assert header_writer(parse(["proxy", "0", "80", "--send-proxy-v2"])) is header_v2


def test_without_the_options_there_is_neither():
    options = parse(["proxy", "0", "80"])
    assert header_reader(options, [options.place]) is header_writer(options) is None


def test_a_server_at_unix_sockets_alone_needs_no_trust():
    options = parse(["proxy", "unix:x", "80", "--accept-proxy"])
    assert header_reader(options, [options.place]).trusted == []


# Real peers.


@pytest.fixture
def command(tmp_path, closing):
    """command(*arguments) starts a Command that listens. It ends with the test."""
    (tmp_path / "who.py").write_text(APP)

    def command(*arguments):
        process = closing(Command(*map(str, arguments), cwd=tmp_path))
        process.line_listening = process.line()
        found = re.search(r":(\d+)(?:,|$)", process.line_listening)
        process.port = int(found[1]) if found else None
        return process

    return command


@pytest.fixture
def haproxy(tmp_path, closing):
    """haproxy(place, lines) starts HAProxy with `lines` of configuration, and waits for `place`."""

    def haproxy(place, lines):
        path = tmp_path / "haproxy.cfg"
        path.write_text(CONFIGURATION + lines)
        with open(tmp_path / "haproxy.log", "w") as log:
            process = subprocess.Popen(
                ["haproxy", "-db", "-f", path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=tmp_path,
            )
        closing(Ending(process))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "haproxy.log").read_text()
            try:
                socket.create_connection(place, timeout=PATIENCE).close()
            except OSError:
                time.sleep(0.02)
            else:
                return process
        raise AssertionError("HAProxy does not listen")

    return haproxy


class Ending:
    """Ends a process at close()."""

    def __init__(self, process):
        self._process = process

    def close(self):
        self._process.kill()
        self._process.wait()


def ask(place):
    """Send a request of HTTP. Return (the client's own address, the last line of the answer)."""
    if isinstance(place, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(PATIENCE)
        client.connect(place)
        own = client.getsockname()
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return own, read_all(client).decode().splitlines()[-1]


def shown(place):
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


SENDING = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2 with extensions": "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl",
}


@needs_haproxy
@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("how", SENDING)
def test_serve_behind_haproxy(command, haproxy, how, host):
    serve = command("serve", "who:Who", "--port", 0, "--accept-proxy", "--trust", "127.0.0.1")
    place = host, unused_number()
    haproxy(
        place,
        f"""
frontend f
    bind {shown(place)}
    unique-id-format %{{+X}}o%ci:%cp
    default_backend b
backend b
    server s 127.0.0.1:{serve.port} {SENDING[how]}
""",
    )
    own, answer = ask(place)
    assert answer == f"{shown(own)} to {shown(place)}"


@needs_haproxy
@pytest.mark.slow
def test_serve_with_tls_behind_haproxy(command, haproxy, tmp_path):
    certificates = make_certificates(tmp_path)
    tls = "--tls-cert", certificates.cert, "--tls-key", certificates.key
    serve = command("serve", "who:Who", "--port", 0, "--accept-proxy", "--trust", "127.0.0.1", *tls)
    place = "127.0.0.1", unused_number()
    haproxy(
        place,
        f"""
listen l
    bind {shown(place)}
    server s 127.0.0.1:{serve.port} send-proxy-v2
""",
    )
    with socket.create_connection(place, timeout=PATIENCE) as plain:
        own = plain.getsockname()
        with certificates.client().wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(client).decode().splitlines()[-1] == f"{shown(own)} to {shown(place)}"


@needs_haproxy
@pytest.mark.slow
def test_serve_at_a_unix_socket_behind_haproxy(command, haproxy, tmp_path):
    command("serve", "who:Who", "--port", f"unix:{tmp_path}/s", "--accept-proxy")
    place = "127.0.0.1", unused_number()
    haproxy(
        place,
        f"""
listen l
    bind {shown(place)}
    server s {tmp_path}/s send-proxy-v2
""",
    )
    own, answer = ask(place)
    assert answer == f"{shown(own)} to {shown(place)}"


@needs_haproxy
@pytest.mark.slow
@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
def test_health_checks_of_haproxy_are_no_errors(command, haproxy, how):
    serve = command(
        "serve", "who:Who", "--port", 0, "--accept-proxy", "--trust", "127.0.0.1", "--verbose"
    )
    place = "127.0.0.1", unused_number()
    haproxy(
        place,
        f"""
listen l
    bind {shown(place)}
    server s 127.0.0.1:{serve.port} {how} check inter 20ms
""",
    )
    for _ in range(5):
        assert serve.line_with("127.0.0.1:")
    serve.terminate()
    status, _, errors = serve.end()
    assert (status, errors) == (0, "")


WHO = "%[src]:%[src_port] to %[dst]:%[dst_port]"
ANSWER = f'    http-request return status 200 content-type text/plain lf-string "{WHO}"\n'


@needs_haproxy
@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("option", ["--send-proxy", "--send-proxy-v2"])
def test_haproxy_behind_proxy(command, haproxy, option, host):
    target = "127.0.0.1", unused_number()
    haproxy(target, f"listen l\n    mode http\n    bind {shown(target)} accept-proxy\n{ANSWER}")
    proxy = command("proxy", shown((host, 0)), shown(target), option)
    own, answer = ask((host, proxy.port))
    assert answer == f"{own[0]}:{own[1]} to {host}:{proxy.port}"


@needs_haproxy
@pytest.mark.slow
def test_haproxy_with_tls_behind_proxy(command, haproxy, tmp_path):
    certificates = make_certificates(tmp_path)
    both = tmp_path / "both.pem"
    with open(certificates.cert) as cert, open(certificates.key) as key:
        both.write_text(cert.read() + key.read())
    target = "localhost", unused_number()
    bind = f"bind 127.0.0.1:{target[1]} accept-proxy ssl crt {both}"
    haproxy(("127.0.0.1", target[1]), f"listen l\n    mode http\n    {bind}\n{ANSWER}")
    tls = "--target-tls", "--target-ca", certificates.cert
    proxy = command("proxy", 0, shown(target), "--send-proxy-v2", *tls)
    own, answer = ask(("127.0.0.1", proxy.port))
    assert answer == f"{own[0]}:{own[1]} to 127.0.0.1:{proxy.port}"


@needs_haproxy
@pytest.mark.slow
@pytest.mark.parametrize("option", ["--send-proxy", "--send-proxy-v2"])
def test_haproxy_takes_what_is_sent_for_a_client_of_a_unix_socket(
    command, haproxy, tmp_path, option
):
    target = "127.0.0.1", unused_number()
    answer = ANSWER.replace(WHO, "it works")
    haproxy(target, f"listen l\n    mode http\n    bind {shown(target)} accept-proxy\n{answer}")
    command("proxy", f"unix:{tmp_path}/p", shown(target), option)
    assert ask(f"{tmp_path}/p")[1] == "it works"


@needs_haproxy
@pytest.mark.slow
def test_a_chain_of_haproxy_and_two_proxies_keeps_the_client(command, haproxy):
    trust = "--accept-proxy", "--trust", "127.0.0.0/8"
    serve = command("serve", "who:Who", "--port", 0, *trust)
    inner = command("proxy", 0, serve.port, "--send-proxy", *trust)
    outer = command("proxy", 0, inner.port, "--send-proxy-v2", *trust)
    place = "127.0.0.1", unused_number()
    haproxy(
        place,
        f"listen l\n    bind {shown(place)}\n    server s 127.0.0.1:{outer.port} send-proxy-v2\n",
    )
    own, answer = ask(place)
    assert answer == f"{shown(own)} to {shown(place)}"
    for proxy in (inner, outer):
        assert proxy.line_with(shown(own)).startswith(f"{shown(own)} -> ")


@needs_curl
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_header_of_curl(command, tmp_path, scheme):
    certificates = make_certificates(tmp_path)
    tls = (
        () if scheme == "http" else ("--tls-cert", certificates.cert, "--tls-key", certificates.key)
    )
    serve = command("serve", "who:Who", "--port", 0, "--accept-proxy", "--trust", "127.0.0.1", *tls)
    url = f"{scheme}://localhost:{serve.port}/"
    curl = ["curl", "-sS", "-4", "--haproxy-protocol", "--cacert", certificates.cert, url]
    wanted = ["-w", "%{local_ip}:%{local_port} to %{remote_ip}:%{remote_port}\n"]
    done = subprocess.run([*curl, *wanted], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == ""
    answer, expected = done.stdout.splitlines()
    assert answer == expected


@needs_curl
@pytest.mark.slow
def test_curl_without_a_header_is_refused(command, tmp_path):
    serve = command("serve", "who:Who", "--port", 0, "--accept-proxy", "--trust", "127.0.0.1")
    url = f"http://127.0.0.1:{serve.port}/"
    done = subprocess.run(["curl", "-sS", url], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    line = serve.error_line()
    assert re.search(r"no PROXY header from 127\.0\.0\.1:\d+: no PROXY header; ", line)
    assert r"the peer has sent 'GET / HTTP/1.1\r\nHost: " in line
