"""The checks of step 10: pull producers."""

from __future__ import annotations

from typing import Callable

from minireactor.lessons.build.client import KIB, MIB, expect_same, pattern
from minireactor.lessons.build.source import LOW, Source
from minireactor.lessons.build.trial import Check, Trial, registrar

CHECKS: list[Check] = []
_check = registrar(CHECKS, 10)


def _sends(pieces: int, size: int) -> Callable[[Source], object]:
    """Return what a pull producer does: one piece a call, and then the end."""
    data = pattern(pieces * size)

    def resumed(source: Source) -> None:
        if source.made == len(data):
            source.transport.unregisterProducer()
            source.transport.loseConnection()
        else:
            source.write(data[source.made : source.made + size])

    return resumed


@_check(
    "U1",
    "registerProducer(producer, False) asks at once",
    "registerProducer(producer, False) 立刻请求一次",
)
def asked_at_once(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)

    def register() -> list[str]:
        recorder.transport.registerProducer(source, False)
        return list(source.events)

    events = trial.do(register)
    trial.expect(
        events == ["resume"],
        (
            f"resumeProducing() was called {len(events)} times inside registerProducer()",
            f"registerProducer() 里面 resumeProducing() 被调用了 {len(events)} 次",
        ),
        ("once", "一次"),
    )


@_check("U1", "it is asked again each time that its data has gone", "每次数据发走之后再次请求")
def asked_again(trial: Trial) -> None:
    client, recorder = trial.connect()
    source = Source(recorder, _sends(40, 64 * KIB))
    trial.do(lambda: recorder.transport.registerProducer(source, False))
    wanted = pattern(40 * 64 * KIB)
    got = trial.read_all(
        client,
        (
            f"of {len(wanted):,} bytes in 40 pieces {{got}} came; {{end}}",
            f"分 40 块写的 {len(wanted):,} 字节里到了 {{got}} 字节；{{end}}",
        ),
        ("a call of resumeProducing() for each piece", "每一块调用一次 resumeProducing()"),
    )
    expect_same(trial, got, wanted)


@_check("U1", "it is not asked while the client does not read", "客户端不读时不再请求")
def not_asked_above_low(trial: Trial) -> None:
    _, recorder = trial.connect()

    def resumed(source: Source) -> None:
        if source.made < 64 * MIB:
            source.write(bytes(16 * MIB))  # more than the kernel takes

    source = Source(recorder, resumed)
    trial.do(lambda: recorder.transport.registerProducer(source, False))
    trial.let_run(20)
    most = max(source.pending)
    trial.expect(
        most <= LOW,
        (
            f"resumeProducing() was called with {most:,} bytes pending",
            f"积压 {most:,} 字节时调用了 resumeProducing()",
        ),
        ("it is called when the buffer is empty", "缓冲区空了才调用"),
    )


@_check("U2", "a producer that writes nothing is not polled", "什么都不写的生产者不会被轮询")
def not_polled(trial: Trial) -> None:
    client, recorder = trial.connect()
    source = Source(recorder)
    trial.do(lambda: recorder.transport.registerProducer(source, False))
    trial.let_run(10)
    trial.expect(
        len(source.events) == 1,
        (
            f"it wrote nothing, and was asked {len(source.events)} times",
            f"它什么都没写，却被请求了 {len(source.events)} 次",
        ),
        ("once, until other data has been sent", "一次，直到有别的数据发出"),
    )
    trial.do(lambda: recorder.transport.write(b"other data"))
    trial.read(
        client,
        10,
        ("{got} of 10 bytes came; {end}", "10 字节里到了 {got} 字节；{end}"),
        ("all 10", "全部 10 字节"),
    )
    trial.wait(
        lambda: len(source.events) == 2,
        (
            "other data was written and sent; the producer was not asked again",
            "写入并发出了别的数据；没有再次请求生产者",
        ),
        ("asked once more", "再请求一次"),
    )


@_check("E1", "a second producer is refused", "拒绝第二个生产者")
def second_producer(trial: Trial) -> None:
    _, recorder = trial.connect()
    first, second = Source(recorder), Source(recorder)

    def register() -> str:
        recorder.transport.registerProducer(first, False)
        try:
            recorder.transport.registerProducer(second, False)
        except RuntimeError as error:
            return str(error)
        return ""

    message = trial.do(register)
    trial.expect(
        message,
        ("a second registerProducer() raised nothing", "第二次 registerProducer() 没有抛出异常"),
        ("RuntimeError", "RuntimeError"),
    )
    trial.expect(
        repr(first) in message and repr(second) in message,
        (f"the RuntimeError says {message!r}", f"RuntimeError 说的是 {message!r}"),
        ("it names both producers, with their repr", "用 repr 写出两个生产者"),
    )
    trial.expect(second.events == [], second.seen(), ("none: it was refused", "没有：它被拒绝了"))


@_check(
    "E3",
    "the producer is stopped once, before connectionLost",
    "生产者停止一次，先于 connectionLost",
)
def stopped(trial: Trial) -> None:
    client, recorder = trial.connect()
    source = Source(recorder)
    trial.do(lambda: recorder.transport.registerProducer(source, False))
    client.close()
    trial.expect_calls(recorder, "made", "resume", "stop", "lost")


@_check(
    "E2",
    "registering on a lost connection stops the producer",
    "在已结束的连接上注册，生产者被停止",
)
def register_on_lost(trial: Trial) -> None:
    client, recorder = trial.connect()
    client.close()
    trial.expect_calls(recorder, "made", "lost")
    for streaming in (False, True):
        source = Source(recorder)
        trial.do(lambda: recorder.transport.registerProducer(source, streaming))  # noqa: B023
        trial.expect(source.events == ["stop"], source.seen(), ("stop, at once", "stop，立刻"))


@_check("E5", "loseConnection() waits for the producer", "loseConnection() 等待生产者")
def close_waits(trial: Trial) -> None:
    client, recorder = trial.connect()
    source = Source(recorder)

    def begin() -> None:
        recorder.transport.registerProducer(source, False)
        recorder.transport.loseConnection()

    trial.do(begin)
    trial.let_run()
    trial.expect(
        trial.is_silent(client),
        (
            "loseConnection() with a producer registered: the client saw the end",
            "还有生产者注册着就 loseConnection()：客户端看到了结束",
        ),
        ("the end comes after unregisterProducer()", "unregisterProducer() 之后才结束"),
    )

    def finish() -> None:
        source.write(b"the last words")
        recorder.transport.unregisterProducer()
        recorder.transport.unregisterProducer()  # E4

    trial.do(finish)
    got = trial.read_all(
        client,
        (
            "14 bytes and unregisterProducer() after loseConnection(): {got} came; {end}",
            "loseConnection() 之后写 14 字节并 unregisterProducer()：到了 {got} 字节；{end}",
        ),
        ("14 bytes, then the end", "14 字节，然后结束"),
    )
    client, recorder = trial.connect()
    source = Source(recorder)
    trial.do(begin)
    trial.do(lambda: recorder.transport.unregisterProducer())
    trial.read_all(
        client,
        (
            "unregisterProducer() after loseConnection(), nothing pending: no end; {end}",
            "loseConnection() 之后 unregisterProducer()，没有积压：没有结束；{end}",
        ),
        (
            "unregisterProducer() closes if nothing is pending",
            "没有积压时 unregisterProducer() 关闭连接",
        ),
    )
    trial.expect(
        got == b"the last words",
        (f"the client got {got!r}", f"客户端收到 {got!r}"),
        (
            "b'the last words', written before unregisterProducer()",
            "unregisterProducer() 之前写的 b'the last words'",
        ),
    )
