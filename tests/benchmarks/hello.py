"""The floor of every request: the smallest aiohttp application, on the loop that Keyhall runs on."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import web


async def hello(_: web.Request) -> web.Response:
    """What costs the least and is still JSON."""
    return web.json_response({"hello": "world"})


async def serve() -> None:
    """Serve on a free port, which is printed, until the process is ended."""
    app = web.Application()
    app.router.add_get("/hello", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - whoever started us reads it
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
