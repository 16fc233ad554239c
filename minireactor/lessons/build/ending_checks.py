"""The checks of steps 6 to 8: endings, closing, closing without loss."""

from __future__ import annotations

import contextlib
import select
import socket

from minireactor.lessons.build.client import MIB, ask, expect_same, pattern, reset, upper
from minireactor.lessons.build.instruments import clock, monotonic
from minireactor.lessons.build.report import Text
from minireactor.lessons.build.trial import Check, Recorder, Trial, registrar

CHECKS: list[Check] = []


def reason_of(recorder: Recorder) -> BaseException | None:
    """Return the exception in the reason of connectionLost."""
    value: BaseException | None = getattr(recorder.reason, "value", recorder.reason)
    return value


# --- 6. Endings

_check = registrar(CHECKS, 6)


@_check("E8", "a client that resets the connection ends it once", "客户端重置连接，只结束一次")
def reset_by_client(trial: Trial) -> None:
    client, recorder = trial.connect()
    reset(client)
    trial.expect_calls(recorder, "made", "lost")
    name = type(reason_of(recorder)).__name__
    trial.expect(
        name == "ConnectionLost",
        (
            f"a client has reset its connection; the reason is {name}",
            f"客户端重置了连接；原因是 {name}",
        ),
        ("ConnectionLost, with the OSError of recv()", "ConnectionLost，带着 recv() 的 OSError"),
    )
    other, _ = trial.connect(Recorder(data=upper))
    ask(trial, other)


@_check("E8", "a reset while bytes are pending ends it once", "有积压时被重置，也只结束一次")
def reset_while_pending(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.write(bytes(16 * MIB)))
    trial.let_run()
    client.sendall(b"unread")
    reset(client)
    trial.wait(
        lambda: "lost" in recorder.calls,
        (
            "a client has reset its connection; no connectionLost",
            "客户端重置了连接；没有 connectionLost",
        ),
        ("connectionLost, once", "connectionLost，一次"),
    )
    trial.let_run()
    lost = recorder.calls.count("lost")
    trial.expect(
        lost == 1,
        (f"connectionLost was called {lost} times", f"connectionLost 被调用了 {lost} 次"),
        ("once", "一次"),
    )


@_check("B2", "write() after the end raises nothing", "结束之后 write() 不抛异常")
def write_after_end(trial: Trial) -> None:
    client, recorder = trial.connect()
    client.close()
    trial.expect_calls(recorder, "made", "lost")
    trial.do(lambda: recorder.transport.write(b"too late"))
    other, _ = trial.connect(Recorder(data=upper))
    ask(trial, other)


@_check("E8", "stop() ends all connections", "stop() 结束所有连接")
def stop_ends_all(trial: Trial) -> None:
    recorders = [trial.connect()[1] for _ in range(2)]
    trial.do(trial.reactor.stop)
    trial.wait_for_end()
    for recorder in recorders:
        got = ", ".join(recorder.calls)
        trial.expect_now(
            recorder.calls == ["made", "lost"],
            (f"after stop(), a protocol's calls: {got}", f"stop() 之后，协议收到的调用：{got}"),
            ("made, lost", "made, lost"),
        )


# --- 7. Closing

_check = registrar(CHECKS, 7)


def _arrived(size: int) -> Text:
    return (
        f"of {size:,} bytes before loseConnection(), {{got}} came; {{end}}",
        f"loseConnection() 之前写了 {size:,} 字节，到了 {{got}} 字节；{{end}}",
    )


ALL_THEN_END = ("all bytes, then the end", "所有字节，然后是流的结束")


@_check("E5", "loseConnection() sends what is pending first", "loseConnection() 先把积压发完")
def flush_then_close(trial: Trial) -> None:
    answer = pattern(8 * MIB)
    client, recorder = trial.connect()

    def finish() -> None:
        recorder.transport.write(answer)
        recorder.transport.loseConnection()
        recorder.transport.loseConnection()

    trial.do(finish)
    trial.let_run()
    got = trial.read_all(client, _arrived(len(answer)), ALL_THEN_END)
    trial.expect(
        len(got) == len(answer),
        (
            f"of {len(answer):,} bytes before loseConnection(), {len(got):,} came, then the end",
            f"loseConnection() 之前写了 {len(answer):,} 字节，到了 {len(got):,} 字节就结束了",
        ),
        ALL_THEN_END,
    )
    expect_same(trial, got, answer)
    client.close()
    trial.expect_calls(recorder, "made", "lost")


@_check(
    "E5", "loseConnection() with nothing pending closes", "没有积压时 loseConnection() 直接关闭"
)
def close_at_once(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.loseConnection())
    trial.read_all(
        client,
        (
            "loseConnection(), nothing pending: the client sees no end; {end}",
            "loseConnection() 时没有积压：客户端看不到结束；{end}",
        ),
        ("the connection is closed soon", "连接很快关闭"),
    )
    client.close()
    trial.expect_calls(recorder, "made", "lost")


@_check("R3", "no dataReceived after loseConnection()", "loseConnection() 之后没有 dataReceived")
def no_data_after_close(trial: Trial) -> None:
    client, recorder = trial.connect()

    def finish() -> None:
        recorder.transport.write(bytes(16 * MIB))
        recorder.transport.loseConnection()

    trial.do(finish)
    client.sendall(b"one more thing")
    trial.let_run()
    trial.expect(
        not recorder.received,
        (
            f"dataReceived got {bytes(recorder.received)!r} after loseConnection()",
            f"loseConnection() 之后 dataReceived 收到 {bytes(recorder.received)!r}",
        ),
        ("no call but connectionLost", "除了 connectionLost 没有别的调用"),
    )


