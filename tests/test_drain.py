"""The end of a server: /healthz, --drain-delay, and what each signal does."""

from __future__ import annotations

import re
import socket
import time

import pytest
from serve_support import Command, read_line
from support import PATIENCE

from minireactor.view.metrics import Metrics


def health(port):
    """Return the status and the body of /healthz, as a balancer without a Host asks for it."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b""
        while True:
            data = sock.recv(4096)
            if not data:
                break
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("is_draining", "answer"), [(False, (200, "ok\n")), (True, (503, "draining\n"))]
)
def test_health_says_whether_the_process_is_draining(is_draining, answer, wire):
    class Response:
        def send(self, text, status=200):
            answers.append((status, text))

    answers = []
    metrics = Metrics(wire.reactor, lambda: is_draining)
    metrics._show_health(None, Response())
    assert answers == [answer]


class Drained:
    """A server with --metrics, and its ports."""

    def __init__(self, *arguments, cwd):
        self.command = Command("serve", *arguments, "--port", "0", "--metrics", "0", cwd=cwd)
        self.command.listening()
        self.metrics = int(re.search(r":(\d+)/metrics", self.command.line())[1])
        self.close = self.command.close

    def wait_until_draining(self):
        deadline = time.monotonic() + PATIENCE
        while health(self.metrics) != (503, b"draining\n"):
            assert time.monotonic() < deadline, "/healthz still answers ok"

    def refuses(self):
        try:
            self.command.connect().close()
        except ConnectionRefusedError:
            return True
        return False


@pytest.fixture
def server(tmp_path, closing):
    """server(*arguments) starts a Drained server."""
    return lambda *arguments: closing(Drained(*arguments, cwd=tmp_path))


@pytest.fixture
def stuck(closing):
    """stuck(server) opens a connection to `serve random` with a transfer that does not end."""

    def stuck(server):
        sock = closing(server.command.connect())
        sock.sendall(b"1000000000000000\n")
        read_line(sock)
        read_line(sock)
        return sock

    return stuck


@pytest.mark.slow
def test_health_says_draining_until_the_last_connection_has_ended(server, stuck):
    draining = server("random", "--grace", "60")
    assert health(draining.metrics) == (200, b"ok\n")
    sock = stuck(draining)
    draining.command.terminate()
    draining.wait_until_draining()
    assert draining.refuses()
    sock.close()
    status, output, _ = draining.command.end()
    assert status == 0
    assert "transfers aborted" not in output


@pytest.mark.slow
def test_the_first_signal_delays_the_end_the_second_ends_and_the_third_aborts(server, stuck):
    draining = server("random", "--drain-delay", "60", "--grace", "60")
    draining.command.terminate()
    assert draining.command.line() == "minireactor: draining: clients are accepted for 60 s more"
    draining.wait_until_draining()
    stuck(draining)
    draining.command.interrupt()
    draining.command.wait_until_it_refuses()
    assert health(draining.metrics) == (503, b"draining\n")
    draining.command.terminate()
    status, output, _ = draining.command.end()
    assert status == 1
    assert output.endswith(", transfers aborted 1\n")


@pytest.mark.slow
def test_a_server_without_clients_ends_right_after_the_delay(server):
    draining = server("echo", "--drain-delay", "0.05")
    draining.command.terminate()
    assert draining.command.end()[0] == 0
