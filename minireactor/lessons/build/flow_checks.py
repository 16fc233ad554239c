"""The checks of steps 10 to 12: pull producers, push producers and the high mark, two marks."""

from __future__ import annotations

import socket
from typing import Callable

from minireactor.lessons.build.loop_checks import MIB, expect_same, pattern
from minireactor.lessons.build.trial import Check, Recorder, Text, Trial, registrar

CHECKS: list[Check] = []
KIB = 1 << 10
HIGH, LOW = 64 * KIB, 16 * KIB


class Source:
    """A producer that records its calls, and how much was pending at each resume."""

    def __init__(
        self, recorder: Recorder, resumed: Callable[[Source], object] | None = None
    ) -> None:
        self.recorder = recorder
        self.transport = recorder.transport
        self.events: list[str] = []
        self.pending: list[int] = []  # at each resume
        self.paused = False
        self.depth = 0  # of the writes that are going on
        self.inside: list[str] = []  # events that came inside a write
        self.made = 0
        self._resumed = resumed

    def write(self, data: bytes) -> None:
        self.depth += 1
        self.made += len(data)
        self.transport.write(data)
        self.depth -= 1

    def _event(self, name: str) -> None:
        self.events.append(name)
        self.recorder.calls.append(name)
        if self.depth:
            self.inside.append(name)

    def pauseProducing(self) -> None:
        self.paused = True
        self._event("pause")

    def resumeProducing(self) -> None:
        self.paused = False
        self.pending.append(self.transport.pending)
        self._event("resume")
        if self._resumed:
            self._resumed(self)

    def stopProducing(self) -> None:
        self.paused = True
        self._event("stop")

    def __repr__(self) -> str:
        return f"<producer {id(self):#x}>"


def _events(source: Source) -> Text:
    got = ", ".join(source.events) or "-"
    return (f"the producer's calls: {got}", f"生产者收到的调用：{got}")


# --- 10. Pull producers

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
    trial.rest(20)
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
    trial.rest(10)
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
    trial.expect(second.events == [], _events(second), ("none: it was refused", "没有：它被拒绝了"))


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
    trial.calls(recorder, "made", "resume", "stop", "lost")


@_check(
    "E2",
    "registering on a lost connection stops the producer",
    "在已结束的连接上注册，生产者被停止",
)
def register_on_lost(trial: Trial) -> None:
    client, recorder = trial.connect()
    client.close()
    trial.calls(recorder, "made", "lost")
    for streaming in (False, True):
        source = Source(recorder)
        trial.do(lambda: recorder.transport.registerProducer(source, streaming))  # noqa: B023
        trial.expect(source.events == ["stop"], _events(source), ("stop, at once", "stop，立刻"))


@_check("E5", "loseConnection() waits for the producer", "loseConnection() 等待生产者")
def close_waits(trial: Trial) -> None:
    client, recorder = trial.connect()
    source = Source(recorder)

    def begin() -> None:
        recorder.transport.registerProducer(source, False)
        recorder.transport.loseConnection()

    trial.do(begin)
    trial.rest()
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
        ("unregisterProducer() looks whether to close", "unregisterProducer() 看看是否该关闭"),
    )
    trial.expect(
        got == b"the last words",
        (f"the client got {got!r}", f"客户端收到 {got!r}"),
        (
            "b'the last words', written before unregisterProducer()",
            "unregisterProducer() 之前写的 b'the last words'",
        ),
    )


# --- 11. Push producers

_check = registrar(CHECKS, 11)


def _register(recorder: Recorder, source: Source) -> None:
    recorder.transport.registerProducer(source, True)


def _fill(source: Source, most: int = MIB, size: int = KIB) -> int:
    """Write until paused. Return how many bytes were written."""
    before = source.made
    while not source.paused and source.made - before < most:
        source.write(bytes(size))
    return source.made - before


@_check(
    "P1",
    "registerProducer(producer, True) calls nothing",
    "registerProducer(producer, True) 什么都不调用",
)
def push_starts_itself(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)
    trial.do(lambda: _register(recorder, source))
    trial.rest()
    trial.expect(
        source.events == [],
        _events(source),
        ("none: a push producer starts by itself", "没有：推式生产者自己开始"),
    )


@_check(
    "M2", "it is paused by the write that goes above the high mark", "越过高水位的那次写入让它暂停"
)
def paused_above_high(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)

    def fill() -> int:
        _register(recorder, source)
        return _fill(source)

    written = trial.do(fill)
    trial.expect(
        written == HIGH + KIB,
        (
            f"writes of 1,024 bytes went on until {written:,} bytes were pending",
            f"每次写 1,024 字节，一直写到积压 {written:,} 字节",
        ),
        (
            "pauseProducing() as soon as pending > 65,536: after 66,560, not at 65,536",
            "pending > 65,536 时立刻 pauseProducing()：在 66,560，而不是 65,536",
        ),
    )
    trial.expect(
        source.inside == ["pause"],
        (
            "pauseProducing() did not come from inside write()",
            "pauseProducing() 不是在 write() 内部调用的",
        ),
        ("write() calls it before it returns", "write() 返回之前调用它"),
    )


@_check("P2", "further writes do not repeat the pause", "之后的写入不重复暂停")
def paused_once(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)

    def write_on() -> None:
        _register(recorder, source)
        for _ in range(80):
            source.write(bytes(KIB))

    trial.do(write_on)
    count = source.events.count("pause")
    trial.expect(
        count == 1,
        (
            f"80 writes of 1,024 bytes: pauseProducing() was called {count} times",
            f"写了 80 次 1,024 字节：pauseProducing() 被调用了 {count} 次",
        ),
        ("once for each upward crossing", "每次向上越过只调用一次"),
    )


