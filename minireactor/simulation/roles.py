"""What the parts of a simulated network use of each other, so that imports form no circle.

Net       a `Network`
Machine   a `Host`
Kernel    a `VirtualSystem`
Wire      a `Link`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Protocol

if TYPE_CHECKING:
    from minireactor.simulation.chance import Chance
    from minireactor.simulation.faults import Faults


class Net(Protocol):
    """The network, as its hosts, links and checks see it."""

    time: float
    chance: Chance
    faults: Faults
    checker: Any
    hosts: Any
    current: Any
    DEAD_ADDRESS: str

    def seconds(self) -> float: ...

    def at(self, when: float, f: Callable[..., object], *args: Any) -> None: ...

    def run_until(self, is_over: Callable[[], bool]) -> None: ...

    def addresses_of(self, name: str) -> list[str]: ...

    def connect(self, end: Any, address: tuple[str, int]) -> None: ...

    def fail(self, message: str) -> None: ...


class Machine(Protocol):
    """A host, as its sockets and the checks see it."""

    name: str
    address: str
    frozen: bool
    is_on: bool
    progressed: bool

    @property
    def network(self) -> Net: ...

    @property
    def poller(self) -> Any: ...

    @property
    def system(self) -> Any: ...

    def spend(self) -> None: ...

    def spend_bytes(self, size: int) -> None: ...

    def numeric(self, place: str) -> str: ...

    def free_port(self) -> int: ...

    def bound(self, address: tuple[str, int]) -> tuple[str, int]: ...

    def add_listener(self, listener: Any) -> None: ...

    def remove_listener(self, listener: Any) -> None: ...


class Kernel(Protocol):
    """The descriptors of a host, as its sockets see them."""

    @property
    def host(self) -> Machine: ...

    def new_fd(self) -> int: ...

    def added(self, sock: Any) -> Any: ...

    def close(self, fd: int) -> None: ...


class Wire(Protocol):
    """A link, as the ends of connections see it."""

    delay: float
    send_buffer: int
    receive_buffer: int

    def carry(self, end: Any, size: int, arrive: Callable[..., object], *args: Any) -> None: ...
