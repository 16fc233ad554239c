"""`minireactor proxy` in a process of its own, with the clients that people use."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from proxy_support import MAX_AT_A_TIME, MODES, full, listening, unused_number
from serve_support import Command, read_all
from support import PATIENCE, reset

from minireactor import Reactor
from minireactor.cli.commands import main
from minireactor.cli.options import parse
from minireactor.protocol import Factory
from minireactor.proxy import relay
from minireactor.serve.apps import Echo

MEGABYTE = 1024 * 1024
END = (
    r"^127\.0\.0\.1:(?P<peer>\d+) -> (?P<target>\S+): (?P<up>\d+) bytes up, (?P<down>\d+) down, "
    r"\d+\.\d\d s, (?P<why>.*)$"
)

needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="no /proc to read memory and CPU time from"
)


def tool(name):
    """Return a mark that skips a test if a program is not installed."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def command(tmp_path, closing):
    """command(*arguments) starts a Command. It ends with the test."""
    return lambda *arguments: closing(Command("proxy", *arguments, cwd=tmp_path))


# A process for each test takes its time: without the slow ones, the usual way of moving bytes.
@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name == max(MODES) else pytest.mark.slow)
        for name in sorted(MODES)
    ]
)
def mode(request):
    """How the command moves bytes: "copy" or "splice"."""
    return request.param


@pytest.fixture
def proxy(command, mode):
    """proxy(*arguments) starts `proxy` on a free port, `port`, and waits until it listens."""

    def proxy(*arguments):
        process = command("127.0.0.1:0", *map(str, arguments), *MODES[mode][1])
        process.port = int(re.search(r"listening on 127\.0\.0\.1:(\d+), ", process.line())[1])
        return process

    return proxy


@pytest.fixture
def target(closing):
    """A plain server. `port` is its port number; accept() returns the next connection."""

    class Target:
        def __init__(self):
            self.listener = closing(listening())
            self.listener.settimeout(PATIENCE)
            self.port = self.listener.getsockname()[1]

        def accept(self):
            sock = closing(self.listener.accept()[0])
            sock.settimeout(PATIENCE)
            return sock

    return Target()


@pytest.fixture
def served():
    """served(protocol) returns the port number of a server in a thread of its own."""
    running = []

    def served(protocol):
        reactor = Reactor()
        factory = Factory.forProtocol(protocol)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
        thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
        thread.start()
        running.append((reactor, thread))
        return port

    yield served
    for reactor, thread in running:
        reactor.callFromThread(reactor.stop)
        thread.join()


@pytest.fixture
def client(closing):
    """client(process) returns a plain blocking socket connected to the process."""
    return lambda process: closing(process.connect())


def ended(process):
    """Return the parts of the next line about the end of a connection."""
    return re.match(END, process.line_with(" bytes up, ")).groupdict()


