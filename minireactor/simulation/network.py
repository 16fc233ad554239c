"""A simulated network: hosts, links, virtual time and faults, all decided by one seed.

    network = Network(seed=1)
    server, client = network.host("server"), network.host("client")
    server.listenTCP(80, factory)
    client.connectTCP("server", 80, other_factory)
    network.run(10)
    network.finish()

Each host is a reactor. Programs and the library run unchanged. No descriptor is opened, and no time
is spent waiting. The same seed gives the same run on every version of Python.

Everything that happens is an event in one queue, ordered by time: a segment arrives, or a host runs
one iteration of its loop. Each event is a *step*. See `checks` for what each step checks.
"""

from __future__ import annotations

import errno
import heapq
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.log import logger
from minireactor.simulation.chance import Chance
from minireactor.simulation.checks import Checker
from minireactor.simulation.ends import SYN_RETRY_SECONDS, End
from minireactor.simulation.faults import Faults
from minireactor.simulation.host import Host
from minireactor.simulation.links import Link

if TYPE_CHECKING:
    from minireactor.simulation.ends import Address

TRACE = 12  # events that a failure's message shows
FAULT_SECONDS = 0.1  # between two draws of the faults whose rates are per second
QUIET_SECONDS = 4000.0  # what finish() lets pass: longer than the system's own timeouts


class SimulationError(AssertionError):
    """A check has failed. `seed` and `step` repeat the run up to this point.

    kind: the rule that is broken, or the class of an exception: the message up to its colon."""

    def __init__(self, message: str, seed: int, step: int) -> None:
        super().__init__(message)
        self.message = message
        self.kind = message.partition(":")[0]
        self.seed = seed
        self.step = step


