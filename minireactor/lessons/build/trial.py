"""Drive a learner's reactor with real sockets, and say what was seen and what was expected.

The reactor runs in a thread of its own. The check runs in the main thread, and is the client of
each connection. `Trial.do` runs a function in the reactor's thread: a control connection wakes the
loop, and its protocol calls the function. So a check needs no help from the reactor, and notices a
reactor that hangs, spins, raises or ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from types import FrameType, ModuleType
from typing import Any, Callable, NamedTuple, NoReturn

from minireactor.lessons.build.instruments import monotonic, wake_ups
from minireactor.lessons.build.report import Place, Text, Wrong, describe, place, place_of

POLL = 0.001  # seconds between two looks at a condition
IDLE_SECONDS = 0.1  # how long a loop that has nothing to do is observed
# In IDLE_SECONDS. A loop that sleeps wakes up three times, one that spins thousands of times.
MAX_WAKE_UPS = 20
_END = ("the connection was closed", "连接被关闭")


class Check(NamedTuple):
    """One check of a step. `rule` is the rule that the check is about, "" if there is none."""

    step: int
    rule: str
    title: Text
    run: Callable[[Trial], None]
    control: bool  # whether the reactor must serve a control connection beside the client
    last: int  # the last step in which this check is made; later steps check more strictly


Body = Callable[["Trial"], None]


def registrar(checks: list[Check], step: int) -> Callable[..., Callable[[Body], Body]]:
    """Return a decorator that adds a function to `checks`, as a check of that step."""

    def check(
        rule: str, en: str, zh: str, *, control: bool = True, last: int = 99
    ) -> Callable[[Body], Body]:
        def add(body: Body) -> Body:
            checks.append(Check(step, rule, (en, zh), body, control, last))
            return body

        return add

    return check


class Recorder:
    """A protocol that records its calls. A function given for a call runs within it."""

    def __init__(
        self,
        made: Callable[[Any], object] | None = None,
        data: Callable[[Any, bytes], object] | None = None,
        lost: Callable[[Any], object] | None = None,
    ) -> None:
        self.transport: Any = None
        self.calls: list[str] = []
        self.received = bytearray()
        self.reason: Any = None
        self._made, self._data, self._lost = made, data, lost

    def makeConnection(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport
        if self._made:
            self._made(transport)

    def dataReceived(self, data: bytes) -> None:
        call = "data" if data else "data of 0 bytes"
        if self.calls[-1:] != [call]:
            self.calls.append(call)
        self.received += data
        if self._data:
            self._data(self.transport, data)

    def connectionLost(self, reason: Any = None) -> None:
        self.calls.append("lost")
        self.reason = reason
        if self._lost:
            self._lost(self.transport)


class _Control:
    """Runs what the check has asked for, in the reactor's thread."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], None]] = deque()

    def makeConnection(self, transport: Any) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        while self.jobs:
            self.jobs.popleft()()

    def connectionLost(self, reason: Any = None) -> None:
        pass


class _Factory:
    """Builds the protocols that the check has queued, in order."""

    def __init__(self) -> None:
        self.protocols: deque[Any] = deque()

    def buildProtocol(self, address: Any) -> Any:
        return self.protocols.popleft() if self.protocols else Recorder()

    # The learner's port may call these, as Twisted's does.
    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass


