"""The fault repaired: write() only queues; the waiting is in `await drain()`."""

import asyncio
import sys

CHUNK = bytes(16 * 1024)
TOTAL = 16 * 1024 * 1024


async def serve(reader, writer):
    for _ in range(TOTAL // len(CHUNK)):
        writer.write(CHUNK)
        await writer.drain()
    writer.close()


# ---- The check: the fault is above this line ----


async def check():
    writers = []

    async def watched(reader, writer):
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(watched, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.3)  # the client does not read, but for a little in advance
    held = writers[0].transport.get_write_buffer_size()
    arrived = 0
    while data := await reader.read(65536):
        arrived += len(data)
    writer.close()
    server.close()
    return held, arrived


held, arrived = asyncio.run(check())
if arrived != TOTAL:
    sys.exit(f"fault: {arrived:,} bytes arrived of {TOTAL:,}")
if held > 128 * 1024:
    sys.exit(f"fault: the server held {held:,} bytes for a client that did not read")
print(f"right: the server held {held:,} bytes for a client that did not read")
