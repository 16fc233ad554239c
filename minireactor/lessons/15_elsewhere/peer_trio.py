"""trio: send_all() returns when the kernel has taken everything. There is no write buffer."""

import trio

CHUNK = bytes(16 * 1024)
TOTAL = 16 * 1024 * 1024


async def source(stream):
    made = 0
    async with stream:
        while made < TOTAL:
            await stream.send_all(CHUNK)
            made += len(CHUNK)
    print(len(CHUNK))  # the one that send_all() is about


async def main():
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    print(listener.socket.getsockname()[1], flush=True)
    async with listener:
        await source(await listener.accept())


trio.run(main)
