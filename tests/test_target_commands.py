"""`proxy --targets` in a process of its own: SIGHUP, checks, and programs that people use."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess

import pytest
from proxy_support import listening, unused_number
from serve_support import Command
from support import PATIENCE

from minireactor.cli.commands import main

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")


class Server:
    """A plain server, which sends its name to each client that `serve` accepts."""

    def __init__(self, closing):
        self.listener = closing(listening())
        self.listener.settimeout(PATIENCE)
        self.place = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self._closing = closing

    def accept(self):
        sock = self._closing(self.listener.accept()[0])
        sock.settimeout(PATIENCE)
        return sock


@pytest.fixture
def server(closing):
    """server() returns a plain server."""
    return lambda: Server(closing)


@pytest.fixture
def file(tmp_path):
    """The file of targets. file(*lines) writes it."""
    path = tmp_path / "targets"

    def write(*lines):
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    return write


@pytest.fixture
def proxy(tmp_path, closing):
    """proxy(*arguments) starts the command on a free port, and waits until it listens."""

    def proxy(*arguments):
        process = closing(Command("proxy", "127.0.0.1:0", *arguments, cwd=tmp_path))
        process.first = process.line()
        process.port = int(re.search(r"listening on 127\.0\.0\.1:(\d+), ", process.first)[1])
        return process

    return proxy


def hang_up(process):
    os.kill(process.pid, signal.SIGHUP)


def meet(process, server, closing):
    """Return (client, accepted), which the proxy has joined."""
    client = closing(process.connect())
    client.sendall(b"x")
    while True:
        accepted = server.accept()
        if accepted.recv(1):  # else it was a probe
            return client, accepted


@pytest.mark.slow
def test_SIGHUP_reads_the_file_again_and_drains_the_targets_that_go(proxy, server, file, closing):
    old, new = server(), server()
    process = proxy("--targets", file(old.place))
    assert f", to {old.place}, up to" in process.first
    client, accepted = meet(process, old, closing)
    path = file("# new ones", new.place + " weight=3")
    hang_up(process)
    assert process.line() == (
        f"minireactor: read the targets in {path!r} again: added {new.place}; removed {old.place}"
    )
    meet(process, new, closing)
    accepted.sendall(b"still here")
    assert client.recv(10) == b"still here"
    client.close()
    accepted.close()
    assert f"-> {old.place}: 1 bytes up, 10 down" in process.line()
    file(new.place)
    hang_up(process)
    assert process.line().endswith(f"again: changed {new.place}")
    hang_up(process)
    assert process.line().endswith("again: none has changed")


@pytest.mark.slow
def test_a_bad_file_leaves_the_old_targets_in_use(proxy, server, file, closing):
    target = server()
    process = proxy("--targets", file(target.place))
    path = file(target.place, "127.0.0.1:http")
    hang_up(process)
    assert process.line() == (
        f"minireactor: the old list of targets stays in use: {path!r}, line 2: '127.0.0.1:http' "
        "is not valid: give PORT, HOST:PORT or [IPV6]:PORT, such as example.internal:80"
    )
    os.remove(path)
    hang_up(process)
    assert f"stays in use: cannot read {path!r}: No such file" in process.line()
    file(f"127.0.0.1:{process.port}", target.place)
    meet(process, target, closing)


@pytest.mark.slow
def test_a_new_target_that_is_the_proxy_itself_is_refused(server, file, closing, tmp_path):
    target, number = server(), unused_number()
    path = file(target.place)
    process = closing(Command("proxy", f"127.0.0.1:{number}", "--targets", path, cwd=tmp_path))
    process.listening()
    file(target.place, f"localhost:{number}")
    hang_up(process)
    assert process.line() == (
        f"minireactor: the old list of targets stays in use: localhost:{number} is where the proxy "
        f"itself listens; remove it from {path!r}"
    )


def test_a_target_in_the_file_that_is_the_proxy_itself_is_refused(file, capsys):
    path = file("a:1", "localhost:8080")
    assert main(["proxy", "8080", "--targets", path]) == 2
    assert capsys.readouterr().err == (
        "minireactor proxy: localhost:8080 is where the proxy itself listens; "
        f"remove it from {path!r}\n"
    )


def test_a_bad_file_at_the_start_is_one_line_with_status_2(file, capsys):
    path = file("a:1", "a:1")
    assert main(["proxy", "8080", "--targets", path]) == 2
    assert capsys.readouterr().err == (
        f"minireactor proxy: {path!r}, line 2: a:1 is given in line 1 already; remove one\n"
    )


@pytest.mark.slow
def test_arguments_and_file_make_one_list(proxy, server, file, closing):
    first, second = server(), server()
    process = proxy(first.place, "--targets", file(second.place), "--balance", "round-robin")
    assert f", to {first.place}, {second.place}, up to" in process.first
    for target in (first, second, first):
        meet(process, target, closing)


@pytest.mark.slow
def test_without_a_file_SIGHUP_means_the_end(proxy, server):
    process = proxy(server().place)
    hang_up(process)
    assert process.end()[0] == 0


@pytest.mark.slow
def test_a_check_reports_targets_that_go_and_come_without_any_client(proxy, server, closing):
    target, number = server(), unused_number()
    process = proxy(target.place, f"127.0.0.1:{number}", "--check", "0.1")
    assert f"target 127.0.0.1:{number} is down: The peer refused" in process.error_line()
    closing(socket.create_server(("127.0.0.1", number)))
    assert f"target 127.0.0.1:{number} is up again" in process.error_line()


# Programs that people use, as targets that come and go.


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")
def test_socat_as_a_target_that_comes_and_goes(proxy, server, closing):
    spare, number = server(), unused_number()
    listen = f"TCP-LISTEN:{number},bind=127.0.0.1,reuseaddr,fork"

    def start():
        return subprocess.Popen(["socat", listen, "SYSTEM:echo socat; cat"])

    process = proxy(f"127.0.0.1:{number}", spare.place, "--check", "0.1")
    assert "is down" in process.error_line()
    meet(process, spare, closing)
    socat = start()
    try:
        assert "is up again" in process.error_line()
        client = closing(process.connect())
        assert client.makefile("rb").readline() == b"socat\n"
    finally:
        socat.kill()
        socat.wait()
    assert "is down" in process.error_line()
    meet(process, spare, closing)


HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend web
    bind 127.0.0.1:{number} {options}
    http-request return status 200 content-type text/plain string haproxy
"""


