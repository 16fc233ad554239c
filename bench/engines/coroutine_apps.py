"""The coroutines that serve on asyncio streams, and on minireactor's streams alike.

They write, and await drain() after each write.
"""

from __future__ import annotations

from bench.engines import serving

MAX_READ = 256 * 1024  # bytes, of one read()


def integers(line=None):
    import random

    async def serve(reader, writer):
        writer.write(serving.GREETING)
        for _ in range(int(await reader.readline())):
            number = random.randint(0, 10000)
            writer.write(b"%d\r\n" % (number))
            await writer.drain()

    async def serve_lines(reader, writer):
        writer.write(serving.GREETING)
        for _ in range(int(await reader.readline())):
            writer.write(line)
            await writer.drain()

    return serve if line is None else serve_lines


def lines():
    return integers(serving.LINE)


async def send_back(reader, writer):
    while data := await reader.read(MAX_READ):
        writer.write(data)
        await writer.drain()


def back():
    return send_back


echo = back


def push():
    async def serve(reader, writer):
        for _ in range(int(await reader.readline())):
            writer.write(serving.CHUNK)
            await writer.drain()

    return serve


def numbered(length):
    async def serve(reader, writer):
        for number in range(int(await reader.readline())):
            writer.write(b"%0*d\r\n" % (length - 2, number))
            await writer.drain()

    return serve


def sink(unit):
    async def serve(reader, writer):
        left = unit
        while data := await reader.read(MAX_READ):
            left -= len(data)
            while left <= 0:
                left += unit
                writer.write(b"+")
                await writer.drain()

    return serve
