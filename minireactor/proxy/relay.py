"""The server of the command `minireactor proxy`: it joins each client to one of several targets.

    relay = Relay(reactor, [("10.0.0.1", 80), ("10.0.0.2", 80)], balance="least")
    relay.listen("127.0.0.1", 8080)
    reactor.run()

`legs` joins two connections. This module chooses the target, and applies the limits of `Server` to
both connections together.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Callable

from minireactor.address import format_address, host_port
from minireactor.core import events, flow
from minireactor.error import ConnectError, ConnectionLost, DNSLookupError
from minireactor.log import logger
from minireactor.proxy import CONNECTED, FAILED, Proxy, ProxyFactory
from minireactor.proxy.balance import FIRST, Balancer
from minireactor.serve.server import Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from minireactor.address import Address
    from minireactor.failure import Failure
    from minireactor.internet import Reactor
    from minireactor.proxy.balance import Place
    from minireactor.transports.connection import Connection
    from minireactor.transports.tls_start import SecureConnector

_OUR_OWN_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Relay(Server):
    """Serve a proxy on ports of `reactor`.

    places: the targets, one or more, each as (host, port).
    balance: the order in which the targets are tried for a client, see Balancer.
    timeout: seconds for each attempt to connect.
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
        places: Sequence[Place],
        *,
        balance: str = FIRST,
        timeout: float | None = 30.0,
        rate: float | None = None,
        splice: bool = True,
        target_tls: SecureConnector | None = None,
        header: Callable[[Address, Address], bytes] | None = None,
        on_event: Callable[[str, Proxy, Any], None] | None = None,
        **limits: Any,
    ) -> None:
        self._places = places
        self._relay_factory = RelayFactory(self, places, timeout, rate, splice)
        super().__init__(reactor, self._relay_factory, **limits)
        self._relay_factory.keepalive = self._keepalive
        self._relay_factory.unsent = self._unsent
        self._relay_factory.target_tls = target_tls
        self._relay_factory.header = header
        self._relay_factory.loops.asks_sockets = self.headers is not None
        self.balancer = Balancer(places, balance, reactor.seconds)
        self._proxies: dict[Connection, Proxy] = {}  # keys: both transports of each proxy
        self._report = on_event or _ignore

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
        return super().listen(host, port, high, low, sockets)

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
        for transport in proxy.transports:
            self._proxies[transport] = proxy
        self._watch(proxy.client, proxy.transports[-1])
        self.balancer.joined(proxy.place, proxy)
        self._report(CONNECTED, proxy, None)

    def trying(self, proxy: Proxy) -> None:
        self.balancer.began(proxy.place, proxy)

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        if _is_the_targets_fault(reason.value):
            seconds = self.balancer.failed(proxy.place, proxy)
            if seconds:
                logger.warning(
                    "target %s is tried last for %d s: %s",
                    host_port(*proxy.place),
                    seconds,
                    reason.getErrorMessage(),
                )
        else:
            self.balancer.gave_up(proxy.place, proxy)
        self._report(FAILED, proxy, reason)

    def ended(self, proxy: Proxy) -> None:
        if proxy.target in self._proxies:  # `joined` was called
            self.balancer.left(proxy.place)
        elif proxy.place in self._places:  # an attempt to connect may be under way
            self.balancer.gave_up(proxy.place, proxy)
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

    # Timeouts and shutdown.

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


def _is_the_targets_fault(error: BaseException) -> bool:
    """Return whether a failure to connect is the target's fault, and not our own."""
    if not isinstance(error, (ConnectError, DNSLookupError, ConnectionLost)):
        return False  # for example an exception raised by a factory
    causes = (error, error.__cause__, *error.args)
    codes = {getattr(each, name, None) for each in causes for name in ("osError", "errno")}
    return codes.isdisjoint(_OUR_OWN_FAULT)


class RelayFactory(ProxyFactory):
    """Report the events of a ProxyFactory to a Relay, and take the targets from it."""

    def __init__(
        self,
        relay: Relay,
        places: Sequence[Place],
        timeout: float | None,
        rate: float | None,
        splice: bool,
    ) -> None:
        super().__init__(*places[0], timeout=timeout, rate=rate, splice=splice)
        self._places = places
        self._relay = relay

    def targets(self) -> Iterable[Place]:
        return self._relay.balancer.targets()

    def all_targets(self) -> Iterable[Place]:
        return self._places

    def accepted(self, proxy: Proxy) -> None:
        self._relay.accepted(proxy)

    def trying(self, proxy: Proxy) -> None:
        self._relay.trying(proxy)

    def connected(self, proxy: Proxy) -> None:
        self._relay.joined(proxy)

    def failed(self, proxy: Proxy, reason: Failure) -> None:
        self._relay.failed(proxy, reason)

    def ended(self, proxy: Proxy) -> None:
        self._relay.ended(proxy)


def _ignore(event: str, proxy: Proxy, detail: Any) -> None:
    """Ignore an event: there is no `on_event`."""
