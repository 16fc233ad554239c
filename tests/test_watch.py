"""--watch in a real terminal, which tmux provides."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

import pytest
from serve_support import ROOT, Command, FakeTime, read_all
from support import IS_PYPY, PATIENCE

from minireactor import Reactor
from minireactor.view.terminal.screen import INTERVAL
from minireactor.view.terminal.watch import Lines, open_watch

tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Window:
    """A terminal with a shell, in a tmux server of its own."""

    def __init__(self, folder, columns, lines):
        # The path of a socket must be short.
        self._folder = tempfile.mkdtemp(prefix="tmux")
        self._tmux = ["tmux", "-u", "-S", f"{self._folder}/socket", "-f", os.devnull]
        environment = {**os.environ, "PYTHONPATH": ROOT, "LC_ALL": "C.UTF-8"}
        for name in ("NO_COLOR", "TMUX", "COLUMNS", "LINES", "ENV"):
            environment.pop(name, None)
        size = ["-x", str(columns), "-y", str(lines)]
        subprocess.run(
            [*self._tmux, "new-session", "-d", *size, "-c", str(folder), "sh -i"],
            check=True,
            env=environment,
        )
        self.port = None
        try:
            self.run("PS1='$ '; clear")
            self.shows(r"\A\$ *\Z")
        except BaseException:
            self.close()
            raise

    def _ask(self, *arguments):
        done = subprocess.run([*self._tmux, *arguments], check=True, capture_output=True)
        return done.stdout.decode()

    def text(self, colours=False):
        """Return the text on the screen."""
        return self._ask("capture-pane", "-p", *(["-e"] if colours else []))

    def lines(self):
        return self.text().rstrip("\n").split("\n")

    def is_on_its_own_screen(self):
        return self._ask("display-message", "-p", "#{alternate_on} #{cursor_flag}").split()

    def press(self, *keys):
        self._ask("send-keys", *keys)

    def resize(self, columns, lines):
        self._ask("resize-window", "-x", str(columns), "-y", str(lines))

    def run(self, command):
        self.press("-l", command)
        self.press("Enter")

    def until(self, condition, what="the condition"):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in time; the screen:\n{self.text()}"
            time.sleep(0.02)  # between two checks of the condition

    def shows(self, pattern):
        """Wait until the screen matches `pattern`; return the match."""
        found = []

        def is_shown():
            text = self.text().rstrip("\n")
            found[:] = filter(None, [re.search(pattern, text, re.MULTILINE)])
            return found

        self.until(is_shown, f"/{pattern}/")
        return found[0]

    def serve(self, *arguments):
        """Start `serve --watch` on a free port, and wait for its picture."""
        words = " ".join(["serve", "--watch", "--port", "0", *arguments])
        self.run(f"{sys.executable} -m minireactor {words}; echo status $?")
        self.port = int(self.shows(r"^minireactor: .* on 127.0.0.1:(\d+) +.*lag")[1])

    def process(self):
        """Return the process id of the server."""
        shell = self._ask("display-message", "-p", "#{pane_pid}").strip()
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", shell], capture_output=True)
        return int(children.stdout.split()[0])

    def settings(self):
        """Return the settings of the terminal, from stty; needs the shell's prompt."""
        marker = uuid.uuid4().hex[:8]
        self.run(f"clear; stty -a; echo {marker[:4]}''{marker[4:]}")
        self.shows(f"^{marker}")
        # Without the size and the command itself.
        return [line for line in self.lines() if ";" in line and "rows" not in line]

    def close(self):
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)
        shutil.rmtree(self._folder)


@pytest.fixture
def window(tmp_path, closing):
    return lambda columns=100, lines=24: closing(Window(tmp_path, columns, lines))


@pytest.fixture
def connect(closing):
    def connect(to, request=b"", **options):
        client = closing(socket.socket())
        for name, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", to.port))
        client.sendall(request)
        return client

    return connect


# Pictures.


@pytest.mark.slow
@tmux
def test_a_learner_watches_a_buffer_fill_cross_its_mark_pause_and_drain(window, connect):
    term = window()
    term.serve()
    term.shows(f"no connection yet; try: nc 127.0.0.1 {term.port}")
    client = connect(term, b"1000000\r\n", SO_RCVBUF=65536)
    number = client.getsockname()[1]
    term.shows(rf"^1  127.0.0.1:{number} +paused +\[█+┊.*│.*\] +[0-9.]+K +[0-9.]+[KM] .* [1-9]\d*$")
    assert read_all(client).count(b"\n") == 1_000_001
    term.shows(rf"^1  127.0.0.1:{number} +closed +\[ +┊ +│ +\] +0 .* [1-9]\d*$")
    term.shows(r"^open 0 of 1  paused 0  in 9  out [0-9.]+M ")


