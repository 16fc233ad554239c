"""Who calls what, and when: the contract between reactor, transports, producers and protocols.

Each class names the methods of one role and says what its callers and its implementers owe each
other. A rule has an id, such as P2; the README lists them all, and the tests are named by them.

    producer  makes bytes.  consumer  takes them.  A transport is both: it consumes what the
              application writes, and produces what it reads from the peer.
    pending   the number of bytes that were written and that the kernel has not yet accepted.
    marks     two thresholds for it. Pending crosses upward when it is above the high mark and
              downward when it is at or under the low mark.

These are `typing.Protocol` classes: an object plays a role by having its methods. Nothing needs
to inherit from them or to name them, but it may do both:

    @implementer(IPushProducer)      # as Twisted programs say it; no effect
    class Numbers: ...

    class Numbers(IPushProducer): ...  # has a type checker report what is missing

A method that a subclass leaves out does nothing, and never hides one of another base class.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Callable, Protocol, TypeVar, Union

if TYPE_CHECKING:
    from minireactor.defer import Deferred
    from minireactor.failure import Failure

    _ProtocolMeta = ABCMeta
else:
    _ProtocolMeta = type(Protocol)

Buffer = Union[bytes, bytearray, memoryview]
_Any = TypeVar("_Any")


def implementer(*interfaces: object) -> Callable[[_Any], _Any]:
    """A class decorator that says which roles a class plays. It changes nothing."""
    return _unchanged


def provider(*interfaces: object) -> Callable[[_Any], _Any]:
    """The same for a class, or any other object, that plays the roles itself."""
    return _unchanged


def _unchanged(declared: _Any) -> _Any:
    return declared


class _Interface(_ProtocolMeta):
    """What the interfaces can be asked, and what makes it harmless to inherit from them."""

    # Private by name, for user classes inherit them.
    __methods: frozenset[str] = frozenset()
    __attributes: frozenset[str] = frozenset()

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        if Protocol not in bases:
            return  # not an interface, but a class that inherits from one
        own = frozenset(member for member in namespace if not member.startswith("_"))
        attributes = frozenset(name for name in own if isinstance(namespace[name], property))
        methods = own - attributes
        parents = [base for base in bases if isinstance(base, _Interface)]
        cls.__methods = methods.union(*(base.__methods for base in parents))
        cls.__attributes = attributes.union(*(base.__attributes for base in parents))
        for method in methods:
            setattr(cls, method, _standing_back(cls, namespace[method]))
        # To a type checker an attribute is a property, so that one will do. At run time that
        # would keep a subclass from setting it.
        for attribute in attributes:
            delattr(cls, attribute)

    def providedBy(cls, obj: object) -> bool:
        """Whether `obj` has everything that is named here."""
        return all(hasattr(obj, member) for member in cls.__methods | cls.__attributes)

    def implementedBy(cls, other: type) -> bool:
        """Whether the class `other` has all methods; attributes may come with the instance."""
        return all(hasattr(other, member) for member in cls.__methods or cls.__attributes)


def _standing_back(interface: type, method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` of an interface, which is to hide no other: it calls the next one there is."""

    @wraps(method)
    def call_next(self: object, *args: Any, **kwargs: Any) -> Any:
        behind = getattr(super(interface, self), method.__name__, None)
        return None if behind is None else behind(*args, **kwargs)

    return call_next


# --- Producers and consumers ----------------------------------------------------------------------


class IProducer(Protocol, metaclass=_Interface):
    """Makes bytes for a consumer. Register it with `consumer.registerProducer`."""

    def stopProducing(self) -> None:
        """Make no more, ever: the consumer is lost, and has let go of this producer.

        E3: exactly one such call, before the protocol's connectionLost; no call follows it.
        E4: no need to unregister.
        """


