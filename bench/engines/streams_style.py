"""The servers as asyncio streams: coroutines that write, and await drain() after each write."""

from __future__ import annotations

import asyncio

from bench.engines import serving
from bench.engines.asyncio_style import start_noting, ticking

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


def greedy():
    start_noting(asyncio.get_running_loop())
    return integers()


async def _back(reader, writer):
    while data := await reader.read(MAX_READ):
        writer.write(data)
        await writer.drain()


def back():
    return _back


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


def timer(firings):
    start = ticking(asyncio.get_running_loop(), firings)

    async def serve(reader, writer):
        start()
        await _back(reader, writer)

    return serve


async def listen():
    name, numbers = serving.arguments()
    apps = {"integers": integers, "lines": lines, "greedy": greedy, "echo": echo, "push": push}
    apps.update(numbered=numbered, sink=sink, back=back, timer=timer)
    serve = apps[name](**numbers)

    async def with_marks(reader, writer):
        writer.transport.set_write_buffer_limits(serving.HIGH, serving.LOW)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(with_marks, serving.HOST, 0, backlog=serving.BACKLOG)
    serving.ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def main():
    asyncio.run(listen())
