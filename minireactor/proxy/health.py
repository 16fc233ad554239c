"""Probe the targets of a proxy: connect to those that are down until one connection is good.

A probe is an attempt to connect that the proxy makes itself, so that no client waits for it. Where
the proxy speaks TLS to the targets, the handshake is a part of the attempt. A target passes if it
then sends a byte, or keeps the connection for EARLY_SECONDS.
"""

from __future__ import annotations

import errno
import random
from functools import partial
from typing import TYPE_CHECKING, Callable

from minireactor.core.timers import cancel_if_active
from minireactor.error import ConnectError, ConnectionLost, DNSLookupError
from minireactor.failure import Failure
from minireactor.protocol import ClientFactory, Protocol
from minireactor.proxy.balance import EARLY_SECONDS, SLOW_SECONDS

if TYPE_CHECKING:
    from minireactor.address import Address
    from minireactor.core.timers import DelayedCall
    from minireactor.interfaces import IConnector
    from minireactor.internet import Reactor
    from minireactor.proxy.balance import Balancer
    from minireactor.proxy.targets import Place, Target
    from minireactor.transports.connector import Connector

# Seconds between two probes of a target that is down: the first pause, which doubles up to the
# longest one. A target that was up for less than the longest pause goes on with its last pause.
FIRST_BACKOFF, MAX_BACKOFF = 1.0, 30.0
MIN_PAUSE = 0.1  # seconds, whatever `check` is: an attempt that is refused takes no time
JITTER = 0.25  # each pause is longer or shorter by up to this fraction, so that probes spread out

_OUR_OWN_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def note_failure(balancer: Balancer, place: Place, attempt: object, reason: Failure) -> bool:
    """Tell the balancer how an attempt has failed. Return whether the target was up until now."""
    if _is_the_targets_fault(reason.value):
        return balancer.failed(place, attempt, reason.getErrorMessage())
    return balancer.gave_up(place, attempt)


def _is_the_targets_fault(error: BaseException) -> bool:
    """Return whether a failure to connect is the target's fault, and not our own."""
    if not isinstance(error, (ConnectError, DNSLookupError, ConnectionLost)):
        return False  # for example an exception raised by a factory
    causes = (error, error.__cause__, *error.args)
    codes = {getattr(each, name, None) for each in causes for name in ("osError", "errno")}
    return codes.isdisjoint(_OUR_OWN_FAULT)


