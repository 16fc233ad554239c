"""asyncio with streams: `await drain()` waits while the buffer is above the high mark."""

import asyncio

CHUNK = bytes(16 * 1024)
TOTAL = 16 * 1024 * 1024


async def source(reader, writer):
    made = held = 0
    while made < TOTAL:
        writer.write(CHUNK)
        made += len(CHUNK)
        held = max(held, writer.transport.get_write_buffer_size())
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    print(held)
    ended.set()


async def main():
    global ended
    ended = asyncio.Event()
    server = await asyncio.start_server(source, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


asyncio.run(main())
