"""The write buffer by itself, without sockets: `minireactor.core.buffer`.

Guards that small chunks merge cheaply and that large ones are never copied. Emptying the buffer in
small steps must stay linear: if the cost of a MiB grows with the buffer, a loop is quadratic.
"""

from __future__ import annotations

from itertools import repeat

import pytest

from minireactor.core.buffer import LARGE, WriteBuffer
from minireactor.transports.connection import LARGEST_SEND

SMALL = b"1234567890\r\n"
MANY = 1000
CHUNK = b"x" * (64 * 1024)
FEW = 16  # together 1 MiB
MIB = 1024 * 1024


def empty(buffer, step):
    """Peek and advance like a connection, with a kernel that takes up to `step` bytes a send."""
    while buffer:
        count = sum(map(len, buffer.peek(LARGEST_SEND)))
        buffer.advance(min(count, step))


@pytest.mark.benchmark(group="buffer: append")
def test_append_small(measure):
    """`tail += data`: most calls of `write()` do no more, so that this is their lower bound."""
    buffer = WriteBuffer()

    def work():
        tail = buffer.tail
        for _ in repeat(None, MANY):
            tail += SMALL

    measure(work, MANY, "chunk of 12 bytes", buffer.clear)

    assert len(buffer) == MANY * len(SMALL)


@pytest.mark.benchmark(group="buffer: append")
def test_append_large(measure):
    """`append(data)`: a queue of references, whatever the length of the chunks."""
    buffer = WriteBuffer()

    def work():
        append = buffer.append
        for _ in repeat(None, MANY):
            append(CHUNK)

    measure(work, MANY, "chunk of 64 KiB", buffer.clear)

    assert len(buffer) == MANY * len(CHUNK)


@pytest.mark.benchmark(group="buffer: append")
def test_append_alternating(measure):
    """A small chunk and a large one in turn, like headers and bodies: each pair seals the tail."""
    buffer = WriteBuffer()

    def work():
        tail, append = buffer.tail, buffer.append
        for _ in repeat(None, MANY):
            tail += SMALL
            append(CHUNK)

    measure(work, MANY, "pair of 12 bytes and 64 KiB", buffer.clear)

    assert len(buffer) == MANY * (len(SMALL) + len(CHUNK))


@pytest.mark.benchmark(group="buffer: one flush")
def test_flush_small(measure):
    """Small chunks in, and all out with one peek and one advance: one flush of a connection."""
    buffer = WriteBuffer()
    out = []

    def work():
        tail = buffer.tail
        for _ in repeat(None, 10):
            tail += SMALL
        out[:] = buffer.peek(LARGEST_SEND)
        buffer.advance(10 * len(SMALL))

    measure(work, 1, "flush of ten chunks")

    assert len(out) == 1
    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: one flush")
def test_flush_large(measure):
    """One large chunk in and out again: one flush of a bulk sender."""
    buffer = WriteBuffer()
    out = []

    def work():
        buffer.append(CHUNK)
        out[:] = buffer.peek(LARGEST_SEND)
        buffer.advance(len(CHUNK))

    measure(work, 1, "flush of one chunk")

    assert out[0] is CHUNK
    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: peek and advance")
@pytest.mark.parametrize("step", [4 * 1024, 100_000, MIB], ids="steps of {}".format)
def test_empty_small(measure, step):
    """A MiB of small chunks, emptied in steps. Each step copies the bytes that it peeks, no more.

    Guards that no step moves the merged tail as a whole."""
    buffer = WriteBuffer()
    whole = (SMALL * (MIB // len(SMALL) + 1))[:MIB]

    def setup():
        buffer.clear()
        tail = buffer.tail
        tail += whole

    def work():
        while buffer:
            chunks = buffer.peek(step)
            buffer.advance(len(chunks[0]))

    measure(work, 1, "MiB", setup)

    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: peek and advance")
@pytest.mark.parametrize("step", [4 * 1024, 100_000, MIB], ids="steps of {}".format)
def test_empty_large(measure, step):
    """A MiB in chunks of 64 KiB, emptied in steps that seldom end at the end of a chunk."""
    buffer = WriteBuffer()

    def setup():
        buffer.clear()
        for _ in range(FEW):
            buffer.append(CHUNK)

    measure(lambda: empty(buffer, step), 1, "MiB", setup)

    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: peek and advance")
def test_empty_many_large(measure):
    """A MiB in chunks just too large to be merged: more of them than one send takes."""
    buffer = WriteBuffer()
    chunk = b"x" * LARGE

    def setup():
        buffer.clear()
        for _ in range(MIB // LARGE):
            buffer.append(chunk)

    measure(lambda: empty(buffer, MIB), 1, "MiB", setup)

    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: peek and advance")
@pytest.mark.parametrize("size", [1, 16], ids="{} MiB".format)
def test_empty_huge(measure, size):
    """One huge chunk in steps of 64 KiB: linear if a MiB costs the same in both sizes."""
    buffer = WriteBuffer()
    huge = bytes(size * MIB)

    def setup():
        buffer.clear()
        buffer.append(huge)

    measure(lambda: empty(buffer, len(CHUNK)), size, "MiB", setup)

    assert len(buffer) == 0