@pytest.mark.slow
@tmux
def test_the_proxy_shows_both_ends_with_their_labels(window, connect, closing):
    with socket.create_server(("127.0.0.1", 0)) as target:
        number = target.getsockname()[1]
        term = window(140)
        term.run(f"{sys.executable} -m minireactor proxy --watch 0 127.0.0.1:{number}")
        title = rf"^minireactor: proxy listening on 127.0.0.1:(\d+), to 127.0.0.1:{number} "
        term.port = int(term.shows(title)[1])
        client = connect(term)
        accepted = closing(target.accept()[0])
        own = client.getsockname()[1]
        term.shows(rf"127.0.0.1:{own} +-> 127.0.0.1:{number} +flowing")
        term.shows(rf"127.0.0.1:{number} +<- 127.0.0.1:{own} +flowing")
        assert accepted.fileno() > 0


@pytest.mark.slow
@tmux
def test_printed_and_logged_lines_are_at_the_bottom_and_errors_remain_after_the_end(
    window, connect, tmp_path
):
    (tmp_path / "app.py").write_text(
        "from minireactor.protocol import Protocol\n"
        "class Chatty(Protocol):\n"
        "    def dataReceived(self, data):\n"
        "        print('got', data.decode())\n"
        "        raise ValueError('on purpose')\n"
    )
    term = window(100, 120)
    term.serve("app:Chatty", "-v")
    client = connect(term, b"hello")
    term.shows("^connection made from 127.0.0.1:")
    term.shows("^got hello$")
    term.shows("^  ValueError: on purpose$")
    assert client.recv(1) == b""
    term.press("q")
    text = term.shows(r"(?s)listening on.*\$")[0]
    assert "ValueError: on purpose" in text
    assert "got hello" not in text
    assert re.search("^status 0", text, re.MULTILINE)


# Keys.


@pytest.mark.slow
@tmux
def test_q_stops_the_program_and_restores_the_terminal(window):
    term = window()
    before = term.settings()
    term.serve()
    assert term.is_on_its_own_screen() == ["1", "0"]
    term.press("q")
    term.shows(r"^status 0")
    assert term.is_on_its_own_screen() == ["0", "1"]
    shown = [line for line in term.lines() if line.startswith("minireactor: ")]
    assert shown[0].startswith(f"minireactor: random listening on 127.0.0.1:{term.port}, up to ")
    assert shown[1].startswith("minireactor: connections 0, bytes in 0,")
    assert term.settings() == before


@pytest.mark.slow
@tmux
def test_q_waits_for_transfers_and_a_second_q_does_not(window, connect):
    term = window()
    term.serve("--grace", "1000")
    connect(term, b"10000000\r\n", SO_RCVBUF=65536)
    term.shows("paused")
    term.press("q")
    term.shows("^stopping: ")
    term.press("q")
    term.shows(r"aborted 1$")
    term.shows(r"^status 1")


@pytest.mark.slow
@tmux
def test_f_freezes_the_picture_and_s_changes_the_order(window, connect):
    term = window()
    term.serve("echo")
    first = connect(term)
    term.shows(f"^1  127.0.0.1:{first.getsockname()[1]}")
    term.press("s")
    term.shows("order: rate$")
    for _ in range(2):
        term.press("s")
    term.shows("order: newest$")
    second = connect(term)
    term.shows("(?s)\n2  127.0.0.1.*\n1  127.0.0.1")
    term.press("f")
    frozen = term.shows(r"(?s).*^FROZEN .*go on")[0]
    second.close()
    pictures = 3
    until = time.monotonic() + pictures * INTERVAL
    echoed = 0
    while time.monotonic() < until:
        first.sendall(b"hello")
        echoed += len(first.recv(10))
    term.press("Up")  # has no meaning, and must not be read as letters
    assert term.text().startswith(frozen)
    term.resize(90, 20)
    term.until(lambda: len(term.lines()) == 20, "a picture of the new size")
    term.shows("^FROZEN .*go on")
    assert re.search("^open 2 of 2  paused 0  in 0  out 0 ", term.text(), re.MULTILINE)
    term.press("f")
    term.shows("^open 1 of 2  paused 0  in [0-9.]+K? ")
    assert echoed