def run(*arguments, **options):
    """Return what a program prints, as bytes. Raises AssertionError if it fails."""
    done = subprocess.run(arguments, capture_output=True, timeout=6 * PATIENCE, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What is wrong on the command line.


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("", "required: LISTEN"),
        ("8080", "give a TARGET, or --targets FILE"),
        ("8080 --targets /nowhere/list", "cannot read '/nowhere/list': No such file"),
        ("8080 80 --targets /", "cannot read '/': Is a directory"),
        ("8080 80 --targets /dev/null", "'/dev/null' is no regular file; give a file of targets"),
        (
            "8080 80 --check fast",
            "argument --check: 'fast' is not valid: give a number of seconds, or 0 to check only",
        ),
        ("65536 80", "argument LISTEN: '65536' is not valid: give PORT, HOST:PORT, [IPV6]:PORT"),
        ("localhost 80", "argument LISTEN: 'localhost' is not valid"),
        ("localhost: 80", "argument LISTEN: 'localhost:' is not valid"),
        ("localhost:http 80", "argument LISTEN: 'localhost:http' is not valid"),
        ("::1:8080 80", "argument LISTEN: '::1:8080' is not valid"),
        ("[::1] 80", "argument LISTEN: '[::1]' is not valid"),
        (":99999 80", "argument LISTEN: ':99999' is not valid"),
        ("[]:1 80", "argument LISTEN: '[]:1' is not valid"),
        ("8080 :80", "argument TARGET: ':80' is not valid: give PORT, HOST:PORT or [IPV6]:PORT"),
        ("8080 0", "argument TARGET: '0' is not valid"),
        ("8080 host:0", "argument TARGET: 'host:0' is not valid"),
        ("8080 http://host:80", "argument TARGET: 'http://host:80' is not valid"),
        ("8080 host:80/", "argument TARGET: 'host:80/' is not valid"),
        ("8080 me@host:80", "argument TARGET: 'me@host:80' is not valid"),
        ("8080 host:٣", "argument TARGET: 'host:٣' is not valid"),
        ("8080 host:" + "9" * 5000, "is not valid: give PORT"),
        ("8080 80 localhost:8080", "localhost:8080 is where the proxy itself listens"),
        (":8080 127.0.0.1:8080", "127.0.0.1:8080 is where the proxy itself listens; give another"),
        ("8080 127.1:8080", "127.1:8080 is where the proxy itself listens"),
        ("8080 LOCALHOST:8080", "LOCALHOST:8080 is where the proxy itself listens"),
        (":8080 127.0.0.2:8080", "127.0.0.2:8080 is where the proxy itself listens"),
        ("8080 0.0.0.0:8080", "0.0.0.0:8080 is where the proxy itself listens"),
        ("[::1]:8080 [0:0::1]:8080", "[0:0::1]:8080 is where the proxy itself listens"),
        ("[::]:8080 [::1]:8080", "[::1]:8080 is where the proxy itself listens"),
        ("8080 80 --balance best", "argument --balance: invalid choice: 'best'"),
        ("8080 80 --connect-timeout -1", "argument --connect-timeout: '-1' is not valid"),
        ("8080 80 --rate 0", "argument --rate: '0' is not valid: give a number of bytes a second"),
        ("8080 80 --rate fast", "argument --rate: 'fast' is not valid"),
        ("8080 80 --high 1K --low 1K", "high=1024 and low=1024 are not valid"),
        ("8080 80 --grace -1", "argument --grace: '-1' is not valid"),
        ("8080 80 -v -q", "not allowed with argument"),
        ("8080 80 --seed 1", "unrecognized arguments: --seed"),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line_with_status_2(arguments, named, capsys):
    status = main(["proxy", *arguments.split()])

    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.startswith("minireactor")
    assert errors.count("\n") == 1
    assert len(errors) < 300
    assert named in errors


@pytest.mark.slow
@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_where_it_cannot_listen_is_one_line_with_status_2(host, command):
    status, output, errors = command(f"{host}:0", "80").end()
    assert (status, output) == (2, "")
    assert errors.startswith(f"minireactor proxy: Cannot listen on {host}:0")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line_that_names_the_fix(command, closing):
    taken = closing(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    status, output, errors = command(str(taken), "80").end()
    assert (status, output) == (2, "")
    assert errors.startswith(f"minireactor proxy: Cannot listen on 127.0.0.1:{taken}: ")
    assert errors.endswith("; give another LISTEN, or stop what listens there\n")
    assert errors.count("\n") == 1


def test_each_option_has_help_with_its_default(capsys):
    assert main(["proxy", "--help"]) == 0
    text = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    text = re.sub("\n\n[\\w ]+:\n", "\n\n", text)  # without the headings
    entries = re.split("\n  (?=-)", text)[1:]
    names = {entry.split()[0].strip(",") for entry in entries}
    assert {"-h", "--listen", "--rate", "--target-ca", "-q"} <= names
    for entry in entries:
        words = " ".join(entry.split())
        assert "(default: " in words or words.endswith("and exit"), words


def limits(*arguments):
    options = parse([*arguments])
    return options.idle_timeout, options.stall_timeout, options.keepalive


def test_a_proxy_has_the_timeouts_that_an_operator_would_set():
    assert limits("proxy", "8080", "80") == (3600, 300, 60)
    assert limits("serve") == (None, None, 60)
    assert parse(["proxy", "8080", "80"]).connect_timeout == 10


@pytest.mark.parametrize("command", [["serve"], ["proxy", "8080", "80"]])
def test_a_limit_of_0_means_no_limit(command):
    none = ["--idle-timeout", "0", "--stall-timeout", "0.0", "--keepalive", "0"]
    assert limits(*command, *none) == (None, None, None)


def test_a_connect_timeout_of_0_means_no_limit():
    assert parse(["proxy", "8080", "80", "--connect-timeout", "0"]).connect_timeout is None


def test_the_first_level_names_it(capsys):
    assert main(["--help"]) == 0
    assert "pass connections to a TCP port on to a target" in capsys.readouterr().out


# Where it listens, and what it says.


@pytest.mark.slow
def test_the_first_line_says_where_it_listens_and_where_it_leads(command):
    line = command("0", "example.internal:80", "[::1]:81", "82").line()
    assert re.fullmatch(
        r"minireactor: proxy listening on 127\.0\.0\.1:\d+, "
        r"to example\.internal:80, \[::1\]:81, 127\.0\.0\.1:82, "
        r"up to \d+ connections",
        line,
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", [":0", "0.0.0.0:0"])
def test_without_a_host_it_listens_on_all_addresses(command, place):
    assert "proxy listening on 0.0.0.0:" in command(place, "80").line()


@pytest.mark.slow
def test_ipv6_on_both_sides(command, closing):
    try:
        listener = closing(socket.create_server(("::1", 0), family=socket.AF_INET6))
    except OSError:
        pytest.skip("no IPv6 here")
    process = command("[::1]:0", f"[::1]:{listener.getsockname()[1]}")
    number = int(re.search(r"on \[::1\]:(\d+), to \[::1\]:\d+, up to", process.line())[1])
    peer = closing(socket.create_connection(("::1", number), timeout=PATIENCE))
    peer.sendall(b"x")
    assert closing(listener.accept()[0]).recv(1) == b"x"


@pytest.mark.slow
def test_the_line_at_the_end_of_a_connection(proxy, target, client):
    process = proxy(f"localhost:{target.port}")
    peer = client(process)
    number = peer.getsockname()[1]
    peer.sendall(b"12345")
    peer.shutdown(socket.SHUT_WR)
    behind = target.accept()
    assert read_all(behind) == b"12345"
    behind.sendall(b"123")
    behind.close()
    assert read_all(peer) == b"123"
    assert ended(process) == {
        "peer": str(number),
        "target": f"localhost:{target.port}",
        "up": "5",
        "down": "3",
        "why": "closed in good order",
    }


@pytest.mark.slow
def test_verbose_prints_connections_and_pauses(proxy, target, client):
    process = proxy(target.port, "-v")
    peer = client(process)
    source, sink = f"127.0.0.1:{peer.getsockname()[1]}", f"127.0.0.1:{target.port}"
    assert process.line() == f"connection made from {source}"
    assert process.line() == f"connected {source} to {sink}"
    behind = target.accept()
    peer.settimeout(0.2)
    with pytest.raises(socket.timeout):
        peer.sendall(bytes(64 * MEGABYTE))
    assert process.line() == f"pausing {source}: bytes wait for {sink}"
    peer.close()
    read_all(behind)
    assert process.line_with("resuming") == f"resuming {source}: {sink} has taken them"


@pytest.mark.slow
def test_verbose_prints_attempts_that_failed(proxy, target, client):
    bad = unused_number()
    process = proxy(bad, target.port, "-v")
    peer = client(process)
    number = peer.getsockname()[1]
    line = process.line_with("not connected")
    assert line.startswith(f"not connected 127.0.0.1:{number} to 127.0.0.1:{bad}: The peer refused")
    assert process.line() == f"connected 127.0.0.1:{number} to 127.0.0.1:{target.port}"
    assert f"target 127.0.0.1:{bad} is down: " in process.error_line()


@pytest.mark.slow
def test_quiet_prints_nothing(command, target, closing):
    number = unused_number()
    process = command(str(number), str(target.port), "-q")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            peer = closing(socket.create_connection(("127.0.0.1", number)))
            break
        except ConnectionRefusedError:
            continue
    peer.close()
    behind = target.accept()
    assert read_all(behind) == b""
    behind.close()
    process.terminate()
    assert process.end() == (0, "", "")


@pytest.mark.slow
def test_the_server_goes_on_when_nobody_reads_its_output_any_more(proxy, served, client):
    process = proxy(served(Echo), "-v")
    process.close_stdout()
    for _ in range(3):
        peer = client(process)
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        peer.close()
    process.terminate()
    assert process.end_without_output() == (0, "")


# Programs that people use, on either side.


@pytest.fixture
def web(tmp_path):
    """Return (port number, content of /file) of Python's own web server."""
    content = os.urandom(3 * MEGABYTE)
    (tmp_path / "file").write_bytes(content)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    line = process.stdout.readline()
    yield int(re.search(rb"port (\d+)", line)[1]), content
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@tool("curl")
def test_curl_through_it_to_a_web_server(proxy, web):
    number, content = web
    process = proxy(number)
    for _ in range(3):
        assert run("curl", "-sS", f"http://127.0.0.1:{process.port}/file") == content
        assert ended(process)["why"] == "closed in good order"


@pytest.mark.slow
@tool("nc")
def test_nc_that_half_closes_gets_its_reply(proxy, web):
    number, content = web
    process = proxy(number)
    usage = subprocess.run(["nc", "-h"], capture_output=True, text=True, timeout=PATIENCE)
    half_close = ["-N"] if re.search(r"^\s+-N\b|-\w*N", usage.stderr) else []
    answer = run("nc", *half_close, "127.0.0.1", str(process.port), input=b"GET /file\r\n\r\n")
    assert answer.endswith(content)
    assert ended(process)["up"] == "13"


@pytest.mark.slow
@tool("socat")
@pytest.mark.parametrize("size", [0, 1, 5 * MEGABYTE])
def test_socat_on_both_sides(proxy, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "sent").write_bytes(content)
    number = unused_number()
    listen = f"TCP-LISTEN:{number},bind=127.0.0.1,reuseaddr"
    sink = subprocess.Popen(
        ["socat", "-d", "-d", "-u", listen, f"CREATE:{tmp_path / 'received'}"],
        stderr=subprocess.PIPE,
    )
    try:
        while b"listening" not in sink.stderr.readline():
            assert sink.poll() is None
        process = proxy(number)
        run("socat", "-u", f"OPEN:{tmp_path / 'sent'}", f"TCP:127.0.0.1:{process.port}")
        sink.communicate(timeout=PATIENCE)
    finally:
        sink.kill()
        sink.wait()
        sink.stderr.close()
    assert (tmp_path / "received").read_bytes() == content
    assert ended(process)["up"] == str(size)


@pytest.mark.slow
@tool("socat")
def test_socat_to_an_echo_and_back(proxy, served):
    process = proxy(served(Echo))
    content = os.urandom(2 * MEGABYTE)
    got = run("socat", "-t", "30", "-", f"TCP:127.0.0.1:{process.port}", input=content)
    assert got == content


@pytest.mark.slow
def test_one_byte_at_a_time(proxy, served, client):
    peer = client(proxy(served(Echo)))
    for number in range(200):
        peer.sendall(bytes([number]))
        assert peer.recv(1) == bytes([number])


# Targets that are not there.


@pytest.mark.slow
@needs_proc
def test_a_target_that_is_down_closes_the_client_at_once_and_costs_nothing(proxy, client):
    number = unused_number()
    process = proxy(number)
    peer = client(process)
    peer.sendall(b"unread")
    assert read_all(peer) == b""
    end = ended(process)
    assert (end["up"], end["down"], end["target"]) == ("0", "0", f"127.0.0.1:{number}")
    assert end["why"].startswith("no target: The peer refused the connection")
    ticks = cpu_ticks(process.pid)
    assert process.lines_until_quiet(0.5) == 0
    assert cpu_ticks(process.pid) - ticks <= 1


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["first", "round-robin", "least"])
def test_one_target_of_three_down_is_noticed_by_no_client(proxy, served, client, balance):
    good = served(Echo)
    process = proxy(good, unused_number(), served(Echo), "--balance", balance)
    for number in range(20):
        peer = client(process)
        peer.sendall(b"%d" % number)
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"%d" % number


@pytest.mark.slow
def test_round_robin_takes_turns(proxy, served, client):
    targets = served(Echo), served(Echo)
    process = proxy(*targets, "--balance", "round-robin")
    for number in range(4):
        client(process).close()
        assert ended(process)["target"] == f"127.0.0.1:{targets[number % 2]}"


@pytest.mark.slow
def test_a_target_that_resets_is_named(proxy, target, client):
    process = proxy(target.port)
    peer = client(process)
    peer.sendall(b"x")
    behind = target.accept()
    assert behind.recv(1) == b"x"
    reset(behind)
    with pytest.raises(ConnectionResetError):
        read_all(peer)
    assert ended(process)["why"].startswith("target: The connection broke")


@pytest.mark.slow
@needs_proc
def test_without_descriptors_established_connections_are_served_and_others_rejected(
    proxy, served, client
):
    resource = pytest.importorskip("resource")
    process = proxy(served(Echo))
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (64, 64))
    inside = []
    turned_away = 0
    while turned_away < 5:
        peer = client(process)
        try:
            peer.sendall(b"x")
            answer = peer.recv(1)
        except ConnectionResetError:
            answer = b""
        if answer:
            inside.append(peer)
        else:
            turned_away += 1
            peer.close()
    assert 20 < len(inside) < 32  # two descriptors each
    for peer in inside:
        peer.sendall(b"still")
        assert peer.recv(5) == b"still"
    process.lines_until_quiet(0.3)
    ticks = cpu_ticks(process.pid)
    assert process.lines_until_quiet(0.5) == 0
    assert cpu_ticks(process.pid) - ticks <= 1
    for peer in inside[:2]:
        peer.close()
    process.lines_until_quiet(0.3)
    peer = client(process)
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"


# Limits.


@pytest.mark.slow
@needs_proc
def test_memory_is_flat_while_a_fast_source_waits_for_a_sink_that_does_not_read(
    proxy, target, client, mode
):
    process = proxy(target.port, "--grace", "0")
    with client(process) as first:
        target.accept().close()
        first.close()
    before = resident(process.pid)
    peers = []
    for _ in range(10):
        peer = client(process)
        peer.settimeout(0.1)
        behind = target.accept()
        with pytest.raises(socket.timeout):
            peer.sendall(bytes(64 * MEGABYTE))
        peers.append((peer, behind))
    # The high mark and one read, and an allocator keeps as much again. A tracing collector's heap
    # is some tens of megabytes whatever it holds: little beside the 640 that are on offer.
    most = len(peers) * 2 * (64 + 256) * 1024
    if sys.implementation.name == "pypy":
        most += 100 * MEGABYTE
    assert resident(process.pid) - before < most
    peer, behind = peers[0]
    peer.close()
    assert len(read_all(behind)) > MEGABYTE
    process.interrupt()
    highest = int(re.search("highest pending ([0-9]+) bytes", process.end()[1])[1])
    assert 64 * 1024 < highest <= 64 * 1024 + MAX_AT_A_TIME[mode]


@pytest.mark.slow
def test_marks_are_those_of_the_options(proxy, target, client):
    process = proxy(target.port, "--high", "1K", "--low", "0")
    peer = client(process)
    # With the default marks nothing pauses. The kernel may hand the bytes over in two parts. One of
    # them is above the high mark then, and the other one is not.
    peer.sendall(b"x" * 2049)
    peer.shutdown(socket.SHUT_WR)
    behind = target.accept()
    assert len(read_all(behind)) == 2049
    behind.close()
    ended(process)
    process.terminate()
    assert "pauses 1," in process.end()[1]


class Found(Exception):
    """Raised in place of making the relay, with its arguments."""


def test_how_it_is_to_proxy_reaches_the_relay(monkeypatch):
    def found(reactor, targets, **options):
        places = [target.place for target in targets]
        raise Found(places, options["rate"], options["balance"], options["timeout"])

    monkeypatch.setattr(relay, "Relay", found)
    arguments = "proxy 0 a:1 b:2 --rate 20K --balance least --connect-timeout 3.5"
    with pytest.raises(Found) as caught:
        main(arguments.split())
    assert caught.value.args == ([("a", 1), ("b", 2)], 20 * 1024, "least", 3.5)


def test_by_default_an_attempt_has_ten_seconds_and_there_is_no_rate_by_default(monkeypatch):
    def found(reactor, targets, **options):
        raise Found(options["rate"], options["balance"], options["timeout"])

    monkeypatch.setattr(relay, "Relay", found)
    with pytest.raises(Found) as caught:
        main(["proxy", "0", "80"])
    assert caught.value.args == (None, "first", 10.0)


@pytest.mark.slow
def test_at_a_rate_everything_arrives(proxy, served, client):
    peer = client(proxy(served(Echo), "--rate", "1M"))
    content = os.urandom(200_000)
    peer.sendall(content)
    peer.shutdown(socket.SHUT_WR)
    assert read_all(peer) == content


@pytest.mark.slow
def test_a_further_client_is_rejected_with_a_warning(proxy, served, client):
    process = proxy(served(Echo), "--max-connections", "1")
    inside = client(process)
    inside.sendall(b"x")
    assert inside.recv(1) == b"x"
    assert read_all(client(process)) == b""
    assert "at the limit of 1 connections" in process.error_line()


@pytest.mark.slow
def test_an_idle_client_is_closed(proxy, served, client):
    process = proxy(served(Echo), "--idle-timeout", "0.05")
    assert read_all(client(process)) == b""
    assert ended(process)["why"] == "idle for 0.05 s"


@pytest.mark.slow
def test_a_stalled_target_ends_the_connection(proxy, target, client):
    process = proxy(target.port, "--stall-timeout", "0.2")
    peer = client(process)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            peer.sendall(bytes(MEGABYTE))
    assert ended(process)["why"] == "target: took none of its bytes for 0.2 s"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how others treat a full backlog differs")
def test_a_target_that_does_not_answer_fails_after_the_connect_timeout(proxy, client, closing):
    process = proxy(full(closing), "--connect-timeout", "0.1")
    assert read_all(client(process)) == b""
    assert "no connection within 0.1 seconds" in ended(process)["why"]


# Signals.


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["interrupt", "terminate"])
def test_a_signal_ends_an_idle_proxy_with_a_summary(signal, proxy, served, client):
    process = proxy(served(Echo))
    peer = client(process)
    peer.sendall(b"12345")
    assert peer.recv(5) == b"12345"
    peer.close()
    ended(process)

    getattr(process, signal)()

    assert process.end() == (
        0,
        "minireactor: connections 1, bytes in 5, bytes out 5, pauses 0, highest pending 5 bytes\n",
        "",
    )


