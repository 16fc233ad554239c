"""The servers as asyncio streams."""

from __future__ import annotations

import asyncio

from bench.engines import serving
from bench.engines.asyncio_style import start_noting, ticking
from bench.engines.coroutine_apps import (
    back,
    echo,
    integers,
    lines,
    numbered,
    push,
    send_back,
    sink,
)


def greedy():
    start_noting(asyncio.get_running_loop())
    return integers()


def timer(firings):
    start = ticking(asyncio.get_running_loop(), firings)

    async def serve(reader, writer):
        start()
        await send_back(reader, writer)

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