class Health:
    """Probe the targets of a Balancer: start()* changed()* update()* stop()

    connect: called as `connect(place, factory)`; returns a Connector that connects to the target in
        the way in which clients are connected to it.
    on_change: called with a target that a probe, or the lack of an answer, has brought up or down.
    check: seconds between two probes of a target that is up, or None to probe only those that are
        down. A target that is down is probed at least that often.
    chance: returns a random number from 0 to 1, for the jitter.

    There is at most one probe of a target at a time. A probe fails without blame if it is our own
    fault, for example if no descriptor is left.
    """

    def __init__(
        self,
        reactor: Reactor,
        balancer: Balancer,
        connect: Callable[[Place, ClientFactory], Connector],
        on_change: Callable[[Target], object],
        check: float | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._reactor = reactor
        self._balancer = balancer
        self._connect = connect
        self._on_change = on_change
        self._check = check
        self._chance = chance
        self._timers: dict[Target, DelayedCall] = {}
        self._probes: dict[Target, Probe] = {}
        self._answers_due: dict[Target, DelayedCall] = {}
        self._is_running = False

    def start(self) -> None:
        """Begin to probe. Idempotent."""
        self._is_running = True
        self.update()

    def stop(self) -> None:
        """End all probes, for good. Idempotent."""
        self._is_running = False
        for target in {**self._timers, **self._probes}:
            self._drop(target)
        while self._answers_due:
            self._answers_due.popitem()[1].cancel()

    def update(self) -> None:
        """Probe the targets that the balancer has now, and no others."""
        targets = {target: None for target in self._balancer.all() if not target.is_draining}
        for target in {**self._timers, **self._probes}:
            if target not in targets:
                self._drop(target)
        for target in targets:
            if target not in self._timers and target not in self._probes:
                # The first check of all targets comes soon, but not of all at the same time.
                first = None if self._check is None else min(self._check, 1.0) * self._chance()
                self._schedule(target, first)

    def changed(self, target: Target) -> None:
        """Note that a client has found that a target is down, or up again."""
        if target.is_down:
            if self._reactor.seconds() - target.up_since >= MAX_BACKOFF:
                target.backoff = 0.0
            self._back_off(target)
        timer = self._timers.pop(target, None)
        if timer is not None:
            timer.cancel()
        if target not in self._probes:
            self._schedule(target)

    def expect_answer(self, target: Target) -> None:
        """Note that an attempt to connect to a target begins, of a client or of a probe.

        One timer for each target finds attempts that get no answer."""
        if target not in self._answers_due and self._is_running:
            self._answers_due[target] = self._reactor.call_later_internal(
                SLOW_SECONDS, partial(self._look_for_answer, target)
            )

    def _look_for_answer(self, target: Target) -> None:
        del self._answers_due[target]
        if self._balancer.overdue(target):
            self.changed(target)
            self._on_change(target)
        elif target.attempts and not target.is_down:
            self.expect_answer(target)

    def _back_off(self, target: Target) -> None:
        target.backoff = min(max(2 * target.backoff, FIRST_BACKOFF), MAX_BACKOFF)

    def _schedule(self, target: Target, seconds: float | None = None) -> None:
        if not self._is_running or target.is_draining or target.leads_back:
            return
        if seconds is None:
            pauses = [self._check, target.backoff if target.is_down else None]
            known = [pause for pause in pauses if pause is not None]
            if not known:
                return
            seconds = max(min(known), MIN_PAUSE) * (1 - JITTER + 2 * JITTER * self._chance())
        self._timers[target] = self._reactor.call_later_internal(
            seconds, partial(self._start, target)
        )

    def _start(self, target: Target) -> None:
        del self._timers[target]
        probe = self._probes[target] = Probe(self, target)
        self._balancer.began(target.place, probe)
        self.expect_answer(target)
        probe.connector = self._connect(target.place, probe)

    def _drop(self, target: Target) -> None:
        timer = self._timers.pop(target, None)
        if timer is not None:
            timer.cancel()
        probe = self._probes.pop(target, None)
        if probe is not None:
            self._balancer.gave_up(target.place, probe)
            probe.cancel()

    # What a probe reports.

    def connected(self, probe: Probe) -> None:
        """Note that a probe is connected. Its target has to keep the connection for a while."""
        if self._probes.get(probe.target) is probe:
            self._balancer.answered(probe.target.place, probe)
            probe.timer = self._reactor.call_later_internal(
                EARLY_SECONDS, partial(self.ended, probe, None)
            )

    def ended(self, probe: Probe, reason: Failure | None) -> None:
        """Note the result of a probe: None, or the failure. Does nothing for a second result."""
        target = probe.target
        if self._probes.get(target) is not probe:
            return
        del self._probes[target]
        if reason is None:
            has_changed = self._balancer.passed(target.place)
        else:
            has_changed = note_failure(self._balancer, target.place, probe, reason)
        probe.cancel()
        if has_changed:
            self.changed(target)
            self._on_change(target)
        else:
            if target.is_down:
                self._back_off(target)
            self._schedule(target)


class Probe(ClientFactory):
    """One attempt to connect to a target, on behalf of Health."""

    noisy = False

    def __init__(self, health: Health, target: Target) -> None:
        self.health = health
        self.target = target
        self.connector: Connector | None = None
        self.timer: DelayedCall | None = None  # while the target has to keep the connection

    def cancel(self) -> None:
        """End the attempt or the connection. Idempotent."""
        timer, self.timer = self.timer, None
        cancel_if_active(timer)
        connector, self.connector = self.connector, None
        if connector is not None:
            connector.disconnect()

    def buildProtocol(self, addr: Address | None) -> ProbeProtocol:
        return ProbeProtocol(self)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.health.ended(self, reason)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        if self.timer is not None:  # it was connected, and its handshake was complete
            reason = Failure(ConnectError(string="it has ended the connection of a probe at once"))
        self.health.ended(self, reason)


class ProbeProtocol(Protocol):
    """The protocol of a probe's connection. Views leave such a connection out."""

    unwatched = True

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def connectionMade(self) -> None:
        if not self.transport.encrypted:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        self._probe.health.connected(self._probe)

    def dataReceived(self, data: bytes) -> None:
        self._probe.health.ended(self._probe, None)
