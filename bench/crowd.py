"""Measure what many idle connections cost a proxy while it is watched, or when it ends them.

    python -m bench.crowd [CONNECTIONS] [SCENARIO ...]

For each scenario, a proxy in a process of its own joins that many clients to a target. Its CPU
time is then measured for ten seconds, or until all connections have ended. The figures are the
share of one processor and the longest slice: the work of the loop between two polls. Both are CPU
time, so other programs on the machine do not count.

The proxy needs two descriptors for each client.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import Any, Callable

from minireactor import Reactor
from minireactor.core.poller import default_poller
from minireactor.proxy.relay import Relay
from minireactor.view.metrics import Metrics
from minireactor.view.record import Recorder
from minireactor.view.terminal.watch import Lines
from minireactor.view.web.dashboard import Dashboard

CONNECTIONS = 9900
BATCH = 100  # clients that connect at a time: they fit into the listening queue
SETTLE_SECONDS = 2.0  # after the last client has connected
MEASURE_SECONDS = 10.0
SCENARIOS = (
    "idle",
    "timeouts",
    "record",
    "metrics",
    "watch",
    "dashboard",
    "open-view",
    "mass-idle-close",
    "stop",
    "abort",
)


class Meter:
    """A poller that also measures the CPU time between its polls."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.watch = poller.watch
        self.forget = poller.forget
        self.close = poller.close
        self._began = time.thread_time()
        self.longest = 0.0

    def poll(self, timeout: float, *limits: Any) -> Any:
        self.longest = max(self.longest, time.thread_time() - self._began)
        ready = self._poller.poll(timeout, *limits)
        self._began = time.thread_time()
        return ready


class Proxy:
    """The proxy of one scenario: prints its port, and in the end its figures as JSON."""

    def __init__(self, scenario: str, count: int, target: int) -> None:
        self.scenario = scenario
        self.count = count
        self.meter = Meter(default_poller())
        self.reactor = Reactor(self.meter)
        limits: dict[str, Any] = {}
        if scenario == "timeouts":
            limits = {"idle_timeout": 60.0, "stall_timeout": 4.0}  # checked each second
        elif scenario == "mass-idle-close":
            limits = {"idle_timeout": 12.0}
        self.relay = Relay(self.reactor, [("127.0.0.1", target)], **limits)
        self.views = ExitStack()
        self.began = self.cpu = 0.0
        print(self.relay.listen("127.0.0.1", 0).port, flush=True)
        self.reactor.callLater(0.1, self._wait)

    def _wait(self) -> None:
        joined = sum(1 for proxy in self.relay._proxies.values() if proxy.target is not None)
        if joined < 2 * self.count:
            self.reactor.callLater(0.2, self._wait)
        else:
            self.reactor.callLater(SETTLE_SECONDS, self._prepare)

    def _prepare(self) -> None:
        if self.scenario != "open-view":
            self._open_view()
        self.reactor.callLater(0.5, self._begin)

    def _open_view(self) -> None:
        folder = tempfile.mkdtemp()
        if self.scenario == "record":
            path = os.path.join(folder, "recording.jsonl")
            self.views.callback(Recorder(self.reactor, path, label=self.relay.label).close)
        elif self.scenario == "metrics":
            metrics = Metrics(self.reactor)
            self.views.callback(metrics.close)
            self._ask(metrics.listen("127.0.0.1", 0).getHost().port, "/metrics", repeat=True)
        elif self.scenario in ("watch", "open-view"):
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            self.views.callback(Lines(self.reactor, self.relay.label).close)
        elif self.scenario == "dashboard":
            page = Dashboard(self.reactor, "", label=self.relay.label)
            self.views.callback(page.close)
            page.listen(self.reactor, "127.0.0.1", 0)
            port = int(page.url.partition("/#")[0].rpartition(":")[2])
            self._ask(port, f"/events?token={page.token}", repeat=False)

    def _ask(self, port: int, path: str, repeat: bool) -> None:
        """Request `path` once, or once a second, from a process of its own."""
        code = (
            "import socket, sys, time\n"
            "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "host = f'Host: localhost:{sys.argv[1]}'\n"
            "request = f'GET {sys.argv[2]} HTTP/1.1\\r\\n{host}\\r\\n\\r\\n'\n"
            "while True:\n"
            "    s.sendall(request.encode())\n"
            "    if sys.argv[3] == 'True': time.sleep(1); s.recv(1 << 20)\n"
            "    else:\n"
            "        while s.recv(1 << 20): pass\n"
        )
        asker = subprocess.Popen([sys.executable, "-c", code, str(port), path, str(repeat)])
        self.views.callback(asker.wait)
        self.views.callback(asker.kill)

    def _begin(self) -> None:
        self.began, self.cpu = time.monotonic(), time.process_time()
        self.meter.longest = 0.0
        self.meter._began = time.thread_time()
        if self.scenario == "open-view":
            self._open_view()
        elif self.scenario == "stop":
            self.relay.stop(0)
        elif self.scenario == "abort":
            self.relay.abort()
        if self.scenario in ("mass-idle-close", "stop", "abort"):
            self._wait_for_the_end()
        else:
            self.reactor.callLater(MEASURE_SECONDS, self._report)

    def _wait_for_the_end(self) -> None:
        if self.relay.connections:
            self.reactor.callLater(0.1, self._wait_for_the_end)
        else:
            self.reactor.callLater(0, self._report)  # later: this slice may be the longest

    def _report(self) -> None:
        seconds, cpu = time.monotonic() - self.began, time.process_time() - self.cpu
        result = {"slice": self.meter.longest, "seconds": seconds, "cpu": cpu}
        print(json.dumps(result), file=sys.__stdout__, flush=True)
        self.views.close()
        os._exit(0)  # closing each connection in order is not part of the figures


async def _target() -> None:
    clients: list[Any] = []  # keeps the connections open
    server = await asyncio.start_server(
        lambda reader, writer: clients.append(writer), "127.0.0.1", 0, backlog=1000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(3600)


def _clients(port: int, count: int) -> None:
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        clients.append(client)
        if len(clients) % BATCH == 0:
            time.sleep(0.02)
    sys.stdin.readline()


def _child(stack: ExitStack, *arguments: Any) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.crowd", "--part", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.enter_context(child)  # closes the pipes, and waits
    stack.callback(child.kill)
    return child


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def measure(scenario: str, count: int) -> dict[str, float]:
    """Run one scenario; return "slice", "seconds" and "cpu", each in seconds."""
    with ExitStack() as stack:
        target = int(_line(_child(stack, "target")))
        proxy = _child(stack, "proxy", scenario, count, target)
        _child(stack, "clients", int(_line(proxy)), count)
        found: dict[str, float] = json.loads(_line(proxy))
        return found


def _part(name: str, *arguments: str) -> None:
    raise_limit()
    if name == "target":
        asyncio.run(_target())
    elif name == "clients":
        _clients(*map(int, arguments))
    else:
        scenario, count, target = arguments
        Proxy(scenario, int(count), int(target)).reactor.run()


def raise_limit() -> None:
    """Raise this process's limit of descriptors as far as the system allows."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(say: Callable[[str], object] = print) -> None:
    if sys.argv[1:2] == ["--part"]:
        _part(*sys.argv[2:])
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS
    say(f"{count} clients of a proxy        longest slice      CPU   seconds")
    for scenario in sys.argv[2:] or SCENARIOS:
        found = measure(scenario, count)
        share = found["cpu"] / found["seconds"]
        say(f"{scenario:28}{found['slice'] * 1000:12.1f} ms {share:8.1%} {found['seconds']:9.1f}")


if __name__ == "__main__":
    main()
