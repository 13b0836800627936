"""Two bot processes with one token, as during an upgrade: each serves the forms and buttons of the other."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import TYPE_CHECKING

from tests.support.samples import SECRET

if TYPE_CHECKING:
    from tests.support.discord_wire import Reply, WireSimulator
    from tests.support.installs import Place

FORMS = 8


def button(reply: Reply, action: str) -> str:
    return next(
        str(part["custom_id"]) for part in reply.components if f"keyhall:{action}:" in str(part.get("custom_id"))
    )


async def test_every_form_is_served_whichever_process_opened_it_also_when_that_one_is_killed(
    sqlite_place: Place, wire: WireSimulator
) -> None:
    await sqlite_place.install()
    here = sqlite_place.having(**wire.environment)
    alice = wire.user(1001, "alice")
    guild = wire.add_guild(id=2001, name="Hall", owner=alice)
    with here.running("bot") as one:
        await wire.wait_ready(within=90)
        with here.running("bot") as other:
            await wire.wait_ready(identifies=2, within=90)
            for number in range(FORMS):
                form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
                reply = await wire.submit_modal(form, {"label": f"work {number}", "secret": SECRET})
                assert reply.text.startswith("**Stored.**")
            # Both are killed one after the other, so that whoever opened these is gone when they are used.
            form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
            listed = await wire.slash(alice, "key list", guild=guild)
            await asyncio.to_thread(one.end, signal.SIGKILL)
            with here.running("bot"):
                await wire.wait_ready(identifies=3, within=90)
                await asyncio.to_thread(other.end, signal.SIGKILL)
                reply = await wire.submit_modal(form, {"label": "the last", "secret": SECRET})
                assert reply.text.startswith("**Stored.**")
                page = await wire.click(listed, custom_id=button(listed, "add"))
                assert page.modal.title == "Store a key"
                listed = await wire.slash(alice, "key list", guild=guild)
                assert re.search(rf"of {FORMS + 1}\b", listed.text)
