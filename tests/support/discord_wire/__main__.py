"""Serve the simulator for a bot that is tried by hand, and play its one user with curl.

python -m tests.support.discord_wire --port 8123 --token T
curl -d '{"command": "key add", "options": {"provider": "openai"}}' localhost:8123/wire/slash
curl -d '{"values": {"label": "work", "secret": "sk-..."}}' localhost:8123/wire/submit   # the modal just opened
curl -d '{"custom_id": "remove:yes"}' localhost:8123/wire/click                          # a button just shown
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal

from aiohttp import web

from tests.support.discord_wire.actors import Json
from tests.support.discord_wire.rules import OPEN_MODAL
from tests.support.discord_wire.screen import Reply
from tests.support.discord_wire.simulator import WireSimulator


class Console:
    """The user at the keyboard: routes beside the API, each answering with the screen as it is then."""

    def __init__(self, wire: WireSimulator) -> None:
        self._wire = wire
        self._user = wire.user(1001, "you")
        self._guild = wire.add_guild(id=2001, name="Hall", owner=self._user)
        self._last: Reply | None = None
        wire.application.router.add_post("/wire/{act:slash|submit|click}", self._act)

    async def _act(self, request: web.Request) -> web.Response:
        try:
            self._last = await self._reply(request.match_info["act"], json.loads(await request.text()))
        except (LookupError, ValueError, TimeoutError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        return web.json_response(_on_screen(self._last))

    async def _reply(self, act: str, body: Json) -> Reply:
        if act == "slash":
            return await self._wire.slash(self._user, body["command"], body.get("options"), guild=self._guild)
        if self._last is None:
            raise LookupError("nothing is on the screen yet; begin with /wire/slash")
        if act == "submit":
            return await self._wire.submit_modal(self._last, body["values"])
        return await self._wire.click(self._last, custom_id=body["custom_id"])


def _on_screen(reply: Reply) -> Json:
    fields = {"fields": sorted(reply.modal.fields)} if reply.type == OPEN_MODAL else {}
    clickable = [part["custom_id"] for part in reply.components if "custom_id" in part]
    return {"text": reply.text, "ephemeral": reply.ephemeral, "components": clickable} | fields


async def main(token: str, port: int) -> None:
    """Serve until interrupted."""
    wire = WireSimulator(token)
    Console(wire)
    await wire.serve(port)
    print(f"DISCORD_API_BASE={wire.api_base}")  # noqa: T201 - the console is this program's output
    print(f"DISCORD_GATEWAY_URL={wire.gateway_url}", flush=True)  # noqa: T201 - as above
    try:
        await asyncio.Event().wait()
    finally:
        await wire.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.support.discord_wire", description="A Discord on loopback.")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--token", default="wire-bot-token", help="the bot token that is accepted")
    arguments = parser.parse_args()
    # A shell makes its background processes ignore SIGINT, and Python keeps to that by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.token, arguments.port))