class IPushProducer(IProducer, Protocol):
    """Makes bytes of its own accord, and writes them until it is told to wait.

        (pauseProducing resumeProducing)* pauseProducing? stopProducing?

    P1 From the registration on it is flowing. It is not told so: it starts itself.
    P3 Pause and resume strictly alternate.
    """

    def pauseProducing(self) -> None:
        """Write no more until `resumeProducing`; what is written all the same is buffered.

        P1: comes at once, from inside registerProducer, if pending is above the high mark then.
        P2: comes once per upward crossing, from inside the `write()` that crossed. The producer
        is usually in the middle of its own loop then, which so has to look at a flag after each
        write.
        """

    def resumeProducing(self) -> None:
        """Write on.

        P3: comes once per downward crossing, from the write pass, never from inside `write()`.
        P4: may fill the consumer again on the spot: it is paused again within this call, and
        resumed again later.
        """


class IPullProducer(IProducer, Protocol):
    """Makes bytes when it is asked.

        resumeProducing+ stopProducing?

    U2: one that writes nothing when asked is not polled. It is asked again after the next write,
    by whomever, has been flushed. A stage that swallows a chunk has to ask its own source again.
    """

    def resumeProducing(self) -> None:
        """Write a chunk, or call `consumer.unregisterProducer()` if there is none left.

        U1: comes once from inside registerProducer, then each time the write pass has brought
        pending to the low mark or under it.
        """


class IConsumer(Protocol, metaclass=_Interface):
    """Takes bytes, from the application or from the one producer that is registered."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let `producer` supply the bytes: an IPushProducer if `streaming`, else an IPullProducer.

        P1, U1: a push producer starts itself, a pull producer is asked at once.
        E1: RuntimeError, naming both, if one is registered; that one goes on undisturbed.
        E2: once the consumer is lost, calls `producer.stopProducing()` and raises nothing.
        """

    def unregisterProducer(self) -> None:
        """The producer has no more to write. Must be called, or loseConnection waits for ever.

        E4: does nothing if none is registered. E5: a close that was waiting goes on.
        """

    def write(self, data: Buffer) -> None:
        """Take `data`: bytes, bytearray, memoryview or any other buffer.

        B1: `str` is a TypeError. A mutable buffer may be changed after the call.
        B2: nothing is sent on the spot. Nothing is raised for a peer that has gone: what is
        written to it is dropped, and the news comes as connectionLost.
        P2: calls `pauseProducing()` of a registered push producer, if this takes pending above
        the high mark. A mark is a threshold, not a limit: all of `data` is taken.
        """


# --- Transports and protocols ---------------------------------------------------------------------


class ITransport(Protocol, metaclass=_Interface):
    """The way to the peer, as any protocol may use it."""

    def write(self, data: Buffer) -> None:
        """As `IConsumer.write`: buffered, never sent on the spot, never an error of the peer's."""

    def writeSequence(self, iovec: Iterable[Buffer]) -> None:
        """Write the parts one after the other. B1: the same marks hold as for one `write`."""

    def loseConnection(self) -> None:
        """Close in good order; may be called again.

        E5: first waits until the producer has unregistered and pending is zero.
        C1: what was written before reaches a peer that reads, even past bytes of the peer's that
        nobody has read here. R3: no dataReceived follows.
        """

    def getPeer(self) -> IAddress:
        """The address of the other end, in numbers; also after the loss."""

    def getHost(self) -> IAddress:
        """The address of this end; also after the loss."""