needs_haproxy_and_curl = pytest.mark.skipif(
    not all(map(shutil.which, ("haproxy", "curl"))), reason="haproxy or curl is not installed"
)


def start_haproxy(folder, number, options=""):
    config = folder / f"{number}.cfg"
    config.write_text(HAPROXY.format(number=number, options=options))
    return subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)])


def curl(url):
    return subprocess.run(["curl", "-sS", url], capture_output=True, timeout=PATIENCE).stdout


@pytest.mark.slow
@needs_haproxy_and_curl
@pytest.mark.parametrize("option", ["--send-proxy", "--send-proxy-v2"])
def test_an_haproxy_that_wants_headers_accepts_those_of_probes(proxy, server, tmp_path, option):
    number, other = unused_number(), server()
    haproxy = start_haproxy(tmp_path, number, "accept-proxy")
    place = f"127.0.0.1:{number}"
    try:
        metrics = "127.0.0.1:0"
        process = proxy(other.place, place, "--check", "0.1", option, "--metrics", metrics)
        url = re.search(r"http://\S+", process.line())[0]
        series = re.escape(f'minireactor_target_connect_seconds{{target="{place}"}} ')
        other.listener.close()
        while f"target {other.place} is down" not in process.error_line():
            pass
        times = set()
        while len(times) < 3:  # a probe begins when the one before has passed
            text = curl(url).decode()
            times.update(re.findall(f"{series}(.*)", text))
        assert f'minireactor_target_up{{target="{place}"}} 1' in text
        assert f'minireactor_target_failures_total{{target="{place}"}} 0' in text
        assert curl(f"http://127.0.0.1:{process.port}/") == b"haproxy"
    finally:
        haproxy.kill()
        haproxy.wait()


@pytest.mark.slow
@needs_haproxy_and_curl
def test_curl_to_an_haproxy_that_comes_and_goes(proxy, tmp_path):
    numbers = [unused_number(), unused_number()]
    running = {}

    def start(number):
        running[number] = start_haproxy(tmp_path, number)

    def stop(number):
        running[number].kill()
        running.pop(number).wait()

    def get():
        return curl(f"http://127.0.0.1:{process.port}/")

    try:
        for number in numbers:
            start(number)
        places = [f"127.0.0.1:{number}" for number in numbers]
        process = proxy(*places, "--balance", "least", "--check", "0.1")
        for number, place in zip(numbers, places):
            stop(number)
            line = process.error_line()
            while f"target {place} is down" not in line:
                line = process.error_line()
            assert [get() for _ in range(10)] == [b"haproxy"] * 10
            start(number)
            while f"target {place} is up again" not in line:
                line = process.error_line()
            assert [get() for _ in range(10)] == [b"haproxy"] * 10
    finally:
        for number in list(running):
            stop(number)