@_check(
    "P3",
    "it is resumed when its data has gone, never inside write()",
    "数据发走之后恢复，从不在 write() 内部",
)
def resumed_later(trial: Trial) -> None:
    client, recorder = trial.connect()
    source = Source(recorder)

    def fill() -> None:
        _register(recorder, source)
        source.write(bytes(16 * MIB))

    trial.do(fill)
    trial.rest()
    trial.expect(
        source.events == ["pause"],
        _events(source),
        ("pause, and no resume while the client does not read", "pause，客户端不读时不 resume"),
    )
    trial.read(
        client,
        16 * MIB,
        ("of 16,777,216 bytes {got} came; {end}", "16,777,216 字节里到了 {got} 字节；{end}"),
        ("all of them", "全部"),
    )
    trial.wait(
        lambda: source.events[1:],
        (
            "all was sent, and resumeProducing() was not called",
            "全部发出了，却没有调用 resumeProducing()",
        ),
        ("the flush calls it: pause, resume", "由 flush 调用：pause, resume"),
    )
    trial.rest()
    trial.expect(source.events == ["pause", "resume"], _events(source), ("pause, resume",) * 2)
    trial.expect(
        source.pending[0] <= HIGH,
        (
            f"resumed with {source.pending[0]:,} bytes pending",
            f"恢复时积压 {source.pending[0]:,} 字节",
        ),
        ("not above the high mark", "不高于高水位"),
    )


@_check(
    "P4",
    "a producer that overfills inside resumeProducing is paused again",
    "在 resumeProducing 里又写满，会再次暂停",
)
def overfills(trial: Trial) -> None:
    client, recorder = trial.connect()
    total = 4 * MIB
    highest = [0]

    def resumed(source: Source) -> None:
        _fill(source, total - source.made, 16 * KIB)
        highest[0] = max(highest[0], source.transport.pending)

    source = Source(recorder, resumed)

    def begin() -> None:
        _register(recorder, source)
        resumed(source)

    trial.do(begin)
    got = trial.read(
        client,
        total,
        (
            f"a producer that fills up to the mark again in each resumeProducing(): of {total:,} "
            "bytes {got} came; {end}",
            f"生产者在每次 resumeProducing() 里又写满：{total:,} 字节里到了 {{got}} 字节；{{end}}",
        ),
        (
            "the state changes first, and the producer is called last",
            "先改状态，最后调用生产者",
        ),
    )
    trial.expect(
        highest[0] <= HIGH + 16 * KIB,
        (
            f"in resumeProducing(), writes of 16,384 bytes went on to {highest[0]:,} bytes pending",
            f"在 resumeProducing() 里每次写 16,384 字节，一直写到积压 {highest[0]:,} 字节",
        ),
        (
            "paused again within this call: the state changes first, the producer comes last",
            "就在这次调用里再次暂停：先改状态，最后调用生产者",
        ),
    )
    order = "".join("P" if event == "pause" else "R" for event in source.events)
    trial.expect(
        len(got) == total and "PP" not in order and "RR" not in order,
        (
            f"calls: {' '.join(source.events[:8])} ..., {len(got):,} bytes",
            f"调用：{' '.join(source.events[:8])} ...，{len(got):,} 字节",
        ),
        ("pause and resume take turns", "pause 和 resume 轮流出现"),
    )
    trial.expect(
        "resume" not in source.inside,
        ("resumeProducing() came from inside write()", "resumeProducing() 是在 write() 内部调用的"),
        ("only the flush calls it", "只由 flush 调用"),
    )


@_check("P1", "the next producer starts flowing", "下一个生产者从流动状态开始")
def next_producer(trial: Trial) -> None:
    _, recorder = trial.connect()
    first, second = Source(recorder), Source(recorder)

    def change() -> int:
        _register(recorder, first)
        _fill(first)
        recorder.transport.unregisterProducer()
        _register(recorder, second)
        second.write(b"x")
        return second.events.count("pause")

    pauses = trial.do(change)
    trial.expect(
        pauses == 1,
        (
            "a paused producer unregistered; the next one wrote above the mark, and was not paused",
            "暂停的生产者注销了；下一个写到高水位以上，却没有暂停",
        ),
        (
            "a newly registered producer is flowing: its first write pauses it",
            "新注册的生产者处于流动状态：第一次写入让它暂停",
        ),
    )


@_check(
    "E6",
    "after an abort inside pauseProducing comes stop, and no resume",
    "在 pauseProducing 里中止：之后是 stop，没有 resume",
)
def abort_inside_pause(trial: Trial) -> None:
    class Aborts(Source):
        def pauseProducing(self) -> None:
            super().pauseProducing()
            self.transport.abortConnection()

    client, recorder = trial.connect()
    source = Aborts(recorder)

    def fill() -> None:
        _register(recorder, source)
        _fill(source)

    trial.do(fill)
    trial.calls(recorder, "made", "pause", "stop", "lost")
    trial.rest()
    trial.expect(source.events == ["pause", "stop"], _events(source), ("pause, stop",) * 2)
    client.close()


# --- 12. Two marks

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
        _register(recorder, source)
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
        _register(other, second)
        return _fill(second)

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
        _register(recorder, source)
        source.write(bytes(300 * KIB))

    trial.do(begin)
    trial.read(
        client,
        300 * KIB,
        ("of 307,200 bytes {got} came; {end}", "307,200 字节里到了 {got} 字节；{end}"),
        ("all of them", "全部"),
    )
    trial.wait(lambda: source.pending, _events(source), ("pause, resume",) * 2)
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
        _register(recorder, source)
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