# Signals.


@pytest.mark.slow
@tmux
@pytest.mark.parametrize("name, status", [("INT", 0), ("TERM", 0), ("HUP", 0), ("QUIT", 131)])
def test_a_signal_restores_the_terminal(window, name, status):
    term = window()
    before = term.settings()
    term.serve()
    os.kill(term.process(), getattr(signal, f"SIG{name}"))
    term.shows(f"^status {status}")
    assert term.is_on_its_own_screen() == ["0", "1"]
    assert term.settings() == before


@pytest.mark.skipif(IS_PYPY, reason="PyPy does not report which signals its parent ignores")
@pytest.mark.slow
@tmux
def test_signals_that_the_parent_ignores_stay_ignored(window, connect):
    term = window()
    term.run("trap '' HUP TSTP QUIT TERM")
    term.serve("echo")
    for name in ("HUP", "TSTP", "QUIT", "TERM"):
        os.kill(term.process(), getattr(signal, f"SIG{name}"))
    connect(term)
    term.shows("^open 1 of 1 ")
    term.press("q")
    term.shows("^status 0")


@pytest.mark.slow
@tmux
def test_an_exception_that_ends_the_program_restores_the_terminal(window, connect, tmp_path):
    (tmp_path / "app.py").write_text(
        "from minireactor.protocol import Protocol\n"
        "class Fatal(Protocol):\n"
        "    def dataReceived(self, data):\n"
        "        raise SystemExit(3)\n"
    )
    term = window()
    before = term.settings()
    term.serve("app:Fatal")
    connect(term, b"x")
    term.shows(r"^status [1-9]")
    assert term.is_on_its_own_screen() == ["0", "1"]
    assert term.settings() == before


@pytest.mark.slow
@tmux
def test_ctrl_z_restores_the_terminal_and_fg_takes_it_again(window, connect):
    term = window()
    before = term.settings()
    term.serve("echo")
    for _ in range(2):
        term.press("C-z")
        term.until(lambda: term.is_on_its_own_screen() == ["0", "1"], "the shell's screen")
        assert term.settings() == before
        client = connect(term, b"hello")
        term.run("fg")
        term.shows("^open [12] of [12] ")
        assert term.is_on_its_own_screen() == ["1", "0"]
        assert client.recv(5) == b"hello"
    term.press("q")
    term.shows(r"^minireactor: connections 2, .*\n\$\Z")
    assert term.settings() == before


@pytest.mark.slow
@tmux
def test_after_SIGSTOP_and_bg_the_terminal_is_left_alone(window):
    term = window()
    before = term.settings()
    term.serve("echo")
    os.kill(term.process(), signal.SIGSTOP)
    term.shows("Stopped")
    pictures = 3
    term.run(f"bg; clear; sleep {pictures * INTERVAL}; echo still here")
    term.shows("^still here")
    assert "minireactor: echo" not in term.text()
    term.run("fg")
    term.shows("^open 0 of 0 ")
    os.kill(term.process(), signal.SIGSTOP)
    term.shows("Stopped")
    term.run("stty echo icanon; fg")
    term.shows("^open 0 of 0 ")
    term.press("q")
    term.shows(r"\$\Z")
    assert term.settings() == before


@pytest.mark.slow
@tmux
def test_in_the_background_it_serves_and_leaves_the_terminal_alone(window, connect):
    term = window()
    term.run(f"{sys.executable} -m minireactor serve echo --watch --port 0 &")
    term.port = int(
        term.shows(r"minireactor: echo listening on 127.0.0.1:(\d+), up to \d+ connections$")[1]
    )
    client = connect(term, b"hello")
    assert client.recv(5) == b"hello"
    assert term.is_on_its_own_screen() == ["0", "1"]
    term.run("echo still here")
    term.shows("^still here")
    term.run("fg")
    term.shows("^open 1 of 1 ")
    term.press("C-z")
    term.until(lambda: term.is_on_its_own_screen() == ["0", "1"], "the shell's screen")
    term.run("bg")
    client.sendall(b"hello")
    assert client.recv(5) == b"hello"
    assert term.is_on_its_own_screen() == ["0", "1"]
    term.run("kill %1; wait; echo over")
    term.shows("^over")
    assert term.is_on_its_own_screen() == ["0", "1"]


