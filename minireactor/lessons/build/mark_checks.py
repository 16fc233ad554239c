"""The checks of step 12: two marks."""

from __future__ import annotations

import socket

from minireactor.lessons.build.client import KIB, MIB
from minireactor.lessons.build.source import HIGH, LOW, Source
from minireactor.lessons.build.trial import Check, Recorder, Trial, registrar

CHECKS: list[Check] = []
_check = registrar(CHECKS, 12)


def _small_steps(recorder: Recorder) -> None:
    """Make the kernel take little at a time, so that pending falls in small steps."""
    for value in vars(recorder.transport).values():
        if isinstance(value, socket.socket):
            value.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)


def _saw_tooth(trial: Trial, *, marks: tuple[int, int] | None = None) -> tuple[Source, int]:
    """Let a producer send through small kernel buffers. Return it, and the highest pending."""
    highest = [0]
    total = MIB

    def resumed(source: Source) -> None:
        while not source.paused and source.made < total:
            source.write(bytes(KIB))
            highest[0] = max(highest[0], source.transport.pending)
        if source.made == total:
            source.made += 1
            source.transport.unregisterProducer()
            source.transport.loseConnection()

    client, recorder = trial.connect(receive_buffer=8 * KIB)
    source = Source(recorder, resumed)

    def begin() -> None:
        _small_steps(recorder)
        if marks:
            recorder.transport.setWriteBufferLimits(*marks)
        source.register_push()
        resumed(source)

    trial.do(begin)
    trial.read_all(
        client,
        (
            f"of {total:,} bytes {{got}} came; {{end}}",
            f"{total:,} 字节里到了 {{got}} 字节；{{end}}",
        ),
        ("each pause is followed by a resume", "每次 pause 之后都有 resume"),
    )
    return source, highest[0]


@_check("M2", "it is resumed at the low mark", "在低水位恢复")
def resumed_at_low(trial: Trial) -> None:
    source, highest = _saw_tooth(trial)
    most = max(source.pending, default=0)
    count = len(source.pending)
    trial.expect(
        most <= LOW,
        (f"resumed with {most:,} bytes pending", f"积压 {most:,} 字节时就恢复了"),
        ("resumeProducing() when pending <= 16,384", "pending <= 16,384 时才 resumeProducing()"),
    )
    trial.expect(
        most > 0,
        (
            f"resumed {count} times, each time with 0 bytes pending",
            f"恢复了 {count} 次，每次都等到积压为 0",
        ),
        (
            "resumeProducing() as soon as pending <= 16,384: the kernel never runs dry",
            "pending <= 16,384 就 resumeProducing()：内核里总有数据可发",
        ),
    )
    trial.expect(
        highest == HIGH + KIB,
        (f"at most {highest:,} bytes were pending", f"积压最多 {highest:,} 字节"),
        ("66,560: the high mark and one write", "66,560：高水位加一次写入"),
    )


@_check(
    "M1",
    "setWriteBufferLimits(high, low) sets both marks",
    "setWriteBufferLimits(high, low) 设置两条水位线",
)
def limits(trial: Trial) -> None:
    source, highest = _saw_tooth(trial, marks=(32 * KIB, 0))
    most = max(source.pending, default=0)
    trial.expect(
        highest == 33 * KIB and most == 0,
        (
            f"marks 32,768 and 0: at most {highest:,} bytes pending, resumed at {most:,}",
            f"水位线 32,768 和 0：积压最多 {highest:,} 字节，恢复时 {most:,} 字节",
        ),
        ("33,792 and 0", "33,792 和 0"),
    )
    _, other = trial.connect()
    second = Source(other)

    def fill() -> int:
        second.register_push()
        return second.fill()

    written = trial.do(fill)
    trial.expect(
        written == HIGH + KIB,
        (
            f"the marks of one connection changed; another one was paused at {written:,} bytes",
            f"改了一个连接的水位线；另一个连接在 {written:,} 字节暂停",
        ),
        ("each connection has its own marks", "每个连接有自己的水位线"),
    )


@_check("M1", "marks that make no sense are refused", "拒绝没有意义的水位线")
def bad_limits(trial: Trial) -> None:
    _, recorder = trial.connect()
    bad = [(10, 10), (10, 20), (10, -1), (0, 0), (-5, -6)]

    def try_all() -> list[tuple[tuple[int, int], str]]:
        results = []
        for marks in bad:
            try:
                recorder.transport.setWriteBufferLimits(*marks)
            except ValueError as error:
                results.append((marks, str(error)))
            else:
                results.append((marks, ""))
        return results

    for (high, low), message in trial.do(try_all):
        trial.expect(
            message,
            (
                f"setWriteBufferLimits({high}, {low}) raised nothing",
                f"setWriteBufferLimits({high}, {low}) 没有抛出异常",
            ),
            ("ValueError unless 0 <= low < high", "不满足 0 <= low < high 就抛 ValueError"),
        )
        trial.expect(
            str(high) in message and str(low) in message,
            (
                f"setWriteBufferLimits({high}, {low}): the error says {message!r}",
                f"setWriteBufferLimits({high}, {low})：错误信息是 {message!r}",
            ),
            ("it names both values", "写出两个值"),
        )


@_check(
    "M1", "low is a quarter of high unless it is given", "没有给出 low 时，low 是 high 的四分之一"
)
def quarter(trial: Trial) -> None:
    client, recorder = trial.connect(receive_buffer=8 * KIB)
    source = Source(recorder)

    def begin() -> None:
        _small_steps(recorder)
        recorder.transport.setWriteBufferLimits(256 * KIB)
        source.register_push()
        source.write(bytes(300 * KIB))

    trial.do(begin)
    trial.read(
        client,
        300 * KIB,
        ("of 307,200 bytes {got} came; {end}", "307,200 字节里到了 {got} 字节；{end}"),
        ("all of them", "全部"),
    )
    trial.wait(lambda: source.pending, source.seen(), ("pause, resume",) * 2)
    low = source.pending[0]
    trial.expect(
        LOW < low <= 64 * KIB,
        (
            f"setWriteBufferLimits(262144): resumed with {low:,} bytes pending",
            f"setWriteBufferLimits(262144)：积压 {low:,} 字节时恢复",
        ),
        ("at 65,536, a quarter, or just below", "在四分之一 65,536 处，或稍低一点"),
    )


@_check("M3", "new marks count at once", "新的水位线立刻生效")
def new_limits(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)

    def lower() -> list[str]:
        source.register_push()
        source.write(bytes(50_000))
        recorder.transport.setWriteBufferLimits(10_000, 1_000)
        return list(source.events)

    events = trial.do(lower)
    trial.expect(
        events == ["pause"],
        (
            f"50,000 bytes pending, high becomes 10,000; the calls inside: {events}",
            f"积压 50,000 字节，高水位改为 10,000；里面的调用：{events}",
        ),
        ("pauseProducing() at once", "立刻 pauseProducing()"),
    )
