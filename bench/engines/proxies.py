"""The proxies in Python. Each is started as `PROXY proxy port=N target=N ...`.

A proxy gets its port as an argument, while a server takes any free port. The reason is the proxies
that are commands of their own: these cannot print which port they have taken.
"""

from __future__ import annotations

from bench.engines import serving

HOST = "127.0.0.1"


def _arguments() -> tuple[int, int]:
    _, numbers = serving.arguments()
    return numbers["port"], numbers["target"]


def minireactor(*options: str) -> None:
    """Run `minireactor proxy --quiet`."""
    from minireactor import reactor
    from minireactor.cli import commands as cli

    port, target = _arguments()
    reactor.callWhenRunning(serving.ready, port)
    cli.main(["proxy", "--quiet", *options, f"{HOST}:{port}", f"{HOST}:{target}"])


def twisted() -> None:
    from twisted.internet import reactor
    from twisted.protocols.portforward import ProxyFactory

    port, target = _arguments()
    factory = ProxyFactory(HOST, target)
    factory.noisy = False
    reactor.listenTCP(port, factory, backlog=serving.BACKLOG, interface=HOST)
    reactor.callWhenRunning(serving.ready, port)
    reactor.run()


def streams() -> None:
    import asyncio

    from bench.engines.coroutine_apps import MAX_READ

    port, target = _arguments()

    async def pass_on(reader, writer):
        """Pass on all bytes, and then EOF."""
        while data := await reader.read(MAX_READ):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def join(reader, writer):
        far_reader, far_writer = await asyncio.open_connection(HOST, target)
        try:
            await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))
        finally:
            far_writer.close()
            writer.close()

    async def listen():
        server = await asyncio.start_server(join, HOST, port, backlog=serving.BACKLOG)
        serving.ready(port)
        await server.serve_forever()

    asyncio.run(listen())
