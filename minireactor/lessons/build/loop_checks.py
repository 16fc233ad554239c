"""The checks of steps 1 to 4: one client, many clients, the write buffer, interest."""

from __future__ import annotations

import socket
from typing import Any

from minireactor.lessons.build.client import MIB, ask, expect_same, pattern, upper
from minireactor.lessons.build.trial import Check, Recorder, Trial, registrar

CHECKS: list[Check] = []


# --- 1. A blocking server

_check = registrar(CHECKS, 1)


@_check("", "a client gets what the protocol writes", "客户端收到协议写入的数据", control=False)
def one_answer(trial: Trial) -> None:
    client, _ = trial.connect(Recorder(data=upper))
    ask(trial, client)


@_check("", "a client may ask more than once", "客户端可以多次请求", control=False)
def several_answers(trial: Trial) -> None:
    client, _ = trial.connect(Recorder(data=upper))
    for question in (b"first", b"second", b"third"):
        ask(trial, client, question)


@_check(
    "E8",
    "connectionLost comes once, when the client has gone",
    "客户端离开后，connectionLost 只调用一次",
    control=False,
)
def calls_in_order(trial: Trial) -> None:
    client, recorder = trial.connect()
    client.sendall(b"hello")
    trial.wait(
        lambda: recorder.received,
        ("the client sent 5 bytes; no dataReceived", "客户端发送了 5 字节；没有 dataReceived"),
        ("dataReceived(b'hello')", "dataReceived(b'hello')"),
    )
    client.close()
    trial.expect_calls(recorder, "made", "data", "lost")


@_check(
    "E8",
    "the next client is served, by a protocol of its own",
    "下一个客户端得到服务，并有自己的协议对象",
    control=False,
)
def next_client(trial: Trial) -> None:
    for number in range(3):
        protocol = Recorder(data=upper)
        client, _ = trial.connect(protocol)
        ask(trial, client, b"client %d" % number)
        client.close()
        trial.expect_calls(protocol, "made", "data", "lost")


@_check("", "the client sees the end", "客户端能看到连接结束", control=False)
def socket_closed(trial: Trial) -> None:
    client, _ = trial.connect()
    client.shutdown(socket.SHUT_WR)
    trial.read_all(
        client,
        (
            "the client has ended its stream, and sees no end; {end}",
            "客户端结束了自己的流，却看不到对方的结束；{end}",
        ),
        ("the server closes the socket", "服务器关闭套接字"),
    )


@_check("", "all of a large answer arrives", "很大的响应完整到达", control=False)
def large_answer(trial: Trial) -> None:
    answer = pattern(8 * MIB)
    client, _ = trial.connect(Recorder(data=lambda transport, data: transport.write(answer)))
    client.sendall(b"all")
    got = trial.read(
        client,
        len(answer),
        (
            f"{{got}} of {len(answer):,} bytes came; {{end}}",
            f"{len(answer):,} 字节里到了 {{got}} 字节；{{end}}",
        ),
        (f"write() sends all {len(answer):,}", f"write() 把 {len(answer):,} 字节全部发出"),
    )
    expect_same(trial, got, answer)


# --- 2. Many clients

_check = registrar(CHECKS, 2)


@_check("", "a client that says nothing delays nobody", "不说话的客户端不耽误任何人")
def silent_client(trial: Trial) -> None:
    trial.connect()
    client, _ = trial.connect(Recorder(data=upper))
    ask(trial, client)


@_check(
    "", "twenty clients at once, each with its own answer", "二十个客户端同时在线，各得各的响应"
)
def twenty_clients(trial: Trial) -> None:
    clients = [trial.connect(Recorder(data=upper))[0] for _ in range(20)]
    for _ in range(2):
        for number, client in enumerate(reversed(clients)):
            ask(trial, client, b"client %d" % number)


@_check("E8", "clients come and go", "客户端来来去去")
def come_and_go(trial: Trial) -> None:
    for _ in range(10):
        client, recorder = trial.connect(Recorder(data=upper))
        other, _ = trial.connect(Recorder(data=upper))
        ask(trial, client)
        client.close()
        trial.expect_calls(recorder, "made", "data", "lost")
        ask(trial, other)
        other.close()


@_check(
    "",
    "the loop sleeps while nothing happens",
    "没有事情时，事件循环在睡眠",
    last=2,
)
def sleeps(trial: Trial) -> None:
    client, _ = trial.connect()
    sleep = ("select() waits until something happens", "select() 一直等到有事发生")
    trial.expect_idle(("while a client says nothing", "客户端不说话时"), sleep)
    client.close()
    trial.expect_idle(
        ("after a client has gone", "客户端离开后"),
        ("watch(connection, 0) before the close", "关闭之前先 watch(connection, 0)"),
    )


# --- 3. The write buffer

_check = registrar(CHECKS, 3)


@_check("B2", "write() sends nothing at once", "write() 从不当场发送")
def nothing_at_once(trial: Trial) -> None:
    client, recorder = trial.connect()
    pending: list[Any] = []

    def write() -> bool:
        recorder.transport.write(b"0123456789")
        pending.append(recorder.transport.pending)
        return trial.is_silent(client)

    silent = trial.do(write)
    trial.expect(
        silent,
        (
            "the client had the bytes before write() returned",
            "write() 还没返回，客户端就收到了数据",
        ),
        (
            "write() only appends to the buffer; doWrite() sends",
            "write() 只追加到缓冲区，由 doWrite() 发送",
        ),
    )
    trial.expect(
        pending == [10],
        (
            f"10 bytes written, pending is {pending[0]!r}",
            f"写了 10 字节，pending 是 {pending[0]!r}",
        ),
        ("pending counts the bytes in the buffer", "pending 等于缓冲区里的字节数"),
    )
    trial.read(
        client,
        10,
        ("{got} of 10 bytes came; {end}", "10 字节里到了 {got} 字节；{end}"),
        ("the loop sends them soon", "事件循环很快把它们发出"),
    )