class Trial:
    """One reactor of the learner's module, and the clients of one check.

    patience: how many seconds a check waits for what should come at once.
    """

    def __init__(self, module: ModuleType, check: Check, patience: float) -> None:
        self.module = module
        self.check = check
        self.patience = patience
        self.reactor: Any = None
        self._path = os.path.realpath(str(module.__file__))
        self._address: Any = None
        self._factory = _Factory()
        self._error: BaseException | None = None
        self._ended = False
        self._clients: list[socket.socket] = []
        self._control = _Control()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Make the reactor, listen, and run. Raises Wrong if that fails."""
        self._thread.start()
        self.wait(
            lambda: self._address is not None,
            ("listenTCP() does not return", "listenTCP() 没有返回"),
            ("listenTCP() returns a port; run() serves it", "listenTCP() 返回端口，由 run() 服务"),
        )
        if self.check.control:
            self._factory.protocols.append(self._control)
            self._waker = self.client()

    def _run(self) -> None:
        try:
            self.reactor = self.module.Reactor()
            port = self.reactor.listenTCP(0, self._factory, interface="127.0.0.1")
            self._address = ("127.0.0.1", port.getHost().port)
            self.reactor.run()
        except BaseException as error:
            self._error = error
        self._ended = True

    def close(self) -> None:
        """Close all clients, so that this reactor has nothing to do any more."""
        for client in self._clients:
            client.close()

    # --- Saying what is wrong

    def wrong(self, seen: Text, expected: Text, where: Place | None = None) -> NoReturn:
        raise Wrong(self.check.rule, seen, expected, where)

    def expect(self, holds: object, seen: Text, expected: Text) -> None:
        """Raise Wrong unless `holds` is true. If run() has ended or raised, say that instead."""
        if not holds:
            self._check_running()
            self.wrong(seen, expected)

    def expect_now(self, holds: object, seen: Text, expected: Text) -> None:
        """Like expect(), for a reactor that has ended as it should."""
        if not holds:
            self.wrong(seen, expected)

    def wait(
        self, condition: Callable[[], object], seen: Text | Callable[[], Text], expected: Text
    ) -> None:
        """Wait until `condition()` is true. If it never is, name the line that the loop is in."""
        deadline = monotonic() + self.patience
        while not condition():
            if monotonic() > deadline:
                self._check_running()
                self.wrong(seen() if callable(seen) else seen, expected, self.current_line())
            if self._ended and not condition():
                self._check_running()
            time.sleep(POLL)

    def wait_for_end(self) -> None:
        """Wait until run() has returned."""
        deadline = monotonic() + self.patience
        while not self._ended and monotonic() < deadline:
            time.sleep(POLL)
        if self._error is not None or not self._ended:
            self._ended = self._error is not None
            self._check_running()
            self.wrong(
                ("stop() was called, and run() goes on", "调用了 stop()，run() 却还在运行"),
                ("run() returns after this iteration", "这一轮结束后 run() 返回"),
                self.current_line(),
            )

    def _check_running(self) -> None:
        """Raise Wrong if run() has ended or raised."""
        if self._error is not None:
            name = "run()" if self._address else "Reactor() or listenTCP()"
            shown = describe(self._error)
            self.wrong(
                (f"{name} raised {shown}", f"{name} 抛出了 {shown}"),
                ("the loop goes on, whatever happens", "无论发生什么，事件循环都继续运行"),
                place_of(self._error.__traceback__, self._path),
            )
        if self._ended:
            self.wrong(
                ("run() has returned", "run() 返回了"),
                (
                    "run() goes on, until stop() if there is one",
                    "run() 一直运行，有 stop() 的话直到 stop()",
                ),
            )

    def current_line(self) -> Place | None:
        """Return the line of the learner's file that the reactor's thread is running."""
        frame: FrameType | None = sys._current_frames().get(self._thread.ident or 0)
        while frame is not None and os.path.realpath(frame.f_code.co_filename) != self._path:
            frame = frame.f_back
        return None if frame is None else place(self._path, frame.f_lineno)

    # --- Acting

    def do(self, function: Callable[[], Any]) -> Any:
        """Run a function in the reactor's thread, and return its result.

        Raises Wrong if the function raises an exception, or if the loop does not run it."""
        result: list[Any] = []
        errors: list[BaseException] = []

        def job() -> None:
            try:
                result.append(function())
            except BaseException as error:
                errors.append(error)

        self._control.jobs.append(job)
        with contextlib.suppress(OSError):
            self._waker.send(b"x")
        self.wait(
            lambda: result or errors,
            (
                f"the loop served no other client for {self.patience:g} s",
                f"事件循环有 {self.patience:g} 秒没有服务其他客户端",
            ),
            ("no callback and no call waits", "任何回调和调用都不等待"),
        )
        if errors:
            where = place_of(errors[0].__traceback__, self._path)
            shown = describe(errors[0])
            self.wrong(
                (f"a call raised {shown}", f"调用抛出了 {shown}"),
                (
                    "the methods that the text names, and no exception",
                    "文中提到的方法都在，也不抛异常",
                ),
                where,
            )
        return result[0]

    def client(self, receive_buffer: int = 0) -> socket.socket:
        """Connect a client. Its calls wait at most `patience` seconds."""
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._clients.append(client)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(self.patience)
        try:
            client.connect(self._address)
        except OSError as error:
            self._check_running()
            shown = describe(error)
            self.wrong(
                (f"a client cannot connect: {shown}", f"客户端连不上：{shown}"),
                ("the port listens", "端口在监听"),
                self.current_line(),
            )
        return client

    def connect(
        self, protocol: Any = None, receive_buffer: int = 0
    ) -> tuple[socket.socket, Recorder]:
        """Connect a client, and wait until its protocol has its transport."""
        protocol = protocol or Recorder()
        self._factory.protocols.append(protocol)
        client = self.client(receive_buffer)
        self.wait(
            lambda: protocol.transport is not None,
            (
                "a client has connected, and its protocol got no makeConnection(transport)",
                "客户端已连接，它的协议却没有收到 makeConnection(transport)",
            ),
            ("makeConnection(transport) at once", "立刻调用 makeConnection(transport)"),
        )
        return client, protocol

    def read(self, client: socket.socket, count: int, seen: Text, expected: Text) -> bytes:
        """Read exactly `count` bytes. In `seen`, {got} is how many came, {end} how it ended."""
        data, end = self._read(client, count)
        if len(data) < count:
            self._wrong_read(data, end, seen, expected)
        return data

    def read_all(self, client: socket.socket, seen: Text, expected: Text) -> bytes:
        """Read until the end of the stream, and return it all."""
        data, end = self._read(client, 1 << 40)
        if end != _END:
            self._wrong_read(data, end, seen, expected)
        return data

    def _read(self, client: socket.socket, count: int, size: int = 0) -> tuple[bytes, Text]:
        data = bytearray()
        while len(data) < count:
            try:
                chunk = client.recv(size or min(1 << 18, count - len(data)))
            except socket.timeout:
                self._check_running()
                return bytes(data), (
                    f"nothing more came for {self.patience:g} s",
                    f"之后 {self.patience:g} 秒没有数据",
                )
            except OSError as error:
                return bytes(data), (describe(error), describe(error))
            if not chunk:
                return bytes(data), _END
            data += chunk
        return bytes(data), ("", "")

    def read_to_end(self, client: socket.socket) -> tuple[bytes, Text]:
        """Read until the connection ends, or nothing comes. Return the bytes, and how it ended."""
        return self._read(client, 1 << 40)

    def read_some(self, client: socket.socket) -> tuple[bytes, Text]:
        """Read one chunk. Return it, and how the connection has ended, if it has."""
        return self._read(client, 1, 1 << 15)

    def _wrong_read(self, data: bytes, end: Text, seen: Text, expected: Text) -> NoReturn:
        self._check_running()
        en, zh = (
            text.replace("{got}", f"{len(data):,}").replace("{end}", how)
            for text, how in zip(seen, end)
        )
        self.wrong((en, zh), expected, self.current_line())

    def is_silent(self, client: socket.socket, seconds: float = 0.05) -> bool:
        """Return whether the client gets nothing, not even an end, for a while."""
        return not select.select([client], [], [], seconds)[0]

    def expect_idle(self, when: Text, expected: Text) -> None:
        """Let time pass, and expect that the reactor's thread sleeps."""
        self.let_run(2)
        before = wake_ups[self._thread]
        time.sleep(IDLE_SECONDS)
        self.let_run(1)
        count = wake_ups[self._thread] - before
        self.expect(
            count <= MAX_WAKE_UPS,
            (
                f"{when[0]}, the loop woke up {count:,} times in 100 ms",
                f"{when[1]}，事件循环在 100 毫秒里醒来 {count:,} 次",
            ),
            expected,
        )

    def expect_calls(self, recorder: Recorder, *expected: str) -> None:
        """Wait until the protocol got these calls, and expect that no other call follows."""
        shown = ", ".join(expected)

        def seen() -> Text:
            got = ", ".join(recorder.calls) or "-"
            return (f"the protocol's calls: {got}", f"协议收到的调用：{got}")

        want = (f"the calls: {shown}", f"应收到的调用：{shown}")
        wanted = list(expected)
        # A call that is not expected ends the wait.
        self.wait(
            lambda: (
                recorder.calls[: len(wanted)] == wanted
                or recorder.calls != wanted[: len(recorder.calls)]
            ),
            seen,
            want,
        )
        if self.check.control and not self._ended:
            self.let_run()
        self.expect(recorder.calls == wanted, seen(), want)

    def let_run(self, turns: int = 5) -> None:
        """Let the loop run `turns` iterations: what should not happen would happen by then."""
        for _ in range(turns):
            self.do(lambda: None)
