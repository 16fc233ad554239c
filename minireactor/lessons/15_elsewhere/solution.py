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
    arrived, ended = 0, False
    try:
        while data := await asyncio.wait_for(reader.read(65536), 1):
            arrived += len(data)
        ended = True
    except (asyncio.TimeoutError, ConnectionError):
        pass  # nothing for a second, or a reset
    writer.close()
    writers[0].close()
    server.close()
    return held, arrived, ended


held, arrived, ended = asyncio.run(check())
if held > 128 * 1024:
    sys.exit(f"fault: the server held {held:,} bytes for a client that did not read")
if arrived != TOTAL:
    sys.exit(f"fault: {arrived:,} bytes arrived of {TOTAL:,}")
if not ended:
    sys.exit("fault: all bytes have arrived, but not the end of the stream")
print(f"right: the server held {held:,} bytes for a client that did not read")
