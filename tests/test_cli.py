"""The command line: options, messages, exit statuses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import types

import pytest
from readme_commands import SUBCOMMANDS
from serve_support import ROOT, read_all, read_line
from support import IS_PYPY, PATIENCE

import minireactor
from minireactor.cli import options
from minireactor.cli.commands import main
from minireactor.cli.options import parse
from minireactor.cli.process import (
    MAX_DESCRIPTORS,
    RESERVED_DESCRIPTORS,
    max_connections,
    raise_descriptor_limit,
)

QUESTION = b"how many random integers do you want?\r\n"


@pytest.fixture
def serve(command):
    """serve(*arguments) starts `serve` on a free port, and waits until it listens."""

    def serve(*arguments):
        process = command("serve", "--port", "0", *arguments)
        process.listening()
        return process

    return serve


@pytest.fixture
def client(closing):
    """client(command) returns a plain socket connected to the command."""
    return lambda process: closing(process.connect())


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Change to an empty directory. Changes of sys.path are undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


# What is wrong on the command line.


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("serve --port 65536", "argument --port: '65536' is not valid"),
        ("serve --port -1", "argument --port: '-1' is not valid"),
        ("serve --port http", "argument --port: 'http' is not valid"),
        ("serve --port 1.5", "argument --port: '1.5' is not valid"),
        ("serve --port " + "9" * 5000, "is not valid: give a port number"),
        ("serve --port ٣", "argument --port: '٣' is not valid"),
        ("serve --host=", "argument --host: '' is not valid: give an address or a name"),
        ("serve --host=", "for all addresses, give 0.0.0.0 or ::"),
        ("serve --host [127.0.0.1]", "argument --host: '[127.0.0.1]' is not valid"),
        ("serve --host [::1", "argument --host: '[::1' is not valid"),
        ("serve --host http://127.0.0.1", "argument --host: 'http://127.0.0.1' is not valid"),
        ("serve --high 64G", "argument --high: '64G' is not valid: give a number of bytes"),
        ("serve --high=-5K", "argument --high: '-5K' is not valid"),
        ("serve --high 1.5K", "argument --high: '1.5K' is not valid"),
        ("serve --high 0", "high=0 and low=0 are not valid"),
        ("serve --high 1K --low 2K", "high=1024 and low=2048 are not valid"),
        ("serve --high 1K --low 1K", "high=1024 and low=1024 are not valid"),
        ("serve --low 1M", "high=65536 and low=1048576 are not valid"),
        ("serve --max-connections 0", "argument --max-connections: '0' is not valid"),
        ("serve --keepalive 32768", "argument --keepalive: '32768' is not valid: give a whole"),
        ("serve --keepalive 0.5", "argument --keepalive: '0.5' is not valid"),
        ("serve --keepalive -1", "argument --keepalive: '-1' is not valid"),
        ("serve --idle-timeout -1", "argument --idle-timeout: '-1' is not valid"),
        ("serve --idle-timeout nan", "argument --idle-timeout: 'nan' is not valid"),
        ("serve --stall-timeout inf", "argument --stall-timeout: 'inf' is not valid"),
        ("serve --stall-timeout soon", "argument --stall-timeout: 'soon' is not valid"),
        ("serve --grace -1", "argument --grace: '-1' is not valid"),
        ("serve --grace nan", "argument --grace: 'nan' is not valid"),
        ("serve --seed x", "argument --seed: 'x' is not valid"),
        ("serve echo --seed 1", "--seed is for random only"),
        ("serve -v -q", "not allowed with argument"),
        ("serve --prot 80", "serve: unrecognized arguments: --prot (see minireactor serve --"),
        ("serve echo discard", "PATH 'discard' is for file only"),
        ("serve --port", "argument --port: expected one argument"),
        ("sevre", "invalid choice: 'sevre'"),
        ("", "required: COMMAND"),
        ("serve ranodm", "no app 'ranodm'"),
        ("serve :app", "no app ':app'; give random"),
        ("serve ..:app", "no app '..:app'; give random"),
        ("serve string:", "no app 'string:'; give random"),
        ("serve string:a:b", "no app 'string:a:b'; give random"),
        ("serve no_such_module:app", "no module 'no_such_module'"),
        ("serve string:no_such_name", "module 'string' has no name 'no_such_name'"),
        ("serve string:digits", "string:digits is '0123456789'; name a Factory"),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line_with_status_2(
    arguments, named, elsewhere, capsys
):
    status = main(arguments.split())

    output, errors = capsys.readouterr()
    assert status == 2
    assert output == ""
    assert errors.startswith("minireactor")
    assert errors.count("\n") == 1
    assert len(errors) < 300
    assert named in errors


def test_a_module_that_raises_is_named_with_its_exception_in_one_line(elsewhere, capsys):
    (elsewhere / "broken_on_import.py").write_text("raise ValueError('one\\ntwo')")

    assert main(["serve", "broken_on_import:app"]) == 2

    assert capsys.readouterr().err == (
        "minireactor serve: importing 'broken_on_import' raised ValueError: one two\n"
    )


@pytest.mark.parametrize("error", ["SystemExit", "BaseException", "GeneratorExit"])
def test_a_factory_that_raises_more_than_an_exception_is_named_too(error, elsewhere, capsys):
    app = f"class App:\n buildProtocol = None\n def __init__(self): raise {error}('no')\n"
    (elsewhere / f"raises_{error}.py").write_text(app)
    (elsewhere / f"imports_{error}.py").write_text(f"raise {error}('no')")

    assert main(["serve", f"raises_{error}:App"]) == 2
    assert main(["serve", f"imports_{error}:App"]) == 2

    assert capsys.readouterr().err == (
        f"minireactor serve: raises_{error}:App() raised {error}: no\n"
        f"minireactor serve: importing 'imports_{error}' raised {error}: no\n"
    )


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line_with_status_2(command, closing):
    taken = closing(socket.create_server(("127.0.0.1", 0))).getsockname()[1]

    status, output, errors = command("serve", "--port", str(taken)).end()

    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert f"Cannot listen on 127.0.0.1:{taken}: " in errors
    assert errors.endswith("; give another --port, or stop what listens there\n")


@pytest.mark.slow
@pytest.mark.parametrize("host", ["no-such-host.invalid", "999.1.1.1", "x" * 300, "192.0.2.1"])
def test_a_host_that_is_not_ours_is_one_line_with_status_2(host, command):
    status, output, errors = command("serve", "--host", host, "--port", "0").end()

    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert f"Cannot listen on {host}:0" in errors
    assert "stop what listens there" not in errors


@pytest.mark.slow
def test_a_factory_that_does_not_start_is_one_line_with_status_2(command, tmp_path):
    (tmp_path / "app.py").write_text(
        "from minireactor.protocol import Factory\n"
        "class Broken(Factory):\n"
        "    def startFactory(self):\n"
        "        raise OSError('no database')\n"
    )
    status, _, errors = command("serve", "app:Broken", "--port", "0").end()
    assert status == 2
    assert errors == "minireactor serve: starting app:Broken raised OSError('no database')\n"


# Help.


@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--version"]])
def test_the_version_is_printed_at_both_levels(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"minireactor {minireactor.__version__}\n"


def options_in_usage(text):
    """Return the options that a text of help names in its first paragraph."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", text.partition("\n\n")[0]))


