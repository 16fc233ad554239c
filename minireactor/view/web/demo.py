"""The demo: a server, three clients whose speed you set, and the dashboard on them.

    demo = Demo(reactor)
    demo.listen()
    print(demo.dashboard.url)
    reactor.run()

All parts run in one process and on one reactor, over real sockets on loopback: the page shows what
happened. The demo changes one thing: it makes the kernel's buffers small, see `demo_sockets`.

    producer --> pending --> our kernel ----> the peer's kernel --> client
    (Source)     (marks)     (SEND_BUFFER)    (RECEIVE_BUFFER)      (SlowReader)

With a proxy in between, this chain exists twice: from the server to the proxy, and on to the
client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from minireactor.address import format_address
from minireactor.core import events
from minireactor.core.timers import cancel_if_active
from minireactor.proxy import CONNECTED
from minireactor.proxy.relay import Relay
from minireactor.serve.server import Server
from minireactor.transports.kernel import receive_queue
from minireactor.view.web import demo_sockets
from minireactor.view.web.dashboard import Dashboard
from minireactor.view.web.demo_producer import Settings, Streams
from minireactor.view.web.demo_reader import LOOPBACK, SlowReader
from minireactor.view.web.demo_sockets import KIB

if TYPE_CHECKING:
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.proxy import Proxy
    from minireactor.transports.connection import Connection

# These give a saw-tooth whose teeth one can count: a tooth takes from one to ten seconds. The marks
# are larger than usual, so that the kernel's steps are small beside them.
HIGH = 256 * KIB
LOW = HIGH // 4
READ = {"A": 120 * KIB, "B": 48 * KIB, "C": 16 * KIB}  # bytes a second, of each client

NEAR = 4 * KIB  # bytes from the high mark down to a low mark that is next to it
LATE = 0.7  # seconds that a producer needs to start; enough for a gap when nothing is left
SAFE = 48 * KIB * KIB  # bytes pending at which unpaused producers stop
HIGHEST = SAFE // len(READ)  # bytes; the same limit for a high mark that is dragged
OVERFULL = 4  # times the high mark; draining more than this would take minutes
STALL_TIMEOUT = 10.0  # seconds
NOTICE_SECONDS = 12.0
RETURN_SECONDS = 1.0  # until a client that was disconnected comes back
FASTEST = 64 * KIB * KIB  # bytes a second

LOW_MARKS: dict[str, Callable[[int], int]] = {
    "quarter": lambda high: high // 4,
    "zero": lambda high: 0,
    "near": lambda high: max(0, high - NEAR),
}

# The legs of the way to a client, as the page names them.
DIRECT, FIRST, LAST = "server-client", "server-proxy", "proxy-client"


class Upstream(NamedTuple):
    """A proxy's connection to the server. `peer` is its address, as the server sees it."""

    peer: str
    target: Connection