# Other sizes, and terminals without colours.


@pytest.mark.slow
@tmux
def test_the_picture_follows_the_size_of_the_window(window, connect):
    term = window(120, 30)
    term.serve("echo")
    connect(term)
    assert "LAST" in term.shows("^# .*$")[0]
    term.resize(50, 12)
    term.until(lambda: "LAST" not in term.text() and len(term.lines()) == 12, "a smaller picture")
    term.shows("^PEER +STATE")
    assert max(map(len, term.lines())) <= 50
    term.resize(130, 35)
    term.until(lambda: "LAST" in term.text() and len(term.lines()) == 35, "a larger picture")


@pytest.mark.slow
@tmux
def test_the_picture_follows_the_window_even_if_the_shell_exports_a_size(window):
    term = window(100, 30)
    term.run("export COLUMNS=100 LINES=30")
    term.serve("echo")
    term.resize(60, 12)
    term.until(lambda: len(term.lines()) == 12, "a smaller picture")
    term.resize(90, 20)
    term.until(lambda: len(term.lines()) == 20, "a larger picture")


@pytest.mark.slow
@tmux
@pytest.mark.parametrize("columns, lines", [(40, 6), (20, 4), (12, 2)])
def test_a_very_small_window_shows_what_fits(window, columns, lines):
    term = window(columns, lines)
    term.run(f"{sys.executable} -m minireactor serve --watch --port 0")
    term.shows("^open 0 of")
    assert len(term.lines()) <= lines
    term.press("q")
    term.until(lambda: term.is_on_its_own_screen() == ["0", "1"], "the end")


@pytest.mark.slow
@tmux
def test_there_are_colours_unless_NO_COLOR_is_set(window, connect):
    plain, coloured = window(), window()
    plain.run("export NO_COLOR=1")
    for term in (plain, coloured):
        term.serve("echo")
        connect(term)
        term.shows("^1  127.0.0.1")
    assert "\x1b[" not in plain.text(colours=True)
    assert "\x1b[32m" in coloured.text(colours=True)


@pytest.mark.slow
@tmux
def test_an_ascii_terminal_gets_only_ascii(window, connect):
    term = window()
    term.run("export PYTHONIOENCODING=ascii")
    term.serve("echo")
    connect(term)
    term.shows(r"^1  127.0.0.1.*\[ +: +\| +\]")
    assert term.text().isascii()


# No terminal.


@pytest.fixture
def command(tmp_path, closing):
    return lambda *arguments: closing(Command(*arguments, cwd=tmp_path))


@pytest.mark.slow
def test_in_a_pipe_a_line_is_printed_each_second(command, connect):
    process = command("serve", "--watch", "--port", "0")
    process.listening()
    client = connect(process, b"1\r\n")
    client.shutdown(socket.SHUT_WR)
    read_all(client)
    line = process.line_with("open 0 of 1")
    assert re.fullmatch(
        r"\d+ s: open 0 of 1, paused 0, in 3, out \d+ \(\S+/s\), pauses 0, "
        r"highest pending \d+, lag \S+ ms",
        line,
    )
    process.interrupt()
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert "\x1b" not in output
    assert output.splitlines()[-1].startswith("minireactor: connections 1,")


@pytest.mark.slow
def test_a_reader_that_closes_its_pipe_does_not_end_the_server(command, connect):
    process = command("serve", "echo", "--watch", "--port", "0")
    process.listening()
    process.line_with("1 s: ")
    process.close_stdout()
    client = connect(process, b"hello")
    assert client.recv(5) == b"hello"
    process.terminate()
    assert process.end_without_output() == (0, "")


def test_a_broken_pipe_ends_the_lines_and_their_monitor(monkeypatch):
    class Broken:
        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError

        def isatty(self):
            return False

    clock = FakeTime()
    reactor = Reactor(seconds=clock)
    monkeypatch.setattr(sys, "stdout", Broken())
    Lines(reactor)
    clock.advance(1.0)
    reactor.iterate()
    assert reactor.observers == ()
    reactor.close()


def test_close_ends_the_lines_and_their_monitor(reactor, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    watch = open_watch(reactor, "title", on_quit=reactor.stop)
    assert isinstance(watch, Lines)
    watch.close()
    watch.close()
    assert reactor.observers == ()
    assert not reactor._timers.timeout(reactor.seconds())
