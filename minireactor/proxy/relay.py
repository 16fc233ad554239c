"""The server of the command `minireactor proxy`: it joins each client to one of several targets.

    relay = Relay(reactor, [("10.0.0.1", 80), ("10.0.0.2", 80)], balance="least")
    relay.listen("127.0.0.1", 8080)
    reactor.run()

`legs` joins two connections. This module chooses the target, and applies the limits of `Server` to
both connections together.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address, host_port
from minireactor.core import events, flow
from minireactor.log import logger
from minireactor.proxy import CONNECTED, FAILED, Proxy, ProxyFactory
from minireactor.proxy.balance import FIRST, Balancer
from minireactor.proxy.health import Health, note_failure
from minireactor.serve.server import Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from minireactor.address import Address
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.protocol import ClientFactory
    from minireactor.proxy.targets import Changes, Place, Target
    from minireactor.transports.connection import Connection
    from minireactor.transports.connector import Connector
    from minireactor.transports.tls_start import SecureConnector


class Relay(Server):
    """Serve a proxy on ports of `reactor`.

    targets: one or more, each a Target, or its place as (host, port).
    balance: the order in which the targets are tried for a client, see Balancer.
    timeout: seconds for each attempt to connect.
    check: seconds between two probes of a target that is up; None to probe only those that are
        down. See Health, also for `chance`.
    rate: bytes a second in each direction of each client; None for no limit.
    splice: allow splice() for bulk data, where the system has it.
    target_tls: speaks TLS to the targets, see ProxyFactory; None for none.
    header: makes a PROXY header for each connection to a target, see ProxyFactory; None for none.
    on_event: called as `on_event(event, proxy, detail)` with the `Proxy` of a client. The events
        are those of `core.events`, and CONNECTED and FAILED:
        MADE: the client has connected.
        FAILED: the attempt to connect to proxy.place has failed; detail is a Failure.
        CONNECTED: the client has been joined to the target at proxy.place.
        PAUSE, RESUME: detail is the transport whose peer reads too slowly, or has caught up.
        LOST: both connections have ended.
    limits: the options of Server. They apply to a client and its target together: neither is idle
        while the other has traffic, and both are aborted if one stalls.
    """

    def __init__(
        self,
        reactor: Reactor,
        targets: Sequence[Target | Place],
        *,
        balance: str = FIRST,
        timeout: float | None = 30.0,
        check: float | None = None,
        chance: Callable[[], float] = random.random,
        rate: float | None = None,
        splice: bool = True,
        target_tls: SecureConnector | None = None,
        header: Callable[[Address, Address], bytes] | None = None,
        on_event: Callable[[str, Proxy, Any], None] | None = None,
        **limits: Any,
    ) -> None:
        self.balancer = Balancer(targets, balance, reactor.seconds)
        self._relay_factory = RelayFactory(self, timeout, rate, splice)
        super().__init__(reactor, self._relay_factory, **limits)
        self._relay_factory.keepalive = self._keepalive
        self._relay_factory.unsent = self._unsent
        self._relay_factory.target_tls = target_tls
        self._relay_factory.header = header
        self._relay_factory.loops.asks_sockets = self.headers is not None
        self.health = Health(
            reactor, self.balancer, self._connect_probe, self._on_change, check, chance
        )
        self._proxies: dict[Connection, Proxy] = {}  # keys: both transports of each proxy
        self._report = on_event or _ignore

    def _connect_probe(self, place: Place, factory: ClientFactory) -> Connector:
        relay_factory = self._relay_factory
        connector = relay_factory.connect_to_target(self.reactor, place, factory)
        if relay_factory.header is not None:
            from minireactor.serve.proxy_header import FOR_CHECKS

            header = relay_factory.header
            connector.first_bytes = FOR_CHECKS.get(header, header)
        return connector

    def listen(
        self,
        host: str,
        port: int,
        high: int = flow.HIGH,
        low: int | None = None,
        sockets: list[socket.socket] | None = None,
    ) -> Address:
        """Listen as Server does; the watermarks also apply to the connections to the targets."""
        self._relay_factory.marks = flow.checked_marks(high, low)
        address = super().listen(host, port, high, low, sockets)
        self.health.start()
        return address

    def set_marks(self, high: int, low: int | None = None) -> None:
        """Set the watermarks as Server does, and those of new connections to targets too."""
        self._relay_factory.marks = flow.checked_marks(high, low)
        super().set_marks(high, low)

    # Events.

    def _observe(self, event: str, connection: Connection, reason: Failure | None) -> None:
        if event == events.MADE:
            super()._observe(event, connection, reason)
        elif event in (events.PAUSE, events.RESUME) and connection in self._proxies:
            change = self.paused.add if event == events.PAUSE else self.paused.discard
            change(connection)
            self._report(event, self._proxies[connection], connection)
        # The end of one connection is not reported here: `ended` follows when both have ended.

    def _arrived(self, connection: Connection) -> None:
        self._proxies[connection] = connection.protocol
        super()._arrived(connection)

    def accepted(self, proxy: Proxy) -> None:
        self._report(events.MADE, proxy, None)

    def joined(self, proxy: Proxy) -> None:
        client, target = proxy.transports
        self._proxies[target] = proxy
        self._watch(client, target)
        if self.balancer.joined(proxy.place, proxy):
            self._has_changed(proxy.place)
        self._report(CONNECTED, proxy, None)

    def trying(self, proxy: Proxy) -> None:
        self.balancer.began(proxy.place, proxy)
        target = self.balancer.find(proxy.place)
        if target is not None:
            self.health.expect_answer(target)

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        if note_failure(self.balancer, proxy.place, proxy, reason):
            self._has_changed(proxy.place)
        self._report(FAILED, proxy, reason)

    def ended_early(self, proxy: Proxy) -> None:
        if self.balancer.ended_early(proxy.place):
            self._has_changed(proxy.place)

    def leads_back(self, proxy: Proxy) -> None:
        target = self.balancer.find(proxy.place)
        if target is not None:
            target.leads_back = True

    def ended(self, proxy: Proxy) -> None:
        if proxy.target in self._proxies:  # `joined` was called
            self.balancer.left(proxy.place, proxy.target.bytes_in > 0)
        elif self.balancer.gave_up(proxy.place, proxy):  # an attempt to connect was under way
            self._has_changed(proxy.place)
        try:
            self._report(events.LOST, proxy, None)
        finally:
            self._gone(proxy.client, None)
            for transport in proxy.transports:
                self._proxies.pop(transport, None)

    def label(self, connection: Connection) -> str:
        """Return a label for displays: "-> target" for a client, "<- client" for a target.

        Returns "" if the connection is not joined, or not any more."""
        proxy = self._proxies.get(connection)
        if proxy is None or proxy.target is None:
            return ""
        if connection is proxy.client:
            return f"-> {host_port(*proxy.place)}"
        return f"<- {format_address(proxy.client.getPeer())}"

    # The targets.

    def set_targets(self, targets: Iterable[Target]) -> Changes:
        """Replace the targets, and return what has changed: see Balancer.set_targets()."""
        changes = self.balancer.set_targets(targets)
        self.health.update()
        return changes

    def target_rows(self) -> list[dict[str, Any]]:
        """Return the state of each target, for the views: see Target.row()."""
        return [target.row() for target in self.balancer.all()]

    def _has_changed(self, place: Place) -> None:
        """Note that a client has found that a target is up again, or down."""
        target = self.balancer.find(place)
        if target is not None:
            self.health.changed(target)
            self._on_change(target)

    def _on_change(self, target: Target) -> None:
        """Log a new state, and let clients that wait for a target that is down try a usable one."""
        self._log_state(target)
        if not self.balancer.has_usable():
            return
        for each in self.balancer.all():
            clients = [client for client in each.attempts if isinstance(client, Proxy)]
            for proxy in clients if each.is_down else ():
                self.reactor.guard(proxy.client, proxy.move_on)

    def _log_state(self, target: Target) -> None:
        if len(self.balancer.all()) == 1:
            return  # each client's own line says the same
        # The latest state must stand in the log, even if the same state was logged a moment ago.
        uncounted = {"uncounted": True}
        if target.is_down:
            logger.warning("target %s is down: %s", target, target.reason, extra=uncounted)
        else:
            logger.warning("target %s is up again", target, extra=uncounted)

    # Timeouts and shutdown.

    def _close_ports(self) -> None:
        self.health.stop()
        super()._close_ports()

    def _parts(self, connection: Connection) -> tuple[Connection, ...]:
        return self._proxies[connection].transports

    def _stalled(self, connection: Connection, part: Connection) -> None:
        side = "client" if part is connection else "target"
        self._set_why(connection, f"{side}: took none of its bytes for {self._stall_timeout:g} s")
        super()._stalled(connection, part)

    def _idle(self, connection: Connection, busy: bool) -> None:
        self._set_why(connection, f"idle for {self._idle_timeout:g} s")
        super()._idle(connection, busy)

    def _lose(self, connection: Connection) -> None:
        connection.unregisterProducer()
        connection.loseConnection()

    def _let_finish(self, connection: Connection) -> bool:
        # Only the two peers know when a transfer is complete: they then close their connections.
        if self._proxies[connection].target is not None:
            return False
        self._set_why(connection, "the proxy is stopping")
        self._lose(connection)
        return True

    def _end_now(self, connection: Connection) -> bool:
        self._set_why(connection, "the proxy has stopped")
        return super()._end_now(connection)

    def _set_why(self, connection: Connection, why: str) -> None:
        proxy = self._proxies[connection]
        proxy.why = proxy.why or why


class RelayFactory(ProxyFactory):
    """Report the events of a ProxyFactory to a Relay, and take the targets from it."""

    def __init__(
        self,
        relay: Relay,
        timeout: float | None,
        rate: float | None,
        splice: bool,
    ) -> None:
        place = relay.balancer.all()[0].place
        super().__init__(*place, timeout=timeout, rate=rate, splice=splice)
        self._relay = relay

    def targets(self) -> Iterable[Place]:
        return self._relay.balancer.places()

    def all_targets(self) -> Iterable[Place]:
        return [target.place for target in self._relay.balancer.all() if not target.is_draining]

    def accepted(self, proxy: Proxy) -> None:
        self._relay.accepted(proxy)

    def trying(self, proxy: Proxy) -> None:
        self._relay.trying(proxy)

    def connected(self, proxy: Proxy) -> None:
        self._relay.joined(proxy)

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        self._relay.failed(proxy, reason)

    def ended_early(self, proxy: Proxy) -> None:
        self._relay.ended_early(proxy)

    def leads_back(self, proxy: Proxy, why: str) -> None:
        self._relay.leads_back(proxy)
        super().leads_back(proxy, why)

    def ended(self, proxy: Proxy) -> None:
        self._relay.ended(proxy)


def _ignore(event: str, proxy: Proxy, detail: Any) -> None:
    """Ignore an event: there is no `on_event`."""
