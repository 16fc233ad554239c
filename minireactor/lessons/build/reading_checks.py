"""The checks of step 9: a transport stops reading, and reads again."""

from __future__ import annotations

import select
from typing import Any

from minireactor.lessons.build.client import MIB, ask, reset, upper
from minireactor.lessons.build.trial import Check, Recorder, Trial, registrar

CHECKS: list[Check] = []
_check = registrar(CHECKS, 9)


@_check(
    "R1",
    "pauseProducing() stops dataReceived, resumeProducing() goes on",
    "pauseProducing() 停止 dataReceived，resumeProducing() 继续",
)
def pause_reading(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.pauseProducing())
    client.sendall(b"hello")
    trial.let_run()
    trial.expect(
        not recorder.received,
        (
            f"dataReceived got {bytes(recorder.received)!r} after pauseProducing()",
            f"pauseProducing() 之后 dataReceived 收到 {bytes(recorder.received)!r}",
        ),
        ("no dataReceived while paused", "暂停期间没有 dataReceived"),
    )
    trial.expect_idle(
        ("while paused, with input waiting", "暂停期间有输入在等时"),
        ("READ is not watched while paused", "暂停期间不关注 READ"),
    )
    trial.do(lambda: recorder.transport.resumeProducing())
    trial.wait(
        lambda: recorder.received == b"hello",
        lambda: (
            f"b'hello' came while paused; after resumeProducing(): {bytes(recorder.received)!r}",
            f"暂停期间来了 b'hello'；resumeProducing() 之后：{bytes(recorder.received)!r}",
        ),
        ("dataReceived(b'hello')", "dataReceived(b'hello')"),
    )


@_check("R1", "a pause inside dataReceived counts at once", "在 dataReceived 里暂停，立刻生效")
def pause_inside(trial: Trial) -> None:
    pieces: list[int] = []

    def pause(transport: Any, data: bytes) -> None:
        pieces.append(len(data))
        transport.pauseProducing()

    client, _ = trial.connect(Recorder(data=pause))
    client.sendall(bytes(100_000))
    trial.wait(
        lambda: pieces,
        ("no dataReceived", "没有 dataReceived"),
        ("dataReceived", "dataReceived"),
    )
    trial.let_run()
    trial.expect(
        len(pieces) == 1,
        (f"dataReceived came {len(pieces)} times", f"dataReceived 来了 {len(pieces)} 次"),
        ("once: its first call paused the transport", "一次：第一次调用就暂停了 transport"),
    )


@_check("R1", "a paused client is slowed down by the kernel", "暂停之后，内核让客户端慢下来")
def back_pressure(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.pauseProducing())
    client.setblocking(False)
    sent, most = 0, 12 * MIB
    piece = bytes(MIB)
    for _ in range(1000):
        try:
            sent += client.send(piece)
        except BlockingIOError:
            trial.let_run(2)
            if not select.select([], [client], [], 0.05)[1]:
                break
        if sent >= most:
            break
    trial.expect(
        sent < most,
        (
            f"a paused transport has taken {sent:,} bytes from its client",
            f"暂停的 transport 从客户端收了 {sent:,} 字节",
        ),
        (
            "nothing is read while paused: the bytes stay in the kernel",
            "暂停期间什么都不读：留给内核",
        ),
    )


@_check("R1", "a paused transport still writes", "暂停的 transport 仍然写")
def writes_while_paused(trial: Trial) -> None:
    client, recorder = trial.connect()

    def write() -> None:
        recorder.transport.write(bytes(8 * MIB))
        recorder.transport.pauseProducing()

    trial.do(write)
    trial.read(
        client,
        8 * MIB,
        (
            "reading was paused; of 8,388,608 bytes written {got} came; {end}",
            "读已暂停；写的 8,388,608 字节里到了 {got} 字节；{end}",
        ),
        ("pauseProducing() pauses reading only", "pauseProducing() 只暂停读"),
    )


@_check(
    "R1", "pausing twice, or after the end, does no harm", "暂停两次，或结束之后暂停，都没有害处"
)
def idempotent(trial: Trial) -> None:
    client, recorder = trial.connect(Recorder(data=upper))
    transport = recorder.transport

    def twice() -> None:
        transport.pauseProducing()
        transport.pauseProducing()
        transport.resumeProducing()
        transport.resumeProducing()

    trial.do(twice)
    ask(trial, client)
    reset(client)
    trial.expect_calls(recorder, "made", "data", "lost")
    trial.do(twice)
    trial.expect_calls(recorder, "made", "data", "lost")


@_check(
    "R3",
    "resumeProducing() after loseConnection() reads nothing",
    "loseConnection() 之后 resumeProducing() 不再读",
)
def no_resume_after_close(trial: Trial) -> None:
    client, recorder = trial.connect()

    def finish() -> None:
        recorder.transport.write(bytes(16 * MIB))
        recorder.transport.loseConnection()
        recorder.transport.resumeProducing()

    trial.do(finish)
    client.sendall(b"one more thing")
    trial.let_run()
    trial.expect(
        not recorder.received,
        (
            f"dataReceived got {bytes(recorder.received)!r} after loseConnection()",
            f"loseConnection() 之后 dataReceived 收到 {bytes(recorder.received)!r}",
        ),
        (
            "resumeProducing() has no effect on a closing connection",
            "resumeProducing() 对关闭中的连接无效",
        ),
    )