class ITCPTransport(ITransport, IConsumer, IPushProducer, Protocol):
    """A TCP connection: a consumer of what is written, a push producer of what is read.

    Writing, M1 to M3. The marks are 64 KiB and 16 KiB, and count pending bytes only, not what
    stands in buffers of the kernel. Several writes between two passes of the loop go out together.

    Reading, R1 to R4. `dataReceived` comes while `reading` is true. A paused connection still
    notices a reset. One connection gets a bounded share of each pass of the loop.

    Ending, E8, B3. However it ends, `connectionLost(reason)` comes once and last, never from
    inside a call on the transport. An exception out of a callback is logged and ends this one
    connection, with the exception as the reason.
    """

    @property
    def connected(self) -> bool:
        """Whether connectionLost is still to come."""

    @property
    def disconnected(self) -> bool:
        """The opposite of `connected`."""

    @property
    def disconnecting(self) -> bool:
        """Whether this end has asked for the end: by loseConnection, abortConnection or kin."""

    @property
    def reading(self) -> bool:
        """Whether input may be delivered: false while paused, closing or closed. It stays true
        after readConnectionLost, so that a receiver can go on with what it holds."""

    @property
    def producer(self) -> Any:
        """The registered producer, or None."""

    @property
    def streamingProducer(self) -> bool:
        """Whether that is a push producer."""

    @property
    def bufferSize(self) -> int:
        """The high mark, in bytes. On a connection it may be set; low becomes a quarter of it."""

    def setWriteBufferLimits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks of this connection, in bytes.

        M1: `0 <= low < high`, anything else is a ValueError. `low` is high // 4 if only `high`
        is given. M2: pause at `pending > high`, resume at `pending <= low`; `low=0` resumes only
        once all is sent. M3: holds at once, pausing now or resuming with the next write pass.
        """

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Any:
        """Write `count` bytes of a real file from `offset` on, all there are without a count; they
        are sent from where they lie, and pending until then. A Deferred of their number, which
        fails with ConnectionLost if the connection ends before. TypeError. ValueError, also for a
        file that does not have the bytes of its size, as in /proc: send that by a FileSender.

        The file stays open, and as long as it is, meanwhile; if it gets shorter, the connection is
        aborted, with FileEnded as the reason."""

    def stopConsuming(self) -> None:
        """Unregister the producer, then `loseConnection()`."""

    def pauseProducing(self) -> None:
        """Read no more for now. R1: no dataReceived follows, and a line receiver keeps back the
        lines of the same chunk. Does nothing on a closed connection, or when paused already."""

    def resumeProducing(self) -> None:
        """Read on. R1: a receiver that keeps lines back goes on with them, on the next pass.
        Does nothing on a connection that is closing or closed, or not paused."""

    def stopProducing(self) -> None:
        """`loseConnection()`."""

    def loseWriteConnection(self) -> None:
        """Close the write side in good order. E7: reading goes on; a half-closeable protocol gets
        writeConnectionLost. What is written afterwards is dropped."""

    def abortConnection(self) -> None:
        """Close now. E6: what is pending is dropped, the peer gets a reset, connectionLost comes
        on a later pass with ConnectionAborted, and no producer is resumed. May be called again,
        and after `loseConnection`."""

    def getTcpNoDelay(self) -> bool:
        """Whether TCP_NODELAY is set: small packets are not held back to be merged. It is, until
        it is cleared: what is written in one pass of the loop goes out together as it is."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Set or clear TCP_NODELAY."""

    def getTcpKeepAlive(self) -> bool:
        """Whether SO_KEEPALIVE is set: the system probes an idle connection."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Set or clear SO_KEEPALIVE."""


class IProtocol(Protocol, metaclass=_Interface):
    """What happens on one connection.

        makeConnection(connectionMade) dataReceived* connectionLost

    B3: whatever one of these raises is logged and ends this connection.
    """

    def makeConnection(self, transport: Any) -> None:
        """Keep `transport`, an ITCPTransport, as the attribute of that name, and call
        `connectionMade`."""

    def connectionMade(self) -> None:
        """The connection is up: greet, register a producer, set the marks."""

    def dataReceived(self, data: bytes) -> None:
        """Some bytes, in order. How they are cut says nothing about the peer's writes.

        R1, R3: does not come while the transport is paused, nor after loseConnection.
        """

    def connectionLost(self, reason: Failure) -> None:
        """The connection has ended, and `reason.value` says how: ConnectionDone for good order,
        ConnectionAborted, another ConnectionLost, or the exception out of a callback.

        E8: comes exactly once for each connectionMade, and last of all.
        """


