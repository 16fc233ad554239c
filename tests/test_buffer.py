"""The write buffer: append, prepend, peek, take and advance, and their cost."""

from __future__ import annotations

import array
import random

import pytest
from support import assert_linear

from minireactor.core.buffer import LARGE, Source, WriteBuffer, as_bytes

K = 1024
MAX_CHUNKS = 64  # far under IOV_MAX
EVERYTHING = 1 << 40


def add(buffer, data):
    """Append data as a transport does: small chunks are merged, large ones are not copied."""
    if len(data) < LARGE:
        buffer.tail += data
    else:
        buffer.append(data)


def taken(buffer, limit=EVERYTHING):
    """Return the next bytes, and advance by them."""
    data = b"".join(buffer.peek(limit))
    buffer.advance(len(data))
    return data


def underlying(chunk):
    """Return the object that a chunk is, or is a memoryview of."""
    return chunk.obj if isinstance(chunk, memoryview) else chunk


# --- as_bytes


def test_B1_bytes_are_taken_as_they_are():
    data = b"x" * 100
    assert as_bytes(data) is data


@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))])
def test_B1_a_mutable_buffer_is_copied(kind):
    original = kind(b"before")
    copy = as_bytes(original)
    original[:] = b"after!"
    assert (copy, type(copy)) == (b"before", bytes)


def test_B1_any_buffer_will_do():
    numbers = array.array("H", [1, 2, 3])
    assert as_bytes(numbers) == numbers.tobytes()
    assert as_bytes(memoryview(b"abcdef")[::2]) == b"ace"


def test_B1_str_is_a_TypeError_that_names_the_fix():
    with pytest.raises(TypeError, match="bytes, not str: encode 'hello' first"):
        as_bytes("hello")


@pytest.mark.parametrize("data", [None, 5, [1, 2], (b"x",), {}, object()])
def test_B1_anything_else_is_a_TypeError_that_names_the_type(data):
    with pytest.raises(TypeError, match=f"not {type(data).__name__}$"):
        as_bytes(data)


# --- Against a plain model


@pytest.mark.parametrize("seed", range(10))
def test_random_operations_agree_with_a_plain_bytes_model(seed):
    chance = random.Random(seed)
    buffer, model = WriteBuffer(), b""
    sizes = (0, 1, 5, 100, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE)
    for _ in range(600):
        what = chance.random()
        if what < 0.55:
            data = chance.getrandbits(8).to_bytes(1, "big") * chance.choice(sizes)
            add(buffer, data)
            model += data
        elif what < 0.99:
            limit = chance.choice((1, 7, LARGE, 5 * LARGE, EVERYTHING))
            peeked = b"".join(buffer.peek(limit))
            assert len(peeked) <= limit
            assert model.startswith(peeked)
            assert peeked or not model
            count = chance.randint(0, len(peeked))
            model = model[count:]
            assert buffer.advance(count) == len(model)
        else:
            buffer.clear()
            model = b""
        assert len(buffer) == len(model)
        assert buffer.sealed == len(buffer) - len(buffer.tail)
    assert b"".join(taken(buffer) for _ in range(50)) == model
    assert len(buffer) == 0


def test_bytes_come_out_in_the_order_they_went_in():
    buffer = WriteBuffer()
    parts = [b"small", b"L" * LARGE, b"between", b"M" * LARGE, b"last"]
    for part in parts:
        add(buffer, part)
    assert taken(buffer) == b"".join(parts)


def test_an_empty_buffer_has_nothing_to_peek_at():
    buffer = WriteBuffer()
    assert (buffer.peek(EVERYTHING), len(buffer), buffer.advance(0)) == ([], 0, 0)


def test_peek_takes_nothing_away():
    buffer = WriteBuffer()
    add(buffer, b"L" * LARGE)
    add(buffer, b"tail")
    first = b"".join(buffer.peek(EVERYTHING))
    assert first == b"".join(buffer.peek(EVERYTHING)) == b"L" * LARGE + b"tail"


