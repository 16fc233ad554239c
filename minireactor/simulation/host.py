"""A host of a simulated network: a reactor whose sockets, time, readiness and look-ups are virtual.

The library runs unchanged. A `Host` is a `Reactor` with four parts replaced:

    system    VirtualSystem: sockets, and the limit of descriptors
    seconds   the network's time, plus what the host's own calls have cost
    poller    VirtualPoller: what is ready, in an order drawn from the seed
    resolver  VirtualResolver: the names of the network's hosts
"""

from __future__ import annotations

import errno
import heapq
import socket
from typing import TYPE_CHECKING, Any, Callable

from minireactor.core import flow
from minireactor.core.loop import MAX_POLL_SECONDS
from minireactor.core.poller import HANGUP
from minireactor.core.system import System
from minireactor.error import ConnectError, DNSLookupError, ServiceNameUnknownError
from minireactor.internet import Reactor
from minireactor.simulation.ends import End
from minireactor.simulation.sockets import PairSocket, VirtualListener, VirtualSocket, failure
from minireactor.transports.resolver import Query, checked_host, checked_port

if TYPE_CHECKING:
    from minireactor.core.handler import Handler
    from minireactor.simulation.ends import Address
    from minireactor.simulation.roles import Net

# No kernel gives out such a number. A real system call with one of these fails with EBADF.
FIRST_DESCRIPTOR = 1_000_000_000
FIRST_EPHEMERAL = 32_768  # port numbers
STARVED_SECONDS = 2.0  # how long a ready socket, or a new connection, may wait at most
MAX_IDLE_TICKS = 200  # iterations in a row that neither wait nor get anything done
DRAIN_SECONDS = 1.0  # as Reactor.drain()


class VirtualSystem(System):
    """The sockets of one host.

    limit: the number of descriptors that it may have open.
    has_splice: whether a proxy splices. Not by default: a machine without splice() could not repeat
        the run."""

    has_splice = False

    def __init__(self, host: Host) -> None:
        self.host = host
        self.limit = 2**31
        self.open: dict[int, Any] = {}
        self._free: list[int] = []

    def new_fd(self) -> int:
        """Return the lowest free number, as POSIX says. Raises OSError if the limit is reached."""
        faults = self.host.network.faults
        if len(self.open) >= self.limit or faults.happens("no_descriptors"):
            raise failure(errno.EMFILE)
        if faults.happens("no_buffers"):
            raise failure(errno.ENOBUFS)
        if self._free:
            return heapq.heappop(self._free)
        return FIRST_DESCRIPTOR + len(self.open)

    def added(self, sock: Any) -> Any:
        """Note an open socket, and return it."""
        self.open[sock.fd] = sock
        return sock

    def close(self, fd: int) -> None:
        """Forget a descriptor. Its number is free again."""
        del self.open[fd]
        heapq.heappush(self._free, fd)
        self.host.spend()
        self.host.progressed = True
        self.host.poller.closed(fd)

    def connecting_socket(self, family: int, kind: int, proto: int) -> Any:
        end = End(self.host, (self.host.address, 0), {})
        return self.added(VirtualSocket(self, end, self.new_fd()))

    def listening_socket(self, family: int, kind: int, proto: int) -> Any:
        return self.added(VirtualListener(self, self.new_fd()))

    def moved(self, sock: Any) -> Any:
        return self.added(sock.moved())

    def socketpair(self) -> Any:
        first = self.added(PairSocket(self, FIRST_DESCRIPTOR + len(self.open)))
        second = self.added(PairSocket(self, FIRST_DESCRIPTOR + len(self.open)))
        first.other, second.other = second, first
        return first, second

    def local_addresses(self, interface: str) -> list[Any]:
        host = self.host
        place = {"localhost": "127.0.0.1", host.name: host.address}.get(interface, interface)
        if place not in ("0.0.0.0", "127.0.0.1", host.address):
            raise failure(errno.EADDRNOTAVAIL)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0))]

    def open_spare(self) -> int:
        return self.added(_Spare(self.new_fd())).fd  # type: ignore[no-any-return]

    def close_spare(self, fd: int) -> None:
        self.close(fd)


