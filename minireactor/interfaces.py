"""The contract between reactor, transports, producers and protocols: who calls what, and when.

Each class names the methods of one role, and the duties of callers and implementers. A rule has an
id, such as P2: `core/README.md` lists all rules, and tests are named by them. The roles of a
connection have their full contract here. Every other class only names its methods; the class that
implements them has their contract.

    producer  makes bytes.
    consumer  takes bytes. A transport is both: it consumes the bytes that the application writes,
              and produces the bytes that it reads from the peer.
    pending   the number of bytes that were written and that the kernel has not accepted yet.
    marks     the high and low watermark, two thresholds for `pending`. An upward crossing takes
              `pending` above the high mark. A downward crossing takes it to the low mark or below.

These are `typing.Protocol` classes: an object plays a role if it has the methods. A class need not
name an interface, but may do so in two ways:

    @implementer(IPushProducer)        # as in Twisted programs; no effect
    class Numbers: ...

    class Numbers(IPushProducer): ...  # a type checker reports missing methods

A method that a subclass leaves out does nothing. It never hides a method of another base class.
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
    """Return a decorator that names the roles of a class or an object, and does not change it."""
    return lambda declared: declared


provider = implementer


class _Interface(_ProtocolMeta):
    """Adds providedBy() and implementedBy(), and makes it safe to inherit from an interface."""

    # Mangled names, because classes of programs inherit them.
    __methods: frozenset[str] = frozenset()
    __attributes: frozenset[str] = frozenset()

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        if Protocol not in bases:
            return  # a class that inherits from an interface
        own = frozenset(member for member in namespace if not member.startswith("_"))
        attributes = frozenset(name for name in own if isinstance(namespace[name], property))
        methods = own - attributes
        parents = [base for base in bases if isinstance(base, _Interface)]
        cls.__methods = methods.union(*(base.__methods for base in parents))
        cls.__attributes = attributes.union(*(base.__attributes for base in parents))
        for method in methods:
            setattr(cls, method, _cooperative(cls, namespace[method]))
        # A type checker sees an attribute as a property, so a class may implement it as a property.
        # At run time, this property would keep a subclass from setting the attribute.
        for attribute in attributes:
            delattr(cls, attribute)

    def providedBy(cls, obj: object) -> bool:
        """Return whether `obj` has all methods and attributes of this interface."""
        return all(hasattr(obj, member) for member in cls.__methods | cls.__attributes)

    def implementedBy(cls, other: type) -> bool:
        """Return whether the class `other` has all methods. Its instances may add attributes."""
        return all(hasattr(other, member) for member in cls.__methods or cls.__attributes)


def _cooperative(interface: type, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return `method` in a form that calls the next method of this name, if there is one."""

    @wraps(method)
    def call_next(self: object, *args: Any, **kwargs: Any) -> Any:
        following = getattr(super(interface, self), method.__name__, None)
        return None if following is None else following(*args, **kwargs)

    return call_next


# --- Producers and consumers ----------------------------------------------------------------------


class IProducer(Protocol, metaclass=_Interface):
    """Makes bytes for a consumer. `consumer.registerProducer` registers it."""

    def stopProducing(self) -> None:
        """Stop for good: the consumer is lost, and has dropped this producer.

        E3: called exactly once, before the protocol's connectionLost. No other call follows.
        E4: the producer need not unregister."""


class IPushProducer(IProducer, Protocol):
    """Makes bytes by itself, and writes them until it is paused. The grammar of the calls:

        (pauseProducing resumeProducing)* pauseProducing? stopProducing?

    P1: the producer is flowing from the registration on. It starts by itself, without a call.
    P3: pause and resume strictly alternate.
    """

    def pauseProducing(self) -> None:
        """Stop writing until `resumeProducing`. The consumer still buffers all data written.

        P2: called once per upward crossing, from inside the `write()` that crossed. The producer is
        then usually in the middle of its own loop. That loop must check a flag after each write.
        P1: if pending is above the high mark at the registration, the first write counts as the
        crossing."""

    def resumeProducing(self) -> None:
        """Continue to write.

        P3: called once per downward crossing, from the flush, never from inside `write()`.
        P4: may fill the consumer again at once. The producer is then paused again within this call,
        and resumed again later."""