class IHalfCloseableProtocol(Protocol, metaclass=_Interface):
    """To be offered beside IProtocol by a protocol that goes on when one direction has ended.

    E7: a protocol counts as one if it has both methods. Each comes at most once; connectionLost
    follows when both directions have ended. Any other protocol loses the whole connection when
    its peer ends one direction.
    """

    def readConnectionLost(self) -> None:
        """The peer will send no more; writing goes on."""

    def writeConnectionLost(self) -> None:
        """The write side is closed; reading goes on."""


class IProtocolFactory(Protocol, metaclass=_Interface):
    """Makes the protocols for a port or a connector.

    doStart buildProtocol* doStop
    """

    def buildProtocol(self, addr: Any) -> Any:
        """An IProtocol for the peer at `addr`, or None to close the connection gracefully."""

    def doStart(self) -> None:
        """A port or connector begins to use this factory; there may be several at a time."""

    def doStop(self) -> None:
        """One of them has finished. Comes as often as `doStart`."""


class IAddress(Protocol, metaclass=_Interface):
    """One end of a connection. Equal addresses are equal by value, and hash alike."""

    @property
    def type(self) -> str:
        """The protocol, "TCP" or "UDP", in capitals."""

    @property
    def host(self) -> str:
        """The address in numbers, or the name that was asked for."""

    @property
    def port(self) -> int:
        """The port number."""


class IListeningPort(Protocol, metaclass=_Interface):
    """What listenTCP returns."""

    def startListening(self) -> None:
        """Listen, again after `stopListening`. CannotListenError if the port cannot be bound."""

    def stopListening(self) -> Deferred[None] | None:
        """Close the port; its number can be bound again at once. Connections go on.

        The Deferred fails with what the factory's stopFactory raises."""

    def getHost(self) -> IAddress:
        """The address, with the number that the system chose if the port was 0."""


class IConnector(Protocol, metaclass=_Interface):
    """What connectTCP returns, and what a ClientFactory is given."""

    def connect(self) -> None:
        """Try again, once disconnected: also from inside the factory's callbacks."""

    def stopConnecting(self) -> None:
        """Give up the attempt: clientConnectionFailed comes with UserError. NotConnectingError
        if there is none."""

    def disconnect(self) -> None:
        """`stopConnecting()` or the transport's `loseConnection()`, whichever there is to do."""

    def getDestination(self) -> IAddress:
        """The address that was asked for."""


# --- The reactor ----------------------------------------------------------------------------------


class IDelayedCall(Protocol, metaclass=_Interface):
    """What callLater returns. All but `active` and `getTime` raise AlreadyCalled or
    AlreadyCancelled."""

    def getTime(self) -> float:
        """When it is due, in the reactor's `seconds()`."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def cancel(self) -> None:
        """Take it back."""

    def delay(self, secondsLater: float) -> None:
        """Make it later by so many seconds."""

    def reset(self, secondsFromNow: float) -> None:
        """Make it due so many seconds from now."""


class ILoggingContext(Protocol, metaclass=_Interface):
    """Something that log records can name."""

    def logPrefix(self) -> str:
        """Its name, short."""


class IFileDescriptor(ILoggingContext, Protocol):
    """Owns a descriptor that the reactor watches. `logPrefix` is not asked for here."""

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed, which disconnects the object."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has let go of this object. Comes once, and last."""


class IReadDescriptor(IFileDescriptor, Protocol):
    """For addReader."""

    def doRead(self) -> Any:
        """The descriptor is readable. Return None, or a reason to be disconnected: an exception
        or a Failure."""


class IWriteDescriptor(IFileDescriptor, Protocol):
    """For addWriter."""

    def doWrite(self) -> Any:
        """The descriptor is writable. Return as `doRead`."""


class IReadWriteDescriptor(IReadDescriptor, IWriteDescriptor, Protocol):
    """For both."""