@pytest.mark.slow
def test_a_signal_lets_a_transfer_finish(proxy, target, client):
    process = proxy(target.port, "--grace", "600")
    peer = client(process)
    behind = target.accept()
    peer.settimeout(0.2)
    content = bytes(64 * MEGABYTE)
    with pytest.raises(socket.timeout):
        peer.sendall(content)
    process.terminate()
    process.wait_until_it_refuses()

    behind.sendall(b"go on")
    peer.settimeout(PATIENCE)
    assert peer.recv(5) == b"go on"
    peer.close()
    assert len(read_all(behind)) > MEGABYTE
    behind.close()
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert "closed in good order" in output


def joined(peer, target):
    """Return the target's connection, once the proxy has joined it."""
    behind = target.accept()
    peer.sendall(b"x")
    assert behind.recv(1) == b"x"
    return behind


@pytest.mark.slow
def test_transfers_that_go_on_after_the_grace_are_aborted(proxy, target, client):
    process = proxy(target.port, "--grace", "0.1")
    peer = client(process)
    behind = joined(peer, target)
    process.terminate()
    status, output, errors = process.end()
    assert (status, errors) == (1, "")
    assert "the proxy has stopped" in output
    assert output.endswith(", transfers aborted 1\n")
    for sock in (peer, behind):
        with pytest.raises(ConnectionResetError):
            read_all(sock)


@pytest.mark.slow
def test_a_second_signal_aborts_at_once(proxy, target, client):
    process = proxy(target.port, "--grace", "600")
    joined(client(process), target)
    process.interrupt()
    process.wait_until_it_refuses()
    process.interrupt()
    status, output, errors = process.end()
    assert (status, errors) == (1, "")
    assert "the proxy has stopped" in output
    assert output.endswith(", transfers aborted 1\n")


def resident(pid):
    """Return the resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_the_options_that_the_readme_speaks_of_are_in_the_help(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## A proxy")[2].partition("\n## ")[0]
    assert main(["proxy", "--help"]) == 0
    words = capsys.readouterr().out
    options = re.findall(r"`(--[a-z-]+)", section)
    assert len(options) >= 2
    for word in [*options, "first", "round-robin", "least"]:
        assert word in section and word in words


def test_the_lines_of_the_session_in_the_readme_are_like_ours():
    folder = Path(__file__).parent.parent / "minireactor" / "proxy"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (.* bytes up, .*)$", readme, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        assert re.match(END, line)