@_check("E6", "abortConnection() drops what is pending", "abortConnection() 丢弃积压")
def abort(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.write(bytes(16 * MIB)))
    trial.let_run()
    trial.do(lambda: recorder.transport.abortConnection())
    trial.wait(
        lambda: "lost" in recorder.calls,
        (
            "abortConnection() with bytes pending: no connectionLost",
            "有积压时 abortConnection()：没有 connectionLost",
        ),
        ("connectionLost at once", "立刻 connectionLost"),
    )
    trial.expect_calls(recorder, "made", "lost")
    name = type(reason_of(recorder)).__name__
    trial.expect(
        name == "ConnectionAborted",
        (f"after abortConnection() the reason is {name}", f"abortConnection() 之后的原因是 {name}"),
        ("ConnectionAborted", "ConnectionAborted"),
    )
    _, end = trial.read_to_end(client)
    trial.expect(
        "ConnectionResetError" in end[0],
        (
            f"after abortConnection() the client saw: {end[0]}",
            f"abortConnection() 之后客户端看到：{end[1]}",
        ),
        (
            "a reset (SO_LINGER with 0 s), so that nobody takes a part for the whole",
            "重置（SO_LINGER 设为 0 秒），免得有人把一部分当成全部",
        ),
    )


# --- 8. Closing loses nothing

_check = registrar(CHECKS, 8)


@_check(
    "C1",
    "a client that has sent unread bytes still gets everything",
    "客户端发来的数据没人读，它也能收到全部",
)
def lossless(trial: Trial) -> None:
    answer = pattern(6 * MIB)
    client, recorder = trial.connect(receive_buffer=16 * 1024)

    def finish() -> None:
        recorder.transport.write(answer)
        recorder.transport.loseConnection()

    trial.do(finish)
    client.sendall(bytes(100_000))
    got = bytearray()
    end: Text = ("", "")
    deadline = monotonic() + 2 * trial.patience
    while monotonic() < deadline and not end[0]:
        data, end = trial.read_some(client)
        got += data
        if not end[0]:
            _send_some(client)
    trial.expect(
        len(got) == len(answer) and end[0] == "the connection was closed",
        (
            f"a client had sent bytes that nobody read; {len(got):,} of {len(answer):,} bytes "
            f"came; {end[0]}",
            f"客户端发来的数据没人读；{len(answer):,} 字节里到了 {len(got):,} 字节；{end[1]}",
        ),
        (
            "all bytes, then the end: shut the write side, read and drop input, then close",
            "所有字节，然后结束：先关写端，读并丢弃输入，再关闭",
        ),
    )
    expect_same(trial, bytes(got), answer)
    client.close()
    trial.expect_calls(recorder, "made", "lost")


def _send_some(client: socket.socket) -> None:
    if select.select([], [client], [], 0)[1]:
        with contextlib.suppress(OSError):  # the next read reports it
            client.send(bytes(1000))


@_check("C1", "a client that stays does not stop the loop", "客户端迟迟不走，也不会卡住事件循环")
def stays(trial: Trial) -> None:
    client, recorder = trial.connect()
    other, _ = trial.connect(Recorder(data=upper))
    trial.do(lambda: recorder.transport.loseConnection())
    trial.read_all(
        client,
        (
            "after loseConnection() the client sees no end; {end}",
            "loseConnection() 之后客户端看不到结束；{end}",
        ),
        ("the write side is shut before the client closes", "不等客户端关闭，先关写端"),
    )
    ask(trial, other)
    trial.expect_idle(
        ("while a closing connection waits for its client", "关闭中的连接在等客户端时"),
        ("the loop sleeps", "事件循环在睡眠"),
    )


@_check("C1", "the wait for the client has a limit", "等待客户端的时间有上限")
def limited(trial: Trial) -> None:
    _, recorder = trial.connect()
    trial.do(lambda: recorder.transport.loseConnection())
    trial.let_run()
    with clock.changed(lambda seconds: seconds + 3600):  # an hour later
        trial.let_run()
        trial.wait(
            lambda: "lost" in recorder.calls,
            (
                "a client never closes; an hour after loseConnection(): no connectionLost",
                "客户端一直不关闭；loseConnection() 过了一小时：没有 connectionLost",
            ),
            (
                "closed after LINGER_SECONDS, with callLater()",
                "用 callLater() 在 LINGER_SECONDS 之后关闭",
            ),
        )
    trial.expect_calls(recorder, "made", "lost")


class HalfCloseable(Recorder):
    """A protocol that goes on when one half of the connection has ended."""

    def readConnectionLost(self) -> None:
        self.calls.append("read lost")

    def writeConnectionLost(self) -> None:
        self.calls.append("write lost")


@_check(
    "E7",
    "a half-closeable protocol learns which half has ended",
    "可半关闭的协议会知道哪一半结束了",
)
def half_close(trial: Trial) -> None:
    client, recorder = trial.connect(HalfCloseable())
    client.shutdown(socket.SHUT_WR)
    trial.expect_calls(recorder, "made", "read lost")

    def finish() -> None:
        recorder.transport.write(b"the answer")
        recorder.transport.loseWriteConnection()

    trial.do(finish)
    got = trial.read_all(
        client,
        (
            "the client ended its stream; of 10 bytes after that {got} came; {end}",
            "客户端结束了自己的流；之后写的 10 字节里到了 {got} 字节；{end}",
        ),
        ("10 bytes, then the end", "10 字节，然后结束"),
    )
    trial.expect(
        got == b"the answer",
        (f"the client got {got!r}", f"客户端收到 {got!r}"),
        ("b'the answer'",) * 2,
    )
    trial.expect_calls(recorder, "made", "read lost", "write lost", "lost")