COMMANDS = (*SUBCOMMANDS, "learn build", "learn build check")


def help_of(capsys, *argv):
    assert main([*argv, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_one_example(capsys, command):
    text = " ".join(help_of(capsys, *command.split()).split())
    assert text.count(f"Example: minireactor {command} ") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_only_the_options_of_the_command_itself_are_made(command):
    known = options._parser(command)._subparsers._group_actions[0].choices
    assert list(known) == [command]
    every = options._parser("none")._subparsers._group_actions[0].choices
    assert set(every) == set(COMMANDS)
    assert known[command].format_help() == every[command].format_help()


@pytest.mark.parametrize("columns, width", [("100", 98), ("0", 78), ("-1", 78), ("wide", 78)])
def test_help_is_as_wide_as_COLUMNS_says(capsys, monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
    lines = help_of(capsys, "serve").splitlines()
    assert width - 8 < max(map(len, lines)) <= width


def test_help_is_as_wide_as_the_terminal(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((120, 20)))
    assert 110 < max(map(len, help_of(capsys, "serve").splitlines())) <= 118


def test_help_loads_nothing_that_help_does_not_need():
    code = (
        "import sys; before = set(sys.modules); from minireactor.cli import main; "
        "main(['serve', '--help']); print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stderr.split())
    assert "minireactor.cli.options" in loaded
    assert not loaded & {"shutil", "socket", "ssl", "ipaddress", "minireactor.proxy.balance"}


def test_each_option_has_help_with_its_default(capsys):
    assert main(["serve", "--help"]) == 0

    text = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    text = re.sub("\n\n[\\w ]+:\n", "\n\n", text)  # without the headings
    entries = re.split("\n  (?=-|APP)", text)[1:]
    assert {entry.split()[0].strip(",") for entry in entries} == {*options_in_usage(text), "APP"}
    for entry in entries:
        words = " ".join(entry.split())
        assert "(default: " in words or words.endswith("and exit"), words


def test_serve_listens_at_several_places(command, tmp_path):
    path = tmp_path / "x.sock"
    process = command("serve", "echo", "--listen", "0", "--listen", f"unix:{path}")
    assert f" and unix:{path}, up to " in process.line()


@pytest.mark.parametrize("name", ["serve", "proxy"])
def test_the_examples_of_the_help_are_commands_that_can_be_copied(name, capsys):
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.partition("more examples:\n")[2].splitlines()
    assert len(lines) >= 3
    for line in lines:
        program, *arguments = shlex.split(line)
        assert (program, parse(arguments).command) == ("minireactor", name)
        assert len(line) < 80


def test_listen_and_port_exclude_each_other(capsys):
    assert main(["serve", "--listen", "0", "--port", "1234"]) == 2
    assert capsys.readouterr().err == (
        "minireactor serve: --listen and --port exclude each other; give one\n"
    )


def test_sockets_of_systemd_that_are_not_there_are_an_error(capsys):
    assert main(["serve", "--listen", "systemd:web"]) == 2
    assert capsys.readouterr().err == (
        "minireactor serve: systemd:web: systemd has passed no such socket (LISTEN_FDS)\n"
    )


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_SIGHUP_ends_a_server_in_order_if_there_is_nothing_to_read_again(serve):
    process = serve("echo")
    os.kill(process.pid, signal.SIGHUP)
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert output.startswith("minireactor: connections 0,")


def test_the_first_level_names_the_commands(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "serve an app on a TCP port" in output
    assert "connect to a TCP server" in output


# A server that runs.


@pytest.mark.slow
def test_the_first_line_says_where_it_listens(command):
    process = command("serve", "--port", "0")
    line = process.listening()
    where = f"minireactor: random listening on 127.0.0.1:{process.port}"
    assert re.fullmatch(re.escape(where) + r", up to \d+ connections", line)
    assert process.connect().close() is None


@pytest.mark.slow
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_shown_in_brackets_and_may_have_them(command, host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    process = command("serve", "echo", "--host", host, "--port", "0")
    line = process.listening()
    assert line.startswith(f"minireactor: echo listening on [::1]:{process.port}, ")


@pytest.mark.slow
def test_random_is_what_it_serves_by_default(serve, client):
    peer = client(serve())
    assert read_line(peer) == QUESTION
    peer.sendall(b"1000\r\n")
    assert read_all(peer).count(b"\r\n") == 1000


@pytest.mark.slow
def test_a_seed_repeats_the_integers_in_another_process(serve, client):
    answers = []
    for _ in range(2):
        peer = client(serve("--seed", "42"))
        peer.sendall(b"100\n")
        answers.append(read_all(peer))
    assert answers[0] == answers[1]
    assert answers[0].count(b"\n") == 101


@pytest.mark.slow
def test_marks_hold_for_its_connections(serve, client):
    process = serve("chargen", "--high", "1K", "--low", "0")
    peer = client(process)
    read_line(peer)
    peer.close()
    process.terminate()
    assert 0 < highest_pending(process) < 64 * 1024


def highest_pending(process):
    _, output, _ = process.end()
    return int(re.search("highest pending ([0-9]+) bytes", output)[1])


APP = """
from minireactor import reactor
from minireactor.protocol import Factory, Protocol

class Greeter(Protocol):
    def connectionMade(self):
        assert self.transport.reactor is reactor
        self.transport.write(b"hello\\n")

    def dataReceived(self, data):
        raise RuntimeError(f"what is {data!r}?")

class Greeters(Factory):
    protocol = Greeter

greeters = Greeters()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["greeters", "Greeters", "Greeter"])
def test_an_app_of_the_users_is_served(name, serve, client, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    assert read_line(client(serve(f"app:{name}"))) == b"hello\n"


@pytest.mark.slow
def test_B3_an_exception_in_an_app_is_logged_and_ends_its_own_connection(serve, client, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    process = serve("app:Greeter")
    first, second = client(process), client(process)
    read_line(first)

    first.sendall(b"x")
    assert read_all(first) == b""

    assert read_line(second) == b"hello\n"
    process.terminate()
    status, _, errors = process.end()
    assert status == 0
    assert "RuntimeError: what is b'x'?" in errors


@pytest.mark.slow
def test_a_further_client_is_rejected_with_a_warning(serve, client):
    process = serve("echo", "--max-connections", "1")
    inside = client(process)
    inside.sendall(b"x")
    assert inside.recv(1) == b"x"

    assert read_all(client(process)) == b""

    assert "at the limit of 1 connections" in process.error_line()


@pytest.mark.slow
def test_an_idle_client_is_closed(serve, client):
    assert read_all(client(serve("--idle-timeout", "0.05"))) == QUESTION


@pytest.mark.slow
def test_a_stalled_client_is_aborted(serve, client):
    process = serve("-v", "--stall-timeout", "0.2")
    client(process).sendall(b"1000000000000000\n")
    assert process.line_with("connection lost").endswith("This side aborted the connection.")


@pytest.mark.slow
def test_verbose_prints_connections_pauses_and_resumes(serve, client):
    process = serve("-v")
    peer = client(process)
    address = "{}:{}".format(*peer.getsockname())
    assert process.line() == f"connection made from {address}"

    peer.sendall(b"100000\n")
    assert process.line() == f"pausing connection from {address}"
    read_all(peer)
    assert process.line() == f"resuming connection from {address}"

    last = process.line_with("lost")
    assert last == f"connection lost from {address}: The connection was closed in good order."


@pytest.mark.slow
def test_quiet_prints_nothing(command, tmp_path, closing):
    (tmp_path / "app.py").write_text(
        "import sys\n"
        "from minireactor import reactor\n"
        "from minireactor.serve.apps import Echo\n"
        "def show():\n"
        "    (port,) = reactor.getReaders()\n"
        "    print(port.getHost().port, file=sys.stderr, flush=True)\n"
        "reactor.callWhenRunning(show)\n"
    )
    process = command("serve", "app:Echo", "--port", "0", "-q")
    process.port = int(process.error_line())
    peer = closing(process.connect())
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"

    process.terminate()

    assert process.end() == (0, "", "")


@pytest.mark.slow
def test_the_server_goes_on_when_nobody_reads_its_output_any_more(serve, client):
    process = serve("echo", "-v")
    process.close_stdout()

    for _ in range(3):
        peer = client(process)
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        peer.close()

    process.terminate()
    assert process.end_without_output() == (0, "")


# Signals.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interrupt", "terminate"])
def test_a_signal_ends_an_idle_server_with_a_summary(name, serve, client):
    process = serve("echo")
    peer = client(process)
    peer.sendall(b"12345")
    assert peer.recv(5) == b"12345"

    getattr(process, name)()

    assert read_all(peer) == b""
    assert process.end() == (
        0,
        "minireactor: connections 1, bytes in 5, bytes out 5, pauses 0, highest pending 5 bytes\n",
        "",
    )


@pytest.mark.slow
def test_a_signal_lets_a_transfer_finish(serve, client):
    process = serve("-v", "--grace", "600")
    peer = client(process)
    peer.sendall(b"1000000\n")
    process.line_with("pausing")

    process.terminate()
    process.wait_until_it_refuses()

    assert read_all(peer).count(b"\r\n") == 1000001
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert "good order" in output


@pytest.mark.slow
def test_a_client_that_never_reads_is_aborted_after_the_grace(serve, client):
    process = serve("-v", "--grace", "0.1")
    peer = client(process)
    peer.sendall(b"1000000000000000\n")
    process.line_with("pausing")

    process.terminate()

    status, output, errors = process.end()
    assert (status, errors) == (1, "")
    assert "This side aborted the connection." in output
    assert output.endswith(", transfers aborted 1\n")
    with pytest.raises(ConnectionResetError):
        read_all(peer)


@pytest.mark.slow
def test_a_second_signal_aborts_at_once(serve, client):
    process = serve("-v", "--grace", "600")
    client(process).sendall(b"1000000000000000\n")
    process.line_with("pausing")

    process.interrupt()
    process.wait_until_it_refuses()
    process.interrupt()

    status, output, errors = process.end()
    assert (status, errors) == (1, "")
    assert "This side aborted the connection." in output
    assert output.endswith(", transfers aborted 1\n")


@pytest.mark.slow
def test_many_signals_are_no_more_than_two(serve, client):
    process = serve("-v", "--grace", "600")
    client(process).sendall(b"1000000000000000\n")
    process.line_with("pausing")

    process.interrupt()
    process.wait_until_it_refuses()
    for _ in range(50):
        process.interrupt()

    status, output, errors = process.end()
    assert (status, errors) == (1, "")
    assert output.endswith(", transfers aborted 1\n")


def test_a_signal_while_it_starts_is_an_end_without_a_traceback(command, tmp_path):
    (tmp_path / "app.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n"
    )
    status, output, errors = command("serve", "app:app").end()
    assert status != 0
    assert (output, errors) == ("", "")


@pytest.mark.slow
def test_an_app_that_stops_the_reactor_ends_the_server(serve, client, tmp_path):
    (tmp_path / "app.py").write_text(
        "from minireactor import reactor\n"
        "from minireactor.protocol import Protocol\n"
        "class Once(Protocol):\n"
        "    def connectionMade(self):\n"
        "        reactor.stop()\n"
    )
    process = serve("app:Once")
    client(process)
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert output.startswith("minireactor: connections 1,")


@pytest.fixture
def shell(tmp_path, closing):
    """shell(line) starts sh with `line`, in which {run} stands for our command."""

    class Shell(subprocess.Popen):
        def close(self):
            self.kill()
            self.communicate()

    def shell(line, **streams):
        run = shlex.join(["exec", sys.executable, "-m", "minireactor"])
        return closing(
            Shell(
                ["sh", "-c", line.format(run=run)],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": ROOT},
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
            )
        )

    return shell


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def connected(port):
    """Return a connected socket, as soon as a server listens on the port."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # between two attempts


def first_line(process):
    line = process.stdout.readline().decode()
    return line, int(re.search(r":(\d+)", line)[1])


@pytest.mark.slow
@pytest.mark.skipif(IS_PYPY, reason="it does not tell which signals its parent ignores")
@pytest.mark.parametrize("words", ["serve echo --port 0", "proxy 0 1", "demo --no-browser"])
@pytest.mark.parametrize("ignored, kept", [("INT", "TERM"), ("TERM", "INT")])
def test_a_signal_that_the_parent_ignores_stays_ignored(shell, words, ignored, kept):
    process = shell(f"trap '' {ignored}; {{run}} {words}")
    first_line(process)
    process.send_signal(getattr(signal, f"SIG{ignored}"))
    with open(f"/proc/{process.pid}/status") as status:
        mask = int(re.search(r"SigIgn:\s*(\w+)", status.read())[1], 16)
    assert mask >> (getattr(signal, f"SIG{ignored}") - 1) & 1
    process.send_signal(getattr(signal, f"SIG{kept}"))
    assert process.wait(PATIENCE) == 0


def test_a_program_that_calls_main_keeps_its_ignored_signals(capsys):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["serve", "--port", "x"]) == 2
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


# Its own surroundings.


@pytest.mark.slow
def test_standard_descriptors_that_are_closed_lead_nowhere(shell, tmp_path, closing):
    port = free_port()
    process = shell(f"{{run}} serve echo -v --port {port} 0<&- 1>&- 2>&-")
    peer = closing(connected(port))
    peer.sendall(b"x")
    assert peer.recv(10) == b"x"
    for number in range(3):
        assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull
    process.terminate()
    assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_the_soft_limit_of_descriptors_is_raised_and_the_first_line_says_for_how_many(shell):
    process = shell("ulimit -Sn 200; ulimit -Hn 300; {run} serve echo --port 0")
    line, _ = first_line(process)
    assert line.endswith(f", up to {300 - RESERVED_DESCRIPTORS} connections\n")
    with open(f"/proc/{process.pid}/limits") as limits:
        assert re.search(r"Max open files +300 +300 ", limits.read())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, most",
    [
        ("proxy 0 1", (300 - 32 - 75) // 2),
        ("proxy --copy 0 1", (300 - 32) // 2),
        ("serve --port 0 --max-connections 7", 7),
    ],
)
def test_the_first_line_says_what_is_the_least_of_the_limits(shell, words, most):
    line, _ = first_line(shell(f"ulimit -n 300; {{run}} {words}"))
    assert line.endswith(f", up to {most} connections\n")


@pytest.mark.parametrize("command", ["serve", "proxy"])
@pytest.mark.parametrize("descriptors", [10, 20, 32, 43, 64])
def test_a_small_limit_of_descriptors_still_leaves_room_for_clients(command, descriptors):
    options = types.SimpleNamespace(command=command, copy=False, max_connections=None)
    assert 1 <= max_connections(options, descriptors) < descriptors


class Limits:
    """A `resource` module whose system allows no limit above `real`."""

    RLIMIT_NOFILE, RLIM_INFINITY = 7, -1

    def __init__(self, soft, hard, real):
        self.soft, self.hard, self.real = soft, hard, real

    def getrlimit(self, which):
        return self.soft, self.hard

    def setrlimit(self, which, limits):
        soft, hard = limits
        if soft > self.real:
            raise ValueError("current limit exceeds maximum limit")
        assert hard == self.hard
        self.soft = soft


@pytest.mark.parametrize(
    "soft, hard, real, raised",
    [
        (256, 4096, 4096, 4096),
        (4096, 4096, 4096, 4096),
        (256, -1, 10_240, 10_240),  # macOS
        (256, -1, 1 << 30, 1 << 20),
        (1024, 1 << 30, 1 << 30, 1 << 20),  # some containers
        (256, -1, 100, 256),  # it cannot be raised at all
        (-1, -1, 10_240, -1),
    ],
)
def test_the_limit_is_raised_as_far_as_it_goes(monkeypatch, soft, hard, real, raised):
    limits = Limits(soft, hard, real)
    monkeypatch.setitem(sys.modules, "resource", limits)
    assert raise_descriptor_limit() == (MAX_DESCRIPTORS if raised < 0 else raised)
    assert limits.soft == raised


def test_where_there_are_no_limits_none_are_printed(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert raise_descriptor_limit() is None
    options = types.SimpleNamespace(command="serve", max_connections=None)
    assert max_connections(options, None) is None


# Nobody reads what it prints.


def full_pipe():
    """Return (reading end, writing end) of a pipe that takes no byte more."""
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    try:
        while True:
            os.write(ends[1], b"." * 4096)
    except BlockingIOError:
        os.set_blocking(ends[1], True)
        return ends


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_T2_a_pipe_that_nobody_reads_stops_neither_clients_nor_a_signal(
    shell, closing, tmp_path, stream
):
    (tmp_path / "app.py").write_text(
        "import os, sys\n"
        "from minireactor import reactor\n"
        "from minireactor.protocol import Protocol\n"
        "class Loud(Protocol):\n"
        "    def dataReceived(self, data):\n"
        "        self.transport.write(data)\n"
        "        print('x' * 100_000)\n"
        "        raise ValueError('x' * 100_000)\n"
    )
    port = free_port()
    reader, writer = full_pipe()
    try:
        # Either leads into the full pipe, and the other to us.
        process = shell(f"{{run}} serve app:Loud -v --port {port}", **{stream: writer})
        other = process.stderr if stream == "stdout" else process.stdout
        for _ in range(10):
            peer = closing(connected(port))
            peer.sendall(b"x")
            peer.recv(1)
        process.terminate()
        assert other.read()
        assert process.wait(PATIENCE) == 0
        assert os.get_blocking(writer)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_T2_a_full_disk_stops_nothing(shell, closing):
    port = free_port()
    with open("/dev/full", "w") as full:
        process = shell(f"{{run}} serve echo -v --port {port}", stdout=full)
    for _ in range(10):
        peer = closing(connected(port))
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert process.stderr.read() == b""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["halted", "hung up"])
def test_T2_a_terminal_that_takes_nothing_stops_nothing(shell, closing, how):
    termios = pytest.importorskip("termios")
    master, slave = os.openpty()
    process = shell("{run} serve echo --port 0 -v", stdout=slave, stderr=slave)
    try:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(master, 1)
        port = int(re.search(rb":(\d+)", line)[1])
        if how == "halted":
            termios.tcflow(slave, termios.TCOOFF)
        else:
            os.close(master)
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as peer:
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        os.close(slave)
        if how == "halted":
            os.close(master)


@pytest.mark.slow
def test_T2_all_lines_and_the_totals_come_out_in_order_for_a_slow_reader(serve, client):
    process = serve("echo", "-v")
    for _ in range(100):
        peer = client(process)
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        peer.close()
    process.terminate()
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    *lines, last = output.splitlines()
    kinds = [line.partition(" from")[0] for line in lines]
    assert kinds.count("connection made") == kinds.count("connection lost") == 100
    assert "dropped" not in output
    assert last.startswith("minireactor: connections 100,")


# Escapes.


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "ev\x1b[31mil\rx"],
        ["ev\x1b[31mil\rx"],
        ["serve", "--ev\x1b[31mil\rx"],
        ["serve", "--host", "ev\x1b[31mil\rx"],
        ["serve", "file", "ev\x1b[31mil\rx"],
        ["serve", "ev\x1b[31mil\rx:y"],
        ["proxy", "0", "ev\x1b[31mil\rx:1"],
        ["trace", "ev\x1b[31mil\rx"],
        ["replay", "ev\x1b[31mil\rx"],
        ["learn", "2", "--try", "ev\x1b[31mil\rx"],
    ],
)
def test_what_was_typed_is_quoted_with_its_escapes_visible(arguments, elsewhere, capsys):
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert "ev\\x1b[31mil\\rx" in errors
    assert errors.endswith("\n") and errors[:-1].isprintable()


@pytest.mark.slow
def test_the_name_of_a_file_is_quoted_with_its_escapes_visible(command):
    status, _, errors = command("serve", "--port", "0", "--record", "no/ev\x1b[31m\nx").end()
    assert status == 2
    assert errors.startswith("minireactor serve: --record no/ev\\x1b[31m\\nx: No such file")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_what_a_peer_has_sent_makes_no_line_of_the_log(serve, client, tmp_path):
    (tmp_path / "app.py").write_text(
        "from minireactor.protocol import Protocol\n"
        "class Quoting(Protocol):\n"
        "    def dataReceived(self, data):\n"
        "        raise ValueError(data.decode())\n"
    )
    process = serve("app:Quoting", "-v")
    peer = client(process)
    peer.sendall(b"\x1b[2J\rone\nWARNING: forged")
    assert read_all(peer) == b""
    assert process.line_with("lost").endswith("\\x1b[2J\\rone\\nWARNING: forged")
    process.terminate()
    status, output, errors = process.end()
    assert status == 0
    assert "\n  ValueError: \\x1b[2J\\rone\n  WARNING: forged\n" in errors
    assert not re.search("[\x1b\r]", output + errors)
