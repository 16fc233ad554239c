"""asyncio with a protocol: pause_writing() and resume_writing()."""

import asyncio

CHUNK = bytes(16 * 1024)
TOTAL = 16 * 1024 * 1024


class Source(asyncio.Protocol):
    made = held = 0

    def connection_made(self, transport):
        self.transport = transport
        self.resume_writing()

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        while self.made < TOTAL and not self.paused:
            self.transport.write(CHUNK)
            self.made += len(CHUNK)
            self.held = max(self.held, self.transport.get_write_buffer_size())
        if self.made == TOTAL:
            # Not at once: a close() within resume_writing() can end the connection twice.
            asyncio.get_running_loop().call_soon(self.transport.close)

    def connection_lost(self, error):
        print(self.held)
        ended.set()


async def main():
    global ended
    ended = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(Source, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


asyncio.run(main())