class IPullProducer(IProducer, Protocol):
    """Makes bytes when it is asked. The grammar of the calls:

        resumeProducing+ stopProducing?

    U2: a producer that writes nothing when it is asked is not polled. The producer is asked again
    once other data has been written and flushed. So a stage that drops a chunk must ask its own
    source again.
    """

    def resumeProducing(self) -> None:
        """Write a chunk, or call `consumer.unregisterProducer()` if no chunk is left.

        U1: called once from inside registerProducer, then each time that the flush has brought
        pending to the low mark or below."""


class IConsumer(Protocol, metaclass=_Interface):
    """Takes bytes from the application, and from at most one registered producer."""

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Register `producer`: an IPushProducer if `streaming`, else an IPullProducer.

        P1, U1: a push producer starts by itself; a pull producer is asked at once.
        E1: raises RuntimeError, which names both, if another producer is registered.
        E2: if the consumer is lost, calls `producer.stopProducing()` and raises nothing."""

    def unregisterProducer(self) -> None:
        """End the registration: the producer has no more data.

        E4: does nothing if no producer is registered. E5: loseConnection() waits for this call."""

    def write(self, data: Buffer) -> None:
        """Take `data`: bytes, bytearray, memoryview or any other buffer.

        B1: raises TypeError for `str`. A mutable buffer may be changed after the call.
        B2: sends nothing at once. If the peer has gone, raises nothing and drops the data;
        connectionLost reports the loss.
        P2: calls `pauseProducing()` of a registered push producer if `data` takes pending above the
        high mark. A mark is a threshold, not a limit: all of `data` is taken."""


# --- Transports and protocols ---------------------------------------------------------------------


class ITransport(Protocol, metaclass=_Interface):
    """A connection to the peer, with the methods that every transport has."""

    def write(self, data: Buffer) -> None:
        """Buffer `data`, as `IConsumer.write` does. Never sends at once, nor reports an error."""

    def writeSequence(self, iovec: Iterable[Buffer]) -> None:
        """Write the parts in order. B1: the marks apply as for one `write`."""

    def loseConnection(self) -> None:
        """Close the connection gracefully. May be called again.

        E5: waits until the producer has unregistered and pending is zero.
        C1: a peer that reads gets all data written before, even if this side has not read all data
        of the peer. R3: no dataReceived follows."""

    def getPeer(self) -> IAddress:
        """Return the numeric address of the peer, also after the connection has ended."""

    def getHost(self) -> IAddress:
        """Return the address of this end, also after the connection has ended."""


class ITCPTransport(ITransport, IConsumer, IPushProducer, Protocol):
    """A TCP connection: a consumer of data to write, and a push producer of data read.

    Writing, M1 to M3. The marks are 64 KiB and 16 KiB by default. They count pending bytes only,
    without the kernel's buffers. Several writes in one loop iteration are sent together.

    Reading, R1 to R4. `dataReceived` is called only while `reading` is true. A paused connection
    still notices a reset. One connection gets a limited share of each loop iteration.

    Ending, E8 and B3. `connectionLost(reason)` is called exactly once, as the last call, and never
    from inside a call on the transport. An exception in a callback is logged and ends only this
    connection, with the exception as the reason.
    """

    @property
    def connected(self) -> bool:
        """Whether connectionLost has not been called yet."""

    @property
    def disconnected(self) -> bool:
        """The opposite of `connected`."""

    @property
    def disconnecting(self) -> bool:
        """Whether this side has asked to close, by loseConnection, abortConnection or the like."""

    @property
    def reading(self) -> bool:
        """Whether input may be delivered: false while paused, closing or closed."""

    @property
    def producer(self) -> Any:
        """The registered producer, or None if there is none."""

    @property
    def streamingProducer(self) -> bool:
        """Whether the registered producer is a push producer."""

    @property
    def bufferSize(self) -> int:
        """The high mark, in bytes. If a program sets it, the low mark becomes a quarter of it."""

    def setWriteBufferLimits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks of this connection, in bytes.

        M1: raises ValueError unless `0 <= low < high`. `low` is high // 4 if only `high` is given.
        M2: pauses at `pending > high`, resumes at `pending <= low`. `low=0` resumes only when all
        data is sent. M3: takes effect at once: it pauses now, or resumes in the next flush."""

    def sendFile(self, file: Any, offset: int = 0, count: int | None = None) -> Any:
        """Write a part of a regular file; return a Deferred of the number of bytes sent.

        Without `count`, writes all bytes from `offset` to the end. The bytes are pending until
        they are sent. Until then, the file must stay open and must not become shorter. `sendfile`
        says what the Deferred and this call raise."""

    def stopConsuming(self) -> None:
        """Unregister the producer, then call `loseConnection()`."""

    def pauseProducing(self) -> None:
        """Stop reading until `resumeProducing`.

        R1: no dataReceived follows, and a line receiver keeps the other lines of the same chunk."""

    def resumeProducing(self) -> None:
        """Read again.

        R1: a receiver with buffered lines delivers them first, in the next loop iteration."""

    def stopProducing(self) -> None:
        """Call `loseConnection()`."""

    def loseWriteConnection(self) -> None:
        """Close the write side gracefully. Data written later is dropped.

        E7: reading goes on, and writeConnectionLost of a half-closeable protocol is called."""

    def abortConnection(self) -> None:
        """Close the connection at once. May be called again, and after `loseConnection`.

        E6: pending data is dropped and the peer gets a reset. connectionLost is called in a later
        loop iteration, with ConnectionAborted. No producer is resumed."""

    def getTcpNoDelay(self) -> bool:
        """Return whether TCP_NODELAY is set, as it is by default: see `transports.connection`."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Set or clear TCP_NODELAY."""

    def getTcpKeepAlive(self) -> bool:
        """Return whether SO_KEEPALIVE is set: the kernel probes an idle connection."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Set or clear SO_KEEPALIVE."""