class _Spare:
    """The spare descriptor that a port closes when it lacks one for accept()."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ready_since = -1.0


def seen(sock: Any) -> Any:
    """Return the object that keeps `ready_since` for a socket: its end, if it has one."""
    return getattr(sock, "end", None) or sock


class VirtualPoller:
    """Which sockets of a host are ready, level-triggered as epoll. It never waits.

    sleeps: how many seconds the last poll would have waited.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._masks: dict[int, int] = {}
        self._maybe: dict[int, None] = {}  # descriptors that may be ready
        self.sleeps = 0.0

    def watch(self, fd: int, events: int, before: int | None) -> None:
        self._host.spend()
        self._host.progressed = True
        sock = self._host.system.open.get(fd)
        if sock is None:
            raise failure(errno.EBADF)
        seen(sock).ready_since = -1.0
        self._masks[fd] = events
        self._maybe[fd] = None

    def forget(self, fd: int, before: int) -> None:
        self._host.progressed = True
        self.closed(fd)

    def closed(self, fd: int) -> None:
        """Stop watching a descriptor, as the kernel does when it is closed."""
        self._masks.pop(fd, None)
        self._maybe.pop(fd, None)

    def touch(self, fd: int) -> None:
        """Note that a socket may have become ready. If it has, the host wakes up."""
        mask = self._masks.get(fd)
        if mask is not None and fd not in self._maybe:
            self._maybe[fd] = None
            self._host.wake()

    def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
        host = self._host
        host.spend()
        ready: list[tuple[int, int]] = []
        idle: list[int] = []
        now = host.clock
        for fd in self._maybe:
            sock = host.system.open[fd]
            events = sock.ready() & (self._masks[fd] | HANGUP)
            if not events:
                idle.append(fd)
                seen(sock).ready_since = -1.0
                continue
            ready.append((fd, events))
            # The program must use a ready socket soon, whatever else it has to do: rule T5.
            watched = seen(sock)
            if watched.ready_since < 0:
                watched.ready_since = now
            elif now - watched.ready_since > STARVED_SECONDS:
                host.network.fail(f"T5: {sock!r} of {host.name} is ready, but not served")
        for fd in idle:
            del self._maybe[fd]
        host.network.chance.shuffle(ready)
        self.sleeps = 0.0 if ready else timeout
        return ready

    def close(self) -> None:
        """Do nothing: there is no descriptor."""


