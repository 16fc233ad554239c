"""The write buffer by itself, without sockets: `minireactor.core.buffer`.

Guards that small chunks merge cheaply, that large ones are never copied, and that emptying the
buffer in small steps stays linear: a cost a MiB that grows with the buffer is a quadratic loop.
"""

from __future__ import annotations

from itertools import repeat

import pytest

from minireactor.core.buffer import LARGE, WriteBuffer
from minireactor.transports.tcp import LARGEST_SEND

SMALL = b"1234567890\r\n"
MANY = 1000
CHUNK = b"x" * (64 * 1024)
FEW = 16  # together 1 MiB
MIB = 1024 * 1024


def empty(buffer, step):
    """Peek and advance as a connection does whose kernel takes `step` bytes at most a send."""
    while buffer:
        count = sum(map(len, buffer.peek(LARGEST_SEND)))
        buffer.advance(min(count, step))


@pytest.mark.benchmark(group="buffer: append")
def test_append_small(measure):
    """`tail += data`, the whole of what most calls of `write()` do. The floor of that."""
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
    """A small chunk and a large one in turn, each pair sealing the tail: headers and bodies."""
    buffer = WriteBuffer()

    def work():
        tail, append = buffer.tail, buffer.append
        for _ in repeat(None, MANY):
            tail += SMALL
            append(CHUNK)

    measure(work, MANY, "pair of 12 bytes and 64 KiB", buffer.clear)

    assert len(buffer) == MANY * (len(SMALL) + len(CHUNK))


@pytest.mark.benchmark(group="buffer: one pass")
def test_pass_small(measure):
    """Small chunks in, all of them out with one peek and one advance: a pass of a connection."""
    buffer = WriteBuffer()
    out = []

    def work():
        tail = buffer.tail
        for _ in repeat(None, 10):
            tail += SMALL
        out[:] = buffer.peek(LARGEST_SEND)
        buffer.advance(10 * len(SMALL))

    measure(work, 1, "pass of ten chunks")

    assert len(out) == 1
    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: one pass")
def test_pass_large(measure):
    """One large chunk in and out again: a pass of a bulk sender."""
    buffer = WriteBuffer()
    out = []

    def work():
        buffer.append(CHUNK)
        out[:] = buffer.peek(LARGEST_SEND)
        buffer.advance(len(CHUNK))

    measure(work, 1, "pass of one chunk")

    assert out[0] is CHUNK
    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: peek and advance")
@pytest.mark.parametrize("step", [4 * 1024, 100_000, MIB], ids="steps of {}".format)
def test_empty_small(measure, step):
    """A MiB of small chunks, emptied in steps: each copies what it peeks, no more than a step.

    Guards the merged tail against being moved as a whole for every step."""
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
    """A MiB in chunks of 64 KiB, emptied in steps that seldom end where a chunk does."""
    buffer = WriteBuffer()

    def setup():
        buffer.clear()
        for _ in range(FEW):
            buffer.append(CHUNK)

    measure(lambda: empty(buffer, step), 1, "MiB", setup)

    assert len(buffer) == 0


@pytest.mark.benchmark(group="buffer: peek and advance")
def test_empty_many_large(measure):
    """A MiB in chunks just large enough not to be merged: more than one send takes at a time."""
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
    """One huge chunk in steps of 64 KiB: linear, so that a MiB costs the same in either size."""
    buffer = WriteBuffer()
    huge = bytes(size * MIB)

    def setup():
        buffer.clear()
        buffer.append(huge)

    measure(lambda: empty(buffer, len(CHUNK)), size, "MiB", setup)

    assert len(buffer) == 0
