"""The terminal: raw mode, keys, pictures, and that it is restored."""

from __future__ import annotations

import logging
import os
import struct
import sys
from collections import deque

import pytest
from support import pump

from minireactor import Reactor
from minireactor.view.terminal import terminal
from minireactor.view.terminal.terminal import Capture, LineStream, Terminal, find_terminal

termios = pytest.importorskip("termios")
fcntl = pytest.importorskip("fcntl")


class Pty:
    """A pseudo-terminal: the test has its other end."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self.name = os.ttyname(self.slave)
        self.keys = []
        self.screen = b""

    def open(self, reactor):
        fd = os.open(self.name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        return Terminal(reactor, fd, self.keys.append)

    def settings(self):
        return termios.tcgetattr(self.slave)

    def read(self):
        """Return all that has been written to the terminal so far."""
        try:
            while True:
                self.screen += os.read(self.master, 65536)
        except OSError:
            pass
        return self.screen

    def hang_up(self):
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = None

    def close(self):
        if self.master is not None:
            self.hang_up()


@pytest.fixture
def pty(closing):
    return closing(Pty())


@pytest.fixture
def term(reactor, pty, closing):
    return closing(pty.open(reactor))


# The terminal.


def test_after_enter_each_key_arrives_at_once_and_is_not_echoed(term, pty, reactor):
    before = pty.settings()
    term.enter()
    assert term.entered
    changed = before[3] & ~pty.settings()[3]
    assert changed == termios.ICANON | termios.ECHO
    os.write(pty.master, b"aB ")
    pump(reactor, lambda: pty.keys == ["a", "B", " "])
    assert b"aB" not in pty.read()


def test_escape_sequences_of_keys_are_ignored(term, pty, reactor):
    term.enter()
    os.write(pty.master, b"\x1b[A\x1bOQ\x1b[15~\x1bqx")
    pump(reactor, lambda: "x" in pty.keys)
    assert pty.keys == ["x"]


def test_leave_restores_screen_and_settings(term, pty, reactor):
    before = pty.settings()
    term.enter()
    term.show(["one"])
    term.leave()
    term.leave()
    assert pty.settings() == before
    assert pty.read().endswith(b"\x1b[?1049l")
    assert pty.read().count(b"\x1b[?1049l") == 1
    assert reactor.getReaders() == []
    assert not term.entered


def test_leave_after_forget_restores_the_settings_before_the_first_enter(term, pty):
    before = pty.settings()
    term.enter()
    term.enter()
    term.forget()
    assert not term.entered
    term.enter()
    term.leave()
    assert pty.settings() == before


def test_leave_restores_the_settings_before_the_latest_enter(term, pty):
    term.enter()
    term.leave()
    changed = pty.settings()
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(pty.slave, termios.TCSANOW, changed)
    term.enter()
    term.leave()
    assert pty.settings() == changed


def test_show_writes_each_line_at_its_place(term, pty):
    term.enter()
    pty.read()
    pty.screen = b""
    term.show(["one", "", "three ▄"])
    assert pty.read() == "\x1b[1;1H\x1b[2Kone\x1b[2;1H\x1b[2K\x1b[3;1H\x1b[2Kthree ▄".encode()


def test_show_before_enter_writes_nothing(term, pty):
    term.show(["one"])
    assert pty.read() == b""


def test_a_full_terminal_does_not_block_and_gets_a_later_picture(term, pty, reactor):
    term.enter()
    for number in range(2000):
        term.show([f"picture {number} " * 20])
    assert reactor.getWriters() == [term]
    shown = set()

    def read_on():
        pty.screen = pty.screen[-1000:]
        pty.read()
        shown.update(part.split()[0] for part in pty.screen.split(b"picture ")[1:-1])
        return not reactor.getWriters()

    pump(reactor, read_on)
    term.show(["the latest"])
    pump(reactor, lambda: b"the latest" in pty.read())
    assert 0 < len(shown) < 2000


def test_leave_ends_a_picture_that_was_cut_off(term, pty, reactor):
    term.enter()
    while not reactor.getWriters():
        term.show(["x" * 1000])
    pty.read()
    term.leave()
    assert pty.read().endswith(b"\x18\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert reactor.getWriters() == []


def test_leave_does_not_wait_for_a_full_terminal(term, pty, reactor):
    before = pty.settings()
    term.enter()
    for number in range(2000):
        term.show([f"picture {number} " * 20])
    assert reactor.getWriters() == [term]
    term.leave()
    assert pty.settings() == before
    pump(reactor, lambda: pty.read().endswith(b"\x1b[?1049l"))
    os.set_blocking(pty.slave, False)
    assert os.write(pty.slave, b"later output of the program") > 0


def test_leave_does_not_wait_for_a_terminal_halted_with_ctrl_s(term, pty, reactor):
    term.enter()
    termios.tcflow(pty.slave, termios.TCOOFF)
    term.show(["a picture"])
    term.leave()
    pump(reactor, lambda: pty.read().endswith(b"\x1b[?1049l"))


def test_a_terminal_that_hangs_up_is_removed_from_the_reactor(term, pty, reactor):
    term.enter()
    pty.hang_up()
    pump(reactor, lambda: not term.entered)
    assert reactor.getReaders() == []
    assert not term.is_foreground()
    term.enter()
    term.show(["nothing"])
    term.close()
    assert not term.entered


def test_the_end_of_the_reactor_restores_the_terminal(pty):
    own = Reactor()
    before = pty.settings()
    term = pty.open(own)
    own.callWhenRunning(term.enter)
    own.callLater(0, own.stop)
    own.run(installSignalHandlers=False)
    assert pty.settings() == before
    assert pty.read().endswith(b"\x1b[?1049l")
    term.close()


def test_a_terminal_without_job_control_may_be_used(term):
    assert term.is_foreground()


def test_the_terminals_size_takes_precedence_over_the_environment(term, pty, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    fcntl.ioctl(pty.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    assert term.size() == (100, 30)


def test_a_terminal_without_a_size_has_the_size_in_the_environment(term, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    assert term.size() == (20, 5)


# Finding it.


# Patched in the test itself, since pytest has streams of its own for each phase.
@pytest.fixture
def on_tty(pty, monkeypatch, closing):
    stream = closing(os.fdopen(pty.slave, "w", closefd=False))
    monkeypatch.setenv("TERM", "xterm")
    return lambda: monkeypatch.setattr(sys, "stdout", stream)


def test_find_terminal_opens_it_again_as_non_blocking(on_tty, pty):
    on_tty()
    fd = find_terminal()
    assert os.ttyname(fd) == pty.name
    assert not os.get_blocking(fd)
    assert os.get_blocking(pty.slave)
    os.close(fd)


@pytest.mark.parametrize("name", ["", "dumb", None])
def test_find_terminal_returns_None_for_a_terminal_that_cannot_draw(on_tty, monkeypatch, name):
    on_tty()
    if name is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", name)
    assert find_terminal() is None


def test_find_terminal_returns_None_for_a_file(monkeypatch, tmp_path, closing):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", closing((tmp_path / "out").open("w")))
    assert find_terminal() is None


def test_find_terminal_returns_None_without_standard_output(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", None)
    assert find_terminal() is None


# Output of the program meanwhile.


class Stream:
    encoding = "utf-8"

    def __init__(self, isatty=True):
        self.text = ""
        self._isatty = isatty

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self._isatty


def test_a_line_is_captured_when_it_is_complete():
    lines = deque()
    notes = LineStream(Stream(), lines)
    assert notes.write("one\ntw") == 6
    assert list(lines) == ["one"]
    print("o\tand", "a half \r", file=notes, flush=True)
    assert list(lines) == ["one", "two     and a half"]
    assert notes.encoding == "utf-8"
    assert not notes.isatty()


@pytest.fixture
def streams(monkeypatch):
    """streams() makes sys.stdout and sys.stderr terminals, and returns both."""

    def streams():
        out, err = Stream(), Stream()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return streams


def test_printed_lines_are_captured_and_close_prints_the_errors(streams):
    out, err = streams()
    capture = Capture()
    capture.open()
    print("output")
    print("error", file=sys.stderr)
    assert (out.text, err.text) == ("", "")
    assert list(capture.notes) == ["output", "error"]
    capture.close()
    capture.close()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert (out.text, err.text) == ("", "error\n")


def test_close_prints_errors_with_visible_escapes(streams):
    _, err = streams()
    capture = Capture()
    capture.open()
    print("\x1b[2J\rforged", file=sys.stderr)
    capture.close()
    assert err.text == "\\x1b[2J\\rforged\n"


def test_standard_error_that_is_no_terminal_is_not_captured(streams, monkeypatch):
    streams()
    err = Stream(isatty=False)
    monkeypatch.setattr(sys, "stderr", err)
    capture = Capture()
    capture.open()
    print("error", file=sys.stderr)
    assert err.text == "error\n"
    assert list(capture.notes) == []
    capture.close()


def test_log_records_are_captured_too(streams):
    out, err = streams()
    handler = logging.StreamHandler(err)
    logger = logging.getLogger("somebody.else")
    logger.addHandler(handler)
    capture = Capture()
    capture.open()
    try:
        logger.error("went wrong")
        assert list(capture.notes) == ["went wrong"]
        assert err.text == ""
        capture.close()
        logger.error("again")
    finally:
        logger.removeHandler(handler)
    assert err.text == "went wrong\nagain\n"


def test_only_the_last_MAX_NOTES_lines_are_kept(streams):
    _, err = streams()
    capture = Capture()
    capture.open()
    for number in range(1000):
        print(number, file=sys.stderr)
    capture.close()
    kept = err.text.split()
    assert len(capture.notes) == len(kept) == terminal.MAX_NOTES
    assert kept[-1] == "999"
