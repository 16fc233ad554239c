"""The demo: a server, three clients whose speed is in your hand, and the dashboard on them.

    demo = Demo(reactor)
    demo.listen()
    print(demo.dashboard.url)
    reactor.run()

All of it is in one process and on one reactor, over real sockets on loopback: what the page shows
is what happened. Only the kernel's buffers are made small, as between distant machines of which
one is slow; else megabytes would vanish in them before anything waits above.

    producer --> pending --> the kernel's queue --> the client's kernel --> client
    (Source)     (marks)     (SEND_BUFFER)          (RECEIVE_BUFFER)        (SlowReader)

With a proxy between, the first half of this is there twice.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address
from minireactor.core import events
from minireactor.protocol import Factory, Protocol
from minireactor.proxy import CONNECTED
from minireactor.proxy.relay import Relay
from minireactor.serve.server import Server
from minireactor.view.web.dashboard import Dashboard

if TYPE_CHECKING:
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.proxy import Proxy
    from minireactor.transports.tcp import Connection

LOOPBACK = "127.0.0.1"
KIB = 1024

# What makes a saw-tooth whose teeth can be counted: at these speeds one takes from one to ten
# seconds. Larger than the usual marks, so that the kernel's steps are small beside them.
HIGH = 256 * KIB
LOW = HIGH // 4
MADE = 768 * KIB  # bytes a second, of the producer of each connection
READ = {"A": 120 * KIB, "B": 48 * KIB, "C": 16 * KIB}  # bytes a second, of each client

# Bytes. With the segments of an Ethernet, loopback moves on in small steps; with its own, of
# 64 KiB, it would do so in leaps.
SEND_BUFFER = 16 * KIB
RECEIVE_BUFFER = 6 * KIB
SEGMENT = 1460

# Seconds between two writes of a producer, each of which is then a chunk of its own in the buffer:
# memory that goes back to the system when flow control is switched on again.
STEP = 0.0125
LETTER = b"."  # what streams consist of; of large runs of zeros, systems keep no copy in memory
PIECE = 16 * KIB  # bytes that a pull producer writes when it is asked
NEAR = 4 * KIB  # bytes from the high mark down to a low mark that is next to it
LATE = 0.7  # seconds that a producer needs to start; enough for a gap when nothing is left
SAFE = 48 * KIB * KIB  # bytes pending at which producers that nobody pauses are stopped
HIGHEST = SAFE // len(READ)  # bytes; up to there a high mark may be dragged, for the same reason
OVERFULL = 4  # times the high mark: more than that nobody wants to watch draining
STALL_TIMEOUT = 10.0  # seconds
NOTICE_SECONDS = 12.0
RETURN_SECONDS = 1.0  # until a client that was sent away is back
FASTEST = 64 * KIB * KIB  # bytes a second

LOW_MARKS: dict[str, Callable[[int], int]] = {
    "quarter": lambda high: high // 4,
    "zero": lambda high: 0,
    "near": lambda high: max(0, high - NEAR),
}

LIMIT_REACHED = (
    f"{SAFE // KIB // KIB} MiB wait in the buffers: here the demo stops the producers. A server "
    "would have gone on until its memory is full. Now switch flow control on again."
)
OVERFULL_CLOSED = (
    "The connections with overfull buffers were closed, and the clients have come back: to drain "
    "what had piled up would have taken minutes."
)
VANISHED = (
    "It reads no more, and says no goodbye, as when a cable is pulled. For the server it is a "
    f"slow client, until it has taken nothing for {STALL_TIMEOUT:g} s."
)
READS_NOTHING = f"It reads nothing. After {STALL_TIMEOUT:g} s of that the server gives it up."
GIVEN_UP = (
    f"The server has given it up, as it took nothing for {STALL_TIMEOUT:g} s: nothing is kept "
    "for it any more."
)


class Source:
    """The producer of one connection. It makes `demo.made` bytes a second while it may.

    As a push producer it writes until it is paused, and needs `demo.delay` seconds to start after
    it has been resumed; as a pull producer it writes a piece for each call. Unregistered, which is
    flow control switched off, it writes whatever happens."""

    def __init__(self, demo: Demo, transport: Connection) -> None:
        self._demo = demo
        self._transport = transport
        self._timer: Any = None
        self._due = 0  # bytes that it writes next
        self._began = 0.0

    def begin(self) -> None:
        """Be what the demo's switches say, from now on."""
        self._stop_timer()
        self._transport.unregisterProducer()
        demo = self._demo
        if demo.flow:
            # A pull producer is asked within this call, a push producer perhaps paused.
            self._go_on_in(0.0)
            self._transport.registerProducer(self, demo.producer == "push")
        else:
            self._go_on_in(0.0)

    def pauseProducing(self) -> None:
        self._stop_timer()

    def resumeProducing(self) -> None:
        self._go_on_in(self._demo.delay)

    def stopProducing(self) -> None:
        self._stop_timer()

    def _go_on_in(self, seconds: float) -> None:
        self._stop_timer()
        if self._demo.producer == "pull" and self._demo.flow:
            seconds += PIECE / self._demo.made
            self._timer = self._demo.reactor.callLater(seconds, self._write_piece)
        else:
            self._began = self._demo.reactor.seconds() + seconds
            self._timer = self._demo.reactor.callLater(seconds + STEP, self._write)

    def _write_piece(self) -> None:
        self._transport.write(LETTER * PIECE)

    def _write(self) -> None:
        if not self._demo.flow and not self._demo.has_room():
            return
        now = self._demo.reactor.seconds()
        # Late as a timer may be, what it makes in a second holds; but not by one great leap.
        count = int(min(now - self._began, 10 * STEP) * self._demo.made)
        self._began = now
        self._timer = self._demo.reactor.callLater(STEP, self._write)
        self._transport.write(LETTER * count)  # last: this may pause us

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class Stream(Protocol):
    """A connection of the server: a Source, from its first moment to its last."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self.source: Any = None

    def connectionMade(self) -> None:
        _set_buffer(self.transport.getHandle(), socket.SO_SNDBUF, SEND_BUFFER)
        self.source = Source(self._demo, self.transport)
        self._demo.streams.add(self)
        self.source.begin()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._demo.streams.discard(self)
        self.source.stopProducing()


class SlowReader:
    """A client that reads `rate` bytes a second, or nothing. Its socket is its own, and none of
    the connections that the dashboard watches."""

    PORTION = 512  # bytes: less it does not read at once

    def __init__(self, reactor: Reactor, name: str, rate: int) -> None:
        self.name = name
        self.rate = rate
        self.gone = False  # it has vanished
        self.peer = ""  # what it is called by whom it is connected to; "" while it is not
        self.received = 0  # bytes
        self._reactor = reactor
        self._socket: socket.socket | None = None
        self._timer: Any = None
        self._tokens = 0.0  # bytes that it may read
        self._filled = 0.0

    def connect(self, port: int) -> None:
        """Anew, if it is connected already."""
        self.close()
        sock = self._socket = socket.socket()
        sock.setblocking(False)
        _set_buffer(sock, socket.SO_RCVBUF, RECEIVE_BUFFER)
        _set_segment(sock)
        sock.connect_ex((LOOPBACK, port))
        self.peer = "{}:{}".format(*sock.getsockname())
        self._go_on()

    def close(self) -> None:
        """Leave, with a reset if something was still to be read."""
        self._rest()
        self.peer = ""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def changed(self) -> None:
        """Its rate is another, or it has vanished, or come back."""
        self._rest()
        if self._socket is not None:
            self._go_on()

    def _go_on(self) -> None:
        self._timer = None
        if self.rate and not self.gone:
            self._filled = self._reactor.seconds()
            self._reactor.addReader(self)

    def _rest(self) -> None:
        self._tokens = 0.0
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        if self._socket is not None:
            self._reactor.removeReader(self)

    # For the reactor.

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def doRead(self) -> None:
        now = self._reactor.seconds()
        most = self.PORTION + self.rate * 0.1
        self._tokens = min(most, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < self.PORTION:
            self._reactor.removeReader(self)
            seconds = (self.PORTION - self._tokens) / self.rate
            self._timer = self._reactor.callLater(seconds, self._wake)
            return
        try:
            data = self._socket.recv(int(self._tokens))  # type: ignore[union-attr]
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        self._tokens -= len(data)
        self.received += len(data)

    def _wake(self) -> None:
        self._timer = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        self.close()


class Demo:
    """Everything, and its switches; see `change`."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.flow = True  # False: nobody is paused
        self.low = "quarter"  # one of LOW_MARKS
        self.producer = "push"  # or "pull"
        self.way = "direct"  # or "proxy"
        self.made = MADE
        self.delay = 0.0  # seconds
        self.notice = ""
        self.streams: set[Stream] = set()
        self.clients = {name: SlowReader(reactor, name, rate) for name, rate in READ.items()}
        self.server = _Server(self, self._of_server)
        self.relay: Any = None
        self.dashboard = Dashboard(
            reactor,
            "A server and three clients",
            mode="demo",
            set_marks=self._set_marks,
            highest=HIGHEST,
            more=lambda: {"demo": self.state()},
        )
        self.dashboard.add_change("/demo", self.change)
        self._high = HIGH  # of connections to come
        self._upstream: dict[str, str] = {}  # of a client's address, the proxy's to the server
        self._unnotice: Any = None
        self._changes: dict[str, Callable[[Any], object]] = {
            "flow": self._change_flow,
            "low": self._change_low,
            "producer": self._change_producer,
            "way": self._change_way,
            "made": self._change_made,
            "delay": self._change_delay,
        }

    def listen(self, port: int = 0) -> None:
        """Start all of it, with the page on that port. CannotListenError."""
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
            assert server.port is not None
            _set_segment(server.port.getHandle())
        self._connect_all()

    def change(self, wanted: dict[str, Any]) -> None:
        """Set switches, whose values are as those of the attributes; and of a "client", "rate", in
        bytes a second, and "gone". ValueError."""
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
        """For the page: how the switches are, and how the connections belong to the clients."""
        return {
            "flow": self.flow,
            "low": self.low if all(map(self._has_its_low, self._connections())) else "own",
            "producer": self.producer,
            "way": self.way,
            "made": self.made,
            "delay": self.delay,
            "notice": self.notice,
            "clients": [self._state_of(client) for client in self.clients.values()],
        }

    def _state_of(self, client: SlowReader) -> dict[str, Any]:
        last = "proxy to client" if self.way == "proxy" else "server to client"
        legs: list[dict[str, Any]] = []
        if client.peer in self._upstream:
            upstream = self._upstream[client.peer]
            legs.append({"peer": upstream, "what": "server to proxy", "received": None})
        if client.peer:
            legs.append({"peer": client.peer, "what": last, "received": client.received})
        if client.gone:
            absent = VANISHED if legs else GIVEN_UP
        elif not client.rate:
            absent = READS_NOTHING if legs else GIVEN_UP
        else:
            absent = ""
        return {
            "name": client.name,
            "rate": client.rate,
            "gone": client.gone,
            "absent": absent,
            "legs": legs,
        }

    def has_room(self) -> bool:
        """Whether producers that nobody pauses may still go on."""
        if sum(stream.transport.pending for stream in self.streams) < SAFE:
            return True
        self._say(LIMIT_REACHED)
        return False

    def is_of_proxy(self, connection: Connection) -> bool:
        """Whether the proxy is at the other end of this connection of the server."""
        return format_address(connection.getPeer()) in self._upstream.values()

    # Connections.

    def _connect_all(self) -> None:
        for client in self.clients.values():
            self._connect(client)

    def _connect(self, client: SlowReader) -> None:
        if client.rate and not client.gone:
            server = self.relay if self.way == "proxy" else self.server
            client.connect(server.port.getHost().port)  # type: ignore[union-attr]

    def _of_server(self, event: str, connection: Connection, reason: Failure | None) -> None:
        if event == events.LOST:
            self._lost(format_address(connection.getPeer()))

    def _of_relay(self, event: str, proxy: Proxy, detail: Any) -> None:
        peer = format_address(proxy.client.getPeer())
        if event == CONNECTED:
            assert proxy.target is not None
            _set_buffer(proxy.target.getHandle(), socket.SO_RCVBUF, RECEIVE_BUFFER)
            _set_buffer(proxy.client.getHandle(), socket.SO_SNDBUF, SEND_BUFFER)
            self._upstream[peer] = format_address(proxy.target.getHost())
        elif event == events.LOST:
            self._upstream.pop(peer, None)
            self._lost(peer)

    def _lost(self, peer: str) -> None:
        for client in self.clients.values():
            if client.peer == peer:
                client.close()
                # One that still reads comes back; others do when somebody lets them.
                self.reactor.callLater(RETURN_SECONDS, self._return, client)

    def _return(self, client: SlowReader) -> None:
        if not client.peer:
            self._connect(client)

    def _connections(self) -> list[Connection]:
        """All that have marks of their own."""
        return self.dashboard.monitor.connections()

    # The switches.

    def _change_client(self, name: Any, wanted: dict[str, Any]) -> None:
        client = self.clients[_one_of(name, self.clients)]
        rate = _number(wanted.get("rate", client.rate), FASTEST)
        client.gone = _yes_or_no(wanted.get("gone", client.gone))
        client.rate = int(rate)
        client.changed()
        self._return(client)

    def _change_flow(self, wanted: Any) -> None:
        self.flow = _yes_or_no(wanted)
        self._say("")
        for stream in list(self.streams):
            transport = stream.transport
            if self.flow and transport.pending > OVERFULL * transport.bufferSize:
                transport.abortConnection()
                self._say(OVERFULL_CLOSED, NOTICE_SECONDS)
            else:
                stream.source.begin()

    def _change_low(self, wanted: Any) -> None:
        self.low = _one_of(wanted, LOW_MARKS)
        low_of = LOW_MARKS[self.low]
        for connection in self._connections():
            connection.setWriteBufferLimits(connection.bufferSize, low_of(connection.bufferSize))
        self._set_marks(self._high, low_of(self._high))
        # Without a delay zero costs nothing that can be seen, and with one the churn is hidden.
        # Back at a quarter it stays, so that one sees what the quarter is for.
        if self.low != "quarter":
            self.delay = LATE if self.low == "zero" else 0.0

    def _change_producer(self, wanted: Any) -> None:
        self.producer = _one_of(wanted, ("push", "pull"))
        if self.producer == "pull":
            self.delay = 0.0  # which it would need for every piece
        for stream in self.streams:
            stream.source.begin()

    def _change_way(self, wanted: Any) -> None:
        self.way = _one_of(wanted, ("direct", "proxy"))
        for client in self.clients.values():
            client.close()
        self._connect_all()

    def _change_made(self, wanted: Any) -> None:
        self.made = int(_number(wanted, FASTEST, least=1))

    def _change_delay(self, wanted: Any) -> None:
        self.delay = _number(wanted, 10.0)

    def _set_marks(self, high: int, low: int) -> None:
        self._high = high
        self.server.set_marks(high, low)
        self.relay.set_marks(high, low)

    def _has_its_low(self, connection: Connection) -> bool:
        high, low = connection.marks
        return low == LOW_MARKS[self.low](high)

    def _say(self, notice: str, seconds: float | None = None) -> None:
        if self._unnotice is not None and self._unnotice.active():
            self._unnotice.cancel()
        self.notice = notice
        if seconds is not None:
            self._unnotice = self.reactor.callLater(seconds, self._say, "")


class _Server(Server):
    """One that does not give up the proxy: that takes nothing for as long as its own client, a slow
    one, is busy with what it has. When the client is stalled, it is for the proxy to say so."""

    def __init__(self, demo: Demo, on_event: Callable[..., None]) -> None:
        super().__init__(
            demo.reactor, _Streams(demo), stall_timeout=STALL_TIMEOUT, on_event=on_event
        )
        self._demo = demo

    def _stalled(self, connection: Connection, part: Connection) -> None:
        if not self._demo.is_of_proxy(connection):
            super()._stalled(connection, part)


class _Streams(Factory):
    noisy = False

    def __init__(self, demo: Demo) -> None:
        self._demo = demo

    def buildProtocol(self, addr: Any) -> Stream:
        return Stream(self._demo)


def _set_buffer(sock: socket.socket, which: int, size: int) -> None:
    with contextlib.suppress(OSError):  # it has gone again, as we shall be told
        sock.setsockopt(socket.SOL_SOCKET, which, size)


def _set_segment(sock: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not every system has it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)


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
