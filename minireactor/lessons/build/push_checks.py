"""The checks of step 11: push producers and the high mark."""

from __future__ import annotations

from minireactor.lessons.build.client import KIB, MIB
from minireactor.lessons.build.source import HIGH, Source
from minireactor.lessons.build.trial import Check, Trial, registrar

CHECKS: list[Check] = []
_check = registrar(CHECKS, 11)


@_check(
    "P1",
    "registerProducer(producer, True) calls nothing",
    "registerProducer(producer, True) 什么都不调用",
)
def push_starts_itself(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)
    trial.do(source.register_push)
    trial.let_run()
    trial.expect(
        source.events == [],
        source.seen(),
        ("none: a push producer starts by itself", "没有：推式生产者自己开始"),
    )


@_check(
    "M2", "it is paused by the write that goes above the high mark", "越过高水位的那次写入让它暂停"
)
def paused_above_high(trial: Trial) -> None:
    _, recorder = trial.connect()
    source = Source(recorder)

    def fill() -> int:
        source.register_push()
        return source.fill()

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
        source.register_push()
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
        source.register_push()
        source.write(bytes(16 * MIB))

    trial.do(fill)
    trial.let_run()
    trial.expect(
        source.events == ["pause"],
        source.seen(),
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
    trial.let_run()
    trial.expect(source.events == ["pause", "resume"], source.seen(), ("pause, resume",) * 2)
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
        source.fill(total - source.made, 16 * KIB)
        highest[0] = max(highest[0], source.transport.pending)

    source = Source(recorder, resumed)

    def begin() -> None:
        source.register_push()
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
        first.register_push()
        first.fill()
        recorder.transport.unregisterProducer()
        second.register_push()
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
        source.register_push()
        source.fill()

    trial.do(fill)
    trial.expect_calls(recorder, "made", "pause", "stop", "lost")
    trial.let_run()
    trial.expect(source.events == ["pause", "stop"], source.seen(), ("pause, stop",) * 2)
    client.close()
