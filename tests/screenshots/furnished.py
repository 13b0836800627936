"""An install with a past: credentials that are weeks old, in use since, one about to expire and one removed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Final

import time_machine

from app.domain.identity import Client, Source
from tests.support.backups import back_up
from tests.support.installs import Place
from tests.support.web import Site, open_site

_FIRST_DAY: Final = 52
"""How many days ago the install was made."""
_ADDED: Final = (
    # days ago, provider, label, beginning of the secret, days until it expires, uses on a busy day
    (48, "openai", "Team account", "sk-proj-", 240, 9),
    (44, "anthropic", "Research", "sk-ant-api03-", None, 4),
    (40, "github", "Release bot", "github_pat_", 12, 2),
    (23, "deepl", "Translations", "dpl-", None, 1),
    (9, "openai", "Experiments", "sk-proj-", None, 3),
    (30, "mistral", "Old summaries", "mst-", None, 0),
)
_REMOVED: Final = "Old summaries"
_CLIENT: Final = Client(source=Source.WEB, address="203.0.113.7", device="Firefox on Linux")


def furnish(place: Place) -> None:
    """Make an install there and let some weeks pass."""
    now = datetime.now(UTC)
    chance = random.Random(7)
    for days in range(_FIRST_DAY, -1, -1):
        if days == _FIRST_DAY or days < 31 or any(days == added[0] for added in _ADDED):
            hour = timedelta(days=days, minutes=chance.randrange(10, 300))
            with time_machine.travel(now - hour, tick=True):
                _run(_day(place, days, chance))


def _run(day: Coroutine[None, None, None]) -> None:
    asyncio.run(day)


async def _day(place: Place, days: int, chance: random.Random) -> None:
    if days == 3:
        await back_up(place, place.data_dir.parent / "keyhall.age")
    async with open_site(place, owner=days == _FIRST_DAY) as site:
        site.token = site.token or await site.log_in()
        for ago, provider, label, beginning, expires, _ in _ADDED:
            if ago == days:
                secret = beginning + "".join(
                    chance.choices("abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=40)
                )
                until = {} if expires is None else {"expires_at": _in(days=ago + expires)}
                made = await site.add(label, provider=provider, secret=secret, **until)
                if label == "Research":  # its first secret was replaced
                    body = {"secret": secret[:-6] + "Qm7xZ2"}
                    await site.request("PUT", f"/api/v1/credentials/{made['id']}/secret", json=body)
        if days == 2:
            listed = (await site.request("GET", "/api/v1/credentials?limit=100")).json["items"]
            for each in listed:
                if each["label"] == _REMOVED:
                    await site.request("DELETE", f"/api/v1/credentials/{each['id']}")
        await _use(site, days, chance)


def _in(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


async def _use(site: Site, days: int, chance: random.Random) -> None:
    actor = await site.services.requests.authenticate(site.token, _CLIENT)
    if not days:
        await site.services.dashboard.hide_first_run(actor)
    for ago, provider, label, _, _, busy in _ADDED:
        if days < ago and label != _REMOVED:
            for _ in range(chance.randrange(busy + 1)):
                async with site.services.credentials.use(actor, provider, label):
                    pass