class VirtualResolver:
    """Finds the addresses of the network's hosts, after a time that is drawn."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def resolve(self, host: Any, port: Any, answer: Callable[[Any], object]) -> Query:
        """Do what Resolver.resolve() does."""
        query = Query(port, answer)
        try:
            host, port = checked_host(host), checked_port(port)
            if isinstance(port, str):
                raise ServiceNameUnknownError(string=f"no such service here: {port!r}")
        except (ConnectError, DNSLookupError) as error:
            query.reply(error)
            return query
        network = self._host.network
        if host == "localhost" or host.replace(".", "").isdigit():
            query.reply(_found([self._host.numeric(host)], port))
            return query
        faults = network.faults
        seconds = network.chance.between(0.0002, 0.005)
        if faults.happens("slow_lookup"):
            seconds = faults.SLOW_SECONDS
        places = [] if faults.happens("failed_lookup") else network.addresses_of(host)
        if places and faults.happens("dead_address"):
            places = [network.DEAD_ADDRESS, *places]
        found = _found(places, port) if places else DNSLookupError(f"cannot resolve {host!r}")
        network.at(network.seconds() + seconds, self._host.call, query.reply, found)
        return query


def _found(places: list[str], port: int) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in places]


class Host(Reactor):
    """A reactor on one host of a simulated network; made by `Network.host()`.

    address: its address, 10.0.0.1 for the first host.
    call_seconds: the virtual seconds that each system call takes.
    byte_seconds: the virtual seconds that each sent or received byte takes.
    is_on: false after Network.vanish().
    frozen: the program does not run, and the kernel does. See Network.freeze().
    clock: the time that the current loop iteration, or else the last one, has reached.
    progressed: whether the current iteration has done any work.
    """

    def __init__(self, network: Net, name: str, address: str, call_seconds: float) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.call_seconds = call_seconds
        self.byte_seconds = 1e-9
        self.clock = network.time
        self.is_on = True
        self.frozen = False
        self.progressed = False
        self.poller = VirtualPoller(self)
        self.listeners: dict[int, VirtualListener] = {}  # by port number
        self.system: VirtualSystem = VirtualSystem(self)
        self._next_port = FIRST_EPHEMERAL
        self._next_tick = float("inf")
        self._idle_ticks = 0
        self._drains_until: float | None = None
        super().__init__(
            self.poller,
            resolver=VirtualResolver(self),
            seconds=self._seconds,
            system=self.system,
        )
        self.add_observer(network.checker.observe)

    def limit_descriptors(self, limit: int) -> None:
        """Let the host have only `limit` descriptors open: further ones give EMFILE."""
        self.system.limit = limit

    # Time.

    def _seconds(self) -> float:
        return max(self.clock, self.network.time)

    def spend(self) -> None:
        """Let the time of a system call pass."""
        self.clock += self.call_seconds

    def spend_bytes(self, size: int) -> None:
        """Let the time pass that copying bytes takes, and note that work was done."""
        self.clock += size * self.byte_seconds
        self.progressed = True

    # The program: the network calls its loop iterations.

    def start(self) -> None:
        """Do what run() does before its first iteration."""
        if not self._started and not self._ended:
            self.open()
            self._started = True
            self.fireSystemEvent("startup")
        self.wake()

    def run(self, installSignalHandlers: bool = True) -> None:
        """Let the network run until this host's program has stopped, or nothing is left to do.

        The other hosts run too. Use Network.run() to run all of them for some time."""
        self.network.run_until(lambda: not self._started)

    def call(self, f: Callable[..., object], *args: Any) -> None:
        """Call `f(*args)` in the next loop iteration, and wake the loop."""
        if self.is_on:
            self.call_soon(f, *args)
            self.wake()

    def run_calls(self) -> None:
        """Make the calls that close() has left to the next iteration."""
        self._run_soon()

    def wake(self, when: float | None = None) -> None:
        """Let the next iteration begin at `when`, by default now, unless an earlier one is due."""
        when = self._seconds() if when is None else when
        if when < self._next_tick and self.is_on:
            self._next_tick = when
            self.network.at(when, self._tick, when)

    def _tick(self, when: float) -> None:
        """Run one loop iteration. Does nothing if an earlier one has taken its place."""
        if when != self._next_tick or not self.is_on:
            return
        self._next_tick = float("inf")
        if self.frozen or not (self._started or self._drains_until is not None):
            return
        network = self.network
        network.current, self.clock = self, max(self.clock, network.time)
        timer = self._timers.timeout(self.clock)
        self.progressed = timer == 0.0
        try:
            if self._shutdown_due:
                self._shut_down()
                self._drains_until = self.clock + DRAIN_SECONDS
            self.tick()
            self._close_if_drained()
        finally:
            network.current = None
        sleeps = self.poller.sleeps
        if sleeps > 0:
            self._idle_ticks = 0
            if sleeps < MAX_POLL_SECONDS:
                self.wake(self.clock + sleeps + 1e-9)
            if self._shutdown_due:
                self.wake()
        else:
            self._idle_ticks = 0 if self.progressed else self._idle_ticks + 1
            if self._idle_ticks > MAX_IDLE_TICKS:
                network.fail(f"spin: {self._idle_ticks} iterations of {self.name} did nothing")
            self.wake(self.clock)

    def _close_if_drained(self) -> None:
        until = self._drains_until
        if until is None:
            return
        if self.clock >= until or not any(each.has_unacked_data() for each in self.handlers()):
            self._drains_until = None
            self.close()
        else:
            self.wake(until)

    def guard(self, handler: Handler, call: Callable[..., Any], *args: Any) -> None:
        """Do what Loop.guard() does, and let the checks see calls of producers first."""
        if call is flow.call:
            self.network.checker.producer_called(handler, *args)
        super().guard(handler, call, *args)

    def callInThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` later, as if in a thread. There is no thread: `f` must not block."""
        when = self._seconds() + self.network.chance.between(0.0, 0.01)
        self.network.at(when, lambda: self._call(f, a, k))

    # The kernel's names and port numbers.

    def numeric(self, place: str) -> str:
        """Return the address for `localhost` and 127.0.0.1, which mean this host itself."""
        return self.address if place in ("localhost", "127.0.0.1") else place

    def bound(self, address: Address) -> Address:
        """Return the address with a free port number in place of 0. Raises OSError if in use."""
        place, port = address[:2]
        if port == 0:
            return self.numeric(place), self.free_port()
        if port in self.listeners:
            raise failure(errno.EADDRINUSE)
        return self.numeric(place), port

    def free_port(self) -> int:
        """Return a port number that no socket of this host uses."""
        while True:
            port = self._next_port
            self._next_port = port + 1 if port < 65_535 else FIRST_EPHEMERAL
            if port not in self.listeners:
                return port

    def add_listener(self, listener: VirtualListener) -> None:
        """Note a listening socket. Raises OSError if its port is in use."""
        port = listener.address[1]
        if port in self.listeners:
            raise failure(errno.EADDRINUSE)
        self.listeners[port] = listener

    def remove_listener(self, listener: VirtualListener) -> None:
        """Forget a listening socket, which has been closed."""
        port = listener.address[1]
        if self.listeners.get(port) is listener:
            del self.listeners[port]

    def __repr__(self) -> str:
        return f"<Host {self.name}>"