def test_a_send_that_took_nothing_loses_nothing():
    buffer = WriteBuffer()
    add(buffer, b"L" * LARGE)
    add(buffer, b"tail")
    buffer.peek(EVERYTHING)
    assert buffer.advance(0) == LARGE + 4
    assert taken(buffer) == b"L" * LARGE + b"tail"


def test_a_send_that_took_part_goes_on_in_the_middle_of_a_chunk():
    buffer = WriteBuffer()
    data = bytes(range(256)) * 64
    add(buffer, data)
    buffer.peek(EVERYTHING)
    assert buffer.advance(1000) == len(data) - 1000
    assert taken(buffer) == data[1000:]


def test_advance_returns_what_is_left():
    buffer = WriteBuffer()
    add(buffer, b"L" * LARGE)
    add(buffer, b"M" * LARGE)
    add(buffer, b"tail")
    left = [buffer.advance(count) for count in (1, LARGE - 1, LARGE, 3, 1)]
    assert left == [2 * LARGE + 3, LARGE + 4, 4, 1, 0]


def test_clear_leaves_nothing():
    buffer = WriteBuffer()
    add(buffer, b"L" * LARGE)
    add(buffer, b"tail")
    buffer.clear()
    assert (len(buffer), buffer.sealed, buffer.peek(EVERYTHING)) == (0, 0, [])
    add(buffer, b"again")
    assert taken(buffer) == b"again"


def test_what_is_prepended_comes_out_first():
    buffer = WriteBuffer()
    buffer.prepend(b"second ")
    add(buffer, b"third")
    buffer.prepend(b"first ")
    assert (len(buffer), buffer.sealed) == (18, 13)
    assert taken(buffer) == b"first second third"


