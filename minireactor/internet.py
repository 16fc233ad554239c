"""The reactor: the loop, with stream sockets, threads and the descriptors that a program adds."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core.descriptors import DescriptorSet
from minireactor.core.handler import Handler
from minireactor.core.loop import MAX_POLL_SECONDS, Loop
from minireactor.core.poller import READ, WRITE
from minireactor.core.threads import ThreadPool
from minireactor.core.triggers import SystemEvent
from minireactor.error import (
    ReactorAlreadyRunning,
    ReactorNotRestartable,
    ReactorNotRunning,
)
from minireactor.transports.resolver import Resolver
from minireactor.transports.tcp import TCPConnector, TCPPort

if TYPE_CHECKING:
    from minireactor.core.poller import Poller
    from minireactor.debugging.explain import Explanation
    from minireactor.transports.connection import Connection
    from minireactor.transports.port import Port
    from minireactor.transports.unix import UNIXConnector, UNIXPort

MAX_THREADS = 10  # of callInThread()
DEBUG_VARIABLE = "MINIREACTOR_DEBUG"
DRAIN_SECONDS = 1.0  # how long a stopping reactor waits until peers have acknowledged sent data


class Reactor(Loop):
    """A Loop that listens and connects: the interfaces `IReactor...` of `interfaces`.

    debug: whether to check how the program uses the reactor, see `debugging.mode`. By default,
        the environment variable MINIREACTOR_DEBUG decides: "", "0" and no value mean no."""

    def __init__(
        self,
        poller: Poller | None = None,
        *,
        resolver: Any = None,
        debug: bool | None = None,
        **injected: Any,
    ) -> None:
        super().__init__(poller, **injected)
        self.resolver = resolver or Resolver(self)  # any object with Resolver's resolve()
        self.running = False
        self._started = False  # run() is active
        self._stopping = False  # stop() has been called
        self._shutdown_due = False  # stop() has been called, and the triggers have not fired yet
        self._ended = False  # the triggers have fired: the reactor cannot run again
        self._undo_signals: Callable[[], None] = _do_nothing
        self._events = {
            "startup": SystemEvent("startup", self._set_running),
            "shutdown": SystemEvent("shutdown", self._end),
        }
        self._descriptors = DescriptorSet(self)
        self._threads = ThreadPool(MAX_THREADS, "minireactor")
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0") if debug is None else debug:
            from minireactor.debugging.mode import install

            install(self)

    def callWhenRunning(self, f: Callable[..., Any], *a: Any, **k: Any) -> Any:
        """Call `f(*a, **k)` now if the loop runs, else when it starts, in the order of the calls.

        Returns the result of `f`, or the id of a trigger for removeSystemEventTrigger()."""
        if self.running:
            return f(*a, **k)
        return self.addSystemEventTrigger("after", "startup", f, *a, **k)

    def addSystemEventTrigger(
        self, phase: str, eventType: str, f: Callable[..., Any], *a: Any, **k: Any
    ) -> tuple[Any, ...]:
        """Add a trigger, which calls `f(*a, **k)` once in a phase of an event; return its id.

        `phase` is "before", "during" or "after". `eventType` is "startup", "shutdown" or a name of
        your own. Raises KeyError if `phase` is unknown, and TypeError if `f` is not callable."""
        event = self._events.get(eventType) or SystemEvent(eventType)
        trigger = event.add(phase, f, a, k)
        self._events[eventType] = event
        return trigger

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """Remove the trigger with the id that addSystemEventTrigger() has returned.

        Raises TypeError, ValueError or KeyError if `triggerID` is not the id of such a trigger."""
        if not isinstance(triggerID, tuple) or len(triggerID) != 5:
            raise TypeError(f"{triggerID!r} does not come from addSystemEventTrigger()")
        self._events[triggerID[0]].remove(triggerID)

    def fireSystemEvent(self, eventType: str) -> None:
        event = self._events.get(eventType)
        if event is not None:
            event.fire()

    # Starting and stopping.

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run the loop until `stop()` or `crash()`.

        With `installSignalHandlers`, in the main thread, SIGINT and SIGTERM stop the reactor. A
        program's own handlers for them stay in force.

        Raises ReactorAlreadyRunning inside run(), and ReactorNotRestartable after stop()."""
        if self._started:
            raise ReactorAlreadyRunning("run() cannot be nested")
        if self._ended:
            raise ReactorNotRestartable("it has been stopped; make a new Reactor()")
        on_signal = self._on_signal if installSignalHandlers else None
        self._undo_signals = self.open().take_signals(on_signal)
        self._started = True
        try:
            self.fireSystemEvent("startup")
            while self._started:
                if self._shutdown_due:
                    self._shut_down()
                else:
                    self._run_ticks()
            if self._ended:
                self.drain()
        finally:
            self._started = self.running = False
            self._undo_signals()
            if self._ended:
                self.close()

    def _run_ticks(self) -> None:
        """Run iterations until stop() or crash(), or until a signal handler raises an exception.

        Python calls a program's signal handlers between any two steps, mostly while the loop waits.
        Their exceptions are logged."""
        try:
            while self._started and not self._shutdown_due:
                self.tick()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Unhandled events are reported again. If the poller itself has failed, this call raises
            # its exception.
            self._poller.poll(0.0, 1)
            log.err(error, "between two callbacks, most likely in a signal handler")

    def drain(self) -> None:
        """Let lingering sockets deliver their last bytes, for at most DRAIN_SECONDS."""
        until = time.monotonic() + DRAIN_SECONDS  # real time, even if a test injects its own
        while time.monotonic() < until:
            if not any(handler.has_unacked_data() for handler in self.handlers()):
                return
            ready = self._poller.poll(0.05, len(self._handlers))
            self._dispatch_all(ready, self.seconds(), math.inf)

    def iterate(self, delay: float = 0) -> None:
        """Run one loop iteration, which waits at most `delay` seconds for events."""
        self.open()
        self.tick(max(0.0, min(delay, MAX_POLL_SECONDS)))

    def stop(self) -> None:
        """End `run()` after this iteration: fire the "shutdown" triggers, then end all connections.

        Remaining delayed calls are not made. Raises ReactorNotRunning unless run() is active and
        has not been stopped yet."""
        if not self._started or self._stopping:
            raise ReactorNotRunning("call stop() once, while run() is active")
        self._stopping = self._shutdown_due = True
        self.call_soon(_do_nothing)  # keeps this iteration from waiting for events

    def crash(self) -> None:
        """End `run()` after this iteration, without triggers. The reactor may run again."""
        self._started = self.running = False
        self.call_soon(_do_nothing)  # keeps this iteration from waiting for events

    def _set_running(self) -> None:
        self.running = self._started

    def _shut_down(self) -> None:
        # This runs between two iterations, so no timer runs after the connections are lost. First
        # make the calls and send the data that came before stop().
        self._shutdown_due = False
        self._run_soon()
        self._flush()
        self.fireSystemEvent("shutdown")

    def _end(self) -> None:
        self._ended = True
        self.crash()
        self.disconnect_all()

    def attach(self, handler: Handler) -> None:
        other = self._handlers.get(handler.fd)
        if other is not None:
            # The program has closed that descriptor by itself, and its number is in use again.
            self.unregister(other)
            self._descriptors.end_soon(other)
        super().attach(handler)

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self._undo_signals()  # the child handles its own signals

    def _on_signal(self, number: int, frame: Any) -> None:
        self.callFromThread(self._stop_unless_stopping)

    def _stop_unless_stopping(self) -> None:
        if self._started and not self._stopping:
            self.stop()

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> TCPPort:
        """Listen on `port` of `interface`, and return the Port.

        port: a number; 0 for any free one.
        interface: an address or a name; "" for all IPv4 addresses. The reactor listens on each
            address of a name that this machine has. Looking up a name may block for a while.

        Raises CannotListenError if the port cannot be bound, and TypeError if it is not an int."""
        listening = TCPPort(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str | bytes,
        port: int | str,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> TCPConnector:
        """Start to connect to `host` and `port`, and return the Connector.

        host: a name or a numeric address. If a name has several, the first that answers is used.
        port: a number or the name of a service.
        timeout: seconds after which the attempt fails, or None.

        Every failure is reported by the factory's clientConnectionFailed."""
        connector = TCPConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def listenSSL(
        self, port: int, factory: Any, context: Any, backlog: int = 50, interface: str = ""
    ) -> Port:
        """Listen as listenTCP() does, for clients that speak TLS from the start.

        context: an ssl.SSLContext for a server, with its certificate.

        Raises TypeError or ValueError if `context` is something else."""
        from minireactor.transports.tls_start import SecurePort  # `ssl` is slow to import

        secure = SecurePort(context)
        listening = self.listenTCP(port, factory, backlog, interface)
        secure.secure(listening)  # in time: the loop accepts later
        return listening

    def connectSSL(
        self,
        host: str | bytes,
        port: int | str,
        factory: Any,
        context: Any = None,
        timeout: float | None = 30,
        bindAddress: tuple[str, int] | None = None,
        server_hostname: str | None = None,
    ) -> TCPConnector:
        """Connect as connectTCP() does, and speak TLS from the start.

        context: an ssl.SSLContext for a client. None: verify the server's certificate and name,
            with the system's authorities.
        server_hostname: the name that the certificate must have; by default `host`.

        connectionMade is called before the handshake. If the handshake fails, clientConnectionLost
        gets the reason. Raises TypeError or ValueError if `context` or the name is not valid."""
        from minireactor.transports.tls_start import SecureConnector

        name = host.decode("utf-8", "replace") if isinstance(host, bytes) else host
        secure = SecureConnector(context, name if server_hostname is None else server_hostname)
        connector = self.connectTCP(host, port, factory, timeout, bindAddress)
        secure.secure(connector)  # in time: the loop connects later
        return connector

    def start_tls(self, connection: Connection, context: Any, server_hostname: str | None) -> None:
        """Let `connection` speak TLS: see Connection.startTLS, which programs call."""
        from minireactor.transports.tls_start import start_tls

        start_tls(connection, context, server_hostname)

    def listenUNIX(
        self,
        address: str | bytes,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> UNIXPort:
        """Listen on the path of a UNIX socket, and return the Port.

        address: a path; an abstract name of Linux begins with a zero byte. A socket file that
            nobody listens on is replaced. The file is removed when the port stops.
        mode: the permissions of the file.
        wantPID: also make the link `address + ".lock"`, which names this process.

        May block for up to a second while another process binds in the same folder.
        Raises CannotListenError if somebody listens there, or the path cannot be bound."""
        from minireactor.transports.unix import UNIXPort

        listening = UNIXPort(address, factory, backlog, mode, wantPID, self)
        listening.startListening()
        return listening

    def connectUNIX(
        self,
        address: str | bytes,
        factory: Any,
        timeout: float | None = 30,
        checkPID: bool = False,
    ) -> UNIXConnector:
        """Start to connect to the path of a UNIX socket, and return the Connector.

        timeout: seconds after which the attempt fails, or None.
        checkPID: fail with BadFileError unless a process holds the lock that `wantPID` makes.

        Every failure is reported by the factory's clientConnectionFailed."""
        from minireactor.transports.unix import UNIXConnector

        connector = UNIXConnector(address, factory, timeout, checkPID, self)
        connector.connect()
        return connector

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Port:
        """Accept connections from a listening socket that exists already; return the Port.

        The descriptor is duplicated, so the caller may close it. stopListening() closes the
        duplicate only: other processes go on listening, and the file of a UNIX socket stays.

        Raises UnsupportedAddressFamily if the socket is of another family than `addressFamily`, one
        of AF_INET, AF_INET6 and AF_UNIX. Raises UnsupportedSocketType if the descriptor is no
        stream socket that listens."""
        from minireactor.transports.adopt import adopt_port

        return adopt_port(self, fileDescriptor, addressFamily, factory)

    def adoptStreamConnection(
        self, fileDescriptor: int, addressFamily: int, factory: Any
    ) -> Connection | None:
        """Have `factory` build the protocol of a connected socket; return its transport.

        The descriptor is duplicated, so the caller may close it. Returns None if buildProtocol
        returns None. Raises the exceptions of adoptStreamPort()."""
        from minireactor.transports.adopt import adopt_connection

        return adopt_connection(self, fileDescriptor, addressFamily, factory)

    def addReader(self, reader: Any) -> None:
        """Call `reader.doRead()` whenever its descriptor is readable, until removeReader()."""
        self._descriptors.change(reader, reading=True)

    def addWriter(self, writer: Any) -> None:
        """Call `writer.doWrite()` whenever its descriptor is writable, until removeWriter()."""
        self._descriptors.change(writer, writing=True)

    def removeReader(self, reader: Any) -> None:
        self._descriptors.change(reader, reading=False)

    def removeWriter(self, writer: Any) -> None:
        self._descriptors.change(writer, writing=False)

    def removeAll(self) -> list[Any]:
        """Remove all readers and writers, and return them."""
        return self._descriptors.remove_all()

    def getReaders(self) -> list[Any]:
        return [h.target() for h in self.application_handlers() if h.interest() & READ]

    def getWriters(self) -> list[Any]:
        return [h.target() for h in self.application_handlers() if h.interest() & WRITE]

    def explain(self) -> Explanation:
        """Return why each connection that does not move does not; printed, a line for each.

        The result is a dict of connections and sentences. See `debugging.explain`."""
        from minireactor.debugging.explain import explain

        return explain(self)

    def callInThread(self, f: Callable[..., Any], *a: Any, **k: Any) -> None:
        """Call `f(*a, **k)` in one of at most 10 threads. An exception of `f` is logged.

        `f` can use callFromThread() to pass a result to the loop's thread. The threads are daemons:
        a process that ends does not wait for them."""
        self._threads.call(f, a, k)

    def close(self) -> None:
        super().close()
        self._threads.close()


def _do_nothing() -> None:
    pass
