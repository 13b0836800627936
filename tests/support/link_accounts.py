"""A process that links an account and a Discord account, and may kill itself in the middle.

Usage: ``link_accounts NAME DISCORD_ID [N]``; with N it dies by SIGKILL right before its N-th statement or commit,
counted from the moment at which the link begins. At the end it prints how many of them there were.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.settings import Settings
from tests.support.change_key import Fate


async def _main(name: str, number: str, at: str | None = None) -> None:
    settings = Settings.load()
    fate = Fate(int(at) if at else None, signal.SIGKILL)
    async with (
        open_keys(settings, may_create=False) as opened,
        open_services(settings, opened, kind="test") as services,
    ):
        fate.at_statements(opened.database)
        await services.identity.link(await services.identity.operator(), name, number)
        print(fate.met, flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