@pytest.mark.parametrize("limit", [1, 100, LARGE, 3 * LARGE])
def test_take_removes_what_it_returns_and_copies_no_large_chunk(limit):
    buffer = WriteBuffer()
    large = bytes(range(256)) * (2 * LARGE // 256)
    add(buffer, b"small")
    add(buffer, large)
    add(buffer, b"tail")
    out = b""
    while len(buffer):
        before = len(buffer)
        chunk = buffer.take(limit)
        assert 0 < len(chunk) <= limit and len(buffer) == before - len(chunk)
        assert len(chunk) < 6 or underlying(chunk) is large
        out += chunk
    assert out == b"small" + large + b"tail"
    assert buffer.sealed == 0


def test_take_leaves_a_source_where_it_is():
    buffer = WriteBuffer()
    source = Source(10)
    buffer.append(source)
    assert buffer.take(3) is source
    assert len(buffer) == 10


def test_the_tail_is_one_object_for_life():
    buffer = WriteBuffer()
    tail = buffer.tail
    add(buffer, b"small")
    add(buffer, b"L" * LARGE)
    assert buffer.tail is tail
    taken(buffer)
    buffer.clear()
    assert buffer.tail is tail
    tail += b"still in use"
    assert taken(buffer) == b"still in use"


# --- The limit, and the number of chunks


@pytest.mark.parametrize("limit", [1, LARGE - 1, LARGE, LARGE + 1, 2 * LARGE, 2 * LARGE + 3])
def test_peek_respects_its_limit_and_uses_it_up(limit):
    buffer = WriteBuffer()
    data = b"L" * LARGE + b"M" * LARGE + b"tail"
    add(buffer, data[:LARGE])
    add(buffer, data[LARGE : 2 * LARGE])
    add(buffer, data[2 * LARGE :])
    assert b"".join(buffer.peek(limit)) == data[:limit]


def test_peek_respects_its_limit_within_the_tail():
    buffer = WriteBuffer()
    for _ in range(100):
        add(buffer, b"x" * 1000)
    assert b"".join(buffer.peek(2500)) == b"x" * 2500


@pytest.mark.parametrize("with_tail", [False, True])
@pytest.mark.parametrize("count", [MAX_CHUNKS - 1, MAX_CHUNKS, MAX_CHUNKS + 1, 2000])
def test_no_send_gets_more_chunks_than_it_may(count, with_tail):
    buffer = WriteBuffer()
    parts = [bytes([number % 256]) * LARGE for number in range(count)]
    for part in parts:
        add(buffer, part)
    if with_tail:
        parts.append(b"tail")
        add(buffer, b"tail")
    received = b""
    while len(buffer):
        chunks = buffer.peek(EVERYTHING)
        assert 0 < len(chunks) <= MAX_CHUNKS
        received += b"".join(chunks)
        buffer.advance(sum(map(len, chunks)))
    assert received == b"".join(parts)


# --- Cost, in operations


def test_many_small_chunks_are_one():
    buffer = WriteBuffer()
    for _ in range(100_000):
        add(buffer, b"12345")
    assert len(buffer.peek(EVERYTHING)) == 1
    assert (len(buffer), len(buffer.tail)) == (500_000, 500_000)


def test_the_size_is_known_without_counting():
    class Counted(bytes):
        asked = 0

        def __len__(self):
            Counted.asked += 1
            return super().__len__()

    buffer = WriteBuffer()
    for _ in range(1000):
        buffer.append(Counted(LARGE))
    asked = Counted.asked
    assert [len(buffer) for _ in range(1000)] == [1000 * LARGE] * 1000
    assert Counted.asked == asked


def test_draining_visits_each_chunk_a_fixed_number_of_times():
    class Counted(bytes):
        asked = 0

        def __len__(self):
            Counted.asked += 1
            return super().__len__()

    count = 5000
    buffer = WriteBuffer()
    for _ in range(count):
        buffer.append(Counted(LARGE))
    while len(buffer):
        sent = sum(memoryview(chunk).nbytes for chunk in buffer.peek(EVERYTHING))
        buffer.advance(sent)
    assert Counted.asked <= 6 * count


@pytest.mark.parametrize("size", [100, 1 << 30], ids=["small chunks", "one huge chunk"])
def test_filling_and_draining_in_small_steps_is_linear(size):
    def fill_and_drain(steps):
        buffer = WriteBuffer()
        data = bytes(100 * steps)
        for start in range(0, len(data), size):
            add(buffer, data[start : start + size])
        while len(buffer):
            sent = min(100, sum(map(len, buffer.peek(64 * K))))
            buffer.advance(sent)

    assert_linear(fill_and_drain, 2000)


def test_large_chunks_are_never_copied():
    buffer = WriteBuffer()
    data = [bytes([number]) * (LARGE + number) for number in range(10)]
    for chunk in data:
        add(buffer, chunk)
    assert all(ours is theirs for ours, theirs in zip(buffer.peek(EVERYTHING), data))
    assert len(buffer.peek(EVERYTHING)) == len(data)


def test_one_huge_write_is_sent_in_parts_without_a_copy():
    buffer = WriteBuffer()
    data = bytes(range(256)) * (16 * K)
    add(buffer, data)
    sent = 0
    while len(buffer):
        (chunk,) = buffer.peek(64 * K)
        assert underlying(chunk) is data
        assert len(chunk) == min(64 * K, len(data) - sent)
        assert bytes(chunk[:3]) == data[sent : sent + 3]
        step = min(1000, len(chunk))
        buffer.advance(step)
        sent += step
    assert sent == len(data)


def test_small_parts_of_a_long_tail_are_bounded_copies():
    buffer = WriteBuffer()
    for _ in range(1000):
        add(buffer, b"x" * 1000)
    copied = 0
    while len(buffer):
        (chunk,) = buffer.peek(10_000)
        copied += len(chunk)
        buffer.advance(len(chunk))
    assert copied == 1_000_000
