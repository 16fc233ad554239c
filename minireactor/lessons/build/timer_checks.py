"""The checks of step 5: timers."""

from __future__ import annotations

import time
from typing import Any

from minireactor.lessons.build.instruments import clock, monotonic
from minireactor.lessons.build.trial import Check, Recorder, Trial, registrar

CHECKS: list[Check] = []
_check = registrar(CHECKS, 5)


@_check("", "a call is made when it is due, with its arguments", "到期时带着参数调用")
def due(trial: Trial) -> None:
    made: list[Any] = []

    def call(*args: Any, **names: Any) -> None:
        made.append((monotonic(), args, names))

    began = monotonic()
    trial.do(lambda: trial.reactor.callLater(0.05, call, 1, two=2))
    trial.wait(
        lambda: made,
        (
            "callLater(0.05, f, 1, two=2): f was not called",
            "callLater(0.05, f, 1, two=2)：f 没有被调用",
        ),
        (
            "select() waits no longer than until the next call is due",
            "select() 最多等到下一个到期的调用",
        ),
    )
    when, args, names = made[0]
    trial.expect(
        when - began > 0.049,
        (
            f"callLater(0.05, f): f was called after {when - began:.3f} s",
            f"callLater(0.05, f)：过了 {when - began:.3f} 秒就调用了 f",
        ),
        ("not before 0.05 s", "不早于 0.05 秒"),
    )
    trial.expect(
        (args, names) == ((1,), {"two": 2}),
        (f"f got {args} and {names}", f"f 收到 {args} 和 {names}"),
        ("f(1, two=2)", "f(1, two=2)"),
    )
    time.sleep(0.06)
    trial.let_run()
    trial.expect(
        len(made) == 1,
        (f"f was called {len(made)} times", f"f 被调用了 {len(made)} 次"),
        ("one call for each callLater()", "每个 callLater() 只调用一次"),
    )


@_check("", "calls come in the order of their times", "按时间先后调用")
def ordered(trial: Trial) -> None:
    order: list[str] = []

    def later() -> None:
        now = monotonic()
        with clock.changed(lambda seconds: now):  # two calls are due at the very same time
            for delay, name in ((0.03, "c"), (0.01, "a1"), (0.02, "b"), (0.01, "a2")):
                trial.reactor.callLater(delay, order.append, name)

    trial.do(later)
    trial.wait(
        lambda: len(order) == 4,
        lambda: (f"of 4 calls, {len(order)} were made", f"4 个调用里只做了 {len(order)} 个"),
        ("all four", "四个都调用"),
    )
    trial.expect(
        order == ["a1", "a2", "b", "c"],
        (f"the order was {', '.join(order)}", f"调用顺序是 {', '.join(order)}"),
        ("a1, a2, b, c: by time, then by request", "a1, a2, b, c：先按时间，再按登记顺序"),
    )


@_check("", "a cancelled call is not made", "取消的调用不再发生")
def cancelled(trial: Trial) -> None:
    made: list[str] = []

    def later() -> list[bool]:
        call = trial.reactor.callLater(0.01, made.append, "cancelled")
        trial.reactor.callLater(0.03, made.append, "kept")
        before = call.active()
        call.cancel()
        return [before, call.active()]

    active = trial.do(later)
    trial.expect(
        active == [True, False],
        (
            f"active() before and after cancel(): {active}",
            f"cancel() 前后的 active()：{active}",
        ),
        ("True, then False", "先 True，后 False"),
    )
    trial.wait(
        lambda: "kept" in made,
        ("the call after a cancelled one was not made", "取消的调用之后的那个没有发生"),
        ("only the cancelled call is left out", "只有取消的不发生"),
    )
    trial.expect(
        made == ["kept"],
        ("the cancelled call was made", "取消的调用还是发生了"),
        ("no call after cancel()", "cancel() 之后不再调用"),
    )


@_check("", "the loop sleeps until the next call is due", "下一个调用到期之前，事件循环在睡眠")
def sleeps_until_due(trial: Trial) -> None:
    trial.do(lambda: trial.reactor.callLater(60, list))
    trial.expect_idle(
        ("while a call is due in 60 s", "有一个 60 秒后到期的调用时"),
        ("select() gets the time until the next call", "把距下一个调用的时间交给 select()"),
    )


@_check(
    "T1", "input comes before a call that fell due meanwhile", "先处理输入，再处理期间到期的调用"
)
def input_first(trial: Trial) -> None:
    order: list[str] = []
    client, _ = trial.connect(Recorder(data=lambda transport, data: order.append("input")))

    def block() -> None:
        trial.reactor.callLater(0.01, order.append, "call")
        client.sendall(b"in time")
        time.sleep(0.04)

    trial.do(block)
    trial.wait(
        lambda: len(order) == 2,
        lambda: (f"only this came: {', '.join(order)}", f"只发生了：{', '.join(order)}"),
        ("input, then call", "先 input，后 call"),
    )
    trial.expect(
        order == ["input", "call"],
        (
            "a callback took 40 ms; the call due meanwhile came before the input",
            "一个回调用了 40 毫秒；期间到期的调用先于输入发生",
        ),
        ("select() first, then the calls that are due", "先 select()，再做到期的调用"),
    )


@_check("", "a call that asks for the next one delays nobody", "不断登记下一次的调用不耽误任何人")
def again_and_again(trial: Trial) -> None:
    going = [True]
    count = [0]

    def again() -> None:
        count[0] += 1
        if going[0]:
            trial.reactor.callLater(0, again)

    trial.do(lambda: trial.reactor.callLater(0, again))
    try:
        trial.let_run()
    finally:
        going[0] = False
    trial.expect(
        count[0] > 1,
        (
            "callLater(0, f) from inside f: no second call",
            "f 里面的 callLater(0, f)：没有第二次调用",
        ),
        ("f is called in the next iteration", "下一轮再调用 f"),
    )


@_check("", "stop() ends run()", "stop() 结束 run()")
def stop(trial: Trial) -> None:
    trial.do(lambda: trial.reactor.callLater(0, trial.reactor.stop))
    trial.wait_for_end()
