"""Counters of all connections for Prometheus: `GET /metrics`, in Prometheus' text format.

    Metrics(reactor).listen("127.0.0.1", 9100)

`GET /healthz` answers 200 with "ok", or 503 with "draining" once the process is about to end. A
balancer in front of several processes then sends no more clients.

There is no series for a single connection: each client would leave its series behind for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from minireactor import __version__
from minireactor.view.monitor import open_monitor
from minireactor.view.web.http import Site

if TYPE_CHECKING:
    import socket

    from minireactor.internet import Reactor
    from minireactor.transports.port import Port
    from minireactor.view.web.http import Response
    from minireactor.view.web.request import Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _total(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda sample: sample["totals"][name]


def _pending(sample: dict[str, Any]) -> int:
    rest = sample["rest"]["pending"] if sample["rest"] else 0
    return int(rest + sum(row["pending"] for row in sample["connections"]))


# (name and labels, type, help, function from a sample to the value)
METRICS: tuple[tuple[str, str, str, Callable[[dict[str, Any]], Any]], ...] = (
    (f'info{{version="{__version__}"}}', "gauge", "Always 1.", lambda sample: 1),
    ("connections_total", "counter", "Connections made or accepted.", _total("connections")),
    ("connections_open", "gauge", "Connections that are open.", _total("open")),
    ("received_bytes_total", "counter", "Bytes received from the kernel.", _total("in")),
    ("sent_bytes_total", "counter", "Bytes accepted by the kernel.", _total("out")),
    ("pending_bytes", "gauge", "Bytes written that the kernel has not accepted yet.", _pending),
    (
        "highest_pending_bytes",
        "gauge",
        "Highest number of bytes pending for one connection.",
        _total("highest_pending"),
    ),
    ("pauses_total", "counter", "Pauses of producers.", _total("pauses")),
    ("paused_seconds_total", "counter", "Duration of all pauses.", _total("paused")),
    ("paused_producers", "gauge", "Producers that are paused.", _total("paused_now")),
    (
        "loop_lag_seconds",
        "gauge",
        "Longest delay of a timer since the last scrape.",
        lambda sample: sample["lag"],
    ),
    ("workers", "gauge", "Processes that serve.", lambda sample: sample.get("workers")),
    (
        "resident_memory_bytes",
        "gauge",
        "Resident memory of the process.",
        lambda sample: sample["memory"],
    ),
)


# (name, type, help, function from a target's row to the value)
TARGET_METRICS: tuple[tuple[str, str, str, Callable[[dict[str, Any]], Any]], ...] = (
    (
        "target_up",
        "gauge",
        "1 if clients are connected to the target, 0 if it is down or draining.",
        lambda row: int(row["state"] == "up"),
    ),
    ("target_clients", "gauge", "Clients joined to the target.", lambda row: row["clients"]),
    (
        "target_failures_total",
        "counter",
        "Attempts to connect that have failed, of clients and of probes.",
        lambda row: row["failures"],
    ),
    (
        "target_connect_seconds",
        "gauge",
        "Duration of the last attempt to connect that succeeded.",
        lambda row: row["connect"],
    ),
)


def exposition(sample: dict[str, Any]) -> str:
    """Return a sample in the text format, without the metrics that this system does not know."""
    lines = []
    for name, kind, what, value_in in METRICS:
        name, _, labels = name.partition("{")
        lines += _family(name, kind, what, [(labels and f"{{{labels}", value_in(sample))])
    rejected = sample["totals"].get("rejected", {})
    what = "Clients closed at once, by the option that did not allow them."
    counts = [(_label("option", option), rejected[option]) for option in sorted(rejected)]
    lines += _family("rejected_total", "counter", what, counts)
    rows = sample.get("targets", [])
    for name, kind, what, value_in in TARGET_METRICS:
        values = [(_label("target", row["target"]), value_in(row)) for row in rows]
        lines += _family(name, kind, what, values)
    return "\n".join([*lines, ""])


def _family(name: str, kind: str, what: str, values: list[tuple[str, Any]]) -> list[str]:
    """Return the lines of a metric, with its values by label; none without a known value."""
    name = f"minireactor_{name}"
    lines = [f"{name}{label} {value}" for label, value in values if value is not None]
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *lines] if lines else []


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{{name}="{escaped}"}}'


class Metrics:
    """Serves the figures of its own monitor, for Prometheus: listen()* close()

    is_draining: returns whether the process is about to end."""

    def __init__(self, reactor: Reactor, is_draining: Callable[[], bool] = lambda: False) -> None:
        self._monitor = open_monitor(reactor, limit=0)
        self._reactor = reactor
        self._site = Site()
        self._site.add("GET", "/metrics", self._scrape)
        self._site.add("GET", "/healthz", self._show_health)
        self._site.add("GET", "/", self._point_to_metrics)
        self._is_draining = is_draining

    def listen(self, host: str, port: int, sockets: list[socket.socket] | None = None) -> Port:
        """Start to serve; return the port. Raises CannotListenError. See http.Site.listen()."""
        return self._site.listen(self._reactor, host, port, sockets)

    def close(self) -> None:
        """Stop listening and counting. Idempotent; allowed after a failed listen()."""
        self._site.close()
        self._monitor.close()

    def _scrape(self, request: Request, response: Response) -> None:
        # Examining 20,000 connections takes some milliseconds: too long for one loop iteration.
        self._monitor.sample_soon(lambda sample: response.send(exposition(sample), CONTENT_TYPE))

    def _show_health(self, request: Request, response: Response) -> None:
        if self._is_draining():
            response.send("draining\n", status=503)
        else:
            response.send("ok\n")

    def _point_to_metrics(self, request: Request, response: Response) -> None:
        response.send("minireactor: see /metrics and /healthz\n")
