"""The links of a simulated network: when each segment arrives."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor.simulation.ends import SYN_SECONDS, TIMEOUT_SECONDS

if TYPE_CHECKING:
    from minireactor.simulation.ends import End
    from minireactor.simulation.roles import Net

RETRY_SECONDS = 0.5  # between two attempts to deliver the segments that a link holds back


class Link:
    """What joins two hosts.

    bandwidth: bytes a second in each direction, shared by all connections of the two hosts.
    delay: seconds that each segment takes from one host to the other.
    jitter: the most that a draw for each segment adds to `delay`, in seconds. The segments of a
        connection stay in order.
    send_buffer, receive_buffer: the sizes of the kernels' buffers for each connection, in bytes.
    is_cut: whether no segment passes. Sent segments then arrive after the cut has ended.
    """

    def __init__(
        self,
        network: Net,
        bandwidth: float = 100e6,
        delay: float = 0.001,
        jitter: float = 0.0,
        send_buffer: int = 256 * 1024,
        receive_buffer: int = 128 * 1024,
    ) -> None:
        self._network = network
        self.bandwidth = bandwidth
        self.delay = delay
        self.jitter = jitter
        self.send_buffer = send_buffer
        self.receive_buffer = receive_buffer
        self.is_cut = False
        self.carried = 0  # bytes, both directions together
        self._free_at: dict[str, float] = {}  # by the sending host's name

    def set(self, **values: Any) -> None:
        """Change several of these values. Raises TypeError for an unknown name."""
        for name, value in values.items():
            if name not in ("bandwidth", "delay", "jitter", "send_buffer", "receive_buffer"):
                raise TypeError(f"a link has no {name!r}; see the documentation of Link")
            setattr(self, name, value)

    def carry(self, end: End, size: int, arrive: Callable[..., object], *args: Any) -> None:
        """Carry a segment of `size` bytes from `end` to its peer, then call `arrive(*args)`."""
        network = self._network
        now = network.seconds()
        if size:
            name = end.host.name
            start = max(now, self._free_at.get(name, 0.0))
            now = self._free_at[name] = start + size / self.bandwidth
            self.carried += size
        arrival = now + self.delay
        if self.jitter:
            arrival += self.jitter * network.chance.random()
        # The segments of one direction of a connection arrive in order.
        end.last_arrival = arrival = max(arrival, end.last_arrival)
        network.at(arrival, self._deliver, end, arrive, args)

    def _deliver(self, end: End, arrive: Callable[..., object], args: Any) -> None:
        if end.held is not None:
            end.held.append((arrive, args))
        elif self._is_passable(end):
            self._arrive(end, arrive, args)
        else:
            end.held = deque([(arrive, args)])
            end.held_since = self._network.time
            self._network.at(self._network.time + RETRY_SECONDS, self._retry, end)

    def _is_passable(self, end: End) -> bool:
        return not self.is_cut and self._network.hosts[end.remote_name].is_on

    def _arrive(self, end: End, arrive: Callable[..., object], args: Any) -> None:
        peer = end.peer
        if peer is not None and not peer.host.is_on:
            end.lose(errno.ECONNRESET)  # that host has restarted, and knows no connection
        else:
            arrive(*args)

    def _retry(self, end: End) -> None:
        network = self._network
        if end.held is None:
            return
        if self._is_passable(end):
            held, end.held = end.held, None
            for arrive, args in held:
                self._arrive(end, arrive, args)
        elif network.time - end.held_since > (TIMEOUT_SECONDS if end.connected else SYN_SECONDS):
            end.held = None
            end.lose(errno.ETIMEDOUT)
        else:
            network.at(network.time + RETRY_SECONDS, self._retry, end)
