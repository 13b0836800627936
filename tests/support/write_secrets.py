"""A process that stores and replaces secrets until it is killed, and tells of each: before, and once it is stored.

It prints a JSON line ``["began", label, secret]`` and then ``["stored", label, secret, id]``.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.errors import NotReady, StorageError
from app.settings import Settings

GUILD = "900000000000000003"
LABELS = 20


def _say(*words: str) -> None:
    print(json.dumps(words), flush=True)  # noqa: T201 - what this program is for


async def _main() -> None:
    settings = Settings.load()
    async with (
        open_keys(settings, may_create=False) as opened,
        open_services(settings, opened, kind="test") as services,
    ):
        actor = await services.identity.operator_for(guild_id=GUILD)
        ids: dict[str, str] = {}
        number = 0
        while True:
            label = f"label {number % LABELS}"
            secret = f"sk-proj-written-{number}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"
            _say("began", label, secret)
            with suppress(NotReady, StorageError):
                await services.instances.catch_up()
                if label in ids:
                    await services.credentials.replace(actor, ids[label], secret)
                else:
                    added = await services.credentials.add(
                        actor, provider="openai", label=label, secret=secret, guild_id=GUILD
                    )
                    ids[label] = added.view.id
                _say("stored", label, secret, ids[label])
            number += 1


if __name__ == "__main__":
    asyncio.run(_main())