@_check(
    "B2", "write() does not wait for a client that does not read", "客户端不读时 write() 也不等待"
)
def never_waits(trial: Trial) -> None:
    _, recorder = trial.connect()
    other, _ = trial.connect(Recorder(data=upper))
    trial.do(lambda: recorder.transport.write(bytes(16 * MIB)))
    trial.let_run()
    ask(trial, other)


@_check("B2", "what the kernel did not take is sent later", "内核没收下的部分，之后再发")
def leftovers(trial: Trial) -> None:
    client, recorder = trial.connect()
    answer = pattern(12 * MIB)
    trial.do(lambda: recorder.transport.write(answer[: 8 * MIB]))
    trial.let_run()
    trial.do(lambda: recorder.transport.write(answer[8 * MIB :]))
    got = trial.read(
        client,
        len(answer),
        (
            f"{{got}} of {len(answer):,} bytes came; {{end}}",
            f"{len(answer):,} 字节里到了 {{got}} 字节；{{end}}",
        ),
        ("all bytes arrive", "所有字节都到达"),
    )
    expect_same(trial, got, answer)
    trial.expect(
        trial.is_silent(client),
        ("more bytes came than were written", "收到的字节比写入的多"),
        ("each byte is sent once", "每个字节只发一次"),
    )


@_check(
    "B1", "write() takes bytes and buffers, and no str", "write() 接受 bytes 和缓冲区，不接受 str"
)
def kinds_of_bytes(trial: Trial) -> None:
    client, recorder = trial.connect()
    mutable = bytearray(b"first ")

    def write() -> str:
        try:
            recorder.transport.write("text")
        except TypeError:
            pass
        else:
            return "str"
        recorder.transport.write(mutable)
        mutable[:] = b"wrong "
        recorder.transport.write(memoryview(b"second"))
        return ""

    trial.expect(
        not trial.do(write),
        ("write('text') raised nothing", "write('text') 没有抛出异常"),
        ("TypeError: text has to be encoded first", "TypeError：文本要先编码"),
    )
    got = trial.read(
        client,
        12,
        ("{got} of 12 bytes came; {end}", "12 字节里到了 {got} 字节；{end}"),
        ("b'first second'", "b'first second'"),
    )
    trial.expect(
        got == b"first second",
        (
            f"a bytearray was changed after write(), and {got!r} came",
            f"bytearray 在 write() 之后改了，收到的是 {got!r}",
        ),
        (
            "what was written is what is sent: b'first second'",
            "写的是什么就发什么：b'first second'",
        ),
    )


# --- 4. Write interest

_check = registrar(CHECKS, 4)


@_check("", "nothing pending: nobody waits for room", "没有积压时，不等待可写")
def idle(trial: Trial) -> None:
    client, _ = trial.connect()
    trial.expect_idle(
        ("while nothing is pending", "没有积压时"),
        (
            "select() waits, and WRITE is watched only while something is pending",
            "select() 要等待，只有有积压时才关注 WRITE",
        ),
    )
    client.close()
    trial.expect_idle(
        ("after a client has gone", "客户端离开后"),
        ("nothing is watched for a closed connection", "已关闭的连接什么都不关注"),
    )


@_check("", "all sent: nobody waits for room any more", "发完之后，不再等待可写")
def idle_again(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.write(bytes(8 * MIB)))
    trial.read(
        client,
        8 * MIB,
        ("{got} of 8,388,608 bytes came; {end}", "8,388,608 字节里到了 {got} 字节；{end}"),
        ("WRITE stays watched until all is sent", "全部发完之前一直关注 WRITE"),
    )
    trial.expect_idle(
        ("after all was sent", "全部发完之后"),
        ("WRITE is not watched when nothing is pending", "没有积压时不关注 WRITE"),
    )


@_check("", "a write from anywhere is sent", "从任何地方写入都会发出")
def write_from_elsewhere(trial: Trial) -> None:
    client, recorder = trial.connect()
    for _ in range(2):
        trial.do(lambda: recorder.transport.write(b"news"))
        trial.read(
            client,
            4,
            (
                "another client's callback wrote 4 bytes, {got} came; {end}",
                "另一个客户端的回调写了 4 字节，到了 {got} 字节；{end}",
            ),
            ("write() itself begins to watch WRITE", "write() 自己就开始关注 WRITE"),
        )


@_check("", "a client with bytes pending is still heard", "有积压的客户端仍然可以说话")
def heard_while_pending(trial: Trial) -> None:
    client, recorder = trial.connect()
    trial.do(lambda: recorder.transport.write(bytes(16 * MIB)))
    trial.let_run()
    client.sendall(b"slower, please")
    trial.wait(
        lambda: recorder.received,
        (
            "with bytes pending, a client sent 14 bytes; no dataReceived",
            "有积压时客户端发送了 14 字节；没有 dataReceived",
        ),
        ("READ and WRITE are watched at once", "同时关注 READ 和 WRITE"),
    )
    trial.expect_idle(
        ("while a client does not read", "客户端不读时"),
        ("the loop sleeps until there is room", "事件循环睡到有空间为止"),
    )
