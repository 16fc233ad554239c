"""What several checks do as a client: ask, compare what arrives, reset the connection."""

from __future__ import annotations

import socket
import struct
from typing import Any

from minireactor.lessons.build.trial import Trial

KIB, MIB = 1 << 10, 1 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def pattern(size: int) -> bytes:
    """Return numbered lines of 16 bytes, so that each part of the bytes shows its place."""
    return b"".join(b"%15d\n" % number for number in range(size // 16))


def expect_same(trial: Trial, got: bytes, wanted: bytes) -> None:
    """Expect that the client has received just what was written."""
    if got == wanted:
        return
    place = next((n for n, (a, b) in enumerate(zip(got, wanted)) if a != b), len(wanted))
    trial.wrong(
        (
            f"byte {place:,} of {len(wanted):,} differs from the byte that was written",
            f"第 {place:,} 个字节（共 {len(wanted):,}）和写入的不一样",
        ),
        ("all bytes, in the order of the writes", "所有字节，按写入的顺序"),
    )


def upper(transport: Any, data: bytes) -> None:
    """Answer in capitals: a `dataReceived` for a Recorder."""
    transport.write(data.upper())


def ask(trial: Trial, client: socket.socket, question: bytes = b"hello") -> None:
    """Expect the question in capitals as the answer."""
    client.sendall(question)
    got = trial.read(
        client,
        len(question),
        (
            f"the client sent {question!r}, and got {{got}} bytes; {{end}}",
            f"客户端发送了 {question!r}，收到 {{got}} 字节；{{end}}",
        ),
        (f"the answer {question.upper()!r}", f"响应 {question.upper()!r}"),
    )
    trial.expect(
        got == question.upper(),
        (f"the client got {got!r}", f"客户端收到 {got!r}"),
        (f"the client gets {question.upper()!r}", f"客户端收到 {question.upper()!r}"),
    )


def reset(client: socket.socket) -> None:
    """Close the client's socket with a reset, as a crashed client does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.close()