class Demo:
    """The server, the proxy, the clients and the dashboard, with their switches: see `change`."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.low = "quarter"  # one of LOW_MARKS
        self.way = "direct"  # or "proxy"
        self.notice = ""  # "limit", "overfull", or nothing
        self.settings = Settings(self._has_room)
        self._streams = Streams(reactor, self.settings, self._restore_marks)
        self.streams = self._streams.open
        self.clients = {name: SlowReader(reactor, name, rate) for name, rate in READ.items()}
        self.server = _Server(self, self._streams, self._of_server)
        self.relay: Any = None
        self.dashboard = Dashboard(
            reactor,
            "A server and three clients",
            mode="demo",
            set_marks=self._set_marks,
            highest=HIGHEST,
            facts={
                "safe": SAFE,
                "stall": STALL_TIMEOUT,
                "send": demo_sockets.SEND_BUFFER,
                "receive": demo_sockets.RECEIVE_BUFFER,
            },
            more=lambda: {"demo": self.state()},
        )
        self.dashboard.add_change("/demo", self.change)
        self._marks = HIGH, LOW  # of connections to come
        # By client, and whether it is the leg of the server to a proxy: marks that were dragged.
        self._own_marks: dict[tuple[str, bool], tuple[int, int]] = {}
        self._upstream: dict[str, Upstream] = {}  # by the client's address
        self._notice_timer: Any = None
        self._changes: dict[str, Callable[[Any], object]] = {
            "flow": self._change_flow,
            "low": self._change_low,
            "producer": self._change_producer,
            "way": self._change_way,
            "made": self._change_made,
            "delay": self._change_delay,
            "reset": self._reset,
        }

    def listen(self, port: int = 0) -> None:
        """Start everything, with the page on that port. Raises CannotListenError."""
        self.dashboard.listen(self.reactor, LOOPBACK, port)
        address = self.server.listen(LOOPBACK, 0, HIGH, LOW)
        self.relay = Relay(
            self.reactor,
            [(LOOPBACK, address.port)],
            stall_timeout=STALL_TIMEOUT,
            on_event=self._of_relay,
        )
        self.relay.listen(LOOPBACK, 0, HIGH, LOW)
        for server in (self.server, self.relay):
            demo_sockets.limit_segments(server.ports[0].getHandle())
        self._connect_all()

    def change(self, wanted: dict[str, Any]) -> None:
        """Set switches: the keys of state() that are not lists, and "reset", which is true.

        With "client", the name of one, set its "rate" in bytes a second and whether it is "gone".
        Raises ValueError if a switch or its value does not exist."""
        switches = dict(wanted)
        name = switches.pop("client", None)
        if name is not None:
            self._change_client(name, switches)
            return
        for switch, value in switches.items():
            if switch not in self._changes:
                raise ValueError(f"there is no switch {switch!r}")
            self._changes[switch](value)

    def state(self) -> dict[str, Any]:
        """Return the switches, and the clients with the connections on the way to each.

        A client's "absent" is "vanished", "reads-nothing", "given-up" or "". A leg has its "peer"
        as in a sample; "received" and "queue" count the bytes that the other end has read, and
        that wait in its kernel."""
        settings = self.settings
        return {
            "flow": settings.flow,
            "low": self.low if all(map(self._has_its_low, self._connections())) else "own",
            "producer": settings.kind,
            "way": self.way,
            "made": settings.made,
            "delay": settings.delay,
            "notice": self.notice,
            "clients": [self._state_of(client) for client in self.clients.values()],
        }

    def _state_of(self, client: SlowReader) -> dict[str, Any]:
        legs: list[dict[str, Any]] = []
        if client.peer in self._upstream:
            peer, target = self._upstream[client.peer]
            received = target.bytes_in
            legs.append(_leg(peer, FIRST, received, receive_queue(target)))
        if client.peer:
            leg = LAST if self.way == "proxy" else DIRECT
            legs.append(_leg(client.peer, leg, client.received, client.unread()))
        absent = ""
        if client.gone or not client.rate:
            here = "vanished" if client.gone else "reads-nothing"
            absent = here if legs else "given-up"
        return {
            "name": client.name,
            "rate": client.rate,
            "gone": client.gone,
            "absent": absent,
            "legs": legs,
        }

    def _has_room(self) -> bool:
        if sum(stream.transport.pending for stream in self.streams) < SAFE:
            return True
        self._show_notice("limit")
        return False

    def is_of_proxy(self, connection: Connection) -> bool:
        """Return whether the proxy is the peer of this connection of the server."""
        peer = format_address(connection.getPeer())
        return any(upstream.peer == peer for upstream in self._upstream.values())

    # Connections.

    def _connect_all(self) -> None:
        for client in self.clients.values():
            self._connect(client)

    def _connect(self, client: SlowReader) -> None:
        if client.rate and not client.gone:
            server = self.relay if self.way == "proxy" else self.server
            client.connect(server.ports[0].getHost().port)

    def _of_server(self, event: str, connection: Connection, reason: Failure | None) -> None:
        if event == events.LOST:
            self._keep_marks(connection)
            self._lost(format_address(connection.getPeer()))

    def _of_relay(self, event: str, proxy: Proxy, detail: Any) -> None:
        peer = format_address(proxy.client.getPeer())
        if event == CONNECTED:
            target = proxy.target
            assert target is not None
            demo_sockets.limit_receiving(target.getHandle())
            demo_sockets.limit_sending(proxy.client.getHandle())
            upstream = Upstream(format_address(target.getHost()), target)
            self._upstream[peer] = upstream
            self._restore_marks(proxy.client)
            # The server may have accepted this connection before we knew whose it is.
            for stream in self.streams:
                if format_address(stream.transport.getPeer()) == upstream.peer:
                    self._restore_marks(stream.transport)
        elif event == events.LOST:
            self._keep_marks(proxy.client)
            self._upstream.pop(peer, None)
            self._lost(peer)

    def _lost(self, peer: str) -> None:
        for client in self.clients.values():
            if client.peer == peer:
                client.close()
                # A client that still reads comes back. Another one does when it reads again.
                self.reactor.callLater(RETURN_SECONDS, self._return, client)

    def _return(self, client: SlowReader) -> None:
        if not client.peer:
            self._connect(client)

    def _connections(self) -> list[Connection]:
        """Return all connections that have marks of their own."""
        return self.dashboard.monitor.connections()

    # Marks that were dragged outlive their connection.

    def _place_of(self, connection: Connection) -> tuple[str, bool] | None:
        """Return the client that a connection leads to, and whether it leads to the proxy first."""
        peer = format_address(connection.getPeer())
        for client in self.clients.values():
            if client.peer == peer:
                return client.name, False
            upstream = self._upstream.get(client.peer)
            if upstream is not None and upstream.peer == peer:
                return client.name, True
        return None

    def _keep_marks(self, connection: Connection) -> None:
        place = self._place_of(connection)
        if place is not None:
            self._own_marks.pop(place, None)
            if connection.marks != self._marks:
                self._own_marks[place] = connection.marks

    def _restore_marks(self, connection: Connection) -> None:
        place = self._place_of(connection)
        if place in self._own_marks:
            connection.setWriteBufferLimits(*self._own_marks[place])

    # The switches.

    def _change_client(self, name: Any, wanted: dict[str, Any]) -> None:
        client = self.clients[_one_of(name, self.clients)]
        rate = _number(wanted.get("rate", client.rate), FASTEST)
        client.gone = _yes_or_no(wanted.get("gone", client.gone))
        client.rate = int(rate)
        client.update()
        self._return(client)

    def _change_flow(self, wanted: Any) -> None:
        self.settings.flow = _yes_or_no(wanted)
        self._begin_all()

    def _begin_all(self) -> None:
        """Let all producers follow the settings; connections with overfull buffers are closed."""
        self._show_notice("")
        for stream in list(self.streams):
            transport = stream.transport
            if self.settings.flow and transport.pending > OVERFULL * transport.bufferSize:
                transport.abortConnection()
                self._show_notice("overfull", NOTICE_SECONDS)
            else:
                stream.source.begin()

    def _change_low(self, wanted: Any) -> None:
        self.low = _one_of(wanted, LOW_MARKS)
        low_of = LOW_MARKS[self.low]
        for connection in self._connections():
            connection.setWriteBufferLimits(connection.bufferSize, low_of(connection.bufferSize))
        own = {place: (high, low_of(high)) for place, (high, _) in self._own_marks.items()}
        self._set_marks(self._marks[0], low_of(self._marks[0]))
        self._own_marks = own
        # With a low mark of zero, only a delay makes the gap visible. With near marks, a delay
        # would hide the many pauses. Back at a quarter the delay stays, to show what this is for.
        if self.low != "quarter":
            self.settings.delay = LATE if self.low == "zero" else 0.0

    def _change_producer(self, wanted: Any) -> None:
        self.settings.kind = _one_of(wanted, ("push", "pull"))
        if self.settings.kind == "pull":
            self.settings.delay = 0.0  # or there would be a delay for every piece
        for stream in self.streams:
            stream.source.begin()

    def _change_way(self, wanted: Any) -> None:
        self.way = _one_of(wanted, ("direct", "proxy"))
        for connection in self._connections():
            self._keep_marks(connection)
        for client in self.clients.values():
            client.close()
        self._connect_all()

    def _change_made(self, wanted: Any) -> None:
        self.settings.made = int(_number(wanted, FASTEST, least=1))

    def _change_delay(self, wanted: Any) -> None:
        self.settings.delay = _number(wanted, 10.0)

    def _reset(self, wanted: Any) -> None:
        if not _yes_or_no(wanted):
            return
        self.settings.reset()
        self.low = "quarter"
        self._set_marks(HIGH, LOW)
        for connection in self._connections():
            connection.setWriteBufferLimits(HIGH, LOW)
        self._begin_all()
        if self.way != "direct":
            self._change_way("direct")
        for name, rate in READ.items():
            self._change_client(name, {"rate": rate, "gone": False})

    def _set_marks(self, high: int, low: int) -> None:
        """Set the marks of connections to come."""
        self._marks = high, low
        self._own_marks.clear()
        self.server.set_marks(high, low)
        self.relay.set_marks(high, low)

    def _has_its_low(self, connection: Connection) -> bool:
        high, low = connection.marks
        return low == LOW_MARKS[self.low](high)

    def _show_notice(self, notice: str, seconds: float | None = None) -> None:
        cancel_if_active(self._notice_timer)
        self.notice = notice
        if seconds is not None:
            self._notice_timer = self.reactor.callLater(seconds, self._show_notice, "")


class _Server(Server):
    """A server that never gives up the proxy as stalled.

    The proxy takes nothing while its own client, a slow one, is busy with what it has. When that
    client is stalled, the proxy gives it up, and then leaves the server as well."""

    def __init__(self, demo: Demo, factory: Streams, on_event: Callable[..., None]) -> None:
        super().__init__(demo.reactor, factory, stall_timeout=STALL_TIMEOUT, on_event=on_event)
        self._demo = demo

    def _stalled(self, connection: Connection, part: Connection) -> None:
        if not self._demo.is_of_proxy(connection):
            super()._stalled(connection, part)


def _leg(peer: str, leg: str, received: int, queue: int | None) -> dict[str, Any]:
    return {"peer": peer, "leg": leg, "received": received, "queue": queue}


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is neither true nor false")


def _one_of(value: Any, choices: Any) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"{value!r} is none of {', '.join(choices)}")


def _number(value: Any, most: float, least: float = 0) -> float:
    if isinstance(value, (int, float)) and least <= value <= most:
        return value
    raise ValueError(f"{value!r} is no number from {least} to {most:g}")