class IHalfCloseableDescriptor(Protocol, metaclass=_Interface):
    """Beside the above, for an object whose two directions end one at a time."""

    def readConnectionLost(self, reason: Failure) -> None:
        """Comes instead of connectionLost when `doRead` returns ConnectionDone."""

    def writeConnectionLost(self, reason: Failure) -> None:
        """The other direction has ended. The reactor, which cannot tell, never calls this."""


class IReactorCore(Protocol, metaclass=_Interface):
    """The life of the reactor."""

    @property
    def running(self) -> bool:
        """False in the phase "before startup", True from "during startup" on."""

    def run(self, installSignalHandlers: bool = True) -> None:
        """Loop until `stop()` or `crash()`. ReactorAlreadyRunning inside a run,
        ReactorNotRestartable after a stop."""

    def stop(self) -> None:
        """Fire the shutdown event on a later pass, then return from `run()`; open connections get
        connectionLost. ReactorNotRunning if it is not running."""

    def crash(self) -> None:
        """Return from `run()` without any event; it may run again."""

    def iterate(self, delay: float = 0) -> None:
        """One pass, which waits up to `delay` seconds for something to happen."""

    def callWhenRunning(self, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        """Call `f(*a, **k)` at once if the reactor runs, else when it starts, in order."""

    def addSystemEventTrigger(
        self, phase: str, eventType: str, f: Callable[..., Any], *a: Any, **k: Any
    ) -> Any:
        """Call `f(*a, **k)`, once, "before", "during" or "after" an event such as "startup" or
        "shutdown". What a "before" trigger returns is waited for if it has `addBoth`."""

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """Take back what addSystemEventTrigger returned. TypeError, ValueError or KeyError."""

    def fireSystemEvent(self, eventType: str) -> None:
        """Call the triggers of an event. One that raises does not stop the others."""


class IReactorTime(Protocol, metaclass=_Interface):
    """Calls to come."""

    def seconds(self) -> float:
        """The time in seconds, on a clock that nobody sets."""

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        """An IDelayedCall for `f(*a, **k)`, `delay` seconds from now. Those that are due at the
        same time come in the order in which they were asked for."""

    def getDelayedCalls(self) -> Any:
        """Those that are still to come, in no particular order."""


class IReactorTCP(Protocol, metaclass=_Interface):
    """Connections, from here and from elsewhere."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """An IListeningPort at `interface`: an address, or a name, which stands for all of its
        addresses that this machine has; all IPv4 addresses if empty. CannotListenError."""

    def connectTCP(
        self,
        host: str | bytes,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> Any:
        """An IConnector, that has begun to connect. Every failure, be it within `timeout` seconds
        or by it, arrives as `factory.clientConnectionFailed(connector, reason)`."""


class IReactorFDSet(Protocol, metaclass=_Interface):
    """Watching other descriptors. To add what is there, or remove what is not, does nothing."""

    def addReader(self, reader: Any) -> None:
        """Call `doRead` of an IReadDescriptor whenever it is readable."""

    def addWriter(self, writer: Any) -> None:
        """Call `doWrite` of an IWriteDescriptor whenever it is writable."""

    def removeReader(self, reader: Any) -> None:
        """No more `doRead`; `fileno` is not asked for again."""

    def removeWriter(self, writer: Any) -> None:
        """No more `doWrite`; `fileno` is not asked for again."""

    def removeAll(self) -> Any:
        """Remove all, and return them in a list."""

    def getReaders(self) -> Any:
        """A list of those that were added to be read."""

    def getWriters(self) -> Any:
        """A list of those that were added to be written."""


class IReactorFromThreads(Protocol, metaclass=_Interface):
    """The way in from other threads."""

    def callFromThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in the reactor's thread, soon.

        B4: the one method that may be called from another thread; it wakes an idle loop. Calls
        are made in order, and those that they ask for come with the next pass.
        """


class IReactorInThreads(Protocol, metaclass=_Interface):
    """The way out into other threads."""

    def callInThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in a thread of a pool. What it raises is logged."""


class IReactorThreads(IReactorFromThreads, IReactorInThreads, Protocol):
    """Both ways."""