class ITLSTransport(ITCPTransport, Protocol):
    """A TCP transport that can begin to speak TLS."""

    def startTLS(self, context: Any = None, server_hostname: str | None = None) -> None:
        """Speak TLS from now on, with an ssl.SSLContext; see tcp.Connection."""


class ISSLTransport(ITCPTransport, Protocol):
    """A TCP transport that speaks TLS."""

    negotiatedProtocol: bytes | None

    def getPeerCertificate(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate, as SSLSocket.getpeercert() does; None without one."""


class IUNIXTransport(ITransport, Protocol):
    """A connection over a UNIX socket; see transports.unix.UNIXConnection."""

    def sendFileDescriptor(self, fileDescriptor: int) -> None:
        """Send a copy of a descriptor with the next byte. Write at least one byte for each."""


class IFileDescriptorReceiver(Protocol, metaclass=_Interface):
    """A protocol that takes descriptors, over a UNIX socket."""

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Take a descriptor, which the protocol has to close.

        Called before the dataReceived of the byte that has carried the descriptor."""


class IProtocol(Protocol, metaclass=_Interface):
    """Handles one connection. The grammar of the calls:

        makeConnection(connectionMade) dataReceived* connectionLost

    B3: an exception in one of these methods is logged and ends this connection.
    """

    def makeConnection(self, transport: Any) -> None:
        """Keep `transport`, an ITCPTransport, as `self.transport`, and call `connectionMade`."""

    def connectionMade(self) -> None:
        """Start the work on a new connection: greet, register a producer, set the marks."""

    def dataReceived(self, data: bytes) -> None:
        """Handle the next bytes of the stream. Their cuts do not follow the peer's writes.

        R1, R3: not called while the transport is paused, nor after loseConnection."""

    def connectionLost(self, reason: Failure) -> None:
        """Handle the end of the connection.

        `reason.value` is ConnectionDone after a graceful close, ConnectionAborted, another
        ConnectionLost, or the exception that a callback raised.

        E8: called exactly once for each connectionMade, as the last call."""


class IHalfCloseableProtocol(Protocol, metaclass=_Interface):
    """Handles the end of one direction, for an IProtocol that goes on in the other direction.

    E7: a protocol is half-closeable if it has both methods. Each is called at most once.
    connectionLost follows when both directions have ended. For any other protocol, the whole
    connection ends when the peer ends one direction.
    """

    def readConnectionLost(self) -> None:
        """Handle the peer's EOF. Writing goes on."""

    def writeConnectionLost(self) -> None:
        """Handle the end of the write side. Reading goes on."""


class IHandshakeListener(Protocol, metaclass=_Interface):
    """Is notified of the end of a TLS handshake, as an IProtocol that has this method."""

    def handshakeCompleted(self) -> None:
        """Handle the end: the transport's getPeerCertificate() and negotiatedProtocol are set."""


class IProtocolFactory(Protocol, metaclass=_Interface):
    """Builds protocols for ports and connectors; see protocol.Factory."""

    def buildProtocol(self, addr: Any) -> Any:
        """Return an IProtocol for the peer at `addr`, or None to reject the connection."""

    def doStart(self) -> None:
        """Count one more port or connector that uses this factory."""

    def doStop(self) -> None:
        """Count one port or connector fewer; called as often as `doStart`."""


class IAddress(Protocol, metaclass=_Interface):
    """One end of a connection, compared and hashed by value; see address.IPv4Address."""

    @property
    def type(self) -> str:
        """The protocol: "TCP", "UDP" or "UNIX"."""

    @property
    def host(self) -> str:
        """The numeric address, or the name that a program has asked for."""

    @property
    def port(self) -> int:
        """The port number."""


class IListeningPort(Protocol, metaclass=_Interface):
    """What listenTCP returns; see transports.port.Port."""

    def startListening(self) -> None:
        """Bind and listen. Raises CannotListenError if the port cannot be bound."""

    def stopListening(self) -> Deferred[None] | None:
        """Close the port at once. Accepted connections stay open."""

    def getHost(self) -> IAddress:
        """Return the address, with the real port number."""


class IConnector(Protocol, metaclass=_Interface):
    """What connectTCP returns and a ClientFactory gets; see transports.connector.Connector."""

    def connect(self) -> None:
        """Connect again, once disconnected."""

    def stopConnecting(self) -> None:
        """End the attempt. Raises NotConnectingError if no attempt is under way."""

    def disconnect(self) -> None:
        """End the attempt, or close the connection."""

    def getDestination(self) -> IAddress:
        """Return the address that the program has asked for."""


# --- The reactor ----------------------------------------------------------------------------------


class IStreamServerEndpoint(Protocol, metaclass=_Interface):
    """A place to listen at. See `endpoints.servers`."""

    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        """Listen, and return a Deferred of the port."""


class IStreamClientEndpoint(Protocol, metaclass=_Interface):
    """A place to connect to. See `endpoints.clients`."""

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, and return a Deferred of the protocol."""


class IDelayedCall(Protocol, metaclass=_Interface):
    """What callLater returns; see core.timers.DelayedCall."""

    def getTime(self) -> float:
        """Return when the call is due, in the time of the reactor's `seconds()`."""

    def active(self) -> bool:
        """Return whether the call has been neither made nor cancelled."""

    def cancel(self) -> None:
        """Cancel the call. Like the methods below, raises AlreadyCalled or AlreadyCancelled."""

    def delay(self, secondsLater: float) -> None:
        """Make the call due `secondsLater` seconds later."""

    def reset(self, secondsFromNow: float) -> None:
        """Make the call due `secondsFromNow` seconds from now."""


class ILoggingContext(Protocol, metaclass=_Interface):
    """An object that log records can name."""

    def logPrefix(self) -> str:
        """Return a short name."""


class IFileDescriptor(ILoggingContext, Protocol):
    """An object with a descriptor that the reactor watches; it works without `logPrefix` too."""

    def fileno(self) -> int:
        """Return the descriptor, or -1 once it is closed. The reactor then drops the object."""

    def connectionLost(self, reason: Failure) -> None:
        """Handle the end: the reactor has dropped this object. Called once, as the last call."""


class IReadDescriptor(IFileDescriptor, Protocol):
    """An object for addReader."""

    def doRead(self) -> Any:
        """Read. Return None, or an exception or Failure as the reason to be disconnected."""


class IWriteDescriptor(IFileDescriptor, Protocol):
    """An object for addWriter."""

    def doWrite(self) -> Any:
        """Write. Return None, or an exception or Failure as the reason to be disconnected."""


class IReadWriteDescriptor(IReadDescriptor, IWriteDescriptor, Protocol):
    """An object for addReader and addWriter."""


class IHalfCloseableDescriptor(Protocol, metaclass=_Interface):
    """A descriptor whose two directions end one at a time."""

    def readConnectionLost(self, reason: Failure) -> None:
        """Handle the end of reading: called instead of connectionLost for ConnectionDone."""

    def writeConnectionLost(self, reason: Failure) -> None:
        """Handle the end of writing. The reactor cannot detect it, and never calls this."""


class IReactorCore(Protocol, metaclass=_Interface):
    """Starts and stops the reactor; see internet.Reactor."""

    @property
    def running(self) -> bool:
        """False in the phase "before startup", True from "during startup" on."""

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run the loop until `stop()` or `crash()`."""

    def stop(self) -> None:
        """End `run()`: fire the shutdown event, then end all connections."""

    def crash(self) -> None:
        """End `run()` without an event. The reactor may run again."""

    def iterate(self, delay: float = 0) -> None:
        """Run one loop iteration, which waits at most `delay` seconds for events."""

    def callWhenRunning(self, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        """Call `f(*a, **k)` now if the reactor runs, else when it starts."""

    def addSystemEventTrigger(
        self, phase: str, eventType: str, f: Callable[..., Any], *a: Any, **k: Any
    ) -> Any:
        """Call `f(*a, **k)` once in the phase of an event; waits for a "before" Deferred."""

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """Remove the trigger that addSystemEventTrigger has returned."""

    def fireSystemEvent(self, eventType: str) -> None:
        """Call the triggers of an event. An exception in one does not stop the others."""


class IReactorTime(Protocol, metaclass=_Interface):
    """Makes calls later; see core.loop.Loop."""

    def seconds(self) -> float:
        """Return the time in seconds, on a monotonic clock."""

    def callLater(self, delay: float, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        """Return an IDelayedCall for `f(*a, **k)`. Calls due at the same time keep their order."""

    def getDelayedCalls(self) -> Any:
        """Return the pending delayed calls, in no particular order."""


class IReactorTCP(Protocol, metaclass=_Interface):
    """Listens and connects; see internet.Reactor."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Return an IListeningPort. Raises CannotListenError if the port cannot be bound."""

    def connectTCP(
        self,
        host: str | bytes,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> Any:
        """Return an IConnector that connects. `clientConnectionFailed` reports every failure."""


class IReactorSSL(Protocol, metaclass=_Interface):
    """Listens and connects with TLS; see internet.Reactor."""

    def listenSSL(
        self, port: int, factory: Any, context: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """Return an IListeningPort, as listenTCP() does. `context` is an ssl.SSLContext."""

    def connectSSL(
        self,
        host: str | bytes,
        port: int,
        factory: Any,
        context: Any = None,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
        server_hostname: str | None = None,
    ) -> Any:
        """Return an IConnector, as connectTCP() does. A failed handshake is a lost connection."""


class IReactorUNIX(Protocol, metaclass=_Interface):
    """Listens and connects on UNIX sockets; see internet.Reactor."""

    def listenUNIX(
        self,
        address: str | bytes,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> Any:
        """Return an IListeningPort. Raises CannotListenError if the path cannot be bound."""

    def connectUNIX(
        self, address: str | bytes, factory: Any, timeout: float = 30, checkPID: bool = False
    ) -> Any:
        """Return an IConnector that connects. `clientConnectionFailed` reports every failure."""


class IReactorSocket(Protocol, metaclass=_Interface):
    """Takes sockets that another program has opened; see internet.Reactor."""

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """Return an IListeningPort that accepts from a duplicate of a listening socket."""

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """Return the transport of a duplicate of a connected socket."""


class IReactorFDSet(Protocol, metaclass=_Interface):
    """Watches other descriptors. To add an object twice or remove a missing one has no effect."""

    def addReader(self, reader: Any) -> None:
        """Call `doRead` of an IReadDescriptor whenever it is readable."""

    def addWriter(self, writer: Any) -> None:
        """Call `doWrite` of an IWriteDescriptor whenever it is writable."""

    def removeReader(self, reader: Any) -> None:
        """Stop calling `doRead`. Does not call `fileno`."""

    def removeWriter(self, writer: Any) -> None:
        """Stop calling `doWrite`. Does not call `fileno`."""

    def removeAll(self) -> Any:
        """Remove all readers and writers, and return them in a list."""

    def getReaders(self) -> Any:
        """Return a list of the readers."""

    def getWriters(self) -> Any:
        """Return a list of the writers."""


class IReactorFromThreads(Protocol, metaclass=_Interface):
    """Lets other threads call into the reactor; see core.loop.Loop."""

    def callFromThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in the reactor's thread soon. B4: other threads may call only this."""


class IReactorInThreads(Protocol, metaclass=_Interface):
    """Calls functions in other threads; see internet.Reactor."""

    def callInThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in a thread of a pool. An exception is logged."""


class IReactorThreads(IReactorFromThreads, IReactorInThreads, Protocol):
    """Calls functions in other threads, and lets other threads call into the reactor."""