class Network:
    """Hosts that are joined by links. `seed` decides all that is left to chance.

    steps: how many steps until the network is calm: faults end, and calls of `do()` are left out.
        None: never by itself. A failure is easier to understand after few steps.
    check: whether to make the checks. A run without checks takes less time and memory.

    time: the virtual time in seconds, 0.0 at first.
    step: the number of events so far.
    faults: the rates of the faults, see Faults.
    chance: the source of all random draws. A scenario may draw from it, too.
    """

    DEAD_ADDRESS = "10.255.255.1"  # no host has it, and no packet comes back

    def __init__(self, seed: int, steps: int | None = None, check: bool = True) -> None:
        self.seed = seed
        self.time = 0.0
        self.step = 0
        self.chance = Chance(seed)
        self.faults = Faults(self.chance)
        self.checker = Checker(self, check)
        self.hosts: dict[str, Host] = {}
        self._all_hosts: list[Host] = []  # including those that have vanished
        self.current: Host | None = None  # the host whose program runs now
        self.calm = False
        self._steps = steps
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0
        self._links: dict[tuple[str, str], Link] = {}
        self._names: dict[str, list[str]] = {}
        self._by_address: dict[str, str] = {}
        self._link_defaults: dict[str, Any] = {}
        self._trace: deque[Any] = deque(maxlen=TRACE)
        self._failure: str | None = None
        self._is_running = False
        self._next_faults = 0.0

    # Building.

    def host(self, name: str, call_seconds: float = 5e-6) -> Host:
        """Return the host of this name, a reactor. It is made at the first call.

        call_seconds: the virtual seconds that each of its system calls takes."""
        if name not in self.hosts:
            address = f"10.0.{len(self.hosts) // 250}.{len(self.hosts) % 250 + 1}"
            self._names[name] = [address]
            self._by_address[address] = name
            self._new_host(name, address, call_seconds)
        return self.hosts[name]

    def _new_host(self, name: str, address: str, call_seconds: float) -> Host:
        host = self.hosts[name] = Host(self, name, address, call_seconds)
        self._all_hosts.append(host)
        if self._is_running:
            host.start()
        return host

    def link(self, a: str, b: str, **values: Any) -> Link:
        """Return the link between two hosts, after setting some of its values: see Link."""
        key = (a, b) if a < b else (b, a)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(self, **self._link_defaults)
            if a == b:
                link.delay = 1e-5
        link.set(**values)
        return link

    def links(self, **values: Any) -> None:
        """Set values of all links, also of later ones: see Link."""
        self._link_defaults.update(values)
        for link in self._links.values():
            link.set(**values)

    def addresses_of(self, name: str) -> list[str]:
        """Return the addresses of a host by its name; empty if there is no such host."""
        return list(self._names.get(name, ()))

    # Time.

    def seconds(self) -> float:
        """Return the clock of the host whose program runs now, or else the network's time."""
        return self.time if self.current is None else self.current.clock

    def at(self, when: float, f: Callable[..., object], *args: Any) -> None:
        """Call `f(*args)` at the time `when`, as one step."""
        self._serial += 1
        heapq.heappush(self._queue, (when, self._serial, f, args))

    def do(self, delay: float, f: Callable[..., object], *args: Any) -> None:
        """Call `f(*args)` in `delay` seconds, as a part of the scenario.

        The call is left out once the network is calm. So a shortened run does less."""
        self.at(self.seconds() + delay, self._do, f, args)

    def _do(self, f: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self.calm:
            f(*args)
            # `f` may have called any host's reactor from outside of that reactor's loop.
            for host in self.hosts.values():
                host.wake()

    def run(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass.

        Raises SimulationError if a check fails, and RuntimeError inside run()."""
        until = self.time + seconds
        self._run(until, self._never)
        self.time = until

    def run_until(self, is_over: Callable[[], bool], seconds: float = QUIET_SECONDS) -> None:
        """Let time pass until `is_over()` is true, or `seconds` have passed."""
        self._run(self.time + seconds, is_over)

    def _never(self) -> bool:
        return False

    def _run(self, until: float, is_over: Callable[[], bool]) -> None:
        if self._is_running:
            raise RuntimeError("run() cannot be nested; use callLater(), or do() of the network")
        errors = _Errors(self)
        logger.addHandler(errors)
        self._is_running = True
        try:
            for host in list(self.hosts.values()):
                host.start()
            queue, trace = self._queue, self._trace
            while queue and queue[0][0] <= until and not is_over():
                event = heapq.heappop(queue)
                if event[0] > self.time:
                    self.time = event[0]
                self.step += 1
                trace.append(event)
                if self.time >= self._next_faults:
                    self._draw_faults()
                event[2](*event[3])
                if self._failure is not None:
                    self._raise()
                if self.step == self._steps:
                    self.be_calm()
        finally:
            self._is_running = False
            logger.removeHandler(errors)

    # Faults on command.

    def freeze(self, name: str) -> None:
        """Stop a host's program until thaw(). Its kernel goes on."""
        self.hosts[name].frozen = True

    def thaw(self, name: str) -> None:
        """Let a frozen program go on."""
        host = self.hosts[name]
        if host.frozen:
            host.frozen = False
            self.checker.thawed(host)
            host.wake()

    def vanish(self, name: str) -> None:
        """Take a host's power away: the host sends nothing any more, not even a reset."""
        host = self.hosts[name]
        host.is_on = False
        self.checker.vanished(host)

    def come_back(self, name: str, call_seconds: float = 5e-6) -> Host:
        """Restart a host that has vanished, without its connections; return its new reactor.

        Raises ValueError if the host has not vanished."""
        old = self.hosts[name]
        if old.is_on:
            raise ValueError(f"{name!r} has not vanished; call vanish() first")
        return self._new_host(name, old.address, call_seconds)

    def partition(self, a: str, b: str) -> None:
        """Let no segment pass between two hosts, until `heal()`. Nothing is lost for good."""
        self.link(a, b).is_cut = True

    def heal(self, a: str, b: str) -> None:
        """Let segments pass again."""
        self.link(a, b).is_cut = False

    def reset(self, connection: Any) -> None:
        """Reset the connection of a transport at both ends, as a firewall does."""
        end = connection.socket.end
        if end is not None and end.peer is not None:
            end.lose(errno.ECONNRESET)
            end.peer.lose(errno.ECONNRESET)

    def be_calm(self) -> None:
        """End all faults: rates become 0, frozen hosts thaw, links are whole again."""
        self.calm = True
        self.faults.stop()
        for name in self.hosts:
            self.thaw(name)
        for link in self._links.values():
            link.is_cut = False

    def _draw_faults(self) -> None:
        """Draw the faults whose rates are per second: freeze and partition."""
        self._next_faults = self.time + FAULT_SECONDS
        faults, chance = self.faults, self.chance
        names = list(self.hosts)
        if chance.happens(faults.freeze * FAULT_SECONDS):
            name = chance.choice(names)
            self.freeze(name)
            self.at(self.time + chance.random(), self.thaw, name)
        if chance.happens(faults.partition * FAULT_SECONDS) and self._links:
            pair = chance.choice(list(self._links))
            self.partition(*pair)
            self.at(self.time + chance.random(), self.heal, *pair)

    # Connecting: what the kernels do.

    def connect(self, end: End, address: Address) -> None:
        """Send the SYN of a connecting socket."""
        place, port = address
        place = end.host.numeric(place)
        name = self._by_address.get(place)
        if not end.local[1]:
            end.local = end.host.address, end.host.free_port()
        if name is None:
            return  # the connector's own timeout ends this
        end.attach(self.link(end.host.name, name), (place, port), name)
        end.link.carry(end, 0, self._arrive_syn, end)

    def _arrive_syn(self, client: End) -> None:
        if client.closed:
            return
        place, port = client.remote
        host = self.hosts[client.remote_name]
        listener = host.listeners.get(port)
        if listener is None:
            self.at(self.time + client.link.delay, client.lose, errno.ECONNREFUSED)
        elif len(listener.waiting) >= max(1, listener.backlog):
            retry = client.link.carry
            self.at(self.time + SYN_RETRY_SECONDS, retry, client, 0, self._arrive_syn, client)
        else:
            server = End(host, (place, port), listener.options)
            server.attach(client.link, client.local, client.host.name)
            server.peer, client.peer = client, server
            server.connected = True
            listener.waiting.append((server, self.time))
            host.poller.touch(listener.fd)
            server.link.carry(server, 0, self._arrive_syn_ack, client)

    def _arrive_syn_ack(self, client: End) -> None:
        if client.closed:
            client.peer.lose(errno.ECONNRESET)  # type: ignore[union-attr]
        elif not client.over:
            client.connected = True
            client.touch()

    # Failures.

    def fail(self, message: str) -> None:
        """Note that a check has failed. The run ends after this step; the first failure counts."""
        if self._failure is None:
            self._failure = message

    def finish(self, open_connections: int = 0) -> None:
        """End all faults, let everything under way come to its end, and check what is left over.

        open_connections: how many connections may still be open on all hosts.
        Raises SimulationError if more are open, or if anything else is left over."""
        self.be_calm()
        self.run(QUIET_SECONDS)
        self.checker.finish(open_connections)
        if self._failure is not None:
            self._raise()

    def close(self) -> None:
        """End all programs, and free what they have opened, such as files."""
        for host in self._all_hosts:
            host.close()
            host.run_calls()

    def _raise(self) -> None:
        message, self._failure = self._failure or "", None
        lines = [f"{message} (seed {self.seed}, step {self.step}, {self.time:.6f} s). Last events:"]
        lines += [f"  {when:.6f} s: {_named(f, args)}" for when, _, f, args in self._trace]
        raise SimulationError("\n".join(lines), self.seed, self.step)


def _named(f: Callable[..., object], args: tuple[Any, ...]) -> str:
    """Return the text of an event, for the list of last events."""
    owner = getattr(f, "__self__", None)
    text = getattr(f, "__name__", repr(f)).strip("_")
    if isinstance(owner, Host):
        return f"{text} of {owner.name}"
    for each in args:
        if isinstance(each, End):
            return f"{text} {each.host.name}:{each.local[1]} -> {each.remote_name}"
    return text


class _Errors(logging.Handler):
    """Makes each error that the library logs a failure of the run."""

    def __init__(self, network: Network) -> None:
        super().__init__(logging.ERROR)
        self._network = network

    def emit(self, record: logging.LogRecord) -> None:
        if self._network.checker.expects_errors:
            return
        error = record.exc_info[1] if record.exc_info else None
        self._network.fail(f"logged: {record.getMessage()}" + (f": {error!r}" if error else ""))
